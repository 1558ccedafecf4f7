"""Handles of host descriptors: their contents are enough to open the descriptor again."""

import errno
import os
from collections.abc import Iterator

import pytest

from cloche.fs.quota import FileMaker, LastingFile
from cloche.mm.handle import CLOSED, HostHandle, Memfd, ReadOnly
from cloche.platform import hostsys


@pytest.fixture
def procfs() -> Iterator[None]:
    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    hostsys.use_proc(fd)
    yield
    hostsys.use_proc(-1)
    os.close(fd)


def again(handle: HostHandle) -> None:
    """As in another process: the number is gone."""
    handle.close()
    assert handle.fd == -1
    handle.reopen()
    assert handle.fd >= 0


def test_a_memfd_comes_back_empty() -> None:
    memory = Memfd("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    memory.reopen()
    os.write(memory.fd, b"contents, which are carried apart")
    again(memory)
    assert os.fstat(memory.fd).st_size == 0
    assert os.readlink(f"/proc/self/fd/{memory.fd}") == "/memfd:test (deleted)"
    memory.close()
    memory.close()


@pytest.mark.usefixtures("procfs")
def test_a_view_is_of_what_its_origin_has_now() -> None:
    memory = Memfd("test", os.MFD_CLOEXEC)
    memory.reopen()
    view = ReadOnly(memory)
    view.reopen()
    again(memory)
    os.write(memory.fd, b"new")
    again(view)
    assert os.pread(view.fd, 9, 0) == b"new"
    with pytest.raises(OSError) as failure:
        os.write(view.fd, b"x")
    assert failure.value.errno == errno.EBADF
    view.close()
    memory.close()


def test_a_file_that_lasts_is_found_by_its_number() -> None:
    if type(FileMaker).__module__ != "builtins":
        pytest.skip("compiled traits take no interpreted implementation")

    class Maker(FileMaker):
        def open_file(self, number: int) -> int:
            asked.append(number)
            return os.open("/dev/null", os.O_RDONLY)

    asked: list[int] = []
    file = LastingFile(Maker(), 7)
    again(file)
    again(file)
    assert asked == [7, 7]
    file.close()


def test_the_handle_of_nothing() -> None:
    CLOSED.close()
    assert CLOSED.fd == -1
    with pytest.raises(NotImplementedError):
        CLOSED.reopen()
