"""Parts of command lines that several verbs understand."""

import os
import signal
from typing import Final

from cloche.abi.capability import ALL_CAPS, CAP_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

_SIZES: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


_UNITS: Final = {unit + suffix for unit in _SIZES for suffix in ("", "b", "ib")}
_MAX_SIZE: Final = 1 << 62
# 23 days: in milliseconds, it still fits the argument of poll(2).
MAX_SECONDS: Final = 2_000_000.0


class UsageError(Exception):
    """The command line is wrong; the text says what and what to do."""


def parse_size(text: str, what: str) -> int:
    """Bytes of "512m" and the like.  Raises UsageError."""
    word = text.strip().lower()
    digits = word.rstrip("bkmgti")
    unit = word[len(digits) :]
    size = 0
    if is_digits(digits, 18) and unit in _UNITS:
        size = int(digits) * _SIZES[unit[:1] if unit not in ("b", "ib") else "b"]
    if not 0 < size <= _MAX_SIZE:
        raise UsageError(f"{what}: {text!r} is not a size; write a number with k, m or g, e.g. 512m")
    return size


def parse_seconds(text: str, what: str, least_s: float = 0.001) -> float:
    """Seconds of "30", "1.5s", "500ms", "2m", "1h" and their sums, as "1m30s".  Raises UsageError."""
    import re

    total, rest = 0.0, text.strip().lower()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", rest, re.ASCII):
        total, rest = float(rest), ""
    elif re.fullmatch(r"([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h))+", rest, re.ASCII):
        for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", rest):
            total += float(number) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[unit]
        rest = ""
    if rest or not least_s <= total <= MAX_SECONDS:
        raise UsageError(f"{what}: {text!r} is not a time; write e.g. 30s, 1m30s or 500ms")
    return total


def is_digits(text: str, count: int) -> bool:
    """Whether it is a number of at most `count` digits, after zeros."""
    return text.isascii() and text.isdigit() and len(text.lstrip("0")) <= count


def read_env_file(path: str) -> list[str]:
    """Lines K=V or K; blank lines and # comments are skipped.  Raises UsageError."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.lstrip().rstrip("\r\n") for line in file]
    except OSError as error:
        raise UsageError(f"--env-file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--env-file {path}: not UTF-8 text") from None
    items = [line for line in lines if line and not line.startswith("#")]
    for item in items:
        name = item.partition("=")[0]
        if any(sign.isspace() for sign in name):
            raise UsageError(f"--env-file {path}: {name!r} is no name of a variable; write K=V")
    return items


def env_items(items: list[str]) -> list[bytes]:
    """K=V of -e options; K alone takes the host's value, and is left out where there is none.  Raises UsageError."""
    found: list[bytes] = []
    for item in items:
        key, equals, value = item.partition("=")
        if not key or "\0" in item:
            raise UsageError(f"-e {item}: write K=V")
        if equals:
            found.append(os.fsencode(key) + b"=" + os.fsencode(value))
        elif key in os.environ:
            found.append(os.fsencode(key) + b"=" + os.fsencode(os.environ[key]))
    return found


def parse_user(text: str) -> tuple[int, int]:
    """UID[:GID].  Raises UsageError."""
    user, colon, group = text.partition(":")
    if not is_digits(user, 10) or (colon and not is_digits(group, 10)):
        raise UsageError(f"-u {text}: write numeric ids, UID or UID:GID")
    uid = int(user)
    gid = int(group) if colon else uid
    if uid >= 0xFFFFFFFF or gid >= 0xFFFFFFFF:
        raise UsageError(f"-u {text}: ids go up to 4294967294")
    return uid, gid


def parse_capabilities(added: list[str], dropped: list[str], base: int) -> int:
    """A capability mask, made as Docker does of --cap-add and --cap-drop. ALL is applied first; a capability that is
    both added and dropped by name is added, unless ALL were added. Raises UsageError.
    """
    plus, all_added = _capability_mask("--cap-add", added)
    minus, all_dropped = _capability_mask("--cap-drop", dropped)
    if all_added:
        return ALL_CAPS & ~minus
    return (0 if all_dropped else base & ~minus) | plus


def _capability_mask(option: str, names: list[str]) -> tuple[int, bool]:
    mask = 0
    has_all = False
    for text in names:
        name = text.upper().removeprefix("CAP_")
        if name == "ALL":
            has_all = True
        elif name in CAP_NAMES:
            mask |= 1 << CAP_NAMES.index(name)
        else:
            raise UsageError(
                f"{option} {text}: no capability of that name; see capabilities(7), or write ALL"
            )
    return mask, has_all


def parse_signal(text: str) -> int:
    """A signal's number, or its name with or without SIG.  Raises UsageError."""
    if is_digits(text, 2) and len(text) <= 2 and 1 <= int(text) <= 64:
        return int(text)
    name = text.upper().removeprefix("SIG")
    for known in signal.Signals:
        if known.name == "SIG" + name:
            return known.value
    base, plus, offset = name.partition("+")
    if base == "RTMIN" and plus and is_digits(offset, 2) and len(offset) <= 2 and int(offset) <= 30:
        return 34 + int(offset)
    raise UsageError(f"{text} is no signal; write a name or a number up to 64")


def options_first(parser: "argparse.ArgumentParser", words: list[str]) -> list[str]:
    """The words with all options in front. For verbs with any number of arguments: argparse wants these to stand
    together.
    """
    with_value = {
        name for action in parser._actions if action.nargs is None and action.const is None
        for name in action.option_strings
    }  # fmt: skip
    found: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            rest += words[at + 1 :]
            break
        if word.startswith("-") and word != "-":
            count = 2 if word in with_value else 1
            found += words[at : at + count]
            at += count
        else:
            rest.append(word)
            at += 1
    return [*found, "--", *rest]
