"""Path walk, open and the operations on names: the cases that the model test against the host cannot reach."""

import os
from typing import Final

import pytest

from cloche.abi import errno as e
from cloche.abi.fcntl import (
    AT_EACCESS,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOATIME,
    O_NOFOLLOW,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    O_TMPFILE,
    O_TRUNC,
    O_WRONLY,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from cloche.abi.fs import MS_NODEV, MS_NOEXEC, MS_NOSYMFOLLOW, MS_RDONLY
from cloche.abi.stat import S_IFCHR, S_IFIFO, S_IFSOCK, makedev
from cloche.fs.quota import StorageQuota
from cloche.fs.tmpfs import TmpFs
from cloche.mm.usermem import KernelIovIter
from cloche.vfs import namei
from cloche.vfs.credentials import ALL_CAPS, Credentials
from cloche.vfs.mount import mount_at
from cloche.vfs.namei import (
    LOOKUP_DIRECTORY,
    LOOKUP_EMPTY,
    LOOKUP_FOLLOW,
    TIME_NOW,
    TIME_OMIT,
    check_open_how,
    d_path,
    deny_write_access,
    do_open,
    getcwd,
    lookup_parent,
    path_lookup,
    path_lookup_quick,
    vfs_access,
    vfs_chmod,
    vfs_chown,
    vfs_ftruncate,
    vfs_link,
    vfs_mkdir,
    vfs_mknod,
    vfs_rename,
    vfs_rmdir,
    vfs_symlink,
    vfs_truncate,
    vfs_unlink,
    vfs_utimens,
)
from cloche.vfs.objects import UNSEEN_FLAGS, Context, Dentry, FileSystem, Inode, InodeWatches, Mount, Path
from tests.unit.vfs.world import (
    USER,
    as_user,
    errno_of,
    inode_at,
    make_tree,
    open_file,
    path_at,
    put_file,
    read_file,
    tmpfs_context,
)

CAP_FOWNER: Final = 3


@pytest.fixture
def ctx() -> Context:
    made = tmpfs_context()
    make_tree(made)
    return made


# -- walking ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        (b"/a/file", 1, b"/a/file"),
        (b"//a///file", 1, b"/a/file"),
        (b"/a/./b/../file", 1, b"/a/file"),
        (b"/../../a", 1, b"/a"),
        (b"/link/deep", 1, b"/a/b/deep"),
        (b"/link", 0, b"/link"),
        (b"/link", 1, b"/a/b"),
        (b"/link/", 0, b"/a/b"),
        (b"/abs/b/c/..", 1, b"/a/b"),
        (b"/link/../file", 1, b"/a/file"),
        (b"a", 1, b"/a"),
        (b".", 1, b"/"),
        (b"/", 1, b"/"),
        (b"/a/b/", 1, b"/a/b"),
    ],
)
def test_names_that_lead_somewhere(ctx: Context, name: bytes, flags: int, expected: bytes) -> None:
    for _ in range(2):  # uncached, then cached
        assert d_path(ctx.fs.root, path_lookup(ctx, None, name, flags)) == expected


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        (b"", 1, e.ENOENT),
        (b"/a/nothing", 1, e.ENOENT),
        (b"/a/nothing/more", 1, e.ENOENT),
        (b"/a/file/more", 1, e.ENOTDIR),
        (b"/a/file/", 1, e.ENOTDIR),
        (b"/a/file/.", 1, e.ENOTDIR),
        (b"/a/file/..", 1, e.ENOTDIR),
        (b"/a/file", LOOKUP_DIRECTORY, e.ENOTDIR),
        (b"/loop", LOOKUP_FOLLOW, e.ELOOP),
        (b"/loop/x", 0, e.ELOOP),
        (b"/link", LOOKUP_DIRECTORY, e.ENOTDIR),
        (b"/" + b"n" * 256, 1, e.ENAMETOOLONG),
        (b"/a/file/" + b"n" * 256, 1, e.ENOTDIR),
        (b"/" * 4095 + b"a", 1, e.ENAMETOOLONG),
        (b"x/" * 2047 + b"y", 1, e.ENOENT),
    ],
)
def test_names_that_do_not(ctx: Context, name: bytes, flags: int, expected: int) -> None:
    for _ in range(2):
        assert path_lookup_quick(ctx, None, name, flags) == -expected
        assert errno_of(path_lookup, ctx, None, name, flags) == expected


def test_forty_links_are_followed_and_no_more(ctx: Context) -> None:
    vfs_symlink(ctx, b"a", None, b"/l0")
    for number in range(1, 41):
        vfs_symlink(ctx, b"l%d" % (number - 1), None, b"/l%d" % number)
    assert path_lookup(ctx, None, b"/l39").same_as(path_at(ctx, b"/a"))
    assert path_lookup_quick(ctx, None, b"/l40") == -e.ELOOP


def test_deep_links_do_not_recurse(ctx: Context) -> None:
    target = b"/".join([b"."] * 2000)
    vfs_symlink(ctx, target, None, b"/dots")
    assert path_lookup(ctx, None, b"/" + b"dots/" * 40 + b"a").same_as(path_at(ctx, b"/a"))


def test_the_empty_path(ctx: Context) -> None:
    here = path_at(ctx, b"/a/file")
    assert path_lookup(ctx, here, b"", LOOKUP_EMPTY) is here
    assert path_lookup(ctx, None, b"", LOOKUP_EMPTY).same_as(ctx.fs.cwd)
    assert errno_of(path_lookup, ctx, here, b"") == e.ENOENT


