"""The table of file descriptors of a task (struct files_struct), shared by CLONE_FILES.

Owns references to open file descriptions.  Descriptor numbers are the guest's own and never reach the host (I2).

A table may have a million numbers, so nothing looks at each in one go (I8).  It consists of blocks, of each of which
it is known how many numbers are taken: the lowest free one is looked up, not searched.  A fork shares all blocks; who
changes one has a copy of its own then.  A block holds one reference to each of its files, however many tables share it.
"""

from typing import Final

from cloche.abi.errno import EBADF, EMFILE, ENFILE, ENOMEM, LinuxError
from cloche.mm.quota import DESCRIPTOR_BLOCK_BYTES, DESCRIPTOR_PLACE_BYTES, FILE_BYTES, KERNEL_MEMORY
from cloche.vfs.locks import release_posix_locks
from cloche.vfs.objects import Context, FileDescription, Holder

_BITS: Final = 6
_BLOCK: Final = 1 << _BITS
_MASK: Final = _BLOCK - 1
_NONE: Final[list[FileDescription | None]] = [None] * _BLOCK


class FdBlock:
    """Some numbers in a row."""

    def __init__(self, files: list[FileDescription | None]) -> None:
        self.files: list[FileDescription | None] = files
        self.used: int = 0  # how many are open
        self.cloexec: int = 0  # a bit for each
        self.tables: int = 1  # that have it: more than one must not change it

    def copy(self) -> "FdBlock":
        """The same files, with references of its own."""
        new = FdBlock(list(self.files))
        new.used = self.used
        new.cloexec = self.cloexec
        if self.used:
            for file in new.files:
                if file is not None:
                    file.refs += 1
        return new

    def leave(self) -> None:
        """One table less; with the last one the files lose a reference."""
        self.tables -= 1
        if self.tables == 0 and self.used:
            for file in self.files:
                if file is not None:
                    file.put()


def _make_empty() -> FdBlock:
    empty = FdBlock(list(_NONE))
    empty.tables = 2  # never changed
    return empty


_EMPTY: Final = _make_empty()  # stands where nothing is open, and is in any number of tables


