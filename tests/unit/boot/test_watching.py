"""Watching directories for a client: the cost of one rename in a deeply watched tree for the other guests."""

from cloche.abi.inotify import IN_CREATE, IN_ISDIR, IN_MOVED_FROM
from cloche.boot.watching import Watching
from cloche.kernel.chores import Chore
from cloche.kernel.patience import Patience
from cloche.vfs.objects import FileSystem, Inode
from tests.unit.fs.harness import Guest

MANY = 4000


def test_a_directory_with_many_below_goes_in_pieces() -> None:
    guest = Guest()
    kernel = guest.kernel
    patience = Patience(kernel.host_waits, kernel.chores, Chore())
    watching = Watching(kernel, guest.task, patience, b"/", is_deep=True)
    system = FileSystem("fake", 1, 1)
    inodes = [Inode(system, number, 0o40755) for number in range(MANY)]
    for number, inode in enumerate(inodes):
        name = b"" if number == 0 else b"other%d" % number if number % 2 else b"moved/%d" % number
        watching.names[watching.inotify.add_watch(inode, IN_CREATE | IN_MOVED_FROM)] = name
    top = inodes[0].watches
    assert top is not None
    top.event(IN_MOVED_FROM | IN_ISDIR, 0, b"moved")
    most = 0
    told = []
    before = len(watching.names)
    records = watching.some()
    record: bytes | None = b""
    while record is not None:
        record = next(records, None)
        if record:
            told.append(record)
        most = max(most, before - len(watching.names))
        before = len(watching.names)
    assert len(told) == 1 and len(watching.names) == MANY // 2 + 1
    assert most <= 128
    watching.close()
