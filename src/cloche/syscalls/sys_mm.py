"""Memory calls: mmap, munmap, mprotect, mremap, madvise, brk, msync, mincore, the mlock family."""

from cloche.abi.errno import (
    EACCES,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    LinuxError,
)
from cloche.abi.limits import MAX_LFS_FILESIZE
from cloche.abi.mman import (
    MAP_32BIT,
    MAP_ANONYMOUS,
    MAP_DENYWRITE,
    MAP_EXECUTABLE,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_STACK,
    MAP_TYPE,
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    MS_ASYNC,
    MS_INVALIDATE,
    MS_SYNC,
    PROT_EXEC,
    PROT_WRITE,
)
from cloche.abi.stat import S_IFMT, S_IFREG
from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.blocking import BLOCKED
from cloche.kernel.rlimits import limit_growth
from cloche.kernel.task import Task
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import AREA_LOCKED, AREA_SHARED, LOCK_FLAGS, Area, AreaChange, Crowded, Mappable, page_up
from cloche.syscalls.args import data_file, is_user_range
from cloche.syscalls.long_mm import (
    Advice,
    Changes,
    Emptying,
    Protection,
    RangeWork,
    Residency,
    Synchronisation,
)
from cloche.syscalls.long_remap import Remapping
from cloche.vfs.mapping import FileMapping, SharedAnonymous
from cloche.vfs.namei import d_path
from cloche.vfs.objects import FileDescription

RLIMIT_DATA = 2
RLIMIT_MEMLOCK = 8
RLIMIT_AS = 9
CAP_IPC_LOCK = 14
MS_NOEXEC = 8
_WORD = (1 << 64) - 1


# Flags that MAP_SHARED_VALIDATE knows: LEGACY_MAP_MASK of linux/mman.h.
_VALIDATED = (
    MAP_TYPE | MAP_FIXED | MAP_ANONYMOUS | MAP_DENYWRITE | MAP_EXECUTABLE | MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE
    | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK | MAP_HUGETLB | MAP_32BIT | 0x80 | 21 << 26 | 30 << 26
)  # fmt: skip


def lock_limit(task: Task) -> int:
    """Bytes that the caller may lock, -1: any."""
    limit = task.group.rlimit(RLIMIT_MEMLOCK)
    return -1 if limit < 0 or task.creds.capable(CAP_IPC_LOCK) else limit


def _check_place(task: Task, addr: int, length: int, flags: int) -> None:
    """The checks of do_mmap that come before those of the file. Raises LinuxError."""
    mm = task.mm
    if length == 0:
        raise LinuxError(EINVAL)
    if page_up(length) > mm.max_address:
        raise LinuxError(ENOMEM)
    if flags & MAP_LOCKED and lock_limit(task) == 0:
        raise LinuxError(EPERM)


def _file_mapping(task: Task, file: FileDescription, prot: int, flags: int) -> tuple[FileMapping, bytes]:
    """The checks of do_mmap for a file.  Raises LinuxError."""
    kind = flags & MAP_TYPE
    if kind not in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE):
        raise LinuxError(EINVAL)
    if kind == MAP_SHARED_VALIDATE and flags & ~_VALIDATED:
        raise LinuxError(EOPNOTSUPP)
    if kind != MAP_PRIVATE:
        if prot & PROT_WRITE and not file.is_writable():
            raise LinuxError(EACCES)
    if not file.is_readable():
        raise LinuxError(EACCES)
    path = file.path
    name = b""
    if path is not None:
        if prot & PROT_EXEC and path.mount.flags & MS_NOEXEC:
            raise LinuxError(EPERM)
        name = d_path(task.fs.root, path)
    elif prot & PROT_EXEC and file.inode.mode & S_IFMT != S_IFREG:
        raise LinuxError(EPERM)  # the file systems of pipes, sockets and their kin are noexec
    if file.inode.is_dir():
        raise LinuxError(ENODEV)
    mapping = FileMapping(task, file, name)
    if file.has_slow_storage():
        task.mm.has_slow_files = True
    if flags & MAP_GROWSDOWN:
        mapping.map_fd(prot, flags)  # called here because ENODEV comes first
        raise LinuxError(EINVAL)
    return mapping, name


