"""The keeper's own decisions (its whole life is tested by tests/cli)."""

import socket

from cloche.boot.keeper import has_data


def test_an_end_is_no_question() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    assert not has_data(ours)
    theirs.send(b"x")
    assert has_data(ours) and has_data(ours) and ours.recv(1) == b"x"
    theirs.close()
    assert not has_data(ours)
    ours.close()
