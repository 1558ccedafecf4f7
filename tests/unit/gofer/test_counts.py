"""How many files a volume may have: every way to make one, and to be rid of one, counts."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.abi.errno import LinuxError
from cloche.abi.fcntl import RENAME_EXCHANGE
from cloche.abi.stat import S_IFIFO
from cloche.fs.gofer_client import GoferClient
from cloche.gofer.launch import GoferProcess, spawn_gofer
from cloche.gofer.nodes import AttachPoint
from cloche.wire.gofer import KEEP_ID
from cloche.wire.volume import SLOTS, Account, pack_account, unpack_account

LIMIT = 5
OWNER = (KEEP_ID, KEEP_ID)


class Counted:
    """A gofer of a directory in which there may be LIMIT files, itself among them, and a second one of the same."""

    def __init__(self, base: Path) -> None:
        self.path = base / "data"
        self.path.mkdir()
        self.account = base / "inodes"
        self.account.write_bytes(pack_account(Account(LIMIT, [1, *([0] * (SLOTS - 1))])))
        self.gofers: list[GoferProcess] = []
        self.clients: list[GoferClient] = []
        for slot in range(2):
            point = AttachPoint(str(self.path), is_writable=True)
            point.count_files(str(self.account), slot)
            self.gofers.append(spawn_gofer([point]))
            self.clients.append(GoferClient(self.gofers[slot].sock))
        self.client, self.other = self.clients
        self.fid, self.other_fid = [client.attach(0).fid for client in self.clients]

    def total(self) -> int:
        return unpack_account(self.account.read_bytes()).total()

    def create(self, name: bytes) -> int:
        """Make a file that is pinned; its pin."""
        fd, _attr, pin = self.client.create_pinned(self.fid, name, os.O_RDWR, 0o644, *OWNER)
        os.close(fd)
        return pin

    def close(self) -> None:
        for client, gofer in zip(self.clients, self.gofers, strict=True):
            client.close()
            os.waitpid(gofer.pid, 0)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    made = Counted(tmp_path)
    yield made
    made.close()


def refused(call: object, *arguments: object) -> bool:
    assert callable(call)
    with pytest.raises(LinuxError) as caught:
        call(*arguments)
    return caught.value.errno == errno.EDQUOT


def test_each_kind_of_file_counts_and_is_refused_beyond_the_limit(counted: Counted) -> None:
    client, fid = counted.client, counted.fid
    client.mkdir(fid, b"dir", 0o755, *OWNER)
    client.symlink(fid, b"link", b"target", *OWNER)
    client.mknod(fid, b"fifo", S_IFIFO | 0o644, *OWNER)
    assert counted.total() == 4
    client.forget([counted.create(b"file")])
    assert counted.total() == LIMIT
    assert refused(client.mkdir, fid, b"more", 0o755, *OWNER)
    assert refused(client.symlink, fid, b"more", b"target", *OWNER)
    assert refused(client.mknod, fid, b"more", S_IFIFO | 0o644, *OWNER)
    assert refused(counted.create, b"more")
    assert refused(client.tmpfile, fid, 0o644, *OWNER)
    assert counted.total() == LIMIT and not (counted.path / "more").exists()
    # a second sandbox has the same account, and a further name of a file is none
    assert refused(counted.other.mkdir, counted.other_fid, b"more", 0o755, *OWNER)
    client.link(fid, b"file", fid, b"again")
    assert client.statfs(fid)[5:7] == (LIMIT, 0)
    client.unlink(fid, b"file")
    assert counted.total() == LIMIT
    client.unlink(fid, b"again")
    client.rmdir(fid, b"dir")
    client.unlink(fid, b"link")
    assert counted.total() == 2 and client.statfs(fid)[5:7] == (LIMIT, 3)


def test_what_was_not_made_does_not_count(counted: Counted) -> None:
    client, fid = counted.client, counted.fid
    client.mkdir(fid, b"dir", 0o755, *OWNER)
    for call in (
        lambda: client.mkdir(fid, b"dir", 0o755, *OWNER),
        lambda: client.symlink(fid, b"dir", b"x", *OWNER),
        lambda: counted.create(b"dir"),
        lambda: client.unlink(fid, b"nothing"),
        lambda: client.unlink(fid, b"dir"),
        lambda: client.rmdir(fid, b"nothing"),
        lambda: client.rename(fid, b"nothing", fid, b"dir", 0, 0, 0),
    ):
        with pytest.raises(LinuxError):
            call()
        assert counted.total() == 2


def test_an_open_file_counts_until_it_is_closed(counted: Counted) -> None:
    client, fid = counted.client, counted.fid
    pin = counted.create(b"file")
    client.unlink(fid, b"file")
    assert counted.total() == 2
    client.forget([pin])
    client.statfs(fid)  # a request that is answered: the one before was carried out
    assert counted.total() == 1
    fd, _attr, pin = client.tmpfile(fid, 0o644, *OWNER)
    os.close(fd)
    assert counted.total() == 2
    client.link(pin, b"", fid, b"named")
    client.forget([pin])
    client.statfs(fid)
    assert counted.total() == 2  # it has a name now


def test_a_replaced_file_counts_no_more(counted: Counted) -> None:
    client, fid = counted.client, counted.fid
    for name in (b"a", b"b"):
        client.forget([counted.create(name)])
    client.link(fid, b"a", fid, b"again")
    client.rename(fid, b"a", fid, b"again", 0, 0, 0)  # names of one file: nothing happens
    assert counted.total() == 3 and (counted.path / "a").exists()
    client.rename(fid, b"a", fid, b"b", RENAME_EXCHANGE, 0, 0)
    assert counted.total() == 3
    client.rename(fid, b"b", fid, b"a", 0, 0, 0)
    assert counted.total() == 2
    client.mkdir(fid, b"d", 0o755, *OWNER)
    client.mkdir(fid, b"e", 0o755, *OWNER)
    client.rename(fid, b"d", fid, b"e", 0, 0, 0)
    assert counted.total() == 3
