"""inotify(7): watches on inodes and the queue of events (fs/notify/inotify).

Events come from `vfs.namei` and `vfs.objects.notify_path` through `Inode.watches`, which is None while there are
none. Only events inside the sandbox are seen.
"""

from collections.abc import Generator
from typing import Final

from cloche.abi.errno import EAGAIN, EEXIST, EFAULT, EINVAL, ENOSPC, ENOTTY, LinuxError
from cloche.abi.fcntl import O_RDONLY
from cloche.abi.inotify import (
    IN_ALL_EVENTS,
    IN_DELETE_SELF,
    IN_EXCL_UNLINK,
    IN_IGNORED,
    IN_MASK_ADD,
    IN_MASK_CREATE,
    IN_NONBLOCK,
    IN_ONESHOT,
    IN_OPEN_EXEC,
    IN_Q_OVERFLOW,
    IN_UNMOUNT,
)
from cloche.abi.ioctl import FIONREAD
from cloche.abi.poll import POLLIN, POLLRDNORM
from cloche.abi.structs import pack_inotify_event
from cloche.fs.anon import AnonFile
from cloche.kernel.chores import Chore
from cloche.kernel.task import Kernel, Task
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY, RECORD_BYTES
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import Context, FileDescription, Holder, Inode, InodeWatches, Path
from cloche.vfs.waitqueue import WaitQueue

MAX_QUEUED_EVENTS: Final = 16384
MAX_USER_WATCHES: Final = 65536
MAX_USER_INSTANCES: Final = 128
_BATCH: Final = 128  # watches that are shown or given up at once
_ALWAYS: Final = IN_UNMOUNT | IN_IGNORED | IN_Q_OVERFLOW
_KEPT: Final = IN_ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK


class Watch:
    """One inotify instance's interest in one inode."""

    def __init__(self, inotify: "InotifyFile", wd: int, inode: Inode, mask: int) -> None:
        self.inotify: InotifyFile = inotify
        self.wd: int = wd
        self.inode: Inode = inode
        self.mask: int = mask


class DirectoryNotice:
    """A descriptor table's request for signals about an open directory; `fs.dnotify` derives from it."""

    def __init__(self, file: FileDescription, table: Holder) -> None:
        self.file: FileDescription = file
        self.table: Holder = table

    def event(self, mask: int, cookie: int) -> bool:
        """An event of the directory or in it; False once the notice is spent."""
        return False


class WatchSet(InodeWatches):
    """All watches of an inode."""

    def __init__(self, inode: Inode) -> None:
        self.watches: list[Watch] = []
        self.notices: list[DirectoryNotice] = []
        self.inode: Inode = inode
        self.is_doomed: bool = False  # its last name is gone

    def name_gone(self) -> None:
        self.is_doomed = True
        if not self.inode.users:
            self.look(None)

    def last_closed(self) -> None:
        if self.is_doomed:
            self.look(None)

    def look(self, leaving: Task | None) -> bool:
        """The last name is gone and the file is not open: send IN_DELETE_SELF, unless a task other than `leaving` has
        it as its root or working directory; it is called again then. Returns whether it was sent.
        """
        if self.watches and self.inode.is_dir():
            kernel = self.watches[0].inotify.kernel
            for task in kernel.tasks.values():
                fs = task.fs
                if task is not leaving and (fs.cwd.inode() is self.inode or fs.root.inode() is self.inode):
                    kernel.doomed_homes[self.inode] = self
                    return False
        self.is_doomed = False
        self.event(IN_DELETE_SELF, 0, b"")
        return True

    def descriptor_closed(self, file: FileDescription, table: Holder) -> None:
        if self.notices:
            drop_notices(file.inode, file, table)

    def event(self, mask: int, cookie: int, name: bytes, *, is_unlinked: bool = False) -> None:
        for notice in list(self.notices):
            if not notice.event(mask, cookie):
                drop_notices(notice.file.inode, notice.file, notice.table)
        kind = mask & IN_ALL_EVENTS
        for watch in list(self.watches):
            if is_unlinked and watch.mask & IN_EXCL_UNLINK:
                continue
            if kind & watch.mask or mask & _ALWAYS:
                watch.inotify.queue_event(watch.wd, mask, cookie, name)
                if watch.mask & IN_ONESHOT:
                    watch.inotify.drop_watch(watch)
        if mask & (IN_DELETE_SELF | IN_UNMOUNT) and not name:
            for watch in list(self.watches):
                watch.inotify.drop_watch(watch)


