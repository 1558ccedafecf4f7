"""Opening files that are neither regular files nor directories: device nodes by number, fifos, sockets.

Owns the registry.  File systems call `open_special` from `Inode.open`; boot registers the openers.
"""

from collections.abc import Callable
from typing import Final

from cloche.abi.errno import ENXIO, LinuxError
from cloche.abi.stat import S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT, major, minor
from cloche.vfs.objects import Context, FileDescription, Inode, Path

# (ctx, path, inode, flags) -> a new open file description.  Raises LinuxError.
Opener = Callable[[Context, Path, Inode, int], FileDescription]

_char: Final[dict[tuple[int, int], Opener]] = {}
_block: Final[dict[tuple[int, int], Opener]] = {}
_fifo: Final[list[Opener]] = []  # at most one

ANY_MINOR: Final = -1


def register_char_device(major_number: int, minor_number: int, opener: Opener) -> None:
    """Serve character devices with this number; ANY_MINOR for all minors that have no opener of their own."""
    _char[(major_number, minor_number)] = opener


def register_fifo_opener(opener: Opener) -> None:
    """Serve fifos; replaces an earlier registration. If the new description must wait for its peer, the caller does
    so.
    """
    _fifo[:] = [opener]


def find_device(mode: int, rdev: int) -> Opener | None:
    """The opener of a device node of this type and number."""
    table = _char if mode & S_IFMT == S_IFCHR else _block
    number = major(rdev)
    opener = table.get((number, minor(rdev)))
    return opener if opener is not None else table.get((number, ANY_MINOR))


def open_special(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    """Open a device node, fifo or socket inode.  Raises LinuxError(ENXIO) for sockets and absent devices."""
    kind = inode.mode & S_IFMT
    opener: Opener | None = None
    if kind == S_IFCHR or kind == S_IFBLK:
        opener = find_device(inode.mode, inode.rdev)
    elif kind == S_IFIFO and _fifo:
        opener = _fifo[0]
    if opener is None:
        raise LinuxError(ENXIO)
    return opener(ctx, path, inode, flags)
