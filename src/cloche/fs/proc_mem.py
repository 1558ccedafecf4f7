"""/proc/PID/mem and pagemap, and texts that are read from the task's memory."""

from typing import Final

from cloche.abi.errno import EACCES, EAGAIN, EFAULT, EINVAL, EIO, EPERM, ESRCH, LinuxError
from cloche.abi.limits import TASK_SIZE_MAX
from cloche.fs.proc_task import is_present, own_by_task, reader_of
from cloche.kernel.access import may_access
from cloche.kernel.accounting import space_of
from cloche.kernel.births import birth_queue
from cloche.kernel.ptrace.memory import ForcedAccess, force
from cloche.kernel.task import Task
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import (
    Context,
    FileDescription,
    Inode,
    Path,
    generic_permission,
)
from cloche.vfs.pseudo import (
    GeneratedInode,
    PseudoFs,
)
from cloche.vfs.waitqueue import WaitQueue

_MEM_STEP: Final = 1 << 20
_PAGES_STEP: Final = 1 << 12  # pages that the host is asked for at once
_MEM_FORCED: Final = 1 << 16  # bytes at a time where protections must change


class MemInode(GeneratedInode):
    """/proc/PID/mem: the guest's memory by address."""

    def __init__(self, fs: PseudoFs, task: Task, mode: int = 0o600) -> None:
        super().__init__(fs, mode)
        self.task: Task = task
        self.is_mode_fixed = True

    def refresh(self, ctx: Context) -> None:
        own_by_task(self, self.task)

    def permission(self, ctx: Context, mask: int) -> bool:
        own_by_task(self, self.task)
        return generic_permission(self, ctx.creds, mask)

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        if not is_present(self.task):
            raise LinuxError(ESRCH)
        if not may_access(reader_of(ctx), self.task, uses_real_ids=False):
            raise LinuxError(EACCES)
        return self.open_checked(path, flags)

    def open_checked(self, path: Path, flags: int) -> FileDescription:
        """Open it after the permission check."""
        return MemDescription(path, self, flags, self.task)


class MemDescription(FileDescription):
    """An open /proc/PID/mem; it keeps the address space that the task had at open, as Linux does.

    Reads and writes are forced (kernel.ptrace.memory): while a thread of the process changes protections, the caller
    waits on `wait_queue`.
    """

    def __init__(self, path: Path, inode: Inode, flags: int, task: Task) -> None:
        super().__init__(path, inode, flags)
        self.space = space_of(task)
        self.task: Task = task
        self.access: ForcedAccess | None = None

    def is_by_segment(self) -> bool:
        return True

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        space = self.space
        if space is None or space.is_dead:
            return 0
        if birth_queue(self.task.kernel, space) is not None:
            return -EAGAIN
        done = 0
        while dst.remaining() > 0:
            want = min(dst.remaining(), _MEM_STEP)
            data = b"" if self.access is not None else space.process.read(offset + done, want)
            if data:
                if dst.copy_to(data) < len(data):
                    return -EFAULT  # even if whole pages before it were transferred (mem_rw)
                done += len(data)
            if len(data) == want:
                continue
            if done:
                break
            found = self._forced(ctx, offset, min(want, _MEM_FORCED - (offset & (_MEM_FORCED - 1))), None)
            if found is None:
                return -EAGAIN
            if not found.count:
                return -EIO
            return found.count if dst.copy_to(found.found) == found.count else -EFAULT
        return done

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        space = self.space
        if space is None or space.is_dead:
            return 0
        if birth_queue(self.task.kernel, space) is not None:
            return -EAGAIN
        want = min(src.remaining(), _MEM_STEP)
        data = src.copy_from(want)
        if len(data) < want:
            src.revert(len(data))
            return -EFAULT
        # A write must not see protections that are changed temporarily: wait for an access under way.
        wrote = space.process.write(offset, data) if data and self.access is None else 0
        if data and not wrote:
            piece = data[: _MEM_FORCED - (offset & (_MEM_FORCED - 1))]
            found = self._forced(ctx, offset, len(piece), piece)
            if found is None:
                src.revert(len(data))
                return -EAGAIN
            wrote = found.count
        if wrote < len(data):
            src.revert(len(data) - wrote)
        return wrote if wrote or not data else -EIO

    def _forced(self, ctx: Context, addr: int, length: int, data: bytes | None) -> "ForcedAccess | None":
        """The access when it is done or has failed; None while it is under way: try again later."""
        access = self.access
        if access is not None:
            if not access.is_done:
                return None
            self.access = None
            is_ours = access.addr == addr and access.length == length and access.data == data
            if is_ours and not access.is_lost:
                return access
        caller, space = reader_of(ctx), self.space
        assert space is not None
        if access is not None:
            # left by a caller that gave up: find out whether this one needs an access
            made = ForcedAccess(space, addr, length, data)
            if made.move():
                return made
        access = force(caller, space, self.task, addr, length, data)
        if access is None:
            return ForcedAccess(space, addr, 0, data)
        self.access = access
        return None

    def wait_queue(self) -> WaitQueue | None:
        access, space = self.access, self.space
        if access is not None:
            return access.queue
        return birth_queue(self.task.kernel, space) if space is not None else None

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        """Positions are addresses, also those above 2^63 (mem_lseek)."""
        if whence == 0:
            self.pos = offset & 0xFFFFFFFFFFFFFFFF
        elif whence == 1:
            self.pos = (self.pos + offset) & 0xFFFFFFFFFFFFFFFF
        else:
            return -EINVAL
        return self.pos if self.pos < 1 << 63 else self.pos - (1 << 64)


class PageMapInode(MemInode):
    """/proc/PID/pagemap: eight bytes for each page of the address space."""

    def __init__(self, fs: PseudoFs, task: Task) -> None:
        super().__init__(fs, task, 0o400)

    def open_checked(self, path: Path, flags: int) -> FileDescription:
        return PageMapDescription(path, self, flags, self.task)


class PageMapDescription(MemDescription):
    """pagemap_read of fs/proc/task_mmu.c, as a process without CAP_SYS_ADMIN sees it: without page frames."""

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        space = self.space
        if space is None or space.is_dead:
            return 0
        if birth_queue(self.task.kernel, space) is not None:
            return -EAGAIN
        wanted = dst.remaining()
        if offset & 7 or wanted & 7:
            return -EINVAL
        done = 0
        last = (TASK_SIZE_MAX >> 12) - (offset >> 3)
        while done < wanted and done >> 3 < last:
            count = min((wanted - done) >> 3, _PAGES_STEP, last - (done >> 3))
            found = space.process.page_map((offset + done) << 9, count)
            if not found:
                return done if done else -EPERM  # the host does not show it
            if dst.copy_to(found) < len(found):
                return -EFAULT
            done += len(found)
        return done

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        return -EINVAL
