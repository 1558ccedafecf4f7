"""System V shared memory: shmget, shmat, shmdt, shmctl (ipc/shm.c).  The segments are in `kernel.ipc.shm`."""

from cloche.abi.capability import CAP_IPC_LOCK
from cloche.abi.errno import EINVAL, ENOMEM, ENOSYS, EPERM, LinuxError
from cloche.abi.ipc import (
    IPC_INFO,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    SHM_EXEC,
    SHM_HUGETLB,
    SHM_INFO,
    SHM_INFO_FIGURES,
    SHM_LOCK,
    SHM_LOCKED,
    SHM_RDONLY,
    SHM_REMAP,
    SHM_RND,
    SHM_STAT,
    SHM_STAT_ANY,
    SHM_UNLOCK,
    SHMID_DS_SIZE,
    SHMINFO,
    SHMLBA,
    unpack_perm,
)
from cloche.abi.mman import MAP_FIXED, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE
from cloche.abi.resource import RLIMIT_AS, RLIMIT_MEMLOCK
from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.ipc.ids import IpcObject
from cloche.kernel.ipc.shm import (
    SHMALL,
    SHMMAX,
    SHMMIN,
    SHMMNI,
    Attachment,
    Segment,
    attached_areas,
    was_attached,
    was_detached,
)
from cloche.kernel.task import Task
from cloche.mm.area import page_up
from cloche.vfs.userns import map_gid, map_uid


def owner_ids(task: Task, found: IpcObject) -> tuple[int, int, int, int]:
    """uid, gid, cuid and cgid of an object as the caller sees them."""
    creds = task.creds
    return (
        creds.show_uid(found.uid),
        creds.show_gid(found.gid),
        creds.show_uid(found.cuid),
        creds.show_gid(found.cgid),
    )


def set_owner(task: Task, found: IpcObject, owner: tuple[int, int, int]) -> None:
    """IPC_SET: uid and gid of the caller's user namespace, and a mode.  Raises LinuxError(EINVAL)."""
    ns = task.creds.user_ns
    found.set_owner(map_uid(ns, owner[0]), map_gid(ns, owner[1]), owner[2])


def sys_shmget(task: Task, args: Args) -> int:
    """shmget(2)."""
    key, size, flags = to_i32(args.a0), to_u64(args.a1), to_i32(args.a2)
    ids = task.ns.ipc.segments
    found = ids.existing(task, key, flags)
    if found is not None:
        assert isinstance(found, Segment)
        if found.size < size:
            return -EINVAL
        found.require(task, flags)
        return found.ident
    if flags & SHM_HUGETLB:
        return -ENOMEM if task.creds.capable(CAP_IPC_LOCK) else -EPERM  # there are no huge pages
    fs = task.group.container.memory_fs
    if fs is None:
        return -ENOSYS
    return ids.create(task, fs, key, size, flags)


def sys_shmat(task: Task, args: Args) -> int:
    """shmat(2)."""
    addr, flags = to_u64(args.a1), to_i32(args.a2)
    map_flags = MAP_SHARED
    if addr:
        if addr & (SHMLBA - 1):
            if not flags & SHM_RND:
                return -EINVAL
            addr &= ~(SHMLBA - 1)
            if not addr and flags & SHM_REMAP:
                return -EINVAL
        map_flags |= MAP_FIXED
    elif flags & SHM_REMAP:
        return -EINVAL
    prot, rights = PROT_READ, 0o444
    if not flags & SHM_RDONLY:
        prot, rights = PROT_READ | PROT_WRITE, 0o666
    if flags & SHM_EXEC:
        prot |= PROT_EXEC
        rights |= 0o111
    segment = task.ns.ipc.segments.segment(to_i32(args.a0))
    segment.require(task, rights)
    length = page_up(segment.size)
    mm = task.mm
    if addr and not flags & SHM_REMAP:
        if addr + length >= 1 << 64 or mm.overlaps(addr, addr + length):
            return -EINVAL
    attachment = Attachment(task, segment, prot)
    limit = task.group.rlimit(RLIMIT_AS)
    try:
        result = mm.mmap(task.thread, addr, length, prot, map_flags, attachment, 0, segment.name, limit)
    except LinuxError:
        attachment.abandon()
        raise
    mm.has_segments = True
    was_attached(segment, task.group.tgid)
    return result


def sys_shmdt(task: Task, args: Args) -> int:
    """shmdt(2)."""
    addr = to_u64(args.a0)
    if addr & (SHMLBA - 1):
        return -EINVAL
    found = attached_areas(task.mm.areas(), addr) if task.mm.has_segments else []
    if not found:
        return -EINVAL
    backing = found[0].backing
    assert isinstance(backing, Attachment)
    was_detached(backing.segment, task.group.tgid)
    for area in found:
        task.mm.munmap(task.thread, area.start, area.end - area.start)
    return 0


def sys_shmctl(task: Task, args: Args) -> int:
    """shmctl(2)."""
    ident, command, addr = to_i32(args.a0), to_i32(args.a1), to_u64(args.a2)
    if command < 0 or ident < 0:
        return -EINVAL
    mem = task.user_memory()
    ids = task.ns.ipc.segments
    if command == IPC_INFO:
        mem.write(addr, SHMINFO.pack(SHMMAX, SHMMIN, SHMMNI, SHMMNI, SHMALL, 0, 0, 0, 0))
        return max(ids.highest(), 0)
    if command == SHM_INFO:
        resident = 0
        for each in ids.in_order():
            assert isinstance(each, Segment)
            resident += each.resident_bytes(task)
        mem.write(addr, SHM_INFO_FIGURES.pack(len(ids.by_slot), 0, ids.pages, resident >> 12, 0, 0, 0))
        return max(ids.highest(), 0)
    if command in (IPC_STAT, SHM_STAT, SHM_STAT_ANY):
        segment = ids.segment(ident) if command == IPC_STAT else ids.segment(ids.at(ident).ident)
        if command != SHM_STAT_ANY:
            segment.require(task, 0o444)
        mem.write(addr, segment.status(owner_ids(task, segment), task.pid_ns))
        return 0 if command == IPC_STAT else segment.ident
    if command == IPC_SET:
        owner = unpack_perm(mem.read(addr, SHMID_DS_SIZE))
        segment = ids.segment(ident)
        segment.require_owner(task)
        set_owner(task, segment, owner)
        return 0
    if command == IPC_RMID:
        segment = ids.segment(ident)
        segment.require_owner(task)
        segment.remove()
        return 0
    if command == SHM_LOCK or command == SHM_UNLOCK:
        return _lock(task, ids.segment(ident), is_locked=command == SHM_LOCK)
    return -EINVAL


def _lock(task: Task, segment: Segment, *, is_locked: bool) -> int:
    """SHM_LOCK and SHM_UNLOCK: stored and shown; like mlock, not enforced on the host."""
    creds = task.creds
    if not creds.capable_in(task.ns.ipc.user_ns, CAP_IPC_LOCK):
        if creds.euid not in (segment.uid, segment.cuid):
            return -EPERM
        if is_locked and task.group.rlimit(RLIMIT_MEMLOCK) == 0:
            return -EPERM
    segment.mode = segment.mode | SHM_LOCKED if is_locked else segment.mode & ~SHM_LOCKED
    return 0
