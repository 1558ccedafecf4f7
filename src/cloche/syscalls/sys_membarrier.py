"""membarrier(2): memory barriers in the other threads of a process.

Every guest thread is a thread of the host, so one barrier of the host in all of them serves every command.  Core
serialisation and restartable sequences are not offered, as by a kernel without these options.
"""

from typing import Final

from cloche.abi.errno import EINVAL, ENOSYS, EPERM
from cloche.kernel.args import Args, to_i32, to_u32
from cloche.kernel.task import Task

QUERY: Final = 0
GLOBAL: Final = 1
GLOBAL_EXPEDITED: Final = 2
REGISTER_GLOBAL_EXPEDITED: Final = 4
PRIVATE_EXPEDITED: Final = 8
REGISTER_PRIVATE_EXPEDITED: Final = 16
GET_REGISTRATIONS: Final = 512
_COMMANDS: Final = (
    GLOBAL
    | GLOBAL_EXPEDITED
    | REGISTER_GLOBAL_EXPEDITED
    | PRIVATE_EXPEDITED
    | REGISTER_PRIVATE_EXPEDITED
    | GET_REGISTRATIONS
)


def sys_membarrier(task: Task, args: Args) -> int:
    """membarrier(2); ENOSYS where the host has no such barrier."""
    command = to_i32(args.a0)
    platform = task.kernel.platform
    if command in (QUERY, REGISTER_GLOBAL_EXPEDITED, REGISTER_PRIVATE_EXPEDITED) and not platform.barrier():
        return -ENOSYS
    if to_u32(args.a1):
        return -EINVAL
    if command == QUERY:
        return _COMMANDS
    if command == GLOBAL or command == GLOBAL_EXPEDITED:
        return 0 if platform.barrier() else -ENOSYS
    if command == PRIVATE_EXPEDITED:
        if not task.mm.membarriers & REGISTER_PRIVATE_EXPEDITED:
            return -EPERM
        return 0 if platform.barrier() else -ENOSYS
    if command == REGISTER_GLOBAL_EXPEDITED or command == REGISTER_PRIVATE_EXPEDITED:
        task.mm.membarriers |= command
        return 0
    if command == GET_REGISTRATIONS:
        return task.mm.membarriers
    return -EINVAL
