"""The objects of the VFS, in the Linux shape: file systems, inodes, dentries, mounts, paths, open file descriptions.

They refer to each other, so they share a module (compiled modules must not import in a circle).  A file system
derives from `FileSystem`, `Inode` and `FileDescription` and overrides what it supports; the defaults return
what Linux returns for an operation that a file system does not have.  Path walk is in `namei`, mounting in
`mount`.

Rules:
- Operations never block: what would block returns -EAGAIN, and the system call layer waits on
  `FileDescription.wait_queue()` and tries again.
- Directory operations are called after permission checks (namei does them); `name` is one component, not
  empty, not `.` or `..`, without `/` and NUL, at most 255 bytes.
- Results are ints (negative errno) on paths that programs take often; otherwise `LinuxError` is raised.
"""

from collections.abc import Generator
from typing import Final

from mypy_extensions import trait

from cloche.abi.capability import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
from cloche.abi.errno import (
    EACCES,
    EBADF,
    EINVAL,
    EISDIR,
    ENODEV,
    ENOTDIR,
    ENOTTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ESPIPE,
    LinuxError,
)
from cloche.abi.fcntl import O_APPEND, O_PATH
from cloche.abi.fs import SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET
from cloche.abi.inotify import IN_ACCESS, IN_CLOSE_NOWRITE, IN_CLOSE_WRITE, IN_ISDIR, IN_MODIFY, IN_UNMOUNT
from cloche.abi.poll import POLLERR, POLLIN, POLLOUT, POLLPRI
from cloche.abi.stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK
from cloche.mm.quota import FILE_BYTES, KERNEL_MEMORY, MOUNT_BYTES
from cloche.mm.text import PatchedText
from cloche.mm.usermem import IovIter, KernelIovIter, UserMemory
from cloche.vfs.credentials import Credentials
from cloche.vfs.records import ATTR_SIZE, SetAttr, StatFs
from cloche.vfs.userns import Place, UserNamespace
from cloche.vfs.waitqueue import WaitQueue

FIRST_MNT_INO: Final = 0xF0000000
MAY_EXEC: Final = 1
MAY_WRITE: Final = 2
MAY_READ: Final = 4


class FileHandles:
    """The handles of a file system; `vfs.handles` derives from it."""

    def forget(self, inode: "Inode") -> None:
        """The inode is gone: its handle becomes stale."""
        raise NotImplementedError

    def forget_all(self) -> None:
        """The whole file system is gone: all handles become stale."""
        raise NotImplementedError


class FileSystem:
    """A mounted file system instance (struct super_block)."""

    def __init__(self, kind: str, magic: int, dev: int) -> None:
        self.kind: str = kind  # as in /proc/mounts: "tmpfs", "overlay", "proc" …
        self.magic: int = magic
        self.dev: int = dev  # st_dev
        self.source: str = kind  # first column of /proc/mounts
        self.outside: bytes = b""  # the path of its root where it comes from, if programs may know it
        self.root_inode: Inode | None = None
        self.root_dentry: Dentry | None = None  # shared by all its mounts; vfs.mount makes it
        self.has_stable_dentries: bool = True  # False: look every name up again (proc, the host's)
        self.is_readonly: bool = False  # the whole file system (SB_RDONLY), independent of its mounts' flags
        self.sync_flags: int = 0  # MS_SYNCHRONOUS, MS_DIRSYNC: shown, and without effect
        self.user_ns: UserNamespace | None = None  # that mounted it (s_user_ns); None: the initial one
        self.has_devices: bool = True  # device nodes in it work (not SB_I_NODEV)
        self.mount_count: int = 0
        self.watched: dict[Inode, None] = {}  # owned by fs.inotify
        self.has_handles: bool = False  # name_to_handle_at works: its inodes live as long as its files
        self.handles: FileHandles | None = None  # owned by vfs.handles

    def last_unmounted(self) -> None:
        """No mount of it is left: its watches end (fsnotify_sb_delete), and handles are stale."""
        handles = self.handles
        if handles is not None:
            self.handles = None
            handles.forget_all()
        # Approximately in the order of Linux: newest first
        for inode in sorted(self.watched, key=lambda each: -each.ino):
            watches = inode.watches
            if watches is not None:
                watches.event(IN_UNMOUNT | IN_ISDIR if inode.is_dir() else IN_UNMOUNT, 0, b"")

    def statfs(self, ctx: "Context") -> StatFs:
        """Figures for statfs(2)."""
        return StatFs(self.magic)

    def options(self) -> str:
        """The file system's own part of the options column of /proc/mounts, e.g. ",size=4k"."""
        return ""

    def remount(self, ctx: "Context", data: bytes) -> None:
        """mount(2) with MS_REMOUNT: the file system's own options.  Raises LinuxError(EINVAL)."""

    def sync(self) -> int:
        """syncfs(2)."""
        return 0


