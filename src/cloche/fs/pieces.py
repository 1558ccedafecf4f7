"""Generated files that can be long. They are made piece by piece, and a read ends at the end of a piece, as in Linux
at a page.

A read at an unexpected offset makes all pieces before it, in slices (I8): it returns EAGAIN to wait, and a chore
wakes it for the next slice. Others who read the same open file at another offset wait until it is there: each would
restart the other, for ever.
"""

from collections.abc import Generator

from cloche.abi.errno import EAGAIN
from cloche.kernel.blocking import SLICE_NS
from cloche.kernel.chores import Chore
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import Context, Path
from cloche.vfs.pseudo import GeneratedDescription, GeneratedInode
from cloche.vfs.waitqueue import WaitQueue

ENOUGH = 4096  # bytes of a piece that is put together from short parts
_PARTS = 32  # parts in a row that may be empty


class PiecedDescription(GeneratedDescription):
    """An open file whose text subclasses make by `restart` and `more`."""

    def __init__(self, path: Path, inode: GeneratedInode, flags: int) -> None:
        super().__init__(path, inode, flags)
        self.made: bytes = b""
        self.base: int = 0  # where `made` begins in the file
        self.is_over: bool = False
        self.following: int = -1  # where the next read is expected
        self.sought: int = -1  # offset of a read under way, which a retry continues
        self.is_walking: bool = False  # a reader waits for its next slice
        self.walker: Task | None = None  # the one whose read goes to `sought`
        self.walkers: WaitQueue = WaitQueue()

    def check(self, ctx: Context) -> None:
        """Before a read.  Raises LinuxError."""

    def restart(self, ctx: Context) -> None:
        """Go back to the beginning."""
        raise NotImplementedError

    def more(self, ctx: Context) -> bytes | None:
        """The next piece (it may be empty), None at the end."""
        raise NotImplementedError

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        self.check(ctx)
        if self._is_anothers_turn(ctx, offset):
            return -EAGAIN
        if offset != self.following or (offset == 0 and self.sought != 0):
            self.made, self.base, self.is_over = b"", 0, False
            self.restart(ctx)
        self.following = self.sought = offset
        if not self._reach(ctx, offset):
            if isinstance(ctx, Task):
                self.walker = ctx
                if not self.is_walking:
                    self.is_walking = True
                    ctx.kernel.chores.append(Walk(self))
            return -EAGAIN
        self.sought = -1
        self.walker = None
        at = offset - self.base
        count = dst.copy_to(self.made[at : at + dst.remaining()]) if at < len(self.made) else 0
        self.following = offset + count
        return count

    def _is_anothers_turn(self, ctx: Context, offset: int) -> bool:
        """Whether a reader that still waits is on its way to another place."""
        walker = self.walker
        if walker is None or walker is ctx or offset == self.sought:
            return False
        return self.walkers.has(walker.waiter)  # it is not there any more when a signal has ended its wait

    def _reach(self, ctx: Context, offset: int) -> bool:
        """Make the piece that has `offset`, or come to the end; False when there is more to do."""
        end_ns = 0
        while self.base + len(self.made) <= offset and not self.is_over:
            now_ns = monotonic_ns()
            if not end_ns:
                end_ns = now_ns + SLICE_NS
            elif now_ns >= end_ns:
                return False
            self.base += len(self.made)
            piece = self.more(ctx)
            self.is_over = piece is None
            self.made = b"" if piece is None else piece
        return True

    def wait_queue(self) -> WaitQueue | None:
        return self.walkers if self.is_walking else None


class PartsDescription(PiecedDescription):
    """An open file whose text a generator makes, which subclasses give by `parts`."""

    def __init__(self, path: Path, inode: GeneratedInode, flags: int) -> None:
        super().__init__(path, inode, flags)
        self.rest: Generator[str, None, None] | None = None  # if it is missing it is made anew, up to `base`
        self.is_done: bool = False

    def parts(self, ctx: Context) -> Generator[str, None, None]:
        """The text, some at a time."""
        raise NotImplementedError

    def restart(self, ctx: Context) -> None:
        self.rest = None
        self.is_done = False

    def more(self, ctx: Context) -> bytes | None:
        if self.is_done:
            return None
        rest = self.rest
        if rest is None:
            rest = self.rest = self.parts(ctx)
            skipped = 0
            while skipped < self.base:
                skipped += len(next(rest, " " * self.base).encode("utf-8", "surrogateescape"))
        made: list[bytes] = []
        length = 0
        while length < ENOUGH and len(made) < _PARTS:
            text = next(rest, None)
            if text is None:
                self.rest = None
                self.is_done = True
                break
            made.append(text.encode("utf-8", "surrogateescape"))
            length += len(made[-1])
        return b"".join(made)


class Walk(Chore):
    """Wakes readers that are making pieces before their offset, until there are none."""

    def __init__(self, file: PiecedDescription) -> None:
        self.file: PiecedDescription = file

    def step(self) -> bool:
        file = self.file
        file.walkers.wake()
        file.is_walking = not file.walkers.is_empty()
        return file.is_walking
