"""Descriptors that go together, at exit and execve: a few at once, the rest bit by bit (I8).

A process may have a hundred thousand.  One that exits by itself closes them while it still lives, so that its parent
finds them closed, as in Linux, and execve before the new program runs; those of one that is killed go just after.
"""

from typing import Final

from cloche.kernel.chores import Chore
from cloche.kernel.fd_table import FdTable
from cloche.kernel.task import Task
from cloche.vfs.objects import FileDescription

FEW: Final = 256  # closed at once
_BATCH: Final = 64


class CloseRest(Chore):
    """Files that have left their table."""

    def __init__(self, task: Task, table: FdTable, files: list[FileDescription]) -> None:
        self.task: Task = task
        self.table: FdTable = table
        self.files: list[FileDescription] = files
        self.at: int = 0

    def step(self) -> bool:
        end = min(self.at + _BATCH, len(self.files))
        for file in self.files[self.at : end]:
            self.table.closed(self.task, file)
        self.at = end
        return end < len(self.files)


def close_taken(task: Task, table: FdTable, files: list[FileDescription]) -> None:
    """Close what was taken out of `table`."""
    for file in files[:FEW]:
        table.closed(task, file)
    if len(files) > FEW:
        task.kernel.chores.append(CloseRest(task, table, files[FEW:]))
