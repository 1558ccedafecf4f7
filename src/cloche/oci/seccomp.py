"""`linux.seccomp` of a bundle as a classic BPF program, which the sentry puts in force for every program inside.

The program has the effect of libseccomp's: of a call's rules the first whose conditions all hold decides, a rule
without conditions always decides, and a call that is newer than every call in the profile fails with ENOSYS (runc's
libcontainer/seccomp/patchbpf).

There is no SCMP_ACT_NOTIFY. Its agent answers by ioctl(2) on a descriptor of a filter of the host's kernel, and looks
below /proc/PID for what the call is about: memory, root, working directory and namespaces of the process that calls.
A stand-in of ours with such a filter would have none of these; and to SECCOMP_USER_NOTIF_FLAG_CONTINUE, the answer for
what is to pass, the host's kernel would execute the program's call with the program's arguments.
"""

from typing import Any, Final

from cloche.abi import seccomp as bpf
from cloche.abi.bpf_program import DATA_ARCH, DATA_ARGS, DATA_NR, JEQ, JGE, JGT, BpfProgram
from cloche.abi.errno import ENOSYS, EPERM
from cloche.arch.machine import AUDIT_ARCH
from cloche.arch.syscalls import NAMES
from cloche.oci.errors import OciError
from cloche.oci.fields import take_int, take_objects, take_strings, take_text

_ACTIONS: Final = {
    "SCMP_ACT_KILL": bpf.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": bpf.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": bpf.SECCOMP_RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": bpf.SECCOMP_RET_TRAP,
    "SCMP_ACT_ERRNO": bpf.SECCOMP_RET_ERRNO,
    "SCMP_ACT_TRACE": bpf.SECCOMP_RET_TRACE,
    "SCMP_ACT_ALLOW": bpf.SECCOMP_RET_ALLOW,
    "SCMP_ACT_LOG": bpf.SECCOMP_RET_LOG,
}
_OPERATORS: Final = (
    *("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT"),
    "SCMP_CMP_MASKED_EQ",
)
_M64: Final = (1 << 64) - 1


class Rule:
    """A row of a profile, for each of its calls."""

    def __init__(self, data: dict[str, Any], default_errno: int) -> None:
        where = "linux.seccomp.syscalls."
        self.names: list[str] = take_strings(data, "names", where)
        self.verdict: int = _verdict(data, "action", where, default_errno)
        conditions: list[tuple[int, str, int, int]] = []
        for arg in take_objects(data, "args", where):
            index = take_int(arg, "index", where + "args.", 0, 0, 5)
            operator = take_text(arg, "op", where + "args.")
            if operator not in _OPERATORS:
                raise OciError(f"config.json: {where}args.op {operator[:64]!r} is unknown")
            value = take_int(arg, "value", where + "args.", 0, -(1 << 63), _M64) & _M64
            second = take_int(arg, "valueTwo", where + "args.", 0, -(1 << 63), _M64) & _M64
            conditions.append((index, operator, value, second))
        # All of them hold, but as in runc one is enough where two are about the same argument.
        self.alternatives: list[list[tuple[int, str, int, int]]] = [conditions] if conditions else []
        if len({row[0] for row in conditions}) < len(conditions):
            self.alternatives = [[row] for row in conditions]


def _verdict(data: dict[str, Any], name: str, where: str, default_errno: int) -> int:
    action = take_text(data, name, where)
    if action == "SCMP_ACT_NOTIFY":
        raise OciError(
            "seccomp: SCMP_ACT_NOTIFY is not supported: the agent at listenerPath acts on a process of the host's "
            "kernel, and programs in the sandbox make no system calls of that"
        )
    if action not in _ACTIONS:
        raise OciError(f"config.json: {where}{name} {action[:64]!r} is unknown")
    verdict = _ACTIONS[action]
    errno_name = "defaultErrnoRet" if name == "defaultAction" else "errnoRet"
    if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        verdict |= take_int(data, errno_name, where, default_errno, 0, 4095)
    return verdict


