"""The lowest free descriptor, after any sequence of opens, duplications and closes: against a set of numbers."""

import random

import pytest

from cloche.abi.errno import EMFILE, LinuxError
from cloche.kernel.fd_table import FdTable
from cloche.mm.quota import KERNEL_MEMORY
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
                    table.set_cloexec(fd, is_cloexec=True)
                assert table.marked() == some
                at = 0
                while at >= 0:
                    at, files = table.take_marked(at, 10)
                    for taken in files:
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


def test_tables_that_share() -> None:
    """Forks at any time, and changes of each table: each is as if it had been copied, and nothing is left."""
    task = Guest().task
    root = task.fs.root
    files = [FileDescription(root, root.inode(), 0).get() for _ in range(3)]
    for seed in range(8):
        dice = random.Random(seed)
        tables, models = [FdTable()], [dict[int, tuple[FileDescription, bool]]()]
        for _round in range(300):
            which = dice.randrange(len(tables))
            table, model = tables[which], models[which]
            what, fd, marked = dice.randrange(7), dice.randrange(400), dice.random() < 0.5
            if what < 3:
                for _each in range(dice.choice((1, 3, 100))):
                    file = dice.choice(files)
                    table.install_at(task, fd, file, is_cloexec=marked)
                    model[fd] = (file, marked)
                    fd += 1
            elif what == 3 and len(tables) < 6:
                table.check_clone()
                tables.append(table.clone())
                models.append(dict(model))
            elif what == 4 and len(tables) > 1:
                del tables[which], models[which]
                charged = KERNEL_MEMORY.used - table.held
                if marked:
                    at = 0
                    while at >= 0:
                        at = table.close_from(task, at)
                    assert table.count == 0 and not table.descriptors()
                for block in table.take_all():
                    table.leave(task, block)
                assert KERNEL_MEMORY.used == charged and table.held == 0
            elif what == 5:
                at = 0
                while at >= 0:
                    at, taken = table.take_marked(at, 10)
                    for file in taken:
                        table.closed(task, file)
                for fd in [fd for fd in model if model[fd][1]]:
                    del model[fd]
            else:
                for fd in [fd for fd in model if dice.random() < 0.3]:
                    table.close(task, fd)
                    del model[fd]
            for table, model in zip(tables, models, strict=True):
                assert table.descriptors() == sorted(model) and table.count == len(model)
                assert table.marked() == [fd for fd in sorted(model) if model[fd][1]]
                assert all(table.find(fd) is model[fd][0] for fd in model)
        for table in tables:
            table.users = 1
            table.abandon()
        assert [file.refs for file in files] == [1, 1, 1]
        assert not any(table.held for table in tables)


def test_a_fork_looks_at_no_descriptor() -> None:
    """A million of them took 20 ms, and as long again at the end of the child."""
    task = Guest().task
    root = task.fs.root
    table = FdTable()
    file = FileDescription(root, root.inode(), 0).get()
    for _ in range(10_000):
        table.install(file, 1 << 20)
    references = file.refs
    copy = table.clone()
    assert file.refs == references
    copy.close(task, 5000)
    assert references <= file.refs < references + 100
    with pytest.raises(LinuxError):
        copy.get(5000)
    assert table.get(5000) is file
    copy.close_all(task)
    assert file.refs == references
    table.close_all(task)
    assert file.refs == 1
