"""Classic BPF programs as arrays of struct sock_filter: putting them together, taking them apart (linux/filter.h)."""

from struct import Struct
from typing import Final

from cloche.abi.seccomp import (
    BPF_ABS,
    BPF_ALU,
    BPF_AND,
    BPF_JA,
    BPF_JEQ,
    BPF_JGE,
    BPF_JGT,
    BPF_JMP,
    BPF_JSET,
    BPF_K,
    BPF_LD,
    BPF_MAXINSNS,
    BPF_RET,
    BPF_W,
)

INSN: Final = Struct("<HBBI")  # code, jt, jf, k

# The codes that filters are written with here.
LOAD: Final = BPF_LD | BPF_W | BPF_ABS
AND: Final = BPF_ALU | BPF_AND | BPF_K
JUMP: Final = BPF_JMP | BPF_JA
JEQ: Final = BPF_JMP | BPF_JEQ | BPF_K
JGT: Final = BPF_JMP | BPF_JGT | BPF_K
JGE: Final = BPF_JMP | BPF_JGE | BPF_K
JSET: Final = BPF_JMP | BPF_JSET | BPF_K
RETURN: Final = BPF_RET | BPF_K

# Fields of struct seccomp_data
DATA_NR: Final = 0
DATA_ARCH: Final = 4
DATA_IP: Final = 8
DATA_ARGS: Final = 16


class BpfProgram:
    """A program that is being written.  Places have names; jumps lead forward only."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, str, str]] = []  # code, k, where to if true, if false
        self.labels: dict[str, int] = {}

    def new_label(self) -> str:
        """A name that no place has yet."""
        name = f"#{len(self.labels)}"
        self.labels[name] = -1
        return name

    def label(self, name: str) -> None:
        """`name` is the next instruction."""
        self.labels[name] = len(self.rows)

    def load(self, offset: int) -> None:
        """Load a word of struct seccomp_data."""
        self.rows.append((LOAD, offset, "", ""))

    def mask(self, bits: int) -> None:
        """Keep these bits of what is loaded."""
        self.rows.append((AND, bits, "", ""))

    def jump(self, code: int, k: int, true: str = "", false: str = "") -> None:
        """Compare what is loaded with `k`; an empty name is the next instruction."""
        self.rows.append((code, k, true, false))

    def go(self, name: str) -> None:
        """Go on there, however far it is."""
        self.rows.append((JUMP, 0, name, ""))

    def ret(self, value: int) -> None:
        """The end, with a verdict."""
        self.rows.append((RETURN, value, "", ""))

    def encode(self) -> bytes:
        """As an array of struct sock_filter.  Raises ValueError for a program that is too long, or jumps too far."""
        if len(self.rows) > BPF_MAXINSNS:
            raise ValueError(f"{len(self.rows)} instructions of BPF are too many")
        out = bytearray()
        for at, (code, k, true, false) in enumerate(self.rows):
            to_true = self.labels[true] - at - 1 if true else 0
            to_false = self.labels[false] - at - 1 if false else 0
            most = BPF_MAXINSNS if code == JUMP else 255
            if not (0 <= to_true <= most and 0 <= to_false <= 255):
                raise ValueError("a jump of BPF leads too far")
            if code == JUMP:
                out += INSN.pack(code, 0, 0, to_true)
            else:
                out += INSN.pack(code, to_true, to_false, k & 0xFFFFFFFF)
        return bytes(out)
