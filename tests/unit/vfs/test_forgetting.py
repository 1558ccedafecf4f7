"""Names of lower layers are forgotten, but nobody who uses a file notices."""

import gc
import random
from collections.abc import Iterator

import pytest

from cloche.abi.fcntl import O_PATH, O_RDONLY, O_RDWR
from cloche.fs.overlay import OverlayDir
from cloche.vfs.forgetting import DENTRY_BYTES, NAMES
from cloche.vfs.namei import path_lookup, vfs_chmod, vfs_link, vfs_mkdir, vfs_rename, vfs_unlink
from cloche.vfs.objects import Context, Dentry, Path

from .world import list_dir, open_file, overlay_context, path_at, put_file, read_file, write_at

DIRECTORIES = 20
FILES = 30
BOUND = 64


def fill(ctx: Context) -> None:
    for d in range(DIRECTORIES):
        vfs_mkdir(ctx, None, b"/d%d" % d, 0o755)
        for f in range(FILES):
            put_file(ctx, b"/d%d/f%d" % (d, f), b"%d in %d" % (f, d))
    vfs_link(ctx, path_lookup(ctx, None, b"/d0/f0"), None, b"/d1/other")


@pytest.fixture
def ctx() -> Iterator[Context]:
    # Other tests of this process have left names.
    before = NAMES.limit_bytes, NAMES.listed, NAMES._queue
    NAMES.listed, NAMES._queue = 0, {}
    made = overlay_context(fill)
    NAMES.limit_bytes = BOUND * DENTRY_BYTES
    yield made
    NAMES.limit_bytes, NAMES.listed, NAMES._queue = before


def walk(ctx: Context) -> dict[bytes, int]:
    """Look every file up: its inode number by its path."""
    found: dict[bytes, int] = {}
    for d in range(DIRECTORIES):
        for name in sorted(list_dir(ctx, b"/d%d" % d)):
            path = b"/d%d/%s" % (d, name)
            found[path] = path_at(ctx, path).inode().ino
    return found


def count_cached(ctx: Context) -> int:
    stack: list[Dentry] = [ctx.fs.root.dentry]
    count = 0
    while stack:
        each = stack.pop()
        count += each.inode is not None
        stack.extend(each.children.values())
    return count


def test_a_walk_keeps_few_names_and_numbers_stay(ctx: Context) -> None:
    first = walk(ctx)
    assert len(first) == DIRECTORIES * FILES + 1
    assert count_cached(ctx) <= BOUND + 2
    assert NAMES.used_bytes() <= BOUND * DENTRY_BYTES * 2
    assert walk(ctx) == first
    assert first[b"/d0/f0"] == first[b"/d1/other"]
    root = ctx.fs.root.inode()
    assert isinstance(root, OverlayDir)
    assert sum(entry.inode is not None for entry in root.entries.values()) < DIRECTORIES


def test_what_is_used_stays_the_same_object(ctx: Context) -> None:
    opened = open_file(ctx, b"/d3/f3", O_RDWR)
    named = open_file(ctx, b"/d4/f4", O_PATH)
    inside = path_at(ctx, b"/d5")
    walk(ctx)
    walk(ctx)
    for name, inode in ((b"/d3/f3", opened.inode), (b"/d4/f4", named.inode), (b"/d5", inside.inode())):
        assert path_at(ctx, name).inode() is inode
    assert path_at(ctx, b"/d5").dentry is inside.dentry
    write_at(ctx, opened, 0, b"new")
    opened.put()
    del opened
    walk(ctx)
    assert read_file(ctx, b"/d3/f3") == b"newn 3"


def test_changes_stay(ctx: Context) -> None:
    vfs_chmod(ctx, path_lookup(ctx, None, b"/d2/f1"), 0o600)
    vfs_unlink(ctx, None, b"/d2/f2")
    vfs_rename(ctx, None, b"/d2/f3", None, b"/d3/moved")
    vfs_rename(ctx, None, b"/d7", None, b"/d8/d7")
    vfs_chmod(ctx, path_lookup(ctx, None, b"/d1/other"), 0o640)
    walk_but(ctx, b"/d7")
    walk_but(ctx, b"/d7")
    assert path_at(ctx, b"/d2/f1").inode().mode & 0o777 == 0o600
    assert path_at(ctx, b"/d0/f0").inode().mode & 0o777 == 0o640
    assert b"f2" not in list_dir(ctx, b"/d2") and b"f3" not in list_dir(ctx, b"/d2")
    assert read_file(ctx, b"/d3/moved") == b"3 in 2"
    assert read_file(ctx, b"/d8/d7/f9") == b"9 in 7"


def walk_but(ctx: Context, left_out: bytes) -> None:
    for d in range(DIRECTORIES):
        if b"/d%d" % d != left_out:
            for name in list_dir(ctx, b"/d%d" % d):
                path_at(ctx, b"/d%d/%s" % (d, name))


def test_a_removed_file_is_not_kept(ctx: Context) -> None:
    file = open_file(ctx, b"/d1/f1", O_RDWR)
    write_at(ctx, file, 0, b"x" * 5000)
    vfs_unlink(ctx, None, b"/d1/f1")
    root = ctx.fs.root.inode()
    assert isinstance(root, OverlayDir)
    assert root.tmpfs.account.quota.pages == 2
    file.put()
    del file
    gc.collect()
    assert root.tmpfs.account.quota.pages == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_holders(ctx: Context, seed: int) -> None:
    """Whatever is held, the name leads to it; what was written or changed is there."""
    chance = random.Random(seed)
    held: dict[bytes, Path] = {}
    modes: dict[bytes, int] = {}
    numbers: dict[bytes, int] = {}
    for _step in range(1500):
        path = b"/d%d/f%d" % (chance.randrange(DIRECTORIES), chance.randrange(FILES))
        if chance.random() < 0.1:
            path = path[: path.rindex(b"/")]
        found = path_lookup(ctx, None, path)
        assert numbers.setdefault(path, found.inode().ino) == found.inode().ino
        if path in held:
            assert held[path].same_as(found) and held[path].inode() is found.inode()
        if path in modes:
            assert found.inode().mode & 0o777 == modes[path]
        what = chance.random()
        if what < 0.1:
            held[path] = found
        elif what < 0.2:
            held.pop(path, None)
        elif what < 0.22 and path.count(b"/") == 2:
            modes[path] = chance.choice((0o600, 0o640, 0o444))
            vfs_chmod(ctx, path_lookup(ctx, None, path), modes[path])
    file = open_file(ctx, b"/d0/f0", O_RDONLY)
    file.put()
