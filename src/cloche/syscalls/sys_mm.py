"""Memory calls: mmap, munmap, mprotect, mremap, madvise, brk, msync, mincore, the mlock family."""

from cloche.abi.errno import EACCES, EBADF, EINVAL, ENODEV, ENOMEM, EOPNOTSUPP, EPERM
from cloche.abi.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_HUGETLB,
    MAP_NONBLOCK,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_SYNC,
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    MS_ASYNC,
    MS_INVALIDATE,
    MS_SYNC,
    PROT_EXEC,
    PROT_WRITE,
)
from cloche.kernel.task import Args, Task, to_i32, to_u64
from cloche.mm.address_space import AREA_LOCKED, AREA_SHARED, Mappable, page_up
from cloche.vfs.mapping import FileMapping, SharedAnonymous
from cloche.vfs.namei import d_path

RLIMIT_DATA = 2
RLIMIT_MEMLOCK = 8
RLIMIT_AS = 9
CAP_IPC_LOCK = 14
O_PATH = 0o10000000
MS_NOEXEC = 8


def sys_mmap(task: Task, args: Args) -> int:
    """mmap(2)."""
    addr, length = to_u64(args.a0), to_u64(args.a1)
    prot, flags = to_i32(args.a2), to_i32(args.a3)
    offset = to_u64(args.a5)
    kind = flags & 0xF
    if offset & 4095:
        return -EINVAL
    if length == 0 or kind not in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE):
        return -EINVAL
    if length > task.mm.max_address:
        return -ENOMEM
    if task.mm.mdwe and prot & PROT_EXEC and prot & PROT_WRITE:
        return -EACCES
    backing: Mappable | None = None
    mapping: FileMapping | None = None
    name = b""
    if flags & MAP_HUGETLB:
        return -ENOMEM if flags & MAP_ANONYMOUS else -EINVAL
    if flags & MAP_ANONYMOUS:
        if kind != MAP_PRIVATE:
            if kind == MAP_SHARED_VALIDATE:
                return -EINVAL
            kernel = task.kernel
            anon = kernel.anon_fs
            backing = SharedAnonymous(
                anon.dev if anon is not None else 1, kernel.alloc_anon_ino(), page_up(length)
            )
            offset = 0
            name = b"/dev/zero (deleted)"
    else:
        file = task.files.get(to_i32(args.a4))
        if file.flags & O_PATH:
            return -EBADF
        if kind == MAP_SHARED_VALIDATE and flags & MAP_SYNC:
            return -EOPNOTSUPP
        if offset > 1 << 62 or offset + length > 1 << 62:
            return -75  # EOVERFLOW
        if not file.is_readable():
            return -EACCES
        if kind != MAP_PRIVATE and prot & PROT_WRITE and not file.is_writable():
            return -EACCES
        path = file.path
        if path is not None:
            if prot & PROT_EXEC and path.mount.flags & MS_NOEXEC:
                return -EPERM
            name = d_path(task.fs.root, path)
        if file.inode.is_dir():
            return -ENODEV
        offset = file.mmap_offset(offset)
        mapping = backing = FileMapping(task, file, name)
    at = task.mm.mmap(
        task.thread, addr, length, prot, flags, backing, offset, name, task.group.rlimit(RLIMIT_AS)
    )
    program = task.group.program
    if mapping is not None and program is not None and kind == MAP_PRIVATE:
        program.note(task.kernel.platform, mapping)
    return at


def sys_munmap(task: Task, args: Args) -> int:
    """munmap(2)."""
    task.mm.munmap(task.thread, to_u64(args.a0), to_u64(args.a1))
    return 0


def sys_mprotect(task: Task, args: Args) -> int:
    """mprotect(2)."""
    task.mm.mprotect(task.thread, to_u64(args.a0), to_u64(args.a1), to_i32(args.a2))
    return 0


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
    return task.mm.mremap(
        task.thread, to_u64(args.a0), to_u64(args.a1), to_u64(args.a2), to_i32(args.a3), to_u64(args.a4)
    )


def sys_madvise(task: Task, args: Args) -> int:
    """madvise(2)."""
    task.mm.madvise(task.thread, to_u64(args.a0), to_u64(args.a1), to_i32(args.a2))
    return 0


def sys_brk(task: Task, args: Args) -> int:
    """brk(2)."""
    group = task.group
    return task.mm.set_brk(task.thread, to_u64(args.a0), group.rlimit(RLIMIT_DATA), group.rlimit(RLIMIT_AS))


