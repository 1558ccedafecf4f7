"""The overlay: copy-up, identity, merging, and that the lower layers stay as they are."""

import gc
import os

import pytest

from cloche.abi import errno as e
from cloche.abi.fcntl import O_CREAT, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY
from cloche.abi.mman import MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from cloche.abi.stat import S_IFCHR, S_IFIFO
from cloche.fs.overlay import ADDED, CHANGED, DELETED, OverlayFile, OverlayFs
from cloche.fs.quota import PAGE, StorageQuota
from cloche.fs.tmpfs import TmpfsDescription, TmpfsFile
from cloche.kernel.host_wait import HostWait, HostWaits
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.namei import (
    d_path,
    vfs_chmod,
    vfs_chown,
    vfs_getxattr,
    vfs_link,
    vfs_listxattr,
    vfs_mkdir,
    vfs_mknod,
    vfs_removexattr,
    vfs_rename,
    vfs_rmdir,
    vfs_setxattr,
    vfs_symlink,
    vfs_truncate,
    vfs_unlink,
    vfs_utimens,
)
from cloche.vfs.objects import Context
from tests.unit.vfs.world import (
    Names,
    as_user,
    errno_of,
    inode_at,
    list_dir,
    make_tree,
    new_context,
    open_file,
    path_at,
    put_file,
    read_at,
    read_file,
    tmpfs_context,
    write_at,
)


class Layers:
    """An overlay and its lower layer, seen directly."""

    def __init__(self, quota: StorageQuota | None = None) -> None:
        self.lower: Context = tmpfs_context()
        make_tree(self.lower)
        put_file(self.lower, b"/big", b"0123456789" * 50_000)
        vfs_link(self.lower, path_at(self.lower, b"/a/file"), None, b"/hard")
        vfs_mknod(self.lower, None, b"/fifo", S_IFIFO | 0o666, 0)
        self.quota: StorageQuota = quota if quota is not None else StorageQuota()
        self.fs: OverlayFs = OverlayFs(60, self.quota, [self.lower.fs.root.inode()])
        self.ctx: Context = new_context(self.fs)

    def changes(self) -> list[tuple[str, bytes]]:
        return [(kind, name) for kind, name, _ in self.fs.changes(self.ctx) if name != b"/"]


@pytest.fixture
def layers() -> Layers:
    return Layers()


def test_the_lower_tree_shows(layers: Layers) -> None:
    ctx = layers.ctx
    assert read_file(ctx, b"/link/deep") == b"deep"
    assert sorted(list_dir(ctx, b"/")) == sorted(list_dir(layers.lower, b"/"))
    assert inode_at(ctx, b"/a").mode == inode_at(layers.lower, b"/a").mode
    assert inode_at(ctx, b"/fifo").mode == S_IFIFO | 0o644
    assert layers.changes() == [] and layers.quota.inodes == 0


def test_a_large_directory_is_listed_in_turns(layers: Layers) -> None:
    """Others use it meanwhile; the call is made again, and shows each name once, `.` and `..` too."""
    lower, ctx = layers.lower, layers.ctx
    vfs_mkdir(lower, None, b"/many", 0o755)
    for number in range(5000):
        vfs_mknod(lower, None, b"/many/%05d" % number, S_IFIFO | 0o666, 0)
    file = open_file(ctx, b"/many")
    waits = ctx.walk_keeper = HostWaits()
    other = new_context(layers.fs)
    runs = 0
    while True:
        found = Names()
        waits.may_wait = True
        runs += 1
        try:
            assert file.iterate(ctx, found) == 0
            break
        except HostWait:
            if runs == 1:
                put_file(other, b"/many/new")
                vfs_unlink(other, None, b"/many/04999")
                vfs_unlink(other, None, b"/many/00000")
                vfs_rename(other, None, b"/many/04998", None, b"/many/renamed")
            elif runs == 2:
                vfs_unlink(other, None, b"/many/renamed")
    assert runs > 1
    names = [row[0] for row in found.rows]
    expected = {b".", b"..", b"new", *(b"%05d" % number for number in range(1, 4998))}
    if runs == 2:
        expected.add(b"renamed")
    assert len(names) == len(expected) and set(names) == expected
    assert set(list_dir(other, b"/many")) == expected - {b".", b".."}


