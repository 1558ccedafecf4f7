"""Names of shared directories that are watched: the gofer is not asked while nothing changes, and every change is
seen at once.
"""

import os
import select
import signal

import pytest

from cloche.abi import errno
from cloche.abi.fcntl import RENAME_EXCHANGE
from cloche.abi.poll import EPOLLIN
from cloche.fs.gofer_inode import GoferInode
from cloche.fs.gofer_watch import WATCH_AFTER
from cloche.kernel.host_wait import HostWait
from cloche.vfs.entries import vfs_mkdir, vfs_rename, vfs_unlink

from .test_files import errno_of
from .test_fs import SHARED, Rig, View, rig

__all__ = ["rig"]


@pytest.fixture
def view(rig: Rig) -> View:
    made = rig.view(SHARED)
    for _ in range(WATCH_AFTER + 1):
        made.lookup(b"/dir/deep/leaf")
    if made.fs.client.names.fd < 0:
        pytest.skip("needs inotify on the file system of temporary files")
    return made


def test_what_does_not_change_is_not_asked_for(rig: Rig, view: View) -> None:
    view.read(b"/dir/deep/leaf")
    assert errno_of(view.lookup, b"/dir/deep/nope") == errno.ENOENT
    calls = rig.client.calls
    for _ in range(10):
        assert view.read(b"/dir/deep/leaf") == b"leaf"
        assert errno_of(view.lookup, b"/dir/deep/nope") == errno.ENOENT
        view.lookup(b"/link")
    assert rig.client.calls - calls < 10  # it was 60; once in a second all is asked again


def test_every_change_is_seen_at_once(rig: Rig, view: View) -> None:
    deep, leaf = rig.shared / "dir" / "deep", rig.shared / "dir" / "deep" / "leaf"
    for number in range(12):
        name = b"/dir/deep/new%d" % number
        assert errno_of(view.lookup, name) == errno.ENOENT
        (deep / f"new{number}").write_bytes(b"new")
        assert view.read(name) == b"new"
        (deep / f"new{number}").write_bytes(b"more")
        assert view.read(name) == b"more"
        (deep / "other").write_bytes(b"other")
        (deep / "other").rename(deep / f"new{number}")
        assert view.read(name) == b"other"
        (deep / f"new{number}").unlink()
        assert errno_of(view.lookup, name) == errno.ENOENT
        os.chmod(leaf, 0o600 + number % 8)
        assert view.lookup(b"/dir/deep/leaf").mode & 0o777 == 0o600 + number % 8
        os.chmod(deep, 0o700 + number % 8)
        assert view.lookup(b"/dir/deep").mode & 0o777 == 0o700 + number % 8


def test_directories_and_links_that_are_replaced(rig: Rig, view: View) -> None:
    for number in range(6):
        assert view.read(b"/link/leaf") == (b"leaf" if number == 0 else b"%d" % (number - 1))
        made = rig.shared / f"made{number}"
        made.mkdir()
        (made / "leaf").write_bytes(b"%d" % number)
        (rig.shared / "fresh").symlink_to(made.name)
        (rig.shared / "fresh").rename(rig.shared / "link")
        assert view.read(b"/link/leaf") == b"%d" % number
    (rig.shared / "dir").rename(rig.shared / "gone")
    assert errno_of(view.lookup, b"/dir/deep/leaf") == errno.ENOENT
    assert view.read(b"/gone/deep/leaf") == b"leaf"


def test_a_hard_link_elsewhere(rig: Rig, view: View) -> None:
    view.read(b"/dir/deep/leaf")
    view.read(b"/dir/deep/leaf")
    os.link(rig.shared / "dir" / "deep" / "leaf", rig.outside_name())
    for mode in (0o640, 0o600, 0o644):
        os.chmod(rig.outside_name(), mode)
        assert view.lookup(b"/dir/deep/leaf").mode & 0o777 == mode


def test_what_is_kept_open_is_closed_when_its_name_goes(rig: Rig, view: View) -> None:
    view.read(b"/dir/deep/leaf")
    view.read(b"/dir/deep/leaf")
    inode = view.lookup(b"/dir/deep/leaf")
    assert isinstance(inode, GoferInode) and inode.read_fd >= 0
    (rig.shared / "dir" / "deep" / "leaf").unlink()
    watch = view.fs.client.names
    watch.fd_ready(0, 1)  # as the event loop does
    assert inode.read_fd < 0 and inode.pin == 0


def test_changes_from_inside(rig: Rig, view: View) -> None:
    for number in range(8):
        name = b"/dir/deep/made%d" % number
        assert errno_of(view.lookup, name) == errno.ENOENT
        view.write(name, b"x")
        assert view.read(name) == b"x"
        view.write(name, b"yy")
        assert view.read(name) == b"yy"


def test_what_changes_all_the_time_is_not_watched(rig: Rig, view: View) -> None:
    watch = view.fs.client.names
    before = len(watch.known)
    for number in range(200):
        (rig.shared / "dir" / "deep" / f"n{number}").touch()
        view.lookup(b"/dir/deep/n%d" % number)
    assert len(watch.known) == before - 1


@pytest.mark.parametrize("change", ["unlink", "mkdir", "exchange"])
def test_a_change_whose_answer_is_late_is_made_once(rig: Rig, view: View, change: str) -> None:
    """The host reports the change itself before the call runs again, which then must find what it found at first."""
    deep = rig.shared / "dir" / "deep"
    for name in ("one", "two"):
        (deep / name).mkdir()
        (deep / name / f"in {name}").touch()
    (deep / "gone").symlink_to("one")
    calls = {
        "unlink": lambda: vfs_unlink(view.ctx, None, b"/dir/deep/gone"),
        "mkdir": lambda: vfs_mkdir(view.ctx, None, b"/dir/deep/made", 0o755),
        "exchange": lambda: vfs_rename(
            view.ctx, None, b"/dir/deep/one", None, b"/dir/deep/two", RENAME_EXCHANGE
        ),
    }
    for _turn in range(2):  # the first one takes the events
        for known in (b"one", b"two", b"gone"):
            view.lookup(b"/dir/deep/" + known, 0)
        assert errno_of(view.lookup, b"/dir/deep/made") == errno.ENOENT
    waits, gofer = rig.client._waits, rig.process.pid
    waits.begin([])
    os.kill(gofer, signal.SIGSTOP)
    os.waitpid(gofer, os.WUNTRACED)
    try:
        with pytest.raises(HostWait) as raised:
            calls[change]()
    finally:
        os.kill(gofer, signal.SIGCONT)
    journal, waits.walks = waits.keep(raised.value)
    while not raised.value.request.is_answered:
        select.select([rig.client], [], [], 60)
        rig.client.fd_ready(0, EPOLLIN)
    waits.begin(journal)
    calls[change]()
    waits.end()
    assert (deep / "made").exists() == (change == "mkdir")
    assert (deep / "gone").is_symlink() == (change != "unlink")
    place = "two" if change == "exchange" else "one"
    assert (deep / place / "in one").exists()
    view.lookup(b"/dir/deep/%s/in one" % place.encode())
