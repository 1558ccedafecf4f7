"""tmpfs: files, directories, links and nodes that live in the sentry (tmpfs(5), mm/shmem.c); memfd_create(2)
too.

Owns the in-memory inode classes, which `fs.overlay` extends: an inode may have a `backing`, an inode of a lower layer
that still provides the unchanged parts (extended attributes here, contents in the overlay).

Guarantees: quotas are asked before anything changes; directory offsets are stable (an entry keeps its offset
for as long as it exists, and later entries have higher ones); an inode's memory is freed with the last reference to
it, so an unlinked open file works.
"""

import time
from typing import Final

from cloche.abi.errno import (
    EINVAL,
    EIO,
    ENAMETOOLONG,
    ENOSPC,
    ENOTEMPTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    LinuxError,
)
from cloche.abi.fcntl import (
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    RENAME_EXCHANGE,
    RENAME_WHITEOUT,
)
from cloche.abi.fs import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    SEEK_CUR,
    SEEK_DATA,
    SEEK_HOLE,
)
from cloche.abi.limits import PATH_MAX
from cloche.abi.magic import TMPFS_MAGIC
from cloche.abi.mman import MAP_SHARED, PROT_WRITE
from cloche.abi.stat import S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG, dtype
from cloche.fs.dir_entry import DirEntry
from cloche.fs.quota import PAGE, Account, StorageQuota
from cloche.fs.storage import Storage
from cloche.fs.tmpfs_inode import SHORT_SYMLINK, MemoryFs, TmpfsInode, TmpfsLink
from cloche.fs.tmpfs_options import TmpfsOptions, parse_options
from cloche.kernel.task import Task
from cloche.mm.quota import KERNEL_MEMORY, NAME_BYTES
from cloche.mm.usermem import IovIter
from cloche.vfs.attr import check_new_size, new_owner, remove_privs, write_room
from cloche.vfs.objects import Context, DirectoryDescription, DirEmitter, FileDescription, Inode, Path
from cloche.vfs.records import StatFs

_ENTRY_SIZE: Final = 20  # size that an entry adds to a directory's st_size (BOGO_DIRENT_SIZE)
WRITE_SEALS: Final = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE


_FALLOC_MODES: Final = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE
_FIRST_COOKIE: Final = 2  # directory offsets 0 and 1 are `.` and `..`


class InternalMount:
    """An internal mount, in no namespace (fs.memfd.MemfdMount)."""


