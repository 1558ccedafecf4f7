"""Names that a guest chose, made harmless to a terminal; and helpers for the paths of `cloche cp` and similar verbs."""

import os
import posixpath

from cloche.cli.options import UsageError
from cloche.runtime.records import NAME_PATTERN

_ESCAPES = {
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\v": "\\v",
    '"': '\\"',
}


def quoted(name: bytes) -> str:
    """A name as git prints it with core.quotePath: unchanged, or in quotes with escapes if it has unusual characters.

    Letters of other scripts are left alone; control, format (direction!) and undecodable characters are not.
    """
    text = name.decode(errors="surrogateescape")
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    parts: list[str] = []
    for each in text:
        if each in _ESCAPES:
            parts.append(_ESCAPES[each])
        elif each == "\\":
            parts.append("\\\\")
        elif each.isprintable():
            parts.append(each)
        else:
            parts += [f"\\{byte:03o}" for byte in each.encode(errors="surrogateescape")]
    return '"' + "".join(parts) + '"'


def inside(path: str) -> bytes:
    """An absolute path inside, as it was given: without superfluous slashes, the meaning of `..` left to links."""
    raw = os.fsencode(path)
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    return b"/" + b"/".join(parts)


def split_place(text: str) -> tuple[str, str]:
    """NAME:PATH in its parts; "" and the text for a path of the host."""
    name, colon, path = text.partition(":")
    if not colon or not NAME_PATTERN.fullmatch(name):
        return "", text
    if not path:
        raise UsageError(f"{text}: write NAME:PATH")
    return name, path


def base_name(path: str) -> str:
    """The last component of a path, slashes at its end left out."""
    return posixpath.basename(path.rstrip("/"))
