"""Changes of directories as they happen, for a client (`wire.files`, "watch").

An inotify instance of the kernel, which no guest has, on a directory or all below it. Directories that are made later
are watched as soon as they are seen; files that are in them by then are reported as created.
"""

from collections.abc import Generator
from struct import Struct
from typing import Final

from cloche.abi.errno import ELOOP, ENOENT, ENOSPC, ENOTDIR, LinuxError
from cloche.abi.fcntl import O_DIRECTORY
from cloche.abi.inotify import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_NONBLOCK,
    IN_Q_OVERFLOW,
)
from cloche.abi.stat import DT_DIR
from cloche.boot.tree_read import list_some, open_held
from cloche.fs.inotify import InotifyFile
from cloche.kernel.patience import Patience
from cloche.kernel.task import Kernel
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.attr import require_permission
from cloche.vfs.namei import LOOKUP_FOLLOW, path_lookup
from cloche.vfs.objects import MAY_READ, Context, Path
from cloche.vfs.waitqueue import Waiter
from cloche.wire import files as wire

MAX_DIRECTORIES: Final = 8192  # of one client
_TOLD: Final = IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO
_OWN: Final = IN_DELETE_SELF | IN_MOVE_SELF  # of the directory that was asked for
_EVENT: Final = Struct("<iIII")
_SOME_BYTES: Final = 1 << 15
_LOOKED_AT: Final = 128  # names between two looks at the clock (I8)


class Watching:
    """The watches of one client."""

    def __init__(
        self, kernel: Kernel, ctx: Context, patience: Patience, path: bytes, *, is_deep: bool
    ) -> None:
        self.ctx: Context = ctx
        self.patience: Patience = patience
        self.top: bytes = path
        self.is_deep: bool = is_deep
        file = InotifyFile(kernel, -1, IN_NONBLOCK)  # not counted for any user's limit
        self.inotify: InotifyFile = file
        file.get()
        self.names: dict[int, bytes] = {}  # paths of directories, by watch descriptor
        self.fresh: list[bytes] = []  # directories still to be watched

    def wake(self, waiter: Waiter) -> None:
        """Wake this waiter when there are events."""
        self.inotify.queue.add(waiter)

    def has_some(self) -> bool:
        """Whether there is an event to report."""
        return bool(self.inotify.events)

    def begin(self) -> Generator[bytes, None, None]:
        """Watch what was asked for.  Raises LinuxError."""
        yield from self._watch(b"", is_told=False)
        yield from self._below(is_told=False)
        yield wire.pack_event(0, b"")

    def some(self) -> Generator[bytes, None, None]:
        """Yield records of events, a part of them at a time."""
        sink = KernelIovIter(capacity=_SOME_BYTES)
        self.inotify.read(self.ctx, sink)
        data = bytes(sink.sink)
        at = 0
        while at < len(data):
            wd, mask, _cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = data[at : at + length].rstrip(b"\0")
            at += length
            if mask & IN_Q_OVERFLOW:
                yield wire.pack_event(IN_Q_OVERFLOW, b"")
                continue
            if mask & IN_IGNORED:
                self.names.pop(wd, None)
                continue
            place = self.names.get(wd)
            if place is None:
                continue
            path = place + b"/" + name if place and name else place or name
            yield wire.pack_event(mask, path)
            if not self.is_deep or not mask & IN_ISDIR:
                continue
            if mask & IN_MOVED_FROM:
                yield from self._forget(path)
            elif mask & (IN_CREATE | IN_MOVED_TO):
                self.fresh.append(path)
                yield from self._below(is_told=mask & IN_CREATE != 0)

    def _forget(self, path: bytes) -> Generator[bytes, None, None]:
        """A directory was renamed: drop the watches at and below its old name. If the new name is below, too, it is
        watched anew. Yields an empty record now and then.
        """
        below = path + b"/"
        looked = 0
        for wd, name in list(self.names.items()):
            watch = self.inotify.watches.get(wd)
            if watch is not None and (name == path or name.startswith(below)):
                self.inotify.drop_watch(watch)
                del self.names[wd]
            looked += 1
            if looked % _LOOKED_AT == 0:
                yield b""

    def _below(self, *, is_told: bool) -> Generator[bytes, None, None]:
        while self.fresh:
            name = self.fresh.pop()
            try:
                yield from self._watch(name, is_told=is_told)
            except LinuxError as error:
                if error.errno not in (ENOENT, ENOTDIR, ELOOP):  # (removed, or not a directory any more)
                    yield wire.pack_error(name, error.errno)

    def _watch(self, name: bytes, *, is_told: bool) -> Generator[bytes, None, None]:
        """Watch one directory, and queue those below it. Raises LinuxError."""
        ctx, ask = self.ctx, self.patience.ask
        path = self.top + b"/" + name if name else self.top
        place: Path = yield from ask(lambda: path_lookup(ctx, None, path, 0 if name else LOOKUP_FOLLOW))
        inode = place.inode()
        if not inode.is_dir():
            raise LinuxError(ENOTDIR)
        require_permission(ctx, inode, MAY_READ)
        if len(self.names) >= MAX_DIRECTORIES:
            raise LinuxError(ENOSPC)
        self.names[self.inotify.add_watch(inode, _TOLD if name else _TOLD | _OWN)] = name
        if not self.is_deep:
            return
        file = yield from ask(lambda: open_held(ctx, place, O_DIRECTORY))
        try:
            while True:
                names, result = yield from ask(lambda: list_some(ctx, file))
                if result < 0 or not names.names:
                    return
                for each, _ino, dtype, _next in names.rows:
                    if each in (b".", b".."):
                        continue
                    is_dir = dtype == DT_DIR
                    below = name + b"/" + each if name else each
                    if is_told:
                        yield wire.pack_event(IN_CREATE | (IN_ISDIR if is_dir else 0), below)
                    if is_dir and len(self.fresh) < MAX_DIRECTORIES:  # a guest may make any number of them
                        self.fresh.append(below)
                    elif is_dir:
                        yield wire.pack_event(IN_Q_OVERFLOW, b"")
                        return
        finally:
            file.put()

    def close(self) -> None:
        """Close the inotify instance."""
        self.inotify.put()
