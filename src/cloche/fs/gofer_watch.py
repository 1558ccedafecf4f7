"""Names of shared directories, known as long as nobody changes them.

On a shared attach point every name is asked for each time, as the host may have changed it.  Of directories that are
asked about often the gofer has the host's kernel tell of changes (`gofer.watches`).  It does so before the call that
changed something returns, so as long as no event waits here, what was answered still holds: names that there are, that
there are not, and which directories and links they stand for.  Attributes of files are another matter: a hard link
elsewhere can change them, so a file is known only as long as a descriptor of it shows no change.

What has no event (somebody mounts something over a directory) is found out within `TRUST_NS`.
"""

import fcntl
import os
import time
from struct import Struct
from typing import Final

from mypy_extensions import trait

from cloche.abi.inotify import IN_IGNORED, IN_Q_OVERFLOW
from cloche.abi.ioctl import FIONREAD
from cloche.abi.poll import EPOLLIN
from cloche.kernel.host_fds import FdWatcher, HostFds

TRUST_NS: Final = 1_000_000_000
WATCH_AFTER: Final = 24  # names that a directory is asked for until it is watched
MAX_NAMES: Final = 256  # that are known of one directory
# Names until a directory that could not be watched, or was not worth it, is tried again
_NOT_AGAIN: Final = 1024
_WORTH: Final = 16  # events that a watched directory may have beyond what it has saved
_READ_BYTES: Final = 65536
_READS: Final = 16  # at a time
_EVENT: Final = Struct("<iIII")  # struct inotify_event
_NONE_WAITS: Final = bytes(4)


@trait
class KnownChild:
    """What a name stands for."""

    def may_be_known(self) -> bool:
        """Whether every change of it is told of, or shows on its descriptor."""
        raise NotImplementedError

    def is_as_known(self) -> bool:
        """Whether it is still in use, and of a file: whether a descriptor shows the attributes that are known."""
        raise NotImplementedError

    def close_unused(self) -> None:
        """Close what is open for the next who opens it."""
        raise NotImplementedError


class KnownNames:
    """What is known of the names of one directory that is watched, or may be."""

    def __init__(self) -> None:
        self.watch: int = 0  # its number, 0 for none
        self.names: dict[bytes, KnownChild | None] = {}
        self.since_ns: int = 0  # when the oldest of them was asked for
        self.epoch: int = 0  # how often all of it has become doubtful
        self.asked: int = 0
        self.hits: int = 0
        self.events: int = 0

    def find(self, name: bytes) -> tuple[bool, KnownChild | None]:
        """Whether it is known, and what it is, None if there is nothing.  The caller has seen that no event waits."""
        names = self.names
        if not names:
            return False, None
        if time.monotonic_ns() - self.since_ns >= TRUST_NS:
            self.forget()
            return False, None
        if name not in names:
            return False, None
        child = names[name]
        if child is not None and not child.is_as_known():
            child.close_unused()  # on an overlay a mapping of what is open shows what was there before
            return False, None
        self.hits += 1
        return True, child

    def add(self, name: bytes, child: KnownChild | None) -> None:
        """The answer to a question that was asked after the directory had been watched, with no event since."""
        if child is not None and not child.may_be_known():
            return
        if not self.names:
            self.since_ns = time.monotonic_ns()
        if len(self.names) < MAX_NAMES:
            self.names[name] = child

    def forget(self) -> None:
        """All of it is doubtful: what was kept open for the next who opens it is closed."""
        self.epoch += 1
        names = self.names
        self.names = {}
        for child in names.values():
            if child is not None:
                child.close_unused()

    def is_kept(self, name: bytes, child: KnownChild) -> bool:
        """Whether somebody would tell if this name became another file's."""
        return self.watch != 0 and self.names.get(name) is child


class NameWatch(FdWatcher):
    """The events of one worker of the gofer."""

    def __init__(self, fds: HostFds | None) -> None:
        self.fds: HostFds | None = fds
        self.fd: int = -1
        self.token: int = 0
        self.known: dict[int, list[KnownNames]] = {}  # by the numbers of the watches

    def begin(self, watch: int, fd: int, names: KnownNames) -> None:
        """A directory is watched; `fd` is taken."""
        if self.fd >= 0:
            os.close(fd)
        else:
            self.fd = fd
            if self.fds is not None:
                self.token = self.fds.watch(fd, EPOLLIN, self)
        names.watch = watch
        self.known.setdefault(watch, []).append(names)

    def is_quiet(self) -> bool:
        """Whether nothing has changed that is not known of; else it is now, unless there is more and more of it."""
        try:
            if fcntl.ioctl(self.fd, FIONREAD, _NONE_WAITS) == _NONE_WAITS:
                return True
        except OSError:
            return False
        return self.take()

    def fd_ready(self, token: int, events: int) -> None:
        """Something has changed."""
        self.take()

    def take(self) -> bool:
        """Take the events; False if there are more."""
        if self.fd < 0:
            return False
        for _turn in range(_READS):
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                data = b""
            if not data:  # what no kernel does: it is something else
                self.close()
                return False
            self._look(data)
        self._forget_all()
        return False

    def close(self) -> None:
        """Nothing is watched any more."""
        if self.fd < 0:
            return
        if self.fds is not None:
            self.fds.unwatch(self.fd, self.token)
        os.close(self.fd)
        self.fd = -1
        for watch in list(self.known):
            self.ended(watch)

    def _forget_all(self) -> None:
        for names in list(self.known.values()):
            for each in names:
                each.forget()

    def _look(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at + _EVENT.size <= end:
            watch, mask, _cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + int(length)
            if mask & IN_Q_OVERFLOW:
                self._forget_all()
                continue
            changed = self.known.get(watch)
            if changed is None:
                continue
            for each in changed:
                each.events += 1
                each.forget()
            if mask & IN_IGNORED:
                self.ended(watch)

    def ended(self, watch: int) -> None:
        """It is watched no longer."""
        for each in self.known.pop(watch, []):
            each.forget()
            each.watch = each.events = each.hits = 0
            each.asked = -_NOT_AGAIN


def is_worth_it(names: KnownNames) -> bool:
    """Whether watching a directory saves more than it costs: every change in it is read, and makes all doubtful."""
    return names.events <= names.hits + _WORTH


def refused(names: KnownNames) -> None:
    """The gofer does not watch it."""
    names.asked = -_NOT_AGAIN