class TmpFs(MemoryFs):
    """An instance; `quota` is the sandbox's, shared by all of them."""

    def __init__(
        self, dev: int, quota: StorageQuota, options: TmpfsOptions | None = None, *, kind: str = "tmpfs"
    ) -> None:
        if options is None:
            options = TmpfsOptions()
        pages = options.size // PAGE if options.size > 0 else -1
        inodes = options.inodes if options.inodes > 0 else -1
        super().__init__(kind, TMPFS_MAGIC, dev, Account(quota, pages, inodes))
        self.has_handles = True
        self.has_any_size: bool = options.size == 0  # mounted without a limit, except the sandbox's own
        self.has_any_inodes: bool = options.inodes == 0
        self.default_pages: int = -1  # the limit that is not shown
        self.root_mode: int = options.mode
        self.root_uid: int = options.uid  # as /proc/mounts shows them: ids of the initial namespace
        self.root_gid: int = options.gid
        self.is_internal: bool = False  # not mounted by a guest: it shows no size
        self.memfds: InternalMount | None = None  # fs.memfd: the mount under which memfds live
        self.make_root(options)

    def make_root(self, options: TmpfsOptions) -> None:
        """Set `root_inode`; the overlay has its own."""
        self.account.charge_inode()
        root = TmpfsDir(self, self.alloc_ino(), S_IFDIR | options.mode, options.uid, options.gid)
        self.root_inode = root

    def statfs(self, ctx: Context) -> StatFs:
        figures = StatFs(self.magic)
        if self.is_internal:
            return figures
        account = self.account
        limit = account.page_limit
        if limit < 0:
            limit = account.quota.page_limit
        if limit >= 0 and not self.has_any_size:
            figures.blocks = limit
            figures.blocks_free = min(account.free_pages(), limit)
            figures.blocks_avail = figures.blocks_free
        inodes = account.inode_limit
        if inodes < 0:
            inodes = account.quota.inode_limit
        if inodes >= 0 and not self.has_any_inodes:
            figures.files = inodes
            figures.files_free = max(inodes - account.inodes, 0)
        return figures

    def options(self) -> str:
        text = ""
        account = self.account
        if self.has_any_size or account.page_limit not in (-1, self.default_pages):
            text += f",size={max(account.page_limit, 0) * PAGE // 1024}k"
        if self.has_any_inodes or account.inode_limit >= 0:
            text += f",nr_inodes={max(account.inode_limit, 0)}"
        if self.root_mode != 0o1777:
            text += f",mode={self.root_mode:o}"
        if self.root_uid:
            text += f",uid={self.root_uid}"
        if self.root_gid:
            text += f",gid={self.root_gid}"
        return text + ",inode64"

    def remount(self, ctx: Context, data: bytes) -> None:
        options = parse_options(data, max(self.account.quota.page_limit, 0) * PAGE)
        account, pages, inodes = self.account, options.size // PAGE, options.inodes
        # A file system without a limit cannot get one (shmem_reconfigure), and either all options are changed or none.
        if options.size > 0 and (self.has_any_size or pages < account.pages):
            raise LinuxError(EINVAL)
        if inodes > 0 and (self.has_any_inodes or inodes < account.inodes):
            raise LinuxError(EINVAL)
        if options.size >= 0:
            self.has_any_size = options.size == 0
            account.page_limit = pages if pages else -1
        if inodes >= 0:
            self.has_any_inodes = inodes == 0
            account.inode_limit = inodes if inodes else -1


