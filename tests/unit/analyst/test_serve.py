"""The analyst's process: requests, the cache, confinement."""

import fcntl
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.abi.fcntl import F_GET_SEALS, F_SEAL_WRITE
from cloche.analyst import cache
from cloche.analyst.serve import AnalystError, AnalystProcess, spawn_analyst
from cloche.boot import confine
from cloche.platform import hostsys
from cloche.wire.textfile import PAGE_BYTES, decode_header, header_pages

from .programs import compiled, needs_gcc

SOURCE = 'long call(long a) { long r; __asm__ volatile("mov $110, %%eax; syscall" : "=a"(r) :: "rcx", "r11", "memory"); return r + a; }\n'


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return compiled(tmp_path, "library.so", SOURCE, "-shared", "-fPIC", "-nostdlib")


@pytest.fixture
def analyst(tmp_path: Path) -> Iterator[AnalystProcess]:
    process = spawn_analyst(cache_base=str(tmp_path / "cache"))
    yield process
    process.close()


def ask(analyst: AnalystProcess, path: Path | str, *, may_cache: bool = True) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return analyst.request(fd, may_cache=may_cache)
    finally:
        os.close(fd)


def check_text(fd: int) -> None:
    pages = header_pages(os.pread(fd, PAGE_BYTES, 0))
    header = decode_header(os.pread(fd, pages * PAGE_BYTES, 0))
    assert len(header.sites) == 1
    assert os.fstat(fd).st_size == header.total_pages * PAGE_BYTES
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    assert not os.get_inheritable(fd)


@needs_gcc
def test_without_a_cache(library: Path) -> None:
    analyst = spawn_analyst(cache_base="")
    try:
        fd = ask(analyst, library)
        check_text(fd)
        assert "memfd:" in os.readlink(f"/proc/self/fd/{fd}")
        assert fcntl.fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE
        with pytest.raises(OSError):
            os.open(f"/proc/self/fd/{fd}", os.O_RDWR) and os.write(fd, b"x")
        os.close(fd)
    finally:
        analyst.close()


@needs_gcc
def test_a_young_file_is_not_cached(library: Path, analyst: AnalystProcess, tmp_path: Path) -> None:
    library.chmod(0o700)  # a new ctime
    fd = ask(analyst, library)
    check_text(fd)
    os.close(fd)
    assert list((tmp_path / "cache" / "cloche" / "text").iterdir()) == []


