"""The seccomp filter of guest processes, as data: what the stub may ask of the host, and how.

Owns the BPF program that the zygote installs and every guest inherits.  Order of its checks: architecture,
then the instruction pointer, then the call.  Whatever is allowed here must be harmless with *any* arguments,
because a guest can jump to any instruction of the stub (docs/design.md, I6).
"""

from typing import Final

from cloche.abi.mman import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE
from cloche.arch.machine import AUDIT_ARCH
from cloche.platform import _native

RET_KILL_PROCESS: Final = 0x80000000
RET_TRAP: Final = 0x00030000
RET_USER_NOTIF: Final = 0x7FC00000
RET_ALLOW: Final = 0x7FFF0000

_X32_BIT: Final = 0x40000000

_LD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JEQ: Final = 0x15
_JGT: Final = 0x25
_JGE: Final = 0x35
_JSET: Final = 0x45
_RET: Final = 0x06

_NR: Final = 0
_ARCH: Final = 4
_IP_LOW: Final = 8
_IP_HIGH: Final = 12

SYS_CLOSE: Final = 3
SYS_MMAP: Final = 9
SYS_MPROTECT: Final = 10
SYS_MUNMAP: Final = 11
SYS_RT_SIGRETURN: Final = 15
SYS_SCHED_YIELD: Final = 24
SYS_MREMAP: Final = 25
SYS_MADVISE: Final = 28
SYS_CLONE: Final = 56
SYS_EXIT: Final = 60
SYS_FUTEX: Final = 202
SYS_RESTART_SYSCALL: Final = 219

# Executed only after the sentry has matched them with what it ordered.
NOTIFIED: Final = (SYS_MMAP, SYS_MUNMAP, SYS_MPROTECT, SYS_MREMAP, SYS_MADVISE, SYS_CLONE, SYS_EXIT)
# ... and STACK, NORESERVE, POPULATE, FIXED_NOREPLACE.
DIRECT_MAP_FLAGS: Final = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | 0x20000 | 0x4000 | 0x8000 | 0x100000
# Private mappings of descriptors that the sentry lets a guest keep (csrc/host/keep.h): also DENYWRITE, EXECUTABLE.
KEPT_MAP_FLAGS: Final = MAP_PRIVATE | MAP_FIXED | 0x800 | 0x400 | 0x20000 | 0x4000 | 0x8000
FIRST_KEPT: Final = 8
LAST_KEPT: Final = 23
# NORMAL RANDOM SEQUENTIAL WILLNEED DONTNEED FREE HUGEPAGE NOHUGEPAGE
DIRECT_ADVICE: Final = (0, 1, 2, 3, 4, 8, 14, 15)
# Only the sentry puts descriptors into a guest, under numbers that rotate; a guest that closes one early makes
# its own mapping fail.  restart_syscall goes on with a futex wait that a stop of the process has broken off.
ALLOWED: Final = (SYS_RT_SIGRETURN, SYS_CLOSE, SYS_RESTART_SYSCALL)


def _arg_low(index: int) -> int:
    return 16 + 8 * index


def _arg_high(index: int) -> int:
    return 20 + 8 * index


class _Program:
    """A BPF program with labels; jumps are forward only."""

    def __init__(self) -> None:
        self.code: list[tuple[int, str, str, int]] = []
        self.labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def load(self, offset: int) -> None:
        self.code.append((_LD, "", "", offset))

    def jump(self, op: int, k: int, true: str = "", false: str = "") -> None:
        """Compare the loaded word with `k`; an empty label falls through."""
        self.code.append((op, true, false, k))

    def ret(self, action: int) -> None:
        self.code.append((_RET, "", "", action))

    def assemble(self) -> list[int]:
        """Each instruction as the 64-bit integer that struct sock_filter is in memory."""
        words: list[int] = []
        for at, (op, true, false, k) in enumerate(self.code):
            jt = self.labels[true] - at - 1 if true else 0
            jf = self.labels[false] - at - 1 if false else 0
            if not (0 <= jt < 256 and 0 <= jf < 256):
                raise ValueError("BPF jump too far")
            words.append(op | jt << 16 | jf << 24 | (k & 0xFFFFFFFF) << 32)
        return words


