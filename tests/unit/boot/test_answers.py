"""Answers of a sentry that an attacker has taken over: the monitor ends the sandbox, and reports the reason."""

import socket

import pytest

from cloche.boot import launch
from cloche.boot.launch import Sandbox
from cloche.boot.spawn import KeeperProcess
from cloche.wire import protocol, requests
from cloche.wire.protocol import Fields, Message, ProtocolError


@pytest.mark.parametrize("fields", [{"status": "none"}, {"status": 1 << 40}, {"status": 0, "oom_kills": -1}])
def test_an_answer_that_makes_no_sense(fields: Fields) -> None:
    ours, theirs = socket.socketpair()
    link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, other:
        sandbox = Sandbox(KeeperProcess(0, link), ours)
        theirs.sendall(protocol.hello("a sentry") + protocol.reply(launch._WAIT, fields))
        assert not sandbox.read_control()
        assert sandbox.death.startswith("the sentry sends what it should not: ")
        sandbox.channel.close()
        link.close()


def test_one_that_its_reader_refuses() -> None:
    ours, theirs = socket.socketpair()
    link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def refuse(message: Message) -> None:
        raise ProtocolError("what is that")

    with theirs, other:
        sandbox = Sandbox(KeeperProcess(0, link), ours)
        sandbox.on_message = refuse
        theirs.sendall(protocol.hello("a sentry") + protocol.reply(requests.FIRST_ID, {}))
        assert not sandbox.read_control()
        assert sandbox.death == "the sentry sends what it should not: what is that"
        sandbox.channel.close()
        link.close()
