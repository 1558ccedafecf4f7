"""Reads the ordinary command lines of the verb that must start quickly, without argparse.

argparse and the regular expressions that it brings take 9 of the 22 ms of processor time that the command's own start
has (compiled, Python 3.11). `PlainParser` takes the same declarations (`add_argument`) and understands most command
lines. For anything else (an error, a request for help, an unusual form) `parse` returns None; argparse then reads the
line again, and reports errors.
"""

from types import SimpleNamespace
from typing import Any

_KNOWN = ("store", "append", "store_true", "store_false")


class _Option:
    def __init__(self, dest: str, settings: dict[str, Any]) -> None:
        self.dest = dest
        self.action: str = settings.get("action", "store")
        self.nargs: str | None = settings.get("nargs")
        self.const: Any = settings.get("const")
        self.kind: Any = settings.get("type")
        self.choices: Any = settings.get("choices")
        self.default: Any = settings.get("default")
        if self.default is None and self.action in ("store_true", "store_false"):
            self.default = self.action == "store_false"


class PlainParser:
    """Parses options, followed by a command whose words are not parsed (`nargs="..."`)."""

    def __init__(self) -> None:
        self.options: list[_Option] = []
        self.by_name: dict[str, _Option] = {}
        self.command: str = ""  # the name of the argument that gets the command
        self.can_parse: bool = True

    def add_argument(self, *names: str, **settings: Any) -> None:
        """As that of argparse."""
        if not names[0].startswith("-"):
            self.command = names[0]
            self.can_parse = self.can_parse and settings.get("nargs") == "..."
            return
        long = [name for name in names if name.startswith("--")] or [names[0]]
        dest = settings.get("dest") or long[0].lstrip("-").replace("-", "_")
        option = _Option(dest, settings)
        self.can_parse = self.can_parse and option.action in _KNOWN and option.nargs in (None, "?")
        self.options.append(option)
        for name in names:
            self.by_name[name] = option

    def parse(self, words: list[str]) -> SimpleNamespace | None:
        """The options that argparse would find, or None."""
        if not self.can_parse:
            return None
        found: dict[str, Any] = {}
        for option in self.options:
            default = option.default
            found.setdefault(option.dest, list(default) if option.action == "append" else default)
        at = 0
        while at < len(words) and words[at].startswith("-") and words[at] != "--":
            at = self._take(words, at, found)
            if at < 0:
                return None
        found[self.command] = words[at:]
        return SimpleNamespace(**found)

    def _take(self, words: list[str], at: int, found: dict[str, Any]) -> int:
        """Parse the option at index `at`. Returns the index of the next word, or -1."""
        name, equals, value = words[at].partition("=")
        option = self.by_name.get(name)
        if option is None:
            return self._take_cluster(words, at, found)
        if option.action in ("store_true", "store_false"):
            if equals:
                return -1
            found[option.dest] = option.action == "store_true"
            return at + 1
        if option.nargs == "?" and not equals:  # the next word is never its value
            found[option.dest] = option.const
            return at + 1
        if not equals:
            at += 1
            if at == len(words) or words[at].startswith("-"):
                return -1
            value = words[at]
        return at + 1 if self._store(option, value, found) else -1

    def _take_cluster(self, words: list[str], at: int, found: dict[str, Any]) -> int:
        """Several letters after one hyphen, none of which takes a value."""
        word = words[at]
        letters = [self.by_name.get("-" + letter) for letter in word[1:]]
        if len(word) < 3 or word[1] == "-":
            return -1
        for option in letters:
            if option is None or option.action != "store_true":
                return -1
        for option in letters:
            assert option is not None
            found[option.dest] = True
        return at + 1

    def _store(self, option: _Option, value: str, found: dict[str, Any]) -> bool:
        result: Any = value
        if option.kind is not None:
            try:
                result = option.kind(value)
            except (TypeError, ValueError):
                return False
        if option.choices is not None and result not in option.choices:
            return False
        if option.action == "append":
            found[option.dest].append(result)
        else:
            found[option.dest] = result
        return True