# -- regular files ---------------------------------------------------------------------------------------
class TmpfsFile(TmpfsInode):
    """A regular file.  `seals` are F_SEAL_*; F_SEAL_SEAL alone: an ordinary file, which cannot be sealed."""

    def __init__(
        self, fs: MemoryFs, ino: int, mode: int, uid: int, gid: int, *, is_charged: bool = True
    ) -> None:
        super().__init__(fs, ino, mode, uid, gid, is_charged=is_charged)
        self.storage: Storage = Storage(fs.account)
        self.seals: int = F_SEAL_SEAL

    def __del__(self) -> None:
        self.storage.free()
        if self.is_charged:
            self.is_charged = False
            self.tmpfs.account.uncharge_inode()
        if self.xattr_pages:
            self.tmpfs.account.charge_pages(-self.xattr_pages)
            self.xattr_pages = 0

    def refresh(self, ctx: Context) -> None:
        storage = self.storage
        if storage.is_mapped:
            storage.measure()
            self.blocks = storage.pages * 8

    def take_over(self, ctx: Context, size: int) -> None:
        """Before the contents change: fetch the contents that a lower layer still holds, at most `size` bytes."""

    def resize(self, ctx: Context, size: int) -> None:
        seals = self.seals
        if seals & F_SEAL_SHRINK and size < self.size:
            raise LinuxError(EPERM)
        if seals & F_SEAL_GROW and size > self.size:
            raise LinuxError(EPERM)
        self.take_over(ctx, size)
        self.storage.resize(self.size, size)
        self.size = size
        self.blocks = self.storage.pages * 8

    def write_at(self, ctx: Context, src: IovIter, offset: int, path: Path | None) -> int:
        """pwrite(2): limits, seals, set-id bits, then the data; bytes or -errno."""
        count = src.remaining()
        if count == 0:
            return 0
        count = write_room(ctx, offset, count)
        if count <= 0:
            return count
        seals = self.seals
        if seals & (WRITE_SEALS | F_SEAL_GROW):
            if seals & WRITE_SEALS:
                return -EPERM
            if offset + count > self.size:
                if offset >= self.size:
                    return -EPERM
                count = self.size - offset
        self.take_over(ctx, self.size)
        if self.mode & 0o6000:
            remove_privs(ctx, self)
        if self.xattrs is not None:
            self.drop_file_caps(ctx)
        storage = self.storage
        done = storage.write_from(src, offset, count, self.size)
        if storage.was_lost:
            storage.was_lost = False  # the file was emptied meanwhile
        elif done > 0:
            if offset + done > self.size:
                self.size = offset + done
            self.blocks = storage.pages * 8
            now = time.time_ns()
            self.mtime_ns = now
            self.ctime_ns = now
            self.note()
        return done

    def write_bytes(self, ctx: Context, offset: int, data: bytes) -> None:
        """Kernel-internal write (images, boot).  Raises LinuxError."""
        self.take_over(ctx, self.size)
        result = self.storage.write(offset, data, self.size)
        if result < 0:
            raise LinuxError(-result)
        self.size = max(self.size, offset + len(data))
        self.blocks = self.storage.pages * 8
        self.touch()

    def map_fd(self, ctx: Context, prot: int, flags: int, *, is_writable: bool = True) -> int:
        """The memfd to map, one that is open only for reading unless the mapping may ever be written through.

        Raises LinuxError(EPERM) for seals, ENOMEM.
        """
        is_shared_write = flags & MAP_SHARED != 0 and prot & PROT_WRITE != 0
        if is_shared_write and self.seals & WRITE_SEALS:
            raise LinuxError(EPERM)
        storage = self.storage
        fd = storage.memfd(self.size)
        storage.was_mapped = True
        self.blocks = storage.pages * 8  # the change to a memfd may have dropped preallocated pages
        if flags & MAP_SHARED:
            storage.is_mapped = True
            if not is_writable or self.seals & WRITE_SEALS:
                return storage.readonly_memfd()
        return fd

    def may_zero(self, mode: int) -> int:
        """Whether fallocate(2) may free pages: 0 or -errno."""
        if mode & FALLOC_FL_ZERO_RANGE and self.tmpfs.kind == "tmpfs":
            return -EOPNOTSUPP
        return -EPERM if self.seals & WRITE_SEALS else 0

    def may_shrink(self) -> bool:
        return self.seals & F_SEAL_SHRINK == 0

    def allocate(self, ctx: Context, mode: int, offset: int, length: int) -> int:
        """fallocate(2) after the generic checks; 0 or -errno."""
        if mode & ~_FALLOC_MODES or (mode & FALLOC_FL_ZERO_RANGE and self.tmpfs.kind == "tmpfs"):
            return -EOPNOTSUPP  # a layer of an overlay behaves as a file system on disk
        end = offset + length
        seals = self.seals
        is_growing = mode & FALLOC_FL_KEEP_SIZE == 0 and end > self.size
        if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
            if seals & WRITE_SEALS:
                return -EPERM
        if is_growing:
            if seals & F_SEAL_GROW:
                return -EPERM
            check_new_size(ctx, self, end)
        self.take_over(ctx, self.size)
        remove_privs(ctx, self)
        result = self.storage.allocate(mode, offset, length, self.size)
        if result < 0:
            return result
        if is_growing:
            self.storage.resize(self.size, end)
            self.size = end
        self.blocks = self.storage.pages * 8
        self.is_changed = True
        self.ctime_ns = time.time_ns()
        self.note()
        if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) or is_growing:
            self.mtime_ns = self.ctime_ns
        return 0

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return TmpfsDescription(path, self, flags)


