"""System calls that a sandbox does not have, with the errno that Linux gives in its place.

Those that need a privilege which reaches beyond the sandbox give EPERM to every caller, as in a container; those
whose subsystem does not exist here give ENOSYS, which programs take as "fall back".
"""

from cloche.abi.errno import EINVAL, ENOSYS, EOPNOTSUPP, EPERM
from cloche.kernel.args import Args, to_u32
from cloche.kernel.task import Task


def sys_rseq(task: Task, args: Args) -> int:
    """rseq(2): absent, so that no guest code depends on where it was preempted; glibc falls back."""
    return -ENOSYS


def sys_bpf(task: Task, args: Args) -> int:
    """bpf(2): as with kernel.unprivileged_bpf_disabled."""
    return -EPERM


def sys_perf_event_open(task: Task, args: Args) -> int:
    """perf_event_open(2): absent."""
    return -ENOSYS


def sys_userfaultfd(task: Task, args: Args) -> int:
    """userfaultfd(2): as with vm.unprivileged_userfaultfd 0."""
    return -EPERM


def sys_io_uring_setup(task: Task, args: Args) -> int:
    """io_uring_setup(2): absent."""
    return -ENOSYS


def sys_io_uring_enter(task: Task, args: Args) -> int:
    """io_uring_enter(2): absent."""
    return -ENOSYS


def sys_io_uring_register(task: Task, args: Args) -> int:
    """io_uring_register(2): absent."""
    return -ENOSYS


def sys_add_key(task: Task, args: Args) -> int:
    """add_key(2): no keyrings."""
    return -ENOSYS


def sys_request_key(task: Task, args: Args) -> int:
    """request_key(2): no keyrings."""
    return -ENOSYS


def sys_keyctl(task: Task, args: Args) -> int:
    """keyctl(2): no keyrings."""
    return -ENOSYS


def sys_landlock_create_ruleset(task: Task, args: Args) -> int:
    """landlock_create_ruleset(2): absent."""
    return -ENOSYS


def sys_landlock_add_rule(task: Task, args: Args) -> int:
    """landlock_add_rule(2): absent."""
    return -ENOSYS


def sys_landlock_restrict_self(task: Task, args: Args) -> int:
    """landlock_restrict_self(2): absent."""
    return -ENOSYS


def sys_modify_ldt(task: Task, args: Args) -> int:
    """modify_ldt(2): as without CONFIG_MODIFY_LDT_SYSCALL."""
    return -ENOSYS


def sys_ioperm(task: Task, args: Args) -> int:
    """ioperm(2): no ports."""
    first, count = args.a0, args.a1
    if first < 0 or count <= 0 or first + count > 65536:
        return -EINVAL
    return -EPERM if to_u32(args.a2) else 0


def sys_iopl(task: Task, args: Args) -> int:
    """iopl(2): no ports."""
    level = to_u32(args.a0)
    if level > 3:
        return -EINVAL
    return -EPERM if level else 0


def sys_reboot(task: Task, args: Args) -> int:
    """reboot(2)."""
    return -EPERM


def sys_kexec_load(task: Task, args: Args) -> int:
    """kexec_load(2)."""
    return -EPERM


def sys_kexec_file_load(task: Task, args: Args) -> int:
    """kexec_file_load(2)."""
    return -EPERM


def sys_init_module(task: Task, args: Args) -> int:
    """init_module(2)."""
    return -EPERM


def sys_finit_module(task: Task, args: Args) -> int:
    """finit_module(2)."""
    return -EPERM


def sys_delete_module(task: Task, args: Args) -> int:
    """delete_module(2)."""
    return -EPERM


def sys_acct(task: Task, args: Args) -> int:
    """acct(2)."""
    return -EPERM


def sys_vhangup(task: Task, args: Args) -> int:
    """vhangup(2)."""
    return -EPERM


def sys_swapon(task: Task, args: Args) -> int:
    """swapon(2)."""
    return -EPERM


def sys_swapoff(task: Task, args: Args) -> int:
    """swapoff(2)."""
    return -EPERM


def sys_quotactl(task: Task, args: Args) -> int:
    """quotactl(2): as without CONFIG_QUOTACTL."""
    return -ENOSYS


def sys_quotactl_fd(task: Task, args: Args) -> int:
    """quotactl_fd(2): as without CONFIG_QUOTACTL."""
    return -ENOSYS


def sys_map_shadow_stack(task: Task, args: Args) -> int:
    """map_shadow_stack(2): as on a processor without them."""
    return -EOPNOTSUPP


def sys_memfd_secret(task: Task, args: Args) -> int:
    """memfd_secret(2): as with secretmem.enable=0."""
    return -ENOSYS


def sys_fanotify_init(task: Task, args: Args) -> int:
    """fanotify_init(2): as without CONFIG_FANOTIFY."""
    return -ENOSYS


def sys_fanotify_mark(task: Task, args: Args) -> int:
    """fanotify_mark(2): as without CONFIG_FANOTIFY."""
    return -ENOSYS