def is_on_a_disk(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return cache.is_cacheable(path.stat(), time.time_ns() + 10**10, hostsys.fstatfs(fd).magic)
    finally:
        os.close(fd)


@needs_gcc
def test_the_cache(library: Path, analyst: AnalystProcess, tmp_path: Path) -> None:
    if not is_on_a_disk(library):
        pytest.skip("nothing on this file system is cached")
    while not cache.is_cacheable(library.stat(), time.time_ns(), 0xEF53):
        time.sleep(0.1)
    directory = tmp_path / "cache" / "cloche" / "text"
    fd = ask(analyst, library, may_cache=False)
    check_text(fd)
    os.close(fd)
    assert list(directory.iterdir()) == []
    first = ask(analyst, library)
    second = ask(analyst, library)
    check_text(first)
    assert os.path.sameopenfile(first, second)
    (entry,) = directory.iterdir()
    assert entry.name == cache.cache_name(library.stat()) and entry.stat().st_mode & 0o777 == 0o400
    ours = cache.open_cache(str(tmp_path / "cache"))
    third = cache.lookup(ours, library.stat())
    assert os.path.sameopenfile(first, third)
    for other in (first, second, third, ours):
        os.close(other)


def ask_lasting(analyst: AnalystProcess, path: Path) -> tuple[int, bool]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return analyst.ask(fd, may_cache=True)
    finally:
        os.close(fd)


@needs_gcc
def test_a_file_that_somebody_may_write_has_no_text(
    library: Path, analyst: AnalystProcess, tmp_path: Path
) -> None:
    """A page that is dirty can be written again without a new ctime: nothing may be remembered by it."""
    if not is_on_a_disk(library):
        pytest.skip("nothing on this file system is cached")
    directory = tmp_path / "cache" / "cloche" / "text"
    with library.open("r+b") as file:
        view = mmap.mmap(file.fileno(), 0)
    name = ""
    while name != cache.cache_name(library.stat()):  # else the host has written the page back meanwhile
        view[-1:] = view[-1:]
        name = cache.cache_name(library.stat())
        assert ask_lasting(analyst, library) == (cache.NO_SITES, False)
        view[-1:] = b"?"
    view.close()
    while not cache.is_cacheable(library.stat(), time.time_ns(), 0xEF53):
        time.sleep(0.1)
    assert list(directory.iterdir()) == []
    fd, lasts = ask_lasting(analyst, library)
    check_text(fd)
    os.close(fd)
    assert lasts and len(list(directory.iterdir())) == 1


@needs_gcc
@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a tmpfs")
def test_what_keeps_no_times_is_known_by_its_contents(
    library: Path, analyst: AnalystProcess, tmp_path: Path
) -> None:
    directory = tmp_path / "cache" / "cloche" / "text"
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(library.read_bytes())
        file.flush()
        first, lasts = ask_lasting(analyst, Path(file.name))
        second = ask(analyst, file.name)
        assert os.path.sameopenfile(first, second) and not lasts  # the gofer decides
        (entry,) = directory.iterdir()
        assert entry.name != cache.cache_name(os.stat(file.name))
        file.seek(0)
        file.write(b"#")
        file.flush()
        assert ask(analyst, file.name) == cache.NO_SITES
    check_text(first)
    os.close(first)
    os.close(second)


def test_no_sites_is_remembered(analyst: AnalystProcess, tmp_path: Path) -> None:
    path = Path(sys.executable).resolve()
    if not is_on_a_disk(path):
        pytest.skip("nothing on this file system is cached")
    readme = Path(cache.__file__)
    if not cache.is_cacheable(readme.stat(), time.time_ns(), 0xEF53):
        pytest.skip("the source was just changed")
    assert ask(analyst, readme) == cache.NO_SITES
    (entry,) = (tmp_path / "cache" / "cloche" / "text").iterdir()
    assert entry.stat().st_size == 0
    assert ask(analyst, readme) == cache.NO_SITES


def test_odd_files(analyst: AnalystProcess, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"\x7fELF")
    for path in ("/dev/null", "/proc/self/maps", tmp_path, tmp_path / "empty", tmp_path / "short"):
        assert ask(analyst, path) == cache.NO_SITES


def test_it_is_confined(analyst: AnalystProcess) -> None:
    for measure in (confine.NO_NEW_PRIVILEGES, confine.NO_CAPABILITIES, confine.SECCOMP, confine.UNDUMPABLE):
        assert analyst.report.has(measure), measure
    status = Path(f"/proc/{analyst.pid}/status").read_text()
    assert "Seccomp:\t2" in status and "CapEff:\t0000000000000000" in status


def test_it_ends_with_its_socket_and_at_nonsense(tmp_path: Path) -> None:
    analyst = spawn_analyst(cache_base="")
    analyst.sock.close()
    assert os.waitpid(analyst.pid, 0)[1] == 0
    analyst = spawn_analyst(cache_base="")
    analyst.sock.send(b"nonsense and more")
    assert os.waitstatus_to_exitcode(os.waitpid(analyst.pid, 0)[1]) != 0
    with pytest.raises(AnalystError):
        ask(analyst, "/dev/null")
    analyst.sock.close()


def test_requests_may_be_sent_ahead(analyst: AnalystProcess) -> None:
    from cloche.wire.analyst import NO_SITES, receive_reply, send_request

    fd = os.open("/dev/null", os.O_RDONLY)
    for number in range(20):
        send_request(analyst.sock, number, 0, fd)
    replies = [receive_reply(analyst.sock) for _ in range(20)]
    assert [(reply.number, reply.status) for reply in replies if reply] == [(n, NO_SITES) for n in range(20)]
    os.close(fd)


def test_descriptors_do_not_pile_up(analyst: AnalystProcess) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        assert ask(analyst, "/dev/null") == cache.NO_SITES
    assert len(os.listdir("/proc/self/fd")) == before
    if os.geteuid() == 0:
        assert len(os.listdir(f"/proc/{analyst.pid}/fd")) < 10


@needs_gcc
def test_a_file_that_is_cut_while_it_is_read(analyst: AnalystProcess, tmp_path: Path, library: Path) -> None:
    """The worker dies of SIGBUS, if anything, and the server goes on."""
    data = library.read_bytes()
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.write(data)
        file.truncate(64 << 20)
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os\nwhile True:\n os.truncate({str(big)!r}, 100); os.truncate({str(big)!r}, 1 << 26)",
        ]
    )
    try:
        for _ in range(10):
            result = ask(analyst, big)
            if result >= 0:
                os.close(result)
    finally:
        writer.kill()
        writer.wait()
    fd = ask(analyst, library)
    check_text(fd)
    os.close(fd)


def test_the_socket_keeps_messages_apart() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    from cloche.wire.analyst import receive_request, send_request
    from cloche.wire.frame import ProtocolError

    send_request(ours, 1, 1, 0)
    ours.send(b"12345678")
    ours.send(b"123456789")
    send_request(ours, 2, 4, 0)
    request = receive_request(theirs)
    assert request is not None and (request.number, request.flags) == (1, 1)
    os.close(request.fd)
    for _ in range(3):
        with pytest.raises(ProtocolError):
            receive_request(theirs)
    ours.close()
    assert receive_request(theirs) is None
    theirs.close()
