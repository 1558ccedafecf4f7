"""The registers of a system call."""


class Args:
    """A task's system call: its number and six arguments, as signed 64-bit integers, and its state.

    They stay until the next call.  `left_result` holds while the task is LEAVING (kernel.phase).
    """

    def __init__(self) -> None:
        self.is_under_way: bool = False  # it waits, is being handled, or was when the task stopped in it
        self.left_result: int = 0  # the call is over, with this, and what it has ordered is not yet done
        self.nr: int = -1
        self.a0: int = 0
        self.a1: int = 0
        self.a2: int = 0
        self.a3: int = 0
        self.a4: int = 0
        self.a5: int = 0


def to_i32(value: int) -> int:
    """The C int in the low half of a register."""
    low = value & 0xFFFFFFFF
    return low - 0x100000000 if low >= 0x80000000 else low


def to_u32(value: int) -> int:
    """The C unsigned int in the low half of a register."""
    return value & 0xFFFFFFFF


def to_u64(value: int) -> int:
    """The register as an unsigned 64-bit integer (addresses, masks, sizes)."""
    return value & 0xFFFFFFFFFFFFFFFF
