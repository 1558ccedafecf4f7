"""Layers and trees that lie: refused, within bounds."""

import gzip
import io
import os
import random
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cloche.abi.errno import LinuxError
from cloche.images import streams, tree, unpack
from cloche.images.errors import ImageError
from cloche.images.store import Store, digest_of
from cloche.images.streams import LayerStream
from cloche.images.tree import OpenTree, ensure_tree
from cloche.wire.imagetree import TreeFile, TreeRow
from tests.cli.images import LayerTar


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "images"))


def put(store: Store, raw: bytes, packed: bytes | None = None) -> str:
    """Unpack a layer."""
    digest = digest_of(raw)
    unpack.unpack(store, LayerStream(io.BytesIO(packed if packed is not None else raw)), digest)
    return digest


def nothing_is_left(store: Store) -> bool:
    return not os.listdir(store.of("content")) and not os.listdir(store.of("layers"))


def test_a_bomb_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 20)
    raw = LayerTar().add("zeros", bytes(8 << 20)).bytes()
    with pytest.raises(ImageError, match="attack"):
        put(store, raw, gzip.compress(raw))
    assert nothing_is_left(store)
    put(store, raw)  # it matches its digest


def test_the_disk_is_waited_for_once_a_layer_not_once_a_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull, a load and a commit of many small files wait for syncfs(2), which writes them together."""
    calls: list[str] = []
    fsync, fdatasync = os.fsync, os.fdatasync

    def counted(name: str, call: Callable[[int], None]) -> Callable[[int], None]:
        def count(fd: int) -> None:
            calls.append(name)
            call(fd)

        return count

    monkeypatch.setattr(os, "fsync", counted("fsync", fsync))
    monkeypatch.setattr(os, "fdatasync", counted("fdatasync", fdatasync))
    seen: list[list[str]] = []
    for count in (2, 200):
        layer = LayerTar()
        for number in range(count):
            layer.add(f"file{number}", b"%d" % number)
        put(store, layer.bytes())
        seen.append(calls[:])
        calls.clear()
    assert seen[0] == seen[1]


def test_a_file_of_holes_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 20)
    info = tarfile.TarInfo("holes")
    info.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "holes",
        "GNU.sparse.size": str(1 << 50), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,0",
    }  # fmt: skip
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(ImageError, match="attack"):
        put(store, raw.getvalue())
    assert nothing_is_left(store)


def test_too_many_files_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_ENTRIES", 100)
    layer = LayerTar()
    for number in range(101):
        layer.add(str(number))
    with pytest.raises(ImageError, match="more than 100"):
        put(store, layer.bytes())
    assert nothing_is_left(store)


def test_a_directory_with_too_many_names_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_NAMES", 100)
    layer = LayerTar()
    for number in range(101):
        layer.add(f"d/{number}")
    with pytest.raises(ImageError, match="more than 100 names"):
        ensure_tree(store, [put(store, layer.bytes())])
    assert not [name for name in os.listdir(store.of("content")) if name.startswith(("tree-", "new-"))]


def test_a_header_of_a_gigabyte_is_refused(store: Store) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    with pytest.raises(ImageError, match="header"):
        put(store, info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 12))


@pytest.mark.parametrize(
    "packed", [b"\x1f\x8b", gzip.compress(bytes(5000), mtime=0)[:-20], b"\x28\xb5\x2f\xfdgarbage", b"BZh9"]
)
def test_what_is_no_stream_is_refused(store: Store, packed: bytes) -> None:
    with pytest.raises(ImageError):
        put(store, bytes(5000), packed)
    assert nothing_is_left(store)


def test_damaged_tars_are_refused_or_read(store: Store) -> None:
    raw = LayerTar().folder("d").add("d/x", b"x" * 2000).link("l", "d").add("e", b"y", uid=1 << 22).bytes()
    chance = random.Random(14)
    for _each in range(300):
        data = bytearray(raw)
        for _change in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            digest = put(store, bytes(data))
            ensure_tree(store, [digest])
        except ImageError:
            pass
        for path in Path(store.of("content")).rglob("*"):
            assert path.is_dir() or stat.S_ISREG(path.lstat().st_mode)


def walk(tree: TreeFile) -> int:
    """Walk a whole tree. Returns the number of names."""
    stack = [tree.root]
    count = 0
    while stack and count < 10_000:
        for row in tree.directory(stack.pop()).all():
            count += 1
            if stat.S_ISDIR(row.mode):
                stack.append(row)
    return count


def test_a_damaged_tree_is_an_error_and_no_more(store: Store, tmp_path: Path) -> None:
    layer = LayerTar()
    for number in range(300):
        layer.folder(f"d{number % 7}/e").add(f"d{number % 7}/{number}", b"x")
        layer.add(f"many/{number}", b"x").link(f"links/{number}", "x" * 50)
    path = Path(store.of("content", ensure_tree(store, [put(store, layer.bytes())])))
    whole = path.read_bytes()
    opened = TreeFile(os.open(path, os.O_RDONLY))
    assert walk(opened) == 300 * 3 + 7 + 7 + 2
    opened.close()
    chance = random.Random(15)
    damaged = tmp_path / "damaged"
    for _each in range(400):
        data = bytearray(whole)
        for _change in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        damaged.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        try:
            opened = TreeFile(os.open(damaged, os.O_RDONLY))
        except LinuxError:
            continue
        try:
            walk(opened)
            opened.resolve(b"/d1/../links/1")
        except LinuxError:
            pass
        opened.close()


def test_attributes_come_through(store: Store) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    headers = {
        "SCHILY.xattr.security.capability": capability.decode(errors="surrogateescape"),
        "SCHILY.xattr.user.x": "y", "SCHILY.xattr.trusted.overlay.opaque": "y", "mtime": "-5.25",
    }  # fmt: skip
    name = b"not \xff utf-8".decode(errors="surrogateescape")
    info = tarfile.TarInfo(name)
    info.pax_headers, info.mode, info.uid = headers, 0o4755, 4_000_000_000
    raw = io.BytesIO()
    with tarfile.open(
        fileobj=raw, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        tar.addfile(info)
    found = OpenTree(store.of("content", ensure_tree(store, [put(store, raw.getvalue())])))
    row = found.file.find(b"not \xff utf-8")
    assert isinstance(row, TreeRow)
    assert row.xattrs == [(b"security.capability", capability), (b"user.x", b"y")]
    assert (row.mode, row.uid, row.mtime_ns) == (stat.S_IFREG | 0o4755, 4_000_000_000, -5_250_000_000)