class InodeLocks:
    """The advisory locks of an inode; `vfs.locks` derives from it."""

    def description_released(self, file: "FileDescription") -> None:
        """The last reference to an open file is gone: drop its flock(2) and OFD locks, and its lease."""

    def break_leases(self, *, is_write: bool, can_wait: bool) -> None:
        """The file is being opened, or its size changed: break leases of others.

        Raises LinuxError(EAGAIN), or vfs.leases.LeaseBroken if the caller can wait for their holders.
        """


class InodeWatches:
    """The inotify watches of an inode; `fs.inotify` derives from it."""

    def event(self, mask: int, cookie: int, name: bytes, *, is_unlinked: bool = False) -> None:
        """Queue IN_* `mask` (one event, IN_ISDIR included).

        `name` is the child's in a directory, else empty; `is_unlinked`: it was opened by a name that is gone.
        """

    def name_gone(self) -> None:
        """The last name was removed: queue IN_DELETE_SELF once the file is closed everywhere."""

    def last_closed(self) -> None:
        """The last open file of the inode was closed."""

    def descriptor_closed(self, file: "FileDescription", table: "Holder") -> None:
        """A descriptor of `file` in a task's `table` of descriptors was closed."""


class FifoBuffer:
    """The buffer of a fifo, while it is open (fs.pipe.Pipe)."""


