"""A cache of names in shared directories, valid as long as the host reports no change.

On a shared attach point every name is asked for each time, as the host may have changed it. For directories that are
asked about often, the gofer has the host's kernel report changes (`gofer.watches`). It does so before the call that
makes the change returns. So while no event is pending, earlier answers are still true: which names exist, which do
not, and which directories and links they name. Attributes of files are another matter: a hard link elsewhere can
change them, so a file is known only as long as a descriptor of it shows no change.

Changes without an event (a mount over a directory) are found out within `TRUST_NS`.
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
from cloche.kernel.host_wait import HostRequest

TRUST_NS: Final = 1_000_000_000
WATCH_AFTER: Final = 24  # lookups in a directory before it is watched
MAX_NAMES: Final = 256  # cached names of one directory
# Lookups before watching is tried again in a directory where it was impossible, or did not pay
_NOT_AGAIN: Final = 1024
_WORTH: Final = 16  # events of a watched directory, beyond the lookups it has saved, before it is given up
_READ_BYTES: Final = 65536
_READS: Final = 16  # at a time
_EVENT: Final = Struct("<iIII")  # struct inotify_event
_NONE_WAITS: Final = bytes(4)


@trait
class KnownChild:
    """The file of a cached name."""

    def may_be_known(self) -> bool:
        """Whether every change of it is reported, or can be seen on its descriptor."""
        raise NotImplementedError

    def is_as_known(self) -> bool:
        """Whether it is still in use and, for a file, whether a descriptor shows the cached attributes."""
        raise NotImplementedError

    def close_unused(self) -> None:
        """Close descriptors that are kept for a later open."""
        raise NotImplementedError


class KnownNames:
    """The cached names of one directory that is watched, or may be."""

    def __init__(self) -> None:
        self.watch: int = 0  # its number, 0 for none
        self.names: dict[bytes, KnownChild | None] = {}
        self.since_ns: int = 0  # when the oldest of them was asked for
        self.epoch: int = 0  # how often the cache was invalidated
        self.asked: int = 0
        self.hits: int = 0
        self.events: int = 0

    def find(self, name: bytes) -> tuple[bool, KnownChild | None]:
        """Whether a name is cached, and its file, None if it does not exist. The caller has checked that no event is
        pending.
        """
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
            child.close_unused()  # on an overlay, mapping the open file would show its earlier contents
            return False, None
        self.hits += 1
        return True, child

    def add(self, name: bytes, child: KnownChild | None) -> None:
        """Cache an answer to a request that was sent after the watch began, with no event since."""
        if child is not None and not child.may_be_known():
            return
        if not self.names:
            self.since_ns = time.monotonic_ns()
        if len(self.names) < MAX_NAMES:
            self.names[name] = child

    def forget(self) -> None:
        """Invalidate the cache, and close descriptors that are kept for later opens."""
        self.epoch += 1
        names = self.names
        self.names = {}
        for child in names.values():
            if child is not None:
                child.close_unused()

    def is_kept(self, name: bytes, child: KnownChild) -> bool:
        """Whether a change of this name to another file would be reported."""
        return self.watch != 0 and self.names.get(name) is child


class KnownAnswer(HostRequest):
    """A cached answer that a call was given. If the call has to run again it gets the same one: the gofer would not say
    the same any more once the call's own change is made.
    """

    def __init__(self, names: KnownNames, name: bytes, child: KnownChild | None) -> None:
        super().__init__()
        self.names: KnownNames = names
        self.name: bytes = name
        self.child: KnownChild | None = child
        self.is_answered = self.is_settled = True

    def forget(self) -> None:
        """Nothing is held."""


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
        """Whether no events are pending. Pending ones are taken; False only if more keep coming."""
        try:
            if fcntl.ioctl(self.fd, FIONREAD, _NONE_WAITS) == _NONE_WAITS:
                return True
        except OSError:
            return False
        return self.take()

    def fd_ready(self, token: int, events: int) -> None:
        """There are events."""
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
            if not data:  # no inotify descriptor behaves so: it is something else
                self.close()
                return False
            self._look(data)
        self._forget_all()
        return False

    def close(self) -> None:
        """Close the descriptor; nothing is watched any more."""
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
        """A watch has ended."""
        for each in self.known.pop(watch, []):
            each.forget()
            each.watch = each.events = each.hits = 0
            each.asked = -_NOT_AGAIN


def is_worth_it(names: KnownNames) -> bool:
    """Whether watching a directory saves more than it costs: every change in it has to be read, and invalidates the
    cache.
    """
    return names.events <= names.hits + _WORTH


def refused(names: KnownNames) -> None:
    """The gofer has refused to watch a directory."""
    names.asked = -_NOT_AGAIN
