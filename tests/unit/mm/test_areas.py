"""The list of areas against a model with one entry for each page; forks share it until one changes it."""

import gc
import random

from cloche.mm.address_space import AddressSpace
from cloche.mm.area import AREA_DONTFORK, MANY_TO_COPY, Area
from cloche.mm.quota import KERNEL_MEMORY
from cloche.platform.fake import FakeProcess, FakeThread
from cloche.syscalls.sys_numa import SetPolicy

PAGE = 4096
PAGES = 400


def entries(space: AddressSpace) -> dict[int, int]:
    """The policy of each mapped page; the list must be sorted, and without overlaps and mergeable neighbours."""
    found: dict[int, int] = {}
    end, last = 0, None
    for area in space.areas():
        assert area.start >= end and area.end > area.start
        assert not (last is not None and area.start == end and last.policy == area.policy)
        end, last = area.end, area
        for page in range(area.start // PAGE, area.end // PAGE):
            found[page] = area.policy
    assert space.total_bytes == len(found) * PAGE
    return found


def change(space: AddressSpace, model: dict[int, int], dice: random.Random) -> None:
    """Map, unmap or change a random range, in both."""
    start = dice.randrange(1, PAGES)
    upto = min(PAGES, start + dice.choice((1, 1, 2, 5, 60, 300)))
    match dice.randrange(3):
        case 0:
            space.forget(start * PAGE, (upto - start) * PAGE)
            for page in range(start, upto):
                model.pop(page, None)
        case 1:
            policy = dice.randrange(2)
            at = start * PAGE
            while at < upto * PAGE:
                at = space.change_some(at, upto * PAGE, SetPolicy(policy))
            for page in range(start, upto):
                if page in model:
                    model[page] = policy
        case 2:
            for page in range(start, upto, 2):
                if page not in model:
                    area = Area(page * PAGE, (page + 1) * PAGE, 3, 0, None, 0, b"")
                    area.policy = page // 2 % 2
                    space._insert(area)
                    model[page] = area.policy


def test_random_changes_and_forks() -> None:
    for seed in range(12):
        dice = random.Random(seed)
        spaces = [(AddressSpace(FakeProcess(), PAGE, PAGES * PAGE), dict[int, int]())]
        for _round in range(120):
            space, model = dice.choice(spaces)
            change(space, model, dice)
            assert entries(space) == model, seed
            if dice.randrange(8) == 0 and len(spaces) < 5:
                spaces.append((space.fork(FakeProcess()), dict(model)))
            elif dice.randrange(16) == 0 and len(spaces) > 1:
                gone = dice.randrange(len(spaces))
                spaces.pop(gone)[0].release()
        for space, model in spaces:
            assert entries(space) == model, seed


def test_a_large_list_is_copied_before_a_fork() -> None:
    """In parts, anew after a change, without what is not to be inherited; and everything that it cost is given back."""
    while gc.collect():  # objects of earlier tests
        pass
    before = KERNEL_MEMORY.used
    space = AddressSpace(FakeProcess(), PAGE, 1 << 30)
    for page in range(1, 3 * MANY_TO_COPY):
        flags = AREA_DONTFORK if page == 17 else 0
        space._insert(Area(page * PAGE, (page + 1) * PAGE, page % 2, flags, None, 0, b""))
    own = KERNEL_MEMORY.used
    assert space.copy_some()
    charged = KERNEL_MEMORY.used
    assert charged > own
    space.forget(20 * PAGE, PAGE)
    assert KERNEL_MEMORY.used < own
    rounds = 1
    while space.copy_some():
        rounds += 1
    assert rounds > 3
    child = space.fork(FakeProcess())
    pages = {area.start // PAGE for area in child.areas()}
    assert pages == set(range(1, 3 * MANY_TO_COPY)) - {17, 20}
    child.forget(30 * PAGE, PAGE)
    assert space.find(30 * PAGE) is not None
    space.copy_some()
    child.release()
    space.release()
    assert KERNEL_MEMORY.used == before


def test_a_refused_mprotect_is_undone() -> None:
    process = FakeProcess()
    thread = FakeThread(process)
    space = AddressSpace(process, PAGE, 1 << 30)
    for page in range(1, 20):
        space._insert(Area(page * PAGE, (page + 1) * PAGE, page % 2, 0, None, 0, b""))
    before = [(area.start, area.end, area.prot) for area in space.areas()]
    start, end = space.check_protect(5 * PAGE, 8 * PAGE, 3)
    assert space.protect_some(thread, start, end, 3) == end
    assert space.find(8 * PAGE) is space.find(9 * PAGE)
    space.undo_protect(thread)
    assert [(area.start, area.end, area.prot) for area in space.areas()] == before