def test_a_relative_name_from_a_file(ctx: Context) -> None:
    assert path_lookup_quick(ctx, path_at(ctx, b"/a/file"), b"x") == -e.ENOTDIR
    assert path_lookup_quick(ctx, path_at(ctx, b"/a/file"), b"..") == -e.ENOTDIR
    assert path_lookup(ctx, path_at(ctx, b"/a/file"), b"/a/b").same_as(path_at(ctx, b"/a/b"))


def test_search_permission_counts_for_every_component(ctx: Context) -> None:
    vfs_chmod(ctx, path_at(ctx, b"/a/b"), 0o700)
    user = as_user(ctx)
    for _ in range(2):
        assert path_lookup_quick(user, None, b"/a/b/deep") == -e.EACCES
        assert path_lookup_quick(user, None, b"/a/b/..") == -e.EACCES
        assert path_lookup_quick(user, None, b"/a/b/nothing") == -e.EACCES
        assert isinstance(path_lookup_quick(user, None, b"/a/b"), Path)
        assert isinstance(path_lookup_quick(ctx, None, b"/a/b/deep"), Path)
    # Search, not read: 0711 lets every user through.
    vfs_chmod(ctx, path_at(ctx, b"/a/b"), 0o711)
    assert isinstance(path_lookup_quick(user, None, b"/a/b/deep"), Path)
    assert errno_of(open_file, user, b"/a/b") == e.EACCES


def test_chroot_confines(ctx: Context) -> None:
    ctx.fs.root = path_at(ctx, b"/a")
    ctx.fs.cwd = path_at(ctx, b"/b")
    assert path_lookup(ctx, None, b"../../../file").inode().size == 8
    assert path_lookup_quick(ctx, None, b"/link") == -e.ENOENT
    assert getcwd(ctx) == b"/b"


def test_lookup_parent(ctx: Context) -> None:
    parent = lookup_parent(ctx, None, b"/a/new")
    assert (parent.path.dentry.name, parent.name, parent.is_slash) == (b"a", b"new", False)
    assert lookup_parent(ctx, None, b"/a/new///").is_slash
    assert lookup_parent(ctx, None, b"/").name == b""
    assert lookup_parent(ctx, None, b"/a/..").name == b".."
    assert lookup_parent(ctx, None, b"/link/x").path.dentry.name == b"b"
    assert errno_of(lookup_parent, ctx, None, b"") == e.ENOENT
    assert errno_of(lookup_parent, ctx, None, b"/a/file/x") == e.ENOTDIR
    assert errno_of(lookup_parent, ctx, None, b"/a/" + b"x" * 256) == e.ENAMETOOLONG


class Unstable(FileSystem):
    """A file system of one directory whose names come and go by themselves."""

    def __init__(self) -> None:
        super().__init__("unstable", 1, 77)
        self.has_stable_dentries = False
        self.names: dict[bytes, Inode] = {}
        self.lookups: int = 0
        self.root_inode = UnstableDir(self)


class UnstableDir(Inode):
    def __init__(self, fs: Unstable) -> None:
        super().__init__(fs, 1, 0o040755)
        self.owner: Unstable = fs

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        self.owner.lookups += 1
        return self.owner.names.get(name)


def test_unstable_names_are_looked_up_again(ctx: Context) -> None:
    fs = Unstable()
    vfs_mkdir(ctx, None, b"/u", 0o755)
    mount_at(ctx, b"/u", fs)
    assert path_lookup_quick(ctx, None, b"/u/x") == -e.ENOENT
    fs.names[b"x"] = Inode(fs, 5, 0o100644)
    first = path_lookup(ctx, None, b"/u/x").dentry
    assert path_lookup(ctx, None, b"/u/x").dentry is first
    fs.names[b"x"] = Inode(fs, 6, 0o100644)
    second = path_lookup(ctx, None, b"/u/x").dentry
    assert second is not first and second.require().ino == 6 and first.is_deleted
    del fs.names[b"x"]
    assert path_lookup_quick(ctx, None, b"/u/x") == -e.ENOENT
    assert fs.lookups == 5


def test_unstable_directories_do_not_grow_for_ever(ctx: Context) -> None:
    fs = Unstable()
    vfs_mkdir(ctx, None, b"/u", 0o755)
    mount = mount_at(ctx, b"/u", fs)
    for number in range(3000):
        fs.names[b"%d" % number] = Inode(fs, number, 0o100644)
        path_lookup(ctx, None, b"/u/%d" % number)
    assert len(mount.root.children) <= namei.MAX_UNSTABLE


def test_negative_dentries_are_bounded(ctx: Context) -> None:
    root = ctx.fs.root.dentry
    for number in range(2 * namei.MAX_NEGATIVE):
        path_lookup_quick(ctx, None, b"/no%d" % number)
    assert len(root.children) < namei.MAX_NEGATIVE + 100
    put_file(ctx, b"/no1", b"now")
    assert read_file(ctx, b"/no1") == b"now"


class MagicLink(Inode):
    """A link to an object, like /proc/self/fd/N."""

    def __init__(self, fs: FileSystem, target: Path) -> None:
        super().__init__(fs, 99, 0o120777)
        self.target: Path = target

    def follow_link(self, ctx: Context) -> Path | None:
        return self.target

    def readlink(self, ctx: Context) -> bytes:
        return b"somewhere else"


def add_magic(ctx: Context, name: bytes, target: Path) -> None:
    root = ctx.fs.root.dentry
    root.children[name] = Dentry(name, root, MagicLink(root.require().fs, target))


