"""pipe and pipe2."""

from typing import Final

from cloche.abi.errno import EINVAL, LinuxError
from cloche.abi.fcntl import O_CLOEXEC, O_DIRECT, O_NONBLOCK
from cloche.abi.structs import pack_u32
from cloche.fs.pipe import create_pipe
from cloche.kernel.args import Args, to_u32, to_u64
from cloche.kernel.task import Task

_FLAGS: Final = O_CLOEXEC | O_NONBLOCK | O_DIRECT


def sys_pipe(task: Task, args: Args) -> int:
    """pipe(2)."""
    return _pipe(task, to_u64(args.a0), 0)


def sys_pipe2(task: Task, args: Args) -> int:
    """pipe2(2)."""
    return _pipe(task, to_u64(args.a0), to_u32(args.a1))


def _pipe(task: Task, addr: int, flags: int) -> int:
    if flags & ~_FLAGS:
        return -EINVAL
    reader, writer = create_pipe(task.kernel, task, flags)
    is_cloexec = flags & O_CLOEXEC != 0
    files = task.files
    limit = task.nofile_limit()
    reader.get()
    writer.get()
    read_fd = -1
    write_fd = -1
    try:
        read_fd = files.install(reader, limit, is_cloexec=is_cloexec)
        write_fd = files.install(writer, limit, is_cloexec=is_cloexec)
        task.user_memory().write(addr, pack_u32(read_fd) + pack_u32(write_fd))
    except LinuxError as error:
        if write_fd >= 0:
            files.close(task, write_fd)
        if read_fd >= 0:
            files.close(task, read_fd)
        return -error.errno
    finally:
        reader.put()
        writer.put()
    return 0