def install(kernel: Kernel) -> None:
    """Install the hooks for tasks that change directory or end, which may have been the last in a removed directory."""
    kernel.hooks.moved = _moved
    kernel.hooks.at_exit["inotify"] = _task_exits


def _moved(task: Task, old: Path) -> None:
    if task.kernel.doomed_homes:
        _look(task.kernel, old.inode(), None)


def _task_exits(task: Task) -> None:
    if task.kernel.doomed_homes:
        _look(task.kernel, task.fs.cwd.inode(), task)
        _look(task.kernel, task.fs.root.inode(), task)


def _look(kernel: Kernel, left: Inode, leaving: Task | None) -> None:
    found = kernel.doomed_homes.get(left)
    if isinstance(found, WatchSet) and (not found.watches or (not left.users and found.look(leaving))):
        kernel.doomed_homes.pop(left, None)


def watch_set_of(inode: Inode) -> WatchSet:
    """The watches of an inode, made if there are none."""
    found = inode.watches
    if isinstance(found, WatchSet):
        return found
    watch_set = WatchSet(inode)
    inode.watches = watch_set
    return watch_set


def drop_notices(inode: Inode, file: FileDescription, table: Holder) -> None:
    """End the notice of an open directory and a table, if there is one."""
    watch_set = inode.watches
    if not isinstance(watch_set, WatchSet):
        return
    watch_set.notices = [
        notice for notice in watch_set.notices if notice.file is not file or notice.table is not table
    ]
    if not watch_set.watches and not watch_set.notices:
        inode.watches = None