def test_magic_links_jump(ctx: Context) -> None:
    add_magic(ctx, b"magic", path_at(ctx, b"/a/b"))
    assert path_lookup(ctx, None, b"/magic/deep").inode() is inode_at(ctx, b"/a/b/deep")
    assert path_lookup(ctx, None, b"/magic").same_as(path_at(ctx, b"/a/b"))
    assert errno_of(path_lookup, ctx, None, b"/magic", 1, RESOLVE_NO_MAGICLINKS) == e.ELOOP
    assert errno_of(path_lookup, ctx, None, b"/magic", 1, RESOLVE_IN_ROOT) == e.EXDEV
    # An unlinked file can be opened again, O_CREAT included.
    file = open_file(ctx, b"/gone", O_CREAT | O_RDWR)
    assert file.path is not None
    vfs_unlink(ctx, None, b"/gone")
    add_magic(ctx, b"fd", file.path)
    again = open_file(ctx, b"/fd", O_RDWR | O_CREAT)
    assert again.inode is file.inode


# -- openat2 -----------------------------------------------------------------------------------------------
def how(ctx: Context, name: bytes, resolve: int, flags: int = O_PATH, start: Path | None = None) -> int:
    return errno_of(do_open, ctx, start, name, flags, 0, resolve)


def test_resolve_beneath(ctx: Context) -> None:
    start = path_at(ctx, b"/a")
    assert how(ctx, b"b/../file", RESOLVE_BENEATH, start=start) == 0
    assert how(ctx, b"../a/file", RESOLVE_BENEATH, start=start) == e.EXDEV
    assert how(ctx, b"/a/file", RESOLVE_BENEATH, start=start) == e.EXDEV
    vfs_symlink(ctx, b"/a/file", None, b"/a/abs")
    vfs_symlink(ctx, b"../a/file", None, b"/a/up")
    assert how(ctx, b"abs", RESOLVE_BENEATH, start=start) == e.EXDEV
    assert how(ctx, b"up", RESOLVE_BENEATH, start=start) == e.EXDEV


def test_resolve_in_root(ctx: Context) -> None:
    start = path_at(ctx, b"/a")
    vfs_symlink(ctx, b"/file", None, b"/a/abs")
    for name in (b"/file", b"../../file", b"abs", b"b/../../file"):
        file = do_open(ctx, start, name, O_RDONLY, 0, RESOLVE_IN_ROOT).get()
        assert file.inode is inode_at(ctx, b"/a/file")
    assert how(ctx, b"/a/file", RESOLVE_IN_ROOT, start=start) == e.ENOENT


def test_resolve_no_symlinks_and_no_xdev(ctx: Context) -> None:
    assert how(ctx, b"/link/deep", RESOLVE_NO_SYMLINKS) == e.ELOOP
    assert how(ctx, b"/link", RESOLVE_NO_SYMLINKS, O_PATH | O_NOFOLLOW) == 0
    mount_at(ctx, b"/a/b/c", TmpFs(40, StorageQuota()))
    assert how(ctx, b"/a/b/c", RESOLVE_NO_XDEV) == e.EXDEV
    assert how(ctx, b"/a/b", RESOLVE_NO_XDEV) == 0
    assert how(ctx, b"..", RESOLVE_NO_XDEV, start=path_at(ctx, b"/a/b/c")) == e.EXDEV


def test_resolve_cached() -> None:
    ctx = tmpfs_context()
    ctx.fs.root.inode().mkdir(ctx, b"d", 0o755)
    assert how(ctx, b"/d", RESOLVE_CACHED) == e.EAGAIN
    path_at(ctx, b"/d")
    assert how(ctx, b"/d", RESOLVE_CACHED) == 0


def test_check_open_how() -> None:
    check_open_how(O_CREAT | O_RDWR, 0o644, RESOLVE_BENEATH)
    for flags, mode, resolve in (
        (O_RDONLY, 0o644, 0),
        (O_CREAT, 0o10000, 0),
        (1 << 30, 0, 0),
        (O_RDONLY, 0, 0x40),
        (O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT),
        (O_PATH | O_RDWR, 0, 0),
    ):
        assert errno_of(check_open_how, flags, mode, resolve) == e.EINVAL


# -- open --------------------------------------------------------------------------------------------------
def test_open_flags(ctx: Context) -> None:
    def code(name: bytes, flags: int) -> int:
        return errno_of(do_open, ctx, None, name, flags, 0o644)

    assert code(b"/a", O_WRONLY) == e.EISDIR
    assert code(b"/a", O_RDONLY | O_CREAT) == e.EISDIR
    assert code(b"/", O_RDONLY | O_CREAT) == e.EISDIR
    assert code(b"/a/.", O_CREAT | O_EXCL) == e.EEXIST
    assert code(b"/a/file", O_CREAT | O_EXCL) == e.EEXIST
    assert code(b"/link", O_CREAT | O_EXCL) == e.EEXIST
    assert code(b"/new/", O_CREAT) == e.EISDIR
    assert code(b"/a/file", O_DIRECTORY) == e.ENOTDIR
    assert code(b"/a/file", O_DIRECTORY | O_CREAT) == e.EINVAL
    assert code(b"/link", O_NOFOLLOW) == e.ELOOP
    assert code(b"/link", O_NOFOLLOW | O_DIRECTORY) == e.ENOTDIR
    assert code(b"/link", O_NOFOLLOW | O_PATH) == 0
    assert code(b"/nothing", O_RDONLY) == e.ENOENT
    assert code(b"/a/file", O_TMPFILE | O_RDWR) == e.ENOTDIR
    assert code(b"/a", O_TMPFILE | O_RDONLY) == e.EINVAL
    assert code(b"/a", O_TMPFILE | O_CREAT | O_RDWR) == e.EINVAL


