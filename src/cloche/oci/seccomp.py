"""`linux.seccomp` of a bundle as a classic BPF program, which the sentry puts in force for every program inside.

What libseccomp gives is meant: of the rules of a call the first whose conditions all hold decides, one without
conditions decides always, and a call that came after every one that the profile knows is not there (runc's
libcontainer/seccomp/patchbpf).
"""

import struct
from typing import Any, Final

from cloche.abi import seccomp as bpf
from cloche.abi.errno import ENOSYS, EPERM
from cloche.arch.machine import AUDIT_ARCH
from cloche.arch.syscalls import NAMES
from cloche.oci.errors import OciError
from cloche.oci.spec import take_int, take_objects, take_strings, take_text

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
_M32: Final = 0xFFFFFFFF
_M64: Final = (1 << 64) - 1
_INSN: Final = struct.Struct("<HBBI")
_LOAD: Final = bpf.BPF_LD | bpf.BPF_W | bpf.BPF_ABS
_AND: Final = bpf.BPF_ALU | bpf.BPF_AND | bpf.BPF_K
_JUMP: Final = bpf.BPF_JMP | bpf.BPF_JA
_RETURN: Final = bpf.BPF_RET | bpf.BPF_K
_JEQ: Final = bpf.BPF_JMP | bpf.BPF_JEQ | bpf.BPF_K
_JGT: Final = bpf.BPF_JMP | bpf.BPF_JGT | bpf.BPF_K
_JGE: Final = bpf.BPF_JMP | bpf.BPF_JGE | bpf.BPF_K
_NR: Final = 0
_ARCH: Final = 4
_ARGS: Final = 16
_MAX_INSNS: Final = 4096  # BPF_MAXINSNS


class Program:
    """Instructions with names for places."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, str, str]] = []  # code, k, where to if true, if false
        self.labels: dict[str, int] = {}
        self.count: int = 0

    def label(self) -> str:
        """A new name."""
        self.count += 1
        return f"l{self.count}"

    def place(self, name: str) -> None:
        """It is here."""
        self.labels[name] = len(self.rows)

    def add(self, code: int, k: int, if_true: str = "", if_false: str = "") -> None:
        """An instruction; an empty name is the next one."""
        self.rows.append((code, k & _M32, if_true, if_false))

    def encode(self) -> bytes:
        """As an array of struct sock_filter.  Raises OciError."""
        if len(self.rows) > _MAX_INSNS:
            raise OciError("the seccomp profile is too long")
        out = bytearray()
        for index, (code, k, if_true, if_false) in enumerate(self.rows):
            steps = [self.labels[name] - index - 1 if name else 0 for name in (if_true, if_false)]
            if code == _JUMP:
                out += _INSN.pack(code, 0, 0, steps[0])
            else:
                out += _INSN.pack(code, steps[0], steps[1], k)
        return bytes(out)


class Rule:
    """What one row says of each of its calls."""

    def __init__(self, data: dict[str, Any], default_errno: int) -> None:
        where = "linux.seccomp.syscalls."
        self.names: list[str] = take_strings(data, "names", where)
        self.verdict: int = _verdict(data, "action", where, default_errno)
        self.conditions: list[tuple[int, str, int, int]] = []
        for arg in take_objects(data, "args", where):
            index = take_int(arg, "index", where + "args.", 0, 0, 5)
            operator = take_text(arg, "op", where + "args.")
            if operator not in _OPERATORS:
                raise OciError(f"config.json: {where}args.op {operator[:64]!r} is unknown")
            value = take_int(arg, "value", where + "args.", 0, -(1 << 63), _M64) & _M64
            second = take_int(arg, "valueTwo", where + "args.", 0, -(1 << 63), _M64) & _M64
            self.conditions.append((index, operator, value, second))


def _verdict(data: dict[str, Any], name: str, where: str, default_errno: int) -> int:
    action = take_text(data, name, where)
    if action == "SCMP_ACT_NOTIFY":
        raise OciError("seccomp: SCMP_ACT_NOTIFY is not supported")
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
            if not rule.conditions:
                plain.setdefault(number, rule.verdict)
            else:
                conditional.setdefault(number, []).append(rule)
    if default == bpf.SECCOMP_RET_ALLOW and not plain and not conditional:
        return b""
    program = Program()
    program.add(_LOAD, _ARCH)
    known = program.label()
    program.add(_JEQ, AUDIT_ARCH, known, "")
    program.add(_RETURN, bpf.SECCOMP_RET_KILL_PROCESS)
    program.place(known)
    program.add(_LOAD, _NR)
    if default & bpf.SECCOMP_RET_ACTION_FULL == bpf.SECCOMP_RET_ERRNO and last >= 0:
        old = program.label()
        program.add(_JGT, last, "", old)
        program.add(_RETURN, bpf.SECCOMP_RET_ERRNO | ENOSYS)
        program.place(old)
    for number, rules in conditional.items():
        if number not in plain:
            _add_conditional(program, number, rules, default)
    for number, verdict in plain.items():
        other = program.label()
        program.add(_JEQ, number, "", other)
        program.add(_RETURN, verdict)
        program.place(other)
    program.add(_RETURN, default)
    return program.encode()


def _add_conditional(program: Program, number: int, rules: list[Rule], default: int) -> None:
    mine, after = program.label(), program.label()
    program.add(_JEQ, number, mine, "")
    program.add(_JUMP, 0, after)
    program.place(mine)
    for rule in rules:
        other = program.label()
        for index, operator, value, second in rule.conditions:
            _add_condition(program, index, operator, value, second, other)
        program.add(_RETURN, rule.verdict)
        program.place(other)
    program.add(_RETURN, default)
    program.place(after)


def _add_condition(program: Program, index: int, operator: str, value: int, second: int, fails: str) -> None:
    """Go on if it holds, else to `fails`."""
    low, high = _ARGS + 8 * index, _ARGS + 8 * index + 4
    holds = program.label()
    kind = operator.removeprefix("SCMP_CMP_")
    if kind == "MASKED_EQ":
        program.add(_LOAD, high)
        program.add(_AND, value >> 32)
        program.add(_JEQ, (second & value) >> 32, "", fails)
        program.add(_LOAD, low)
        program.add(_AND, value)
        program.add(_JEQ, second & value, "", fails)
    elif kind == "EQ":
        program.add(_LOAD, high)
        program.add(_JEQ, value >> 32, "", fails)
        program.add(_LOAD, low)
        program.add(_JEQ, value, "", fails)
    elif kind == "NE":
        program.add(_LOAD, high)
        program.add(_JEQ, value >> 32, "", holds)
        program.add(_LOAD, low)
        program.add(_JEQ, value, fails, holds)
    elif kind in ("GT", "GE"):
        program.add(_LOAD, high)
        program.add(_JGT, value >> 32, holds, "")
        program.add(_JEQ, value >> 32, "", fails)
        program.add(_LOAD, low)
        program.add(_JGT if kind == "GT" else _JGE, value, "", fails)
    else:
        program.add(_LOAD, high)
        program.add(_JGT, value >> 32, fails, "")
        program.add(_JEQ, value >> 32, "", holds)
        program.add(_LOAD, low)
        program.add(_JGE if kind == "LT" else _JGT, value, fails, "")
    program.place(holds)
