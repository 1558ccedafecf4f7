"""The client's end of the control protocol: which request an answer belongs to."""

import socket
from collections.abc import Iterator

import pytest

from cloche.wire import files, protocol, requests
from cloche.wire.channel import Channel
from cloche.wire.control_client import ControlClient, ControlError
from cloche.wire.file_client import FileClient
from cloche.wire.protocol import Message


class Pair:
    """A client, and a monitor that says what the test wants."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.client = ControlClient(ours)
        self.monitor = Channel(theirs, "test")

    def asked(self) -> list[Message]:
        """Requests that have come."""
        found = self.monitor.receive() or []
        for message in found:
            message.close_fds()
        return [message for message in found if message.kind == protocol.REQUEST]


@pytest.fixture
def pair() -> Iterator[Pair]:
    found = Pair()
    yield found
    found.client.close()
    found.monitor.close()


def test_late_answers_are_nobody_elses(pair: Pair) -> None:
    """Refusals, events and answers of requests that were given up come before those of the next."""
    abandoned = pair.client.ask(requests.PS, {})
    ident = pair.client.ask(requests.STATS, {})
    for frame in (
        protocol.event(abandoned, requests.STARTED, {}),
        protocol.event(ident, requests.STARTED, {}),
        protocol.error(abandoned, 125, "the stream was cut off"),
        protocol.reply(abandoned, {"mine": False}),
        protocol.reply(ident, {"mine": True}),
    ):
        pair.monitor.send(frame)
    assert pair.client.answer(ident).fields == {"mine": True}


def test_an_answer_may_come_after_the_next_request(pair: Pair) -> None:
    abandoned = pair.client.ask(requests.PS, {})
    assert pair.client.has_answer() is False  # only the greeting has come
    pair.monitor.send(protocol.error(abandoned, 1, "late"))
    pair.monitor.send(protocol.reply(abandoned + 1, {"tasks": 1}))
    assert pair.client.call(requests.STATS, {}) == {"tasks": 1}


def test_whoever_takes_what_comes_may_say_of_what(pair: Pair) -> None:
    first, second = pair.client.ask(requests.EVENTS, {}), pair.client.ask(requests.PS, {})
    pair.monitor.send(protocol.error(first, 3, "no"))
    pair.monitor.send(protocol.event(second, requests.ENDED, {}))
    pair.monitor.send(protocol.error(first, 3, "no"))
    assert pair.client.receive(second).name == requests.ENDED
    with pytest.raises(ControlError, match="no"):
        pair.client.receive()


def test_refusals_of_the_request_and_of_the_connection_are_raised(pair: Pair) -> None:
    ident = pair.client.ask(requests.PS, {})
    pair.monitor.send(protocol.error(ident, 7, "not now"))
    with pytest.raises(ControlError, match="not now") as caught:
        pair.client.answer(ident)
    assert caught.value.status == 7
    pair.monitor.send(protocol.error(0, 125, "what is that"))
    with pytest.raises(ControlError, match="what is that"):
        pair.client.call(requests.PS, {})
    pair.monitor.close()
    with pytest.raises(ControlError, match="died"):
        pair.client.call(requests.PS, {})


def test_a_stream_that_its_writer_leaves_does_not_spoil_the_next_request(pair: Pair) -> None:
    def cut() -> Iterator[bytes]:
        yield b"something"
        raise KeyboardInterrupt

    client = FileClient(pair.client)
    with pytest.raises(KeyboardInterrupt):
        client.put(b"/tmp", cut())
    [put] = pair.asked()
    assert put.name == files.PUT
    pair.monitor.send(protocol.error(put.ident, 125, "the stream was cut off"))
    pair.monitor.send(protocol.reply(put.ident + 1, {"errno": 0}))
    client.remove(b"/tmp/x")
    assert [each.name for each in pair.asked()] == [files.REMOVE]