def test_writing_copies_up_and_keeps_the_identity(layers: Layers) -> None:
    ctx = layers.ctx
    before = inode_at(ctx, b"/big")
    dev, ino, mtime = before.dev(), before.ino, before.mtime_ns
    reader = open_file(ctx, b"/big")
    assert read_at(ctx, reader, 10, 5) == b"01234"
    writer = open_file(ctx, b"/big", O_RDWR)
    assert layers.quota.pages == 0  # opened, not yet changed
    assert write_at(ctx, writer, 12, b"XX") == 2
    after = inode_at(ctx, b"/big")
    assert (after.dev(), after.ino) == (dev, ino) and after.mtime_ns > mtime
    assert after.size == 500_000 and layers.quota.pages == 123
    assert read_at(ctx, reader, 10, 5) == b"01XX4"  # an older descriptor follows
    assert read_at(ctx, writer, 499_998, 10) == b"89"
    assert read_file(layers.lower, b"/big")[10:15] == b"01234"
    assert layers.changes() == [(CHANGED, b"/big")]


def test_holes_are_copied_up_as_holes(layers: Layers) -> None:
    """A file may be larger than what there is room for."""
    ctx, size, middle = layers.ctx, 5 << 30, (3 << 30) + 12345
    put_file(layers.lower, b"/holes", b"begin")
    below = open_file(layers.lower, b"/holes", O_RDWR)
    assert write_at(layers.lower, below, middle, b"middle") == 6
    vfs_truncate(layers.lower, path_at(layers.lower, b"/holes"), size)
    layers.quota.page_limit = 1000
    file = open_file(ctx, b"/holes", O_RDWR)
    assert write_at(ctx, file, 1 << 30, b"mine") == 4
    assert inode_at(ctx, b"/holes").size == size and layers.quota.pages <= 64
    for offset, data in ((0, b"begin\0"), (middle, b"middle\0"), (1 << 30, b"mine\0"), (size - 3, bytes(3))):
        assert read_at(ctx, file, offset, len(data)) == data
    file.put()


def test_truncation_copies_only_what_stays(layers: Layers) -> None:
    ctx = layers.ctx
    open_file(ctx, b"/big", O_WRONLY | O_TRUNC).put()
    assert layers.quota.pages == 0 and inode_at(ctx, b"/big").size == 0
    assert read_file(ctx, b"/big") == b""
    vfs_truncate(ctx, path_at(ctx, b"/a/b/deep"), 2)
    assert read_file(ctx, b"/a/b/deep") == b"de"
    assert read_file(layers.lower, b"/a/b/deep") == b"deep"


def test_a_full_upper_layer_refuses_before_it_changes() -> None:
    layers = Layers(StorageQuota(50 * PAGE))
    ctx = layers.ctx
    writer = open_file(ctx, b"/big", O_RDWR)
    assert errno_of(write_at, ctx, writer, 0, b"x") == e.ENOSPC
    assert layers.quota.pages == 0 and read_at(ctx, writer, 0, 3) == b"012"
    assert layers.changes() == []
    assert write_at(ctx, open_file(ctx, b"/a/file", O_RDWR), 0, b"C") == 1


def test_attributes_change_without_a_copy(layers: Layers) -> None:
    ctx = layers.ctx
    path = path_at(ctx, b"/big")
    vfs_chmod(ctx, path, 0o600)
    vfs_chown(ctx, path, 5, 6)
    vfs_utimens(ctx, path, 1, 2)
    inode = path.inode()
    assert (inode.mode, inode.uid, inode.gid, inode.mtime_ns) == (0o100600, 5, 6, 2)
    assert layers.quota.pages == 0 and isinstance(inode, OverlayFile) and inode.is_below
    assert inode_at(layers.lower, b"/big").mode == 0o100644
    assert errno_of(open_file, as_user(ctx), b"/big") == e.EACCES
    assert layers.changes() == [(CHANGED, b"/big")]


def test_hard_links_of_the_lower_layer_are_one_file(layers: Layers) -> None:
    ctx = layers.ctx
    assert inode_at(ctx, b"/hard") is inode_at(ctx, b"/a/file")
    put_file(ctx, b"/hard", b"CONTENTS")
    assert read_file(ctx, b"/a/file") == b"CONTENTS"
    vfs_unlink(ctx, None, b"/hard")
    assert inode_at(ctx, b"/a/file").nlink == 1
    vfs_link(ctx, path_at(ctx, b"/big"), None, b"/big2")
    assert inode_at(ctx, b"/big2").nlink == 2 and layers.quota.pages == 1
    assert read_file(ctx, b"/big2")[:4] == b"0123"


