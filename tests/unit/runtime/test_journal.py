"""The journal of `cloche apply`: what is undone, what is left alone, what an application that was cut off leaves."""

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.runtime.hosttree import HostTree, NewFile, Policy, make_directory, new_name
from cloche.runtime.journal import (
    CREATE,
    MODE,
    REMOVE,
    REPLACE,
    Journal,
    Undo,
    clear_rests,
    describe,
    is_cut_off,
    remove_aside,
    states_after,
)
from cloche.wire.files import KEEP_NS, FileEntry


class Ground:
    """A directory of the host, and one for journals."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "top"
        self.path.mkdir()
        self.top = os.fsencode(self.path)
        self.tree = HostTree(self.top)
        self.journals = str(tmp_path / "journals")

    def begin(self) -> Journal:
        return Journal("box", self.journals)

    def write(self, journal: Journal, path: bytes, data: bytes, *, aside: bytes = b"") -> None:
        """CREATE or REPLACE."""
        entry = FileEntry(path, 0o100644)
        entry.mtime_ns = KEEP_NS
        made = NewFile(self.tree, path, aside=aside)
        made.open()
        made.write(0, data)
        becomes = made.complete(entry, Policy())
        kind = REPLACE if self.tree.stat(path) is not None else CREATE
        if aside:
            made.put_aside()
            becomes = made.waiting()
        journal.begin(kind, self.top, self.tree, path, self.tree.stat(path), becomes=becomes)
        if aside:
            made.place(Policy())
        else:
            made.commit(entry, Policy())

    def undo(self, *, is_forced: bool = False) -> Undo:
        undo = Undo("box", self.journals)
        undo.run(is_forced=is_forced)
        return undo

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*"))


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.tree.close()


@pytest.mark.parametrize("above", [b"", b"d/"])
def test_files_that_wait_aside_are_removed_by_undo(ground: Ground, above: bytes) -> None:
    if above:
        make_directory(ground.tree, b"d")
    (ground.path / "kept").write_text("host")
    names = ground.names()
    aside = above + new_name()
    journal = ground.begin()
    journal.aside(ground.top, aside)
    assert not ground.undo().left and ground.names() == names  # killed before it was made
    journal = ground.begin()
    journal.aside(ground.top, aside)
    make_directory(ground.tree, aside)
    for name in (b"one", b"two"):
        made = NewFile(ground.tree, name, aside=aside)
        made.open()
        made.complete(FileEntry(name, 0o100644), Policy())
        made.put_aside()
    assert len(os.listdir(os.fsencode(ground.path) + b"/" + aside)) == 2
    assert is_cut_off("box", ground.journals) and not ground.undo().left
    assert ground.names() == names and not is_cut_off("box", ground.journals)


def test_only_what_was_made_aside_is_removed(ground: Ground) -> None:
    """A journal names no other directory, and somebody may have put something in it."""
    journal = ground.begin()
    aside = new_name()
    for path in (b"theirs", aside):
        journal.aside(ground.top, path)
        make_directory(ground.tree, path)
        (ground.path / os.fsdecode(path) / "file").write_text("x")
    assert not ground.undo().left
    assert ground.names() == sorted([f"{aside.decode()}/file", aside.decode(), "theirs", "theirs/file"])
    with pytest.raises(OSError):
        remove_aside(ground.tree, aside)


def test_a_file_that_has_waited_gets_its_name(ground: Ground) -> None:
    journal = ground.begin()
    aside = new_name()
    journal.aside(ground.top, aside)
    make_directory(ground.tree, aside)
    (ground.path / "old").write_text("host")
    ground.write(journal, b"old", b"new", aside=aside)
    ground.write(journal, b"more", b"more", aside=aside)
    remove_aside(ground.tree, aside)
    journal.end()
    assert not is_cut_off("box", ground.journals)
    assert ground.names() == ["more", "old"] and (ground.path / "old").read_text() == "new"
    assert not ground.undo().left and ground.names() == ["old"]
    assert (ground.path / "old").read_text() == "host"


def test_a_step_that_was_not_told_to_be_done_is_undone(ground: Ground) -> None:
    """What is there after it was known before; an empty directory is nobody's work."""
    journal = ground.begin()
    ground.write(journal, b"new", b"x")
    journal.begin(CREATE, ground.top, ground.tree, b"d", ground.tree.stat(b"d"))
    make_directory(ground.tree, b"d")
    assert not ground.undo().left and ground.names() == []


def test_what_the_host_has_put_there_since_stays(ground: Ground) -> None:
    (ground.path / "old").write_text("host")
    (ground.path / "gone").write_text("host")
    journal = ground.begin()
    ground.write(journal, b"new", b"x")
    ground.write(journal, b"old", b"x")
    journal.begin(REMOVE, ground.top, ground.tree, b"gone", ground.tree.stat(b"gone"))
    (ground.path / "gone").unlink()
    for name in ("new", "old", "gone"):
        (ground.path / name).write_text("other")
    assert len(ground.undo().left) == 3
    assert {(ground.path / name).read_text() for name in ground.names()} == {"other"}
    assert not ground.undo(is_forced=True).left and ground.names() == ["gone", "old"]
    assert {(ground.path / name).read_text() for name in ground.names()} == {"host"}


