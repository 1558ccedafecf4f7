"""seccomp(2), also through prctl(2); the rules are in `kernel.seccomp`."""

from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.errno import EFAULT, EINVAL, EOPNOTSUPP, LinuxError
from cloche.abi.structs import SOCK_FPROG, SOCK_FPROG_SIZE
from cloche.kernel import seccomp
from cloche.kernel.task import Args, Task, to_u32, to_u64

_FLAGS: Final = (
    bpf.SECCOMP_FILTER_FLAG_TSYNC
    | bpf.SECCOMP_FILTER_FLAG_LOG
    | bpf.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    | bpf.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
)
_ACTIONS: Final = (
    bpf.SECCOMP_RET_KILL_PROCESS,
    bpf.SECCOMP_RET_KILL_THREAD,
    bpf.SECCOMP_RET_TRAP,
    bpf.SECCOMP_RET_ERRNO,
    bpf.SECCOMP_RET_TRACE,
    bpf.SECCOMP_RET_LOG,
    bpf.SECCOMP_RET_ALLOW,
)


def set_filter(task: Task, address: int, flags: int) -> int:
    """Read a struct sock_fprog and install it."""
    if flags & ~_FLAGS:
        return -EINVAL  # a listener for user notification is not to be had
    mem = task.user_memory()
    if address == 0:
        raise LinuxError(EFAULT)
    count, program = SOCK_FPROG.unpack(mem.read(address, SOCK_FPROG_SIZE))
    if count == 0 or count > bpf.BPF_MAXINSNS:
        return -EINVAL
    return seccomp.add_filter(task, mem.read(program, 8 * count), flags)


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
    return -EINVAL


def prctl_set_seccomp(task: Task, mode: int, address: int) -> int:
    """PR_SET_SECCOMP."""
    if mode == bpf.SECCOMP_MODE_STRICT:
        seccomp.set_strict(task)
        return 0
    if mode == bpf.SECCOMP_MODE_FILTER:
        return set_filter(task, address, 0)
    return -EINVAL
