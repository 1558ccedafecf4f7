"""When a sentry that does not answer is ended: measured in waits, not by the clock."""

import socket
from collections.abc import Iterator

import pytest

from cloche.boot.launch import Sandbox
from cloche.boot.spawn import KeeperProcess
from cloche.cli.watchdog import Watchdog
from cloche.wire import protocol, requests
from cloche.wire.channel import Channel


class Rig:
    """A monitor's side without a sentry behind it."""

    def __init__(self) -> None:
        self.ours, sentry = socket.socketpair()
        self.sentry = Channel(sentry, "test")
        link, self.keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.asked: list[int] = []
        self.sandbox = Sandbox(KeeperProcess(0, link), self.ours)
        self.dog = Watchdog(self.sandbox)

    def wait(self) -> bool:
        """As if a whole wait had passed."""
        self.dog.due_s = 0.0
        return self.dog.on_time()

    def is_asked(self) -> bool:
        messages = self.sentry.receive()
        assert messages is not None
        found = [each for each in messages if each.kind == protocol.REQUEST]
        self.asked = [each.ident for each in found if each.name == requests.PING]
        return bool(self.asked)

    def answer(self) -> None:
        for ident in self.asked:
            self.sentry.send(protocol.reply(ident, {}))


@pytest.fixture
def rig() -> Iterator[Rig]:
    found = Rig()
    yield found
    for sock in (found.ours, found.sentry, found.keeper, found.sandbox.link):
        sock.close()


def test_an_answer_is_all_it_takes(rig: Rig) -> None:
    assert not rig.dog.on_time() and not rig.is_asked()  # not yet
    for _turn in range(50):
        assert not rig.wait() and rig.is_asked()
        rig.answer()
        assert rig.sandbox.read_control() and not rig.is_asked()


def test_silence_ends_it(rig: Rig) -> None:
    assert [rig.wait() for _turn in range(7)] == [False] * 6 + [True]
    assert rig.is_asked() and not rig.is_asked()  # once


def test_who_wants_an_end_waits_less(rig: Rig) -> None:
    assert not rig.dog.on_end_wanted() and rig.is_asked()
    assert not rig.dog.on_end_wanted()  # at once again: it may be about to answer
    assert [rig.wait() for _turn in range(5)] == [False] * 4 + [True]


def test_whoever_says_it_again_later_is_heard(rig: Rig) -> None:
    assert not rig.dog.on_end_wanted()
    rig.dog.asked_at_s -= 2
    assert rig.dog.on_end_wanted()
    rig.dog.on_pong()
    assert not rig.dog.on_end_wanted()


def test_whoever_writes_what_is_kept_has_time(rig: Rig) -> None:
    """A sentry that ends answers no pings, but tells that it goes on."""
    rig.sandbox.shut_down()
    messages = rig.sentry.receive()
    assert messages is not None
    [shutdown] = [each.ident for each in messages if each.name == requests.SHUTDOWN]
    rig.sandbox.shut_down()
    assert rig.sentry.receive() == []  # once is enough
    assert not rig.dog.on_end_wanted()
    for _turn in range(20):
        assert not rig.wait() and not rig.wait()
        rig.sentry.send(protocol.event(shutdown, requests.WRITING, {}))
        assert rig.sandbox.read_control()
        assert not rig.dog.is_urgent and rig.sandbox.layer_errno < 0
    rig.sentry.send(protocol.reply(shutdown, {"layer_errno": 28}))
    assert rig.sandbox.read_control() and rig.sandbox.layer_errno == 28
    assert [rig.wait() for _turn in range(7)] == [False] * 6 + [True]


def test_a_full_socket_holds_nobody_up(rig: Rig) -> None:
    """A sentry that takes nothing makes the monitor wait for nothing."""
    for _turn in range(5000):
        rig.sandbox.send_signal(15)
        rig.sandbox.ping()