def sys_msync(task: Task, args: Args) -> int:
    """msync(2): shared file pages are the file's own pages, so there is nothing to write but the flags are checked."""
    addr, length, flags = to_u64(args.a0), to_u64(args.a1), to_i32(args.a2)
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or addr & 4095 or flags & MS_ASYNC and flags & MS_SYNC:
        return -EINVAL
    end = task.mm.check_range(addr, length)
    if not task.mm.is_covered(addr, end):
        return -ENOMEM
    return 0


def sys_mincore(task: Task, args: Args) -> int:
    """mincore(2): every mapped page counts as resident (allowed: a page may be read in at any time)."""
    addr, length = to_u64(args.a0), to_u64(args.a1)
    if addr & 4095:
        return -EINVAL
    end = task.mm.check_range(addr, length)
    if not task.mm.is_covered(addr, end):
        return -ENOMEM
    pages = (end - addr) >> 12
    if pages > 1 << 24:
        return -ENOMEM
    task.user_memory().write(to_u64(args.a2), b"\1" * pages)
    return 0


def _lock_range(task: Task, addr: int, length: int, *, is_locked: bool) -> int:
    start = addr & ~4095
    end = page_up(addr + length)
    if addr + length > 1 << 64 or end < start:
        return -EINVAL
    if start == end:
        return 0
    mm = task.mm
    if end > mm.max_address or not mm.is_covered(start, end):
        return -ENOMEM
    if is_locked:
        limit = task.group.rlimit(RLIMIT_MEMLOCK)
        if limit >= 0 and not task.creds.capable(CAP_IPC_LOCK):
            if limit == 0:
                return -EPERM
            locked = 0
            for area in mm.areas():
                if area.flags & AREA_LOCKED:
                    locked += area.end - area.start
            if locked + end - start > limit:
                return -ENOMEM
    mm.set_locked(start, end, is_locked=is_locked)
    return 0


def sys_mlock(task: Task, args: Args) -> int:
    """mlock(2): accounted, not enforced on the host (pages may be swapped by it)."""
    return _lock_range(task, to_u64(args.a0), to_u64(args.a1), is_locked=True)


def sys_mlock2(task: Task, args: Args) -> int:
    """mlock2(2)."""
    if to_i32(args.a2) & ~1:
        return -EINVAL
    return _lock_range(task, to_u64(args.a0), to_u64(args.a1), is_locked=True)


def sys_munlock(task: Task, args: Args) -> int:
    """munlock(2)."""
    return _lock_range(task, to_u64(args.a0), to_u64(args.a1), is_locked=False)


def sys_mlockall(task: Task, args: Args) -> int:
    """mlockall(2)."""
    flags = to_i32(args.a0)
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        return -EINVAL
    limit = task.group.rlimit(RLIMIT_MEMLOCK)
    if not task.creds.capable(CAP_IPC_LOCK):
        if limit == 0:
            return -EPERM
        if flags & MCL_CURRENT and 0 <= limit < task.mm.total_bytes:
            return -ENOMEM
    if flags & MCL_CURRENT:
        task.mm.set_locked(0, task.mm.max_address, is_locked=True)
    return 0


def sys_munlockall(task: Task, args: Args) -> int:
    """munlockall(2)."""
    task.mm.set_locked(0, task.mm.max_address, is_locked=False)
    return 0


def sys_remap_file_pages(task: Task, args: Args) -> int:
    """remap_file_pages(2): a new mapping over the old one, as Linux has emulated it since 4.0."""
    start, size = to_u64(args.a0) & ~4095, to_u64(args.a1) & ~4095
    page = to_u64(args.a3)
    if args.a2 or size == 0 or start + size > task.mm.max_address or page >= 1 << 50:
        return -EINVAL
    area = task.mm.find(start)
    if area is None or area.flags & AREA_SHARED == 0:
        return -EINVAL
    backing, end = area.backing, area.end
    if backing is None:
        return -EINVAL
    while end < start + size:
        following = task.mm.find(end)
        if (
            following is None
            or following.flags != area.flags
            or not _is_same_file(following.backing, backing)
        ):
            return -EINVAL
        end = following.end
    flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE | to_i32(args.a4) & MAP_NONBLOCK
    again, offset = backing, page << 12
    if isinstance(backing, FileMapping):
        again, offset = FileMapping(task, backing.file, area.name), backing.file.mmap_offset(offset)
    backing.map_get()  # the old area may have been its last user
    try:
        task.mm.mmap(task.thread, start, size, area.prot, flags, again, offset, area.name)
    finally:
        backing.map_put()
    return 0


def _is_same_file(one: Mappable | None, two: Mappable) -> bool:
    if isinstance(one, FileMapping) and isinstance(two, FileMapping):
        return one.file is two.file
    return one is two
