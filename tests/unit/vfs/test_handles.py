"""File handles are bounded: the oldest of a file system is dropped when there are too many."""

import pytest

from cloche.abi.errno import ENOMEM, ESTALE, LinuxError
from cloche.abi.stat import S_IFREG
from cloche.vfs.handles import FILEID_INO32_GEN, MAX_HANDLES, HandleNumbers, HandleTable
from cloche.vfs.objects import Dentry, FileSystem, Inode


def named(fs: FileSystem, ino: int) -> Dentry:
    return Dentry(b"%d" % ino, None, Inode(fs, ino, S_IFREG))


def test_the_oldest_goes() -> None:
    fs = FileSystem("test", 0, 1)
    numbers = HandleNumbers()
    table = HandleTable(numbers)
    dentries = [named(fs, ino) for ino in range(MAX_HANDLES + 1)]
    handles = [table.encode(dentry) for dentry in dentries]
    assert numbers.count == MAX_HANDLES
    with pytest.raises(LinuxError) as caught:
        table.decode(FILEID_INO32_GEN, handles[0])
    assert caught.value.errno == ESTALE
    assert table.decode(FILEID_INO32_GEN, handles[1]) is dentries[1]
    assert table.decode(FILEID_INO32_GEN, handles[-1]) is dentries[-1]
    other = HandleTable(numbers)
    with pytest.raises(LinuxError) as caught:
        other.encode(named(FileSystem("other", 0, 2), 1))
    assert caught.value.errno == ENOMEM
    table.forget_all()
    assert numbers.count == 0
    number = other.encode(named(FileSystem("other", 0, 2), 1))
    assert number not in handles, "never given twice"