def test_creating_through_a_dangling_link(ctx: Context) -> None:
    vfs_symlink(ctx, b"a/b/made", None, b"/dangling")
    put_file(ctx, b"/dangling", b"through")
    assert read_file(ctx, b"/a/b/made") == b"through"
    vfs_symlink(ctx, b"nowhere/made", None, b"/worse")
    assert errno_of(open_file, ctx, b"/worse", O_CREAT) == e.ENOENT
    vfs_symlink(ctx, b"slash/", None, b"/slashed")
    assert errno_of(open_file, ctx, b"/slashed", O_CREAT) == e.EISDIR


def test_created_files_have_owner_mode_and_no_check(ctx: Context) -> None:
    vfs_mkdir(ctx, None, b"/public", 0o755)
    vfs_chmod(ctx, path_at(ctx, b"/public"), 0o777)
    user = as_user(ctx)
    file = open_file(user, b"/public/f", O_CREAT | O_RDWR, 0o000)  # mode 0: still opened
    assert (file.inode.uid, file.inode.gid, file.inode.mode) == (USER, USER, 0o100000)
    assert errno_of(open_file, user, b"/public/f") == e.EACCES
    assert errno_of(open_file, user, b"/new", O_CREAT) == e.EACCES
    ctx.fs.umask = 0o077
    put_file(ctx, b"/masked", b"", 0o666)
    assert inode_at(ctx, b"/masked").mode == 0o100600


def test_set_group_id_directories(ctx: Context) -> None:
    vfs_mkdir(ctx, None, b"/shared", 0o755)
    vfs_chown(ctx, path_at(ctx, b"/shared"), -1, 500)
    vfs_chmod(ctx, path_at(ctx, b"/shared"), 0o2777)
    user = as_user(ctx)
    put_file(user, b"/shared/f", b"", 0o2755)
    assert (inode_at(ctx, b"/shared/f").gid, inode_at(ctx, b"/shared/f").mode) == (500, 0o100755)
    vfs_mkdir(user, None, b"/shared/d", 0o755)
    assert (inode_at(ctx, b"/shared/d").gid, inode_at(ctx, b"/shared/d").mode) == (500, 0o042755)


def test_truncation_needs_write_permission(ctx: Context) -> None:
    vfs_chmod(ctx, path_at(ctx, b"/a/file"), 0o444)
    assert errno_of(open_file, as_user(ctx), b"/a/file", O_RDONLY | O_TRUNC) == e.EACCES
    assert read_file(ctx, b"/a/file") == b"contents"
    open_file(ctx, b"/a/file", O_RDONLY | O_TRUNC).put()
    assert read_file(ctx, b"/a/file") == b""


def test_status_flags_that_stay(ctx: Context) -> None:
    file = open_file(ctx, b"/new", O_CREAT | O_EXCL | O_RDWR | O_TRUNC | os.O_CLOEXEC | os.O_APPEND)
    assert file.flags & ~UNSEEN_FLAGS == O_RDWR | os.O_APPEND
    assert file.creds is ctx.creds


def test_o_path(ctx: Context) -> None:
    vfs_chmod(ctx, path_at(ctx, b"/a/file"), 0)
    file = open_file(as_user(ctx), b"/a/file", O_PATH | O_RDWR | O_TRUNC)
    assert file.flags == O_PATH
    assert file.pread(ctx, KernelIovIter(capacity=1), 0) == -e.EBADF
    assert file.write(ctx, KernelIovIter(b"x")) == -e.EBADF
    assert inode_at(ctx, b"/a/file").size == 8


def test_noatime_is_for_owners(ctx: Context) -> None:
    assert errno_of(open_file, as_user(ctx), b"/a/file", O_NOATIME) == e.EPERM
    assert errno_of(open_file, ctx, b"/a/file", O_NOATIME) == 0


def test_protected_hard_links(ctx: Context) -> None:
    user = as_user(ctx)
    vfs_mkdir(ctx, None, b"/open", 0o777)
    vfs_chmod(ctx, path_at(ctx, b"/open"), 0o777)
    for name, mode, expected in (
        (b"rw", 0o666, 0),
        (b"r", 0o644, e.EPERM),
        (b"w", 0o622, e.EPERM),
        (b"suid", 0o4777, e.EPERM),
        (b"sgid", 0o2777, e.EPERM),
        (b"lock", 0o2767, 0),
    ):
        put_file(ctx, b"/open/" + name, b"x")
        vfs_chmod(ctx, path_at(ctx, b"/open/" + name), mode)
        assert errno_of(vfs_link, user, path_at(ctx, b"/open/" + name), None, b"/open/2" + name) == expected
        assert errno_of(vfs_link, ctx, path_at(ctx, b"/open/" + name), None, b"/open/3" + name) == 0
    vfs_mknod(ctx, None, b"/open/fifo", S_IFIFO | 0o666, 0)
    assert errno_of(vfs_link, user, path_at(ctx, b"/open/fifo"), None, b"/open/2fifo") == e.EPERM
    put_file(user, b"/open/own", b"x")
    vfs_chmod(user, path_at(ctx, b"/open/own"), 0)
    assert errno_of(vfs_link, user, path_at(ctx, b"/open/own"), None, b"/open/2own") == 0