def sys_mmap(task: Task, args: Args) -> int:
    """mmap(2)."""
    addr, length = to_u64(args.a0), to_u64(args.a1)
    prot, flags = to_i32(args.a2), to_i32(args.a3)
    offset = to_u64(args.a5)
    kind = flags & MAP_TYPE
    if offset & 4095:
        return -EINVAL
    file: FileDescription | None = None
    if flags & MAP_ANONYMOUS == 0:
        file = data_file(task, args.a4)
        if flags & MAP_HUGETLB:
            return -EINVAL
    elif flags & MAP_HUGETLB:
        return -ENOMEM if kind in (MAP_SHARED, MAP_PRIVATE) and length else -EINVAL
    _check_place(task, addr, length, flags)
    if task.mm.mdwe and prot & PROT_EXEC and prot & PROT_WRITE:
        return -EACCES
    backing: Mappable | None = None
    mapping: FileMapping | None = None
    name = b""
    if file is None:
        if kind == MAP_SHARED:
            if flags & MAP_GROWSDOWN:
                return -EINVAL
            kernel = task.kernel
            anon = kernel.file_systems.anon
            backing = SharedAnonymous(
                anon.dev if anon is not None else 1,
                kernel.numbers.anon_ino(),
                page_up(length),
                task.group.container.ident,
            )
            offset = 0
            name = b"/dev/zero (deleted)"
        elif kind != MAP_PRIVATE:
            return -EINVAL
    else:
        most = MAX_LFS_FILESIZE if file.inode.mode & S_IFMT == S_IFREG else _WORD
        if offset > most - page_up(length):
            return -EOVERFLOW
        mapping, name = _file_mapping(task, file, prot, flags)
        if offset > 1 << 62 or offset + length > 1 << 62:
            return -EOVERFLOW
        offset = file.mmap_offset(offset)
        backing = mapping
    locks = lock_limit(task) if flags & MAP_LOCKED or task.mm.future_lock else -1
    limit = task.group.rlimit(RLIMIT_AS)
    try:
        at = task.mm.mmap(task.thread, addr, length, prot, flags, backing, offset, name, limit, locks)
    except Crowded as crowd:
        return Emptying(task.mm, crowd, args, sys_mmap).retry(task)
    if flags & MAP_GROWSDOWN:
        limit_growth(task)
    program = task.group.exe.program
    if mapping is not None and program is not None and kind == MAP_PRIVATE:
        kernel = task.kernel
        program.note(kernel.platform, mapping, task.group.container.family[0], is_patching=kernel.is_patching)
    return at


def sys_munmap(task: Task, args: Args) -> int:
    """munmap(2)."""
    try:
        task.mm.munmap(task.thread, to_u64(args.a0), to_u64(args.a1))
    except Crowded as crowd:
        return Emptying(task.mm, crowd, args, sys_munmap).retry(task)
    return 0


def sys_mprotect(task: Task, args: Args) -> int:
    """mprotect(2)."""
    prot = to_i32(args.a2)
    start, end = task.mm.check_protect(to_u64(args.a0), to_u64(args.a1), prot)
    return Protection(task.mm, start, end, prot & 7).retry(task)


def sys_pkey_mprotect(task: Task, args: Args) -> int:
    """pkey_mprotect(2): only the default key -1, as on a CPU without protection keys."""
    if to_i32(args.a3) != -1:
        return -EINVAL
    return sys_mprotect(task, args)


def sys_pkey_alloc(task: Task, args: Args) -> int:
    """pkey_alloc(2): no key is free on a CPU without them."""
    return -EINVAL if args.a0 or args.a1 & ~3 else -28


def sys_pkey_free(task: Task, args: Args) -> int:
    """pkey_free(2)."""
    return -EINVAL


def sys_mremap(task: Task, args: Args) -> int:
    """mremap(2)."""
    try:
        return task.mm.mremap(
            task.thread,
            to_u64(args.a0),
            to_u64(args.a1),
            to_u64(args.a2),
            to_i32(args.a3),
            to_u64(args.a4),
            task.group.rlimit(RLIMIT_AS),
            lock_limit(task),
        )
    except Crowded as crowd:
        return Emptying(task.mm, crowd, args, sys_mremap).retry(task)


def sys_madvise(task: Task, args: Args) -> int:
    """madvise(2)."""
    start, advice = to_u64(args.a0), to_i32(args.a2)
    end = task.mm.check_advice(start, to_u64(args.a1), advice)
    return Advice(task.mm, start, end, advice).retry(task)


def sys_brk(task: Task, args: Args) -> int:
    """brk(2)."""
    group = task.group
    locks = lock_limit(task) if task.mm.future_lock else -1
    new, total = to_u64(args.a0), group.rlimit(RLIMIT_AS)
    try:
        return task.mm.set_brk(task.thread, new, group.rlimit(RLIMIT_DATA), total, locks)
    except Crowded as crowd:
        return Emptying(task.mm, crowd, args, sys_brk).retry(task)


def sys_msync(task: Task, args: Args) -> int:
    """msync(2): shared file pages are the file's own pages, so there is nothing to write but the flags are checked."""
    addr, length, flags = to_u64(args.a0), to_u64(args.a1), to_i32(args.a2)
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or addr & 4095 or flags & MS_ASYNC and flags & MS_SYNC:
        return -EINVAL
    size = page_up(length) & _WORD
    if addr + size > _WORD:
        return -ENOMEM
    is_invalidating = flags & MS_INVALIDATE != 0
    return Synchronisation(task.mm, addr, addr + size, is_invalidating=is_invalidating).retry(task)