class Inode:
    """A file's identity and attributes, and the operations of its type.  Times in ns since the epoch."""

    def __init__(self, fs: FileSystem, ino: int, mode: int, uid: int = 0, gid: int = 0) -> None:
        self.fs: FileSystem = fs
        self.ino: int = ino
        self.mode: int = mode  # type and permission bits
        self.nlink: int = 1
        self.uid: int = uid
        self.gid: int = gid
        self.rdev: int = 0
        self.size: int = 0
        self.blocks: int = 0  # of 512 bytes
        self.blksize: int = 4096
        self.atime_ns: int = 0
        self.mtime_ns: int = 0
        self.ctime_ns: int = 0
        self.btime_ns: int = 0
        self.locks: InodeLocks | None = None  # owned by vfs.locks
        self.watches: InodeWatches | None = None  # owned by fs.inotify; told by namei and notify_path
        self.bound_socket: FileDescription | None = None  # owned by net.unix for S_IFSOCK
        self.pipe: FifoBuffer | None = None  # owned by fs.pipe for S_IFIFO
        self.users: int = 0  # open files, mappings included
        self.write_count: int = 0  # open for writing; below 0: being executed (i_writecount)
        self.read_count: int = 0  # open for reading only (i_readcount)
        self.write_hint: int = 0  # F_SET_RW_HINT
        self.is_linkable: bool = False  # O_TMPFILE without O_EXCL: linkat may name it although nlink is 0

    # -- type tests ------------------------------------------------------------------------------------
    def is_dir(self) -> bool:
        return self.mode & S_IFMT == S_IFDIR

    def is_symlink(self) -> bool:
        return self.mode & S_IFMT == S_IFLNK

    def is_regular(self) -> bool:
        return self.mode & S_IFMT == S_IFREG

    # -- attributes ------------------------------------------------------------------------------------
    def dev(self) -> int:
        """st_dev of this inode."""
        return self.fs.dev

    def refresh(self, ctx: "Context") -> None:
        """Bring the attributes up to date before they are shown (shared host files, pseudo files)."""

    def refresh_owner(self, ctx: "Context") -> None:
        """Bring owner and mode up to date before permissions to change the file are checked."""
        self.refresh(ctx)

    def setattr(self, ctx: "Context", attr: SetAttr) -> None:
        """Apply an attribute change, truncation included.  Raises LinuxError."""
        raise LinuxError(EPERM)

    def permission(self, ctx: "Context", mask: int) -> bool:
        """Whether MAY_* `mask` is granted (fs/namei.c generic_permission)."""
        return generic_permission(self, ctx.creds, mask)

    def can_be_direct(self) -> bool:
        """Whether O_DIRECT is supported (FMODE_CAN_ODIRECT)."""
        return self.mode & S_IFMT in (S_IFREG, S_IFIFO, S_IFBLK)

    def check_open(self, ctx: "Context", flags: int) -> None:
        """A last veto before open (e.g. ETXTBSY).  Raises LinuxError."""

    # -- directories -----------------------------------------------------------------------------------
    def lookup(self, ctx: "Context", name: bytes) -> "Inode | None":
        """The child called `name`, None if there is none."""
        raise LinuxError(ENOTDIR)

    def create(self, ctx: "Context", name: bytes, mode: int) -> "Inode":
        """A new regular file (`mode` without type, umask applied), owned by the caller's fsuid/fsgid."""
        raise LinuxError(EACCES if self.is_dir() else ENOTDIR)

    def mkdir(self, ctx: "Context", name: bytes, mode: int) -> "Inode":
        raise LinuxError(EPERM)

    def mknod(self, ctx: "Context", name: bytes, mode: int, rdev: int) -> "Inode":
        """A fifo, socket or device node; `mode` with type."""
        raise LinuxError(EPERM)

    def symlink(self, ctx: "Context", name: bytes, target: bytes) -> "Inode":
        raise LinuxError(EPERM)

    def link(self, ctx: "Context", name: bytes, inode: "Inode") -> None:
        """Hard link to `inode`, of the same file system."""
        raise LinuxError(EPERM)

    def unlink(self, ctx: "Context", name: bytes, inode: "Inode") -> None:
        raise LinuxError(EPERM)

    def rmdir(self, ctx: "Context", name: bytes, inode: "Inode") -> None:
        """Remove an empty directory.  Raises LinuxError(ENOTEMPTY)."""
        raise LinuxError(EPERM)

    def rename(
        self,
        ctx: "Context",
        name: bytes,
        inode: "Inode",
        new_dir: "Inode",
        new_name: bytes,
        target: "Inode | None",
        flags: int,
    ) -> None:
        """Move `inode` from self/name to new_dir/new_name, replacing `target`; RENAME_* flags.

        namei has made the checks of vfs_rename (types, loops, permissions, sticky bits).
        """
        raise LinuxError(EPERM)

    def tmpfile(self, ctx: "Context", mode: int) -> "Inode":
        """O_TMPFILE: a nameless regular file."""
        raise LinuxError(EOPNOTSUPP)

    # -- links -----------------------------------------------------------------------------------------
    def readlink(self, ctx: "Context") -> bytes:
        """The target of a symbolic link."""
        raise LinuxError(EINVAL)

    def link_was_read(self, mount: "Mount") -> None:
        """A link below `mount` was read or followed: update its atime."""

    def follow_link(self, ctx: "Context") -> "Path | None":
        """Magic links (/proc/self/exe, /proc/self/fd/N): the object itself; None for an ordinary link."""
        return None

    # -- extended attributes -----------------------------------------------------------------------------
    def getxattr(self, ctx: "Context", name: bytes) -> bytes:
        """Raises LinuxError(ENODATA) if it is not set."""
        raise LinuxError(EOPNOTSUPP)

    def setxattr(self, ctx: "Context", name: bytes, value: bytes, flags: int) -> None:
        raise LinuxError(EOPNOTSUPP)

    def listxattr(self, ctx: "Context") -> list[bytes]:
        return []

    def removexattr(self, ctx: "Context", name: bytes) -> None:
        raise LinuxError(EOPNOTSUPP)

    # -- opening -----------------------------------------------------------------------------------------
    def open(self, ctx: "Context", path: "Path", flags: int) -> "FileDescription":
        """A new open file description; permissions were checked, O_TRUNC is done by the caller via setattr.

        Raises LinuxError; ENXIO for a socket or an absent device.
        """
        raise LinuxError(ENXIO if self.mode & S_IFMT == S_IFSOCK else ENODEV)


