"""seccomp(2), also through prctl(2); the rules are in `kernel.seccomp`."""

import os
from struct import Struct
from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.errno import EFAULT, EINVAL, EOPNOTSUPP, LinuxError
from cloche.abi.structs import SOCK_FPROG, SOCK_FPROG_SIZE
from cloche.fs.seccomp_listener import NOTIFICATION_SIZE, RESPONSE_SIZE, ListenerFile
from cloche.kernel import seccomp
from cloche.kernel.args import Args, to_u32, to_u64
from cloche.kernel.seccomp_filter import Listener
from cloche.kernel.task import Task

_FLAGS: Final = (
    bpf.SECCOMP_FILTER_FLAG_TSYNC
    | bpf.SECCOMP_FILTER_FLAG_LOG
    | bpf.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    | bpf.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    | bpf.SECCOMP_FILTER_FLAG_NEW_LISTENER
    | bpf.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
)
_TSYNC: Final = bpf.SECCOMP_FILTER_FLAG_TSYNC
_TSYNC_ESRCH: Final = bpf.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
_SIZES: Final = Struct("<HHH")
_ACTIONS: Final = (
    bpf.SECCOMP_RET_KILL_PROCESS,
    bpf.SECCOMP_RET_KILL_THREAD,
    bpf.SECCOMP_RET_TRAP,
    bpf.SECCOMP_RET_ERRNO,
    bpf.SECCOMP_RET_USER_NOTIF,
    bpf.SECCOMP_RET_TRACE,
    bpf.SECCOMP_RET_LOG,
    bpf.SECCOMP_RET_ALLOW,
)


def set_filter(task: Task, address: int, flags: int) -> int:
    """Read a struct sock_fprog and install it."""
    wants_listener = flags & bpf.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
    if flags & ~_FLAGS:
        return -EINVAL
    if wants_listener and flags & (_TSYNC | _TSYNC_ESRCH) == _TSYNC:
        return -EINVAL  # the result could be either a thread or a descriptor
    if flags & bpf.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV and not wants_listener:
        return -EINVAL
    mem = task.user_memory()
    if address == 0:
        raise LinuxError(EFAULT)
    count, program = SOCK_FPROG.unpack(mem.read(address, SOCK_FPROG_SIZE))
    if count == 0 or count > bpf.BPF_MAXINSNS:
        return -EINVAL
    raw = mem.read(program, 8 * count)
    if not wants_listener:
        return seccomp.add_filter(task, raw, flags)
    limit = task.nofile_limit()
    task.files.reserve(limit)
    is_killable = flags & bpf.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0
    listener = Listener(int.from_bytes(os.urandom(8), "little"), is_killable=is_killable)
    result = seccomp.add_filter(task, raw, flags, listener)
    return result or task.files.install(ListenerFile(task.kernel, listener), limit, is_cloexec=True)


def sys_seccomp(task: Task, args: Args) -> int:
    """seccomp(2)."""
    operation, flags, address = to_u32(args.a0), to_u32(args.a1), to_u64(args.a2)
    if operation == bpf.SECCOMP_SET_MODE_STRICT:
        if flags or address:
            return -EINVAL
        seccomp.set_strict(task)
        return 0
    if operation == bpf.SECCOMP_SET_MODE_FILTER:
        return set_filter(task, address, flags)
    if operation == bpf.SECCOMP_GET_ACTION_AVAIL:
        if flags:
            return -EINVAL
        return 0 if task.user_memory().read_u32(address) in _ACTIONS else -EOPNOTSUPP
    if operation == bpf.SECCOMP_GET_NOTIF_SIZES:
        if flags:
            return -EINVAL
        task.user_memory().write(
            address, _SIZES.pack(NOTIFICATION_SIZE, RESPONSE_SIZE, bpf.SECCOMP_DATA_SIZE)
        )
        return 0
    return -EINVAL


def prctl_set_seccomp(task: Task, mode: int, address: int) -> int:
    """PR_SET_SECCOMP."""
    if mode == bpf.SECCOMP_MODE_STRICT:
        seccomp.set_strict(task)
        return 0
    if mode == bpf.SECCOMP_MODE_FILTER:
        return set_filter(task, address, 0)
    return -EINVAL