def test_a_directory_that_was_made_again_is_the_same_one(ground: Ground) -> None:
    make_directory(ground.tree, b"d")
    journal = ground.begin()
    journal.begin(MODE, ground.top, ground.tree, b"d", ground.tree.stat(b"d"))
    (ground.path / "d").chmod(0o755)
    journal.done(ground.tree, b"d")
    (ground.path / "d").rename(ground.path / "other")
    (ground.path / "d").mkdir(0o755)
    ground.tree.forget()
    assert not ground.undo().left and (ground.path / "d").stat().st_mode & 0o777 == 0o700


def test_journals_of_version_1_are_undone(ground: Ground) -> None:
    """Of a directory they have the number, and each step that is done has a line more."""
    journal = ground.begin()
    (ground.path / "d").mkdir()
    st = (ground.path / "d").stat()
    journal.close()
    (path,) = Path(ground.journals).glob("*/journal")
    row = {"mode": st.st_mode, "ino": st.st_ino, "dev": st.st_dev}
    lines = [
        {"version": 1, "name": "box", "time": 0},
        {"step": 1, "do": "create", "top": str(ground.path), "path": "d", "before": None},
        {"done": 1, "after": row},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not is_cut_off("box", ground.journals)  # they have no end
    assert ground.undo().undone and ground.names() == []


def test_one_that_has_done_nothing_was_not_cut_off(ground: Ground) -> None:
    assert not is_cut_off("box", ground.journals)
    journal = ground.begin()
    assert not is_cut_off("box", ground.journals)
    ground.write(journal, b"end", b"x")
    assert is_cut_off("box", ground.journals)
    journal.end()
    journal.close()
    assert not is_cut_off("box", ground.journals)
    (path,) = Path(ground.journals).glob("*/journal")
    path.write_bytes(path.read_bytes()[:-3])  # torn
    assert is_cut_off("box", ground.journals)


def test_the_last_state_that_was_left_is_known_until_it_is_undone(ground: Ground) -> None:
    assert states_after("box", ground.journals) == {}
    left = []
    for data in (b"one", b"three"):
        journal = Journal("box", ground.journals, instance="1@2")
        ground.write(journal, b"file", data)
        journal.close()
        [(path, found)] = states_after("box", ground.journals).items()
        assert (path, found.instance) == (ground.top + b"/file", "1@2")
        assert found.state == describe(ground.tree.stat(b"file"))
        left.append(found.state)
    assert left[0] != left[1] and states_after("other", ground.journals) == {}
    ground.undo()
    [found] = states_after("box", ground.journals).values()
    assert found.state == left[0] == describe(ground.tree.stat(b"file"))


def test_the_state_after_a_step_that_was_cut_off_is_none_that_is_known(ground: Ground) -> None:
    (ground.path / "d").mkdir()
    journal = ground.begin()
    journal.begin(MODE, ground.top, ground.tree, b"d", ground.tree.stat(b"d"))
    journal.close()
    state = states_after("box", ground.journals)[ground.top + b"/d"].state
    assert state not in (None, describe(ground.tree.stat(b"d")))


def test_a_step_that_there_is_no_room_to_record_is_not_begun(ground: Ground) -> None:
    """write(2) takes as much as there is room for, and says so."""
    journal = ground.begin()
    size = os.stat("journal", dir_fd=journal.fd).st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            journal.begin(REMOVE, ground.top, ground.tree, b"file", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.close()


def test_what_was_not_complete_is_removed(ground: Ground) -> None:
    """Neither what another has made, nor what somebody is at."""
    (ground.path / "d").mkdir()
    journal = ground.begin()
    for path in (b"d/one", b"d/two"):
        made = NewFile(ground.tree, path, temporary=journal.temporary(ground.top, path))
        made.open()
    theirs = ground.path / "d" / os.fsdecode(new_name())
    theirs.write_text("x")
    assert len(list((ground.path / "d").iterdir())) == 3
    clear_rests("box", ground.journals)
    assert len(list((ground.path / "d").iterdir())) == 3
    journal.close()
    clear_rests("another", ground.journals)
    assert len(list((ground.path / "d").iterdir())) == 3
    assert not is_cut_off("box", ground.journals)  # it has done nothing
    clear_rests("box", ground.journals)
    assert list((ground.path / "d").iterdir()) == [theirs]


def test_an_undo_that_was_cut_off_leaves_nothing(ground: Ground) -> None:
    (ground.path / "old").write_text("host")
    journal = ground.begin()
    ground.write(journal, b"old", b"new")
    temporary = journal.temporary(ground.top, b"old").rpartition(b"-")[0] + b"-undo"
    (ground.path / os.fsdecode(temporary)).write_text("host")
    assert not ground.undo().left
    assert ground.names() == ["old"] and (ground.path / "old").read_text() == "host"
