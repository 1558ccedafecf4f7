"""The list of areas against a model with one entry for each page; forks share it until somebody changes it."""

import random

from cloche.mm.address_space import AddressSpace, Area
from cloche.platform.fake import FakeProcess

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
            space.set_policy(start * PAGE, upto * PAGE, policy)
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
