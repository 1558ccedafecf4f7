"""The arguments of execve(2), read out of guest memory in slices (I8).

There may be hundreds of thousands of them, and their pointers lead wherever the guest likes; so the pointers are read
by the page, and the pages of the strings are kept while they are few.  As in Linux only a fatal signal ends it.
"""

from struct import unpack
from typing import Final

from cloche.abi.errno import E2BIG, EFAULT, ERESTARTNOHAND, LinuxError
from cloche.kernel.blocking import BLOCKED, SLICE_NS, Blocked, TaskBase, end_wait, next_slice
from cloche.kernel.exec import MAX_ARG_STRLEN, argument_room, begin_exec, new_stack
from cloche.kernel.exec_strings import BATCH, ExecStrings, StackContents
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import UserMemory
from cloche.syscalls.leases import LeaseWait
from cloche.vfs.leases import LeaseBroken
from cloche.vfs.objects import Path

_PAGE: Final = 4096
_KEPT: Final = 64  # pages
_BATCH_BYTES: Final = 1 << 16  # of strings between two looks at the clock
_POINTER: Final = 8


class StringArray:
    """An argv or envp (NULL: an empty one) that is being read."""

    def __init__(self, addr: int) -> None:
        self.at: int = addr  # the next pointer, 0 when all are read
        self.pointers: list[bytes] = []  # by the page
        self.count: int = 0
        self.next: int = 0  # which of them comes next
        self.next_page: int = 0
        self.strings: ExecStrings = ExecStrings()

    def read_pointers(self, mem: UserMemory, room: int) -> None:
        """Read pointers up to the end of a page. Raises LinuxError(EFAULT, E2BIG)."""
        raw = mem.read_some(self.at, max(_PAGE - (self.at & _PAGE - 1), _POINTER))
        count = len(raw) // _POINTER
        if count == 0:
            raise LinuxError(EFAULT)
        words: tuple[int, ...] = unpack(f"<{count}Q", raw[: count * _POINTER])
        if 0 in words:
            count = words.index(0)
            self.at = 0
        else:
            self.at += count * _POINTER
        if count:
            self.pointers.append(raw[: count * _POINTER])
        self.count += count
        if self.count * _POINTER > room:
            raise LinuxError(E2BIG)

    def some_pointers(self) -> tuple[int, ...]:
        """The next of those that have been read, none at the end."""
        if self.next_page == len(self.pointers):
            return ()
        batch = self.pointers[self.next_page][self.next : self.next + BATCH * _POINTER]
        return unpack(f"<{len(batch) // _POINTER}Q", batch)

    def add(self, texts: list[bytes]) -> None:
        """What the first of `some_pointers` lead to."""
        self.strings.add(texts)
        if texts:
            self.next += _POINTER * len(texts)
            if self.next == len(self.pointers[self.next_page]):
                self.next = 0
                self.next_page += 1


class ExecArguments(Blocked):
    """An execve that reads its arguments and goes on with `begin_exec`."""

    def __init__(
        self, task: Task, path: Path, name: bytes, argv: int, envp: int, *, is_unreachable: bool
    ) -> None:
        super().__init__()
        self.may_run_again = True
        self.path: Path = path
        self.name: bytes = name
        self.is_unreachable: bool = is_unreachable
        self.argv: StringArray = StringArray(argv)
        self.envp: StringArray = StringArray(envp)
        self.room: int = argument_room(task)
        self.pages: dict[int, bytes] = {}  # by address; shorter where memory ends
        self.contents: StackContents | None = None  # once all is read

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        mem = task.user_memory()
        end_ns = monotonic_ns() + SLICE_NS
        while self._step(mem, self.argv) or self._step(mem, self.envp) or self._place(task):
            if monotonic_ns() >= end_ns:
                return next_slice(task, self)
        end_wait(task, self)  # begin_exec may block the task itself
        try:
            return self.begin(task)
        except LeaseBroken as broken:
            return ExecLeaseWait(self).start(task, broken)

    def begin(self, task: Task) -> int:
        """Start the program, once all arguments are read; returns the result of `begin_exec`. Raises LinuxError,
        LeaseBroken.
        """
        contents = self.contents
        assert contents is not None
        return begin_exec(task, self.path, self.name, contents, is_unreachable=self.is_unreachable)

    def interrupted(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        return -ERESTARTNOHAND if task.is_kill_pending else BLOCKED

    def _step(self, mem: UserMemory, array: StringArray) -> bool:
        """Read some of an array; False if all of it has been read.  Raises LinuxError(EFAULT, E2BIG)."""
        if array.at:
            array.read_pointers(mem, self.room)
            return True
        texts: list[bytes] = []
        length = 0
        for pointer in array.some_pointers():
            text = self._text(mem, pointer)
            texts.append(text)
            length += len(text) + 1
            if length > _BATCH_BYTES:
                break
        self.room -= length + _POINTER * len(texts)
        if self.room < 0:
            raise LinuxError(E2BIG)
        array.add(texts)
        return bool(texts)

    def _place(self, task: Task) -> bool:
        """Find out where some of the strings will be; False when that is done."""
        if self.contents is None:
            argv = self.argv.strings
            if argv.count == 0:
                argv.add([b""])
            self.contents = StackContents(argv, self.envp.strings, self.name, new_stack(task))
        return self.contents.place_some()

    def _text(self, mem: UserMemory, addr: int) -> bytes:
        """The string at `addr`, usually within one page."""
        start = addr & _PAGE - 1
        page = self._page(mem, addr - start)
        end = page.find(b"\0", start)
        if end >= 0:
            return page[start:end]
        parts = [page[start:]]
        length = len(parts[0])
        while len(page) == _PAGE and length < MAX_ARG_STRLEN:
            addr = (addr & ~(_PAGE - 1)) + _PAGE
            page = self._page(mem, addr)
            end = page.find(b"\0")
            parts.append(page if end < 0 else page[:end])
            length += len(parts[-1])
            if end >= 0:
                break
        if length >= MAX_ARG_STRLEN:
            raise LinuxError(E2BIG)
        if end < 0:
            raise LinuxError(EFAULT)
        return b"".join(parts)

    def _page(self, mem: UserMemory, addr: int) -> bytes:
        page = self.pages.get(addr)
        if page is None:
            if len(self.pages) >= _KEPT:
                self.pages.clear()
            page = self.pages[addr] = mem.read_some(addr, _PAGE)
        return page


class ExecLeaseWait(LeaseWait):
    """An execve that waits until others give up their leases on the program."""

    def __init__(self, arguments: ExecArguments) -> None:
        super().__init__()
        self.arguments: ExecArguments = arguments

    def act(self, task: Task) -> int:
        if task.blocked is self:
            end_wait(task, self)  # begin_exec may block the task itself
        return self.arguments.begin(task)


def start_exec(
    task: Task, path: Path, name: bytes, argv: int, envp: int, *, is_unreachable: bool = False
) -> int:
    """Run the program at `path`. Returns the result of `begin_exec`, or BLOCKED. Raises LinuxError."""
    return ExecArguments(task, path, name, argv, envp, is_unreachable=is_unreachable).retry(task)