def generic_permission(inode: Inode, creds: Credentials, mask: int) -> bool:
    """Owner, group and other bits, then CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (fs/namei.c)."""
    mode = inode.mode
    if creds.fsuid == inode.uid:
        bits = mode >> 6
    elif creds.in_group(inode.gid):
        bits = mode >> 3
    else:
        bits = mode
    if mask & ~bits & 7 == 0:
        return True
    if mode & S_IFMT == S_IFDIR:
        if mask & MAY_WRITE == 0 and creds.capable_over(inode.uid, inode.gid, CAP_DAC_READ_SEARCH):
            return True
        return creds.capable_over(inode.uid, inode.gid, CAP_DAC_OVERRIDE)
    if mask == MAY_READ and creds.capable_over(inode.uid, inode.gid, CAP_DAC_READ_SEARCH):
        return True
    if mask & MAY_EXEC == 0 or mode & 0o111:
        return creds.capable_over(inode.uid, inode.gid, CAP_DAC_OVERRIDE)
    return False


class Dentry:
    """A name in a directory, with the cached result of looking it up (`inode` None: known not to exist)."""

    def __init__(self, name: bytes, parent: "Dentry | None", inode: Inode | None) -> None:
        self.name: bytes = name
        self.parent: Dentry | None = parent  # None for the root of a file system
        self.inode: Inode | None = inode
        self.children: dict[bytes, Dentry] = {}
        self.mounted: int = 0  # number of mounts on it, in all namespaces
        self.is_deleted: bool = False  # unlinked while referenced: " (deleted)"
        self.is_recent: bool = False  # used since `vfs.forgetting` last looked at it

    def require(self) -> Inode:
        """The inode of a positive dentry."""
        inode = self.inode
        assert inode is not None
        return inode


class Mount:
    """A file system (or a subtree of it) attached at a place of the tree."""

    def __init__(self, ident: int, fs: FileSystem, root: Dentry, flags: int = 0) -> None:
        self.ident: int = ident
        self.fs: FileSystem = fs
        self.root: Dentry = root
        self.parent: Mount | None = None
        self.mountpoint: Dentry | None = None  # in the parent
        self.flags: int = flags  # MS_RDONLY MS_NOSUID MS_NODEV MS_NOEXEC …
        self.is_detached: bool = False
        # The top of a tree that fsmount or open_tree made: it can be attached
        self.is_anonymous: bool = False
        self.is_expiring: bool = False  # marked by umount2(MNT_EXPIRE), and not used since
        self.propagation: int = 0  # MS_SHARED | MS_SLAVE, MS_UNBINDABLE or 0 (private): kept, without effect
        self.peer_group: int = 0
        self.master_group: int = 0  # of the host: it is in it, or with MS_SLAVE below it
        self.locked_flags: int = 0  # MS_RDONLY … that may not be taken away (MNT_LOCK_*)
        self.is_atime_locked: bool = False
        self.is_locked: bool = False  # may not be unmounted alone: it hides what is below (MNT_LOCKED)
        KERNEL_MEMORY.take(MOUNT_BYTES)
        self.covering: dict[Dentry, Mount] = {}  # the mount on top of a dentry as seen through this mount
        fs.mount_count += 1

    def __del__(self) -> None:
        KERNEL_MEMORY.give(MOUNT_BYTES)
        self.fs.mount_count -= 1
        if self.fs.mount_count == 0 and (self.fs.watched or self.fs.handles is not None):
            self.fs.last_unmounted()


