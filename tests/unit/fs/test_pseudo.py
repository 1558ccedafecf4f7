"""vfs.pseudo: seq_file's rules for generated files, stable positions of listings."""

import pytest

from cloche.abi.errno import EACCES, EIO, EPERM, LinuxError
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.objects import Context
from cloche.vfs.pseudo import (
    ConstantFile,
    GeneratedFile,
    PseudoFs,
    StaticDir,
    Symlink,
    WritableFile,
    parse_int,
)
from cloche.vfs.records import ATTR_MODE, ATTR_SIZE, SetAttr

from .harness import Guest
from .proc_harness import Names, root_of


class Counter:
    """A producer that says how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.stored = b""

    def produce(self, ctx: Context) -> bytes:
        self.calls += 1
        return b"call %d, padded\n" % self.calls

    def consume(self, ctx: Context, data: bytes) -> int:
        self.stored = data
        return len(data)


def build() -> tuple[Guest, PseudoFs, StaticDir, Counter]:
    guest = Guest()
    fs = PseudoFs("fake", 1, 9)
    root = StaticDir(fs, ino=1)
    fs.root_inode = root
    counter = Counter()
    root.add(b"gen", GeneratedFile(fs, counter.produce))
    root.add(b"rw", WritableFile(fs, counter.produce, counter.consume))
    root.add(b"dir", StaticDir(fs))
    root.add(b"link", Symlink(fs, b"gen"))
    return guest, fs, root, counter


def read(guest: Guest, file: object, count: int) -> bytes:
    sink = KernelIovIter(capacity=count)
    assert file.read(guest.task, sink) >= 0  # type: ignore[attr-defined]
    return bytes(sink.sink)


def test_a_sequence_of_reads_sees_one_text() -> None:
    guest, fs, root, counter = build()
    file = root.children[b"gen"].open(guest.task, root_of(fs), 0)
    assert counter.calls == 0
    assert read(guest, file, 4) == b"call"
    assert read(guest, file, 100) == b" 1, padded\n"
    assert read(guest, file, 100) == b""
    assert counter.calls == 1


def test_seeking_back_makes_the_text_anew() -> None:
    guest, fs, root, counter = build()
    file = root.children[b"gen"].open(guest.task, root_of(fs), 0)
    read(guest, file, 100)
    assert file.lseek(guest.task, 0, 0) == 0
    assert read(guest, file, 6) == b"call 2"
    sink = KernelIovIter(capacity=4)
    assert file.pread(guest.task, sink, 7) == 4
    assert counter.calls == 3


def test_writes_and_truncation() -> None:
    guest, fs, root, counter = build()
    inode = root.children[b"rw"]
    cut = SetAttr(ATTR_SIZE)
    inode.setattr(guest.task, cut)
    file = inode.open(guest.task, root_of(fs), 1)
    assert file.write(guest.task, KernelIovIter(b"value\n")) == 6
    assert counter.stored == b"value\n"
    closed = ConstantFile(fs, b"x").open(guest.task, root_of(fs), 1)
    assert closed.write(guest.task, KernelIovIter(b"y")) == -EIO


def test_chmod() -> None:
    guest, fs, root, counter = build()
    change = SetAttr(ATTR_MODE)
    change.mode = 0o600
    inode = root.children[b"rw"]
    inode.setattr(guest.task, change)
    assert inode.mode & 0o7777 == 0o600
    fixed = GeneratedFile(fs, counter.produce)
    fixed.is_mode_fixed = True
    with pytest.raises(LinuxError) as caught:
        fixed.setattr(guest.task, change)
    assert caught.value.errno == EPERM


def test_listing_resumes_where_it_stopped() -> None:
    guest, fs, root, counter = build()
    file = root.open(guest.task, root_of(fs), 0)
    seen: list[bytes] = []
    while True:
        names = Names(2)
        assert file.iterate(guest.task, names) == 0
        if not names.names:
            break
        seen += names.names
    assert seen == [b".", b"..", b"gen", b"rw", b"dir", b"link"]
    assert root.nlink == 3


def test_nothing_can_be_made() -> None:
    guest, fs, root, counter = build()
    for operation, errno in ((root.create, EACCES), (root.mkdir, EPERM)):
        with pytest.raises(LinuxError) as caught:
            operation(guest.task, b"new", 0o644)
        assert caught.value.errno == errno


@pytest.mark.parametrize(
    ("text", "value"), [(b"12\n", 12), (b" -5 ", -5), (b"0x10", 16), (b"010", 8), (b"0", 0), (b"+7\n", 7)]
)
def test_parse_int(text: bytes, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize("text", [b"", b"\n", b"x", b"1 2", b"--1", b"09", b"0x"])
def test_parse_int_refuses(text: bytes) -> None:
    with pytest.raises(LinuxError):
        parse_int(text)
