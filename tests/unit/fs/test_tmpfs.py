"""tmpfs: contents, holes, quotas, attributes, directories, memfds and seals."""

import gc
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.abi import errno as e
from cloche.abi.fcntl import (
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    O_APPEND,
    O_CREAT,
    O_NOATIME,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
)
from cloche.abi.mman import MAP_PRIVATE, MAP_SHARED, MFD_ALLOW_SEALING, MFD_HUGETLB, PROT_READ, PROT_WRITE
from cloche.fs.memfd import MemfdMount, add_seals, get_seals, memfd_create
from cloche.fs.quota import PAGE, StorageQuota
from cloche.fs.storage import CHUNK, SMALL_LIMIT
from cloche.fs.tmpfs import TmpFs, TmpfsFile
from cloche.fs.tmpfs_options import parse_options
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.namei import (
    d_path,
    vfs_ftruncate,
    vfs_getxattr,
    vfs_link,
    vfs_listxattr,
    vfs_mkdir,
    vfs_removexattr,
    vfs_rename,
    vfs_rmdir,
    vfs_setxattr,
    vfs_symlink,
    vfs_truncate,
    vfs_unlink,
)
from cloche.vfs.objects import Context, FileDescription
from tests.unit.vfs.world import (
    Names,
    as_user,
    errno_of,
    inode_at,
    list_dir,
    new_context,
    open_file,
    overlay_context,
    path_at,
    put_file,
    read_at,
    read_file,
    tmpfs_context,
    write_at,
)

SEEK_DATA, SEEK_HOLE = 3, 4
KEEP, PUNCH = 1, 2
TIB = 1 << 40


@pytest.fixture
def ctx() -> Context:
    return tmpfs_context()


def limited(pages: int = -1, inodes: int = -1, memfds: int = 512) -> tuple[Context, StorageQuota]:
    quota = StorageQuota(pages * PAGE if pages >= 0 else -1, inodes, memfds)
    return new_context(TmpFs(33, quota)), quota


def storage_of(file: FileDescription) -> TmpfsFile:
    inode = file.inode
    assert isinstance(inode, TmpfsFile)
    return inode


