"""An object that an area of memory maps: an open file, or shared anonymous memory held in a memfd."""

import os
import resource
from typing import Final

from cloche.abi.errno import ENOMEM, LinuxError
from cloche.abi.fs import MS_NOEXEC
from cloche.abi.mman import PROT_EXEC, PROT_READ, PROT_WRITE
from cloche.mm.area import Mappable
from cloche.mm.handle import Memfd
from cloche.mm.quota import DESCRIPTORS
from cloche.mm.text import PatchedText
from cloche.vfs.objects import Context, FileDescription


class FileMapping(Mappable):
    """An open file as the backing of areas; holds one reference to it for as long as any area does."""

    def __init__(self, ctx: Context, file: FileDescription, name: bytes) -> None:
        self.file: FileDescription = file
        self._ctx: Context | None = ctx
        self._name: bytes = name
        self._refs: int = 0
        self.host_fd: int = -1  # the result of map_fd; owned by the file
        path = file.path
        is_noexec = path is not None and path.mount.flags & MS_NOEXEC != 0
        self._may_exec: int = 0 if is_noexec else PROT_EXEC  # VM_MAYEXEC, likewise
        self._may_write: bool = False  # VM_MAYWRITE of a shared mapping, as it was when it was made

    def map_fd(self, prot: int, flags: int) -> int:
        ctx = self._ctx
        assert ctx is not None
        self._ctx = None  # needed only once, by mmap itself
        self.host_fd = self.file.mmap_fd(ctx, prot, flags)
        self._may_write = self.file.may_map_for_writing()
        return self.host_fd

    def map_text(self) -> PatchedText | None:
        return self.file.patched_text()

    def map_get(self) -> None:
        self._refs += 1
        if self._refs == 1:
            self.file.get()

    def map_put(self) -> None:
        self._refs -= 1
        if self._refs == 0:
            self.file.put()

    def map_memory(self) -> int:
        # The host's programs may truncate the host's files at any moment.
        return self.host_fd if self._may_write and self.file.inode.fs.kind == "tmpfs" else -1

    def map_is_slow(self) -> bool:
        return self.file.has_slow_storage()

    def map_identity(self) -> tuple[int, int]:
        return self.file.inode.dev(), self.file.inode.ino

    def map_name(self) -> bytes:
        return self._name

    def map_max_prot(self) -> int:
        return PROT_READ | self._may_exec | (PROT_WRITE if self._may_write else 0)


MAX_SHARED: Final = 16384


class SharedMemory:
    """The memfds of all shared anonymous memory. Guests fill them without system calls, so their sizes have to be
    measured.
    """

    def __init__(self) -> None:
        self.handles: dict[Memfd, str] = {}  # each with the id of its container

    def used_bytes(self, owner: str) -> int:
        """How much of the host's memory a container's memfds take."""
        blocks = 0
        for each, whose in self.handles.items():
            if whose == owner:
                blocks += os.fstat(each.fd).st_blocks
        return blocks * 512


SHARED_MEMORY: Final = SharedMemory()


class SharedAnonymous(Mappable):
    """MAP_SHARED|MAP_ANONYMOUS: a memfd, so that children and their parent see the same pages.

    Raises LinuxError(ENOMEM) when there are too many.
    """

    def __init__(self, dev: int, ino: int, length_bytes: int, owner: str) -> None:
        self._dev: int = dev
        self._ino: int = ino
        self._refs: int = 0
        self._memory: Memfd = Memfd("cloche-shared", os.MFD_CLOEXEC)
        if len(SHARED_MEMORY.handles) >= min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, MAX_SHARED):
            raise LinuxError(ENOMEM)
        try:
            self._memory.reopen()
            if not DESCRIPTORS.has_spare(self._memory.fd):
                raise LinuxError(ENOMEM)  # and it is closed again
            os.ftruncate(self._memory.fd, length_bytes)
        except OSError:
            raise LinuxError(ENOMEM)
        SHARED_MEMORY.handles[self._memory] = owner

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        SHARED_MEMORY.handles.pop(self._memory, None)
        self._memory.close()

    def map_fd(self, prot: int, flags: int) -> int:
        return self._memory.fd

    def map_get(self) -> None:
        self._refs += 1

    def map_put(self) -> None:
        self._refs -= 1
        if self._refs == 0:
            self._close()

    def map_memory(self) -> int:
        return self._memory.fd

    def map_identity(self) -> tuple[int, int]:
        return self._dev, self._ino

    def map_name(self) -> bytes:
        return b"/dev/zero (deleted)"

    def map_max_prot(self) -> int:
        return PROT_READ | PROT_WRITE | PROT_EXEC
