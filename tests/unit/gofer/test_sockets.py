"""Unix sockets of a gofer, as a sentry that was taken over would ask for them."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.abi.errno import LinuxError
from cloche.fs.gofer_client import GoferClient
from cloche.gofer.launch import GoferProcess, spawn_gofer
from cloche.gofer.nodes import AttachPoint

STREAM = int(socket.SOCK_STREAM)


class Served:
    """A gofer of one directory, beside which the host has a socket that is not in it."""

    def __init__(self, base: Path, *, has_doors: bool, shows_sockets: bool) -> None:
        self.path = base / "volume"
        self.path.mkdir()
        point = AttachPoint(str(self.path), is_writable=True)
        point.has_doors, point.shows_sockets = has_doors, shows_sockets
        self.listeners = [self.listen(self.path / "s"), self.listen(base / "outside")]
        self.gofer: GoferProcess = spawn_gofer([point])
        self.client = GoferClient(self.gofer.sock)
        self.attached = self.client.attach(0)
        self.fid = self.attached.fid

    @staticmethod
    def listen(path: Path) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(path))
        made.listen()
        return made

    def dial(self, name: bytes, identity: Path, kind: int = STREAM, uid: int = -1) -> int:
        """Ask for a connection to what is at `identity`; the errno, or 0."""
        found = identity.lstat()
        user = os.geteuid() if uid < 0 else uid
        try:
            fd, server = self.client.dial(self.fid, name, found.st_dev, found.st_ino, kind, user)
        except LinuxError as error:
            return error.errno
        os.close(fd)
        assert server == (os.geteuid(), os.getegid())
        return 0

    def close(self) -> None:
        self.client.close()
        os.waitpid(self.gofer.pid, 0)
        for each in self.listeners:
            each.close()


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, has_doors=False, shows_sockets=True)
    yield made
    made.close()


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, has_doors=True, shows_sockets=False)
    yield made
    made.close()


def test_only_what_is_in_the_volume_is_connected_to(shown: Served) -> None:
    here, outside = shown.path / "s", shown.path.parent / "outside"
    assert shown.attached.shows_sockets and not shown.attached.has_doors
    assert shown.dial(b"s", here) == 0
    (shown.path / "link").symlink_to("../outside")
    (shown.path / "here").symlink_to("s")
    (shown.path / "file").touch()
    for name, identity in ((b"link", outside), (b"here", here), (b"file", shown.path / "file")):
        assert shown.dial(name, identity) == errno.ECONNREFUSED
    # The name was exchanged after the program's rights were looked at.
    assert shown.dial(b"s", outside) == errno.ESTALE
    for name in (b"..", b".", b"../outside", b"a/../s"):
        assert shown.dial(name, here) == errno.EINVAL
    assert shown.dial(b"none", here) == errno.ENOENT
    assert shown.dial(b"s", here, int(socket.SOCK_SEQPACKET)) == errno.EPROTOTYPE
    for kind in (int(socket.SOCK_DGRAM), int(socket.SOCK_RAW), 77):
        assert shown.dial(b"s", here, kind) == errno.EINVAL
    assert shown.dial(b"s", here, uid=os.geteuid() + 1) == errno.EACCES


def test_without_leave_none_is_connected_to(doors: Served) -> None:
    assert doors.dial(b"s", doors.path / "s") == errno.EACCES


def test_a_bound_socket_listens_once(doors: Served) -> None:
    client, fid = doors.client, doors.fid
    attr, number = client.bind(fid, b"new", STREAM, 0o750)
    path = doors.path / "new"
    assert stat.S_ISSOCK(attr.mode) and path.stat().st_mode == 0o140750 and number
    with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
        early.connect(str(path))
    with socket.socket(fileno=client.listen(number, 5)) as listener:
        listener.settimeout(20)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            listener.accept()[0].close()
    for wrong in (number, 0, 1 << 40):
        with pytest.raises(LinuxError) as caught:
            client.listen(wrong, 5)
        assert caught.value.errno == errno.EBADF
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
        late.connect(str(path))  # the gofer, which has answered more since then, has kept nothing of it
    client.unbind(number)  # ignored


def test_bind_makes_new_names_only(doors: Served) -> None:
    client, fid = doors.client, doors.fid
    (doors.path / "link").symlink_to("../made")
    for name in (b"s", b"link"):
        with pytest.raises(LinuxError) as caught:
            client.bind(fid, name, STREAM, 0o777)
        assert caught.value.errno == errno.EADDRINUSE
    assert not (doors.path.parent / "made").exists()
    for name in (b"..", b"../made", b"/made", b""):
        with pytest.raises(LinuxError) as caught:
            client.bind(fid, name, STREAM, 0o777)
        assert caught.value.errno == errno.EINVAL
    for kind in (0, int(socket.SOCK_RAW), STREAM | int(socket.SOCK_CLOEXEC)):
        with pytest.raises(LinuxError) as caught:
            client.bind(fid, b"other", kind, 0o777)
        assert caught.value.errno == errno.EINVAL
    _attr, number = client.bind(fid, b"x" * 107, STREAM, 0o777)
    assert number == 0 and stat.S_ISSOCK((doors.path / ("x" * 107)).lstat().st_mode)