class FdTable(Holder):
    """Lowest-free allocation under RLIMIT_NOFILE; a close-on-exec flag per descriptor."""

    def __init__(self) -> None:
        self.blocks: list[FdBlock] = []
        self.size: int = 0  # all numbers that were ever open are below it
        self.count: int = 0  # how many are open
        self.next_hint: int = 0  # no free descriptor below it
        self.held: int = 0  # what it has charged
        self.users: int = 1  # tasks that share the table

    def get(self, fd: int) -> FileDescription:
        """The open file, O_PATH ones included.  Raises LinuxError(EBADF)."""
        if 0 <= fd < self.size:
            file = self.blocks[fd >> _BITS].files[fd & _MASK]
            if file is not None:
                return file
        raise LinuxError(EBADF)

    def find(self, fd: int) -> FileDescription | None:
        """The open file or None; for paths that fail often."""
        return self.blocks[fd >> _BITS].files[fd & _MASK] if 0 <= fd < self.size else None

    def is_cloexec(self, fd: int) -> bool:
        """Whether execve closes it."""
        return 0 <= fd < self.size and self.blocks[fd >> _BITS].cloexec >> (fd & _MASK) & 1 != 0

    def set_cloexec(self, fd: int, *, is_cloexec: bool) -> None:
        """Change that of an open descriptor."""
        if self.is_cloexec(fd) != is_cloexec:
            self._own(fd >> _BITS).cloexec ^= 1 << (fd & _MASK)

    def install(self, file: FileDescription, limit: int, *, lowest: int = 0, is_cloexec: bool = False) -> int:
        """Take a reference and the lowest free number from `lowest`.

        Raises LinuxError: EMFILE at `limit`, ENFILE when the sandbox has no room for more.
        """
        fd = self._first_free(max(lowest, self.next_hint))
        if fd >= limit:
            raise LinuxError(EMFILE)
        if not KERNEL_MEMORY.has_room(self._needs(fd)):
            raise LinuxError(ENFILE)
        if lowest <= self.next_hint:
            self.next_hint = fd + 1
        self._put(fd, file, is_cloexec)
        return fd

    def _first_free(self, fd: int) -> int:
        """The lowest number from `fd` on that is not open."""
        blocks = self.blocks
        index = fd >> _BITS
        while index < len(blocks):
            block = blocks[index]
            if block.used < _BLOCK:
                for at in range(fd & _MASK, _BLOCK):
                    if block.files[at] is None:
                        return index << _BITS | at
            index += 1
            fd = index << _BITS
        return fd

    def _needs(self, fd: int) -> int:
        """How much more there is to remember once `fd` is open."""
        index = fd >> _BITS
        more = index + 1 - len(self.blocks)
        if more > 0:
            return DESCRIPTOR_BLOCK_BYTES + DESCRIPTOR_PLACE_BYTES * more
        return DESCRIPTOR_BLOCK_BYTES if self.blocks[index] is _EMPTY else 0

    def reserve(self, limit: int) -> None:
        """Raises LinuxError(EMFILE or ENFILE) if `install` would: to ask before an open has effects."""
        if not KERNEL_MEMORY.has_room(FILE_BYTES + DESCRIPTOR_BLOCK_BYTES + DESCRIPTOR_PLACE_BYTES):
            raise LinuxError(ENFILE)
        if self.count >= limit and self._first_free(self.next_hint) >= limit:
            raise LinuxError(EMFILE)

    def install_at(self, ctx: Context, fd: int, file: FileDescription, *, is_cloexec: bool = False) -> None:
        """dup2: replace what `fd` holds.  The caller has checked the limit.  Raises LinuxError(ENOMEM)."""
        if not KERNEL_MEMORY.has_room(self._needs(fd)):
            raise LinuxError(ENOMEM)
        old = self.find(fd)
        self._put(fd, file, is_cloexec)
        if old is not None:
            self.closed(ctx, old)

    def _charge(self, count: int) -> None:
        self.held += count
        KERNEL_MEMORY.take(count)

    def _own(self, index: int) -> FdBlock:
        """A block that may be changed; there was room for it."""
        block = self.blocks[index]
        if block.tables == 1:
            return block
        if block is _EMPTY:
            self._charge(DESCRIPTOR_BLOCK_BYTES)
        else:
            block.tables -= 1
        new = block.copy()
        self.blocks[index] = new
        return new

    def _put(self, fd: int, file: FileDescription, is_cloexec: bool) -> None:
        index, at = fd >> _BITS, fd & _MASK
        more = index + 1 - len(self.blocks)
        if more > 0:
            self._charge(DESCRIPTOR_PLACE_BYTES * more)
            self.blocks.extend([_EMPTY] * more)
        if fd >= self.size:
            self.size = fd + 1
        block = self._own(index)
        if block.files[at] is None:
            block.used += 1
            self.count += 1
        block.files[at] = file.get()
        if is_cloexec:
            block.cloexec |= 1 << at
        else:
            block.cloexec &= ~(1 << at)

    def close(self, ctx: Context, fd: int) -> int:
        """close(2): the result of the file's flush.  Raises LinuxError(EBADF)."""
        file = self.get(fd)
        self._take(fd)
        return self.closed(ctx, file)

    def _take(self, fd: int) -> None:
        """`fd` is free; the reference of its file is the caller's."""
        block, at = self._own(fd >> _BITS), fd & _MASK
        block.files[at] = None
        block.used -= 1
        block.cloexec &= ~(1 << at)
        self.count -= 1
        if fd < self.next_hint:
            self.next_hint = fd

    def lost(self, ctx: Context, file: FileDescription) -> int:
        """This table has lost a descriptor of `file`: its POSIX locks go, even if others are left.  Flush's result."""
        if file.inode.locks is not None:
            release_posix_locks(file.inode, self)
        watches = file.inode.watches
        if watches is not None:
            watches.descriptor_closed(file, self)
        return file.flush(ctx)

    def closed(self, ctx: Context, file: FileDescription) -> int:
        """The same, and with the descriptor goes a reference."""
        result = self.lost(ctx, file)
        file.put()
        return result

    def leave(self, ctx: Context, block: FdBlock) -> int:
        """Close what is open in a block that was taken out; how many that were."""
        if block.used:
            for file in block.files:
                if file is not None:
                    self.lost(ctx, file)
        block.leave()
        return block.used

    def close_from(self, ctx: Context, start: int) -> int:
        """Close some descriptors from `start` on, those that stand together; where the rest begins, -1 at the end."""
        index = start >> _BITS
        while index < len(self.blocks):
            block = self.blocks[index]
            index += 1
            if block is not _EMPTY:
                self.blocks[index - 1] = _EMPTY
                self._charge(-DESCRIPTOR_BLOCK_BYTES)
                self.count -= block.used
                self.next_hint = min(self.next_hint, (index - 1) << _BITS)
                self.leave(ctx, block)
                break
        return index << _BITS if index < len(self.blocks) else -1

    def descriptors_from(self, start: int, most: int) -> list[int]:
        """The first open descriptors from `start` on, in order."""
        found: list[int] = []
        fd = max(start, 0)
        while fd < self.size and len(found) < most:
            block = self.blocks[fd >> _BITS]
            if block.used == 0:
                fd = ((fd >> _BITS) + 1) << _BITS
                continue
            if block.files[fd & _MASK] is not None:
                found.append(fd)
            fd += 1
        return found

    def descriptors(self) -> list[int]:
        """Open descriptors in order."""
        return self.descriptors_from(0, self.size)

    def marked(self) -> list[int]:
        """Those that execve closes, in order."""
        return [fd for fd in self.descriptors() if self.is_cloexec(fd)]

    def _trim(self) -> None:
        """Forget free places at the end."""
        blocks = self.blocks
        keep = len(blocks)
        while keep and blocks[keep - 1].used == 0:
            keep -= 1
        gone = blocks[keep:]
        del blocks[keep:]
        self.size = min(self.size, keep << _BITS)
        while self.size and blocks[-1].files[self.size - 1 & _MASK] is None:
            self.size -= 1
        freed = DESCRIPTOR_PLACE_BYTES * len(gone)
        for block in gone:
            if block is not _EMPTY:
                freed += DESCRIPTOR_BLOCK_BYTES
                block.leave()
        self._charge(-freed)

    def check_clone(self) -> None:
        """Before `clone`.  Raises LinuxError(ENOMEM)."""
        self._trim()
        if not KERNEL_MEMORY.has_room(self.held):
            raise LinuxError(ENOMEM)

    def clone(self) -> "FdTable":
        """A copy for fork: same descriptions, own table.  All of it is charged: changing it must not fail."""
        self._trim()
        new = FdTable()
        new.blocks = list(self.blocks)
        new.size = self.size
        new.count = self.count
        new.next_hint = self.next_hint
        new._charge(self.held)
        for block in new.blocks:
            if block is not _EMPTY:
                block.tables += 1
        return new

    def abandon(self) -> None:
        """Undo `clone`, or the count of a further user, before the table was used."""
        self.users -= 1
        if self.users:
            return
        for block in self.take_all():
            block.leave()

    def take_marked(self, start: int, most: int) -> tuple[int, list[FileDescription]]:
        """Take out what is to be closed at execve, from `start` on and not much more than `most`: where the rest
        begins, -1 at the end; the caller calls `closed` for each.
        """
        taken: list[FileDescription] = []
        index = start >> _BITS
        while index < len(self.blocks):
            if self.blocks[index].cloexec:
                if len(taken) >= most:
                    return index << _BITS, taken
                block = self._own(index)
                for at in range(_BLOCK):
                    file = block.files[at]
                    if block.cloexec >> at & 1 and file is not None:
                        taken.append(file)
                        self._take(index << _BITS | at)
            index += 1
        return -1, taken

    def close_all(self, ctx: Context) -> None:
        """Close every descriptor, for a table that nobody uses."""
        for block in self.take_all():
            self.leave(ctx, block)

    def take_all(self) -> list[FdBlock]:
        """At the exit of the last user; the caller calls `leave` for each."""
        blocks = self.blocks
        self.blocks = []
        self.size = self.count = self.next_hint = 0
        self._charge(-self.held)
        return [block for block in blocks if block is not _EMPTY]
