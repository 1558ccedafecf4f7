"""Numbers shared by stub, sentry and filter: addresses, the layout of a slot, kinds of requests and events.

This is the only source: Python imports it, and `csrc/generate.py` makes the header that C, assembly and the linker
script use. Names that begin with `_` stay here. Where a number is the offset of a field in a struct, C checks it
(FIELDS).
"""

from typing import Final

from cloche.abi.mman import (
    MAP_ANONYMOUS,
    MAP_DENYWRITE,
    MAP_EXECUTABLE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_STACK,
)

# ---- guest addresses ----

# [0, MAX_ADDRESS) belongs to the guest, the 4 GiB above it are never mapped: a length that the direct-mode filter
# admits cannot reach the stub from below.
MIN_ADDRESS: Final = 0x10000
MAX_ADDRESS: Final = 0x7FFE00000000
END_ADDRESS: Final = 0x7FFFFFFFF000  # of all that a process can have
STUB_BASE: Final = 0x7FFF00000000
STUB_SIZE: Final = 0x10000
INFO_BASE: Final = 0x7FFF00100000
INFO_SIZE: Final = 0x14000
VDSO_BASE: Final = 0x7FFF00200000  # [vvar] and [vdso] are moved here, in order
VDSO_SIZE: Final = 0x100000
REGION_BASE: Final = 0x7FFF10000000
REGION_SHIFT: Final = 27
REGION_SIZE: Final = 1 << REGION_SHIFT  # and REGION_BASE is a multiple of it
SLOT_SHIFT: Final = 17
SLOT_SIZE: Final = 1 << SLOT_SHIFT
SLOT_COUNT: Final = REGION_SIZE // SLOT_SIZE
CALL_ENTRY_OFFSET: Final = 0x200  # of stub_call in the stub: trampolines jump there

# Files that large reads are copied from (windows.c).
WINDOW_BASE: Final = 0x7FFF20000000
WINDOW_SIZE: Final = 0x8000000
WINDOWS: Final = 16
# in a file's key: reads never pass its end, because only the sentry can truncate it
STEADY_KEY: Final = 1 << 60

# ---- kvm only: memory of the loop and of ring 0 (csrc/kvm) ----

LOOP_BASE: Final = 0x7FFFB0000000  # private to a guest's host process, inherited by forks
LOOP_SIZE: Final = 0x14000000
LOOP_SHIFT: Final = 14  # of each slot's part of the next two
LOOP_STACKS_BASE: Final = LOOP_BASE  # a thread's stack in the loop, its record at the bottom
LOOP_RUNS_BASE: Final = LOOP_BASE + 0x1000000  # kvm_run
LOOP_RUNS_SIZE: Final = 0x1000000
LOOP_DATA_BASE: Final = LOOP_BASE + 0x2000000  # struct loop
LOOP_DATA_SIZE: Final = 0x1000000
RING0_BASE: Final = LOOP_BASE + 0x3000000  # a page for each slot, and the IDT behind them
RING0_SIZE: Final = (SLOT_COUNT + 1) * 4096
TABLES_BASE: Final = LOOP_BASE + 0x4000000
TABLES_SIZE: Final = 0x10000000
CPU_SCRATCH: Final = 0  # offsets in struct cpu
CPU_STACK: Final = 8

# ---- a slot: a page that both sides write, the data buffer, the stack of patched calls, the signal stack ----

DATA_OFFSET: Final = 0x1000
DATA_SIZE: Final = 0x10000
CALL_STACK_TOP: Final = DATA_OFFSET + DATA_SIZE + 0x1000
STACK_OFFSET: Final = CALL_STACK_TOP
STACK_SIZE: Final = SLOT_SIZE - STACK_OFFSET

# Offsets of fields in struct slot and struct info that assembly or tests use.
SLOT_SYSNO: Final = 8
SLOT_ARGS: Final = 16
SLOT_TID: Final = 0x44
SLOT_OPS_DONE: Final = 0x80
SLOT_CALL_REGS: Final = 0x4C8
SLOT_INTERRUPTED: Final = 0x518
SLOT_CAN_ANSWER: Final = 0x51C
SLOT_ANSWERS: Final = 0x520
SLOT_EXITS: Final = 0x560
INFO_ACTIONS: Final = 0x40
INFO_PREFETCH: Final = 0x240
FIELDS: Final = {  # of which struct which (csrc/generate.py has C check them)
    "slot": (
        "sysno", "args", "tid", "ops_done", "call_regs", "interrupted", "can_answer", "answers", "exits"
    ),
    "info": ("actions", "prefetch"),
    "boot": ("data",),
}  # fmt: skip
PREFETCH_BYTES: Final = 8  # of a struct prefetch