# -- contents ------------------------------------------------------------------------------------------------
OFFSETS = st.sampled_from([0, 1, 4095, 4096, 5000, CHUNK - 1, CHUNK, CHUNK + 7, SMALL_LIMIT - 1, 300_000])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, st.sampled_from([1, 3, 4096, 70_000])),
        st.tuples(st.just("truncate"), OFFSETS, st.just(0)),
        st.tuples(st.just("punch"), OFFSETS, st.sampled_from([1, 4096, 10_000, 100_000])),
        st.tuples(st.just("allocate"), OFFSETS, st.sampled_from([1, 4096, 100_000])),
        st.tuples(st.just("keep"), OFFSETS, st.sampled_from([1, 4096, 100_000])),
        st.tuples(st.just("map"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@pytest.mark.parametrize("memfds", [512, 0])
@given(STEPS)
@settings(max_examples=120, deadline=None)
def test_contents_are_those_of_a_byte_array(memfds: int, steps: list[tuple[str, int, int]]) -> None:
    ctx, quota = limited(memfds=memfds)
    file = open_file(ctx, b"/f", O_CREAT | O_RDWR)
    model = bytearray()
    for number, (kind, offset, length) in enumerate(steps):
        if kind == "write":
            data = bytes([number + 1]) * length
            assert write_at(ctx, file, offset, data) == length
            model.extend(bytes(max(0, offset + length - len(model))))
            model[offset : offset + length] = data
        elif kind == "truncate":
            assert vfs_ftruncate(ctx, file, offset) == 0
            model = model[:offset] + bytes(max(0, offset - len(model)))
        elif kind == "punch":
            assert file.fallocate(ctx, PUNCH | KEEP, offset, length) == 0
            end = min(offset + length, len(model))
            if end > offset:
                model[offset:end] = bytes(end - offset)
        elif kind == "map" and memfds:
            file.mmap_fd(ctx, PROT_READ, MAP_SHARED)
        elif kind == "keep" or kind == "allocate":
            result = file.fallocate(ctx, KEEP if kind == "keep" else 0, offset, length)
            assert result == 0 or (memfds == 0 and result == -e.ENOSPC)
            if kind == "allocate" and result == 0:
                model.extend(bytes(max(0, offset + length - len(model))))
        assert file.inode.size == len(model)
        assert read_at(ctx, file, 0, len(model) + 10) == bytes(model)
        assert file.read_bytes(ctx, 0, len(model) + 10) == bytes(model)
        assert read_at(ctx, file, 4000, 2000) == bytes(model[4000:6000])
        # All data except holes is accounted for, and never more than was touched.
        storage = storage_of(file).storage
        assert file.inode.blocks == storage.pages * 8 and quota.pages == storage.pages
        position = 0
        while position < len(model):
            data_at = file.lseek(ctx, position, SEEK_DATA)
            hole_end = data_at if data_at >= 0 else len(model)
            assert model.count(0, position, hole_end) == hole_end - position
            if data_at < 0:
                assert data_at == -e.ENXIO
                break
            position = file.lseek(ctx, data_at, SEEK_HOLE)
            assert data_at < position <= len(model)
    vfs_unlink(ctx, None, b"/f")
    file.put()
    del file
    gc.collect()
    assert (quota.pages, len(quota.backed), quota.inodes) == (0, 0, 1)


def test_huge_sparse_files_cost_nothing(ctx: Context) -> None:
    file = open_file(ctx, b"/sparse", O_CREAT | O_RDWR)
    assert vfs_ftruncate(ctx, file, TIB) == 0
    assert file.inode.blocks == 0 and file.inode.size == TIB
    assert write_at(ctx, file, TIB // 2, b"x") == 1
    assert file.inode.blocks == 8
    assert file.lseek(ctx, 0, SEEK_DATA) == TIB // 2
    assert file.lseek(ctx, TIB // 2, SEEK_HOLE) == TIB // 2 + PAGE
    assert file.lseek(ctx, TIB - 1, SEEK_DATA) == -e.ENXIO
    assert file.lseek(ctx, TIB, SEEK_HOLE) == -e.ENXIO
    assert read_at(ctx, file, TIB - 4, 10) == bytes(4)
    assert vfs_ftruncate(ctx, file, 1 << 62) == 0


def test_small_files_need_no_memfd_and_big_ones_have_one(ctx: Context) -> None:
    file = open_file(ctx, b"/f", O_CREAT | O_RDWR)
    write_at(ctx, file, 0, b"s" * SMALL_LIMIT)
    assert storage_of(file).storage.fd < 0
    write_at(ctx, file, SMALL_LIMIT, b"more")
    fd = storage_of(file).storage.fd
    assert fd >= 0 and os.pread(fd, 5, SMALL_LIMIT - 1) == b"smore"
    guests = os.dup(fd)
    vfs_unlink(ctx, None, b"/f")
    file.put()
    del file
    with pytest.raises(OSError):
        os.fstat(fd)
    assert os.fstat(guests).st_blocks == 0  # the memory is freed although a process still maps it
    os.close(guests)


def test_mapping_makes_a_memfd_that_is_the_file(ctx: Context) -> None:
    file = open_file(ctx, b"/f", O_CREAT | O_RDWR)
    write_at(ctx, file, 0, b"before")
    fd = file.mmap_fd(ctx, PROT_READ | PROT_WRITE, MAP_SHARED)
    assert os.pread(fd, 10, 0) == b"before"
    os.pwrite(fd, b"guest!", 0)  # as a guest does through its mapping
    assert read_file(ctx, b"/f") == b"guest!"
    write_at(ctx, file, 6, b"kernel")
    assert os.pread(fd, 20, 0) == b"guest!kernel"
    os.posix_fallocate(fd, 0, 12)
    file.inode.refresh(ctx)
    assert file.inode.blocks == 8


def test_without_memfds_files_work_and_cannot_be_mapped() -> None:
    ctx, _ = limited(memfds=0)
    put_file(ctx, b"/f", b"x" * 1_000_000)
    assert read_file(ctx, b"/f") == b"x" * 1_000_000
    assert errno_of(open_file(ctx, b"/f").mmap_fd, ctx, PROT_READ, MAP_PRIVATE) == e.ENOMEM


def test_unused_memfds_are_given_up_for_others() -> None:
    ctx, quota = limited(memfds=2)
    contents = {b"/%d" % number: bytes([number]) * 400_000 + b"end" for number in range(5)}
    for name, content in contents.items():
        put_file(ctx, name, content)
    assert len(quota.backed) == 2
    held = [open_file(ctx, b"/%d" % number) for number in range(3)]
    first, second = (each.mmap_fd(ctx, PROT_READ, MAP_SHARED) for each in held[:2])
    assert os.pread(first, 2, 0) == b"\0\0" and os.pread(second, 2, 0) == b"\1\1"
    assert errno_of(held[2].mmap_fd, ctx, PROT_READ, MAP_SHARED) == e.ENOMEM
    pages = quota.pages
    held[0].put()
    assert os.pread(held[2].mmap_fd(ctx, PROT_READ, MAP_SHARED), 2, 0) == b"\2\2"
    assert quota.pages == pages and len(quota.backed) == 2
    for name, content in contents.items():
        assert read_file(ctx, name) == content


def test_append_and_limits(ctx: Context) -> None:
    put_file(ctx, b"/f", b"12345")
    file = open_file(ctx, b"/f", O_WRONLY | O_APPEND)
    file.pos = 1
    assert file.write(ctx, KernelIovIter(b"678")) == 3 and file.pos == 8
    ctx.file_size_limit = 10
    assert file.write(ctx, KernelIovIter(b"90ab")) == 2
    assert file.write(ctx, KernelIovIter(b"c")) == -e.EFBIG
    assert write_at(ctx, file, 0, b"") == 0
    ctx.file_size_limit = -1
    assert write_at(ctx, file, 0x7FFFFFFFFFFFFFFF, b"x") == -e.EFBIG


# -- quotas --------------------------------------------------------------------------------------------------
def test_a_full_file_system_takes_what_fits() -> None:
    ctx, quota = limited(pages=4)
    file = open_file(ctx, b"/f", O_CREAT | O_RDWR)
    assert write_at(ctx, file, 0, b"x" * (3 * PAGE)) == 3 * PAGE
    assert write_at(ctx, file, 3 * PAGE, b"y" * (2 * PAGE)) == PAGE
    assert write_at(ctx, file, 4 * PAGE, b"z") == -e.ENOSPC
    assert write_at(ctx, file, 100, b"over") == 4  # no new page
    assert quota.pages == 4 and file.inode.size == 4 * PAGE
    put_file(ctx, b"/empty")
    assert write_at(ctx, open_file(ctx, b"/empty", O_WRONLY), 0, b"x") == -e.ENOSPC
    assert vfs_ftruncate(ctx, file, PAGE) == 0 and quota.pages == 1
    assert file.fallocate(ctx, 0, 0, 5 * PAGE) == -e.ENOSPC
    figures = ctx.fs.root.mount.fs.statfs(ctx)
    assert (figures.blocks, figures.blocks_free) == (4, 3)


def test_a_full_file_system_with_memfds() -> None:
    ctx, quota = limited(pages=200)
    file = open_file(ctx, b"/f", O_CREAT | O_RDWR)
    assert write_at(ctx, file, 0, b"x" * (150 * PAGE)) == 150 * PAGE
    assert storage_of(file).storage.fd >= 0
    assert write_at(ctx, file, 100 * PAGE, b"y" * (90 * PAGE)) == 90 * PAGE
    assert write_at(ctx, file, 180 * PAGE, b"z" * (50 * PAGE)) == 20 * PAGE
    assert write_at(ctx, file, 500 * PAGE, b"z") == -e.ENOSPC
    assert write_at(ctx, file, 0, b"again" * 1000) == 5000
    assert quota.pages == 200
    assert file.fallocate(ctx, PUNCH | KEEP, 0, 10 * PAGE) == 0 and quota.pages == 190
    assert write_at(ctx, file, 5 * PAGE, b"z" * (20 * PAGE)) == 20 * PAGE and quota.pages == 195


def test_inodes_are_counted_and_come_back() -> None:
    ctx, quota = limited(inodes=4)
    vfs_mkdir(ctx, None, b"/d", 0o755)
    put_file(ctx, b"/d/f")
    vfs_symlink(ctx, b"x", None, b"/l")
    assert quota.inodes == 4
    assert errno_of(open_file, ctx, b"/g", O_CREAT) == e.ENOSPC
    assert errno_of(vfs_mkdir, ctx, None, b"/e", 0o755) == e.ENOSPC
    vfs_link(ctx, path_at(ctx, b"/d/f"), None, b"/hard")  # no new inode
    vfs_unlink(ctx, None, b"/l")
    put_file(ctx, b"/g")
    vfs_unlink(ctx, None, b"/g")
    vfs_unlink(ctx, None, b"/hard")
    vfs_unlink(ctx, None, b"/d/f")
    vfs_rmdir(ctx, None, b"/d")
    gc.collect()
    assert quota.inodes == 1


def test_long_links_take_pages_and_further_names_count_as_inodes() -> None:
    fs = TmpFs(1, StorageQuota(), parse_options(b"size=8k,nr_inodes=6", 0))
    ctx = new_context(fs)
    vfs_symlink(ctx, b"x" * 127, None, b"/short")
    assert (inode_at(ctx, b"/short", 0).blocks, fs.account.pages) == (0, 0)
    vfs_symlink(ctx, b"x" * 128, None, b"/long")
    vfs_symlink(ctx, b"x" * 4095, None, b"/longer")
    assert (inode_at(ctx, b"/long", 0).blocks, fs.account.pages) == (8, 2)
    assert errno_of(vfs_symlink, ctx, b"x" * 128, None, b"/third") == e.ENOSPC
    vfs_unlink(ctx, None, b"/long")
    gc.collect()
    assert (fs.account.pages, fs.account.inodes) == (1, 3)
    put_file(ctx, b"/file")
    vfs_link(ctx, path_at(ctx, b"/file"), None, b"/second")
    vfs_link(ctx, path_at(ctx, b"/file"), None, b"/third")
    assert errno_of(vfs_link, ctx, path_at(ctx, b"/file"), None, b"/fourth") == e.ENOSPC
    vfs_rename(ctx, None, b"/short", None, b"/second")
    vfs_unlink(ctx, None, b"/third")
    assert fs.account.inodes == 4
    vfs_unlink(ctx, None, b"/file")
    gc.collect()
    assert fs.account.inodes == 3


def test_an_unlinked_open_file_lives_until_it_is_closed() -> None:
    ctx, quota = limited()
    file = open_file(ctx, b"/f", O_CREAT | O_RDWR)
    write_at(ctx, file, 0, b"still here")
    vfs_unlink(ctx, None, b"/f")
    assert read_at(ctx, file, 0, 100) == b"still here" and quota.pages == 1
    file.put()
    del file
    assert quota.pages == 0 and quota.inodes == 1


def test_options() -> None:
    options = parse_options(b"size=50%,nr_inodes=1k,mode=0700,uid=5,gid=6,huge=never", 1 << 20)
    assert (options.size, options.inodes, options.mode, options.uid, options.gid) == (
        1 << 19,
        1024,
        0o700,
        5,
        6,
    )
    assert parse_options(b"size=5000", 0).size == 2 * PAGE
    assert parse_options(b"", 0).size == -1
    for bad in (b"size=x", b"mode=9", b"nonsense", b"size=", b"uid=-1"):
        assert errno_of(parse_options, bad, 1 << 20) == e.EINVAL
    fs = TmpFs(1, StorageQuota(), parse_options(b"size=64k,nr_inodes=5,mode=755", 0))
    assert fs.options() == ",size=64k,nr_inodes=5,mode=755,inode64"


# -- attributes ----------------------------------------------------------------------------------------------
def test_times(ctx: Context) -> None:
    put_file(ctx, b"/f", b"x")
    inode = inode_at(ctx, b"/f")
    created = inode.btime_ns
    assert inode.mtime_ns == inode.ctime_ns > created > 10**18
    before = inode.atime_ns
    read_file(ctx, b"/f")
    first = inode.atime_ns
    assert first > before
    read_file(ctx, b"/f")
    assert inode.atime_ns == first  # relatime
    put_file(ctx, b"/f", b"y")
    open_file(ctx, b"/f", O_RDONLY | O_NOATIME).pread(ctx, KernelIovIter(capacity=1), 0)
    assert inode.atime_ns == first
    root = inode_at(ctx, b"/")
    old = root.mtime_ns
    vfs_rename(ctx, None, b"/f", None, b"/g")
    assert root.mtime_ns > old and inode.ctime_ns == root.ctime_ns > inode.mtime_ns
    with_size = inode.mtime_ns
    vfs_truncate(ctx, path_at(ctx, b"/g"), 1)
    assert inode.mtime_ns > with_size


def test_extended_attributes(ctx: Context) -> None:
    put_file(ctx, b"/f")
    path = path_at(ctx, b"/f")
    assert errno_of(vfs_getxattr, ctx, path, b"user.a") == e.ENODATA
    vfs_setxattr(ctx, path, b"user.a", b"1", 0)
    vfs_setxattr(ctx, path, b"trusted.b", b"2", 0)
    assert errno_of(vfs_setxattr, ctx, path, b"user.a", b"1", 1) == e.EEXIST
    assert errno_of(vfs_setxattr, ctx, path, b"user.c", b"1", 2) == e.ENODATA
    assert errno_of(vfs_setxattr, ctx, path, b"user.c", b"1", 4) == e.EINVAL
    assert errno_of(vfs_setxattr, ctx, path, b"nope.c", b"1", 0) == e.EOPNOTSUPP
    assert errno_of(vfs_setxattr, ctx, path, b"system.posix_acl_access", b"1", 0) == e.EOPNOTSUPP
    assert errno_of(vfs_setxattr, ctx, path, b"", b"1", 0) == e.ERANGE
    assert errno_of(vfs_setxattr, ctx, path, b"user." + b"n" * 251, b"1", 0) == e.ERANGE
    assert errno_of(vfs_setxattr, ctx, path, b"user.", b"1", 0) == e.EINVAL
    assert errno_of(vfs_setxattr, ctx, path, b"user.big", bytes(65537), 0) == e.E2BIG
    assert vfs_getxattr(ctx, path, b"user.a") == b"1"
    assert sorted(vfs_listxattr(ctx, path)) == [b"trusted.b", b"user.a"]
    user = as_user(ctx)
    assert vfs_listxattr(user, path) == [b"user.a"]
    assert errno_of(vfs_getxattr, user, path, b"trusted.b") == e.ENODATA
    assert errno_of(vfs_setxattr, user, path, b"trusted.b", b"", 0) == e.EPERM
    assert errno_of(vfs_setxattr, user, path, b"user.a", b"", 0) == e.EACCES
    vfs_removexattr(ctx, path, b"user.a")
    assert errno_of(vfs_removexattr, ctx, path, b"user.a") == e.ENODATA
    vfs_symlink(ctx, b"x", None, b"/l")
    assert errno_of(vfs_setxattr, ctx, path_at(ctx, b"/l", 0), b"user.a", b"", 0) == e.EPERM
    vfs_setxattr(ctx, path, b"security.capability", b"\1\0\0\2" + bytes(16), 0)
    write_at(ctx, open_file(ctx, b"/f", O_WRONLY), 0, b"x")
    assert errno_of(vfs_getxattr, ctx, path, b"security.capability") == e.ENODATA


def test_extended_attributes_are_paid_for() -> None:
    ctx, quota = limited(pages=20)
    put_file(ctx, b"/f")
    path = path_at(ctx, b"/f")
    vfs_setxattr(ctx, path, b"user.a", bytes(60_000), 0)
    assert quota.pages == 15
    assert errno_of(vfs_setxattr, ctx, path, b"user.b", bytes(60_000), 0) == e.ENOSPC
    vfs_unlink(ctx, None, b"/f")
    del path
    assert quota.pages == 0


# -- directories ---------------------------------------------------------------------------------------------
def test_attributes_of_a_file_have_a_limit(ctx: Context) -> None:
    put_file(ctx, b"/f")
    path = path_at(ctx, b"/f")
    largest = bytes(65536)
    for number in range(10, 25):
        vfs_setxattr(ctx, path, b"user.%d" % number, largest, 0)
    assert errno_of(vfs_setxattr, ctx, path, b"user.25", largest, 0) == e.ENOSPC
    assert len(vfs_listxattr(ctx, path)) == 15
    vfs_setxattr(ctx, path, b"user.10", b"short", 0)
    vfs_setxattr(ctx, path, b"user.25", largest, 0)


def test_attributes_of_a_file_below_have_it_too() -> None:
    """Where the host's file system has more of them, a copy could not be kept: it stays as it is."""

    def fill(lower: Context) -> None:
        put_file(lower, b"/f")
        inode = inode_at(lower, b"/f")
        assert isinstance(inode, TmpfsFile)
        inode.xattrs = {b"user.%d" % number: bytes(65536) for number in range(17)}

    ctx = overlay_context(fill)
    path = path_at(ctx, b"/f")
    assert errno_of(vfs_setxattr, ctx, path, b"user.x", b"", 0) == e.ENOSPC
    assert errno_of(vfs_removexattr, ctx, path, b"user.1") == e.ENOSPC
    assert len(vfs_listxattr(ctx, path)) == 17


def test_reading_a_directory_while_it_changes(ctx: Context) -> None:
    for number in range(50):
        put_file(ctx, b"/f%02d" % number)
    file = open_file(ctx, b"/")
    seen: list[bytes] = []
    position_of: dict[bytes, int] = {}
    removed = 0
    while True:
        names = Names(room=7)
        assert file.iterate(ctx, names) == 0
        if not names.rows:
            break
        for name, _, _, next_pos in names.rows:
            seen.append(name)
            position_of[name] = next_pos
            if name.startswith(b"f"):
                vfs_unlink(ctx, None, b"/" + name)
                removed += 1
        put_file(ctx, b"/n%d" % len(seen)) if len(seen) < 40 else None
    assert len(seen) == len(set(seen))
    assert {b"f%02d" % number for number in range(50)} <= set(seen)
    assert removed == 50 and all(name.startswith(b"n") for name in list_dir(ctx, b"/"))
    positions = [position_of[name] for name in seen]
    assert positions == sorted(positions)


def test_directory_offsets_are_stable(ctx: Context) -> None:
    for name in (b"a", b"b", b"c", b"d"):
        put_file(ctx, b"/" + name)
    file = open_file(ctx, b"/")
    names = Names()
    file.iterate(ctx, names)
    where = {row[0]: row[3] for row in names.rows}
    vfs_unlink(ctx, None, b"/a")
    vfs_unlink(ctx, None, b"/c")
    for after, expected in ((b"a", [b"b", b"d"]), (b"b", [b"d"]), (b"c", [b"d"]), (b"d", [])):
        file.lseek(ctx, where[after], 0)
        rest = Names()
        file.iterate(ctx, rest)
        assert [row[0] for row in rest.rows] == expected
    file.lseek(ctx, 0, 0)
    again = Names()
    file.iterate(ctx, again)
    assert [row[0] for row in again.rows] == [b".", b"..", b"b", b"d"]
    assert inode_at(ctx, b"/").size == 80


def test_link_counts_of_directories(ctx: Context) -> None:
    root = inode_at(ctx, b"/")
    vfs_mkdir(ctx, None, b"/a", 0o755)
    vfs_mkdir(ctx, None, b"/b", 0o755)
    assert root.nlink == 4
    vfs_rename(ctx, None, b"/a", None, b"/b/a")
    assert root.nlink == 3 and inode_at(ctx, b"/b").nlink == 3
    gone = inode_at(ctx, b"/b/a")
    vfs_rmdir(ctx, None, b"/b/a")
    assert gone.nlink == 0 and inode_at(ctx, b"/b").nlink == 2


# -- memfds --------------------------------------------------------------------------------------------------
def test_memfd_and_seals(ctx: Context) -> None:
    fs = ctx.fs.root.mount.fs
    assert isinstance(fs, TmpFs)
    place = MemfdMount(fs)
    plain = memfd_create(ctx, place, b"plain", 0).get()
    assert plain.path is not None and d_path(ctx.fs.root, plain.path) == b"/memfd:plain (deleted)"
    assert get_seals(plain) == F_SEAL_SEAL and add_seals(ctx, plain, F_SEAL_WRITE) == -e.EPERM
    assert errno_of(memfd_create, ctx, place, b"x", 1 << 10) == e.EINVAL
    assert errno_of(memfd_create, ctx, place, b"x", MFD_HUGETLB) == e.ENODEV
    assert errno_of(memfd_create, ctx, place, b"x" * 250, 0) == e.EINVAL
    file = memfd_create(ctx, place, b"sealed", MFD_ALLOW_SEALING).get()
    assert get_seals(file) == 0
    write_at(ctx, file, 0, b"0123456789")
    assert add_seals(ctx, file, F_SEAL_SHRINK | F_SEAL_GROW) == 0
    assert errno_of(vfs_ftruncate, ctx, file, 5) == e.EPERM
    assert errno_of(vfs_ftruncate, ctx, file, 50) == e.EPERM
    assert write_at(ctx, file, 8, b"abcd") == 2 and write_at(ctx, file, 10, b"x") == -e.EPERM
    assert file.fallocate(ctx, 0, 0, 20) == -e.EPERM
    assert add_seals(ctx, file, F_SEAL_WRITE) == 0
    assert write_at(ctx, file, 0, b"x") == -e.EPERM
    assert file.fallocate(ctx, PUNCH | KEEP, 0, 4) == -e.EPERM
    assert errno_of(file.mmap_fd, ctx, PROT_READ | PROT_WRITE, MAP_SHARED) == e.EPERM
    assert file.mmap_fd(ctx, PROT_READ | PROT_WRITE, MAP_PRIVATE) >= 0
    assert add_seals(ctx, file, F_SEAL_SEAL) == 0
    assert add_seals(ctx, file, F_SEAL_FUTURE_WRITE) == -e.EPERM
    assert add_seals(ctx, file, 1 << 20) == -e.EINVAL
    assert read_at(ctx, file, 0, 20) == b"01234567ab"


def test_write_seal_while_mapped(ctx: Context) -> None:
    import mmap

    fs = ctx.fs.root.mount.fs
    assert isinstance(fs, TmpFs)
    file = memfd_create(ctx, MemfdMount(fs), b"m", MFD_ALLOW_SEALING).get()
    write_at(ctx, file, 0, b"x" * PAGE)
    fd = file.mmap_fd(ctx, PROT_READ | PROT_WRITE, MAP_SHARED)
    with mmap.mmap(fd, PAGE, mmap.MAP_SHARED):  # stands for a guest's mapping
        assert add_seals(ctx, file, F_SEAL_WRITE) == -e.EBUSY
        assert write_at(ctx, file, 0, b"y") == 1
    assert add_seals(ctx, file, F_SEAL_WRITE) == 0
    assert get_seals(file) == F_SEAL_WRITE
