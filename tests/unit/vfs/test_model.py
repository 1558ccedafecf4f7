"""Random sequences of file operations, on tmpfs and on the overlay, compared with the host's own file system."""

import os
import shutil
import stat
import tempfile
from pathlib import Path as HostPath
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloche.abi.errno import LinuxError
from cloche.fs.overlay import ADDED, CHANGED, DELETED, OverlayFs
from cloche.fs.quota import StorageQuota
from cloche.mm.usermem import KernelIovIter
from cloche.platform import hostsys
from cloche.vfs.namei import (
    do_open,
    path_lookup,
    vfs_chmod,
    vfs_link,
    vfs_mkdir,
    vfs_rename,
    vfs_rmdir,
    vfs_symlink,
    vfs_truncate,
    vfs_unlink,
)
from cloche.vfs.objects import Context, DirectoryDescription
from tests.unit.vfs.world import list_dir, new_context, overlay_context, tmpfs_context

NAMES: Final = ["a", "b", "c", "d"]
TAILS: Final = ["", "", "", "", "", "/", "/.", "/.."]
OPEN_FLAGS: Final = [os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW]

paths = st.builds(
    lambda parts, tail: "/".join(parts) + tail,
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    st.sampled_from(TAILS),
)
flag_sets = st.lists(st.sampled_from(OPEN_FLAGS), max_size=3, unique=True).map(sum)
operations = st.one_of(
    st.tuples(st.just("mkdir"), paths, st.sampled_from([0o755, 0o700, 0o1777])),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("symlink"), st.sampled_from(["a", "b/c", "d/../a", "c/", ".", "d/a/b"]), paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("rename"), paths, paths, st.sampled_from([0, 0, 0, 1, 2])),
    st.tuples(
        st.just("write"),
        paths,
        flag_sets,
        st.sampled_from([1, 2]),
        st.integers(0, 9000),
        st.binary(min_size=1, max_size=40),
    ),
    st.tuples(st.just("truncate"), paths, st.sampled_from([0, 5, 4096, 70000, 300000])),
    st.tuples(st.just("chmod"), paths, st.sampled_from([0o600, 0o644, 0o4755])),
    st.tuples(st.just("open"), paths, flag_sets, st.sampled_from([0, 1, 2])),
)
Operation = tuple[object, ...]


class Guest:
    """The operations on the VFS; each returns an errno."""

    def __init__(self, ctx: Context) -> None:
        self.ctx: Context = ctx

    def run(self, op: Operation) -> int:
        try:
            self._run(op)
        except LinuxError as error:
            return error.errno
        return 0

    def _run(self, op: Operation) -> None:
        ctx = self.ctx
        kind = op[0]
        name = str(op[1]).encode()
        if kind == "mkdir":
            vfs_mkdir(ctx, None, name, int(str(op[2])))
        elif kind == "rmdir":
            vfs_rmdir(ctx, None, name)
        elif kind == "unlink":
            vfs_unlink(ctx, None, name)
        elif kind == "symlink":
            vfs_symlink(ctx, name, None, str(op[2]).encode())
        elif kind == "link":
            vfs_link(ctx, path_lookup(ctx, None, name, 0), None, str(op[2]).encode())
        elif kind == "rename":
            vfs_rename(ctx, None, name, None, str(op[2]).encode(), int(str(op[3])))
        elif kind == "truncate":
            vfs_truncate(ctx, path_lookup(ctx, None, name), int(str(op[2])))
        elif kind == "chmod":
            vfs_chmod(ctx, path_lookup(ctx, None, name), int(str(op[2])))
        else:
            flags = int(str(op[2])) | int(str(op[3]))
            file = do_open(ctx, None, name, flags, 0o644).get()
            try:
                if kind == "write":
                    data = op[5]
                    assert isinstance(data, bytes)
                    offset = file.inode.size if flags & os.O_APPEND else int(str(op[4]))
                    result = file.pwrite(ctx, KernelIovIter(data), offset)
                    if result < 0:
                        raise LinuxError(-result)
            finally:
                file.put()

    def tree(self) -> dict[str, tuple[object, ...]]:
        rows: dict[str, tuple[object, ...]] = {}
        stack = [b"."]
        while stack:
            where = stack.pop()
            names = list_dir(self.ctx, where)
            assert len(set(names)) == len(names)
            for each in names:
                path = where + b"/" + each
                inode = path_lookup(self.ctx, None, path, 0).inode()
                row: tuple[object, ...] = (inode.mode, 0)
                if inode.is_dir():
                    stack.append(path)
                elif inode.is_symlink():
                    row = (inode.mode, inode.readlink(self.ctx))
                else:
                    file = inode.open(self.ctx, path_lookup(self.ctx, None, path, 0), 0).get()
                    assert not isinstance(file, DirectoryDescription)
                    content = file.read_bytes(self.ctx, 0, inode.size)
                    assert len(content) == inode.size
                    file.put()
                    row = (inode.mode, inode.nlink, content)
                rows[path.decode()] = row
        return rows


