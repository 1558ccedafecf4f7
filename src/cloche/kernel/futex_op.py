"""FUTEX_WAKE_OP: change one word, wake the waiters of another (futex(2))."""

from typing import Final

from cloche.abi.errno import ENOSYS, LinuxError
from cloche.abi.futex import (
    FUTEX_BITSET_MATCH_ANY,
    FUTEX_OP_ADD,
    FUTEX_OP_ANDN,
    FUTEX_OP_CMP_EQ,
    FUTEX_OP_CMP_GE,
    FUTEX_OP_CMP_GT,
    FUTEX_OP_CMP_LE,
    FUTEX_OP_CMP_LT,
    FUTEX_OP_CMP_NE,
    FUTEX_OP_OPARG_SHIFT,
    FUTEX_OP_OR,
    FUTEX_OP_SET,
    FUTEX_OP_XOR,
)
from cloche.kernel.futex import Key, Word, futex_key, futex_table
from cloche.kernel.futex_change import ORDER, WordChange
from cloche.kernel.task import Task
from cloche.platform.interface import SWAP_ADD, SWAP_ANDN, SWAP_OR, SWAP_SET, SWAP_XOR, swap_result

_OPERATIONS: Final[dict[int, int]] = {
    FUTEX_OP_SET: SWAP_SET,
    FUTEX_OP_ADD: SWAP_ADD,
    FUTEX_OP_OR: SWAP_OR,
    FUTEX_OP_ANDN: SWAP_ANDN,
    FUTEX_OP_XOR: SWAP_XOR,
}


def _sign_extend_12(value: int) -> int:
    return value - 0x1000 if value & 0x800 else value


def _signed(value: int) -> int:
    return value - 0x100000000 if value & 0x80000000 else value


def _compares(comparison: int, old: int, operand: int) -> bool:
    value = _signed(old)
    if comparison == FUTEX_OP_CMP_EQ:
        return value == operand
    if comparison == FUTEX_OP_CMP_NE:
        return value != operand
    if comparison == FUTEX_OP_CMP_LT:
        return value < operand
    if comparison == FUTEX_OP_CMP_GE:
        return value >= operand
    if comparison == FUTEX_OP_CMP_LE:
        return value <= operand
    if comparison == FUTEX_OP_CMP_GT:
        return value > operand
    raise LinuxError(ENOSYS)


class WakeOp(WordChange):
    """The change is made first, as an atomic operation of its own; the wake-ups follow."""

    def __init__(
        self, task: Task, addr: int, encoded: int, keys: tuple[Key, Key], counts: tuple[int, int]
    ) -> None:
        super().__init__(task, addr, None)
        self.encoded: int = encoded
        self.keys: tuple[Key, Key] = keys
        self.counts: tuple[int, int] = counts
        operand = _sign_extend_12((encoded >> 12) & 0xFFF)
        if (encoded >> 28) & FUTEX_OP_OPARG_SHIFT:
            operand = 1 << (operand & 31)
        self.operand = operand & 0xFFFFFFFF
        self.operation = _OPERATIONS.get((encoded >> 28) & 7, 0)

    def decide(self, value: int) -> int:
        if not self.operation:
            raise LinuxError(ENOSYS)
        self.new = swap_result(self.operation, value, self.operand)
        return ORDER

    def changed(self) -> int:
        is_second = _compares((self.encoded >> 24) & 15, self.old, _sign_extend_12(self.encoded & 0xFFF))
        table = futex_table(self.task.kernel)
        woken = table.wake(self.keys[0], self.counts[0], FUTEX_BITSET_MATCH_ANY)
        if is_second and woken >= 0:
            second = table.wake(self.keys[1], self.counts[1], FUTEX_BITSET_MATCH_ANY)
            woken = woken + second if second >= 0 else second
        return woken


def wake_op(task: Task, first: Word, second: Word, count: int, second_count: int, encoded: int) -> int:
    """FUTEX_WAKE_OP: change the second word, wake the first, and the second if its old value compares."""
    first_key = futex_key(task, first.addr, is_private=first.is_private)
    second_key = futex_key(task, second.addr, is_private=second.is_private)
    change = WakeOp(task, second.addr, encoded, (first_key, second_key), (count, second_count))
    return change.start()
