"""What `cloche apply` is to do on the host, step by step, and which steps rely on which.

Where something of another type takes a file's place (a directory that of a file, a file that of a directory), what is
there has to be removed first, wherever it goes; so nothing is made of it unless all of it can be. A file whose contents
another one gets (two that were exchanged) must not be replaced before those are copied. `Ground` finds both.
"""

import os
import stat
from collections.abc import Iterable
from typing import Final

from cloche.cli.changes import RENAMED, Item, Place
from cloche.cli.names import quoted
from cloche.runtime.hosttree import HostTree
from cloche.wire import files

_OTHERS: Final = "it holds other files"


class Target:
    """The directory that changes are made in: the host's own, or another one."""

    def __init__(self, top: bytes, tree: HostTree, prefix: bytes, *, is_elsewhere: bool) -> None:
        self.top: bytes = top
        self.tree: HostTree = tree
        self.prefix: bytes = prefix  # the path inside that `top` stands for
        self.is_elsewhere: bool = is_elsewhere


class Step:
    """An item and where it goes."""

    def __init__(self, item: Item, target: Target, name: bytes, old_name: bytes) -> None:
        self.item: Item = item
        self.target: Target = target
        self.name: bytes = name
        self.old_name: bytes = old_name
        self.is_chosen: bool = True
        self.text: bytes | None = None  # contents that were chosen by parts
        self.refusal: str = ""
        self.is_told: bool = False  # the refusal

    def host_path(self) -> bytes:
        """The path to show to the user."""
        return os.path.join(self.target.top, self.name) if self.name else self.target.top

    def is_deletion(self) -> bool:
        """Whether it only takes something away."""
        return self.item.kind == files.DELETED

    def is_live(self) -> bool:
        """Whether it is to be done."""
        return self.is_chosen and not self.refusal


Spot = tuple[bytes, bytes]  # a target's directory, and a name below it


class Ground:
    """What steps take away from the host, and what they put where."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps: list[Step] = steps
        self.taken: dict[Spot, Step] = {}
        self.put: dict[Spot, Step] = {}
        self._above: dict[Spot, Step | None] = {}  # answers of `_directory`
        self._busy: set[Spot] = set()
        self._under: dict[Spot, bool] = {}  # answers about `_busy`
        self._going: dict[Spot, bool] = {}  # answers about `exchanged`
        for step in steps:
            top = step.target.top
            if step.is_deletion():
                self.taken[top, step.name] = step
            else:
                self.put[top, step.name] = step
                if step.item.kind == RENAMED:
                    self.taken[top, step.old_name] = step
        self.exchanged: set[Spot] = self.taken.keys() & self.put.keys()

    # -- what relies on what ------------------------------------------------------------------------------------
    def settle(self, *, is_forced: bool) -> None:
        """Refuse what relies on a step that is refused, or was not chosen. `is_forced`: there may be anything on the
        host where a step puts something.  Raises OSError.
        """
        waiting: dict[int, list[Step]] = {}
        for step in self.steps:
            if step.is_live():
                for other in self._needs(step, is_forced=is_forced):
                    waiting.setdefault(id(other), []).append(step)
        lost = [step for step in self.steps if not step.is_live()] if waiting else []
        while lost:
            other = lost.pop()
            for step in waiting.pop(id(other), ()):
                if step.is_live():
                    step.refusal = other.refusal or f"{quoted(other.host_path())} was not chosen"
                    lost.append(step)

    def _needs(self, step: Step, *, is_forced: bool) -> Iterable[Step]:
        """The steps without which this one cannot be; or it is refused."""
        top, name = step.target.top, step.name
        found: list[Step] = []
        taker = None if step.is_deletion() else self.taken.get((top, name))
        if taker is not None:
            found.append(taker)
        elif is_forced and not step.is_deletion():
            self._look(step)
        if not step.is_deletion():
            above = self._directory(top, name)
            if above is not None:
                found.append(above)
        elif step.item.is_dir() and self._is_below((top, name), self.exchanged, self._going):
            found += self._contents(step)
        return found

    def _look(self, step: Step) -> None:
        there = step.target.tree.stat(step.name)
        if there is not None and stat.S_ISDIR(there.st_mode) != step.item.is_dir():
            step.refusal = "something of that name is there" if step.item.is_dir() else "a directory is there"

    def _directory(self, top: bytes, name: bytes) -> Step | None:
        """The step that makes the nearest directory above a name."""
        way: list[Spot] = []
        found: Step | None = None
        while name:
            name = name.rpartition(b"/")[0]
            if (top, name) in self._above:
                found = self._above[top, name]
                break
            way.append((top, name))
            step = self.put.get((top, name))
            if step is not None and step.item.kind == files.ADDED:
                found = step
                break
        for each in way:
            self._above[each] = found
        return found

    def _contents(self, step: Step) -> list[Step]:
        """The steps that empty a directory; if the host has more in it, it is refused.  Raises OSError."""
        tree, name, found = step.target.tree, step.name, []
        there = tree.stat(name)
        if there is None or not stat.S_ISDIR(there.st_mode):
            return []
        fd = tree.open_directory(name)
        try:
            for each in os.listdir(fd):
                taker = self.taken.get((step.target.top, name + b"/" + os.fsencode(each)))
                if taker is None:
                    step.refusal = _OTHERS
                    return []
                found.append(taker)
        finally:
            os.close(fd)
        return found

    # -- in which order -----------------------------------------------------------------------------------------
    def survey(self) -> None:
        """Find what has to wait, now that it is known what is to be done."""
        wanted: set[tuple[Place | None, int]] = set()
        for step in self.put.values():
            if step.is_live() and step.item.origin:
                wanted.add((step.item.place, step.item.origin))
        self._busy = {spot for spot in self.exchanged if self.put[spot].is_live()}
        self._under = {}
        for spot, step in self.put.items():
            item = step.item
            if item.kind == files.CHANGED and item.base is not None and step.is_live():
                if item.base.ino and not item.is_dir() and (item.place, item.base.ino) in wanted:
                    self._busy.add(spot)

    def has_to_wait(self, step: Step, name: bytes) -> bool:
        """Whether what is there, at `name` or above it, must first go elsewhere, or give its contents away."""
        return bool(self._busy) and self._is_below((step.target.top, name), self._busy, self._under)

    def nearest(self, step: Step) -> bytes:
        """The nearest directory above a step's name that stays where it is, or is made where nothing was."""
        name = step.name.rpartition(b"/")[0]
        while name and self.has_to_wait(step, name):
            name = name.rpartition(b"/")[0]
        return name

    def _is_below(self, spot: Spot, spots: set[Spot], known: dict[Spot, bool]) -> bool:
        """Whether one of `spots` is a name or above it.  `known`: the answers so far."""
        if not spots:
            return False
        top, name = spot
        way: list[Spot] = []
        found = False
        while name:
            if (top, name) in known:
                found = known[top, name]
                break
            way.append((top, name))
            if (top, name) in spots:
                found = True
                break
            name = name.rpartition(b"/")[0]
        for each in way:
            known[each] = found
        return found
