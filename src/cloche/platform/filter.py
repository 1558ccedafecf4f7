"""The seccomp filter of guest processes, as data: the calls that the stub may make to the host, and how.

Owns the BPF program that the zygote installs and every guest inherits.  Order of its checks: architecture,
then the instruction pointer, then the call.  Whatever is allowed here must be harmless with *any* arguments,
because a guest can jump to any instruction of the stub (docs/design.md, I6).
"""

from struct import iter_unpack
from typing import Final

from cloche.abi.bpf_program import DATA_ARCH, DATA_ARGS, DATA_IP, DATA_NR, JEQ, JGE, JGT, JSET, BpfProgram
from cloche.abi.fcntl import F_DUPFD_CLOEXEC
from cloche.abi.mman import (
    MADV_DONTFORK,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_READ,
    PROT_WRITE,
)
from cloche.arch.machine import AUDIT_ARCH
from cloche.arch.syscalls import (
    SYS_clone,
    SYS_close,
    SYS_exit,
    SYS_exit_group,
    SYS_fcntl,
    SYS_futex,
    SYS_ioctl,
    SYS_madvise,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munmap,
    SYS_restart_syscall,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_yield,
)
from cloche.platform.layout import (
    BELL_ARG0,
    BELL_ARG1,
    DIRECT_ADVICE_MASK,
    DIRECT_MAP_FLAGS,
    DIRECT_MAP_NEEDED,
    FIRST_CPU_FD,
    FIRST_KEPT,
    KEPT_MAP_FLAGS,
    KEPT_MAP_NEEDED,
    KVM_FD,
    LAST_KEPT,
    LOOP_RUNS_BASE,
    LOOP_RUNS_SIZE,
    LOOP_SHIFT,
    MAX_ADDRESS,
    STUB_BASE,
    STUB_SIZE,
    VM_FD,
)

RET_KILL_PROCESS: Final = 0x80000000
RET_TRAP: Final = 0x00030000
RET_USER_NOTIF: Final = 0x7FC00000
RET_ALLOW: Final = 0x7FFF0000

_X32_BIT: Final = 0x40000000

_MOVES: Final = MREMAP_MAYMOVE | MREMAP_FIXED


# Executed only after the sentry has compared them with the operation that it has ordered.
NOTIFIED: Final = (SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_clone, SYS_exit)
# Only the sentry puts descriptors into a guest, under numbers that rotate; a guest that closes one early makes
# its own mapping fail.  restart_syscall goes on with a futex wait that a stop of the process has broken off.
ALLOWED: Final = (SYS_rt_sigreturn, SYS_close, SYS_restart_syscall)


# KVM's commands (linux/kvm.h) of a VM and of a virtual CPU, as docs/kvm.md lists them.
KVM_CREATE_VM: Final = 0xAE01
VM_COMMANDS: Final = {
    "SET_USER_MEMORY_REGION": 0x4020AE46,
    "CREATE_VCPU": 0xAE41,
    "ENABLE_CAP": 0x4068AEA3,
}
CPU_COMMANDS: Final = {
    "RUN": 0xAE80,
    "INTERRUPT": 0x4004AE86,
    "SET_REGS": 0x4090AE82,
    "SET_CPUID2": 0x4008AE90,
    "SET_SREGS": 0x4138AE84,
    "SET_MSRS": 0x4008AE89,
    "SET_XCRS": 0x4188AEA7,
    "SET_DEVICE_ATTR": 0x4018AEE1,
    "ENABLE_CAP": 0x4068AEA3,  # to switch features of KVM off
}


def _arg_low(index: int) -> int:
    return DATA_ARGS + 8 * index


def _arg_high(index: int) -> int:
    return DATA_ARGS + 4 + 8 * index


def _equal64(p: BpfProgram, index: int, value: int, otherwise: str) -> None:
    p.load(_arg_low(index))
    p.jump(JEQ, value & 0xFFFFFFFF, "", otherwise)
    p.load(_arg_high(index))
    p.jump(JEQ, value >> 32, "", otherwise)


