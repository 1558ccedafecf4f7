"""Turns a seccomp allow-list (data, one reason per entry) into a classic BPF program and installs it.

Shared by the sentry, the gofer and egress.  The filter checks the architecture first (x32 and i386 kill),
then the call, then scalar arguments. What is not on the list kills the process: such a call is either a bug that
tests must find or an attacker. Rows of `Refuse` are for calls that the interpreter tries on its own (a traceback
looks for source files) and that must merely fail. A filter cannot be removed, and children inherit it: fork processes
that need more before.
"""

from typing import Final

from cloche.abi.bpf_program import DATA_ARCH, DATA_ARGS, DATA_NR, JEQ, JGE, BpfProgram
from cloche.abi.errno import EPERM
from cloche.abi.prctl import PR_SET_NO_NEW_PRIVS
from cloche.abi.seccomp import (
    SECCOMP_FILTER_FLAG_TSYNC,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
)
from cloche.arch.machine import AUDIT_ARCH
from cloche.arch.syscalls import syscall_name
from cloche.platform import hostsys

_X32_BIT: Final = 0x40000000
_M32: Final = 0xFFFFFFFF


class ArgCheck:
    """`arguments[index] & mask == value` (or not), on 32 bits for what the kernel takes as int, else on 64."""

    def __init__(self, index: int, value: int, mask: int, *, is_wide: bool, is_negated: bool = False) -> None:
        self.index: int = index
        self.value: int = value
        self.mask: int = mask
        self.is_wide: bool = is_wide
        self.is_negated: bool = is_negated  # only for checks of 32 bits


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


def _add_checks(program: BpfProgram, checks: list[ArgCheck]) -> None:
    """Code that returns ALLOW if all hold and falls through otherwise."""
    fails = program.new_label()
    for check in checks:
        low = DATA_ARGS + 8 * check.index
        words = [(low, check.mask & _M32, check.value & _M32)]
        if check.is_wide:
            words.append((low + 4, check.mask >> 32, check.value >> 32))
        for offset, mask, value in words:
            program.load(offset)
            if mask != _M32:
                program.mask(mask)
            if check.is_negated:
                program.jump(JEQ, value, fails, "")
            else:
                program.jump(JEQ, value, "", fails)
    program.ret(SECCOMP_RET_ALLOW)
    program.label(fails)


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

    program = BpfProgram()
    program.load(DATA_ARCH)
    program.jump(JEQ, AUDIT_ARCH, "ours", "")
    program.ret(SECCOMP_RET_KILL_PROCESS)
    program.label("ours")
    program.load(DATA_NR)
    program.jump(JGE, _X32_BIT, "", "64 bits")
    program.ret(SECCOMP_RET_KILL_PROCESS)
    program.label("64 bits")
    for number in order:
        after = program.new_label()
        program.jump(JEQ, number, "", after)
        is_open = True
        for row in rows[number]:
            if row.checks:
                _add_checks(program, row.checks)
            else:
                program.ret(SECCOMP_RET_ALLOW)
                is_open = False
                break
        if is_open:
            program.ret(refusals.get(number, violation))
        program.label(after)
    program.ret(violation)
    try:
        return program.encode()
    except ValueError as error:
        raise ValueError(f"the {policy.name} filter: {error}") from None


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