def test_protected_symbolic_links(ctx: Context) -> None:
    user = as_user(ctx)
    for name, mode in ((b"/sticky", 0o1777), (b"/open", 0o777)):
        vfs_mkdir(ctx, None, name, 0o777)
        vfs_chmod(ctx, path_at(ctx, name), mode)
        vfs_symlink(ctx, b"/a", None, name + b"/of-root")
        vfs_symlink(user, b"/a", None, name + b"/of-user")
    # A directory's owner may leave links for every user; others only for themselves.
    assert errno_of(path_lookup, user, None, b"/sticky/of-root") == 0
    assert errno_of(path_lookup, user, None, b"/sticky/of-user") == 0
    assert errno_of(path_lookup, ctx, None, b"/open/of-user") == 0
    assert errno_of(path_lookup, ctx, None, b"/sticky/of-user") == e.EACCES
    assert errno_of(path_lookup, ctx, None, b"/sticky/of-user/") == e.EACCES
    assert errno_of(open_file, ctx, b"/sticky/of-user/../new", O_RDWR | O_CREAT) == 0
    vfs_symlink(user, b"/a/file", None, b"/sticky/file")
    assert errno_of(open_file, ctx, b"/sticky/file", O_RDWR | O_CREAT) == e.EACCES
    assert errno_of(path_lookup, ctx, None, b"/sticky/file", 0) == 0
    # In the middle of a path they are followed.
    assert errno_of(path_lookup, ctx, None, b"/sticky/of-user/file") == 0
    assert errno_of(vfs_unlink, ctx, None, b"/sticky/of-user/file") == 0


def test_text_busy(ctx: Context) -> None:
    inode = inode_at(ctx, b"/a/file")
    writer = open_file(ctx, b"/a/file", O_WRONLY)
    assert inode.write_count == 1
    assert errno_of(deny_write_access, inode) == e.ETXTBSY
    writer.put()
    assert inode.write_count == 0
    deny_write_access(inode)
    assert errno_of(open_file, ctx, b"/a/file", O_RDWR) == e.ETXTBSY
    assert errno_of(open_file, ctx, b"/a/file", O_RDONLY | O_TRUNC) == e.ETXTBSY
    assert errno_of(vfs_truncate, ctx, path_at(ctx, b"/a/file"), 0) == e.ETXTBSY
    assert errno_of(open_file, ctx, b"/a/file") == 0


def test_tmpfile_can_be_linked(ctx: Context) -> None:
    file = open_file(ctx, b"/a", O_TMPFILE | O_RDWR, 0o640)
    assert file.path is not None
    assert file.inode.nlink == 0 and file.inode.mode == 0o100640
    assert d_path(ctx.fs.root, file.path).endswith(b" (deleted)")
    file.write(ctx, KernelIovIter(b"secret"))
    vfs_link(ctx, file.path, None, b"/a/named")
    assert read_file(ctx, b"/a/named") == b"secret" and file.inode.nlink == 1
    private = open_file(ctx, b"/a", O_TMPFILE | O_RDWR | O_EXCL)
    assert private.path is not None
    assert errno_of(vfs_link, ctx, private.path, None, b"/a/x") == e.ENOENT


def test_mount_flags_that_forbid(ctx: Context) -> None:
    vfs_mknod(ctx, None, b"/dev", S_IFCHR | 0o666, makedev(200, 1))
    mount = ctx.fs.root.mount
    assert errno_of(open_file, ctx, b"/dev", O_RDWR) == e.ENXIO  # it has no driver
    mount.flags |= MS_NODEV
    assert errno_of(open_file, ctx, b"/dev", O_RDWR) == e.EACCES
    mount.flags |= MS_NOEXEC
    vfs_chmod(ctx, path_at(ctx, b"/a/file"), 0o755)
    assert errno_of(vfs_access, ctx, None, b"/a/file", 1, 0) == e.EACCES
    assert errno_of(vfs_access, ctx, None, b"/a", 1, 0) == 0
    mount.flags |= MS_RDONLY
    for call in (
        lambda: open_file(ctx, b"/a/file", O_WRONLY),
        lambda: open_file(ctx, b"/new", O_CREAT),
        lambda: open_file(ctx, b"/a/file", O_TRUNC),
        lambda: vfs_mkdir(ctx, None, b"/d", 0o755),
        lambda: vfs_unlink(ctx, None, b"/nothing"),
        lambda: vfs_rmdir(ctx, None, b"/a/b/c"),
        lambda: vfs_rename(ctx, None, b"/a", None, b"/z"),
        lambda: vfs_symlink(ctx, b"x", None, b"/s"),
        lambda: vfs_link(ctx, path_at(ctx, b"/a/file"), None, b"/h"),
        lambda: vfs_chmod(ctx, path_at(ctx, b"/a"), 0o700),
        lambda: vfs_truncate(ctx, path_at(ctx, b"/a/file"), 0),
        lambda: vfs_access(ctx, None, b"/a/file", 2, 0),
    ):
        assert errno_of(call) == e.EROFS
    # An existing name gives EEXIST, and may be opened with O_CREAT.
    assert errno_of(vfs_mkdir, ctx, None, b"/a", 0o755) == e.EEXIST
    open_file(ctx, b"/a/file", O_CREAT).put()
    mount.flags = MS_NOSYMFOLLOW
    assert errno_of(path_lookup, ctx, None, b"/link") == e.ELOOP


