"""What is looked up on a read-only attach point is forgotten in the sentry and in the gofer, unless it is used."""

import os
from collections.abc import Iterator
from pathlib import Path as HostPath

import pytest

from cloche.fs.gofer import GoferDir, GoferFs
from cloche.fs.gofer_client import GoferClient
from cloche.fs.overlay import OverlayFs
from cloche.fs.quota import StorageQuota
from cloche.gofer.launch import spawn_gofer
from cloche.gofer.nodes import AttachPoint
from cloche.vfs.forgetting import DENTRY_BYTES, NAMES
from cloche.vfs.namei import vfs_chmod
from cloche.vfs.objects import Context
from tests.unit.vfs.world import list_dir, new_context, open_file, path_at, read_file

DIRECTORIES, FILES, BOUND = 30, 20, 64


class Forgotten:
    """A tree of the host below a private layer, and with nothing above."""

    def __init__(self, base: HostPath) -> None:
        self.base = base
        for d in range(DIRECTORIES):
            (base / f"d{d}" / "inner").mkdir(parents=True)
            for f in range(FILES):
                (base / f"d{d}" / "inner" / f"f{f}").write_text(f"{f} in {d}")
            if d:
                os.link(base / "d0" / "inner" / f"f{d % FILES}", base / f"d{d}" / "linked")
        self.process = spawn_gofer([AttachPoint(str(base), is_writable=False)])
        self.client = GoferClient(self.process.sock)
        self.fs = GoferFs(self.client, 0, 7, is_shared=False)
        self.layer: Context = new_context(OverlayFs(8, StorageQuota(), [self.fs.root]))

    def inodes(self) -> int:
        """How many inodes of the attach point there are."""
        count = 0
        stack = [self.fs.root]
        while stack:
            each = stack.pop()
            count += 1
            if isinstance(each, GoferDir):
                stack += each._children.values()
        return count

    def close(self) -> None:
        self.client.close()
        os.waitpid(self.process.pid, 0)


@pytest.fixture
def tree(tmp_path: HostPath) -> Iterator[Forgotten]:
    # Other tests of this process have left names.
    before = NAMES.limit_bytes, NAMES.listed, NAMES._queue
    NAMES.limit_bytes, NAMES.listed, NAMES._queue = BOUND * DENTRY_BYTES, 0, {}
    made = Forgotten(tmp_path)
    yield made
    NAMES.limit_bytes, NAMES.listed, NAMES._queue = before
    made.close()


def look(ctx: Context, tree: Forgotten) -> None:
    """Look everything up, by lists and one by one; numbers, sizes and links are the host's."""
    for d in range(DIRECTORIES):
        place = b"/d%d/inner" % d
        names = list_dir(ctx, place) if d % 3 else [b"f%d" % f for f in range(FILES)]
        assert len(names) == FILES
        for name in names:
            inode = path_at(ctx, place + b"/" + name).inode()
            status = (tree.base / os.fsdecode(place[1:]) / os.fsdecode(name)).lstat()
            assert (inode.ino, inode.size, inode.nlink) == (status.st_ino, status.st_size, status.st_nlink)
        if d:
            linked = path_at(ctx, b"/d%d/linked" % d).inode()
            assert linked is path_at(ctx, b"/d0/inner/f%d" % (d % FILES)).inode()


def test_a_walk(tree: Forgotten) -> None:
    ctx = tree.layer
    root = ctx.fs.root.dentry
    for _turn in range(3):
        look(ctx, tree)
        assert NAMES.used_bytes() < 4 * BOUND * DENTRY_BYTES
        assert tree.inodes() < 4 * BOUND
    opened = open_file(ctx, b"/d7/inner/f7")
    changed = path_at(ctx, b"/d8/inner/f8")
    vfs_chmod(ctx, changed, 0o600)
    del changed
    for _turn in range(3):
        look(ctx, tree)
    assert path_at(ctx, b"/d7/inner/f7").inode() is opened.inode
    assert path_at(ctx, b"/d8/inner/f8").inode().mode & 0o777 == 0o600
    assert read_file(ctx, b"/d9/inner/f9") == b"9 in 9"
    opened.put()
    assert root.inode is not None


def test_without_a_layer(tree: Forgotten) -> None:
    ctx = new_context(tree.fs)
    for _turn in range(3):
        for d in range(DIRECTORIES):
            for f in range(FILES):
                assert read_file(ctx, b"/d%d/inner/f%d" % (d, f)) == b"%d in %d" % (f, d)
    assert tree.inodes() < 4 * BOUND


def test_descriptors_are_closed(tree: Forgotten) -> None:
    ctx = tree.layer
    read_file(ctx, b"/d1/inner/f1")
    before = len(os.listdir("/proc/self/fd"))
    for d in range(DIRECTORIES):
        for f in range(FILES):
            read_file(ctx, b"/d%d/inner/f%d" % (d, f))
    assert len(os.listdir("/proc/self/fd")) < before + 2 * BOUND
