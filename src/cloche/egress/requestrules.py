"""Rules about requests: which methods, paths, headers, queries, types and sizes a rule for a name lets through.

A rule without any lets every request pass. If there are some, one must match; a matching one with `deny` takes
precedence. Servers interpret paths differently (`%2F`, `..`, `//`, `;x`), so a path with conditions is read in every
way that a server might: an allowing pattern must match all readings, a denying one any.

Patterns: `*` stands for any characters within one segment of a path, `**` for any number of whole segments; in headers
and queries `*` stands for any characters.
"""

import re
from collections import deque
from typing import Any, Final

from cloche.egress.fieldtypes import FieldError, texts

__all__ = ["BadPath", "Facts", "RequestRule", "Secret", "path_readings"]

SCOPES: Final = ("", "request", "path", "host")  # of approvals; a later one covers more
_RATE: Final = re.compile(r"([1-9][0-9]{0,4})/(second|minute|hour)", re.ASCII)
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600}
_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}", re.ASCII)
_TOKEN: Final = _METHOD
_TYPE: Final = re.compile(r"[!#$&^_.+\-0-9A-Za-z*]{1,127}/[!#$&^_.+\-0-9A-Za-z*]{1,127}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_MAX_PATTERN: Final = 2048
_MAX_SEGMENTS: Final = 256
MAX_SECRET: Final = 4096
_MAX_FIELD: Final = 256


class BadPath(ValueError):
    """A path that cannot be matched safely; the text says why."""


class Facts:
    """The parts of a request that are known before its body."""

    def __init__(self, method: str, target: str, headers: list[tuple[bytes, bytes]]) -> None:
        self.method: str = method
        path, _mark, query = target.partition("?")
        self.path: str = path
        self.query: str = query
        self.headers: list[tuple[bytes, bytes]] = headers  # names in lower case

    def values(self, name: str) -> list[str]:
        """Of a header."""
        wanted = name.encode("ascii")
        return [value.decode("latin-1") for each, value in self.headers if each == wanted]


class RequestRule:
    """One rule about requests."""

    def __init__(self) -> None:
        self.is_deny: bool = False
        self.methods: list[str] = []  # empty: all
        self.paths: list[str] = []  # empty: all
        self.headers: list[tuple[str, str]] = []  # name, pattern
        self.query: list[tuple[str, str]] = []
        self.content_types: list[str] = []
        self.max_body: int = -1
        self.max_response: int = -1
        self.rate: str = ""
        self.ask: str = ""  # a scope for approvals; empty: none is needed
        self.recent: deque[float] = deque()  # times of recent requests; not part of the rule's data

    def rate_limit(self) -> tuple[int, int]:
        """(requests, seconds); (0, 0): no limit."""
        match = _RATE.fullmatch(self.rate)
        return (int(match[1]), _SECONDS[match[2]]) if match is not None else (0, 0)

    def text(self) -> str:
        """A short description."""
        words = ["deny"] if self.is_deny else []
        words.append(",".join(self.methods) or "any method")
        words.append(" ".join(self.paths) or "any path")
        return " ".join(words)

    def objection(self, facts: Facts, readings: list[list[str]]) -> str:
        """The condition that a request does not meet; empty if it meets all."""
        if self.methods and facts.method not in self.methods:
            return "method"
        if self.paths:
            found = [any(_path_matches(pattern, each) for pattern in self.paths) for each in readings]
            if not (any(found) if self.is_deny else found and all(found)):
                return "path"
        for name, pattern in self.headers:
            values = facts.values(name)
            matches = [_matches(pattern, value) for value in values]
            if not (any(matches) if self.is_deny else matches and all(matches)):
                return f"header {name}"
        if self.query and not self._has_query(facts.query):
            return "query"
        if self.content_types and not self._has_type(facts):
            return "content type"
        return ""

    def _has_query(self, query: str) -> bool:
        found: dict[str, list[str]] = {}
        for part in re.split("[&;]" if self.is_deny else "&", query):
            key, _equals, value = part.partition("=")
            found.setdefault(_unescaped(key.replace("+", " ")), []).append(
                _unescaped(value.replace("+", " "))
            )
        for key, pattern in self.query:
            matches = [_matches(pattern, value) for value in found.get(key, [])]
            if self.is_deny:
                if not any(matches):
                    return False
            elif len(matches) != 1 or not matches[0] or ";" in query:
                return False  # if there are two, servers may use either
        return True

    def _has_type(self, facts: Facts) -> bool:
        types = [value.partition(";")[0].strip().lower() for value in facts.values("content-type")]
        if not types and not self.is_deny:
            lengths = facts.values("content-length")
            return not facts.values("transfer-encoding") and (not lengths or lengths == ["0"])
        found = [any(_matches(pattern, each) for pattern in self.content_types) for each in types]
        return any(found) if self.is_deny else len(found) == 1 and found[0]

    def to_fields(self) -> dict[str, Any]:
        """As data."""
        return {
            "deny": self.is_deny,
            "methods": list(self.methods),
            "paths": list(self.paths),
            "headers": [[name, pattern] for name, pattern in self.headers],
            "query": [[name, pattern] for name, pattern in self.query],
            "content_types": list(self.content_types),
            "max_body": self.max_body,
            "max_response": self.max_response,
            "rate": self.rate,
            "ask": self.ask,
        }

    @staticmethod
    def from_fields(fields: Any) -> "RequestRule":
        """The inverse.  Raises FieldError, KeyError, TypeError, ValueError."""
        made = RequestRule()
        made.is_deny = bool(fields["deny"])
        made.methods = texts(fields["methods"])
        made.paths = texts(fields["paths"])
        made.headers = [(str(name).lower(), str(pattern)) for name, pattern in fields["headers"]]
        made.query = [(str(name), str(pattern)) for name, pattern in fields["query"]]
        made.content_types = [each.lower() for each in texts(fields["content_types"])]
        made.max_body, made.max_response = int(fields["max_body"]), int(fields["max_response"])
        made.rate, made.ask = str(fields["rate"]), str(fields["ask"])
        made.check()
        return made

    def check(self) -> None:
        """Raises FieldError if fields contradict each other."""
        for method in self.methods:
            if not _METHOD.fullmatch(method):
                raise FieldError("methods", f"{method}: not a method")
        for path in self.paths:
            if (
                not path.startswith("/")
                or len(path) > _MAX_PATTERN
                or not path.isascii()
                or set("?%\\;") & set(path)
            ):
                raise FieldError(
                    "paths", f"{path}: a path begins with /, and has no ?, ; or escapes (%2F) in it"
                )
            if any(each in (".", "..") or ("**" in each and each != "**") for each in path.split("/")):
                raise FieldError("paths", f"{path}: .. is no part of it, and ** stands for whole segments")
        for name, pattern in self.headers:
            if not _TOKEN.fullmatch(name) or len(pattern) > _MAX_PATTERN:
                raise FieldError("headers", f"{name}: not the name of a header")
        for each in self.content_types:
            if not _TYPE.fullmatch(each):
                raise FieldError("content_types", f"{each}: write types as application/json or image/*")
        if self.rate and not _RATE.fullmatch(self.rate):
            raise FieldError("rate", f"{self.rate}: write a rate as 10/second, 100/minute or 1000/hour")
        if self.ask not in SCOPES:
            raise FieldError("ask", "ask is one of request, path, host")
        if self.max_body < -1 or self.max_response < -1:
            raise FieldError("max_body", "sizes are numbers of bytes")
        if self.is_deny and (self.rate or self.ask or self.max_body >= 0 or self.max_response >= 0):
            raise FieldError("deny", "what is denied has no rate, size or approval")


class Secret:
    """A value that only egress knows; inside there is a placeholder for it."""

    def __init__(self) -> None:
        self.name: str = ""  # the variable that holds the placeholder
        self.header: str = ""  # inserted into this header
        self.query: str = ""  # or into this field of the query
        self.field: str = ""  # or into this field of a body that is a form or JSON (there also a.b)
        self.placeholder: str = ""
        self.value: str = ""

    def to_fields(self, *, shows_value: bool) -> dict[str, Any]:
        """As data."""
        return {
            "name": self.name,
            "header": self.header,
            "query": self.query,
            "field": self.field,
            "placeholder": self.placeholder if shows_value else "",
            "value": self.value if shows_value else "",
        }

    @staticmethod
    def from_fields(fields: Any) -> "Secret":
        """The inverse.  Raises FieldError, KeyError, TypeError."""
        made = Secret()
        made.name, made.header = str(fields["name"]), str(fields["header"]).lower()
        made.query, made.field = str(fields["query"]), str(fields["field"])
        made.placeholder, made.value = str(fields["placeholder"]), str(fields["value"])
        made.check()
        return made

    def check(self) -> None:
        """Raises FieldError."""
        if not _VARIABLE.fullmatch(self.name):
            raise FieldError("name", f"{self.name}: not the name of a variable")
        if sum(map(bool, (self.header, self.query, self.field))) != 1:
            raise FieldError(
                "header", "a secret goes into a `header`, a `query` or a body's `field`, and one of them only"
            )
        if self.field and not (len(self.field) <= _MAX_FIELD and self.field.isprintable()):
            raise FieldError("field", "not the name of a field")
        if self.header and (not _TOKEN.fullmatch(self.header) or self.header in _NO_SECRETS):
            raise FieldError("header", f"{self.header}: not a header that a secret can be put into")
        if self.value and not (
            len(self.value) <= MAX_SECRET and all(33 <= ord(each) <= 126 for each in self.value)
        ):
            raise FieldError("from", "a secret is one line of printable ASCII without spaces")
        if self.value and len(self.value) < 8:
            raise FieldError("from", "a secret of fewer than 8 characters cannot be told from other text")


_NO_SECRETS: Final = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect")
)


