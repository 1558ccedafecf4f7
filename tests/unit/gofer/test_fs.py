"""The file system of the gofer under the real path walk, with a real gofer; the host is the oracle."""

import builtins
import mmap
import os
import shutil
import socket
import stat
import struct
from collections.abc import ItemsView, Iterator
from pathlib import Path as HostPath

import pytest

from cloche.abi import errno
from cloche.abi.errno import LinuxError
from cloche.abi.fcntl import RENAME_EXCHANGE, RENAME_NOREPLACE
from cloche.abi.mman import MAP_PRIVATE, MAP_SHARED
from cloche.analyst.cache import cache_name, open_cache, store
from cloche.fs.gofer import SINGLE_LOOKUPS, GoferDir, GoferFs
from cloche.fs.gofer_client import GoferClient
from cloche.fs.gofer_inode import GoferInode
from cloche.fs.gofer_owners import STRANGER
from cloche.gofer.launch import start_gofer
from cloche.gofer.nodes import AttachPoint
from cloche.mm.usermem import KernelIovIter
from cloche.syscalls.sys_stat import Dirents
from cloche.vfs import attr as vfs_attr
from cloche.vfs import namei
from cloche.vfs.credentials import ALL_CAPS, Credentials
from cloche.vfs.objects import (
    Context,
    Dentry,
    FileDescription,
    FsContext,
    Inode,
    Mount,
    MountNamespace,
    Path,
)
from cloche.vfs.userns import UserNamespace
from cloche.wire.textfile import PAGE_BYTES, TextFile, TextSite, encode_header

from .test_files import errno_of

RO, RW, SHARED, SHARED_RO = range(4)


def entries(file: FileDescription, ctx: Context, room: int = 1 << 20) -> list[tuple[bytes, int, int]]:
    """Name, inode number and d_type of what one getdents64 with a buffer of `room` bytes gives."""
    emitter = Dirents(room, room, is_old=False)
    assert file.iterate(ctx, emitter) == 0
    rows = []
    for record in emitter.parts:
        ino, _offset, length, dtype = struct.unpack_from("<QqHB", record)
        assert length == len(record)
        rows.append((record[19:].rstrip(b"\0"), ino, dtype))
    return rows


class View:
    """A mounted attach point, with the calls that a program would make."""

    def __init__(self, fs: GoferFs, creds: Credentials) -> None:
        assert fs.root_inode is not None
        self.fs = fs
        root = Path(Mount(1, fs, Dentry(b"", None, fs.root_inode)), Dentry(b"", None, fs.root_inode))
        root = Path(root.mount, root.mount.root)
        self.ctx = Context(creds, FsContext(root, root), MountNamespace(root))

    def lookup(self, name: bytes, flags: int = namei.LOOKUP_FOLLOW) -> Inode:
        return namei.path_lookup(self.ctx, None, name, flags).inode()

    def path(self, name: bytes) -> Path:
        return namei.path_lookup(self.ctx, None, name, 0)

    def open(self, name: bytes, flags: int = 0, mode: int = 0o644) -> FileDescription:
        return namei.do_open(self.ctx, None, name, flags, mode).get()

    def read(self, name: bytes) -> bytes:
        file = self.open(name)
        try:
            return file.read_bytes(self.ctx, 0, 1 << 20)
        finally:
            file.put()

    def write(self, name: bytes, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC) -> None:
        file = self.open(name, os.O_WRONLY | flags)
        try:
            assert file.write(self.ctx, KernelIovIter(data)) == len(data)
        finally:
            file.put()

    def list(self, name: bytes) -> set[bytes]:
        return set(self.order(name))

    def order(self, name: bytes) -> builtins.list[bytes]:
        """The names in a directory, in its order."""
        file = self.open(name, os.O_DIRECTORY)
        names = []
        while rows := entries(file, self.ctx):
            names += [row[0] for row in rows if row[0] not in (b".", b"..")]
        file.put()
        return names

    def stat(self, name: bytes) -> Inode:
        inode = self.lookup(name, 0)
        inode.refresh(self.ctx)
        return inode


