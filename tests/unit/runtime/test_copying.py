"""Copies of files of the host while a sandbox, which may write there, exchanges their names."""

import os
from pathlib import Path

import pytest

from cloche.runtime.copying import Reader, Writer
from cloche.runtime.hosttree import HostTree, NewFile, Policy
from cloche.wire import files
from cloche.wire.files import FileEntry, Record
from tests.unit.runtime.places import SECRET, shared_place


def complain(path: bytes, text: str) -> None:
    """Nothing is expected of it."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that is copied, beside one that is not."""
    return shared_place(tmp_path)


@pytest.mark.parametrize("follow", [False, True])
def test_an_exchanged_directory_leads_nowhere(place: Path, follow: bool) -> None:
    found = b""
    for record in Reader(complain, is_archive=True).tree(os.fsencode(place), b"", follow=follow):
        found += record
        if b"sub" in record and not (place / "sub").is_symlink():
            (place / "sub").rename(place / "moved")
            (place / "sub").symlink_to("../private")
    assert SECRET not in found and b"zz" in found and b"harmless" in found


def test_an_exchanged_file_leads_nowhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a file and its open."""
    real = os.open

    def late(path: str | bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if os.path.basename(path) in (b"key", "key") and not (place / "sub" / "key").is_symlink():
            (place / "sub" / "key").unlink()
            (place / "sub" / "key").symlink_to("../../private/key")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", late)
    told: list[bytes] = []
    reader = Reader(lambda path, text: told.append(path), is_archive=False)
    found = b"".join(reader.tree(os.fsencode(place), b"", follow=False))
    assert SECRET not in found and told == [os.fsencode(place / "sub" / "key")] and reader.has_failed


def test_an_exchanged_new_file_leads_nowhere(place: Path) -> None:
    """Between the making of a FIFO under its temporary name and its mode."""
    key = place.parent / "private" / "key"
    key.chmod(0o600)
    tree = HostTree(os.fsencode(place))
    entry = FileEntry(b"pipe", 0o010777)
    made = NewFile(tree, b"pipe")
    made.make(entry, Policy())
    temporary = place / os.fsdecode(made.temporary)
    temporary.unlink()
    temporary.symlink_to(key)
    with pytest.raises(OSError):
        made.commit(entry, Policy())
    made.discard()
    tree.close()
    assert key.stat().st_mode & 0o777 == 0o600


def test_modes_of_fifos(place: Path) -> None:
    tree = HostTree(os.fsencode(place))
    writer = Writer(tree, b"", Policy(), complain)
    record = Record(files.ENTRY)
    record.entry = FileEntry(b"pipe", 0o010642)
    writer.take(record)
    tree.close()
    assert writer.failed == 0 and (place / "pipe").stat().st_mode == 0o010642