class Path:
    """A dentry in a mount.  Immutable."""

    def __init__(self, mount: Mount, dentry: Dentry) -> None:
        self.mount: Mount = mount
        self.dentry: Dentry = dentry

    def inode(self) -> Inode:
        """The inode of a positive path."""
        inode = self.dentry.inode
        assert inode is not None
        return inode

    def same_as(self, other: "Path") -> bool:
        return self.mount is other.mount and self.dentry is other.dentry


class MountNamespace:
    """All mounts of a namespace: which mount covers (parent mount, dentry), newest on top."""

    def __init__(self, root: Path) -> None:
        self.root: Path = root
        self.mounts: list[Mount] = [root.mount]  # in mounting order, the root first
        self.covered: dict[tuple[Mount, Dentry], Mount] = {}
        self.user_ns: UserNamespace | None = None  # the owner
        self.ino: int = FIRST_MNT_INO  # of /proc/PID/ns/mnt
        self.place: Place | None = None  # kernel.namespaces.NamespaceCount
        self.changes: int = 0  # count of changes, for poll(2) on /proc/PID/mounts
        self.queue: WaitQueue = WaitQueue()

    def touch(self) -> None:
        """Mounts have changed (touch_mnt_namespace)."""
        self.changes += 1
        self.queue.wake(POLLPRI | POLLERR)


class FsContext:
    """Root, working directory and umask: Linux's fs_struct, shared by CLONE_FS."""

    def __init__(self, root: Path, cwd: Path, umask: int = 0o022) -> None:
        self.root: Path = root
        self.cwd: Path = cwd
        self.umask: int = umask

    def clone(self) -> "FsContext":
        return FsContext(self.root, self.cwd, self.umask)


@trait
class PausedWalk:
    """The state of a long path walk that has paused (vfs.walk.WalkState)."""


class WalkKeeper:
    """Lets the walks of one call pause: when the call is made again, its walks continue where they stopped."""

    def __init__(self) -> None:
        self.walks: list[PausedWalk] = []  # of the call that runs

    def may_pause(self) -> bool:
        """Whether the running call can be made again."""
        return False

    def pause(self) -> None:
        """Pause the call: raises the exception that ends this run of it."""
        raise NotImplementedError


class Context:
    """The caller of an operation as the VFS needs it; `kernel.Task` derives from it."""

    def __init__(self, creds: Credentials, fs: FsContext, mount_ns: MountNamespace) -> None:
        self.creds: Credentials = creds
        self.fs: FsContext = fs
        self.mount_ns: MountNamespace = mount_ns
        self.mem: UserMemory | None = None
        self.file_size_limit: int = -1  # RLIMIT_FSIZE in bytes; -1: unlimited
        self.walk_keeper: WalkKeeper | None = None

    def user_memory(self) -> UserMemory:
        """The caller's memory; only for calls that came from a guest."""
        mem = self.mem
        assert mem is not None
        return mem

    def thread_group_id(self) -> int:
        """tgid, 0 for the kernel itself (owners of locks, /proc/self)."""
        return 0

    def has_pending_signal(self) -> bool:
        """Whether a long operation should stop and return what it has."""
        return False

    def file_size_exceeded(self) -> None:
        """SIGXFSZ for a write past RLIMIT_FSIZE; the operation then returns -EFBIG."""


