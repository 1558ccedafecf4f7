"""System V shared memory: segments are nameless files of the sandbox's own tmpfs, mapped like files (ipc/shm.c).

Their pages count towards the storage quota.  A segment that was removed lives on until its last mapping is gone;
`nattch` counts areas, as Linux counts its VMAs.
"""

import time
from typing import Final

from cloche.abi.errno import EINVAL, ENOMEM, ENOSPC, LinuxError
from cloche.abi.fcntl import O_RDONLY, O_RDWR
from cloche.abi.ipc import SHM_DEST, SHMID_DS, pack_perm
from cloche.abi.mman import PROT_EXEC, PROT_READ, PROT_WRITE
from cloche.kernel.ipc.ids import IpcIds, IpcObject, IpcQuota
from cloche.kernel.pid_namespace import PidNamespace, pid_in
from cloche.mm.area import Area, Mappable, page_up
from cloche.vfs.objects import Context, Dentry, FileDescription, FileSystem, Inode, Mount, Path
from cloche.vfs.records import ATTR_SIZE, SetAttr

SHMMIN: Final = 1
SHMMNI: Final = 4096
SHMMAX: Final = 18446744073692774399
SHMALL: Final = 18446744073692774399
_SIZE_LIMIT: Final = 1 << 46  # of one segment: no address space has room for more


class Segment(IpcObject):
    """A segment; `size` in bytes as it was asked for."""

    def __init__(
        self, ctx: Context, ids: "SegmentIds", key: int, mode: int, size: int, fs: FileSystem, inode: Inode
    ) -> None:
        super().__init__(ctx, key, mode)
        self.ids: SegmentIds = ids
        self.size: int = size
        self.fs: FileSystem = fs
        self.inode: Inode | None = inode
        self.name: bytes = b"/SYSV%08x (deleted)" % (key & 0xFFFFFFFF)
        self.nattch: int = 0
        self.atime: int = 0
        self.dtime: int = 0
        self.cpid: int = ctx.thread_group_id()
        self.lpid: int = 0

    def status(self, owner: tuple[int, int, int, int], pid_ns: PidNamespace | None) -> bytes:
        """struct shmid64_ds; `owner` as the caller sees the ids."""
        cpid, lpid = pid_in(pid_ns, self.cpid), pid_in(pid_ns, self.lpid)
        figures = SHMID_DS.pack(self.size, self.atime, self.dtime, self.ctime, cpid, lpid, self.nattch, 0, 0)
        return pack_perm(self.key, owner, self.mode, self.seq) + figures

    def resident_bytes(self, ctx: Context) -> int:
        """The bytes that its pages take."""
        inode = self.inode
        if inode is None:
            return 0
        inode.refresh(ctx)
        return inode.blocks * 512

    def remove(self) -> None:
        """IPC_RMID: remove it at once if it is not mapped, otherwise after its last mapping."""
        if self.nattch == 0:
            self.ids.destroy(self)
        else:
            self.mode |= SHM_DEST
            self.ids.drop_key(self)


class SegmentIds(IpcIds):
    """The segments of a namespace; `dev` is the device number that their areas show."""

    def __init__(self, dev: int, quota: IpcQuota) -> None:
        super().__init__(SHMMNI, quota)
        self.dev: int = dev
        self.pages: int = 0

    def segment(self, ident: int) -> Segment:
        """Raises LinuxError(EINVAL)."""
        found = self.get(ident)
        assert isinstance(found, Segment)
        return found

    def create(self, ctx: Context, fs: FileSystem, key: int, size: int, flags: int) -> int:
        """newseg: the identifier.  Raises LinuxError(EINVAL, ENOSPC, ENOMEM)."""
        if size < SHMMIN or size > SHMMAX:
            raise LinuxError(EINVAL)
        pages = page_up(size) >> 12
        if self.pages + pages > SHMALL:
            raise LinuxError(ENOSPC)
        if size > _SIZE_LIMIT:
            raise LinuxError(ENOMEM)
        root = fs.root_inode
        assert root is not None
        inode = root.tmpfile(ctx, flags & 0o777)
        attr = SetAttr(ATTR_SIZE)
        attr.size = page_up(size)
        inode.setattr(ctx, attr)
        self.charge_object()
        self.pages += pages
        return self.add(Segment(ctx, self, key, flags, size, fs, inode))

    def destroy(self, segment: Segment) -> None:
        """Free a segment that was removed and is not mapped, or whose namespace is gone."""
        if segment.inode is not None:
            self.pages -= page_up(segment.size) >> 12
            segment.inode = None  # its pages are freed with the last open file
            self.remove(segment)

    def release(self) -> None:
        """The namespace is gone."""
        for each in self.in_order():
            assert isinstance(each, Segment)
            each.remove()


class Attachment(Mappable):
    """One shmat(2): the backing of its areas."""

    def __init__(self, ctx: Context, segment: Segment, prot: int) -> None:
        inode = segment.inode
        if inode is None:
            raise LinuxError(EINVAL)
        self.segment: Segment = segment
        self.is_writable: bool = prot & PROT_WRITE != 0
        self._ctx: Context | None = ctx
        self._refs: int = 0
        dentry = Dentry(segment.name[1:], None, inode)
        path = Path(Mount(0, segment.fs, dentry), dentry)
        self.file: FileDescription = inode.open(ctx, path, O_RDWR if self.is_writable else O_RDONLY).get()

    def map_fd(self, prot: int, flags: int) -> int:
        ctx = self._ctx
        assert ctx is not None
        self._ctx = None  # only mmap itself asks, once
        return self.file.mmap_fd(ctx, prot, flags)

    def map_get(self) -> None:
        self._refs += 1
        self.segment.nattch += 1

    def map_put(self) -> None:
        self._refs -= 1
        segment = self.segment
        segment.nattch -= 1
        if self._refs == 0:
            self.file.put()
        if segment.nattch == 0 and segment.mode & SHM_DEST:
            segment.ids.destroy(segment)

    def abandon(self) -> None:
        """Undo an attachment that could not be mapped."""
        if self._refs == 0:
            self.file.put()

    def map_identity(self) -> tuple[int, int]:
        return self.segment.ids.dev, self.segment.ident

    def map_name(self) -> bytes:
        return self.segment.name

    def map_max_prot(self) -> int:
        return PROT_READ | PROT_EXEC | (PROT_WRITE if self.is_writable else 0)


def attached_areas(areas: list[Area], addr: int) -> list[Area]:
    """The areas that shmdt(2) at `addr` unmaps: those of the first attachment that begins there."""
    found: list[Area] = []
    owner: Attachment | None = None
    for area in areas:
        backing = area.backing
        if area.start < addr or not isinstance(backing, Attachment) or area.start - addr != area.offset:
            continue
        if owner is None:
            owner = backing
        if backing is owner:
            found.append(area)
    return found


def was_attached(segment: Segment, pid: int) -> None:
    """shmat(2), or a fork, by this process."""
    segment.lpid = pid
    segment.atime = int(time.time())


def was_detached(segment: Segment, pid: int) -> None:
    """shmdt(2), or an exit, by this process."""
    segment.lpid = pid
    segment.dtime = int(time.time())


def mark_fork(areas: list[Area], pid: int) -> None:
    """A process has forked: its segments are attached once more."""
    for area in areas:
        backing = area.backing
        if isinstance(backing, Attachment):
            was_attached(backing.segment, pid)


def mark_exit(areas: list[Area], pid: int) -> None:
    """An address space is about to go."""
    for area in areas:
        backing = area.backing
        if isinstance(backing, Attachment):
            was_detached(backing.segment, pid)
