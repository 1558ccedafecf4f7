"""setsockopt and getsockopt: decode lengths and pointers; the options themselves are in net."""

from typing import Final

from cloche.abi.errno import EINVAL, LinuxError
from cloche.abi.structs import pack_u32
from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.task import Task
from cloche.net.socket_options import OptionRange
from cloche.syscalls.sys_socket import socket_arg

_LONGEST: Final = 65536


def sys_setsockopt(task: Task, args: Args) -> int:
    """setsockopt(2)."""
    sock = socket_arg(task, args.a0)
    length = to_i32(args.a4)
    if length < 0:
        return -EINVAL
    value = task.user_memory().read(to_u64(args.a3), min(length, _LONGEST)) if length else b""
    return sock.setsockopt(task, to_i32(args.a1), to_i32(args.a2), value)


def sys_getsockopt(task: Task, args: Args) -> int:
    """getsockopt(2)."""
    sock = socket_arg(task, args.a0)
    memory = task.user_memory()
    pointer = to_u64(args.a4)
    length = memory.read_i32(pointer)
    asked = sock.question_size(to_i32(args.a1), to_i32(args.a2))
    if asked:
        if length < asked:
            return -EINVAL
        question = memory.read(to_u64(args.a3), asked)
        value = sock.answer(task, to_i32(args.a1), to_i32(args.a2), question)
        memory.write(pointer, pack_u32(len(value)))
        memory.write(to_u64(args.a3), value)  # the value itself says for how many sources there is room
        return 0
    try:  # a negative length is refused by the level, if that exists
        value = sock.getsockopt(task, to_i32(args.a1), to_i32(args.a2), length)
    except LinuxError as error:
        if isinstance(error, OptionRange):
            memory.write(pointer, pack_u32(error.needed))
        return -error.errno
    shown = value[:length] if length >= 0 else value
    memory.write(pointer, pack_u32(len(shown)))
    memory.write(to_u64(args.a3), shown)
    return 0
