"""Host system calls that Python lacks: their results, and that no argument reaches the host that it would misread."""

import errno
import os
import select
import struct
from pathlib import Path

import pytest

from cloche.abi.poll import EPOLL_CTL_ADD, EPOLLIN
from cloche.abi.structs import pack_epoll_event
from cloche.platform import _sys, hostsys


def test_a_file_is_opened_below_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    folder = os.open(tmp_path, os.O_PATH)
    fd = hostsys.openat2(folder, b"file", os.O_RDONLY | os.O_CLOEXEC, 0, 0x8)  # RESOLVE_BENEATH
    assert os.read(fd, 10) == b"text"
    with pytest.raises(OSError) as caught:
        hostsys.openat2(folder, b"/etc/passwd", os.O_RDONLY | os.O_CLOEXEC, 0, 0x8)
    assert caught.value.errno == errno.EXDEV
    os.close(fd)
    os.close(folder)


def test_a_path_with_a_nul_is_refused(tmp_path: Path) -> None:
    """The host would take what is before it."""
    folder = os.open(tmp_path, os.O_PATH)
    for call in (
        lambda path: hostsys.openat2(folder, path, os.O_CREAT | os.O_WRONLY, 0o600, 0),
        lambda path: hostsys.renameat2(folder, path, folder, b"other", 0),
        lambda path: hostsys.renameat2(folder, b"other", folder, path, 0),
        lambda path: hostsys.fchmodat2(folder, path, 0, 0),
        lambda path: hostsys.utimensat(folder, path, (0, 0), (0, 0), 0),
        lambda path: hostsys.mount(path, b"/none", b"tmpfs", 0),
        lambda path: hostsys.umount2(path, 0),
        lambda path: hostsys.pivot_root(path, b"/none"),
    ):
        with pytest.raises(ValueError, match="null"):
            call(b"file\0more")
    assert list(tmp_path.iterdir()) == []
    os.close(folder)


@pytest.mark.parametrize("code", [b"", b"\6" * 7, bytes(8 * 4097)])
def test_a_filter_that_is_no_program_is_refused(code: bytes) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        hostsys.seccomp_filter(code)
    assert isinstance(caught.value, ValueError) or caught.value.errno == errno.EINVAL


def test_figures_of_a_file_system(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    ours, theirs = hostsys.fstatfs(fd), os.fstatvfs(fd)
    assert (ours.blocks, ours.files, ours.name_max) == (theirs.f_blocks, theirs.f_files, theirs.f_namemax)
    os.close(fd)


def test_times_and_modes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    folder = os.open(tmp_path, os.O_PATH)
    hostsys.utimensat(folder, b"file", (1, 2), (3, 4), 0)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (1_000_000_002, 3_000_000_004)
    hostsys.renameat2(folder, b"file", folder, b"other", 1)  # RENAME_NOREPLACE
    assert os.listdir(tmp_path) == ["other"]
    os.close(folder)


def test_an_epoll_tells_what_was_given_to_it() -> None:
    ours, theirs = os.pipe()
    epoll = hostsys.epoll_create()
    hostsys.epoll_ctl(epoll, EPOLL_CTL_ADD, ours, pack_epoll_event(EPOLLIN, 77))
    os.write(theirs, b"x")
    with select.epoll.fromfd(epoll) as found:
        assert found.poll(0) == [(77, EPOLLIN)]
    os.close(ours)
    os.close(theirs)


def test_a_call_that_the_host_does_not_know() -> None:
    with pytest.raises(OSError) as caught:
        _sys.call(100_000)
    assert caught.value.errno == errno.ENOSYS


@pytest.mark.parametrize("arguments", [(), tuple(range(8))])
def test_more_or_less_than_a_call_has(arguments: tuple[int, ...]) -> None:
    with pytest.raises(TypeError):
        _sys.call(*arguments)


def test_an_argument_that_is_neither_a_number_nor_bytes() -> None:
    for wrong in ("text", None, 1.5):
        with pytest.raises(TypeError):
            _sys.call(39, wrong)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        _sys.call(39, 1 << 64)


def test_an_address_is_that_of_the_bytes() -> None:
    data = struct.pack("<2Q", 0x1122334455667788, 5)
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    assert os.pread(fd, len(data), _sys.address(data)) == data
    os.close(fd)