def test_removing_and_making_again(layers: Layers) -> None:
    ctx = layers.ctx
    vfs_unlink(ctx, None, b"/a/file")
    assert errno_of(inode_at, ctx, b"/a/file") == e.ENOENT
    assert b"file" not in list_dir(ctx, b"/a")
    put_file(ctx, b"/a/file", b"other")
    assert read_file(ctx, b"/a/file") == b"other"
    assert list_dir(ctx, b"/a").count(b"file") == 1
    assert errno_of(vfs_rmdir, ctx, None, b"/a/b") == e.ENOTEMPTY
    vfs_rmdir(ctx, None, b"/a/b/c")
    vfs_unlink(ctx, None, b"/a/b/deep")
    vfs_rmdir(ctx, None, b"/a/b")
    vfs_mkdir(ctx, None, b"/a/b", 0o700)
    assert list_dir(ctx, b"/a/b") == []  # opaque
    changes = layers.changes()
    assert [each for each in changes if each[1] == b"/a/b"] == [(DELETED, b"/a/b"), (ADDED, b"/a/b")]
    assert (CHANGED, b"/a/file") in changes
    assert sorted(list_dir(layers.lower, b"/a/b")) == [b"c", b"deep"]


def test_directories_move_without_a_copy(layers: Layers) -> None:
    ctx = layers.ctx
    ino = inode_at(ctx, b"/a/b").ino
    vfs_rename(ctx, None, b"/a", None, b"/moved")
    assert read_file(ctx, b"/moved/b/deep") == b"deep" and inode_at(ctx, b"/moved/b").ino == ino
    assert errno_of(inode_at, ctx, b"/a") == e.ENOENT
    vfs_mkdir(ctx, None, b"/new", 0o755)
    vfs_rename(ctx, None, b"/moved/b", None, b"/new/b")
    assert sorted(list_dir(ctx, b"/new/b")) == [b"c", b"deep"]
    assert errno_of(inode_at, ctx, b"/moved/b") == e.ENOENT
    names = {name for kind, name in layers.changes() if kind == ADDED}
    assert {b"/moved", b"/moved/file", b"/new", b"/new/b", b"/new/b/deep"} <= names
    assert (DELETED, b"/a") in layers.changes()
    assert read_file(layers.lower, b"/a/b/deep") == b"deep"


def test_directory_offsets_hold_while_it_changes(layers: Layers) -> None:
    ctx = layers.ctx
    path_at(ctx, b"/big")  # looked up before it is listed
    file = open_file(ctx, b"/")
    names = Names(room=4)
    file.iterate(ctx, names)
    first = [row[0] for row in names.rows]
    for name in first[2:]:
        vfs_rename(ctx, None, b"/" + name, None, b"/moved-" + name)
    rest = Names()
    file.iterate(ctx, rest)
    seen = first + [row[0] for row in rest.rows]
    assert len(seen) == len(set(seen))
    assert set(list_dir(layers.lower, b"/")) <= set(seen)
    inos = {row[0]: row[1] for row in names.rows + rest.rows}
    assert inos[b"link"] == inode_at(ctx, b"/link").ino


def test_inode_numbers_do_not_clash(layers: Layers) -> None:
    ctx = layers.ctx
    put_file(ctx, b"/new")
    numbers = [inode_at(ctx, b"/" + name).ino for name in list_dir(ctx, b"/")]
    assert len(set(numbers)) == len(numbers)


def test_mapping_uses_the_lower_file_until_it_is_written(layers: Layers) -> None:
    ctx = layers.ctx
    put_file(layers.lower, b"/lib", b"library" * 100_000)
    lower = inode_at(layers.lower, b"/lib")
    assert isinstance(lower, TmpfsFile)
    reader = open_file(ctx, b"/lib")
    assert reader.mmap_fd(ctx, PROT_READ, MAP_PRIVATE) == lower.storage.fd
    assert reader.mmap_fd(ctx, PROT_READ, MAP_SHARED) == lower.storage.fd
    writer = open_file(ctx, b"/lib", O_RDWR)
    assert writer.mmap_fd(ctx, PROT_READ | PROT_WRITE, MAP_PRIVATE) == lower.storage.fd
    fd = writer.mmap_fd(ctx, PROT_READ | PROT_WRITE, MAP_SHARED)
    assert fd != lower.storage.fd
    os.pwrite(fd, b"GUEST", 0)
    assert read_at(ctx, reader, 0, 7) == b"GUESTry"
    assert read_file(layers.lower, b"/lib")[:7] == b"library"