def compile_profile(data: dict[str, Any]) -> bytes:
    """The program of a profile; nothing if it lets everything pass.  Raises OciError."""
    default = _verdict(data, "defaultAction", "linux.seccomp.", EPERM)
    plain: dict[int, int] = {}
    conditional: dict[int, list[Rule]] = {}
    last = -1
    numbers = {name: number for number, name in enumerate(NAMES) if name}
    for row in take_objects(data, "syscalls", "linux.seccomp."):
        rule = Rule(row, EPERM)
        for name in rule.names:
            number = numbers.get(name, -1)
            if number < 0:
                continue  # another architecture's, or one that is not known
            last = max(last, number)
            if rule.verdict == default:
                continue
            if not rule.alternatives:
                plain.setdefault(number, rule.verdict)
            else:
                conditional.setdefault(number, []).append(rule)
    if default == bpf.SECCOMP_RET_ALLOW and not plain and not conditional:
        return b""
    program = BpfProgram()
    program.load(DATA_ARCH)
    known = program.new_label()
    program.jump(JEQ, AUDIT_ARCH, known, "")
    program.ret(bpf.SECCOMP_RET_KILL_PROCESS)
    program.label(known)
    program.load(DATA_NR)
    if default & bpf.SECCOMP_RET_ACTION_FULL == bpf.SECCOMP_RET_ERRNO and last >= 0:
        old = program.new_label()
        program.jump(JGT, last, "", old)
        program.ret(bpf.SECCOMP_RET_ERRNO | ENOSYS)
        program.label(old)
    for number, rules in conditional.items():
        if number not in plain:
            _add_conditional(program, number, rules, default)
    for number, verdict in plain.items():
        other = program.new_label()
        program.jump(JEQ, number, "", other)
        program.ret(verdict)
        program.label(other)
    program.ret(default)
    try:
        return program.encode()
    except ValueError:
        raise OciError("the seccomp profile is too long")


def _add_conditional(program: BpfProgram, number: int, rules: list[Rule], default: int) -> None:
    mine, after = program.new_label(), program.new_label()
    program.jump(JEQ, number, mine, "")
    program.go(after)
    program.label(mine)
    for rule in rules:
        for conditions in rule.alternatives:
            other = program.new_label()
            for index, operator, value, second in conditions:
                _add_condition(program, index, operator, value, second, other)
            program.ret(rule.verdict)
            program.label(other)
    program.ret(default)
    program.label(after)


def _add_condition(
    program: BpfProgram, index: int, operator: str, value: int, second: int, fails: str
) -> None:
    """Add a check: continue if the condition holds, jump to `fails` otherwise."""
    low, high = DATA_ARGS + 8 * index, DATA_ARGS + 8 * index + 4
    holds = program.new_label()
    kind = operator.removeprefix("SCMP_CMP_")
    if kind == "MASKED_EQ":
        program.load(high)
        program.mask(value >> 32)
        program.jump(JEQ, (second & value) >> 32, "", fails)
        program.load(low)
        program.mask(value)
        program.jump(JEQ, second & value, "", fails)
    elif kind == "EQ":
        program.load(high)
        program.jump(JEQ, value >> 32, "", fails)
        program.load(low)
        program.jump(JEQ, value, "", fails)
    elif kind == "NE":
        program.load(high)
        program.jump(JEQ, value >> 32, "", holds)
        program.load(low)
        program.jump(JEQ, value, fails, holds)
    elif kind in ("GT", "GE"):
        program.load(high)
        program.jump(JGT, value >> 32, holds, "")
        program.jump(JEQ, value >> 32, "", fails)
        program.load(low)
        program.jump(JGT if kind == "GT" else JGE, value, "", fails)
    else:
        program.load(high)
        program.jump(JGT, value >> 32, fails, "")
        program.jump(JEQ, value >> 32, "", holds)
        program.load(low)
        program.jump(JGE if kind == "LT" else JGT, value, fails, "")
    program.label(holds)
