"""Input of a command that one thread writes while another finds that it is over."""

import os
import socket
import threading

import pytest

from cloche.sdk import commands
from cloche.sdk.commands import Command
from cloche.sdk.link import Link
from cloche.wire.channel import Channel

TIMEOUT_S = 60
GRACE_S = 0.2  # for a thread to do what it must not; one that waits, as it should, is not waited for longer


class Core:
    """Of a sandbox nothing is asked here."""


def test_input_is_not_closed_in_the_middle_of_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the number could be another file's by then, which would get the input."""
    ours, theirs = socket.socketpair()
    command = Command(Core(), Link(Channel(ours, "test")), 100)  # type: ignore[arg-type]
    reader, command.stdin = os.pipe()
    closer = threading.Thread(target=command.close_stdin)
    still_open: list[bool] = []
    write = os.write

    def write_late(fd: int, data: bytes) -> int:
        closer.start()
        closer.join(GRACE_S)
        still_open.append(command.stdin == fd)
        return write(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(commands.os, "write", write_late)
        assert list(command.send_input(b"input")) == []
    closer.join(TIMEOUT_S)
    assert still_open == [True] and command.stdin == -1
    assert os.read(reader, 100) == b"input" and os.read(reader, 100) == b""
    os.close(reader)
    command.close()
    theirs.close()


def test_a_fork_closes_it_whoever_was_writing() -> None:
    """A process that was forked in the middle has no thread that would let it go on."""
    ours, theirs = socket.socketpair()
    command = Command(Core(), Link(Channel(ours, "test")), 100)  # type: ignore[arg-type]
    reader, command.stdin = os.pipe()
    statuses: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            command.close()
            os._exit(7 if command.stdin == -1 else 8)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    thread = threading.Thread(target=fork)
    with command._lock:
        thread.start()
        thread.join(TIMEOUT_S)
    assert statuses == [7]
    os.close(reader)
    command.close()
    theirs.close()