class TmpfsDescription(FileDescription):
    """An open regular file."""

    def __init__(self, path: Path | None, inode: TmpfsFile, flags: int) -> None:
        super().__init__(path, inode, flags)
        self.file: TmpfsFile = inode
        inode.storage.users += 1

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        file = self.file
        count = min(dst.remaining(), file.size - offset)
        if count <= 0:
            return 0
        if file.atime_ns <= file.mtime_ns or file.atime_ns <= file.ctime_ns:
            file.accessed(self.path.mount if self.path is not None else None, self.flags)
        return file.storage.read_to(dst, offset, count, file.size)

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        file = self.file
        if file.storage.number and isinstance(ctx, Task):
            ctx.kernel.host_waits.file = self
        return file.write_at(ctx, src, offset, self.path)

    def storage_away(self, *, is_away: bool) -> None:
        maker = self.file.tmpfs.account.maker
        if maker is not None:
            maker.storage_away(is_away=is_away)

    def takes_nowait(self) -> bool:
        return self.file.tmpfs.kind != "tmpfs"  # a layer of an overlay behaves as a file system on disk

    def read_bytes(self, ctx: Context, offset: int, length: int) -> bytes:
        file = self.file
        count = min(length, file.size - offset)
        if count <= 0:
            return b""
        try:
            return file.storage.read(offset, count)
        except OSError as error:
            raise LinuxError(error.errno or EIO)

    def _seek_data(self, ctx: Context, offset: int, whence: int) -> int:
        file = self.file
        if offset < 0 or offset >= file.size:
            return -ENXIO
        new = file.storage.seek(offset, file.size, SEEK_DATA if whence == SEEK_DATA else SEEK_HOLE)
        if new >= 0:
            self.pos = new
        return new

    def fallocate(self, ctx: Context, mode: int, offset: int, length: int) -> int:
        return self.file.allocate(ctx, mode, offset, length)

    def fsync(self, ctx: Context, *, is_data_only: bool) -> int:
        log = self.file.tmpfs.log
        return log.sync(self.file) if log is not None else 0

    def may_map_for_writing(self) -> bool:
        return self.is_writable() and self.file.seals & WRITE_SEALS == 0

    def mmap_fd(self, ctx: Context, prot: int, flags: int) -> int:
        return self.file.map_fd(ctx, prot, flags, is_writable=self.is_writable())

    def release(self) -> None:
        self.file.storage.users -= 1