# -- names -------------------------------------------------------------------------------------------------
def test_special_last_components(ctx: Context) -> None:
    assert errno_of(vfs_mkdir, ctx, None, b"/", 0o755) == e.EEXIST
    assert errno_of(vfs_mkdir, ctx, None, b"/a/.", 0o755) == e.EEXIST
    assert errno_of(vfs_mkdir, ctx, None, b"/a/n/", 0o755) == 0
    assert errno_of(vfs_mknod, ctx, None, b"/a/m/", 0o644, 0) == e.ENOENT
    assert errno_of(vfs_symlink, ctx, b"x", None, b"/a/s/") == e.ENOENT
    assert errno_of(vfs_symlink, ctx, b"", None, b"/a/s") == e.ENOENT
    assert errno_of(vfs_rmdir, ctx, None, b"/a/.") == e.EINVAL
    assert errno_of(vfs_rmdir, ctx, None, b"/a/..") == e.ENOTEMPTY
    assert errno_of(vfs_rmdir, ctx, None, b"/") == e.EBUSY
    assert errno_of(vfs_unlink, ctx, None, b"/a/.") == e.EISDIR
    assert errno_of(vfs_unlink, ctx, None, b"/a") == e.EISDIR
    assert errno_of(vfs_unlink, ctx, None, b"/a/file/") == e.ENOTDIR
    assert errno_of(vfs_rename, ctx, None, b"/a/.", None, b"/z") == e.EBUSY
    assert errno_of(vfs_rename, ctx, None, b"/a", None, b"/a/b/..") == e.EBUSY
    assert errno_of(vfs_rename, ctx, None, b"/a", None, b"/a/b/..", RENAME_NOREPLACE) == e.EEXIST


def test_nothing_is_made_in_a_removed_directory(ctx: Context) -> None:
    here = path_at(ctx, b"/a/b/c")
    ctx.fs.cwd = here
    vfs_rmdir(ctx, None, b"/a/b/c")
    assert errno_of(getcwd, ctx) == e.ENOENT
    assert d_path(ctx.fs.root, here) == b"/a/b/c (deleted)"
    assert errno_of(open_file, ctx, b"f", O_CREAT) == e.ENOENT
    assert errno_of(vfs_mkdir, ctx, None, b"d", 0o755) == e.ENOENT
    assert errno_of(vfs_rename, ctx, None, b"/a/file", None, b"f") == e.ENOENT
    assert path_lookup(ctx, None, b"..").same_as(path_at(ctx, b"/a/b"))
    assert path_lookup(ctx, None, b".").same_as(here)


def test_sticky_directories(ctx: Context) -> None:
    vfs_mkdir(ctx, None, b"/tmp", 0o1777)
    vfs_chmod(ctx, path_at(ctx, b"/tmp"), 0o1777)
    put_file(ctx, b"/tmp/root")
    alice, bob = as_user(ctx, 1001, 1001), as_user(ctx, 1002, 1002)
    put_file(alice, b"/tmp/alice")
    assert errno_of(vfs_unlink, bob, None, b"/tmp/alice") == e.EPERM
    assert errno_of(vfs_rename, bob, None, b"/tmp/alice", None, b"/tmp/x") == e.EPERM
    put_file(bob, b"/tmp/bob")
    assert errno_of(vfs_rename, bob, None, b"/tmp/bob", None, b"/tmp/alice") == e.EPERM
    bob.creds.cap_effective = 1 << CAP_FOWNER
    assert errno_of(vfs_unlink, bob, None, b"/tmp/alice") == 0
    assert errno_of(vfs_unlink, alice, None, b"/tmp/root") == e.EPERM


def test_rename_rules(ctx: Context) -> None:
    assert errno_of(vfs_rename, ctx, None, b"/a", None, b"/a/b/x") == e.EINVAL
    assert errno_of(vfs_rename, ctx, None, b"/a/b/deep", None, b"/a") == e.ENOTEMPTY
    assert errno_of(vfs_rename, ctx, None, b"/a/b", None, b"/a/file") == e.ENOTDIR
    assert errno_of(vfs_rename, ctx, None, b"/a/file", None, b"/a/b/c") == e.EISDIR
    assert errno_of(vfs_rename, ctx, None, b"/a/file", None, b"/a/b/deep", RENAME_NOREPLACE) == e.EEXIST
    assert errno_of(vfs_rename, ctx, None, b"/a/file", None, b"/no", RENAME_EXCHANGE) == e.ENOENT
    assert errno_of(vfs_rename, ctx, None, b"/a", None, b"/a/b", RENAME_EXCHANGE) == e.EINVAL
    assert errno_of(vfs_rename, ctx, None, b"/a", None, b"/z", 8) == e.EINVAL
    assert errno_of(vfs_rename, ctx, None, b"/a", None, b"/z", RENAME_EXCHANGE | RENAME_NOREPLACE) == e.EINVAL
    held = open_file(ctx, b"/a/b/deep")
    vfs_rename(ctx, None, b"/a/b", None, b"/moved")
    assert held.path is not None and d_path(ctx.fs.root, held.path) == b"/moved/deep"
    assert path_lookup(ctx, None, b"/moved/c/../..").same_as(ctx.fs.root)
    assert inode_at(ctx, b"/").nlink == 4 and inode_at(ctx, b"/a").nlink == 2


def test_rename_exchange_and_whiteout(ctx: Context) -> None:
    before = inode_at(ctx, b"/a/file")
    vfs_rename(ctx, None, b"/a/file", None, b"/a/b", RENAME_EXCHANGE)
    assert inode_at(ctx, b"/a/b") is before and read_file(ctx, b"/a/file/deep") == b"deep"
    assert inode_at(ctx, b"/a").nlink == 3
    vfs_rename(ctx, None, b"/a/b", None, b"/out", RENAME_WHITEOUT)
    assert inode_at(ctx, b"/a/b").mode == S_IFCHR and inode_at(ctx, b"/a/b").rdev == 0


