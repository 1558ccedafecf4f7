"""Turns a seccomp allow-list (data, one reason per entry) into a classic BPF program and installs it.

Shared by the sentry, the gofer and egress.  The filter checks the architecture first (x32 and i386 kill),
then the call, then scalar arguments.  What is not on the list kills the process: a call that nobody foresaw
is either a bug that tests must find or an attacker.  Rows of `Refuse` are for calls that the interpreter
tries on its own (a traceback looks for source files) and that must merely fail.  A filter cannot be removed,
and is inherited by children: fork what needs more before.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import EPERM
from cloche.abi.prctl import PR_SET_NO_NEW_PRIVS
from cloche.abi.seccomp import (
    BPF_MAXINSNS,
    SECCOMP_FILTER_FLAG_TSYNC,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
)
from cloche.arch.machine import AUDIT_ARCH
from cloche.arch.syscalls import syscall_name
from cloche.platform import hostsys

_INSN: Final = Struct("<HBBI")  # struct sock_filter: code, jt, jf, k
_LD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JEQ: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JGE: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RET: Final = 0x06  # BPF_RET | BPF_K
_OFFSET_NR: Final = 0  # struct seccomp_data
_OFFSET_ARCH: Final = 4
_OFFSET_ARGS: Final = 16
_X32_BIT: Final = 0x40000000
_M32: Final = 0xFFFFFFFF


class ArgCheck:
    """`arguments[index] & mask == value` (or not), on 32 bits for what the kernel takes as int, else on 64."""

    def __init__(self, index: int, value: int, mask: int, *, is_wide: bool, is_negated: bool = False) -> None:
        self.index: int = index
        self.value: int = value
        self.mask: int = mask
        self.is_wide: bool = is_wide
        self.is_negated: bool = is_negated  # only of those that are not wide


def int_is(index: int, value: int) -> ArgCheck:
    """An int argument equals `value`."""
    return ArgCheck(index, value & _M32, _M32, is_wide=False)


def int_is_not(index: int, value: int) -> ArgCheck:
    """An int argument is anything but `value`."""
    return ArgCheck(index, value & _M32, _M32, is_wide=False, is_negated=True)


def int_has_none(index: int, bits: int) -> ArgCheck:
    """An int argument has none of `bits`."""
    return ArgCheck(index, 0, bits & _M32, is_wide=False)


def int_has_all(index: int, bits: int) -> ArgCheck:
    """An int argument has all of `bits`."""
    return ArgCheck(index, bits & _M32, bits & _M32, is_wide=False)


def is_null(index: int) -> ArgCheck:
    """A pointer argument is NULL."""
    return ArgCheck(index, 0, 0xFFFFFFFFFFFFFFFF, is_wide=True)


class Allow:
    """A call that is allowed if every check holds.  Several rows of one call are alternatives."""

    def __init__(self, number: int, reason: str, checks: list[ArgCheck] | None = None) -> None:
        self.number: int = number
        self.reason: str = reason
        self.checks: list[ArgCheck] = checks if checks is not None else []


class Refuse:
    """A call that fails with `errno` instead of killing, unless a row of `Allow` matches."""

    def __init__(self, number: int, errno: int, reason: str) -> None:
        self.number: int = number
        self.errno: int = errno
        self.reason: str = reason


class Policy:
    """The allow-list of one kind of process."""

    def __init__(self, name: str, allowed: list[Allow], refused: list[Refuse]) -> None:
        self.name: str = name
        self.allowed: list[Allow] = allowed
        self.refused: list[Refuse] = refused


def _insn(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return _INSN.pack(code, jt, jf, k)


def _compile_checks(checks: list[ArgCheck]) -> list[bytes]:
    """Code that returns ALLOW if all hold and falls through otherwise."""
    words: list[tuple[int, int, int, bool]] = []  # offset, mask, value, whether it must differ
    for check in checks:
        low = _OFFSET_ARGS + 8 * check.index
        words.append((low, check.mask & _M32, check.value & _M32, check.is_negated))
        if check.is_wide:
            words.append((low + 4, check.mask >> 32, check.value >> 32, False))
    # Sizes first: a failed comparison jumps over the rest, the RET included.
    sizes = [2 if mask == _M32 else 3 for _offset, mask, _value, _differs in words]
    code: list[bytes] = []
    left = sum(sizes) + 1
    for index, (offset, mask, value, differs) in enumerate(words):
        left -= sizes[index]
        code.append(_insn(_LD, offset))
        if mask != _M32:
            code.append(_insn(_AND, mask))
        code.append(_insn(_JEQ, value, left, 0) if differs else _insn(_JEQ, value, 0, left))
    code.append(_insn(_RET, SECCOMP_RET_ALLOW))
    return code


def compile_policy(policy: Policy, violation: int = SECCOMP_RET_KILL_PROCESS) -> bytes:
    """An array of struct sock_filter.  `violation` is the action for what is not listed.

    Raises ValueError for a policy that does not fit BPF's limits.
    """
    refusals: dict[int, int] = {}
    order: list[int] = []
    rows: dict[int, list[Allow]] = {}
    for allow in policy.allowed:
        if allow.number not in rows:
            rows[allow.number] = []
            order.append(allow.number)
        rows[allow.number].append(allow)
    for refuse in policy.refused:
        refusals[refuse.number] = SECCOMP_RET_ERRNO | refuse.errno
        if refuse.number not in rows:
            rows[refuse.number] = []
            order.append(refuse.number)

    code = [
        _insn(_LD, _OFFSET_ARCH),
        _insn(_JEQ, AUDIT_ARCH, 1, 0),
        _insn(_RET, SECCOMP_RET_KILL_PROCESS),
        _insn(_LD, _OFFSET_NR),
        _insn(_JGE, _X32_BIT, 0, 1),
        _insn(_RET, SECCOMP_RET_KILL_PROCESS),
    ]
    for number in order:
        block: list[bytes] = []
        is_open = True
        for row in rows[number]:
            if row.checks:
                block.extend(_compile_checks(row.checks))
            else:
                block.append(_insn(_RET, SECCOMP_RET_ALLOW))
                is_open = False
                break
        if is_open:
            block.append(_insn(_RET, refusals.get(number, violation)))
        if len(block) > 255:
            raise ValueError(f"too many checks for {syscall_name(number)}")
        code.append(_insn(_JEQ, number, 0, len(block)))
        code.extend(block)
    code.append(_insn(_RET, violation))
    if len(code) > BPF_MAXINSNS:
        raise ValueError(f"the {policy.name} filter has {len(code)} instructions")
    return b"".join(code)


def install(policy: Policy, violation: int = SECCOMP_RET_KILL_PROCESS) -> None:
    """Set no_new_privs and put the filter in force on all threads of this process, for ever.  Raises OSError."""
    code = compile_policy(policy, violation)
    hostsys.prctl(PR_SET_NO_NEW_PRIVS, 1)
    if hostsys.seccomp_filter(code, SECCOMP_FILTER_FLAG_TSYNC) != 0:
        raise OSError(EPERM, "a thread has another filter")


def describe(policy: Policy) -> list[tuple[str, str]]:
    """(call, reason) of every row, for `cloche doctor` and the documentation."""
    rows = [(syscall_name(allow.number), allow.reason) for allow in policy.allowed]
    rows.extend((syscall_name(refuse.number), "fails: " + refuse.reason) for refuse in policy.refused)
    return rows
