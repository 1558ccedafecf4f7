"""Values as bytes, against another implementation of RFC 8949."""

import math
import struct

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche.wire.cbor import MAX_DEPTH, CborError, decode, encode

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | st.text(max_size=40)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_encoded_is_decoded(value: object) -> None:
    assert decode(encode(value)) == value


@given(VALUES)
def test_another_implementation_reads_it(value: object) -> None:
    assert cbor2.loads(encode(value)) == value


@given(VALUES)
def test_there_is_one_encoding(value: object) -> None:
    data = encode(value)
    assert encode(decode(data)) == data


@given(st.binary(max_size=64))
def test_bytes_of_anybody(data: bytes) -> None:
    try:
        value = decode(data)
    except CborError:
        return
    assert encode(value) == data or contains_nan(value)


def contains_nan(value: object) -> bool:
    if isinstance(value, list):
        return any(contains_nan(item) for item in value)
    if isinstance(value, dict):
        return any(contains_nan(item) for item in value.values())
    return isinstance(value, float) and math.isnan(value)


@given(VALUES, st.data())
def test_damaged(value: object, data: st.DataObject) -> None:
    good = bytearray(encode(value))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(good))
    except CborError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x18\x17",  # 23 in two bytes
        b"\x19\x00\xff",
        b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff",
        b"\x5f\x41a\xff",  # indefinite
        b"\xc0\x60",  # a tag
        b"\xf9\x3c\x00",  # a half float
        b"\xf7",  # undefined
        b"\xa2\x61b\x01\x61a\x02",  # keys out of order
        b"\xa2\x61a\x01\x61a\x02",  # a key twice
        b"\xa1\x01\x02",  # a key that is a number
        b"\x61\xff",  # no UTF-8
        b"\x9a\xff\xff\xff\xff",  # four billion items
        b"\x5b" + b"\xff" * 8,
        b"\x81" * (MAX_DEPTH + 2) + b"\x00",
        b"\x00\x00",
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(CborError):
        decode(data)


@pytest.mark.parametrize("value", [1 << 64, -(1 << 64) - 1, {1: 2}, object(), "\udc80", {"a": {1}}])
def test_without_encoding(value: object) -> None:
    with pytest.raises(CborError):
        encode(value)


def test_floats_keep_their_bits() -> None:
    assert encode(0.1) == b"\xfb" + struct.pack(">d", 0.1)
