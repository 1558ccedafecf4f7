"""Values in GVariant's text format, as runc reads them in annotations `org.systemd.property.*`, for a bus.

    true   5   0x10   1.5   "text"   ['a', 'b']   uint64 7   @as []   (1, 'x')

A value is a D-Bus signature and what jeepney serialises for it. An annotation may be anybody's: depth and length are
bounded, and what is not understood is refused.
"""

from typing import Any, Final

__all__ = ["Variant", "parse"]

Variant = tuple[str, Any]

MAX_LENGTH: Final = 65536
_MAX_DEPTH: Final = 16
_BITS: Final = {
    "y": (0, 8),
    "n": (1, 16),
    "q": (0, 16),
    "i": (1, 32),
    "u": (0, 32),
    "x": (1, 64),
    "t": (0, 64),
}
_WORDS: Final = {
    "boolean": "b",
    "byte": "y",
    "int16": "n",
    "uint16": "q",
    "int32": "i",
    "uint32": "u",
    "int64": "x",
    "uint64": "t",
    "double": "d",
    "string": "s",
    "objectpath": "o",
    "signature": "g",
}
_TEXTS: Final = "sog"
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v"}
_BLANKS: Final = " \t\n"
_ENDS: Final = _BLANKS + ",])"


class _Reader:
    def __init__(self, text: str) -> None:
        self.text: str = text
        self.at: int = 0

    def look(self) -> str:
        """The next character that is no blank; empty at the end."""
        while self.at < len(self.text) and self.text[self.at] in _BLANKS:
            self.at += 1
        return self.text[self.at : self.at + 1]

    def word(self, ends: str = _ENDS) -> str:
        """Up to the next delimiter."""
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in ends:
            self.at += 1
        if start == self.at:
            raise ValueError(f"a value is missing at {start}")
        return self.text[start : self.at]

    def quoted(self) -> str:
        """A string in quotes."""
        quote = self.text[self.at]
        self.at += 1
        found: list[str] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            self.at += 1
            if char == quote:
                return "".join(found)
            if char == "\\" and self.at < len(self.text):
                char = self.text[self.at]
                self.at += 1
                if char in "uU":
                    length = 4 if char == "u" else 8
                    char = chr(int(self.text[self.at : self.at + length], 16))
                    self.at += length
                else:
                    char = _ESCAPES.get(char, char)
            found.append(char)
        raise ValueError("a string does not end")


def parse(text: str) -> Variant:
    """The value.  Raises ValueError."""
    if len(text) > MAX_LENGTH or "\0" in text:
        raise ValueError("too long, or with a zero")
    reader = _Reader(text)
    found = _value(reader, "", 0)
    if reader.look():
        raise ValueError(f"something follows the value at {reader.at}")
    return found


def _value(reader: _Reader, wanted: str, depth: int) -> Variant:
    """A value, of the type `wanted` unless that is empty."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    char = reader.look()
    if char == "@":
        reader.at += 1
        signature = reader.word(_BLANKS)
        if wanted and wanted != signature or not _is_type(signature):
            raise ValueError(f"unexpected type {signature[:64]}")
        return _value(reader, signature, depth + 1)
    if char == "[":
        return _list(reader, wanted, depth)
    if char == "(":
        return _tuple(reader, wanted, depth)
    if char in ("'", '"'):
        signature = wanted or "s"
        if signature not in _TEXTS:
            raise ValueError("a string is not expected")
        return signature, reader.quoted()
    word = reader.word()
    if word in _WORDS:
        if wanted and wanted != _WORDS[word]:
            raise ValueError(f"unexpected type {word}")
        return _value(reader, _WORDS[word], depth + 1)
    return _plain(word, wanted)


def _plain(word: str, wanted: str) -> Variant:
    if word in ("true", "false"):
        if wanted not in ("", "b"):
            raise ValueError("a truth value is not expected")
        return "b", word == "true"
    if wanted in _BITS or (
        not wanted and not any(char in word for char in ".eE") or word[:2] in ("0x", "0X")
    ):
        signature = wanted or "i"
        if signature not in _BITS:
            raise ValueError(f"{word[:64]} is not expected")
        number = int(word, 0)
        signed, bits = _BITS[signature]
        low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
        if not low <= number < high:
            raise ValueError(f"{word[:64]} is out of range")
        return signature, number
    if wanted not in ("", "d"):
        raise ValueError(f"{word[:64]} is not expected")
    return "d", float(word)


def _items(reader: _Reader, end: str) -> bool:
    """Whether another item follows; `end` and commas are taken."""
    char = reader.look()
    if char == end:
        reader.at += 1
        return False
    if not char:
        raise ValueError(f"{end} is missing")
    return True


def _comma(reader: _Reader, end: str) -> None:
    char = reader.look()
    if char == ",":
        reader.at += 1
    elif char != end:
        raise ValueError(f"a comma is missing at {reader.at}")


def _list(reader: _Reader, wanted: str, depth: int) -> Variant:
    if wanted and wanted[0] != "a":
        raise ValueError("a list is not expected")
    reader.at += 1
    signature = wanted[1:]
    found: list[Any] = []
    while _items(reader, "]"):
        signature, value = _value(reader, signature, depth + 1)
        found.append(value)
        _comma(reader, "]")
    if not signature:
        raise ValueError("an empty list has no type: say @as []")
    return "a" + signature, bytes(found) if signature == "y" else found


def _tuple(reader: _Reader, wanted: str, depth: int) -> Variant:
    if wanted and wanted[0] != "(":
        raise ValueError("a tuple is not expected")
    reader.at += 1
    signatures = _split(wanted[1:-1]) if wanted else []
    signature = ""
    found: list[Any] = []
    while _items(reader, ")"):
        if wanted and len(found) == len(signatures):
            raise ValueError("a tuple is too long")
        kind, value = _value(reader, signatures[len(found)] if wanted else "", depth + 1)
        signature += kind
        found.append(value)
        _comma(reader, ")")
    if not found or wanted and len(found) != len(signatures):
        raise ValueError("a tuple is too short")
    return f"({signature})", tuple(found)


def _split(signature: str) -> list[str]:
    """The complete types in a row.  Raises ValueError."""
    found: list[str] = []
    start = 0
    for at, char in enumerate(signature):
        piece = signature[start : at + 1]
        if char == "a" or piece.count("(") > piece.count(")"):
            continue
        found.append(piece)
        start = at + 1
    if start != len(signature):
        raise ValueError(f"{signature[:64]} is no signature")
    return found


def _is_type(signature: str) -> bool:
    """Whether it is one complete type of those that are read here."""
    if len(signature) > 255 or any(char not in "ybnqiuxtdsoga()" for char in signature):
        return False
    if signature.count("(") > _MAX_DEPTH or "a" * _MAX_DEPTH in signature or "()" in signature:
        return False
    try:
        return len(_split(signature)) == 1
    except ValueError:
        return False
