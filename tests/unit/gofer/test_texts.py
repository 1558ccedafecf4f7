"""Patched text: a request for it does not wait for the analyst."""

import os
import socket
from pathlib import Path

import pytest

from cloche.abi.errno import EAGAIN, LinuxError
from cloche.gofer.texts import Texts
from cloche.wire.analyst import DONE, LASTS, NO_SITES, Request, receive_request, send_reply


class Analyst:
    """The other end of the socket, which answers when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.texts = Texts(-1, theirs)
        self.files = 0

    def file(self) -> Path:
        self.files += 1
        path = self.folder / f"program{self.files}"
        path.write_bytes(b"\x7fELF" + bytes(8192))
        return path

    def find(self, path: Path, patience_ms: int = 0) -> int:
        fd = os.open(path, os.O_RDONLY)
        try:
            return self.texts.find(fd, os.fstat(fd), patience_ms, is_writable=False)[0]
        finally:
            os.close(fd)

    def is_unknown(self, path: Path, patience_ms: int = 0) -> bool:
        try:
            self.find(path, patience_ms)
        except LinuxError as error:
            assert error.errno == EAGAIN
            return True
        return False

    def request(self) -> Request:
        request = receive_request(self.sock)
        assert request is not None
        os.close(request.fd)
        return request


@pytest.fixture
def analyst(tmp_path: Path) -> Analyst:
    return Analyst(tmp_path)


def test_a_late_answer_is_for_the_next_who_asks(analyst: Analyst, tmp_path: Path) -> None:
    path = analyst.file()
    assert analyst.is_unknown(path) and analyst.is_unknown(path)
    request = analyst.request()
    with pytest.raises(BlockingIOError):
        analyst.request()  # it was asked once
    answer = os.open(tmp_path, os.O_PATH)
    send_reply(analyst.sock, request.number, DONE, LASTS, answer)
    found = analyst.find(path)
    assert os.path.samestat(os.fstat(found), os.fstat(answer))
    assert analyst.is_unknown(path)  # it was given away
    send_reply(analyst.sock, analyst.request().number, NO_SITES, LASTS, -1)
    assert analyst.find(path) == -1
    os.close(found)


def test_a_late_answer_that_does_not_last_is_for_nobody(analyst: Analyst) -> None:
    path = analyst.file()
    assert analyst.is_unknown(path)
    for _each in range(3):
        send_reply(analyst.sock, analyst.request().number, NO_SITES, 0, -1)
        assert analyst.is_unknown(path)


def test_a_busy_analyst_is_not_waited_for(analyst: Analyst) -> None:
    """Waiting would be for the file before."""
    assert analyst.is_unknown(analyst.file())
    for _each in range(100):
        assert analyst.is_unknown(analyst.file(), 1_000_000)


def test_a_file_that_has_changed_is_another(analyst: Analyst) -> None:
    path = analyst.file()
    assert analyst.is_unknown(path)
    path.write_bytes(b"\x7fELF" + bytes(9000))
    assert analyst.is_unknown(path)
    send_reply(analyst.sock, analyst.request().number, NO_SITES, LASTS, -1)
    assert analyst.is_unknown(path)
    send_reply(analyst.sock, analyst.request().number, NO_SITES, LASTS, -1)
    assert analyst.find(path) == -1


def test_answers_nobody_comes_for_are_few(analyst: Analyst, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    answer = os.open(tmp_path, os.O_PATH)
    for _each in range(100):
        assert analyst.is_unknown(analyst.file())
        send_reply(analyst.sock, analyst.request().number, DONE, LASTS, answer)
    os.close(answer)
    assert len(os.listdir("/proc/self/fd")) <= before + 20


@pytest.mark.parametrize("way", ["gone", "another number", "nonsense"])
def test_an_analyst_that_lies_or_dies(analyst: Analyst, way: str) -> None:
    path = analyst.file()
    assert analyst.is_unknown(path)
    if way == "gone":
        analyst.sock.close()
    elif way == "nonsense":
        analyst.sock.send(b"nonsense")
    else:
        send_reply(analyst.sock, analyst.request().number + 1, NO_SITES, LASTS, -1)
    assert analyst.find(path) == -1 and analyst.find(analyst.file()) == -1