# A bit in FileDescription.flags that is never shown: a long read or write is using the file position.
POS_BUSY: Final = 1 << 40
CREATED: Final = 1 << 41  # in the flags of a description whose open(2) made the file (FMODE_CREATED)
UNSEEN_FLAGS: Final = POS_BUSY | CREATED  # the bits that programs do not see


class DirEmitter:
    """Collects directory entries for getdents64: file descriptions call `emit` until it returns False."""

    def emit(self, name: bytes, ino: int, dtype: int, next_pos: int) -> bool:
        """Add an entry; `next_pos` is where the directory continues after it (d_off).

        False: no room, stop.
        """
        raise NotImplementedError


class CloseListener:
    """Told when an open file's last reference is gone, before `release` (an epoll item forgets the file)."""

    def file_closed(self, file: "FileDescription") -> None:
        raise NotImplementedError


@trait
class Holder:
    """An owner of locks: an open file, or a table of descriptors (kernel.fd_table)."""


class FileDescription(Holder):
    """An open file (struct file): shared by dup and fork, counted by `refs`.

    `flags` are the status flags (O_ACCMODE and what F_GETFL shows).  Regular, seekable files override `pread`
    and `pwrite`; streams override `read` and `write` and leave the others.
    """

    def __init__(self, path: Path | None, inode: Inode, flags: int) -> None:
        self.path: Path | None = path  # None for anonymous objects without a name
        self.inode: Inode = inode
        inode.users += 1
        self.flags: int = flags
        self.pos: int = 0
        self.refs: int = 0
        self.creds: Credentials | None = None  # of the opener
        self.owner_pid: int = 0  # F_SETOWN: a tid, tgid or pgid by owner_type
        self.owner_type: int = 1  # F_OWNER_TID, F_OWNER_PID or F_OWNER_PGRP
        self.owner_signal: int = 0  # F_SETSIG
        self.owner_creds: Credentials | None = None  # of the process that set the owner
        self.holds_write: bool = False  # counted in inode.write_count, set by namei
        self.holds_read: bool = False  # counted in inode.read_count, set by namei
        self.epoll_items: list[CloseListener] | None = None  # owned by fs.epoll: told on last close
        KERNEL_MEMORY.take(FILE_BYTES)

    def __del__(self) -> None:
        KERNEL_MEMORY.give(FILE_BYTES)

    # -- modes -----------------------------------------------------------------------------------------
    def is_readable(self) -> bool:
        return self.flags & 3 != 1

    def is_writable(self) -> bool:
        return self.flags & 3 != 0

    def takes_slices(self, *, is_write: bool) -> bool:
        """Whether a long read or write may be done in slices, between which other tasks run."""
        return self.inode.mode & S_IFMT == S_IFREG

    def is_seekable(self) -> bool:
        """Whether lseek, pread and pwrite work (FMODE_LSEEK|PREAD)."""
        return True

    def takes_pwrite(self) -> bool:
        """Whether positioned writes are supported; otherwise they fail with ESPIPE (FMODE_PWRITE)."""
        return self.is_seekable()

    def takes_nowait(self) -> bool:
        """Whether RWF_NOWAIT is known (FMODE_NOWAIT)."""
        return True

    # -- data ------------------------------------------------------------------------------------------
    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        """read(2) at the file position; bytes, 0 at the end, or -errno (-EAGAIN: would block)."""
        count = self.pread(ctx, dst, self.pos, flags)
        if count > 0:
            self.pos += count
        return count

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        """write(2) at the file position, or at the end with O_APPEND."""
        offset = self.pos
        if self.flags & O_APPEND:
            self.inode.refresh(ctx)
            offset = self.inode.size
        count = self.pwrite(ctx, src, offset, flags)
        if count > 0:
            self.pos = offset + count  # nothing written, nothing moved
        return count

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        """pread(2); `flags` are RWF_*."""
        return -EISDIR if self.inode.is_dir() else -EINVAL

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        """pwrite(2).  The caller has to apply O_APPEND (on Linux pwrite appends, too)."""
        return -EINVAL

    def read_bytes(self, ctx: Context, offset: int, length: int) -> bytes:
        """Kernel-internal read (ELF headers, sendfile).  Raises LinuxError."""
        sink = KernelIovIter(capacity=length)
        count = self.pread(ctx, sink, offset)
        if count < 0:
            raise LinuxError(-count)
        return bytes(sink.sink)

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        """lseek(2) for files with a size; the new position or -errno."""
        if not self.is_seekable():
            return -ESPIPE
        if whence == SEEK_SET:
            new = offset
        elif whence == SEEK_CUR:
            new = self.pos + offset
        elif whence == SEEK_END:
            self.inode.refresh(ctx)
            new = self.inode.size + offset
        elif whence == SEEK_DATA or whence == SEEK_HOLE:
            return self._seek_data(ctx, offset, whence)
        else:
            return -EINVAL
        if new < 0 or new > 0x7FFFFFFFFFFFFFFF:
            return -EINVAL
        self.pos = new
        return new

    def _seek_data(self, ctx: Context, offset: int, whence: int) -> int:
        self.inode.refresh(ctx)
        if offset < 0 or offset >= self.inode.size:
            return -ENXIO
        self.pos = offset if whence == SEEK_DATA else self.inode.size
        return self.pos

    def fallocate(self, ctx: Context, mode: int, offset: int, length: int) -> int:
        return -EOPNOTSUPP

    def fsync(self, ctx: Context, *, is_data_only: bool) -> int:
        """fsync(2) and fdatasync(2); -EINVAL for what cannot be synchronised."""
        return -EINVAL

    def truncate(self, ctx: Context, size: int) -> int:
        """ftruncate(2)."""
        if not self.inode.is_regular():
            return -EINVAL
        attr = SetAttr(ATTR_SIZE)
        attr.size = size
        self.inode.setattr(ctx, attr)
        return 0

    # -- readiness -------------------------------------------------------------------------------------
    def poll(self, ctx: Context) -> int:
        """POLL* bits that hold now; always ready for files without a queue."""
        return POLLIN | POLLOUT

    def wait_queue(self) -> WaitQueue | None:
        """Where to wait for a change of readiness; None if it is always ready (epoll then says EPERM)."""
        return None

    def open_is_pending(self, ctx: Context) -> bool:
        """Whether open(2) has still to wait on wait_queue(): a FIFO whose other end is not there yet."""
        return False

    def wait_limit_ns(self, *, is_write: bool) -> int:
        """How long a blocking read or write waits before it gives -EAGAIN (SO_RCVTIMEO, SO_SNDTIMEO).

        -1: for ever.
        """
        return -1

    def is_by_segment(self) -> bool:
        """Whether readv and writev call it once for each segment, as for files of Linux without read_iter."""
        return False

    def write_continues(self) -> bool:
        """Whether a blocking write(2) goes on after a partial one (pipes, streams, terminals)."""
        kind = self.inode.mode & S_IFMT
        return kind == S_IFIFO or kind == S_IFSOCK or kind == S_IFCHR

    # -- the rest --------------------------------------------------------------------------------------
    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        """Device and file-system ioctls; the generic ones (FIOCLEX, FIONBIO …) are done by the caller."""
        return -ENOTTY

    def iterate(self, ctx: Context, emitter: DirEmitter) -> int:
        """Emit entries from `self.pos` on, `.` and `..` included, and move `self.pos`; 0 or -errno."""
        return -ENOTDIR

    def mmap_fd(self, ctx: Context, prot: int, flags: int) -> int:
        """A host descriptor to map (owned by the file; the platform duplicates it).

        Raises LinuxError(ENODEV).
        """
        raise LinuxError(ENODEV)

    def may_map_for_writing(self) -> bool:
        """Whether a shared mapping that is made now may ever become writable (VM_MAYWRITE)."""
        return self.is_writable()

    def patched_text(self) -> PatchedText | None:
        """The patched copy to map in place of its executable pages, if there is one."""
        return None

    def mmap_offset(self, offset: int) -> int:
        """Where `offset` of this file lies in the descriptor that mmap_fd gives."""
        return offset

    def flush(self, ctx: Context) -> int:
        """Called at each close(2) of a descriptor; its result is close's."""
        return 0

    def release(self) -> None:
        """The last reference is gone."""

    def set_status_flags(self, ctx: Context, flags: int) -> int:
        """F_SETFL has changed O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME or O_ASYNC to `flags`."""
        self.flags = flags
        return 0

    def fdinfo(self) -> str:
        """Extra lines of /proc/PID/fdinfo/N."""
        return ""

    def fdinfo_parts(self) -> Generator[str, None, None]:
        """`fdinfo` in parts, for texts that can be long."""
        yield self.fdinfo()

    def link_text(self) -> bytes | None:
        """The target of /proc/PID/fd/N for an object without a path, e.g. b"pipe:[7]"."""
        return None

    def is_locked(self) -> bool:
        """Whether even calls that must not block have to wait (a pipe that is being spliced)."""
        return False

    def has_slow_storage(self) -> bool:
        """Whether its storage is served by a process or another machine, which may hang."""
        return False

    def storage_away(self, *, is_away: bool) -> None:
        """A host call on its storage takes long (`is_away`), or is over."""

    def get(self) -> "FileDescription":
        """Take a reference."""
        self.refs += 1
        return self

    def put(self) -> None:
        """Drop a reference; the last one releases."""
        self.refs -= 1
        if self.refs == 0:
            listeners = self.epoll_items
            if listeners is not None:
                self.epoll_items = None
                for listener in listeners:
                    listener.file_closed(self)
            self._notify_close()
            if self.holds_write:
                self.holds_write = False
                self.inode.write_count -= 1
            inode = self.inode
            if self.holds_read:
                self.holds_read = False
                inode.read_count -= 1
            locks = inode.locks
            if locks is not None:
                locks.description_released(self)
            self.release()
            inode.users -= 1
            if inode.users == 0:
                if inode.watches is not None:
                    inode.watches.last_closed()
                forget_handle(inode)

    def _notify_close(self) -> None:
        path = self.path
        if path is not None and self.flags & O_PATH == 0:
            notify_path(path, IN_CLOSE_WRITE if self.flags & 3 else IN_CLOSE_NOWRITE)