def test_replaced_files_are_deleted_for_their_holders(ctx: Context) -> None:
    put_file(ctx, b"/new", b"new")
    old = open_file(ctx, b"/a/file")
    vfs_rename(ctx, None, b"/new", None, b"/a/file")
    assert old.path is not None and d_path(ctx.fs.root, old.path) == b"/a/file (deleted)"
    assert old.read_bytes(ctx, 0, 100) == b"contents" and old.inode.nlink == 0
    assert read_file(ctx, b"/a/file") == b"new"


def test_mknod(ctx: Context) -> None:
    vfs_mknod(ctx, None, b"/fifo", S_IFIFO | 0o666, 0)
    assert inode_at(ctx, b"/fifo").mode == S_IFIFO | 0o644
    path = vfs_mknod(ctx, None, b"/sock", S_IFSOCK | 0o777, 0)
    assert path.inode() is inode_at(ctx, b"/sock")
    assert errno_of(open_file, ctx, b"/sock", O_RDWR) == e.ENXIO
    assert errno_of(vfs_mknod, ctx, None, b"/d", 0o040755, 0) == e.EPERM
    assert errno_of(vfs_mknod, ctx, None, b"/l", 0o120777, 0) == e.EINVAL
    vfs_chmod(ctx, path_at(ctx, b"/a"), 0o777)
    assert errno_of(vfs_mknod, as_user(ctx), None, b"/a/dev", S_IFCHR, makedev(1, 3)) == e.EPERM
    assert errno_of(vfs_mknod, as_user(ctx), None, b"/a/fifo", S_IFIFO, 0) == 0


def test_hard_links(ctx: Context) -> None:
    assert errno_of(vfs_link, ctx, path_at(ctx, b"/a"), None, b"/h") == e.EPERM
    vfs_link(ctx, path_at(ctx, b"/link", 0), None, b"/h")
    assert inode_at(ctx, b"/h").is_symlink() and inode_at(ctx, b"/h").nlink == 2
    mount_at(ctx, b"/a/b/c", TmpFs(40, StorageQuota()))
    assert errno_of(vfs_link, ctx, path_at(ctx, b"/a/file"), None, b"/a/b/c/h") == e.EXDEV
    assert errno_of(vfs_rename, ctx, None, b"/a/file", None, b"/a/b/c/h") == e.EXDEV


def test_mountpoints_are_busy(ctx: Context) -> None:
    mount_at(ctx, b"/a/b/c", TmpFs(40, StorageQuota()))
    assert errno_of(vfs_rmdir, ctx, None, b"/a/b/c") == e.EBUSY
    assert errno_of(vfs_rename, ctx, None, b"/a/b/c", None, b"/z") == e.EBUSY
    mount_at(ctx, b"/a/file", file_fs())
    assert errno_of(vfs_unlink, ctx, None, b"/a/file") == e.EBUSY


def file_fs() -> FileSystem:
    """A file system whose root is a file."""
    fs = TmpFs(41, StorageQuota())
    root = fs.root_inode
    assert root is not None
    maker = tmpfs_context()
    fs.root_inode = root.create(maker, b"x", 0o644)
    return fs


# -- attributes ----------------------------------------------------------------------------------------------
def test_chmod_rules(ctx: Context) -> None:
    user = as_user(ctx)
    assert errno_of(vfs_chmod, user, path_at(ctx, b"/a/file"), 0o777) == e.EPERM
    assert errno_of(vfs_chmod, ctx, path_at(ctx, b"/link", 0), 0o777) == e.EOPNOTSUPP
    vfs_chown(ctx, path_at(ctx, b"/a/file"), USER, 5)
    vfs_chmod(user, path_at(ctx, b"/a/file"), 0o6755)
    assert inode_at(ctx, b"/a/file").mode == 0o104755  # not in the group: no set-group-id


def test_chown_rules(ctx: Context) -> None:
    path = path_at(ctx, b"/a/file")
    user = Context(Credentials(USER, USER, [7], 0), ctx.fs, ctx.mount_ns)
    assert errno_of(vfs_chown, user, path, USER, -1) == e.EPERM
    vfs_chown(ctx, path, USER, USER)
    vfs_chown(user, path, -1, 7)
    vfs_chown(user, path, USER, -1)
    assert errno_of(vfs_chown, user, path, -1, 8) == e.EPERM
    assert errno_of(vfs_chown, user, path, 0, -1) == e.EPERM
    vfs_chmod(ctx, path, 0o6755)
    vfs_chown(ctx, path, 0, 0)
    assert path.inode().mode == 0o100755
    vfs_chmod(ctx, path, 0o2644)  # mandatory locking, not set-group-id
    vfs_chown(ctx, path, 1, 1)
    assert path.inode().mode == 0o102644
    vfs_chmod(ctx, path_at(ctx, b"/a"), 0o2755)
    vfs_chown(ctx, path_at(ctx, b"/a"), 1, 1)
    assert inode_at(ctx, b"/a").mode == 0o042755


