"""Which descriptors stay with guest processes, so that further mappings of the same files need not ask (direct mode).

Only descriptors that are open for reading alone, of files that the process maps privately: it could read them anyway.
The C code adds and removes them safely (csrc/host/sharing.c); this module decides which.

An injection costs two wake-ups across processors, 90 us for a mapping of one file. A descriptor that is injected
often is given to the zygote, too, so that blanks inherit it; execve closes those to which the new program has no
right (`queue_keep_only`). Only files of a disk: a descriptor must not keep a guest's deleted file in memory.
"""

import fcntl
import os
from typing import Final

from cloche.abi.fcntl import F_GET_SEALS
from cloche.platform import _native
from cloche.platform.layout import FIRST_KEPT, KEPT_MAP_FLAGS, KEPT_MAP_NEEDED, LAST_KEPT, MAX_ADDRESS

_HOT_FILES: Final = 32
_HOT_COUNT: Final = 4  # so many injections, and the zygote gets the file
_HOT_REST: Final = 256  # mappings of such files, after which an unused one may be replaced


class _Hot:
    """A file that program after program maps."""

    def __init__(self) -> None:
        self.count = 0
        self.stamp = 0
        self.fd = -1  # the descriptor for the zygote; -1: not injected often enough, or not available


def may_stay(addr: int, length: int, prot: int, flags: int) -> bool:
    """Whether the filter lets such a mapping pass without asking, once the process has a descriptor for it."""
    if flags & ~KEPT_MAP_FLAGS or flags & KEPT_MAP_NEEDED != KEPT_MAP_NEEDED or prot & ~7:
        return False
    return 0 <= addr < MAX_ADDRESS and not length >> 32


class KeptFiles:
    """The files that are injected often, and those of them that the zygote has."""

    def __init__(self) -> None:
        self._hot: dict[tuple[int, int], _Hot] = {}
        self._is_closed = False
        self._stamp = 0
        # The files that the zygote has, by number.
        self._zygote: list[tuple[int, int] | None] = [None] * (LAST_KEPT - FIRST_KEPT + 1)

    def number(self, thread: int, fd: int) -> int:
        """The number under which the thread's process has the file when its queue is carried out; -1: it cannot keep
        it.

        Only descriptors that are open for reading alone: with others the process could write to the file.
        """
        key = _native.readable_file(fd)
        if key is None:
            return -1
        number = _native.find_kept(thread, key[0], key[1])
        if number >= 0:
            hot = self._hot.get(key)
            if hot is not None:
                self._touch(hot)
            return number
        number = _native.give_kept(thread, fd, key[0], key[1], -1)
        if number >= 0 and not self._is_closed:
            self._note_injection(fd, key)
        return number

    def identity(self, fd: int) -> tuple[int, int] | None:
        """(device, inode) of a file that the zygote is to have."""
        key = _native.readable_file(fd)
        hot = None if key is None else self._hot.get(key)
        return key if hot is not None and hot.fd >= 0 else None

    def provide(self, zygote: int) -> None:
        """Before the zygote forks: give it descriptors that it lacks, if necessary in place of unused ones."""
        has_replaced = False
        for key, hot in self._hot.items():
            if hot.fd < 0 or key in self._zygote:
                continue
            uses = [self._last_use(other) for other in self._zygote]
            place = uses.index(min(uses))
            if self._zygote[place] is not None:
                if has_replaced or uses[place] + _HOT_REST > self._stamp:
                    continue
                has_replaced = True
            if _native.give_kept(zygote, hot.fd, key[0], key[1], FIRST_KEPT + place) >= 0:
                self._zygote[place] = key

    def forget_zygote(self) -> None:
        """Forget which descriptors the zygote has: they are all sent again."""
        for place in range(len(self._zygote)):
            self._zygote[place] = None

    def close(self) -> None:
        """Close all descriptors, and keep none from now on."""
        self._is_closed = True
        for hot in self._hot.values():
            if hot.fd >= 0:
                os.close(hot.fd)
        self._hot.clear()
        self.forget_zygote()

    def _touch(self, hot: _Hot) -> None:
        self._stamp += 1
        hot.stamp = self._stamp

    def _last_use(self, key: tuple[int, int] | None) -> int:
        hot = None if key is None else self._hot.get(key)
        return -1 if key is None else 0 if hot is None else hot.stamp

    def _note_injection(self, fd: int, key: tuple[int, int]) -> None:
        hot = self._hot.get(key)
        if hot is None:
            if len(self._hot) == _HOT_FILES:
                oldest = min(self._hot, key=lambda other: self._hot[other].stamp)
                old = self._hot.pop(oldest)
                if old.fd >= 0:
                    os.close(old.fd)
            hot = self._hot[key] = _Hot()
        self._touch(hot)
        hot.count += 1
        if hot.count == _HOT_COUNT and not _is_memory(fd):
            hot.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)


def _is_memory(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, F_GET_SEALS) >= 0
    except OSError:
        return False
