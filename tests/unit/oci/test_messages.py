"""Messages between `create` and the monitor that it has forked."""

import os
import socket

import pytest

from cloche.oci.messages import hear, say


def test_a_message_with_descriptors() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        read, write = os.pipe()
        say(ours, {"a": [1, b"x"]}, [write])
        value, fds = hear(theirs)
        assert value == {"a": [1, b"x"]} and len(fds) == 1
        os.write(fds[0], b"!")
        assert os.read(read, 2) == b"!"
        for fd in (read, write, *fds):
            os.close(fd)


class Prompt(socket.socket):
    """A socket whose peer has answered and gone before `sendmsg` returns."""

    peer: socket.socket

    def sendmsg(self, *arguments: object) -> int:
        """As a socket does."""
        sent: int = super().sendmsg(*arguments)  # type: ignore[arg-type]
        assert hear(self.peer) == ("wanted", [])
        self.peer.sendall(b"answer")
        self.peer.close()
        return sent


def test_an_answer_that_comes_before_the_message_is_sent() -> None:
    ours, theirs = socket.socketpair()
    with Prompt(fileno=ours.detach()) as link, theirs:
        link.peer = theirs
        say(link, "wanted", [])
        assert link.recv(64) == b"answer" and link.recv(64) == b""


def test_one_that_has_died() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(BrokenPipeError):
            say(ours, "wanted", [])