def test_writing_clears_set_id_bits(ctx: Context) -> None:
    vfs_chown(ctx, path_at(ctx, b"/a/file"), USER, USER)
    for write in (
        lambda user: open_file(user, b"/a/file", O_WRONLY).write(user, KernelIovIter(b"x")),
        lambda user: vfs_truncate(user, path_at(user, b"/a/file"), 1),
        lambda user: vfs_ftruncate(user, open_file(user, b"/a/file", O_WRONLY), 1),
    ):
        vfs_chmod(ctx, path_at(ctx, b"/a/file"), 0o6755)
        write(ctx)
        assert inode_at(ctx, b"/a/file").mode == 0o106755  # CAP_FSETID
        write(as_user(ctx))
        assert inode_at(ctx, b"/a/file").mode == 0o100755


def test_utimens(ctx: Context) -> None:
    path = path_at(ctx, b"/a/file")
    inode = path.inode()
    vfs_utimens(ctx, path, 1_000_000_001, -5_000_000_000)
    assert (inode.atime_ns, inode.mtime_ns) == (1_000_000_001, -5_000_000_000)
    vfs_utimens(ctx, path, TIME_OMIT, TIME_NOW)
    assert inode.atime_ns == 1_000_000_001 and inode.mtime_ns > 10**18 and inode.ctime_ns == inode.mtime_ns
    user = as_user(ctx)
    assert errno_of(vfs_utimens, user, path, TIME_NOW, TIME_NOW) == e.EACCES
    assert errno_of(vfs_utimens, user, path, TIME_OMIT, TIME_OMIT) == 0
    vfs_chmod(ctx, path, 0o666)
    assert errno_of(vfs_utimens, user, path, TIME_NOW, TIME_NOW) == 0
    assert errno_of(vfs_utimens, user, path, TIME_NOW, TIME_OMIT) == e.EPERM
    assert errno_of(vfs_utimens, user, path, 5, 5) == e.EPERM


def test_truncate_rules(ctx: Context) -> None:
    assert errno_of(vfs_truncate, ctx, path_at(ctx, b"/a"), 0) == e.EISDIR
    assert errno_of(vfs_truncate, ctx, path_at(ctx, b"/a/file"), -1) == e.EINVAL
    assert errno_of(vfs_truncate, as_user(ctx), path_at(ctx, b"/a/file"), 0) == e.EACCES
    vfs_mknod(ctx, None, b"/fifo", S_IFIFO | 0o666, 0)
    assert errno_of(vfs_truncate, ctx, path_at(ctx, b"/fifo"), 0) == e.EINVAL
    ctx.file_size_limit = 100
    assert errno_of(vfs_truncate, ctx, path_at(ctx, b"/a/file"), 101) == e.EFBIG
    vfs_truncate(ctx, path_at(ctx, b"/a/file"), 100)
    assert vfs_ftruncate(ctx, open_file(ctx, b"/a/file"), 5) == -e.EINVAL


def test_access_uses_the_real_ids(ctx: Context) -> None:
    vfs_chmod(ctx, path_at(ctx, b"/a/file"), 0o600)
    creds = Credentials(USER, USER, [], ALL_CAPS)
    creds.euid = creds.fsuid = 0
    mixed = Context(creds, ctx.fs, ctx.mount_ns)
    assert errno_of(vfs_access, mixed, None, b"/a/file", 4, 0) == e.EACCES
    assert mixed.creds is creds
    assert errno_of(vfs_access, mixed, None, b"/a/file", 4, AT_EACCESS) == 0
    assert errno_of(vfs_access, ctx, None, b"/a/file", 1, 0) == e.EACCES
    assert errno_of(vfs_access, ctx, None, b"/a/file", 8, 0) == e.EINVAL
    assert vfs_access(ctx, None, b"/nothing", 0, 0) == -e.ENOENT


# -- places --------------------------------------------------------------------------------------------------
def test_d_path_across_mounts_and_outside(ctx: Context) -> None:
    mount_at(ctx, b"/a/b/c", TmpFs(40, StorageQuota()))
    vfs_mkdir(ctx, None, b"/a/b/c/in", 0o755)
    path = path_at(ctx, b"/a/b/c/in")
    assert d_path(ctx.fs.root, path) == b"/a/b/c/in"
    assert path_lookup(ctx, path, b"../..").same_as(path_at(ctx, b"/a/b"))
    ctx.fs.cwd = path_at(ctx, b"/a/b")
    ctx.fs.root = path_at(ctx, b"/a/b/c")
    assert getcwd(ctx) == b"(unreachable)/a/b"
    assert d_path(ctx.fs.root, path) == b"/in"
    stray = Path(Mount(0, path.mount.fs, path.mount.root), path.mount.root)
    assert d_path(ctx.fs.root, stray) == b"/"


class Log(InodeWatches):
    """Keeps the events that an inode's watches are told."""

    def __init__(self) -> None:
        self.events: list[tuple[int, int, bytes]] = []

    def event(self, mask: int, cookie: int, name: bytes, *, is_unlinked: bool = False) -> None:
        self.events.append((mask, cookie, name))


def test_events(ctx: Context) -> None:
    log = Log()
    inode_at(ctx, b"/a").watches = log
    put_file(ctx, b"/a/new", b"x")
    vfs_rename(ctx, None, b"/a/new", None, b"/a/b/new")
    vfs_rename(ctx, None, b"/a/b/new", None, b"/a/back")
    vfs_mkdir(ctx, None, b"/a/dir", 0o755)
    vfs_unlink(ctx, None, b"/a/back")
    masks = [(mask, name) for mask, _, name in log.events]
    assert masks == [
        (0x100, b"new"),
        (0x20, b"new"),
        (0x8, b"new"),
        (0x40, b"new"),
        (0x80, b"back"),
        (0x40000100, b"dir"),
        (0x200, b"back"),
    ]
