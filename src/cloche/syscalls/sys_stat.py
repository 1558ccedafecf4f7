"""stat, statx, statfs, access, readlink and getdents: asking about files."""

from struct import Struct
from typing import Final

from cloche.abi.errno import (
    EBADF,
    EFAULT,
    EINVAL,
    ENOENT,
    ENOTDIR,
)
from cloche.abi.fcntl import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_STATX_SYNC_TYPE,
    AT_SYMLINK_NOFOLLOW,
)
from cloche.abi.fs import MS_NOSYMFOLLOW, MS_RDONLY, MS_RELATIME, ST_NOSYMFOLLOW, ST_RDONLY, ST_RELATIME
from cloche.abi.inotify import IN_ACCESS
from cloche.abi.stat import (
    STATX__RESERVED,
    STATX_ATTR_AUTOMOUNT,
    STATX_ATTR_MOUNT_ROOT,
    STATX_BASIC_STATS,
    STATX_BTIME,
    STATX_MNT_ID,
    STATX_MNT_ID_UNIQUE,
    major,
    minor,
)
from cloche.abi.structs import (
    STAT_SIZE,
    dirent64_size,
    pack_dirent,
    pack_dirent64,
    pack_statfs,
    pack_statx,
)
from cloche.fs.proc_mounts import unique_id
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.task import Task
from cloche.syscalls.args import (
    any_file,
    data_file,
    empty_path,
    path_arg,
    path_at,
    path_of_file,
    start_of,
)
from cloche.vfs.namei import LOOKUP_FOLLOW, path_lookup, path_lookup_quick, vfs_access
from cloche.vfs.objects import DirEmitter, Inode, Path, notify_path

_STAT_FLAGS: Final = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE
_MAX_DIRENTS: Final = 1 << 16  # in one call (I8); programs call until there are no more entries
_ST_VALID: Final = 0x20
# MS_* and ST_* agree on nosuid nodev noexec sync noatime nodiratime.
_SAME_BITS: Final = 2 | 4 | 8 | 16 | 1024 | 2048
_USTAT: Final = Struct("<iIQ6x6xI")


# -- stat ----------------------------------------------------------------------------------------------------
def write_stat(task: Task, inode: Inode, addr: int) -> int:
    """Copy out struct stat."""
    inode.refresh(task)
    uid, gid = inode.uid, inode.gid
    if task.creds.user_ns is not None:
        uid, gid = task.creds.show_uid(uid), task.creds.show_gid(gid)
    mem = task.user_memory()
    mem.prepare(addr, STAT_SIZE)
    is_written = mem.thread.write_stat(
        addr,
        inode.dev(),
        inode.ino,
        inode.nlink,
        inode.mode,
        uid,
        gid,
        inode.rdev,
        inode.size,
        inode.blksize,
        inode.blocks,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
    )
    return 0 if is_written else -EFAULT


def sys_stat(task: Task, args: Args) -> int:
    """stat(2)."""
    found = path_lookup_quick(task, None, path_arg(task, args.a0), LOOKUP_FOLLOW)
    return found if isinstance(found, int) else write_stat(task, found.inode(), to_u64(args.a1))


def sys_lstat(task: Task, args: Args) -> int:
    """lstat(2)."""
    found = path_lookup_quick(task, None, path_arg(task, args.a0), 0)
    return found if isinstance(found, int) else write_stat(task, found.inode(), to_u64(args.a1))


def sys_fstat(task: Task, args: Args) -> int:
    """fstat(2)."""
    file = task.files.find(to_i32(args.a0))
    if file is None:
        return -EBADF
    return write_stat(task, file.inode, to_u64(args.a1))


def sys_newfstatat(task: Task, args: Args) -> int:
    """fstatat(2)."""
    flags = to_u32(args.a3)
    if flags & ~_STAT_FLAGS:
        return -EINVAL
    addr = to_u64(args.a2)
    name = b"" if args.a1 == 0 and flags & AT_EMPTY_PATH else path_arg(task, args.a1)
    if not name:
        if flags & AT_EMPTY_PATH == 0:
            return -ENOENT
        return write_stat(task, empty_path(task, args.a0).inode(), addr)
    lookup = 0 if flags & AT_SYMLINK_NOFOLLOW else LOOKUP_FOLLOW
    found = path_lookup_quick(task, start_of(task, args.a0, name), name, lookup)
    return found if isinstance(found, int) else write_stat(task, found.inode(), addr)