# Indexes in call_regs: the registers of a call from a patched site.
CR_RBX: Final = 0
CR_RBP: Final = 1
CR_R12: Final = 2
CR_R13: Final = 3
CR_R14: Final = 4
CR_R15: Final = 5
CR_RSP: Final = 6
CR_RIP: Final = 7  # behind the syscall instruction
CR_FLAGS: Final = 8  # lahf's and seto's AH and AL
CR_RAX: Final = 9  # the number, then the result

# A signal frame, as the host writes it on the slot's stack: a return address, then struct ucontext.
UC_OFFSET: Final = 8
# Of struct sigcontext in the ucontext; then of its pointer to the FP state, and of the mask
REGS_OFFSET: Final = 40
FPPTR_OFFSET: Final = REGS_OFFSET + 184
SIGMASK_OFFSET: Final = REGS_OFFSET + 256
FRAME_MAX: Final = STACK_SIZE // 2  # with the FP state

EXIT_REASONS: Final = 16
MAX_OPS: Final = 40
MAX_COPIES: Final = 64
MAX_PREFETCH: Final = 3
MAX_WAKES: Final = 4
MAX_CALLS: Final = 512  # the info page has entries for system calls below this number
NO_BELL: Final = 0xFFFFFFFF
BELLS: Final = 16384  # a power of two
FROM_WINDOW: Final = 0x80000000  # in a copy's offset: from WINDOW_BASE, not from the data buffer

# States of a slot.
ST_GUEST: Final = 0
ST_REQUEST: Final = 1
ST_SLEEPING: Final = 2
ST_REPLY: Final = 3
ST_WAIT: Final = 4  # the sentry has taken the request, and will not answer soon: do not spin

# Kinds of request.
K_SYSCALL: Final = 1
K_FAULT: Final = 2
K_INTERRUPTED: Final = 3
K_OPS_FAILED: Final = 4
K_MORE: Final = 5  # the reply was one round of several: the stub asks for the next
K_DONE: Final = 6  # the sentry's own: K_MORE after everything was sent
K_CALL: Final = 7  # a system call from a patched call site: there is no signal frame
K_CUT: Final = 8  # a copy from a window met a fault: repeat the call without windows

# A reply: flags, the number of operations in bits 16 to 23, of copies in bits 24 to 31.
RF_MORE: Final = 1  # post K_MORE instead of returning to the guest
RF_SET_BASE: Final = 2  # load fs_base and gs_base
RF_RESULT: Final = 4  # `result` is the call's
# ... to a K_CALL only, at most one of them:
RF_TRAP: Final = 8  # make the call again from its own syscall instruction, with a signal frame
RF_STOP: Final = 16  # the call is over: stop behind it, with a signal frame, and post K_INTERRUPTED
RF_WAKE: Final = 32  # (in any reply) first wake the threads whose bells are in `wakes`
RF_SWAP: Final = 64  # (with RF_MORE) change the word that `swap_addr` names

# How a word is changed: the operations of FUTEX_WAKE_OP, plus 1.
SWAP_SET: Final = 1
SWAP_ADD: Final = 2
SWAP_OR: Final = 3
SWAP_ANDN: Final = 4
SWAP_XOR: Final = 5

# Prefetch descriptors: what to copy into the data buffer along with a system call.
PF_NONE: Final = 0
PF_CSTRING: Final = 1  # a C string of at most `value` bytes
PF_FIXED: Final = 2  # `value` bytes
PF_ARG: Final = 3  # the number of bytes in argument `count_arg` times `value`, at most `cap`
# Instead of an argument's index, for calls that always trap: where the stack pointer points to
PF_SP: Final = 6

# The treatment of a call from a patched site.
ACT_TRAP: Final = 0  # needs a signal frame
ACT_POST: Final = 1  # goes to the sentry
ACT_ANSWER: Final = 2  # + index: answers[index], if can_answer
AN_COUNT: Final = 7  # answers: pid, tid, ppid, uid, euid, gid, egid

