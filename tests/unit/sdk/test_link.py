"""A connection over which several send at the same time: each request goes out once, and whole."""

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from cloche.sdk.link import Link
from cloche.wire import protocol, requests
from cloche.wire.channel import Channel
from cloche.wire.protocol import Message

TIMEOUT_S = 60
GRACE_S = 0.2  # for a thread to do what it must not; one that waits, as it should, is not waited for longer


class Socket(socket.socket):
    """A socket whose owner's `in_the_middle` is called when something was sent, and the sender does not know it yet."""

    in_the_middle: Callable[[], object] = staticmethod(lambda: None)

    def send(self, *arguments):  # type: ignore[no-untyped-def]
        count = super().send(*arguments)
        self.in_the_middle()
        return count

    def sendmsg(self, *arguments):  # type: ignore[no-untyped-def]
        count = super().sendmsg(*arguments)
        self.in_the_middle()
        return count


class Pair:
    """A link, and a monitor that reads what it sends."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.sock = Socket(fileno=ours.detach())
        self.link = Link(Channel(self.sock, "test"))
        self.monitor = Channel(theirs, "test")

    def asked(self) -> list[Message]:
        """Requests that have come."""
        found: list[Message] = []
        while news := self.monitor.receive():
            found += news
        for message in found:
            message.close_fds()
        return [message for message in found if message.kind == protocol.REQUEST]


@pytest.fixture
def pair() -> Iterator[Pair]:
    found = Pair()
    yield found
    found.link.close()
    found.monitor.close()


def test_a_handler_of_a_signal_sends_in_the_middle(pair: Pair) -> None:
    """As a program's handler of SIGINT that passes it on to a command, while the program starts or signals one."""
    made: list[int] = []

    def interrupt() -> None:
        pair.sock.in_the_middle = lambda: None
        made.append(pair.link.ask(requests.SIGNAL, {"signal": 2}))

    pair.sock.in_the_middle = interrupt
    null = os.open(os.devnull, os.O_RDONLY)
    first = pair.link.ask(requests.EXEC, {}, [null])
    os.close(null)
    assert [each.ident for each in pair.asked()] == [first, *made]
    assert len(made) == 1 and made[0] != first
    pair.sock.in_the_middle = interrupt
    third = pair.link.ask(requests.STATS, {})
    pair.link.take()
    assert [each.ident for each in pair.asked()] == [third, made[1]]


def test_others_send_and_read_in_the_middle(pair: Pair) -> None:
    """A thread that sends, one that signals and one that reads: nothing is lost, nothing goes out twice."""
    made: list[int] = []

    def signal() -> None:
        made.append(pair.link.ask(requests.SIGNAL, {"signal": 2}))

    others = [threading.Thread(target=each) for each in (signal, pair.link.take)]

    def let_others_go_on() -> None:
        pair.sock.in_the_middle = lambda: None
        for each in others:
            each.start()
            each.join(GRACE_S)

    pair.sock.in_the_middle = let_others_go_on
    first = pair.link.ask(requests.STATS, {})
    for each in others:
        each.join(TIMEOUT_S)
    assert [each.ident for each in pair.asked()] == [first, *made]
    assert len(made) == 1 and made[0] != first


def test_a_fork_closes_it_whoever_was_sending(pair: Pair) -> None:
    """A process that was forked in the middle has no thread that would let it go on."""
    statuses: list[int] = []

    def close_in_a_fork() -> None:
        pair.sock.in_the_middle = lambda: None
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            pair.link.close()
            os._exit(7)
        statuses.append(os.waitpid(pid, 0)[1])

    pair.sock.in_the_middle = close_in_a_fork
    ident = pair.link.ask(requests.STATS, {})
    assert [os.waitstatus_to_exitcode(each) for each in statuses] == [7]
    assert [each.ident for each in pair.asked()] == [ident]
