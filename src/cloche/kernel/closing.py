"""Closing many descriptors, at exit and execve: a few at once, the rest in slices (I8).

A process may have a hundred thousand. A process that exits by itself closes them before it is dead, so that its
parent finds them closed, as in Linux; execve closes them before the new program runs. Those of a killed process are
closed soon after its death.
"""

from typing import Final

from cloche.kernel.chores import Chore
from cloche.kernel.fd_table import FdBlock, FdTable
from cloche.kernel.task import Task

FEW: Final = 256  # closed at once


class CloseRest(Chore):
    """Blocks that have left their table."""

    def __init__(self, task: Task, table: FdTable, blocks: list[FdBlock]) -> None:
        self.task: Task = task
        self.table: FdTable = table
        self.blocks: list[FdBlock] = blocks
        self.at: int = 0

    def step(self) -> bool:
        while self.at < len(self.blocks):
            closed = self.table.leave(self.task, self.blocks[self.at])
            self.at += 1
            if closed:
                break
        return self.at < len(self.blocks)


def close_taken(task: Task, table: FdTable, blocks: list[FdBlock]) -> None:
    """Close what was taken out of `table`."""
    closed = at = 0
    while at < len(blocks) and closed < FEW:
        closed += table.leave(task, blocks[at])
        at += 1
    if at < len(blocks):
        task.kernel.chores.append(CloseRest(task, table, blocks[at:]))
