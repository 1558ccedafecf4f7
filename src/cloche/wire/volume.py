"""The account of a named volume that has a size: a file beside the volume's data, which all its users map or read.

    u64 MAGIC, i64 limit in bytes, 14 × 0, then SLOTS × i64: bytes

What the volume takes is the sum of the slots. Each sandbox that writes to the volume has a slot of its own, which only
it changes, so that nothing is locked; whoever gets the slot next goes on with its value. While no sandbox has a slot
the monitor of the next one counts the files anew (`runtime.volumes`).
"""

from struct import Struct
from typing import Final

MAGIC: Final = 0x31746E756F636356  # "Vccount1"
SLOTS: Final = 64
ACCOUNT_NAME: Final = b"sizes"
HEAD_BYTES: Final = 128
ACCOUNT_BYTES: Final = HEAD_BYTES + 8 * SLOTS
DIRECTORY_BYTES: Final = 4096  # what a directory counts as; file systems differ

VALUE: Final = Struct("<q")
HEAD: Final = Struct("<Qq")
_SLOTS: Final = Struct(f"<{SLOTS}q")


class Account:
    """The contents of the file: the limit, and the values of the slots."""

    def __init__(self, limit: int, slots: list[int]) -> None:
        self.limit: int = limit
        self.slots: list[int] = slots

    def total(self) -> int:
        """What the volume takes, in bytes."""
        return max(sum(self.slots), 0)


def slot_offset(slot: int) -> int:
    """Where the value of a slot is."""
    return HEAD_BYTES + 8 * slot


def pack_account(account: Account) -> bytes:
    """The contents of the file."""
    return HEAD.pack(MAGIC, account.limit).ljust(HEAD_BYTES, b"\0") + _SLOTS.pack(*account.slots)


def unpack_account(data: bytes) -> Account:
    """The inverse. Raises ValueError if it is not one."""
    if len(data) != ACCOUNT_BYTES:
        raise ValueError("not the account of a volume")
    magic, limit = HEAD.unpack_from(data)
    if magic != MAGIC or limit <= 0:
        raise ValueError("not the account of a volume")
    return Account(limit, list(_SLOTS.unpack_from(data, HEAD_BYTES)))
