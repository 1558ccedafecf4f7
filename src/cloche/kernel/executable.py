"""The file that a process runs from."""

from cloche.kernel.programs import Program
from cloche.vfs.objects import Inode, Path


class Executable:
    """The file that a process has executed, or has inherited by a fork.

    Invariant: while `_busy` is a file, this process counts once among those for which it may not be written (ETXTBSY);
    the count is given back when the process runs from another file or is dead.
    """

    def __init__(self) -> None:
        self.path: Path | None = None  # change it with `set`
        self.program: Program | None = None  # that this process itself has executed; its forks learn nothing
        self.has_execed: bool = False
        self._busy: Inode | None = None

    def set(self, path: Path | None) -> None:
        """Run from this file, which cannot be opened for writing until the process is dead or runs from another."""
        self.allow_writes()
        self.path = path
        if path is not None:
            self._busy = path.inode()
            self._busy.write_count -= 1

    def allow_writes(self) -> None:
        """The process is dead: its executable may be written."""
        if self._busy is not None:
            self._busy.write_count += 1
            self._busy = None