class TmpfsDir(TmpfsInode):
    """A directory: entries in the order of their cookies."""

    def __init__(
        self, fs: MemoryFs, ino: int, mode: int, uid: int, gid: int, *, is_charged: bool = True
    ) -> None:
        super().__init__(fs, ino, mode, uid, gid, is_charged=is_charged)
        self.entries: dict[bytes, DirEntry] = {}
        self.next_cookie: int = _FIRST_COOKIE
        self.nlink = 2
        self.size = 2 * _ENTRY_SIZE

    def renamed(self, name: bytes) -> None:
        """A name was added, removed or changed: tell the layer's log."""
        log = self.tmpfs.log
        if log is not None:
            log.named(self, name)

    # -- entries; the overlay overrides these ------------------------------------------------------------
    def find(self, ctx: Context, name: bytes) -> Inode | None:
        """The inode called `name`."""
        entry = self.entries.get(name)
        return None if entry is None else entry.inode

    def insert(self, name: bytes, inode: Inode) -> None:
        """Add a name that does not exist."""
        cookie = self.next_cookie
        self.next_cookie = cookie + 1
        entry = DirEntry(name, inode, inode.ino, dtype(inode.mode), cookie)
        entry.charge()
        self.entries[name] = entry
        self.renamed(name)
        self.size += _ENTRY_SIZE
        if inode.is_dir():
            self.nlink += 1

    def remove(self, ctx: Context, name: bytes) -> None:
        """Take a name away."""
        entry = self.entries.pop(name)
        self.renamed(name)
        entry.cookie = 0
        self.size = max(self.size - _ENTRY_SIZE, 0)  # the st_size of an image's directory is not known
        if entry.kind == S_IFDIR >> 12:
            self.nlink -= 1

    def replace(self, name: bytes, inode: Inode) -> None:
        """Let an existing name mean another inode, at the same offset."""
        entry = self.entries[name]
        self.nlink += (1 if inode.is_dir() else 0) - (1 if entry.kind == S_IFDIR >> 12 else 0)
        entry.inode = inode
        entry.ino = inode.ino
        entry.kind = dtype(inode.mode)
        self.renamed(name)

    def is_empty(self, ctx: Context) -> bool:
        """Whether there are no names."""
        return not self.entries

    def list_all(self, ctx: Context) -> list[DirEntry]:
        """All entries in the order of their cookies."""
        return list(self.entries.values())

    # -- operations ----------------------------------------------------------------------------------------
    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        return self.find(ctx, name)

    def _added(self, name: bytes, inode: TmpfsInode) -> None:
        self.insert(name, inode)
        self.touch()

    def create(self, ctx: Context, name: bytes, mode: int) -> Inode:
        fs = self.tmpfs
        fs.account.charge_inode()
        uid, gid, mode = new_owner(ctx.creds, self, S_IFREG | mode)
        inode = TmpfsFile(fs, fs.alloc_ino(), mode, uid, gid)
        self._added(name, inode)
        return inode

    def tmpfile(self, ctx: Context, mode: int) -> Inode:
        fs = self.tmpfs
        fs.account.charge_inode()
        uid, gid, mode = new_owner(ctx.creds, self, S_IFREG | mode)
        inode = TmpfsFile(fs, fs.alloc_ino(), mode, uid, gid)
        inode.nlink = 0
        return inode

    def mkdir(self, ctx: Context, name: bytes, mode: int) -> Inode:
        fs = self.tmpfs
        fs.account.charge_inode()
        uid, gid, mode = new_owner(ctx.creds, self, S_IFDIR | mode)
        inode = TmpfsDir(fs, fs.alloc_ino(), mode, uid, gid)
        self._added(name, inode)
        return inode

    def mknod(self, ctx: Context, name: bytes, mode: int, rdev: int) -> Inode:
        fs = self.tmpfs
        fs.account.charge_inode()
        uid, gid, mode = new_owner(ctx.creds, self, mode)
        inode = TmpfsInode(fs, fs.alloc_ino(), mode, uid, gid)
        inode.rdev = rdev
        self._added(name, inode)
        return inode

    def symlink(self, ctx: Context, name: bytes, target: bytes) -> Inode:
        if len(target) >= PATH_MAX:
            raise LinuxError(ENAMETOOLONG)
        if not KERNEL_MEMORY.has_spare(2 * PATH_MAX):
            raise LinuxError(ENOSPC)
        fs = self.tmpfs
        if len(target) >= SHORT_SYMLINK and fs.account.free_pages() < 1:
            raise LinuxError(ENOSPC)
        fs.account.charge_inode()
        uid, gid, _ = new_owner(ctx.creds, self, S_IFLNK)
        inode = TmpfsLink(fs, fs.alloc_ino(), target, uid, gid)
        self._added(name, inode)
        return inode

    def link(self, ctx: Context, name: bytes, inode: Inode) -> None:
        assert isinstance(inode, TmpfsInode)
        if not KERNEL_MEMORY.has_spare(2 * NAME_BYTES):
            raise LinuxError(ENOSPC)
        if inode.nlink and self.tmpfs.account.charge_name():
            inode.charged_names += 1
        inode.nlink += 1
        inode.ctime_ns = time.time_ns()
        inode.is_changed = True
        inode.note()
        self._added(name, inode)

    def _lost_name(self, inode: Inode) -> None:
        inode.nlink -= 1
        if isinstance(inode, TmpfsInode):
            inode.note()
        if isinstance(inode, TmpfsInode) and inode.charged_names:
            inode.charged_names -= 1
            self.tmpfs.account.uncharge_name()
        if inode.nlink == 0:
            self.tmpfs.lost_last_name(inode)

    def unlink(self, ctx: Context, name: bytes, inode: Inode) -> None:
        self.remove(ctx, name)
        self._lost_name(inode)
        self.touch()
        inode.ctime_ns = self.ctime_ns

    def rmdir(self, ctx: Context, name: bytes, inode: Inode) -> None:
        assert isinstance(inode, TmpfsDir)
        if not inode.is_empty(ctx):
            raise LinuxError(ENOTEMPTY)
        self.remove(ctx, name)
        inode.nlink = 0
        inode.note()
        self.touch()
        inode.ctime_ns = self.ctime_ns

    def rename(
        self,
        ctx: Context,
        name: bytes,
        inode: Inode,
        new_dir: Inode,
        new_name: bytes,
        target: Inode | None,
        flags: int,
    ) -> None:
        assert isinstance(new_dir, TmpfsDir) and isinstance(inode, TmpfsInode)
        if flags & RENAME_EXCHANGE and target is not None:
            self.replace(name, target)
            new_dir.replace(new_name, inode)
            if isinstance(target, TmpfsInode):
                target.is_changed = True
        else:
            if isinstance(target, TmpfsDir) and not target.is_empty(ctx):
                raise LinuxError(ENOTEMPTY)
            whiteout: TmpfsInode | None = None
            if flags & RENAME_WHITEOUT:
                fs = self.tmpfs
                fs.account.charge_inode()
                uid, gid, kind = new_owner(ctx.creds, self, S_IFCHR)
                whiteout = TmpfsInode(fs, fs.alloc_ino(), kind, uid, gid)
            if target is not None:
                new_dir.remove(ctx, new_name)
                if target.is_dir():
                    target.nlink = 1
                self._lost_name(target)
            self.remove(ctx, name)
            new_dir.insert(new_name, inode)
            if whiteout is not None:
                self.insert(name, whiteout)
        self.touch()
        new_dir.touch()
        now = self.ctime_ns
        inode.ctime_ns = now
        inode.is_changed = True
        inode.note()
        if target is not None:
            target.ctime_ns = now
            if flags & RENAME_EXCHANGE and isinstance(target, TmpfsInode):
                target.note()

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return TmpfsDirDescription(path, self, flags)