def forget_handle(inode: Inode) -> None:
    """Make an inode's handle stale, if the inode has no name and is not open."""
    handles = inode.fs.handles
    if handles is not None and inode.users == 0 and inode.nlink == 0:
        handles.forget(inode)


def notify_path(path: Path, mask: int) -> None:
    """Tell the watches of a file and of the directory it was found in (IN_OPEN, IN_ACCESS, IN_MODIFY,
    IN_CLOSE_*, IN_ATTRIB).
    """
    dentry = path.dentry
    parent = dentry.parent
    inode = dentry.inode
    if inode is None:
        return
    if parent is not None and parent.inode is not None:
        above = parent.inode.watches
        if above is not None and not is_silent(inode, mask):
            above.event(
                mask | IN_ISDIR if inode.is_dir() else mask, 0, dentry.name, is_unlinked=dentry.is_deleted
            )
    watches = inode.watches
    if watches is not None and not is_silent(inode, mask):
        watches.event(mask | IN_ISDIR if inode.is_dir() else mask, 0, b"", is_unlinked=dentry.is_deleted)


def is_silent(inode: Inode, mask: int) -> bool:
    """Whether these events are not reported: data that moves through a pipe."""
    return mask & (IN_ACCESS | IN_MODIFY) != 0 and inode.mode & S_IFMT == S_IFIFO


class DirectoryDescription(FileDescription):
    """An open directory; file systems override `iterate`."""

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        return -EISDIR

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        return -EBADF

    def fsync(self, ctx: Context, *, is_data_only: bool) -> int:
        return 0