class Host:
    """The same on a real directory."""

    def __init__(self, root: str) -> None:
        self.root: str = root

    def run(self, op: Operation) -> int:
        old = os.getcwd()
        os.chdir(self.root)
        try:
            self._run(op)
        except OSError as error:
            return error.errno or -1
        finally:
            os.chdir(old)
        return 0

    def _run(self, op: Operation) -> None:
        kind = op[0]
        name = str(op[1])
        if kind == "mkdir":
            os.mkdir(name, int(str(op[2])))
        elif kind == "rmdir":
            os.rmdir(name)
        elif kind == "unlink":
            os.unlink(name)
        elif kind == "symlink":
            os.symlink(name, str(op[2]))
        elif kind == "link":
            os.link(name, str(op[2]), follow_symlinks=False)
        elif kind == "rename":
            hostsys.renameat2(-100, name.encode(), -100, str(op[2]).encode(), int(str(op[3])))
        elif kind == "truncate":
            os.truncate(name, int(str(op[2])))
        elif kind == "chmod":
            os.chmod(name, int(str(op[2])))
        else:
            flags = int(str(op[2])) | int(str(op[3]))
            fd = os.open(name, flags, 0o644)
            try:
                if kind == "write":
                    data = op[5]
                    assert isinstance(data, bytes)
                    os.pwrite(fd, data, int(str(op[4])))
            finally:
                os.close(fd)

    def tree(self) -> dict[str, tuple[object, ...]]:
        rows: dict[str, tuple[object, ...]] = {}
        for where, dirs, files in os.walk(self.root):
            for each in dirs + files:
                full = os.path.join(where, each)
                path = "./" + os.path.relpath(full, self.root)
                info = os.lstat(full)
                row: tuple[object, ...] = (info.st_mode, 0)
                if stat.S_ISLNK(info.st_mode):
                    row = (info.st_mode, os.readlink(full).encode())
                elif stat.S_ISREG(info.st_mode):
                    row = (info.st_mode, info.st_nlink, HostPath(full).read_bytes())
                rows[path] = row
        return rows


SETUP: Final[list[Operation]] = [
    ("mkdir", "a", 0o755),
    ("mkdir", "a/b", 0o755),
    ("write", "a/c", os.O_CREAT, 1, 0, b"lower file"),
    ("write", "a/b/d", os.O_CREAT, 1, 5000, b"tail"),
    ("symlink", "a/b", "c"),
    ("link", "a/c", "b"),
    ("mkdir", "d", 0o1777),
    ("write", "d/a", os.O_CREAT, 1, 0, b"x" * 100),
]


def compare(ctx: Context, before: list[Operation], steps: list[Operation]) -> None:
    """The same steps on both sides give the same errors and the same tree."""
    guest = Guest(ctx)
    root = tempfile.mkdtemp(prefix="cloche-model-")
    host = Host(root)
    umask = os.umask(0o022)
    try:
        for op in before:
            assert host.run(op) == 0
        for op in steps:
            assert (op, os.strerror(guest.run(op))) == (op, os.strerror(host.run(op)))
        assert guest.tree() == host.tree()
    finally:
        os.umask(umask)
        shutil.rmtree(root)


@pytest.mark.skipif(os.getuid() != 0, reason="the host side must have the guest's privileges")
@given(st.lists(operations, min_size=1, max_size=25))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_tmpfs_behaves_like_the_host(steps: list[Operation]) -> None:
    ctx = tmpfs_context()
    compare(ctx, [], SETUP + steps)


def fill(ctx: Context) -> None:
    guest = Guest(ctx)
    for op in SETUP:
        assert guest.run(op) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="the host side must have the guest's privileges")
@given(st.lists(operations, min_size=1, max_size=25))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_overlay_behaves_like_the_host(steps: list[Operation]) -> None:
    ctx = overlay_context(fill)
    compare(ctx, SETUP, steps)


def without_links(tree: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {path: (row[0], row[-1]) for path, row in tree.items()}


@given(st.lists(operations, min_size=1, max_size=20))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_changes_applied_to_the_lower_tree_give_the_overlay(steps: list[Operation]) -> None:
    lower = tmpfs_context()
    for op in SETUP:
        if op[0] != "link":
            assert Guest(lower).run(op) == 0
    before = without_links(Guest(lower).tree())
    fs = OverlayFs(35, StorageQuota(), [lower.fs.root.inode()])
    ctx = new_context(fs)
    guest = Guest(ctx)
    for op in steps:
        guest.run(op)
    after = without_links(guest.tree())
    rebuilt = dict(before)
    for kind, name, inode in fs.changes(ctx):
        path = "." + name.decode()
        if kind == DELETED:
            assert inode is None
            for each in [key for key in rebuilt if key == path or key.startswith(path + "/")]:
                del rebuilt[each]
        elif path != "./":
            assert (kind == ADDED) == (path not in rebuilt) and kind in (ADDED, CHANGED)
            rebuilt[path] = after[path]
    assert rebuilt == after
    assert without_links(Guest(lower).tree()) == before
