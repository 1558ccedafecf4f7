"""Directories that a guest's walk through a tree will list next, listed ahead.

A program that walks a tree (find, tar) lists a directory, then the first one in it with everything below, then the
second. While it does, the gofer is asked for the listings that come next in that order, many at once, and nobody waits
for them: one question at a time is under way at an attach point, and its answer is taken when the next directory is
listed, or when a listing is needed that is not known yet.

Owns that question, and counts the listings that no guest has used so far (at most MAX_UNUSED and one answer more).
Only for attach points that are read-only and not shared, whose listings are kept anyway. May call the gofer client.
"""

from typing import Final

from cloche.abi.errno import LinuxError
from cloche.fs.gofer_client import AheadListing, GoferClient, Listing
from cloche.fs.gofer_inode import GoferHost, GoferInode
from cloche.fs.gofer_link import GoferRequest
from cloche.wire.gofer import MAX_AHEAD_DIRS, Attr

FIRST: Final = 4  # directories that are listed ahead at first
MAX_UNUSED: Final = 64
MIN_STEPS: Final = 2  # directories that a walk has listed in order before others are listed ahead
# Directories that a walk leaves out between two that it lists
_SKIP: Final = 16
_MAX_CLIMB: Final = 64


class WalkedDir(GoferInode):
    """A directory, and how far walks have come in it."""

    def __init__(self, host: GoferHost, attr: Attr) -> None:
        super().__init__(host, attr)
        self.subdirs: list[bytes] = []  # the directories in it, in the order of its listing
        self.was_listed: bool = False  # by a guest
        self.seen: int = 0  # behind the last of `subdirs` that a guest has listed
        self.asked: int = 0  # behind the last that the gofer was asked for
        self.steps: int = 0  # directories in a row that a walk has listed in order
        self.turn: int = 0  # it was listed ahead in this turn of `WalkAhead`, and not used so far

    def known_fid(self) -> int:
        """Its fid if there is one, else 0."""
        raise NotImplementedError

    def subdirectory(self, name: bytes) -> "WalkedDir | None":
        """The directory in it of that name, if its listing has one."""
        raise NotImplementedError

    def take_ahead(self, listing: Listing) -> bool:
        """Its listing has come; False if it is known already."""
        raise NotImplementedError

    def step(self, name: bytes) -> int:
        """A guest lists a directory of this name in it: how many it has listed in order."""
        subdirs = self.subdirs
        if self.was_listed:
            for here in range(self.seen, min(self.seen + _SKIP, len(subdirs))):
                if subdirs[here] == name:
                    return self._stepped(here)
            for here in range(min(self.seen, _SKIP)):
                if subdirs[here] == name:
                    return self._stepped(here)
        self.steps = 0
        return 0

    def _stepped(self, here: int) -> int:
        self.seen = here + 1
        self.steps += 1
        return self.steps

    def came(self, name: bytes) -> None:
        """The listing of a directory in it has come: those before it were left out, or came earlier."""
        for here in range(self.asked, len(self.subdirs)):
            if self.subdirs[here] == name:
                self.asked = here + 1
                return


class WalkAhead:
    """What is listed ahead at one attach point."""

    def __init__(self, client: GoferClient) -> None:
        self._client: GoferClient = client
        self._request: GoferRequest | None = None  # the question that is under way
        # What it is about: these directories here, and what is below them
        self._parent: WalkedDir | None = None
        self._names: list[bytes] = []
        self._last: WalkedDir | None = None  # the last that was listed ahead
        self._turn: int = 1  # a number for each walk
        self._unused: int = 0  # listings of this turn that no guest has used
        self._used: int = 0

    def listed(self, directory: WalkedDir) -> None:
        """A guest lists a directory, whose listing is known: have those behind it listed."""
        parent = directory.parent
        directory.was_listed = True
        directory.seen = 0
        directory.steps = parent.step(directory.name) if isinstance(parent, WalkedDir) else 0
        if directory.turn == self._turn:
            directory.turn = 0
            self._unused -= 1
            self._used += 1
        elif directory.steps >= MIN_STEPS:
            if directory.steps == MIN_STEPS:
                self._used = 0
            self._turn += 1
            self._unused = 0
            self._last = None
        else:
            return
        self.collect(is_waiting=False)
        if self._request is None and self._unused <= MAX_UNUSED and not directory.host.is_shared:
            self._ask(self._last if self._last is not None else directory)

    def _ask(self, last: WalkedDir) -> None:
        """Ask for the directories that a walk lists after this one and what is known below it."""
        count = min(FIRST << min(self._used, 8), MAX_AHEAD_DIRS)
        at = last
        for _climb in range(_MAX_CLIMB):
            start = max(at.asked, at.seen)
            names = at.subdirs[start : start + count]
            if names:
                try:
                    self._request = self._client.begin_listings(at.fid(), names, count)
                except LinuxError:
                    return  # the call that needs one will see the error
                self._parent, self._names = at, names
                return
            parent = at.parent
            if not isinstance(parent, WalkedDir) or parent.steps == 0 and parent.turn == 0:
                return  # the walk has begun here
            at = parent

    def collect(self, *, is_waiting: bool) -> None:
        """Take the answer, if it is there, or (`is_waiting`) when it comes. Raises HostWait."""
        request = self._request
        if request is None or not self._client.has_come(request, is_waiting=is_waiting):
            return
        if self._request is not request:
            return  # another call, which ran while this one waited, has taken it
        parent, names = self._parent, self._names
        self._request = self._parent = None
        assert parent is not None
        try:
            listings = self._client.listings(request)
        except LinuxError:
            listings = []
        known = {parent.known_fid(): parent}
        for each in listings:
            self._take(known, each)
        if not listings:  # the first cannot be had, or is large
            parent.came(names[0])

    def _take(self, known: dict[int, WalkedDir], found: AheadListing) -> None:
        """One listing; the gofer may have found another directory than the one that was expected."""
        parent, listing = known.get(found.parent_fid), found.listing
        child = parent.subdirectory(found.name) if parent is not None else None
        attr = listing.attr
        if (
            parent is None
            or child is None
            or child.host.is_shared
            or attr.ino != child.host_ino
            or attr.dev != child.host_dev
        ):
            if parent is not None:
                parent.host.clunk(listing.fid)
            return
        if child.take_ahead(listing):
            child.turn = self._turn
            self._unused += 1
            self._last = child
        known[listing.fid] = child
        parent.came(found.name)