class TmpfsDirDescription(DirectoryDescription):
    """An open directory: a snapshot of the entries that is renewed at the start and at its end."""

    def __init__(self, path: Path, inode: TmpfsDir, flags: int) -> None:
        super().__init__(path, inode, flags)
        self.directory: TmpfsDir = inode
        self._entries: list[DirEntry] = []
        self._index: int = 0  # of the entry to emit next, if `_cursor` is `pos`
        self._cursor: int = -1

    def fsync(self, ctx: Context, *, is_data_only: bool) -> int:
        log = self.directory.tmpfs.log
        return log.sync(self.directory) if log is not None else 0

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        """offset_dir_llseek."""
        if whence > SEEK_CUR and self.directory.tmpfs.kind == "tmpfs":
            return -EINVAL
        return super().lseek(ctx, offset, whence)

    def _seek_entries(self, pos: int) -> None:
        """Point `_index` at the first entry whose cookie is not below `pos`."""
        entries = self._entries
        low = 0
        high = len(entries)
        while low < high and entries[low].cookie < pos:  # removed entries have 0, so no binary search
            low += 1
        self._index = low

    def iterate(self, ctx: Context, emitter: DirEmitter) -> int:
        directory = self.directory
        pos = self.pos
        if pos < 0:
            return -EINVAL
        if pos == 0:
            if not emitter.emit(b".", directory.ino, 4, 1):
                return 0
            pos = 1
        if pos == 1:
            parent = directory.ino
            if self.path is not None and self.path.dentry.parent is not None:
                above = self.path.dentry.parent.inode
                parent = above.ino if above is not None else parent
            if not emitter.emit(b"..", parent, 4, 2):
                self.pos = 1  # not earlier: the call may be run again, with another emitter
                return 0
            pos = 2
        if pos != self._cursor or pos == 2:
            self._entries = directory.list_all(ctx)
            self._seek_entries(pos)
        elif self._index >= len(self._entries) and directory.next_cookie > pos:
            self._entries = directory.list_all(ctx)
            self._seek_entries(pos)
        entries = self._entries
        index = self._index
        count = len(entries)
        while index < count:
            entry = entries[index]
            if entry.cookie >= pos:
                if not emitter.emit(entry.name, entry.ino, entry.kind, entry.cookie + 1):
                    break
                pos = entry.cookie + 1
            index += 1
        self.pos = pos
        self._index = index
        self._cursor = pos
        if index >= count:
            directory.accessed(self.path.mount if self.path is not None else None, self.flags)
        return 0

    def release(self) -> None:
        self._entries = []
