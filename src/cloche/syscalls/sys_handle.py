"""name_to_handle_at and open_by_handle_at (fs/fhandle.c); handles themselves are in `vfs.handles`."""

from typing import Final

from cloche.abi.capability import CAP_DAC_READ_SEARCH
from cloche.abi.errno import EINVAL, ENOTDIR, EOPNOTSUPP, EOVERFLOW, EPERM, ESTALE
from cloche.abi.fcntl import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_HANDLE_FID,
    AT_HANDLE_MNT_ID_UNIQUE,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
    O_CLOEXEC,
    O_DIRECTORY,
    O_LARGEFILE,
)
from cloche.abi.structs import FILE_HANDLE, FILE_HANDLE_SIZE
from cloche.fs.proc_mounts import unique_id
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import block_on
from cloche.kernel.task import Task
from cloche.syscalls.args import data_file, path_at, path_of_file
from cloche.syscalls.leases import LeaseWait
from cloche.syscalls.sys_fd import OpenWait
from cloche.vfs.handles import (
    FILEID_INO32_GEN,
    FILEID_INO64_GEN,
    HANDLE_SIZE,
    HandleTable,
    handles_of,
    identity,
)
from cloche.vfs.leases import LeaseBroken
from cloche.vfs.namei import open_path
from cloche.vfs.objects import Path

_MAX_HANDLE: Final = 128  # MAX_HANDLE_SZ
_FLAGS: Final = AT_SYMLINK_FOLLOW | AT_EMPTY_PATH | AT_HANDLE_FID | AT_HANDLE_MNT_ID_UNIQUE


def sys_name_to_handle_at(task: Task, args: Args) -> int:
    """name_to_handle_at(2); with EOVERFLOW the needed size is returned."""
    flags = to_i32(args.a4)
    if flags & ~_FLAGS:
        return -EINVAL
    at_flags = flags & AT_EMPTY_PATH
    if flags & AT_SYMLINK_FOLLOW == 0:
        at_flags |= AT_SYMLINK_NOFOLLOW
    path = path_at(task, args.a0, args.a1, at_flags)
    table = handles_of(task.kernel.handles, path.inode().fs)
    if table is None and flags & AT_HANDLE_FID == 0:
        return -EOPNOTSUPP
    mem = task.user_memory()
    pointer = to_u64(args.a2)
    room, _kind = FILE_HANDLE.unpack(mem.read(pointer, FILE_HANDLE_SIZE))
    if room > _MAX_HANDLE:
        return -EINVAL
    if room < HANDLE_SIZE:
        kind, handle = 0xFF, b""  # FILEID_INVALID
    elif table is not None:
        kind, handle = FILEID_INO32_GEN, table.encode(path.dentry)
    else:
        kind, handle = FILEID_INO64_GEN, identity(path.inode())
    if flags & AT_HANDLE_MNT_ID_UNIQUE:
        mem.write_u64(to_u64(args.a3), unique_id(path.mount))
    else:
        mem.write_i32(to_u64(args.a3), path.mount.ident)
    mem.write(pointer, FILE_HANDLE.pack(HANDLE_SIZE, kind) + handle)
    return 0 if handle else -EOVERFLOW


def sys_open_by_handle_at(task: Task, args: Args) -> int:
    """open_by_handle_at(2), for callers that may read and search every directory."""
    is_here = to_i32(args.a0) == AT_FDCWD
    anchor = task.fs.cwd if is_here else path_of_file(data_file(task, args.a0))
    if not task.creds.capable(CAP_DAC_READ_SEARCH):
        return -EPERM
    mem = task.user_memory()
    pointer = to_u64(args.a1)
    size, kind = FILE_HANDLE.unpack(mem.read(pointer, FILE_HANDLE_SIZE))
    if size == 0 or size > _MAX_HANDLE:
        return -EINVAL
    raw = mem.read(pointer + FILE_HANDLE_SIZE, size)
    table = anchor.mount.fs.handles
    if not isinstance(table, HandleTable):
        return -ESTALE
    path = Path(anchor.mount, table.decode(kind, raw))
    flags = to_u32(args.a2)
    if flags & O_DIRECTORY and not path.inode().is_dir():
        return -ENOTDIR
    try:
        return open_found(task, path, flags)
    except LeaseBroken as broken:
        return HandleLeaseWait(path, flags).start(task, broken)


def open_found(task: Task, path: Path, flags: int) -> int:
    """Open and install."""
    file = open_path(task, path, flags | O_LARGEFILE)
    is_cloexec = flags & O_CLOEXEC != 0
    if file.open_is_pending(task):
        queue = file.wait_queue()
        if queue is not None:
            return block_on(task, OpenWait(file, is_cloexec=is_cloexec), queue)
    return task.files.install(file, task.nofile_limit(), is_cloexec=is_cloexec)


class HandleLeaseWait(LeaseWait):
    """An open by a handle that waits until others give up their leases. It is a regular file, so the open waits for
    nothing else.
    """

    def __init__(self, place: Path, flags: int) -> None:
        super().__init__()
        self.place: Path = place
        self.flags: int = flags

    def act(self, task: Task) -> int:
        return open_found(task, self.place, self.flags)
