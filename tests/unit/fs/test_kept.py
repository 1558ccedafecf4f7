"""The journal of a kept layer: changes of any size count whole or not at all, and a piece of one that is still being
written at the end of the sandbox is in it, with all that follows.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.abi.fcntl import RENAME_EXCHANGE
from cloche.fs.gofer_client import GoferClient
from cloche.fs.kept import LayerStore
from cloche.fs.kept_rows import MAX_FRAME_BYTES
from cloche.fs.quota import StorageQuota
from cloche.fs.tmpfs import TmpFs, TmpfsDir
from cloche.gofer.launch import spawn_gofer
from cloche.gofer.nodes import AttachPoint
from cloche.kernel.chores import Chore
from cloche.runtime import layers
from cloche.runtime.records import RecordError
from cloche.vfs.layers import Layer
from cloche.vfs.namei import vfs_rename, vfs_unlink
from cloche.vfs.objects import Context
from tests.unit.fs.harness import Guest
from tests.unit.vfs.world import list_dir, new_context, put_file, read_file

LARGE = 1000 << 10  # less than a file's attributes may take


def nothing() -> None:
    """No progress is told to anybody."""


class Kept:
    """One sandbox after the other over one layer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = spawn_gofer([AttachPoint(str(directory), is_writable=True)])
        self.client = GoferClient(self.process.sock)

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    def begin(self) -> tuple[LayerStore, Context]:
        self.kernel = Guest().kernel
        fs = TmpFs(33, StorageQuota(1 << 30, 1 << 20))
        ctx = new_context(fs)
        store = LayerStore(self.kernel, self.client, 0)
        store.open(ctx, [Layer(b"", fs, is_volume=False)])
        return store, ctx

    def step(self) -> Chore:
        """One step of the first chore."""
        chore = self.kernel.chores.popleft()
        if chore.step():
            self.kernel.chores.append(chore)
        return chore

    def files(self) -> dict[bytes, bytes]:
        """What a further sandbox finds."""
        store, ctx = self.begin()
        found = {name: read_file(ctx, b"/" + name) for name in list_dir(ctx, b"/")}
        assert store.close(nothing) == 0
        return found


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.client.close()
    os.waitpid(made.process.pid, 0)


def fill(store: LayerStore, ctx: Context, count: int, size: int, data: bytes = b"x") -> None:
    """Files with large attributes, which are in the journal."""
    for number in range(count):
        name = b"/%d" % number
        put_file(ctx, name, data)
        inode = ctx.fs.root.mount.root.inode
        assert isinstance(inode, TmpfsDir)
        made = inode.entries[name[1:]].inode
        assert made is not None
        made.setxattr(ctx, b"user.large", bytes(size), 0)
    assert store.error == 0


def test_a_change_may_be_larger_than_a_frame(kept: Kept) -> None:
    """It ended the writing of the journal, for good."""
    store, ctx = kept.begin()
    count = MAX_FRAME_BYTES // LARGE + 6
    fill(store, ctx, count, LARGE)
    assert store.close(nothing) == 0
    assert kept.journal.stat().st_size > MAX_FRAME_BYTES
    assert len(kept.files()) == count


