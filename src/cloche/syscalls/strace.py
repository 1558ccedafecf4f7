"""`--strace`: one line per system call with decoded arguments, in strace(1)'s manner.

Names and types of arguments are those of the table (`row.py`).  Reading guest memory here is best effort and changes
nothing; what cannot be read is printed as an address.
"""

import os
from typing import Final

from cloche.abi import errno as errno_names
from cloche.abi.signal import NSIG
from cloche.abi.signal import name as signal_symbol
from cloche.arch.syscalls import SYS_open, SYS_openat
from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.blocking import DEAD, RESUME
from cloche.kernel.task import CallObserver, Kernel, Task
from cloche.syscalls.row import UNKNOWN, Row
from cloche.syscalls.table import ROWS

MAX_STRING: Final = 32  # of a buffer
MAX_PATH: Final = 400
MAX_ARRAY: Final = 16
_IN_HEX: Final = "=x"  # at the end of a row's types

_OPEN_FLAGS: Final = (
    (0o100, "O_CREAT"), (0o200, "O_EXCL"), (0o400, "O_NOCTTY"), (0o1000, "O_TRUNC"), (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"), (0o200000, "O_DIRECTORY"), (0o400000, "O_NOFOLLOW"), (0o2000000, "O_CLOEXEC"),
    (0o10000000, "O_PATH"),
)  # fmt: skip
_O_CREATES: Final = 0o20000100  # O_CREAT, __O_TMPFILE
_RESTARTS: Final[dict[int, str]] = {
    512: "ERESTARTSYS (To be restarted if SA_RESTART is set)",
    513: "ERESTARTNOINTR (To be restarted)",
    514: "ERESTARTNOHAND (To be restarted if no handler)",
    516: "ERESTART_RESTARTBLOCK (Interrupted by signal)",
}
_PROT: Final = ((1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC"))
_ACCESS: Final = ((4, "R_OK"), (2, "W_OK"), (1, "X_OK"))
_MAP: Final = (
    (1, "MAP_SHARED"), (2, "MAP_PRIVATE"), (16, "MAP_FIXED"), (32, "MAP_ANONYMOUS"), (0x800, "MAP_DENYWRITE"),
    (0x4000, "MAP_NORESERVE"), (0x20000, "MAP_STACK"), (0x100000, "MAP_FIXED_NOREPLACE"),
)  # fmt: skip


def _flags(value: int, names: tuple[tuple[int, str], ...], zero: str) -> str:
    parts: list[str] = []
    for bit, name in names:
        if value & bit:
            parts.append(name)
            value &= ~bit
    if value:
        parts.append(hex(value))
    return "|".join(parts) if parts else zero


def _signal_name(number: int) -> str:
    return signal_symbol(number) if 0 < number <= NSIG else str(number)


def quote(data: bytes, *, limit: int = MAX_STRING, is_cut: bool = False) -> str:
    """A C string literal of at most `limit` bytes."""
    shown = data[:limit]
    text = '"'
    for byte in shown:
        if byte == 34 or byte == 92:
            text += "\\" + chr(byte)
        elif 32 <= byte < 127:
            text += chr(byte)
        elif byte == 10:
            text += "\\n"
        elif byte == 9:
            text += "\\t"
        elif byte == 13:
            text += "\\r"
        else:
            text += f"\\{byte:o}"
    text += '"'
    return text + "..." if is_cut or len(data) > len(shown) else text


def signature_of(entry: Row) -> str:
    """A letter for each argument."""
    return entry.types.removesuffix(_IN_HEX)


class Tracer(CallObserver):
    """Writes the lines; calls that block appear when they are done."""

    def __init__(self, kernel: Kernel, fd: int) -> None:
        self.kernel: Kernel = kernel
        self.fd: int = fd
        self._names: dict[int, str] = {entry.number: entry.name for entry in ROWS}
        self._types: dict[int, str] = {entry.number: signature_of(entry) for entry in ROWS}
        self._in_hex: frozenset[int] = frozenset(
            [entry.number for entry in ROWS if entry.types.endswith(_IN_HEX)]
        )
        self._entered: dict[int, str] = {}
        # By tid: the address of a result buffer; its place in the text is marked by NUL
        self._results: dict[int, int] = {}

    def entered(self, task: Task, args: Args) -> None:
        """Decode the arguments before the call changes anything."""
        number = args.nr
        name = self._names.get(number) or f"syscall_{number:#x}"
        signature = self._types.get(number, UNKNOWN)
        values = [args.a0, args.a1, args.a2, args.a3, args.a4, args.a5]
        open_flags = args.a1 if number == SYS_open else args.a2 if number == SYS_openat else _O_CREATES
        if not open_flags & _O_CREATES:
            signature = signature[:-1]  # nothing is created: the mode is not used
        parts: list[str] = []
        for index in range(len(signature)):
            if signature[index] == "r":
                self._results[task.tid] = to_u64(values[index])
                parts.append("\0")
            else:
                parts.append(self._argument(task, signature[index], values, index))
        self._entered[task.tid] = f"{name}({', '.join(parts)})"

    def finished(self, task: Task, args: Args, result: int) -> None:
        """Print the line."""
        text = self._entered.pop(task.tid, "?")
        address = self._results.pop(task.tid, 0)
        if "\0" in text:
            data = self._read(task, address, min(result, MAX_STRING)) if result > 0 else b""
            text = text.replace("\0", quote(data, is_cut=result > MAX_STRING) if data else hex(address))
        if result == DEAD:
            shown = "?"
        elif result == RESUME:
            shown = "0"
        elif -result in _RESTARTS:
            shown = f"? {_RESTARTS[-result]}"
        elif -4096 < result < 0:
            shown = f"-1 {errno_names.name(-result)} ({os.strerror(-result)})"
        elif args.nr in self._in_hex:
            shown = hex(result)
        else:
            shown = str(result)
        line = f"[{task.own_tid:5}] {text} = {shown}\n".encode(errors="replace")
        try:
            os.write(self.fd, line)
        except OSError:
            pass  # the log must not disturb the guest

    def _read(self, task: Task, addr: int, length: int) -> bytes:
        return task.thread.read(addr, length) if addr else b""

    def _string(self, task: Task, addr: int) -> str:
        if addr == 0:
            return "NULL"
        data = task.thread.read_cstring(addr, MAX_PATH + 1)
        if data is None:
            return hex(addr)
        return quote(data, limit=MAX_PATH)

    def _argument(self, task: Task, kind: str, values: list[int], index: int) -> str:
        value = values[index]
        if kind == "d" or kind == "f":
            return str(to_i32(value)) if kind == "f" or -(1 << 31) <= value < 1 << 32 else str(value)
        if kind == "u":
            return str(to_u64(value))
        if kind == "o":
            return f"0{value & 0xFFFFFFFF:o}"
        if kind == "a":
            return "AT_FDCWD" if to_i32(value) == -100 else str(to_i32(value))
        if kind == "s":
            return self._string(task, to_u64(value))
        if kind == "b":
            length = to_u64(values[index + 1])
            data = self._read(task, to_u64(value), min(length, MAX_STRING))
            return quote(data, is_cut=length > len(data)) if data or length == 0 else hex(to_u64(value))
        if kind == "O":
            access = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")[value & 3]
            rest = _flags(value & 0xFFFFFFFC, _OPEN_FLAGS, "")
            return f"{access}|{rest}" if rest else access
        if kind == "P":
            return _flags(value & 0xFFFFFFFF, _PROT, "PROT_NONE")
        if kind == "M":
            return _flags(value & 0xFFFFFFFF, _MAP, "0")
        if kind == "A":
            return _flags(value & 0xFFFFFFFF, _ACCESS, "F_OK")
        if kind == "S":
            return _signal_name(to_i32(value))
        if kind == "v":
            return self._vector(task, to_u64(value))
        return hex(to_u64(value)) if value else ("NULL" if kind == "p" or kind == "r" else "0")

    def _vector(self, task: Task, addr: int) -> str:
        parts: list[str] = []
        for index in range(MAX_ARRAY):
            raw = self._read(task, addr + 8 * index, 8)
            pointer = int.from_bytes(raw, "little")
            if len(raw) != 8 or pointer == 0:
                break
            parts.append(self._string(task, pointer))
        return "[" + ", ".join(parts) + "]"


def install(kernel: Kernel, fd: int) -> None:
    """Trace every call of the sandbox to `fd`."""
    tracer = Tracer(kernel, fd)
    kernel.entry_observer = kernel.observer = tracer
