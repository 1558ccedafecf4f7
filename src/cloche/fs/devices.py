"""The memory devices: null, zero, full, random, urandom; and /dev/tty, /dev/console and /dev/ptmx by number.

`register_devices` is called by boot once; the nodes themselves are made with /dev, with the numbers of
Documentation/admin-guide/devices.txt.
"""

import os
from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import EINVAL, ENOMEM, ENOSPC, ENOTTY, EPERM, LinuxError
from cloche.abi.ioctl import (
    RNDADDENTROPY,
    RNDADDTOENTCNT,
    RNDCLEARPOOL,
    RNDGETENTCNT,
    RNDRESEEDCRNG,
    RNDZAPENTCNT,
)
from cloche.abi.mman import MAP_PRIVATE, MAP_TYPE
from cloche.abi.poll import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from cloche.fs.tty_files import open_console, open_current_tty, open_ptmx, open_slave
from cloche.mm.handle import Memfd
from cloche.mm.usermem import IovIter
from cloche.vfs.devices import ANY_MINOR, register_char_device
from cloche.vfs.objects import Context, FileDescription, Inode, Path
from cloche.vfs.waitqueue import WaitQueue

_STEP: Final = 65536
_ENTROPY_BITS: Final = 256
_ZERO_BYTES: Final = 1 << 46  # size of a sparse memfd: larger than what can be mapped
_MAX_MEMFDS: Final = 64


class MemoryDevice(FileDescription):
    """Base of the devices of drivers/char/mem.c: positions have no effect, and nothing blocks."""

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        """null_lseek: the position is always 0."""
        self.pos = 0
        return 0

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        return self.pread(ctx, dst, 0, flags)

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        return self.pwrite(ctx, src, 0, flags)

    def takes_slices(self, *, is_write: bool) -> bool:
        return not is_write  # writing takes no time

    def write_continues(self) -> bool:
        return False


class NullDevice(MemoryDevice):
    """/dev/null."""

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        return 0

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        """Accepts everything without reading it: even a bad address succeeds (write_iter_null)."""
        return src.remaining()


class ZeroDevice(MemoryDevice):
    """/dev/zero, and /dev/full for reading."""

    def __init__(self, path: Path, inode: Inode, flags: int) -> None:
        super().__init__(path, inode, flags)
        self.memory: list[Memfd] = []  # behind mappings
        self.private: Memfd | None = None  # the one behind private mappings: never written to

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        done = 0
        while dst.remaining() > 0:
            try:
                count = dst.zero(min(dst.remaining(), _STEP))
            except LinuxError:
                if done == 0:
                    raise
                break
            done += count
            if count == 0 or (done & 0xFFFFF == 0 and ctx.has_pending_signal()):
                break
        return done

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        return src.remaining()

    def mmap_fd(self, ctx: Context, prot: int, flags: int) -> int:
        """A sparse memfd: shared mappings get one each, private ones never write to theirs."""
        if flags & MAP_TYPE == MAP_PRIVATE and self.private is not None:
            return self.private.fd
        if len(self.memory) >= _MAX_MEMFDS:
            raise LinuxError(ENOMEM)
        memory = Memfd("cloche-zero", os.MFD_CLOEXEC)
        memory.reopen()
        self.memory.append(memory)
        os.ftruncate(memory.fd, _ZERO_BYTES)
        if flags & MAP_TYPE == MAP_PRIVATE:
            self.private = memory
        return memory.fd

    def release(self) -> None:
        for memory in self.memory:
            memory.close()
        self.memory.clear()
        self.private = None


class FullDevice(ZeroDevice):
    """/dev/full: zeros to read, no room to write."""

    def takes_nowait(self) -> bool:
        return False

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        return -ENOSPC


class RandomDevice(FileDescription):
    """/dev/random and /dev/urandom, from the host's generator; writes are accepted without effect."""

    def __init__(self, path: Path, inode: Inode, flags: int, *, has_queue: bool) -> None:
        super().__init__(path, inode, flags)
        # Only /dev/random has a poll operation in Linux; it is always ready here.
        self.queue: WaitQueue | None = WaitQueue() if has_queue else None

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        """noop_llseek."""
        return self.pos

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        return self.pread(ctx, dst, 0, flags)

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        return self.pwrite(ctx, src, 0, flags)

    def takes_slices(self, *, is_write: bool) -> bool:
        return True

    def write_continues(self) -> bool:
        return False

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        done = 0
        while dst.remaining() > 0:
            try:
                count = dst.copy_to(os.urandom(min(dst.remaining(), _STEP)))
            except LinuxError:
                if done == 0:
                    raise
                break
            done += count
            if count == 0 or (done & 0xFFFFF == 0 and ctx.has_pending_signal()):
                break
        return done

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        done = 0
        while src.remaining() > 0:
            try:
                count = len(src.copy_from(min(src.remaining(), _STEP)))
            except LinuxError:
                if done == 0:
                    raise
                break
            done += count
            if count == 0:
                break
        return done

    def poll(self, ctx: Context) -> int:
        if self.queue is not None:
            return POLLIN | POLLRDNORM  # random_poll: the generator is seeded
        return POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM

    def wait_queue(self) -> WaitQueue | None:
        return self.queue

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        """random(4)."""
        mem = ctx.user_memory()
        if command == RNDGETENTCNT:
            mem.write_i32(arg, _ENTROPY_BITS)
            return 0
        if command not in (RNDADDTOENTCNT, RNDADDENTROPY, RNDZAPENTCNT, RNDCLEARPOOL, RNDRESEEDCRNG):
            return -ENOTTY
        if not ctx.creds.capable(CAP_SYS_ADMIN):
            return -EPERM
        if command == RNDADDTOENTCNT or command == RNDADDENTROPY:
            return -EINVAL if mem.read_i32(arg) < 0 else 0
        return 0


def _open_null(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    return NullDevice(path, inode, flags)


def _open_zero(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    return ZeroDevice(path, inode, flags)


def _open_full(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    return FullDevice(path, inode, flags)


def _open_random(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    return RandomDevice(path, inode, flags, has_queue=True)


def _open_urandom(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    return RandomDevice(path, inode, flags, has_queue=False)


def register_devices() -> None:
    """Register every character device of the sandbox."""
    register_char_device(1, 3, _open_null)
    register_char_device(1, 5, _open_zero)
    register_char_device(1, 7, _open_full)
    register_char_device(1, 8, _open_random)
    register_char_device(1, 9, _open_urandom)
    register_char_device(5, 0, open_current_tty)
    register_char_device(5, 1, open_console)
    register_char_device(5, 2, open_ptmx)
    register_char_device(136, ANY_MINOR, open_slave)
