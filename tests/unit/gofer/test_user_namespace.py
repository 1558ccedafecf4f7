"""A gofer in a user namespace of the container's: the host lets it do no more than the map, whoever asks."""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

import pytest

from cloche.abi import errno
from cloche.boot.idmaps import new_namespace
from cloche.fs.gofer_client import GoferClient
from cloche.gofer.launch import start_gofer
from cloche.gofer.nodes import AttachPoint
from cloche.wire.gofer import SET_GID, SET_MODE, SET_UID

from .test_files import errno_of

FIRST = 100000
COUNT = 1000


class Mapped:
    """A gofer that is root of a user namespace, over a directory for everybody."""

    def __init__(self, folder: Path, *, is_id_mapped: bool = False) -> None:
        self.folder = folder
        folder.chmod(0o777)
        for name, owner, mode in (("theirs", FIRST + 5, 0o600), ("hosts", 0, 0o600), ("open", 0, 0o644)):
            (folder / name).write_text(name)
            (folder / name).chmod(mode)
            os.chown(folder / name, owner, owner)
        rows = [(0, FIRST, COUNT)]
        point = AttachPoint(str(folder), is_writable=True)
        if is_id_mapped:
            point.uid_map = point.gid_map = rows
        namespace = new_namespace(rows, rows)
        self.process = start_gofer([point], user_ns=namespace)
        os.close(namespace)
        self.process.wait_ready()
        self.client = GoferClient(self.process.sock)
        self.root = self.client.attach(0).fid

    def close(self) -> None:
        self.client.close()
        os.waitpid(self.process.pid, 0)


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Mapped]:
    if os.geteuid():
        pytest.skip("needs root")
    made = Mapped(tmp_path)
    yield made
    made.close()


def owner(gofer: Mapped, name: bytes) -> tuple[int, int]:
    found = gofer.client.stat(gofer.root, name)
    assert not isinstance(found, int)
    return found.attr.uid, found.attr.gid


def test_it_calls_owners_as_the_namespace_does(mapped: Mapped) -> None:
    assert owner(mapped, b"theirs") == (5, 5) and owner(mapped, b"hosts") == (65534, 65534)
    fd, attr = mapped.client.create(mapped.root, b"new", os.O_RDWR, 0o600, 7, 8)[:2]
    os.close(fd)
    assert (attr.uid, attr.gid) == (7, 8)
    found = (mapped.folder / "new").stat()
    assert (found.st_uid, found.st_gid) == (FIRST + 7, FIRST + 8)


def test_a_sentry_gets_no_more_than_the_map(mapped: Mapped) -> None:
    """Whatever it asks for: it is the host that refuses."""
    client, root = mapped.client, mapped.root
    for ident in (COUNT, 65534, FIRST, 0xFFFFFFFE):
        assert errno_of(client.setattr, root, b"theirs", SET_UID, 0, ident) in (errno.EINVAL, errno.EPERM)
        assert errno_of(client.setattr, root, b"theirs", SET_GID, 0, 0, ident) in (errno.EINVAL, errno.EPERM)
        assert errno_of(client.create, root, b"x%d" % ident, os.O_RDWR, 0o600, ident, 0) in (
            errno.EINVAL,
            errno.EPERM,
        )
        assert errno_of(client.mkdir, root, b"d%d" % ident, 0o700, ident, ident) in (
            errno.EINVAL,
            errno.EPERM,
        )
    assert errno_of(client.open, root, b"hosts", os.O_RDONLY) == errno.EACCES
    assert errno_of(client.open, root, b"hosts", os.O_RDWR) == errno.EACCES
    assert errno_of(client.open, root, b"open", os.O_RDWR) == errno.EACCES
    for valid in (SET_UID, SET_GID, SET_MODE):
        assert errno_of(client.setattr, root, b"open", valid, 0o777, 0, 0) == errno.EPERM
    found = (mapped.folder / "open").stat()
    assert (found.st_uid, found.st_gid, S_IMODE(found.st_mode)) == (0, 0, 0o644)
    assert (mapped.folder / "theirs").stat().st_uid == FIRST + 5
    for path in mapped.folder.iterdir():  # what was refused has left nothing
        assert path.name in ("theirs", "hosts", "open"), path


def test_an_id_mapped_attach_point(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    try:
        made = Mapped(tmp_path, is_id_mapped=True)
    except OSError as error:
        pytest.skip(f"no id-mapped mounts: {error}")
    try:
        assert owner(made, b"hosts") == (0, 0) and owner(made, b"theirs") == (65534, 65534)
        fd = made.client.create(made.root, b"new", os.O_RDWR, 0o600, 7, 8)[0]
        os.close(fd)
        found = (tmp_path / "new").stat()
        assert (found.st_uid, found.st_gid) == (7, 8)
        assert errno_of(made.client.open, made.root, b"theirs", os.O_RDONLY) in (
            errno.EACCES,
            errno.EOVERFLOW,
        )
    finally:
        made.close()
