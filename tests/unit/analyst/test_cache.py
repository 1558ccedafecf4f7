"""The cache of text files."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.analyst import cache


@pytest.fixture
def home(tmp_path: Path) -> Iterator[int]:
    fd = cache.open_cache(str(tmp_path))
    assert fd >= 0
    yield fd
    os.close(fd)


def some_file(tmp_path: Path, name: str = "file") -> os.stat_result:
    path = tmp_path / name
    path.write_text(name)
    return path.stat()


def test_the_directory_is_private(tmp_path: Path, home: int) -> None:
    assert os.fstat(home).st_mode & 0o7777 == 0o700
    again = cache.open_cache(str(tmp_path))
    assert os.path.sameopenfile(again, home)
    os.close(again)


def test_a_directory_that_others_may_use_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "cloche").mkdir()
    path = tmp_path / "cloche" / "text"
    path.mkdir(mode=0o700)
    path.chmod(0o750)
    assert cache.open_cache(str(tmp_path)) == -1
    path.rmdir()
    (tmp_path / "else").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "else")
    assert cache.open_cache(str(tmp_path)) == -1
    assert cache.open_cache("/dev/null") == -1
    assert cache.open_cache("relative") == -1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_directory_of_another_owner_is_not_used(tmp_path: Path) -> None:
    fd = cache.open_cache(str(tmp_path))
    os.fchown(fd, 1234, -1)
    os.close(fd)
    assert cache.open_cache(str(tmp_path)) == -1


def test_xdg_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    fd = cache.open_cache()
    assert fd >= 0 and (tmp_path / "x" / "cloche" / "text").is_dir()
    os.close(fd)


def test_store_and_look_up(tmp_path: Path, home: int) -> None:
    status = some_file(tmp_path)
    assert cache.lookup(home, status) == cache.UNKNOWN
    cache.store(home, cache.cache_name(status), [b"one", b"two"])
    fd = cache.lookup(home, status)
    assert os.read(fd, 99) == b"onetwo"
    with pytest.raises(OSError):
        os.write(fd, b"x")
    os.close(fd)
    cache.store(home, cache.cache_name(status), [])
    assert cache.lookup(home, status) == cache.NO_SITES
    assert cache.lookup(-1, status) == cache.UNKNOWN
    assert len(os.listdir(home)) == 1


def test_a_changed_file_is_another(tmp_path: Path, home: int) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    cache.store(home, cache.cache_name(path.stat()), [b"one"])
    names = {cache.cache_name(path.stat())}
    for change in (
        lambda: path.write_text("y"),
        lambda: path.chmod(0o700),
        lambda: os.utime(path, ns=(1, 2)),
    ):
        time.sleep(0.02)  # the clock of the file system is coarse
        change()
        names.add(cache.cache_name(path.stat()))
        assert cache.lookup(home, path.stat()) == cache.UNKNOWN
    assert len(names) == 4


def test_what_may_be_cached(tmp_path: Path) -> None:
    status = some_file(tmp_path)
    later = status.st_ctime_ns + 2_000_000_000
    assert cache.is_cacheable(status, later, 0xEF53)
    assert not cache.is_cacheable(status, later - 1, 0xEF53)
    assert not cache.is_cacheable(status, 0, 0xEF53)  # from the future
    assert not cache.is_cacheable(status, later, 0x65735546)
    assert not cache.is_cacheable(os.stat("/dev/null"), time.time_ns(), 0xEF53)
    os.utime(tmp_path / "file", ns=(later * 2, later * 2))
    assert not cache.is_cacheable((tmp_path / "file").stat(), later, 0xEF53)


def test_contents_have_a_name_of_their_own(tmp_path: Path, home: int) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    digest = cache.content_digest()
    digest.update(b"one")
    cache.store(home, cache.content_name(digest.digest(), 3), [b"text"])
    with path.open("rb") as file:
        fd = cache.lookup_contents(home, file.fileno(), path.stat())
        assert os.read(fd, 9) == b"text"
        os.close(fd)
        path.write_text("two")
        assert cache.lookup_contents(home, file.fileno(), path.stat()) == cache.UNKNOWN
        assert cache.lookup(home, path.stat()) == cache.UNKNOWN


def test_writable_entries_are_not_believed(tmp_path: Path, home: int) -> None:
    status = some_file(tmp_path)
    name = cache.cache_name(status)
    (tmp_path / "elsewhere").write_text("bad")
    os.symlink(tmp_path / "elsewhere", name, dir_fd=home)
    assert cache.lookup(home, status) == cache.UNKNOWN
    os.unlink(name, dir_fd=home)
    cache.store(home, cache.cache_name(status), [b"x"])
    os.chmod(name, 0o666, dir_fd=home)
    assert cache.lookup(home, status) == cache.UNKNOWN


def test_the_oldest_go_first(tmp_path: Path, home: int) -> None:
    statuses = [some_file(tmp_path, f"file{index}") for index in range(6)]
    for index, status in enumerate(statuses):
        cache.store(home, cache.cache_name(status), [b"x" * 8192])
        os.utime(cache.cache_name(status), ns=(index, index), dir_fd=home)
    now = time.time_ns()
    cache.trim(home, now)
    assert len(os.listdir(home)) == 6
    cache.trim(home, now, 3 * (8192 + 512))
    left = set(os.listdir(home))
    assert left == {cache.cache_name(status) for status in statuses[3:]}


def test_leavings_are_removed(tmp_path: Path, home: int) -> None:
    for name in (".new-1-x", ".new-2-y"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o400, dir_fd=home))
    os.utime(".new-1-x", ns=(0, 0), dir_fd=home)
    cache.trim(home, time.time_ns())
    assert os.listdir(home) == [".new-2-y"]


def test_cheap_to_import() -> None:
    import subprocess
    import sys

    code = "import sys, cloche.analyst.cache, cloche.analyst.serve; print('iced_x86' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=150).stdout
    assert out == b"False\n"
