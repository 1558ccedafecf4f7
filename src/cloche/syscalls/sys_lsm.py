"""The calls about security modules (lsm_list_modules(2) and friends): capabilities are the only one."""

from struct import Struct
from typing import Final

from cloche.abi.errno import E2BIG, EINVAL, EOPNOTSUPP
from cloche.kernel.args import Args, to_u32, to_u64
from cloche.kernel.task import Task

_MODULES: Final = (100,)  # LSM_ID_CAPABILITY
_CONTEXT: Final = Struct("<QQQQ")  # struct lsm_ctx: id flags len ctx_len
_CONTEXT_BYTES: Final = 32
_PAGE: Final = 4096
_SINGLE: Final = 1  # LSM_FLAG_SINGLE


def sys_lsm_list_modules(task: Task, args: Args) -> int:
    """lsm_list_modules(2)."""
    if to_u32(args.a2):
        return -EINVAL
    mem = task.user_memory()
    room = mem.read_u32(to_u64(args.a1))
    data = b"".join(ident.to_bytes(8, "little") for ident in _MODULES)
    mem.write_u32(to_u64(args.a1), len(data))
    if room < len(data):
        return -E2BIG
    mem.write(to_u64(args.a0), data)
    return len(_MODULES)


def sys_lsm_get_self_attr(task: Task, args: Args) -> int:
    """lsm_get_self_attr(2): no module has attributes."""
    flags, context, size = to_u32(args.a3), to_u64(args.a1), to_u64(args.a2)
    if not to_u32(args.a0) or not size:
        return -EINVAL
    mem = task.user_memory()
    mem.read_u32(size)
    if flags:
        if flags != _SINGLE or not context:
            return -EINVAL
        ident: int = _CONTEXT.unpack(mem.read(context, _CONTEXT_BYTES))[0]
        if not ident:
            return -EINVAL
    mem.write_u32(size, 0)
    return -EOPNOTSUPP


def sys_lsm_set_self_attr(task: Task, args: Args) -> int:
    """lsm_set_self_attr(2): no module has attributes."""
    size = to_u32(args.a2)
    if to_u32(args.a3) or size < _CONTEXT_BYTES:
        return -EINVAL
    if size > _PAGE:
        return -E2BIG
    _ident, _flags, length, text_length = _CONTEXT.unpack(
        task.user_memory().read(to_u64(args.a1), _CONTEXT_BYTES)
    )
    if length < _CONTEXT_BYTES + text_length or length > size:
        return -EINVAL
    return -EOPNOTSUPP
