"""Values as bytes: the part of CBOR (RFC 8949) that messages and specs need, in its deterministic form (4.2.1).

Integers of 64 bits, byte and text strings, arrays, maps with text keys in order, false, true, null and 64-bit floats;
no tags and no indefinite lengths.  `decode` accepts exactly what `encode` makes, so a value has one encoding.  It
checks every length before it uses it, and holds no more than a few objects for each byte of its input.
"""

from struct import Struct
from typing import Final

MAX_DEPTH: Final = 16
_FLOAT: Final = Struct(">d")

# Major types (section 3.1) in place.
_UNSIGNED: Final = 0x00
_NEGATIVE: Final = 0x20
_BYTES: Final = 0x40
_TEXT: Final = 0x60
_ARRAY: Final = 0x80
_MAP: Final = 0xA0
_FALSE: Final = 0xF4
_TRUE: Final = 0xF5
_NULL: Final = 0xF6
_FLOAT64: Final = 0xFB


class CborError(ValueError):
    """Not the encoding of a value, or a value that has none."""


def encode(value: object) -> bytes:
    """The encoding of None, bool, int, float, bytes, str, and of lists, tuples and dicts (with str keys) of these.

    Raises CborError for anything else, integers beyond 64 bits, and nesting deeper than MAX_DEPTH.
    """
    out = bytearray()
    _encode(value, out, 0)
    return bytes(out)


def _head(major: int, number: int, out: bytearray) -> None:
    if number < 24:
        out.append(major | number)
    elif number < 0x100:
        out.append(major | 24)
        out.append(number)
    elif number < 0x10000:
        out.append(major | 25)
        out += number.to_bytes(2, "big")
    elif number < 0x1_0000_0000:
        out.append(major | 26)
        out += number.to_bytes(4, "big")
    elif number < 1 << 64:
        out.append(major | 27)
        out += number.to_bytes(8, "big")
    else:
        raise CborError("an integer of more than 64 bits")


def _encode(value: object, out: bytearray, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CborError("nested too deeply")
    if value is None:
        out.append(_NULL)
    elif isinstance(value, bool):
        out.append(_TRUE if value else _FALSE)
    elif isinstance(value, int):
        if value >= 0:
            _head(_UNSIGNED, value, out)
        else:
            _head(_NEGATIVE, -1 - value, out)
    elif isinstance(value, float):
        out.append(_FLOAT64)
        out += _FLOAT.pack(value)
    elif isinstance(value, bytes):
        _head(_BYTES, len(value), out)
        out += value
    elif isinstance(value, str):
        try:
            text = value.encode()
        except UnicodeEncodeError:
            raise CborError("text with a lone surrogate") from None
        _head(_TEXT, len(text), out)
        out += text
    elif isinstance(value, (list, tuple)):
        _head(_ARRAY, len(value), out)
        for item in value:
            _encode(item, out, depth + 1)
    elif isinstance(value, dict):
        _encode_map(value, out, depth)
    else:
        raise CborError(f"a {type(value).__name__} has no encoding")


def _encode_map(value: dict[object, object], out: bytearray, depth: int) -> None:
    entries: list[tuple[bytes, object]] = []
    for key, item in value.items():
        if not isinstance(key, str):
            raise CborError("a key that is not text")
        entries.append((encode(key), item))
    entries.sort(key=_encoded_key)
    _head(_MAP, len(entries), out)
    for name, item in entries:
        out += name
        _encode(item, out, depth + 1)


def _encoded_key(entry: tuple[bytes, object]) -> bytes:
    return entry[0]


def decode(data: bytes) -> object:
    """The value: None, bool, int, float, bytes, str, list or dict.  Raises CborError unless `encode` makes `data`."""
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise CborError("bytes after the value")
    return value


class _Reader:
    """A position in the bytes being decoded."""

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data
        self.at: int = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise CborError("cut off")
        found = self.data[self.at : end]
        self.at = end
        return found

    def number(self, info: int) -> int:
        """The argument of a head (section 3), in its shortest form."""
        if info < 24:
            return info
        if info > 27:
            raise CborError("an indefinite or reserved length")
        size = 1 << (info - 24)
        found = int.from_bytes(self.take(size), "big")
        least = 24 if size == 1 else 1 << (size * 4)
        if found < least:
            raise CborError("a number that is longer than it need be")
        return found

    def value(self, depth: int) -> object:
        if depth > MAX_DEPTH:
            raise CborError("nested too deeply")
        first = self.take(1)[0]
        major = first & 0xE0
        if major == 0xE0:
            return self.simple(first)
        if major == 0xC0:
            raise CborError("a tag")
        number = self.number(first & 0x1F)
        if major == _UNSIGNED:
            return number
        if major == _NEGATIVE:
            return -1 - number
        if major == _BYTES:
            return self.take(number)
        if major == _TEXT:
            return self.text(number)
        if number > len(self.data) - self.at:  # each item has a byte at least
            raise CborError("cut off")
        if major == _ARRAY:
            items: list[object] = []
            for _index in range(number):
                items.append(self.value(depth + 1))
            return items
        return self.map(number, depth)

    def simple(self, first: int) -> object:
        if first == _NULL:
            return None
        if first == _TRUE or first == _FALSE:
            return first == _TRUE
        if first == _FLOAT64:
            found: float = _FLOAT.unpack(self.take(8))[0]
            return found
        raise CborError("an unknown simple value")

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise CborError("text that is not UTF-8") from None

    def map(self, count: int, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        before = b""
        for _index in range(count):
            start = self.at
            first = self.take(1)[0]
            if first & 0xE0 != _TEXT:
                raise CborError("a key that is not text")
            key = self.text(self.number(first & 0x1F))
            encoded = self.data[start : self.at]
            if encoded <= before:
                raise CborError("keys out of order, or twice")
            before = encoded
            found[key] = self.value(depth + 1)
        return found