def test_reading_goes_straight_to_the_lower_description(layers: Layers) -> None:
    file = open_file(layers.ctx, b"/big")
    assert isinstance(file, TmpfsDescription)
    assert file.lseek(layers.ctx, 0, 3) == 0 and file.lseek(layers.ctx, 0, 4) == 500_000
    assert file.read_bytes(layers.ctx, 499_999, 10) == b"9"
    assert file.lseek(layers.ctx, -1, 2) == 499_999


def test_unlinked_lower_files_can_be_read_and_changed(layers: Layers) -> None:
    ctx = layers.ctx
    file = open_file(ctx, b"/big", O_RDWR)
    vfs_unlink(ctx, None, b"/big")
    assert file.path is not None and d_path(ctx.fs.root, file.path) == b"/big (deleted)"
    assert read_at(ctx, file, 0, 3) == b"012"
    write_at(ctx, file, 0, b"abc")
    assert read_at(ctx, file, 0, 4) == b"abc3" and layers.quota.pages == 123
    file.put()
    del file
    gc.collect()
    assert layers.quota.pages == 0


def test_extended_attributes_come_from_below(layers: Layers) -> None:
    ctx = layers.ctx
    vfs_setxattr(layers.lower, path_at(layers.lower, b"/big"), b"user.low", b"1", 0)
    vfs_setxattr(
        layers.lower, path_at(layers.lower, b"/big"), b"security.capability", b"\1\0\0\2" + bytes(16), 0
    )
    path = path_at(ctx, b"/big")
    assert vfs_getxattr(ctx, path, b"user.low") == b"1"
    vfs_setxattr(ctx, path, b"user.up", b"2", 0)
    assert sorted(vfs_listxattr(ctx, path)) == [b"security.capability", b"user.low", b"user.up"]
    vfs_removexattr(ctx, path, b"user.low")
    assert errno_of(vfs_getxattr, ctx, path, b"user.low") == e.ENODATA
    write_at(ctx, open_file(ctx, b"/big", O_WRONLY), 0, b"x")
    assert vfs_listxattr(ctx, path) == [b"user.up"]
    assert vfs_getxattr(layers.lower, path_at(layers.lower, b"/big"), b"user.low") == b"1"


def test_tmpfile_and_links_into_lower_directories(layers: Layers) -> None:
    ctx = layers.ctx
    file = open_file(ctx, b"/a", O_TMPFILE | O_RDWR)
    file.write(ctx, KernelIovIter(b"t"))
    assert file.path is not None
    vfs_link(ctx, file.path, None, b"/a/b/t")
    assert read_file(ctx, b"/a/b/t") == b"t"


def test_several_lower_layers() -> None:
    top, base = tmpfs_context(), tmpfs_context()
    make_tree(base)
    vfs_mkdir(top, None, b"/a", 0o700)
    put_file(top, b"/a/file", b"from the top")
    put_file(top, b"/a/only-top")
    vfs_mknod(top, None, b"/link", S_IFCHR, 0)  # a whiteout
    vfs_mkdir(top, None, b"/a/b", 0o755)
    vfs_setxattr(top, path_at(top, b"/a/b"), b"trusted.overlay.opaque", b"y", 0)
    ctx = new_context(OverlayFs(60, StorageQuota(), [top.fs.root.inode(), base.fs.root.inode()]))
    assert sorted(list_dir(ctx, b"/")) == [b"a", b"abs", b"loop"]
    assert errno_of(inode_at, ctx, b"/link") == e.ENOENT
    assert sorted(list_dir(ctx, b"/a")) == [b"b", b"file", b"only-top"]
    assert read_file(ctx, b"/a/file") == b"from the top"
    assert list_dir(ctx, b"/a/b") == [] and errno_of(inode_at, ctx, b"/a/b/deep") == e.ENOENT
    assert inode_at(ctx, b"/a").mode == 0o040700
    vfs_unlink(ctx, None, b"/a/file")
    assert errno_of(inode_at, ctx, b"/a/file") == e.ENOENT
    vfs_symlink(ctx, b"x", None, b"/link")
    numbers = {inode_at(ctx, name).ino for name in (b"/", b"/a", b"/a/b", b"/abs", b"/link")}
    assert len(numbers) == 5


def test_lower_permissions_are_the_overlay_s(layers: Layers) -> None:
    user = as_user(layers.ctx)
    assert errno_of(open_file, user, b"/big", O_WRONLY) == e.EACCES
    assert errno_of(open_file, user, b"/a/new", O_CREAT) == e.EACCES
    assert errno_of(vfs_unlink, user, None, b"/a/file") == e.EACCES
    assert errno_of(open_file, user, b"/big", O_RDONLY) == 0