def _equal64(p: _Program, index: int, value: int, otherwise: str) -> None:
    p.load(_arg_low(index))
    p.jump(_JEQ, value & 0xFFFFFFFF, "", otherwise)
    p.load(_arg_high(index))
    p.jump(_JEQ, value >> 32, "", otherwise)


def build(is_direct: bool) -> list[int]:
    """The filter.  Strict: every operation on memory or processes asks the sentry.

    Direct: what concerns private anonymous memory of the guest's own range does not ask.
    """
    p = _Program()
    p.load(_ARCH)
    p.jump(_JEQ, AUDIT_ARCH, "", "trap")
    p.load(_NR)
    p.jump(_JGE, _X32_BIT, "trap")
    p.load(_IP_HIGH)
    p.jump(_JEQ, _native.STUB_BASE >> 32, "", "trap")
    p.load(_IP_LOW)
    p.jump(_JGE, _native.STUB_SIZE, "trap")
    p.load(_NR)
    for nr in ALLOWED:
        p.jump(_JEQ, nr, "allow")
    p.jump(_JEQ, SYS_FUTEX, "futex")
    p.jump(_JEQ, SYS_SCHED_YIELD, "bell")
    if is_direct:
        p.jump(_JEQ, SYS_MMAP, "mmap")
        p.jump(_JEQ, SYS_MPROTECT, "mprotect")
        p.jump(_JEQ, SYS_MADVISE, "madvise")
        p.jump(_JEQ, SYS_MUNMAP, "range")
    for nr in NOTIFIED:
        p.jump(_JEQ, nr, "notify")
    p.ret(RET_KILL_PROCESS)
    p.label("futex")
    p.load(_arg_low(1))
    p.jump(_JGT, 1, "kill", "allow")  # FUTEX_WAIT is 0, FUTEX_WAKE 1
    p.label("bell")
    _equal64(p, 0, _native.BELL_ARG0, "kill")
    _equal64(p, 1, _native.BELL_ARG1, "kill")
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
    return p.assemble()


def _direct(p: _Program) -> None:
    """Allow what touches private anonymous memory of the guest only; leave the rest to the sentry.

    The range: it begins below MAX_ADDRESS and is shorter than 4 GiB, so it ends below the stub (shared.h leaves
    the 4 GiB between them unmapped).  module.h (op_direct) has the same rules.
    """
    p.label("mmap")
    p.load(_arg_high(3))
    p.jump(_JEQ, 0, "", "notify")
    p.load(_arg_low(3))
    p.jump(_JSET, MAP_ANONYMOUS, "anonymous")
    p.jump(_JSET, ~KEPT_MAP_FLAGS & 0xFFFFFFFF, "notify")
    p.jump(_JSET, MAP_PRIVATE, "", "notify")
    p.jump(_JSET, MAP_FIXED, "", "notify")
    p.load(_arg_low(4))
    p.jump(_JGE, FIRST_KEPT, "", "notify")
    p.jump(_JGT, LAST_KEPT, "notify", "mprotect")
    p.label("anonymous")
    p.jump(_JSET, ~DIRECT_MAP_FLAGS & 0xFFFFFFFF, "notify")
    for bit in (MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS):
        p.jump(_JSET, bit, "", "notify")
    p.load(_arg_low(4))
    p.jump(_JEQ, 0xFFFFFFFF, "", "notify")
    p.label("mprotect")  # no PROT_GROWSDOWN and the like
    p.load(_arg_low(2))
    p.jump(_JSET, ~7 & 0xFFFFFFFF, "notify")
    p.load(_arg_high(2))
    p.jump(_JEQ, 0, "range", "notify")
    p.label("madvise")
    p.load(_arg_high(2))
    p.jump(_JEQ, 0, "", "notify")
    p.load(_arg_low(2))
    for advice in DIRECT_ADVICE:
        p.jump(_JEQ, advice, "range")
    p.ret(RET_USER_NOTIF)
    p.label("range")
    p.load(_arg_high(0))
    p.jump(_JGE, _native.MAX_ADDRESS >> 32, "notify")
    p.load(_arg_high(1))
    p.jump(_JEQ, 0, "allow", "notify")