def build(is_direct: bool, *, is_kvm: bool = False) -> list[int]:
    """The filter.  Strict: every operation on memory or processes asks the sentry.

    Direct: operations on private anonymous memory of the guest's own range do not ask. With KVM no guest code runs
    outside of a virtual machine, and the loop of csrc/kvm may make further calls.
    """
    p = BpfProgram()
    p.load(DATA_ARCH)
    p.jump(JEQ, AUDIT_ARCH, "", "trap")
    p.load(DATA_NR)
    p.jump(JGE, _X32_BIT, "trap")
    p.load(DATA_IP + 4)
    p.jump(JEQ, STUB_BASE >> 32, "", "trap")
    p.load(DATA_IP)
    p.jump(JGE, STUB_SIZE, "trap")
    p.load(DATA_NR)
    if is_kvm:
        p.jump(JEQ, SYS_ioctl, "ioctl")
        p.jump(JEQ, SYS_rt_sigprocmask, "allow")  # its own mask
        p.jump(JEQ, SYS_exit_group, "allow")  # its own end, with threads that KVM has made
        p.jump(JEQ, SYS_fcntl, "fcntl")
        p.jump(JEQ, SYS_mmap, "kvm_run")
        p.jump(JEQ, SYS_madvise, "dontfork")
        p.jump(JGE, 0, "not kvm")
        _kvm(p)
        p.label("not kvm")
        p.load(DATA_NR)
    for nr in ALLOWED:
        p.jump(JEQ, nr, "allow")
    p.jump(JEQ, SYS_futex, "futex")
    p.jump(JEQ, SYS_sched_yield, "bell")
    if is_direct:
        p.jump(JEQ, SYS_mmap, "mmap")
        p.jump(JEQ, SYS_mprotect, "mprotect")
        p.jump(JEQ, SYS_madvise, "madvise")
        p.jump(JEQ, SYS_munmap, "range")
        p.jump(JEQ, SYS_mremap, "mremap")
    for nr in NOTIFIED:
        p.jump(JEQ, nr, "notify")
    p.ret(RET_KILL_PROCESS)
    p.label("futex")
    p.load(_arg_low(1))
    p.jump(JGT, 1, "kill", "allow")  # FUTEX_WAIT is 0, FUTEX_WAKE 1
    p.label("bell")
    _equal64(p, 0, BELL_ARG0, "kill")
    _equal64(p, 1, BELL_ARG1, "kill")
    p.ret(RET_USER_NOTIF)
    if is_direct:
        _direct(p)
    p.label("notify")
    p.ret(RET_USER_NOTIF)
    p.label("allow")
    p.ret(RET_ALLOW)
    p.label("trap")
    p.ret(RET_TRAP)
    p.label("kill")
    p.ret(RET_KILL_PROCESS)
    return [word for (word,) in iter_unpack("<Q", p.encode())]


def _direct(p: BpfProgram) -> None:
    """Allow operations that touch the guest's own memory only and add nothing but private pages; others ask the sentry.

    A range must begin below MAX_ADDRESS and be shorter than 4 GiB, so it ends below the stub (shared.h leaves the 4
    GiB between them unmapped). mremap may grow a mapping of a file: that shows at most the rest of a file that the
    guest has mapped already. `passes` expresses the same rules in Python.
    """
    p.label("mmap")
    p.load(_arg_high(3))
    p.jump(JEQ, 0, "", "notify")
    p.load(_arg_low(3))
    p.jump(JSET, MAP_ANONYMOUS, "anonymous")
    p.jump(JSET, ~KEPT_MAP_FLAGS & 0xFFFFFFFF, "notify")
    p.jump(JSET, MAP_PRIVATE, "", "notify")
    p.jump(JSET, MAP_FIXED, "", "notify")
    p.load(_arg_low(4))
    p.jump(JGE, FIRST_KEPT, "", "notify")
    p.jump(JGT, LAST_KEPT, "notify", "mprotect")
    p.label("anonymous")
    p.jump(JSET, ~DIRECT_MAP_FLAGS & 0xFFFFFFFF, "notify")
    for bit in (MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS):
        p.jump(JSET, bit, "", "notify")
    p.load(_arg_low(4))
    p.jump(JEQ, 0xFFFFFFFF, "", "notify")
    p.label("mprotect")  # no PROT_GROWSDOWN and the like
    p.load(_arg_low(2))
    p.jump(JSET, ~7 & 0xFFFFFFFF, "notify")
    p.load(_arg_high(2))
    p.jump(JEQ, 0, "range", "notify")
    p.label("madvise")
    p.load(_arg_high(2))
    p.jump(JEQ, 0, "", "notify")
    p.load(_arg_low(2))
    for advice in range(DIRECT_ADVICE_MASK.bit_length()):
        if DIRECT_ADVICE_MASK >> advice & 1:
            p.jump(JEQ, advice, "range")
    p.ret(RET_USER_NOTIF)
    p.label("mremap")  # in place, or to the place that it names
    for high in (_arg_high(2), _arg_high(3)):
        p.load(high)
        p.jump(JEQ, 0, "", "notify")
    p.load(_arg_low(3))
    p.jump(JEQ, 0, "range")
    p.jump(JEQ, _MOVES, "", "notify")
    p.load(_arg_high(4))
    p.jump(JGE, MAX_ADDRESS >> 32, "notify")
    p.label("range")
    p.load(_arg_high(0))
    p.jump(JGE, MAX_ADDRESS >> 32, "notify")
    p.load(_arg_high(1))
    p.jump(JEQ, 0, "allow", "notify")


