"""The lowest free descriptor, after any sequence of opens, duplications and closes: against a set of numbers."""

import random

import pytest

from cloche.abi.errno import EMFILE, LinuxError
from cloche.kernel.fd_table import FdTable
from cloche.vfs.objects import FileDescription
from tests.unit.fs.harness import Guest

LIMIT = 3000


def lowest_free(model: set[int], start: int) -> int:
    while start in model:
        start += 1
    return start


def test_the_lowest_free_number() -> None:
    task = Guest().task
    root = task.fs.root
    for seed in range(8):
        dice = random.Random(seed)
        table, model = FdTable(), set[int]()
        file = FileDescription(root, root.inode(), 0).get()
        for _round in range(150):
            what = dice.randrange(8)
            start = dice.choice((0, 0, 10, 511, 512, 1024, dice.randrange(LIMIT)))
            if what < 3:
                for _each in range(dice.choice((1, 5, 600))):
                    expected = lowest_free(model, start)
                    if expected >= LIMIT:
                        with pytest.raises(LinuxError) as refused:
                            table.install(file, LIMIT, lowest=start)
                        assert refused.value.errno == EMFILE
                        break
                    assert table.install(file, LIMIT, lowest=start) == expected
                    model.add(expected)
            elif what == 3:
                table.install_at(task, start, file)
                model.add(start)
            elif what == 4:
                copy = table.clone()
                table.close_all(task)
                table = copy
            elif what == 5:
                some = [fd for fd in sorted(model) if dice.random() < 0.1]
                for fd in some:
                    table.cloexec.add(fd)
                for taken in table.take_marked(some):
                    table.closed(task, taken)
                model.difference_update(some)
            elif model:
                for fd in dice.sample(sorted(model), min(len(model), dice.choice((1, 700)))):
                    table.close(task, fd)
                    model.discard(fd)
            assert table.descriptors() == sorted(model)
        limit = lowest_free(model, 0)
        with pytest.raises(LinuxError):
            table.reserve(limit)
        table.reserve(limit + 1)
        table.close_all(task)
        assert file.refs == 1