def path_readings(path: str) -> list[list[str]]:
    """The segments of a path in every way that a server might see them.  Raises BadPath."""
    found: list[list[str]] = []
    text = path
    for _turn in range(3):  # some servers unescape more than once
        if not text.startswith("/") or len(text) > 32768:
            raise BadPath("not a path")
        for separators in ("/", "/\\"):
            plain = text.replace("\\", "/") if "\\" in separators else text
            for keeps_empty in (True, False):
                segments = plain[1:].split("/")
                if not keeps_empty:
                    segments = [each for each in segments[:-1] if each] + segments[-1:]
                for each in (segments, [segment.partition(";")[0] for segment in segments]):
                    # Split first and unescape then, and the other way round.
                    _note(found, [_unescaped(segment) for segment in each])
                    joined = "/".join([_unescaped(segment) for segment in each]).replace("\\", "/")
                    _note(found, joined.split("/"))
        if not _ESCAPE.search(text):
            return found
        text = "/" + _unescaped(text[1:])
    if _ESCAPE.search(text):
        raise BadPath("escapes within escapes within escapes")
    return found


def _note(found: list[list[str]], segments: list[str]) -> None:
    if len(segments) > _MAX_SEGMENTS:
        raise BadPath("a path of too many segments")
    if any(each in (".", "..") or "\0" in each for each in segments):
        raise BadPath("a path with . or .. in it")
    if segments not in found:
        found.append(segments)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def _matches(pattern: str, text: str) -> bool:
    """Whether a text matches a pattern with stars, in time of the product of both lengths at most."""
    at = star = 0
    mark = -1
    for_text = 0
    while for_text < len(text):
        if at < len(pattern) and pattern[at] == "*":
            mark, star = for_text, at
            at += 1
        elif at < len(pattern) and pattern[at] == text[for_text]:
            at += 1
            for_text += 1
        elif mark >= 0:
            mark += 1
            for_text = mark
            at = star + 1
        else:
            return False
    return all(each == "*" for each in pattern[at:])


def _path_matches(pattern: str, segments: list[str]) -> bool:
    """Whether segments match a pattern's; `**` stands for any number of them."""
    reached = {0}  # positions in `segments` at which the pattern so far can end
    for piece in pattern[1:].split("/"):
        if piece == "**":
            reached = set(range(min(reached), len(segments) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(segments) and _matches(piece, segments[at])}
        if not reached:
            return False
    return len(segments) in reached
