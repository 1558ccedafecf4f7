"""The codec of the control protocol: whole messages from any pieces, and only errors for malformed ones."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche.wire import protocol
from cloche.wire.protocol import MAX_BODY_BYTES, VERSION, Decoder, Message, ProtocolError

FIELDS = st.dictionaries(st.text(max_size=6), st.integers(0, 9) | st.binary(max_size=9), max_size=4)
IDS = st.integers(0, protocol.MAX_ID)
FRAMES = st.one_of(
    st.builds(protocol.request, IDS, st.text(max_size=9), FIELDS),
    st.builds(protocol.reply, IDS, FIELDS),
    st.builds(protocol.error, IDS, st.integers(0, 255), st.text(max_size=99)),
    st.builds(protocol.event, IDS, st.text(max_size=9), FIELDS),
    st.builds(protocol.cancel, IDS),
)
HELLO = protocol.hello("test")


def shown(message: Message) -> tuple[object, ...]:
    return message.kind, message.ident, message.name, message.fields, message.number


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_pieces_do_not_matter(frames: list[bytes], sizes: list[int]) -> None:
    stream = HELLO + b"".join(frames)
    whole = Decoder().feed(stream, [])
    pieces = Decoder()
    found: list[Message] = []
    at = count = 0
    while at < len(stream):
        size = sizes[count % len(sizes)]
        found += pieces.feed(stream[at : at + size], [])
        at += size
        count += 1
    assert [shown(each) for each in found] == [shown(each) for each in whole]
    assert len(whole) == len(frames) + 1


@given(st.binary(max_size=200))
def test_bytes_of_anybody(data: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(HELLO, [])
        decoder.feed(data, [])
    except ProtocolError:
        pass


@given(FRAMES, st.data())
def test_damaged_frames(frame: bytes, data: st.DataObject) -> None:
    bad = bytearray(frame)
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    decoder = Decoder()
    try:
        decoder.feed(HELLO, [])
        for message in decoder.feed(bytes(bad), []):
            assert 0 <= message.ident <= protocol.MAX_ID and message.kind <= protocol.CANCEL
    except ProtocolError:
        pass


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_descriptors_go_with_their_message() -> None:
    first, second = os.pipe()
    decoder = Decoder()
    frames = (
        HELLO
        + protocol.request(1, "a", {}, 1)
        + protocol.request(2, "b", {})
        + protocol.request(3, "c", {}, 1)
    )
    found = decoder.feed(frames, [first, second])
    assert [message.fds for message in found] == [[], [first], [], [second]]
    for message in found:
        message.close_fds()
    assert not is_open(first) and not is_open(second)


def test_descriptors_are_closed_with_an_error() -> None:
    fds = list(os.pipe())
    decoder = Decoder()
    with pytest.raises(ProtocolError):
        decoder.feed(HELLO + protocol.request(1, "a", {}, 1) + protocol.frame([99, 1]), fds)
    assert not any(is_open(fd) for fd in fds)


@pytest.mark.parametrize(
    "stream",
    [
        protocol.request(1, "early", {}),
        HELLO + HELLO,
        protocol.frame([protocol.HELLO, VERSION + 1, "newer"]),
        HELLO + protocol.request(1, "a", {}, 1),  # whose descriptor does not come
        HELLO + (MAX_BODY_BYTES + 1).to_bytes(4, "little") + b"\0",
        HELLO + protocol.frame([protocol.REQUEST, -1, "a", {}]),
        HELLO + protocol.frame([protocol.REQUEST, True, "a"]),
        HELLO + protocol.frame([protocol.ERROR, 1, 256, ""]),
        HELLO + protocol.frame([6, 1, 0, b""]),
        HELLO + protocol.frame({"a": 1}),
        HELLO + protocol.frame([]),
    ],
)
def test_refused(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(stream, [])


def test_fields() -> None:
    fields: protocol.Fields = {"n": 3, "b": True, "t": "x", "y": b"z", "l": [b"a"], "nul": b"a\0"}
    assert protocol.take_int(fields, "n", 0, 0, 5) == 3 and protocol.take_int(fields, "m", 7, 0, 9) == 7
    assert protocol.take_bool(fields, "b") and protocol.take_text(fields, "t") == "x"
    assert protocol.take_bytes(fields, "y") == b"z" and protocol.take_strings(fields, "l", 1) == [b"a"]
    for take in (
        lambda: protocol.take_int(fields, "n", 0, 4, 5),
        lambda: protocol.take_int(fields, "b", 0, 0, 1),
        lambda: protocol.take_bool(fields, "n"),
        lambda: protocol.take_bytes(fields, "nul"),
        lambda: protocol.take_strings(fields, "l", 0),
        lambda: protocol.take_text(fields, "y"),
    ):
        with pytest.raises(ProtocolError):
            take()
