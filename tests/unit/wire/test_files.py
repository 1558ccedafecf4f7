"""The records of requests for files."""

import pytest

from cloche.wire import files
from cloche.wire.files import FileEntry, RecordDecoder, entry_from
from cloche.wire.protocol import ProtocolError


def test_records_come_out_as_they_went_in_whatever_the_pieces() -> None:
    entry = FileEntry(b"a/\xff b", 0o100644)
    entry.uid, entry.gid, entry.size, entry.mtime_ns = 1, 2, 3, -4
    entry.target, entry.is_link, entry.xattrs = b"x", True, [(b"user.a", b"\0")]
    base = files.Base(0o100600, 1, 2, 3, 4, 5)
    stream = b"".join(
        [
            files.pack([files.LAYER, b"/srv"]),
            files.pack([files.CHANGE, files.CHANGED, True, 7, base.to_list(), b"old"]),
            files.pack(entry.to_list()),
            files.pack_data(10, b"hello"),
            files.pack_end(20),
            files.pack_error(b"b", 13),
            files.pack([files.DONE]),
        ]
    )
    for step in (1, 7, len(stream)):
        decoder = RecordDecoder()
        found = []
        for at in range(0, len(stream), step):
            found += decoder.feed(stream[at : at + step])
        assert decoder.is_done
        assert [record.kind for record in found] == [
            *(files.LAYER, files.CHANGE, files.ENTRY, files.DATA, files.END, files.ERROR, files.DONE),
        ]
        change, got = found[1], found[2].entry
        assert got is not None and got.to_list() == entry.to_list()
        assert change.base is not None and change.base.to_list() == base.to_list()
        assert (change.change, change.has_data, change.origin, change.old) == ("M", True, 7, b"old")
        assert (found[3].offset, found[3].data, found[4].offset) == (10, b"hello", 20)
        assert (found[5].data, found[5].offset) == (b"b", 13)


@pytest.mark.parametrize(
    "body",
    [
        [],
        [99],
        ["a"],
        [files.DATA, -1, b""],
        [files.DATA, 0, "text"],
        [files.END],
        [files.ERROR, b"x", 0],
        [files.CHANGE, "X", True, 0, None, None],
        [files.CHANGE, "A", True, 0, [1], None],
        [files.DONE, 1],
        [files.ENTRY, b"a\0b", *[0] * 9, b"", False, []],
        [files.ENTRY, b"a", -1, *[0] * 8, b"", False, []],
        [files.ENTRY, b"a", *[0] * 9, b"", False, [[b"name"]]],
        [files.ENTRY, b"a", *[0] * 8, b"", False, []],
    ],
)
def test_what_no_correct_peer_sends_is_refused(body: list[object]) -> None:
    with pytest.raises(ProtocolError):
        RecordDecoder().feed(files.pack(body))


def test_lengths_are_checked_before_anything_is_kept() -> None:
    with pytest.raises(ProtocolError):
        RecordDecoder().feed(b"\xff\xff\xff\xff")
    decoder = RecordDecoder()
    decoder.feed(files.pack([files.DONE]))
    with pytest.raises(ProtocolError):
        decoder.feed(files.pack([files.DONE]))
    with pytest.raises(ProtocolError):
        entry_from([files.ENTRY])


def test_clean_paths() -> None:
    assert files.is_clean(b"a/b\xff/c")
    for path in (b"", b"/", b"a//b", b"../a", b"a/..", b"a/./b", b"/a", b"a/"):
        assert not files.is_clean(path), path