INTERRUPT_SIGNAL: Final = 23  # SIGURG

# sched_yield with these arguments is the doorbell.
BELL_ARG0: Final = 0x636C6F63686562
BELL_ARG1: Final = 0x656C6C

# The message of the sentry to the starting zygote.
MAX_START_OPS: Final = 112
BOOT_DATA: Final = 8 + MAX_START_OPS * 64  # of their data in struct boot, which lies in slot 1's data buffer
START_DATA_SIZE: Final = 256
MAX_FILTER: Final = 256

# Descriptors that the starting zygote has.
SOCK_FD: Final = 3
REGION_FD: Final = 4
INFO_FD: Final = 5
# Stays open (platform kvm); the VM gets the lowest free number, virtual CPUs those from FIRST_CPU_FD
KVM_FD: Final = 6
VM_FD: Final = 0
FIRST_CPU_FD: Final = 64
MAX_CPU_FDS: Final = 4096  # in one address space: one for each of its threads

# Tags of the platform's own descriptors in epoll; smaller numbers are tokens of Platform.add_fd.
TAG_LISTENER: Final = 1 << 40
TAG_SIGCHLD: Final = 2 << 40

# ---- events, from C to Python: (kind, thread id, a, b, c, d, e, f, g) ----

EV_NONE: Final = 0  # the timeout passed
EV_SYSCALL: Final = 1  # a = number, b..g = the six arguments, signed
# A = signal, b = si_code, c = si_addr (signed), d = number of the trap or 0, e = error code
EV_FAULT: Final = 2
EV_INTERRUPTED: Final = 3  # the answer to HostThread.interrupt()
EV_OPS_FAILED: Final = 4  # a = index of the failed operation, b = errno (positive)
# thread id = -1, a = process id (HostProcess.ident), b = host wait status, then of its rusage: maximal resident size
# (KiB), minor faults, major faults, involuntary switches
EV_PROCESS_DIED: Final = 5
EV_FD: Final = 6  # thread id = -1, a = registered token, b = epoll events
EV_STARTED: Final = 7  # thread id = -1, a = process ident: a forked process was adopted
EV_OPS_DONE: Final = 8  # the answer to HostThread.run_ops()
# From set_meter, thread id = -2: a = kind and b = number of the event before, c = ns, d = ns of processor time or -1
EV_STALL: Final = 9
EV_CUT: Final = 10  # a read by the stub that read_fd_into has announced has failed: repeat the call
EV_LEFT: Final = 11  # the answer to HostThread.leave() that was False: a = the call's result

EV_TOGETHER: Final = 12  # a = the processor that the sentry shares with a guest: inside systrap only
# thread id = -1, a = the number of a family (Platform.new_family) that can have no further process
EV_FAMILY_DIED: Final = 13
EV_OWING: Final = 14  # a process has owed an answer (is_overdue) for some time: inside systrap only

# A flag beside those of pwritev2: the descriptor's storage may be slow (slow.py).
SLOW_STORAGE: Final = 1 << 24

# ---- what the filter lets pass in direct mode ----

DIRECT_MAP_NEEDED: Final = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
DIRECT_MAP_FLAGS: Final = DIRECT_MAP_NEEDED | MAP_STACK | MAP_NORESERVE | MAP_POPULATE | MAP_FIXED_NOREPLACE
# Private mappings of descriptors that the sentry lets a guest keep (kept.c).
KEPT_MAP_NEEDED: Final = MAP_PRIVATE | MAP_FIXED
KEPT_MAP_FLAGS: Final = (
    KEPT_MAP_NEEDED | MAP_DENYWRITE | MAP_EXECUTABLE | MAP_STACK | MAP_NORESERVE | MAP_POPULATE
)
FIRST_KEPT: Final = 8
LAST_KEPT: Final = 23
# Other descriptors that are injected rotate through these numbers, and are closed again.
FIRST_FD: Final = 24
LAST_FD: Final = 63
# NORMAL RANDOM SEQUENTIAL WILLNEED DONTNEED FREE HUGEPAGE NOHUGEPAGE
DIRECT_ADVICE_MASK: Final = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 14 | 1 << 15

A_MOMENT: Final = -2  # in place of ns to wait: an eighth of the sentry's spin, and no sleep
CALL_WORDS: Final = 7  # words of a system call that is passed in the fields of an object
