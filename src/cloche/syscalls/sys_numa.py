"""Memory policies, as on a machine whose only node is 0 (mm/mempolicy.c, mm/migrate.c).

Policies are checked, stored, inherited and shown; with one node they have no effect.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_NICE
from cloche.abi.errno import EFAULT, EINVAL, ENODEV, EPERM, ESRCH, LinuxError
from cloche.abi.mman import (
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_INTERLEAVE,
    MPOL_MODE_FLAGS,
    MPOL_PREFERRED_MANY,
    MPOL_WEIGHTED_INTERLEAVE,
)
from cloche.kernel.access import find_task, may_access
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.mempolicy import NODE_SHIFT, check_mode, make_policy
from cloche.kernel.task import Task
from cloche.mm.area import Area, AreaChange, page_up
from cloche.syscalls.long_mm import Changes

_MF_STRICT: Final = 1
_MF_MOVE: Final = 2
_MF_MOVE_ALL: Final = 4
_F_NODE: Final = 1
_F_ADDR: Final = 2
_F_MEMS_ALLOWED: Final = 4
_MAX_NODES: Final = 1024
_PAGE: Final = 4096
_WORD: Final = (1 << 64) - 1
_MOVE_LIMIT: Final = 1 << 20  # pages that one move_pages looks at


def _read_nodes(task: Task, addr: int, count: int) -> int:
    """get_nodes: a mask as an integer.  Raises LinuxError(EINVAL, EFAULT)."""
    count -= 1
    if count <= 0 or not addr:
        return 0
    if count > _PAGE * 8:
        raise LinuxError(EINVAL)
    raw = task.user_memory().read(addr, (count + 63) // 64 * 8)
    mask = int.from_bytes(raw, "little") & (1 << count) - 1
    if mask >> _MAX_NODES:
        raise LinuxError(EINVAL)
    return mask


def sys_set_mempolicy(task: Task, args: Args) -> int:
    """set_mempolicy(2)."""
    check_mode(to_i32(args.a0))
    task.sched.memory_policy = make_policy(
        to_i32(args.a0), _read_nodes(task, to_u64(args.a1), to_u64(args.a2))
    )
    return 0


class SetPolicy(AreaChange):
    """Sets the policy of areas, which has no effect."""

    def __init__(self, policy: int) -> None:
        self.policy: int = policy

    def apply(self, area: Area) -> None:
        area.policy = self.policy


def sys_mbind(task: Task, args: Args) -> int:
    """mbind(2)."""
    start, length, mode, flags = to_u64(args.a0), to_u64(args.a1), to_i32(args.a2), to_u32(args.a5)
    check_mode(mode)
    nodes = _read_nodes(task, to_u64(args.a3), to_u64(args.a4))
    if flags & ~(_MF_STRICT | _MF_MOVE | _MF_MOVE_ALL):
        return -EINVAL
    if flags & _MF_MOVE_ALL and not task.creds.capable(CAP_SYS_NICE):
        return -EPERM
    if start & 4095:
        return -EINVAL
    if mode == MPOL_DEFAULT:
        flags &= ~_MF_STRICT
    end = start + (page_up(length) & _WORD)
    if end > _WORD:
        return -EINVAL
    if end == start:
        return 0
    policy = make_policy(mode, nodes)
    mm = task.mm
    end = min(end, mm.max_address)
    # The default may be restored over holes (MPOL_MF_DISCONTIG_OK).
    is_anywhere = mode == MPOL_DEFAULT
    if start >= end or (is_anywhere and not mm.overlaps(start, end)):
        return -EFAULT
    return Changes(mm, start, end, SetPolicy(policy), 0 if is_anywhere else EFAULT).retry(task)


def sys_set_mempolicy_home_node(task: Task, args: Args) -> int:
    """set_mempolicy_home_node(2)."""
    start, length, node = to_u64(args.a0), to_u64(args.a1), to_u64(args.a2)
    if start & 4095 or args.a3 or node != 0:
        return -EINVAL
    end = page_up(start + length)
    if end > 1 << 64:
        return -EINVAL
    for area in task.mm.areas():
        if area.start < end and area.end > start and area.policy:
            if area.policy & 0xFFF not in (MPOL_BIND, MPOL_PREFERRED_MANY):
                return -95  # EOPNOTSUPP
    return 0


def _write_nodes(task: Task, addr: int, count: int, nodes: int) -> None:
    """copy_nodes_to_user: what is beyond the possible nodes is cleared."""
    size = (count - 1 + 63) // 64 * 8
    if size > _PAGE:
        raise LinuxError(EINVAL)
    if size:
        task.user_memory().write(addr, nodes.to_bytes(size, "little"))


def sys_get_mempolicy(task: Task, args: Args) -> int:
    """get_mempolicy(2)."""
    mode_addr, nodes_addr, count = to_u64(args.a0), to_u64(args.a1), to_u64(args.a2)
    addr, flags = to_u64(args.a3), to_u64(args.a4)
    if nodes_addr and count < 1 or flags & ~(_F_NODE | _F_ADDR | _F_MEMS_ALLOWED):
        return -EINVAL
    policy = task.sched.memory_policy
    if flags & _F_MEMS_ALLOWED:
        if flags & (_F_NODE | _F_ADDR):
            return -EINVAL
        shown, nodes = 0, 1
    else:
        if flags & _F_ADDR:
            area = task.mm.find(addr)
            if area is None:
                return -EFAULT
            policy = area.policy if area.policy else policy
        elif addr:
            return -EINVAL
        shown, nodes = policy & 0xFFFF, policy >> NODE_SHIFT
        if flags & _F_NODE:
            if not flags & _F_ADDR and shown & ~MPOL_MODE_FLAGS not in (
                MPOL_INTERLEAVE,
                MPOL_WEIGHTED_INTERLEAVE,
            ):
                return -EINVAL
            shown = 0
    if mode_addr:
        task.user_memory().write_u32(mode_addr, shown)
    if nodes_addr:
        _write_nodes(task, nodes_addr, count, nodes)
    return 0


def _target(task: Task, pid: int) -> Task:
    """The task whose pages shall move.  Raises LinuxError(ESRCH, EPERM)."""
    target = find_task(task, pid)
    if target is None or target.is_exited:
        raise LinuxError(ESRCH)
    if not may_access(task, target, uses_real_ids=True):
        raise LinuxError(EPERM)
    return target


def sys_migrate_pages(task: Task, args: Args) -> int:
    """migrate_pages(2): everything is on node 0 already."""
    count = to_u64(args.a1)
    _read_nodes(task, to_u64(args.a2), count)
    new = _read_nodes(task, to_u64(args.a3), count)
    _target(task, to_i32(args.a0))
    if new & ~1 and not task.creds.capable(CAP_SYS_NICE):
        return -EPERM
    return 0 if new & 1 else -EINVAL


def sys_move_pages(task: Task, args: Args) -> int:
    """move_pages(2): every mapped page counts as present, on node 0."""
    count, pages_addr, nodes_addr, status_addr = (
        to_u64(args.a1),
        to_u64(args.a2),
        to_u64(args.a3),
        to_u64(args.a4),
    )
    flags = to_i32(args.a5)
    if flags & ~(_MF_MOVE | _MF_MOVE_ALL):
        return -EINVAL
    if flags & _MF_MOVE_ALL and not task.creds.capable(CAP_SYS_NICE):
        return -EPERM
    target = _target(task, to_i32(args.a0))
    mem = task.user_memory()
    count = min(count, _MOVE_LIMIT)
    raw = mem.read(pages_addr, 8 * count)
    nodes = mem.read(nodes_addr, 4 * count) if nodes_addr else bytes(4 * count)
    status = bytearray()
    for index in range(count):
        if int.from_bytes(nodes[4 * index : 4 * index + 4], "little", signed=True) != 0:
            return -ENODEV
        addr = int.from_bytes(raw[8 * index : 8 * index + 8], "little")
        value = 0 if target.mm.find(addr) is not None else -EFAULT
        status += value.to_bytes(4, "little", signed=True)
    mem.write(status_addr, bytes(status))
    return 0
