"""A tmpfs that begins with what the directory below it has: the option `tmpcopyup` of OCI runtimes.

Source: the runtime specification says nothing of it; runc's libcontainer and crun copy directories, regular files and
symbolic links with their modes and owners, before the tmpfs is seen.  So does this; other kinds are left out.
"""

from typing import Final

from cloche.abi.errno import EFBIG, LinuxError
from cloche.abi.fcntl import O_CREAT, O_DIRECTORY, O_EXCL, O_RDONLY, O_WRONLY
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.listing import Names
from cloche.vfs.namei import do_open, path_lookup, vfs_mkdir, vfs_symlink
from cloche.vfs.objects import Context, FileDescription, Inode, Path
from cloche.vfs.opening import open_path
from cloche.vfs.records import ATTR_GID, ATTR_MODE, ATTR_UID, SetAttr

MAX_ENTRIES: Final = 100_000
_CHUNK_BYTES: Final = 1 << 20
_LIST: Final = 1 << 10


def copy_below(ctx: Context, source: Path, top: bytes) -> None:
    """Copy what the directory `source` has into the file system mounted at `top`.

    Raises LinuxError: ENOSPC where the tmpfs is too small, EFBIG for more than MAX_ENTRIES entries.
    """
    left = MAX_ENTRIES
    waiting: list[tuple[Path, bytes]] = [(source, top)]
    while waiting:
        directory, target = waiting.pop()
        for name in _names(ctx, directory):
            left -= 1
            if left < 0:
                raise LinuxError(EFBIG)
            found = path_lookup(ctx, directory, name, 0)
            inode = found.inode()
            made = target + b"/" + name
            if inode.is_dir():
                vfs_mkdir(ctx, None, made, 0o700)
                waiting.append((found, made))
            elif inode.is_symlink():
                vfs_symlink(ctx, inode.readlink(ctx), None, made)
            elif inode.is_regular():
                _copy_file(ctx, found, made)
            else:
                continue
            _give(ctx, inode, made)


def _names(ctx: Context, directory: Path) -> list[bytes]:
    file = open_path(ctx, directory, O_RDONLY | O_DIRECTORY).get()
    found: list[bytes] = []
    try:
        while True:
            names = Names(_LIST)
            result = file.iterate(ctx, names)
            if result < 0:
                raise LinuxError(-result)
            found += [name for name in names.names if name not in (b".", b"..")]
            if not names.names or len(found) > MAX_ENTRIES:
                return found
    finally:
        file.put()


def _copy_file(ctx: Context, source: Path, target: bytes) -> None:
    ours = open_path(ctx, source, O_RDONLY).get()
    try:
        made: FileDescription = do_open(ctx, None, target, O_WRONLY | O_CREAT | O_EXCL, 0o600).get()
        try:
            offset = 0
            while data := ours.read_bytes(ctx, offset, _CHUNK_BYTES):
                done = made.pwrite(ctx, KernelIovIter(data), offset)
                if done < 0:
                    raise LinuxError(-done)
                offset += done
        finally:
            made.put()
    finally:
        ours.put()


def _give(ctx: Context, inode: Inode, target: bytes) -> None:
    """Owner and mode; of a symbolic link the owner alone."""
    attr = SetAttr(ATTR_UID | ATTR_GID | (0 if inode.is_symlink() else ATTR_MODE))
    attr.mode, attr.uid, attr.gid = inode.mode & 0o7777, inode.uid, inode.gid
    path_lookup(ctx, None, target, 0).inode().setattr(ctx, attr)