def sys_statx(task: Task, args: Args) -> int:
    """statx(2)."""
    flags, wanted = to_u32(args.a2), to_u32(args.a3)
    if wanted & STATX__RESERVED or flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE:
        return -EINVAL
    if flags & ~_STAT_FLAGS:
        return -EINVAL
    path = path_at(task, args.a0, args.a1, flags)
    inode = path.inode()
    inode.refresh(task)
    mask = STATX_BASIC_STATS
    if inode.btime_ns:
        mask |= STATX_BTIME
    mask |= STATX_MNT_ID_UNIQUE if wanted & STATX_MNT_ID_UNIQUE else STATX_MNT_ID
    attributes = STATX_ATTR_MOUNT_ROOT if path.dentry is path.mount.root else 0
    dev, rdev = inode.dev(), inode.rdev
    raw = pack_statx(
        mask,
        inode.blksize,
        attributes,
        inode.nlink,
        task.creds.show_uid(inode.uid),
        task.creds.show_gid(inode.gid),
        inode.mode,
        inode.ino,
        inode.size,
        inode.blocks,
        STATX_ATTR_MOUNT_ROOT | STATX_ATTR_AUTOMOUNT,
        inode.atime_ns,
        inode.btime_ns,
        inode.ctime_ns,
        inode.mtime_ns,
        major(rdev),
        minor(rdev),
        major(dev),
        minor(dev),
        unique_id(path.mount) if wanted & STATX_MNT_ID_UNIQUE else path.mount.ident,
    )
    task.user_memory().write(to_u64(args.a4), raw)
    return 0


# -- access --------------------------------------------------------------------------------------------------
def sys_access(task: Task, args: Args) -> int:
    """access(2)."""
    return check_access(task, AT_FDCWD, args.a0, to_u32(args.a1), 0)


def sys_faccessat(task: Task, args: Args) -> int:
    """faccessat(2): the system call has no flags."""
    return check_access(task, args.a0, args.a1, to_u32(args.a2), 0)


def sys_faccessat2(task: Task, args: Args) -> int:
    """faccessat2(2)."""
    return check_access(task, args.a0, args.a1, to_u32(args.a2), to_u32(args.a3))


def check_access(task: Task, dirfd_arg: int, name_arg: int, mode: int, flags: int) -> int:
    """do_faccessat."""
    if mode & ~7:
        return -EINVAL
    name = path_arg(task, name_arg)
    if not name and flags & AT_EMPTY_PATH:
        return vfs_access(task, empty_path(task, dirfd_arg), name, mode, flags)
    return vfs_access(task, start_of(task, dirfd_arg, name), name, mode, flags)


# -- readlink ------------------------------------------------------------------------------------------------
def sys_readlink(task: Task, args: Args) -> int:
    """readlink(2)."""
    return read_link(task, AT_FDCWD, args.a0, args.a1, to_i32(args.a2))


def sys_readlinkat(task: Task, args: Args) -> int:
    """readlinkat(2): the empty name is the descriptor's own link."""
    return read_link(task, args.a0, args.a1, args.a2, to_i32(args.a3))


def read_link(task: Task, dirfd_arg: int, name_arg: int, buffer: int, size: int) -> int:
    """The target, cut to `size` bytes and not terminated."""
    if size <= 0:
        return -EINVAL
    name = path_arg(task, name_arg)
    if name:
        found = path_lookup_quick(task, start_of(task, dirfd_arg, name), name, 0)
        if isinstance(found, int):
            return found
        path = found
    else:
        if to_i32(dirfd_arg) == AT_FDCWD:
            return -ENOENT
        path = path_of_file(any_file(task, dirfd_arg))
    inode = path.inode()
    if not inode.is_symlink():
        return -EINVAL if name else -ENOENT
    target = inode.readlink(task)[:size]
    inode.link_was_read(path.mount)
    task.user_memory().write(to_u64(buffer), target)
    return len(target)


