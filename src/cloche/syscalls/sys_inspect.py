"""System calls by which one process looks into another: kcmp(2), process_vm_readv(2)."""

from struct import Struct
from typing import Final

from cloche.abi import kcmp
from cloche.abi.errno import EBADF, EFAULT, EINVAL, ENOENT, EPERM, ESRCH
from cloche.fs.epoll import EpollFile
from cloche.kernel.access import find_task, may_access
from cloche.kernel.task import Args, Task, to_i32, to_u64
from cloche.mm.usermem import import_iovec

_SLOT: Final = Struct("<III")
_STEP: Final = 1 << 20
_LIMIT: Final = 64 << 20  # bytes of one call; the caller sees a partial transfer beyond it


def sys_kcmp(task: Task, args: Args) -> int:
    """kcmp(2): 0 the same, 1 or 2 an order that lasts as long as the objects."""
    first, second = find_task(task, to_i32(args.a0)), find_task(task, to_i32(args.a1))
    if first is None or second is None or args.a0 == 0 or args.a1 == 0:
        return -ESRCH
    for other in (first, second):
        if not may_access(task, other, uses_real_ids=True):
            return -EPERM
    kind = to_i32(args.a2)
    if kind == kcmp.KCMP_FILE:
        one, two = first.files.find(_fd(args.a3)), second.files.find(_fd(args.a4))
        if one is None or two is None:
            return -EBADF
        return _order(one, two)
    if kind == kcmp.KCMP_VM:
        return _order(first.mm, second.mm)
    if kind == kcmp.KCMP_FILES:
        return _order(first.files, second.files)
    if kind == kcmp.KCMP_FS:
        return _order(first.fs, second.fs)
    if kind == kcmp.KCMP_SIGHAND:
        return _order(first.group.handlers, second.group.handlers)
    if kind == kcmp.KCMP_IO:
        return 0  # no task has an I/O context of its own
    if kind == kcmp.KCMP_SYSVSEM:
        return _order(first.undo_list, second.undo_list)
    return _epoll_target(task, args, first, second) if kind == kcmp.KCMP_EPOLL_TFD else -EINVAL


def _epoll_target(task: Task, args: Args, first: Task, second: Task) -> int:
    """KCMP_EPOLL_TFD: a file against what an epoll watches under a number (struct kcmp_epoll_slot)."""
    raw = task.user_memory().read(to_u64(args.a4), _SLOT.size)
    epoll_fd, fd, skipped = _SLOT.unpack(raw)
    file = first.files.find(_fd(args.a3))
    epoll = second.files.find(_fd(epoll_fd))
    if file is None or epoll is None:
        return -EBADF
    if not isinstance(epoll, EpollFile):
        return -EINVAL
    for number, watched in epoll.items:
        if number == fd:
            if skipped == 0:
                return _order(file, watched)
            skipped -= 1
    return -ENOENT


def _fd(value: int) -> int:
    return value if 0 <= value < 1 << 31 else -1


def _order(one: object, two: object) -> int:
    if one is two:
        return 0
    return 1 if id(one) < id(two) else 2


def sys_process_vm_readv(task: Task, args: Args) -> int:
    """process_vm_readv(2)."""
    return _transfer(task, args, is_write=False)


def sys_process_vm_writev(task: Task, args: Args) -> int:
    """process_vm_writev(2)."""
    return _transfer(task, args, is_write=True)


def _transfer(task: Task, args: Args, *, is_write: bool) -> int:
    """Copy between the caller's and another process's memory, in pieces that fit both lists."""
    if args.a5:
        return -EINVAL
    mem = task.user_memory()
    local_count, remote_count = to_u64(args.a2), to_u64(args.a4)
    if local_count > 1024 or remote_count > 1024:
        return -EINVAL
    local = import_iovec(mem, to_u64(args.a1), local_count)
    if sum([length for _base, length in local]) == 0:
        return 0
    remote = import_iovec(mem, to_u64(args.a3), remote_count)
    if sum([length for _base, length in remote]) == 0:
        return 0
    target = find_task(task, to_i32(args.a0)) if args.a0 else None
    if target is None or target.is_exited:
        return -ESRCH
    if not may_access(task, target, uses_real_ids=True):
        return -EPERM
    process = target.mm.process
    own = mem.process
    done = 0
    at_local, offset_local, at_remote, offset_remote = 0, 0, 0, 0
    while at_local < len(local) and at_remote < len(remote) and done < _LIMIT:
        base_local, left_local = local[at_local][0] + offset_local, local[at_local][1] - offset_local
        base_remote, left_remote = remote[at_remote][0] + offset_remote, remote[at_remote][1] - offset_remote
        if left_local == 0:
            at_local, offset_local = at_local + 1, 0
            continue
        if left_remote == 0:
            at_remote, offset_remote = at_remote + 1, 0
            continue
        size = min(left_local, left_remote, _STEP)
        if is_write:
            moved = process.write(base_remote, mem.read_some(base_local, size))
        else:
            moved = own.write(base_local, process.read(base_remote, size))
        done += moved
        offset_local += moved
        offset_remote += moved
        if moved < size:
            break
    return done if done else -EFAULT