def test_a_change_in_several_frames_counts_whole_or_not_at_all(kept: Kept) -> None:
    store, ctx = kept.begin()
    put_file(ctx, b"/before", b"1")
    store.flush()
    at = kept.journal.stat().st_size
    fill(store, ctx, 6, LARGE)
    assert store.close(nothing) == 0
    whole = kept.journal.read_bytes()
    for end in (at + LARGE // 2, at + 3 * LARGE, len(whole) - 1):
        kept.journal.write_bytes(whole[:end])
        assert kept.files() == {b"before": b"1"}
    kept.journal.write_bytes(whole)
    assert len(kept.files()) == 7


def test_what_is_written_piece_by_piece_at_the_end_is_whole(kept: Kept) -> None:
    """The chore has written some frames of a change, others have been made since, and the sandbox ends."""
    store, ctx = kept.begin()
    fill(store, ctx, 6, LARGE)
    at = kept.journal.stat().st_size
    store.timer_due(0, 0)
    while kept.journal.stat().st_size == at:
        kept.step()
    assert store.in_flight is not None
    put_file(ctx, b"/after", b"2")
    assert store.close(nothing) == 0
    found = kept.files()
    assert len(found) == 7 and found[b"after"] == b"2"


def test_nothing_is_in_flight_after_a_flush(kept: Kept) -> None:
    """Also where nothing has changed since: fsync asks for the disk of all that is written."""
    store, ctx = kept.begin()
    fill(store, ctx, 6, LARGE)
    store.timer_due(0, 0)
    while store.in_flight is None:
        kept.step()
    store.flush()
    assert store.in_flight is None
    written = kept.journal.read_bytes()
    assert store.close(nothing) == 0
    assert kept.journal.read_bytes() == written and len(kept.files()) == 6


def test_a_frame_that_a_lane_still_writes_at_the_end_is_whole(kept: Kept) -> None:
    """It left a gap in the journal, and what followed was lost."""
    store, ctx = kept.begin()
    put_file(ctx, b"/before", b"1")
    flight = store.begin_flight()
    assert store.take_frame(flight)  # and the lane is away with it
    put_file(ctx, b"/after", b"2")
    assert store.close(nothing) == 0
    assert not store.go_on_writing(flight)  # should the lane come back
    assert kept.files() == {b"before": b"1", b"after": b"2"}


def test_a_file_is_freed_only_when_the_journal_says_so(kept: Kept) -> None:
    """A change in flight may name a file that is removed meanwhile: until that is written, too, its contents stay."""
    store, ctx = kept.begin()
    put_file(ctx, b"/long", b"long" * 10000)
    fill(store, ctx, 6, LARGE)
    store.timer_due(0, 0)
    while store.in_flight is None:
        kept.step()
    vfs_unlink(ctx, None, b"/long")
    while store.in_flight is not None:
        kept.step()
    assert (kept.directory / "1").exists()
    assert store.close(nothing) == 0
    assert not (kept.directory / "1").exists() and len(kept.files()) == 6


def test_a_journal_with_large_changes_is_written_anew(kept: Kept) -> None:
    store, ctx = kept.begin()
    for turn in range(8):
        fill(store, ctx, 6, LARGE, b"%d" % turn)
        store.timer_due(0, 0)
        while kept.kernel.chores:
            kept.step()
    assert kept.journal.stat().st_size < 8 * 6 * LARGE
    assert store.close(nothing) == 0
    assert kept.files() == {b"%d" % number: b"7" for number in range(6)}


def test_times_of_what_is_exchanged_are_kept(kept: Kept) -> None:
    """renameat2(2) changes the ctime of both, also where both are in the journal already."""
    store, ctx = kept.begin()
    for name in (b"/one", b"/two"):
        put_file(ctx, name, name)
    store.flush()
    vfs_rename(ctx, None, b"/one", None, b"/two", RENAME_EXCHANGE)
    root = ctx.fs.root.mount.root.inode
    assert isinstance(root, TmpfsDir)
    times = {}
    for name, entry in root.entries.items():
        assert entry.inode is not None
        times[name] = entry.inode.ctime_ns
    assert store.close(nothing) == 0
    store, ctx = kept.begin()
    root = ctx.fs.root.mount.root.inode
    assert isinstance(root, TmpfsDir)
    for name, entry in root.entries.items():
        assert entry.inode is not None and entry.inode.ctime_ns == times[name], name
    assert read_file(ctx, b"/one") == b"/two" and store.close(nothing) == 0


def test_a_layer_of_version_1_becomes_one_of_version_2(tmp_path: Path) -> None:
    layer = layers.create("old", [], str(tmp_path))
    layer.write_spec(b"what it was")
    head = tmp_path / "old" / "head.json"
    head.write_text(head.read_text().replace('"version": 2', '"version": 1'))
    (tmp_path / "old" / "sandbox").rename(tmp_path / "old" / "spec")
    assert layer.head()["version"] == 1 and layer.spec() == b"what it was"
    layer.make_current()
    assert layer.head()["version"] == 2 and layer.spec() == b"what it was"
    assert sorted(os.listdir(tmp_path / "old")) == ["files", "head.json", "lock", "sandbox"]
    head.write_text(head.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(RecordError):
        layer.make_current()
    layer.release()
    os.close(layer.fd)