class InotifyFile(AnonFile):
    """An inotify instance."""

    def __init__(self, kernel: Kernel, uid: int, flags: int) -> None:
        super().__init__(kernel, b"inotify", O_RDONLY | flags & IN_NONBLOCK)
        self.uid: int = uid
        self.watches: dict[int, Watch] = {}
        self.next_wd: int = 1
        self.events: list[bytes] = []
        self.last: tuple[int, int, bytes] = (0, 0, b"")
        self.event_bytes: int = 0
        self.has_overflowed: bool = False
        self.is_released: bool = False  # its watches are being removed
        self.queue: WaitQueue = WaitQueue()

    # -- events ----------------------------------------------------------------------------------------
    def queue_event(self, wd: int, mask: int, cookie: int, name: bytes) -> None:
        """Add an event unless it repeats the newest one.

        Beyond the limit one IN_Q_OVERFLOW replaces the rest.
        """
        if self.is_released:
            return
        key = (wd, mask, name)
        if self.events and key == self.last and not mask & IN_IGNORED:
            return
        if len(self.events) >= MAX_QUEUED_EVENTS or not KERNEL_MEMORY.has_room(len(name) + BUFFER_BYTES):
            if self.has_overflowed:
                return
            self.has_overflowed = True
            wd, mask, cookie, name = -1, IN_Q_OVERFLOW, 0, b""
            key = (wd, mask, name)
        record = pack_inotify_event(wd, mask & ~IN_OPEN_EXEC, cookie, name)
        self.events.append(record)
        self.event_bytes += len(record)
        KERNEL_MEMORY.take(len(record) + BUFFER_BYTES)
        self.last = key
        self.queue.wake(POLLIN | POLLRDNORM)

    # -- watches ---------------------------------------------------------------------------------------
    def add_watch(self, inode: Inode, mask: int) -> int:
        """inotify_add_watch(2) on a resolved inode: the watch descriptor.

        Raises LinuxError: EEXIST, ENOSPC.
        """
        watch_set = watch_set_of(inode)
        for watch in watch_set.watches:
            if watch.inotify is self:
                if mask & IN_MASK_CREATE:
                    raise LinuxError(EEXIST)
                watch.mask = (watch.mask if mask & IN_MASK_ADD else 0) | mask & _KEPT
                return watch.wd
        if len(self.watches) >= MAX_USER_WATCHES or not KERNEL_MEMORY.has_room(RECORD_BYTES):
            if not watch_set.watches and not watch_set.notices:
                inode.watches = None
            raise LinuxError(ENOSPC)
        watch = Watch(self, self.next_wd, inode, mask & _KEPT)
        self.next_wd += 1
        self.watches[watch.wd] = watch
        watch_set.watches.append(watch)
        inode.fs.watched[inode] = None
        KERNEL_MEMORY.take(RECORD_BYTES)
        return watch.wd

    def drop_watch(self, watch: Watch) -> None:
        """Remove a watch, with IN_IGNORED."""
        if self._detach(watch):
            self.queue_event(watch.wd, IN_IGNORED, 0, b"")

    def detach_some(self) -> bool:
        """After the instance was closed: remove some watches; returns whether there are more."""
        for _number in range(_BATCH):
            if not self.watches:
                return False
            _wd, watch = self.watches.popitem()
            self._detached(watch)
        return bool(self.watches)

    def _detach(self, watch: Watch) -> bool:
        if self.watches.pop(watch.wd, None) is None:
            return False
        self._detached(watch)
        return True

    def _detached(self, watch: Watch) -> None:
        KERNEL_MEMORY.give(RECORD_BYTES)
        watch_set = watch.inode.watches
        if isinstance(watch_set, WatchSet):
            if watch in watch_set.watches:
                watch_set.watches.remove(watch)
            if not watch_set.watches:
                watch.inode.fs.watched.pop(watch.inode, None)
                if not watch_set.notices:
                    watch.inode.watches = None

    # -- the file --------------------------------------------------------------------------------------
    def is_by_segment(self) -> bool:
        return True

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        """Whole events, as many as fit; EINVAL if not even the first does."""
        events = self.events
        if not events:
            return -EAGAIN
        room = dst.remaining()
        total = 0
        count = 0
        for record in events:
            if total + len(record) > room:
                break
            total += len(record)
            count += 1
        if count == 0:
            return -EINVAL
        try:
            done = dst.copy_to(b"".join(events[:count]))
        except LinuxError:
            done = 0
        if done < total:
            # An event that could not be copied whole is lost, too; later ones stay.
            total = count = whole = 0
            while total <= done:
                whole = total
                total += len(events[count])
                count += 1
            done = whole if whole else -EFAULT
        del events[:count]
        self.event_bytes -= total
        KERNEL_MEMORY.give(total + count * BUFFER_BYTES)
        if not events:
            self.has_overflowed = False
        return done

    def poll(self, ctx: Context) -> int:
        return POLLIN | POLLRDNORM if self.events else 0

    def wait_queue(self) -> WaitQueue | None:
        return self.queue

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command != FIONREAD:
            return -ENOTTY
        ctx.user_memory().write_i32(arg, self.event_bytes)
        return 0

    def release(self) -> None:
        self.is_released = True
        farewell = Farewell(self)
        if farewell.step():
            self.kernel.chores.append(farewell)
        KERNEL_MEMORY.give(self.event_bytes + len(self.events) * BUFFER_BYTES)
        self.event_bytes = 0
        self.events.clear()
        self.kernel.inotify_instances.add(self.uid, -1)

    def fdinfo_parts(self) -> Generator[str, None, None]:
        watches = list(self.watches.values())
        for end in range(len(watches), 0, -_BATCH):
            lines = [
                f"inotify wd:{watch.wd:x} ino:{watch.inode.ino:x} sdev:{watch.inode.dev():x}"
                f" mask:{watch.mask & _KEPT:x} ignored_mask:0 \n"
                for watch in reversed(watches[max(end - _BATCH, 0) : end])
            ]
            yield "".join(lines)


class Farewell(Chore):
    """The watches of an instance that is closed (I8)."""

    def __init__(self, file: InotifyFile) -> None:
        self.file: InotifyFile = file

    def step(self) -> bool:
        return self.file.detach_some()


def create_inotify(kernel: Kernel, uid: int, flags: int) -> InotifyFile | None:
    """A new instance, None if the user has too many."""
    if kernel.inotify_instances.of(uid) >= MAX_USER_INSTANCES:
        return None
    kernel.inotify_instances.add(uid, 1)
    return InotifyFile(kernel, uid, flags)


def check_mask(mask: int) -> int:
    """0, or -EINVAL for a mask that inotify_add_watch(2) refuses."""
    if mask & (IN_ALL_EVENTS | IN_ONESHOT | 0x0F000000 | IN_MASK_CREATE | IN_MASK_ADD) == 0:
        return -EINVAL
    if mask & IN_MASK_ADD and mask & IN_MASK_CREATE:
        return -EINVAL
    return 0
