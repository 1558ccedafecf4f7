"""The keeper's own decisions (its whole life is tested by tests/cli)."""

import socket

from cloche.boot.keeper import has_data, hear


def test_an_end_is_no_question() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    assert not has_data(ours)
    theirs.send(b"x")
    assert has_data(ours) and has_data(ours) and ours.recv(1) == b"x"
    theirs.close()
    assert not has_data(ours)
    ours.close()


def test_a_keeper_that_ends_with_something_unread_has_ended() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(b"A")
    assert hear(ours) == (b"A", [])
    ours.send(b"17")
    theirs.close()  # which resets the connection
    assert hear(ours) == (b"", [])
    ours.close()
