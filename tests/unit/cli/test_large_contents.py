"""cli.changes: contents that are compared piece by piece with the host's file."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cloche.cli.changes import _has_large_content
from cloche.wire import files
from cloche.wire.files import Record

HOLE = 1 << 20


def record(kind: int, offset: int, data: bytes = b"") -> Record:
    made = Record(kind)
    made.offset, made.data = offset, data
    return made


def is_same(path: Path, records: list[Record], size: int) -> bool:
    def get(_paths: list[bytes]) -> Iterator[Record]:
        return iter(records)

    tree = SimpleNamespace(open_file=lambda name: os.open(name, os.O_RDONLY))
    place = SimpleNamespace(tree=lambda: tree, host_name=lambda name: path)
    item = SimpleNamespace(place=place, path=b"/x", entry=SimpleNamespace(size=size))
    return _has_large_content(cast(Any, SimpleNamespace(get=get)), cast(Any, item))


def test_only_what_came_whole_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"begin" + bytes(HOLE) + b"end")
    size = HOLE + 8
    begin, end = record(files.DATA, 0, b"begin"), record(files.DATA, HOLE + 5, b"end")
    assert is_same(path, [begin, end, record(files.END, size)], size)
    assert not is_same(path, [begin, record(files.END, size)], size)
    assert not is_same(path, [record(files.DATA, 0, b"Begin"), end, record(files.END, size)], size)
    assert not is_same(path, [begin, end], size)
    assert not is_same(path, [record(files.ERROR, 5, b"/x")], size)
    assert not is_same(path, [], size)
