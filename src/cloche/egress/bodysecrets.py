"""Secrets in bodies of requests: the value of a named field of a form, also of one in parts, or of JSON.

Only a whole body can be looked into, so it is kept until it has come: of these types, up to `MAX_BODY`, and of all
connections together up to `MAX_HELD`.  What is longer, or is not what its type says, goes on as it is: with the
placeholder, which is worth nothing.  All but the value stays byte for byte what the program has sent.
"""

import json
import re
import urllib.parse
from typing import Any, Final

from cloche.egress.httpcheck import LENGTH
from cloche.egress.requestrules import Secret

__all__ = ["MAX_BODY", "Holding", "is_searched", "put_in_body"]

MAX_BODY: Final = 1 << 18
MAX_HELD: Final = 1 << 25
_MAX_PLACES: Final = 64  # of one placeholder
_FORM: Final = b"application/x-www-form-urlencoded"
_JSON: Final = re.compile(rb"application/(?:[!#$&^_.+\-0-9a-z]*\+)?json")
_PARTS: Final = b"multipart/form-data"
_BOUNDARY: Final = re.compile(
    rb"multipart/form-data[ \t]*;[ \t]*boundary=(?:\"([0-9A-Za-z'()+_,./:=? -]{1,70})\"|([0-9A-Za-z'+_.-]{1,70}))",
    re.IGNORECASE,
)
_DISPOSITION: Final = re.compile(
    rb"content-disposition:[ \t]*form-data[ \t]*;[ \t]*name=(?:\"([^\"\\\r\n]+)\"|([!#$&'*+.^_`|~0-9A-Za-z-]+))[ \t]*",
    re.IGNORECASE,
)
_TYPE: Final = re.compile(rb"content-type:[ \t]*(?![ \t]|multipart/|message/)[^\r\n]*", re.IGNORECASE)


class Holding:
    """What all requests of a sandbox keep at a time."""

    def __init__(self, limit: int = MAX_HELD) -> None:
        self.left: int = limit

    def take(self, count: int) -> bool:
        """Whether there is room for so much more, which then is taken."""
        if count > self.left:
            return False
        self.left -= count
        return True

    def give(self, count: int) -> None:
        """So much is not kept any more."""
        self.left += count


def _type_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    values = [value for name, value in headers if name == b"content-type"]
    return values[0].partition(b";")[0].strip().lower() if len(values) == 1 else b""


def is_searched(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the body that follows these headers is one to look into, as far as they say."""
    kind = _type_of(headers)
    if kind not in (_FORM, _PARTS) and not _JSON.fullmatch(kind):
        return False
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return False
        if name == b"content-length" and (not LENGTH.fullmatch(value) or int(value) > MAX_BODY):
            return False
    return True


def put_in_body(secrets: list[Secret], headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    """The body with the real values where the rules name a field."""
    kind = _type_of(headers)
    for secret in secrets:
        if (
            secret.field
            and secret.value
            and secret.placeholder
            and secret.placeholder.encode("ascii") in body
        ):
            if kind == _FORM:
                body = _in_form(secret, body)
            elif kind == _PARTS:
                body = _in_parts(secret, headers, body)
            else:
                body = _in_json(secret, body)
    return body


def _in_form(secret: Secret, body: bytes) -> bytes:
    placeholder, real = secret.placeholder.encode("ascii"), secret.value.encode("ascii")
    parts = body.split(b"&")
    for at, part in enumerate(parts):
        name, equals, value = part.partition(b"=")
        if _plain(name) != secret.field.encode() or placeholder not in _plain(value):
            continue
        made = urllib.parse.quote_from_bytes(_plain(value).replace(placeholder, real), safe="")
        parts[at] = name + equals + made.encode("ascii")
    return b"&".join(parts)


def _in_parts(secret: Secret, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    """A form in parts (RFC 7578).

    A part is changed if its head can be read in one way only, and says that it is the field: no file, nothing encoded,
    no parts within.
    """
    values = [value for name, value in headers if name == b"content-type"]
    match = _BOUNDARY.fullmatch(values[0].strip())
    if match is None:
        return body
    line = b"--" + (match[1] or match[2])
    delimiter = b"\r\n" + line
    if not body.startswith(line + b"\r\n"):
        return body
    pieces = (b"\r\n" + body).split(delimiter)
    if len(pieces) < 3 or pieces[-1] not in (b"--", b"--\r\n"):
        return body
    placeholder, real = secret.placeholder.encode("ascii"), secret.value.encode("ascii")
    for at in range(1, len(pieces) - 1):
        if not pieces[at].startswith(b"\r\n"):
            return body  # a longer boundary that begins like this one
        head, empty, value = pieces[at][2:].partition(b"\r\n\r\n")
        if empty and _names_field(head, secret.field.encode()):
            pieces[at] = b"\r\n" + head + empty + value.replace(placeholder, real)
    made = delimiter.join(pieces)
    return made[2:] if made.count(line) == (b"\r\n" + body).count(line) else body


def _names_field(head: bytes, field: bytes) -> bool:
    """Whether the head of a part is of this field, and of a plain one."""
    found = False
    for each in head.split(b"\r\n"):
        match = _DISPOSITION.fullmatch(each)
        if match is not None and not found:
            found = (match[1] or match[2]) == field
            if not found:
                return False
        elif not _TYPE.fullmatch(each):
            return False
    return found


def _plain(text: bytes) -> bytes:
    return urllib.parse.unquote_to_bytes(text.replace(b"+", b" "))


def _in_json(secret: Secret, body: bytes) -> bytes:
    """Each place of the placeholder is marked, to see which of them the field has."""
    try:
        pieces = body.decode("utf-8").split(secret.placeholder)
        if len(pieces) - 1 > _MAX_PLACES:
            return body
        marks = [f"{secret.placeholder}.{number}." for number in range(len(pieces) - 1)]
        marked = pieces[0] + "".join([mark + piece for mark, piece in zip(marks, pieces[1:], strict=True)])
        values = _values(json.loads(marked, object_pairs_hook=_Pairs), secret.field)
    except (ValueError, RecursionError):
        return body
    real = json.dumps(secret.value)[1:-1]
    found = [any(mark in value for value in values) for mark in marks]
    made = pieces[0]
    for is_there, piece in zip(found, pieces[1:], strict=True):
        made += (real if is_there else secret.placeholder) + piece
    return made.encode("utf-8")


class _Pairs:
    """An object of JSON, whose names may come twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs: list[tuple[str, Any]] = pairs


def _values(document: Any, field: str) -> list[str]:
    """The texts at `a.b`: of a field, or of a field of an object that is one."""
    found: list[Any] = [document]
    for name in field.split("."):
        found = [
            value for each in found if isinstance(each, _Pairs) for key, value in each.pairs if key == name
        ]
    return [each for each in found if isinstance(each, str)]
