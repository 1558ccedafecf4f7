"""Closing many descriptors, at exit and execve: a few at once, the rest in slices (I8).

A process may have a hundred thousand. A process that exits by itself closes them before it is dead, so that its
parent finds them closed, as in Linux; execve closes them before the new program runs. Those of a killed process are
closed soon after its death.
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
    """Close files that were taken out of `table`."""
    for file in files[:FEW]:
        table.closed(task, file)
    if len(files) > FEW:
        task.kernel.chores.append(CloseRest(task, table, files[FEW:]))