# -- getdents ------------------------------------------------------------------------------------------------
class Dirents(DirEmitter):
    """Packs entries for getdents64 (or the old getdents) into `room` bytes, of which the first `valid` exist."""

    def __init__(self, room: int, valid: int, *, is_old: bool) -> None:
        self.room: int = room
        self.valid: int = valid
        self.is_old: bool = is_old
        self.parts: list[bytes] = []
        self.is_full: bool = False
        self.is_faulted: bool = False

    def emit(self, name: bytes, ino: int, dtype: int, next_pos: int) -> bool:
        size = dirent64_size(len(name))  # the old record is as long: its type byte lies in the padding
        if size > self.room:
            self.is_full = True
            return False
        if size > self.valid:
            self.is_faulted = True
            return False
        self.room -= size
        self.valid -= size
        if self.is_old:
            self.parts.append(pack_dirent(ino, next_pos, dtype, name))
        else:
            self.parts.append(pack_dirent64(ino, next_pos, dtype, name))
        return True


def read_directory(task: Task, args: Args, *, is_old: bool) -> int:
    """getdents and getdents64."""
    file = data_file(task, args.a0)
    if not file.inode.is_dir():
        return -ENOTDIR
    path = file.path
    if path is not None and path.dentry.is_deleted:
        return -ENOENT
    room = min(to_u32(args.a2), _MAX_DIRENTS)
    emitter = Dirents(room, task.user_memory().room(to_u64(args.a1), room), is_old=is_old)
    result = file.iterate(task, emitter)
    if path is not None:
        notify_path(path, IN_ACCESS)  # at the end of a directory, too
    if not emitter.parts:
        if emitter.is_faulted:
            return -EFAULT
        return -EINVAL if emitter.is_full and result >= 0 else result
    data = b"".join(emitter.parts)
    task.user_memory().write(to_u64(args.a1), data)
    return len(data)


def sys_getdents64(task: Task, args: Args) -> int:
    """getdents64(2)."""
    return read_directory(task, args, is_old=False)


def sys_getdents(task: Task, args: Args) -> int:
    """getdents(2)."""
    return read_directory(task, args, is_old=True)


# -- statfs --------------------------------------------------------------------------------------------------
def mount_flags(path: Path) -> int:
    """f_flags of statfs(2)."""
    flags = path.mount.flags
    result = _ST_VALID | flags & _SAME_BITS
    if flags & MS_RDONLY or path.mount.fs.is_readonly:
        result |= ST_RDONLY
    if flags & MS_RELATIME:
        result |= ST_RELATIME
    if flags & MS_NOSYMFOLLOW:
        result |= ST_NOSYMFOLLOW
    return result


def write_statfs(task: Task, path: Path, addr: int) -> int:
    """Copy out struct statfs."""
    fs = path.inode().fs
    info = fs.statfs(task)
    raw = pack_statfs(
        info.magic,
        info.block_size,
        info.blocks,
        info.blocks_free,
        info.blocks_avail,
        info.files,
        info.files_free,
        fs.dev,
        info.name_max,
        info.block_size,
        mount_flags(path),
    )
    task.user_memory().write(addr, raw)
    return 0


def sys_statfs(task: Task, args: Args) -> int:
    """statfs(2)."""
    return write_statfs(task, path_lookup(task, None, path_arg(task, args.a0)), to_u64(args.a1))


def sys_fstatfs(task: Task, args: Args) -> int:
    """fstatfs(2)."""
    return write_statfs(task, path_of_file(any_file(task, args.a0)), to_u64(args.a1))


def sys_ustat(task: Task, args: Args) -> int:
    """ustat(2): free blocks and inodes of a mounted device."""
    dev = to_u32(args.a0)
    for mount in task.mount_ns.mounts:
        if mount.fs.dev == dev:
            info = mount.fs.statfs(task)
            raw = _USTAT.pack(info.blocks_free & 0x7FFFFFFF, 0, info.files_free, 0)
            task.user_memory().write(to_u64(args.a1), raw)
            return 0
    return -EINVAL
