"""Deep trees of the host: the directories on the way stay open, and are never looked up through a link."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.runtime.hosttree import HostTree, make_directory
from cloche.runtime.journal import CREATE, Journal, Undo

DEPTH = 400
NAME = b"d" * 100  # so that no call takes the paths whole
LEVELS = [b"/".join([NAME] * depth) for depth in range(1, DEPTH + 1)]


class Counted:
    """Counts the directories and files that are opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.real = os.open
        monkeypatch.setattr(os, "open", self.open)

    def open(self, path: str | bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        self.count += 1
        return self.real(path, flags, mode, dir_fd=dir_fd)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[HostTree]:
    (tmp_path / "top").mkdir()
    made = HostTree(os.fsencode(tmp_path / "top"))
    yield made
    made.close()


def test_a_deep_tree_is_made_and_undone_with_few_opens(
    tree: HostTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, journals = os.fsencode(tmp_path / "top"), str(tmp_path / "journals")
    counted = Counted(monkeypatch)
    journal = Journal("box", journals, is_durable=False)
    before = descriptors()
    for path in LEVELS:
        journal.begin(CREATE, top, tree, path, tree.stat(path))
        make_directory(tree, path)
        journal.done(tree, path)
    assert descriptors() - before <= 128
    journal.close()
    assert counted.count < 4 * DEPTH
    counted.count = 0
    undo = Undo("box", journals)
    undo.run(is_forced=False)
    assert len(undo.undone) == DEPTH and not undo.left and not os.listdir(top)
    assert counted.count < 4 * DEPTH


def test_levels_that_were_let_go_are_found_again(tree: HostTree) -> None:
    make_directory(tree, LEVELS[-1])
    numbers = [tree.lstat(path).st_ino for path in LEVELS]
    assert len(set(numbers)) == DEPTH
    assert [tree.lstat(path).st_ino for path in reversed(LEVELS)] == numbers[::-1]
    for at in (300, 5, 399, 70, 64, 63, 128, 399, 0):
        assert tree.lstat(LEVELS[at]).st_ino == numbers[at]
    os.close(tree.open_directory(LEVELS[-1]))
    assert tree.stat(LEVELS[2] + b"/none/below") is None and tree.lstat(LEVELS[9]).st_ino == numbers[9]


def test_no_link_is_on_the_way(tree: HostTree, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "link").symlink_to("../../private")
    assert tree.lstat(b"a/b").st_ino
    for path in (b"a/link/key", b"a/link/x/key"):
        with pytest.raises(OSError) as caught:
            tree.parent(path, make=True)
        assert caught.value.errno == errno.ELOOP
    for path in (b"a/link", b"a/link/key"):
        with pytest.raises(OSError) as caught:
            tree.open_directory(path)
        assert caught.value.errno == errno.ELOOP
    (top / "a").rename(top / "moved")
    (top / "a").symlink_to("../private")
    tree.forget()
    with pytest.raises(OSError) as caught:
        tree.parent(b"a/key")
    assert caught.value.errno == errno.ELOOP


def test_a_directory_that_can_only_be_searched(tree: HostTree, tmp_path: Path) -> None:
    """The way is not opened to be read: an ordinary user may not read each directory that they may search."""
    (tmp_path / "top" / "a" / "b").mkdir(parents=True)
    fd, name = tree.parent(b"a/b")
    with pytest.raises(OSError) as caught:
        os.listdir(fd)
    assert name == b"b" and caught.value.errno == errno.EBADF
