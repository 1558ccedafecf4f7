"""fs.inotify: the queue of events, watches, and how they end."""

import struct

import pytest

from cloche.abi.errno import EAGAIN, EEXIST, EINVAL, LinuxError
from cloche.abi.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_ISDIR,
    IN_MASK_ADD,
    IN_MASK_CREATE,
    IN_MODIFY,
    IN_ONESHOT,
    IN_OPEN,
    IN_Q_OVERFLOW,
)
from cloche.abi.ioctl import FIONREAD
from cloche.abi.poll import POLLIN
from cloche.fs.inotify import MAX_QUEUED_EVENTS, InotifyFile, check_mask, create_inotify
from cloche.mm.usermem import KernelIovIter
from cloche.syscalls.sys_inotify import sys_inotify_init1, sys_inotify_rm_watch
from cloche.vfs.objects import FileSystem, Inode

from .harness import Guest

Event = tuple[int, int, int, bytes]


def setup() -> tuple[Guest, InotifyFile, Inode]:
    guest = Guest()
    fd = guest.call(sys_inotify_init1, 0)
    file = guest.task.files.get(fd)
    assert isinstance(file, InotifyFile)
    return guest, file, Inode(FileSystem("fake", 1, 1), 9, 0o40755)


def events(guest: Guest, file: InotifyFile, size: int = 4096) -> list[Event] | int:
    sink = KernelIovIter(capacity=size)
    result = file.read(guest.task, sink)
    if result < 0:
        return result
    data = bytes(sink.sink)
    found: list[Event] = []
    while data:
        wd, mask, cookie, length = struct.unpack_from("<iIII", data)
        found.append((wd, mask, cookie, data[16 : 16 + length].rstrip(b"\0")))
        assert length % 16 == 0
        data = data[16 + length :]
    return found


def happen(inode: Inode, mask: int, name: bytes = b"", cookie: int = 0) -> None:
    if inode.watches is not None:
        inode.watches.event(mask, cookie, name)


def test_events_with_names() -> None:
    guest, file, inode = setup()
    wd = file.add_watch(inode, IN_CREATE | IN_DELETE)
    assert events(guest, file) == -EAGAIN
    happen(inode, IN_CREATE | IN_ISDIR, b"sub")
    happen(inode, IN_OPEN, b"other")
    happen(inode, IN_DELETE, b"a-name-of-16-byt", 7)
    addr = guest.put(bytes(4))
    assert file.ioctl(guest.task, FIONREAD, addr) == 0
    assert guest.get(addr, 4) == struct.pack("<I", 16 + 16 + 16 + 32)
    assert file.poll(guest.task) & POLLIN
    assert events(guest, file, 33) == [(wd, IN_CREATE | IN_ISDIR, 0, b"sub")]
    assert events(guest, file, 40) == -EINVAL
    assert events(guest, file) == [(wd, IN_DELETE, 7, b"a-name-of-16-byt")]


def test_repeated_events_are_merged() -> None:
    guest, file, inode = setup()
    wd = file.add_watch(inode, IN_MODIFY | IN_ATTRIB)
    for mask in (IN_MODIFY, IN_MODIFY, IN_ATTRIB, IN_MODIFY):
        happen(inode, mask)
    assert [event[1] for event in events(guest, file)] == [IN_MODIFY, IN_ATTRIB, IN_MODIFY]  # type: ignore[union-attr]
    assert wd == 1


def test_masks_are_replaced_or_added_to() -> None:
    guest, file, inode = setup()
    wd = file.add_watch(inode, IN_OPEN)
    assert file.add_watch(inode, IN_MODIFY) == wd
    happen(inode, IN_OPEN)
    assert events(guest, file) == -EAGAIN
    file.add_watch(inode, IN_OPEN | IN_MASK_ADD)
    happen(inode, IN_OPEN)
    happen(inode, IN_MODIFY)
    assert len(events(guest, file)) == 2  # type: ignore[arg-type]
    with pytest.raises(LinuxError) as caught:
        file.add_watch(inode, IN_OPEN | IN_MASK_CREATE)
    assert caught.value.errno == EEXIST


def test_ends_of_watches() -> None:
    guest, file, inode = setup()
    wd = file.add_watch(inode, IN_OPEN | IN_ONESHOT)
    happen(inode, IN_OPEN)
    assert events(guest, file) == [(wd, IN_OPEN, 0, b""), (wd, IN_IGNORED, 0, b"")]
    assert inode.watches is None
    wd = file.add_watch(inode, IN_DELETE_SELF)
    happen(inode, IN_DELETE_SELF)
    assert events(guest, file) == [(wd, IN_DELETE_SELF, 0, b""), (wd, IN_IGNORED, 0, b"")]
    wd = file.add_watch(inode, IN_OPEN)
    assert wd == 3
    assert guest.call(sys_inotify_rm_watch, 0, wd) == 0
    assert events(guest, file) == [(wd, IN_IGNORED, 0, b"")]
    assert guest.call(sys_inotify_rm_watch, 0, wd) == -EINVAL


def test_overflow() -> None:
    guest, file, inode = setup()
    file.add_watch(inode, IN_OPEN | IN_MODIFY)
    for index in range(MAX_QUEUED_EVENTS + 10):
        happen(inode, IN_OPEN if index % 2 else IN_MODIFY)
    assert len(file.events) == MAX_QUEUED_EVENTS + 1
    found = events(guest, file, 1 << 20)
    assert isinstance(found, list)
    assert found[-1] == (-1, IN_Q_OVERFLOW, 0, b"")


def test_two_instances_see_the_same() -> None:
    guest, file, inode = setup()
    other = create_inotify(guest.kernel, 0, 0)
    assert other is not None
    other.get()
    file.add_watch(inode, IN_OPEN)
    other.add_watch(inode, IN_OPEN)
    happen(inode, IN_OPEN)
    assert len(events(guest, file)) == len(events(guest, other)) == 1  # type: ignore[arg-type]
    other.put()
    happen(inode, IN_OPEN)
    assert len(events(guest, file)) == 1  # type: ignore[arg-type]


def test_masks_and_instances_are_limited() -> None:
    assert check_mask(0) == -EINVAL
    assert check_mask(IN_MASK_ADD | IN_MASK_CREATE | IN_OPEN) == -EINVAL
    assert check_mask(IN_OPEN) == 0
    guest, _file, _inode = setup()
    assert guest.call(sys_inotify_init1, 1) == -EINVAL
    for _index in range(127):
        assert guest.call(sys_inotify_init1, 0) >= 0
    assert guest.call(sys_inotify_init1, 0) == -24
    guest.task.files.close(guest.task, 5)
    assert guest.call(sys_inotify_init1, 0) == 5