def sys_mincore(task: Task, args: Args) -> int:
    """mincore(2): every mapped page counts as resident (allowed: a page may be read in at any time)."""
    addr, length = to_u64(args.a0), to_u64(args.a1)
    if addr & 4095:
        return -EINVAL
    end = task.mm.check_range(addr, length)
    pages = (end - addr) >> 12
    if not is_user_range(args.a2, pages):
        return -EFAULT
    return Residency(task.mm, addr, end, to_u64(args.a2)).retry(task)


class SetLocks(AreaChange):
    """LOCK_FLAGS of areas."""

    def __init__(self, locks: int) -> None:
        self.locks: int = locks
        self.has_inaccessible: bool = False  # there is an area where nothing can be faulted in

    def apply(self, area: Area) -> None:
        area.flags = area.flags & ~LOCK_FLAGS | self.locks
        if area.prot == 0:
            self.has_inaccessible = True


class Locking(RangeWork):
    """mlock and munlock: up to the first hole."""

    def __init__(self, mm: AddressSpace, start: int, end: int, change: SetLocks) -> None:
        super().__init__(mm, start, end)
        self.change: SetLocks = change

    def some(self, task: Task) -> None:
        covered = self.mm.covered_some(self.at, self.end)
        self.at = self.mm.change_some(self.at, covered, self.change)

    def result(self, task: Task) -> int:
        is_missing = self.change.locks == AREA_LOCKED and self.change.has_inaccessible
        return -ENOMEM if is_missing else 0


def _lock_range(task: Task, addr: int, length: int, locks: int) -> int:
    """mlock and munlock; areas before a hole are changed (apply_vma_lock_flags)."""
    start = addr & ~4095
    size = page_up(length + (addr & 4095)) & _WORD
    end = start + size
    mm = task.mm
    if locks:
        limit = lock_limit(task)
        if limit == 0:
            return -EPERM
        if 0 <= limit & ~4095 < mm.locked_bytes + size - mm.locked_within(start, end) and limit > 0:
            return -ENOMEM
    if end > _WORD:
        return -EINVAL
    if size == 0:
        return 0
    return Locking(mm, start, end, SetLocks(locks)).retry(task)


def sys_mlock(task: Task, args: Args) -> int:
    """mlock(2): accounted, not enforced on the host (pages may be swapped by it)."""
    return _lock_range(task, to_u64(args.a0), to_u64(args.a1), AREA_LOCKED)


def sys_mlock2(task: Task, args: Args) -> int:
    """mlock2(2)."""
    flags = to_i32(args.a2)
    if flags & ~1:
        return -EINVAL
    return _lock_range(task, to_u64(args.a0), to_u64(args.a1), LOCK_FLAGS if flags else AREA_LOCKED)


def sys_munlock(task: Task, args: Args) -> int:
    """munlock(2)."""
    return _lock_range(task, to_u64(args.a0), to_u64(args.a1), 0)


def sys_mlockall(task: Task, args: Args) -> int:
    """mlockall(2)."""
    flags = to_i32(args.a0)
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        return -EINVAL
    limit, mm = lock_limit(task), task.mm
    if limit == 0:
        return -EPERM
    if flags & MCL_CURRENT and 0 <= limit < mm.total_bytes:
        return -ENOMEM
    locks = LOCK_FLAGS if flags & MCL_ONFAULT else AREA_LOCKED
    mm.future_lock = locks if flags & MCL_FUTURE else 0
    if flags & MCL_CURRENT:
        return Changes(mm, 0, mm.max_address, SetLocks(locks), 0).retry(task)
    return 0


def sys_munlockall(task: Task, args: Args) -> int:
    """munlockall(2)."""
    mm = task.mm
    mm.future_lock = 0
    return Changes(mm, 0, mm.max_address, SetLocks(0), 0).retry(task)


def sys_remap_file_pages(task: Task, args: Args) -> int:
    """remap_file_pages(2): a new mapping over the old one, as Linux has emulated it since 4.0."""
    start, size = to_u64(args.a0) & ~4095, to_u64(args.a1) & ~4095
    page = to_u64(args.a3)
    if args.a2 or size == 0 or start + size > task.mm.max_address or page >= 1 << 50:
        return -EINVAL
    area = task.mm.find(start)
    if area is None or area.flags & AREA_SHARED == 0:
        return -EINVAL
    flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE | to_i32(args.a4) & MAP_NONBLOCK
    work = Remapping(task.mm, area, start, start + size, page << 12, flags)
    result = 0
    try:
        result = work.retry(task)
    finally:
        if result != BLOCKED:
            work.finished(task)
    return result