def _kvm(p: BpfProgram) -> None:
    """The ioctls that the loop may make to KVM, by descriptor and command; each kind of descriptor has a range of
    numbers of its own.
    """
    p.label("ioctl")
    p.load(_arg_low(0))
    p.jump(JGE, FIRST_CPU_FD, "cpu")
    p.jump(JEQ, VM_FD, "vm")
    p.jump(JEQ, KVM_FD, "", "kill")
    p.load(_arg_low(1))
    p.jump(JEQ, KVM_CREATE_VM, "allow", "kill")
    p.label("vm")
    p.load(_arg_low(1))
    for command in VM_COMMANDS.values():
        p.jump(JEQ, command, "allow")
    p.ret(RET_KILL_PROCESS)
    p.label("cpu")
    p.load(_arg_low(1))
    for command in CPU_COMMANDS.values():
        p.jump(JEQ, command, "allow")
    p.ret(RET_KILL_PROCESS)
    p.label("fcntl")  # a virtual CPU's descriptor, to a number of its kind
    p.load(_arg_low(1))
    p.jump(JEQ, F_DUPFD_CLOEXEC, "", "kill")
    p.load(_arg_low(2))
    p.jump(JEQ, FIRST_CPU_FD, "allow", "kill")
    p.label("kvm_run")  # no other mapping ever uses such a descriptor number
    p.load(_arg_low(4))
    p.jump(JGE, 0x80000000, "not kvm")
    p.jump(JGE, FIRST_CPU_FD, "", "not kvm")
    p.load(_arg_low(3))
    p.jump(JEQ, MAP_SHARED | MAP_FIXED, "", "not kvm")
    p.load(_arg_low(2))
    p.jump(JEQ, PROT_READ | PROT_WRITE, "runs", "not kvm")
    p.label("dontfork")
    p.load(_arg_low(2))
    p.jump(JEQ, MADV_DONTFORK, "", "not kvm")
    p.label("runs")  # one of the pages that the loop has for it
    p.load(_arg_low(1))
    p.jump(JEQ, 1 << LOOP_SHIFT, "", "not kvm")
    p.load(_arg_high(0))
    p.jump(JEQ, LOOP_RUNS_BASE >> 32, "", "not kvm")
    p.load(_arg_low(0))
    p.jump(JGE, LOOP_RUNS_BASE & 0xFFFFFFFF, "", "not kvm")
    p.jump(JGE, (LOOP_RUNS_BASE + LOOP_RUNS_SIZE) & 0xFFFFFFFF, "not kvm", "allow")


def passes(nr: int, addr: int, length: int, arg2: int, flags: int, fd: int) -> bool:
    """Whether the direct-mode filter lets an operation pass without asking: the rules of `_direct`, in Python.

    Arguments in the call's order: of mremap `arg2` is the new length, and `fd` the new place.
    """
    if not 0 <= addr < MAX_ADDRESS or length >> 32:
        return False
    if nr == SYS_munmap:
        return True
    if nr == SYS_madvise:
        return 0 <= arg2 < DIRECT_ADVICE_MASK.bit_length() and DIRECT_ADVICE_MASK >> arg2 & 1 == 1
    if nr == SYS_mremap:
        return not arg2 >> 32 and (flags == 0 or (flags == _MOVES and 0 <= fd < MAX_ADDRESS))
    if arg2 & ~7:
        return False
    if nr == SYS_mprotect:
        return True
    if nr != SYS_mmap:
        return False
    if flags & MAP_ANONYMOUS:
        return not flags & ~DIRECT_MAP_FLAGS and flags & DIRECT_MAP_NEEDED == DIRECT_MAP_NEEDED and fd == -1
    return (
        not flags & ~KEPT_MAP_FLAGS
        and flags & KEPT_MAP_NEEDED == KEPT_MAP_NEEDED
        and FIRST_KEPT <= fd <= LAST_KEPT
    )