def check_same(inode: Inode, path: HostPath) -> None:
    st = path.lstat()
    mine = (inode.mode, inode.nlink, inode.uid, inode.gid, inode.size, inode.mtime_ns, inode.ctime_ns)
    assert mine == (st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


class Rig:
    def __init__(self, base: HostPath, analyst: list[socket.socket] | None = None) -> None:
        self.ro = base / "ro"
        self.rw = base / "rw"
        self.shared = base / "shared"
        for path in (self.ro, self.rw, self.shared):
            path.mkdir()
            (path / "file").write_bytes(b"content")
            (path / "dir" / "deep").mkdir(parents=True)
            (path / "dir" / "deep" / "leaf").write_bytes(b"leaf")
            (path / "link").symlink_to("dir/deep")
            (path / "absolute").symlink_to("/file")
        self.process = start_gofer(
            [
                AttachPoint(str(self.ro), is_writable=False),
                AttachPoint(str(self.rw), is_writable=True),
                AttachPoint(str(self.shared), is_writable=True),
                AttachPoint(str(self.shared), is_writable=False),
            ],
            analyst=analyst,
        )
        self.process.wait_ready()
        self.client = GoferClient(self.process.sock)
        # fsuid is the test's own, so that new files are its own on the host, as root or not
        self.creds = Credentials(os.geteuid(), os.getegid(), [], ALL_CAPS)

    def outside_name(self) -> HostPath:
        """A name on the same file system, outside of all attach points."""
        return self.ro.parent / "outside"

    def view(self, index: int, user_ns: UserNamespace | None = None) -> View:
        fs = GoferFs(self.client, index, 77, is_shared=index >= SHARED, user_ns=user_ns)
        return View(fs, self.creds)


@pytest.fixture
def rig(tmp_path: HostPath) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.client.close()
    os.waitpid(made.process.pid, 0)


@pytest.mark.parametrize("index", [RO, RW, SHARED, SHARED_RO])
def test_reading(rig: Rig, index: int) -> None:
    view = rig.view(index)
    base = [rig.ro, rig.rw, rig.shared, rig.shared][index]
    assert view.read(b"/file") == b"content"
    assert view.read(b"/link/leaf") == b"leaf"
    assert view.read(b"/absolute") == b"content"
    assert view.list(b"/") == {b"file", b"dir", b"link", b"absolute"}
    assert view.list(b"/dir/deep") == {b"leaf"}
    for name in ("file", "dir", "dir/deep", "dir/deep/leaf", "link"):
        check_same(view.stat(b"/" + name.encode()), base / name)
    assert view.lookup(b"/link", 0).readlink(view.ctx) == b"dir/deep"
    assert errno_of(view.lookup, b"/nope") == errno.ENOENT
    assert errno_of(view.lookup, b"/file/x") == errno.ENOTDIR
    assert view.lookup(b"/file").dev() == 77
    with pytest.raises(LinuxError):
        view.open(b"/dir", os.O_RDWR)


def test_single_names_do_not_fetch_the_whole_directory(rig: Rig) -> None:
    view = rig.view(RO)
    calls = rig.client.calls
    view.lookup(b"/dir/deep/leaf")
    assert rig.client.calls == calls + 3  # three names, each with what a walk asks for next
    view.lookup(b"/dir/deep/leaf")
    view.stat(b"/dir/deep/leaf")
    assert rig.client.calls == calls + 3
    view.read(b"/dir/deep/leaf")
    view.read(b"/file")
    view.read(b"/file")
    assert rig.client.calls == calls + 4  # the name with its descriptor, which was kept


def test_a_name_comes_with_its_descriptor_once(rig: Rig) -> None:
    os.link(rig.ro / "file", rig.ro / "second")
    (rig.ro / "fifo").unlink(missing_ok=True)
    os.mkfifo(rig.ro / "fifo")
    view = rig.view(RO)
    before = len(os.listdir("/proc/self/fd"))
    first, second = view.lookup(b"/file"), view.lookup(b"/second")
    view.lookup(b"/fifo")
    assert first is second
    assert len(os.listdir("/proc/self/fd")) == before + 1
    rig.view(RW).lookup(b"/file")  # its contents may change
    assert len(os.listdir("/proc/self/fd")) == before + 1


def test_only_what_may_be_a_program_is_asked_for_its_text(rig: Rig) -> None:
    (rig.ro / "data").write_bytes(bytes(8192))
    (rig.ro / "small").write_bytes(b"\x7fELF")
    (rig.ro / "program").write_bytes(b"\x7fELF" + bytes(8192))
    view = rig.view(RO)
    for name, questions in ((b"/data", 0), (b"/small", 0), (b"/program", 1)):
        inode = view.lookup(name)
        assert isinstance(inode, GoferInode)
        inode.fd_to_map()
        before = rig.client.calls
        assert inode.patched_text() is None
        assert rig.client.calls == before + questions


@pytest.mark.parametrize("index", [RO, RW])
def test_text_that_the_cache_has_comes_with_the_file(
    tmp_path: HostPath, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rig = Rig(tmp_path, [theirs])
    cache = open_cache()
    text = TextFile(0x2000, 1, is_fixed=False)
    text.page_offsets, text.page_addresses = [0], [0]
    text.sites.append(TextSite(64, 5, 16, 24, [(0, 0)]))
    sound = [encode_header(text), bytes(2 * PAGE_BYTES)]
    programs: list[tuple[bytes, list[bytes], int]] = [
        (b"patched.so.1", sound, 0o644), (b"bare.so", [], 0o644), (b"program", sound, 0o755), (b"other", sound, 0o644)
    ]  # fmt: skip
    base = rig.ro if index == RO else rig.rw
    for name, chunks, mode in programs:
        path = base / name.decode()
        path.write_bytes(b"\x7fELF" + bytes(8192))
        path.chmod(mode)
        store(cache, cache_name(path.stat()), chunks)
    os.close(cache)
    view = rig.view(index)
    for name, chunks, _mode in programs:
        inode = view.lookup(b"/" + name)
        assert isinstance(inode, GoferInode)
        inode.fd_to_map()
        before = rig.client.calls
        for _again in range(2):
            assert (inode.patched_text() is None) == (not chunks)
        # "other" is neither named as a library nor can it be executed
        assert rig.client.calls == before + (name == b"other")
    changed = base / "patched.so.2"
    changed.write_bytes(b"\x7fELF" + bytes(8192))
    store_again = open_cache()
    store(store_again, cache_name(changed.stat()), sound)
    os.close(store_again)
    inode = view.lookup(b"/patched.so.2")
    assert isinstance(inode, GoferInode)
    inode.fd_to_map()
    changed.write_bytes(b"\x7fELF" + bytes(9000))
    before = rig.client.calls
    assert inode.patched_text() is None
    assert rig.client.calls == before + 1  # what came was of another state of the file
    rig.client.close()
    assert os.waitpid(rig.process.pid, 0)[1] == 0
    ours.close()
    theirs.close()


def test_many_names_fetch_the_directory_once(rig: Rig) -> None:
    view = rig.view(RO)
    view.lookup(b"/dir/deep/leaf")
    calls = rig.client.calls
    for number in range(3 * SINGLE_LOOKUPS):
        assert errno_of(view.lookup, b"/dir/deep/other%d" % number) == errno.ENOENT
    assert rig.client.calls == calls + SINGLE_LOOKUPS - 1 + 1
    view.list(b"/dir/deep")
    assert rig.client.calls == calls + SINGLE_LOOKUPS


@pytest.mark.parametrize("index", [RO, SHARED_RO])
def test_read_only(rig: Rig, index: int) -> None:
    view = rig.view(index)
    assert errno_of(view.open, b"/file", os.O_RDWR) == errno.EROFS
    assert errno_of(view.open, b"/new", os.O_RDWR | os.O_CREAT) == errno.EROFS
    assert errno_of(namei.vfs_mkdir, view.ctx, None, b"/d", 0o755) == errno.EROFS
    assert errno_of(namei.vfs_unlink, view.ctx, None, b"/file") == errno.EROFS
    assert errno_of(vfs_attr.vfs_chmod, view.ctx, view.path(b"/file"), 0o600) == errno.EROFS
    directory = view.lookup(b"/")
    assert errno_of(directory.mkdir, view.ctx, b"d", 0o755) == errno.EROFS  # the inode itself refuses too


@pytest.mark.parametrize("index", [RW, SHARED])
def test_writing(rig: Rig, index: int) -> None:
    view = rig.view(index)
    base = [rig.ro, rig.rw, rig.shared][index]
    view.write(b"/new", b"hello")
    assert (base / "new").read_bytes() == b"hello"
    check_same(view.stat(b"/new"), base / "new")
    view.write(b"/new", b" world", os.O_APPEND)
    assert view.read(b"/new") == b"hello world"
    view.write(b"/new", b"x")
    assert (base / "new").read_bytes() == b"x"
    assert errno_of(view.open, b"/new", os.O_CREAT | os.O_EXCL | os.O_RDWR) == errno.EEXIST

    file = view.open(b"/new", os.O_RDWR)
    assert file.pwrite(view.ctx, KernelIovIter(b"tail"), 100) == 4
    assert file.inode.size == 104
    assert file.fallocate(view.ctx, 0, 0, 4096) in (0, -errno.EOPNOTSUPP)
    assert vfs_attr.vfs_ftruncate(view.ctx, file, 50) == 0
    assert file.fsync(view.ctx, is_data_only=False) == 0
    assert file.lseek(view.ctx, -1, os.SEEK_END) == 49
    assert file.lseek(view.ctx, 0, os.SEEK_DATA) == 0
    assert file.lseek(view.ctx, 60, os.SEEK_DATA) == -errno.ENXIO
    file.put()
    check_same(view.stat(b"/new"), base / "new")
    vfs_attr.vfs_truncate(view.ctx, view.path(b"/new"), 7)
    assert (base / "new").stat().st_size == 7

    namei.vfs_mkdir(view.ctx, None, b"/d", 0o755)
    view.write(b"/d/inner", b"i")
    namei.vfs_symlink(view.ctx, b"inner", None, b"/d/s")
    assert view.read(b"/d/s") == b"i"
    assert view.list(b"/d") == {b"inner", b"s"}
    assert sorted(os.listdir(base / "d")) == ["inner", "s"]
    assert errno_of(namei.vfs_rmdir, view.ctx, None, b"/d") == errno.ENOTEMPTY
    namei.vfs_unlink(view.ctx, None, b"/d/s")
    namei.vfs_unlink(view.ctx, None, b"/d/inner")
    assert view.list(b"/d") == set()
    namei.vfs_rmdir(view.ctx, None, b"/d")
    assert errno_of(view.lookup, b"/d") == errno.ENOENT
    assert not (base / "d").exists()
    check_same(view.stat(b"/"), base)


@pytest.mark.parametrize("index", [RW, SHARED])
def test_attributes(rig: Rig, index: int) -> None:
    view = rig.view(index)
    base = [rig.ro, rig.rw, rig.shared][index]
    vfs_attr.vfs_chmod(view.ctx, view.path(b"/file"), 0o750)
    vfs_attr.vfs_utimens(view.ctx, view.path(b"/file"), 1_500_000_000_123_456_789, vfs_attr.TIME_OMIT)
    st = (base / "file").stat()
    assert stat.S_IMODE(st.st_mode) == 0o750 and st.st_atime_ns == 1_500_000_000_123_456_789
    check_same(view.stat(b"/file"), base / "file")
    if os.geteuid() == 0:
        vfs_attr.vfs_chown(view.ctx, view.path(b"/file"), 1234, 4321)
        assert (base / "file").stat().st_uid == 1234
        check_same(view.stat(b"/file"), base / "file")


@pytest.mark.parametrize("index", [RW, SHARED])
def test_rename_and_hard_links(rig: Rig, index: int) -> None:
    view = rig.view(index)
    base = [rig.ro, rig.rw, rig.shared][index]
    ctx = view.ctx
    namei.vfs_link(ctx, view.path(b"/file"), None, b"/dir/second")
    assert view.lookup(b"/file") is view.lookup(b"/dir/second")
    assert view.stat(b"/file").nlink == 2
    namei.vfs_unlink(ctx, None, b"/file")
    vfs_attr.vfs_chmod(ctx, view.path(b"/dir/second"), 0o640)  # reached by its other name
    assert stat.S_IMODE((base / "dir" / "second").stat().st_mode) == 0o640
    assert view.read(b"/dir/second") == b"content"

    namei.vfs_rename(ctx, None, b"/dir", None, b"/moved")
    assert view.read(b"/moved/deep/leaf") == b"leaf"
    assert errno_of(view.lookup, b"/dir") == errno.ENOENT
    view.write(b"/moved/deep/more", b"more")
    assert (base / "moved" / "deep" / "more").read_bytes() == b"more"
    namei.vfs_mkdir(ctx, None, b"/dir", 0o755)
    assert errno_of(namei.vfs_rename, ctx, None, b"/dir", None, b"/moved", RENAME_NOREPLACE) == errno.EEXIST
    assert errno_of(namei.vfs_rename, ctx, None, b"/dir", None, b"/moved") == errno.ENOTEMPTY
    namei.vfs_rename(ctx, None, b"/dir", None, b"/moved", RENAME_EXCHANGE)
    assert view.list(b"/dir") == {b"deep", b"second"}
    assert view.list(b"/moved") == set()
    view.write(b"/a", b"a")
    view.write(b"/b", b"b")
    namei.vfs_rename(ctx, None, b"/a", None, b"/b")
    assert view.read(b"/b") == b"a" and errno_of(view.lookup, b"/a") == errno.ENOENT
    vfs_attr.vfs_chmod(ctx, view.path(b"/b"), 0o600)
    assert stat.S_IMODE((base / "b").stat().st_mode) == 0o600
    namei.vfs_rename(ctx, None, b"/b", None, b"/dir/deep/c")
    assert view.read(b"/dir/deep/c") == b"a"
    assert view.list(b"/") == {os.fsencode(name) for name in os.listdir(base)}


@pytest.mark.parametrize("index", [RW, SHARED])
def test_an_unlinked_file_lives_on_its_descriptor(rig: Rig, index: int) -> None:
    view = rig.view(index)
    file = view.open(b"/file", os.O_RDWR)
    namei.vfs_unlink(view.ctx, None, b"/file")
    assert file.pwrite(view.ctx, KernelIovIter(b"NEW"), 0) == 3
    assert file.read_bytes(view.ctx, 0, 100) == b"NEWtent"
    assert vfs_attr.vfs_ftruncate(view.ctx, file, 3) == 0
    file.inode.refresh(view.ctx)
    assert file.inode.size == 3 and file.inode.nlink == 0
    view.write(b"/file", b"other")
    assert file.read_bytes(view.ctx, 0, 100) == b"NEW"
    file.put()
    assert view.read(b"/file") == b"other"


def test_the_host_changes_a_shared_directory(rig: Rig) -> None:
    view = rig.view(SHARED)
    base = rig.shared
    assert errno_of(view.lookup, b"/appears") == errno.ENOENT
    (base / "appears").write_bytes(b"1")
    assert view.read(b"/appears") == b"1"
    (base / "appears").write_bytes(b"22")
    assert view.read(b"/appears") == b"22"
    first = view.lookup(b"/appears")
    (base / "tmp").write_bytes(b"333")
    (base / "tmp").rename(base / "appears")
    assert view.lookup(b"/appears") is not first
    assert view.read(b"/appears") == b"333"
    assert b"appears" in view.list(b"/")
    (base / "appears").unlink()
    assert errno_of(view.lookup, b"/appears") == errno.ENOENT
    assert b"appears" not in view.list(b"/")

    file = view.open(b"/file")
    with open(base / "file", "ab") as out:
        out.write(b" and more")
    assert file.lseek(view.ctx, 0, os.SEEK_END) == len(b"content and more")
    file.put()

    view.lookup(b"/dir/deep/leaf")
    shutil.rmtree(base / "dir")
    assert errno_of(view.lookup, b"/dir/deep/leaf") == errno.ENOENT
    (base / "dir").write_bytes(b"a file now")
    assert view.read(b"/dir") == b"a file now"
    (base / "dir").unlink()
    (base / "dir").symlink_to("/file")
    assert view.read(b"/dir") == b"content and more"


def test_inode_numbers_are_reused_by_the_host(rig: Rig) -> None:
    """A deleted file's number goes to the next one: what was read of the first must not come back."""
    view = rig.view(SHARED)
    for generation in range(50):
        name = rig.shared / "gen"
        name.write_bytes(b"%d" % generation)
        assert view.read(b"/gen") == b"%d" % generation
        name.unlink()


def test_appending_on_both_sides(rig: Rig) -> None:
    view = rig.view(SHARED)
    file = view.open(b"/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with open(rig.shared / "log", "ab", buffering=0) as host:
        for _round in range(3):
            host.write(b"h")
            assert file.write(view.ctx, KernelIovIter(b"g")) == 1
    file.put()
    assert (rig.shared / "log").read_bytes() == b"hghghg"


def test_descriptors_to_map(rig: Rig) -> None:
    view = rig.view(RW)
    file = view.open(b"/file", os.O_RDWR)
    reader = view.open(b"/file")
    private = file.mmap_fd(view.ctx, 3, MAP_PRIVATE)
    shared = file.mmap_fd(view.ctx, 3, MAP_SHARED)
    assert flags_of(private) & os.O_ACCMODE == os.O_RDONLY
    assert flags_of(shared) & os.O_ACCMODE == os.O_RDWR
    assert flags_of(reader.mmap_fd(view.ctx, 1, MAP_SHARED)) & os.O_ACCMODE == os.O_RDONLY
    assert errno_of(reader.mmap_fd, view.ctx, 3, MAP_SHARED) == errno.EACCES
    with mmap.mmap(shared, 7, mmap.MAP_SHARED) as area:
        area[:3] = b"MAP"
    assert (rig.rw / "file").read_bytes() == b"MAPtent"
    file.put()
    reader.put()


def flags_of(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL)


def test_reading_a_directory_in_pieces(rig: Rig) -> None:
    for index in range(100):
        (rig.rw / f"f{index}").touch()
    view = rig.view(RW)
    file = view.open(b"/", os.O_DIRECTORY)
    seen: list[bytes] = []
    while True:
        rows = entries(file, view.ctx, 200)
        if not rows:
            break
        seen.extend(row[0] for row in rows)
    assert len(seen) == len(set(seen)) == 100 + 4 + 2
    file.pos = 0
    rows = entries(file, view.ctx)
    inos = {name: ino for name, ino, _dtype in rows}
    assert inos[b"f5"] == view.stat(b"/f5").ino == (rig.rw / "f5").stat().st_ino
    assert {row[0]: row[2] for row in rows}[b"link"] == 10
    file.put()


def test_descriptors_do_not_leak(rig: Rig) -> None:
    for index in range(40):
        (rig.rw / f"f{index}").write_bytes(b"x")
        (rig.shared / f"f{index}").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    for which in (RW, SHARED):
        view = rig.view(which)
        view.fs.max_idle_fds = 10
        for index in range(40):
            view.read(b"/f%d" % index)
            view.write(b"/f%d" % index, b"y")
            namei.vfs_mknod(view.ctx, None, b"/n%d" % index, stat.S_IFREG | 0o600, 0)
    assert len(os.listdir("/proc/self/fd")) <= before + 21  # one tells of changes


def test_shared_inodes_are_forgotten(rig: Rig) -> None:
    for index in range(100):
        (rig.shared / f"f{index}").write_bytes(b"%d" % index)
    view = rig.view(SHARED)
    view.fs.max_shared_inodes = 20
    kept = view.open(b"/f0")
    for index in range(100):
        assert view.read(b"/f%d" % index) == b"%d" % index
    assert view.lookup(b"/f0") is kept.inode
    assert kept.read_bytes(view.ctx, 0, 10) == b"0"
    assert len(view.fs._inodes) <= 30
    kept.put()


class CountedInodes(dict[tuple[int, int], GoferInode]):
    """Known inodes; counts how many were looked at in walks over all of them."""

    looks = 0

    def items(self) -> ItemsView[tuple[int, int], GoferInode]:
        self.looks += len(self)
        return super().items()


def test_directories_above_the_limit_are_not_walked_for_each_new_one(rig: Rig) -> None:
    for index in range(400):
        (rig.shared / f"d{index}").mkdir()
    view = rig.view(SHARED)
    view.fs.max_shared_inodes = 20
    counted = view.fs._inodes = CountedInodes(view.fs._inodes)
    for index in range(400):
        assert view.lookup(b"/d%d" % index).is_dir()
    assert 20 <= counted.looks <= 4 * len(counted)
    (rig.shared / "f").write_bytes(b"x")
    for index in range(400):  # unused files are still forgotten
        os.rename(rig.shared / "f", rig.shared / f"f{index}")
        shutil.copy(rig.shared / f"f{index}", rig.shared / "f")
        assert view.read(b"/f%d" % index) == b"x"
    assert sum(not inode.is_dir() for inode in counted.values()) <= len(counted) // 2 + 20


def test_owners_are_mapped_both_ways(rig: Rig) -> None:
    """The gofer, in its user namespace, calls the container's user 500 as the test's user is called here."""
    uid, gid = os.geteuid(), os.getegid()
    ns = UserNamespace.of_container([(uid, 500, 1)], [(gid, 600, 1)], 1, may_setgroups=True)
    view = rig.view(RW, ns)
    inode = view.stat(b"/file")
    assert (inode.uid, inode.gid) == (500, 600)
    view.ctx.creds = Credentials(500, 600, [], ALL_CAPS)
    view.write(b"/new", b"x")
    assert ((rig.rw / "new").stat().st_uid, (rig.rw / "new").stat().st_gid) == (uid, gid)
    inode = view.stat(b"/new")
    assert (inode.uid, inode.gid) == (500, 600)
    view.ctx.creds = Credentials(501, 600, [], ALL_CAPS)
    assert errno_of(view.write, b"/other", b"x") == errno.EOVERFLOW
    assert not (rig.rw / "other").exists()
    other = rig.view(RW, UserNamespace.of_container([(9, 500, 1)], [(9, 600, 1)], 1, may_setgroups=True))
    inode = other.stat(b"/file")
    assert (inode.uid, inode.gid) == (STRANGER, STRANGER)


def test_special_files_are_not_opened_on_the_host(rig: Rig) -> None:
    os.mkfifo(rig.ro / "fifo")
    view = rig.view(RO)
    calls = rig.client.calls
    inode = view.lookup(b"/fifo")
    assert isinstance(inode, GoferInode) and stat.S_ISFIFO(inode.mode)
    assert errno_of(namei.vfs_mknod, view.ctx, None, b"/x", stat.S_IFIFO, 0) in (errno.EROFS, errno.EPERM)
    assert rig.client.calls == calls + 2  # one for each name


def test_xattrs_and_statfs(rig: Rig) -> None:
    view = rig.view(RW)
    try:
        os.setxattr(rig.rw / "file", "user.a", b"1")
    except OSError:
        pytest.skip("the file system has no user attributes")
    inode = view.lookup(b"/file")
    assert inode.getxattr(view.ctx, b"user.a") == b"1"
    inode.setxattr(view.ctx, b"user.b", b"2", 0)
    assert set(inode.listxattr(view.ctx)) == {b"user.a", b"user.b"}
    inode.removexattr(view.ctx, b"user.a")
    assert errno_of(inode.getxattr, view.ctx, b"user.a") == errno.ENODATA
    assert view.fs.statfs(view.ctx).blocks == os.statvfs(rig.rw).f_blocks
    assert view.fs.sync() == 0


def test_a_dead_gofer_is_an_io_error(rig: Rig) -> None:
    view = rig.view(RO)
    warm = view.open(b"/file")
    os.kill(rig.process.pid, 9)
    assert errno_of(view.lookup, b"/dir/deep/leaf") == errno.EIO
    assert errno_of(view.lookup, b"/dir/deep/leaf") == errno.EIO
    assert warm.read_bytes(view.ctx, 0, 100) == b"content"
    warm.put()


def test_who_reads_file_after_file_does_not_wait_for_each(rig: Rig) -> None:
    many = rig.ro / "many"
    many.mkdir()
    for number in range(60):
        (many / f"f{number}").write_bytes(b"%d" % number)
    os.link(many / "f3", many / "again")
    (many / "pipe").symlink_to("f1")
    view = rig.view(RO)
    listing = view.open(b"/many", os.O_DIRECTORY)
    names = [row[0] for row in entries(listing, view.ctx) if row[0].startswith(b"f")]
    listing.put()
    before = rig.client.calls
    for name in names:
        assert view.read(b"/many/" + name) == name[1:]
    assert rig.client.calls - before < 20
    # Not in order: no file is opened ahead.
    for number in range(60):
        (many / f"g{number}").write_bytes(b"%d" % number)
    view = rig.view(RO)
    view.list(b"/many")
    view.open(b"/many/" + names[40]).put()
    inode = view.lookup(b"/many/" + names[41])
    assert isinstance(inode, GoferInode) and inode.read_fd < 0


def test_who_reads_it_all_again_does_not_wait_for_each_either(rig: Rig) -> None:
    many = rig.ro / "many"
    many.mkdir()
    for number in range(60):
        (many / f"f{number}").write_bytes(b"%d" % number)
    view = rig.view(RO)
    view.fs.max_idle_fds = 24
    names = view.order(b"/many")
    for _again in range(2):  # the second time without a listing: an overlay above knows the names
        before = view.fs.client.calls
        for name in names:
            assert view.read(b"/many/" + name) == name[1:]
        assert view.fs.client.calls - before < 20


def test_who_lists_directory_after_directory_does_not_wait_for_each(rig: Rig) -> None:
    many = rig.ro / "many"
    for number in range(60):
        (many / f"d{number}" / "below").mkdir(parents=True)
        (many / f"d{number}" / f"f{number}").write_bytes(b"")
        (many / f"x{number}").write_bytes(b"")
    for number in range(3000):
        (many / "d30" / f"{number:200}").write_bytes(b"")
    view = rig.view(RO)
    names = [each for each in view.order(b"/many") if each.startswith(b"d")]
    before = view.fs.client.calls
    for name in names:
        found = view.list(b"/many/" + name)
        expected = {b"below", b"f" + name[1:]}
        assert found >= expected and (len(found) == 2) == (name != b"d30")
        assert not view.list(b"/many/" + name + b"/below")
    # those below each come with it; a large one comes alone
    assert view.fs.client.calls - before < 60
    # who looks into one of them gets no other
    view = rig.view(RO)
    view.list(b"/many")
    view.list(b"/many/" + names[7])
    inode = view.lookup(b"/many/" + names[8])
    assert isinstance(inode, GoferDir) and inode.known_fid() == 0


def test_a_walk_goes_on_behind_what_was_listed_ahead(rig: Rig) -> None:
    """Through directories of every depth, and more of them than one answer has; two walks beside each other."""
    for top in range(9):
        for number in range(12):
            (rig.ro / "tree" / f"t{top}" / f"d{number}" / "a" / "b").mkdir(parents=True)
    expected = {os.path.join(at, each) for at, dirs, _files in os.walk(rig.ro / "tree") for each in dirs}
    view = rig.view(RO)
    base = os.fsencode(rig.ro)

    def walk(path: bytes) -> Iterator[bytes]:
        for name in view.order(path):
            yield base + path + b"/" + name
            yield from walk(path + b"/" + name)

    before = view.fs.client.calls
    found = []
    walks = [walk(b"/tree"), walk(b"/tree")]
    while walks:
        for each in list(walks):
            name = next(each, b"")
            if name:
                found.append(os.fsdecode(name))
            else:
                walks.remove(each)
    assert sorted(found) == sorted([*expected, *expected])
    assert view.fs.client.calls - before < len(expected) // 3


def test_a_directory_that_was_replaced_is_not_taken_for_what_was_listed(rig: Rig) -> None:
    many = rig.ro / "many"
    for number in range(8):
        (many / f"d{number}" / "old").mkdir(parents=True)
    view = rig.view(RO)
    names = view.order(b"/many")
    view.list(b"/many/" + names[0])
    for name in names[2:]:
        path = many / os.fsdecode(name)
        shutil.move(path, rig.ro / f"gone-{os.fsdecode(name)}")
        (path / "new").mkdir(parents=True)
    assert view.list(b"/many/" + names[1]) == {b"old"}
    inode = view.lookup(b"/many/" + names[2])
    assert isinstance(inode, GoferDir) and inode.known_fid() == 0


def test_what_was_opened_ahead_is_given_up_in_time(rig: Rig) -> None:
    many = rig.ro / "many"
    many.mkdir()
    for number in range(60):
        (many / f"f{number}").write_bytes(b"%d" % number)
    view = rig.view(RO)
    view.fs.max_idle_fds = 8
    before = len(os.listdir("/proc/self/fd"))
    listing = view.open(b"/many", os.O_DIRECTORY)
    names = [row[0] for row in entries(listing, view.ctx) if row[0].startswith(b"f")]
    listing.put()
    for name in names:
        assert view.read(b"/many/" + name) == name[1:]
    assert len(os.listdir("/proc/self/fd")) <= before + 9


def test_contents_have_a_new_name_when_the_file_may_be_another(rig: Rig) -> None:
    """The host may give a number to a new file while no process has the old one open."""
    inode = rig.view(RO).lookup(b"/file")
    assert isinstance(inode, GoferInode)
    inode.fd_to_read()
    first = inode.content_key
    inode.close_fds()
    inode.fd_to_read()
    assert inode.content_key == first > 0
    inode.close_fds()
    (rig.ro / "file").chmod(0o640)
    inode.fd_to_read()
    assert inode.content_key > first
    inode.close_fds()
