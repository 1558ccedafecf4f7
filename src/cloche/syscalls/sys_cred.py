"""System calls on user and group ids and capabilities (credentials(7)); the rules are in `kernel.creds`."""

from struct import Struct
from typing import Final

from cloche.abi.capability import (
    _LINUX_CAPABILITY_VERSION_1,
    _LINUX_CAPABILITY_VERSION_2,
    _LINUX_CAPABILITY_VERSION_3,
    CAP_SETGID,
)
from cloche.abi.errno import EINVAL, ENOMEM, EPERM, ESRCH, LinuxError
from cloche.abi.limits import NGROUPS_MAX
from cloche.abi.structs import pack_cap_data, unpack_cap_data
from cloche.kernel import creds
from cloche.kernel.access import find_task
from cloche.kernel.answers import grant
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.task import Kernel, Task
from cloche.mm.quota import GROUP_BYTES, KERNEL_MEMORY
from cloche.vfs.userns import NO_ID, map_gid, map_uid

_CAP_VERSIONS: Final = (
    _LINUX_CAPABILITY_VERSION_1,
    _LINUX_CAPABILITY_VERSION_2,
    _LINUX_CAPABILITY_VERSION_3,
)
_U32: Final = Struct("<I")
MANY_GROUPS: Final = 1024  # longer lists are charged


def uid_arg(task: Task, value: int, *, is_optional: bool = True) -> int:
    """A uid of the caller's namespace as a kernel id; creds.NO_ID for -1 where that keeps the old one.

    Raises LinuxError(EINVAL).
    """
    uid = to_u32(value)
    if uid == creds.NO_ID and is_optional:
        return uid
    found = map_uid(task.creds.user_ns, uid)
    if found < 0:
        raise LinuxError(EINVAL)
    return found


def gid_arg(task: Task, value: int, *, is_optional: bool = True) -> int:
    """A gid of the caller's namespace as a kernel id, as `uid_arg`."""
    gid = to_u32(value)
    if gid == creds.NO_ID and is_optional:
        return gid
    found = map_gid(task.creds.user_ns, gid)
    if found < 0:
        raise LinuxError(EINVAL)
    return found


def may_set_groups(task: Task) -> bool:
    """may_setgroups: the capability, and a group map that was written with setgroups allowed."""
    if not task.creds.capable_here(CAP_SETGID):
        return False
    ns = task.creds.user_ns
    return ns is None or (ns.may_setgroups and len(ns.gids.extents) > 0)


def sys_getuid(task: Task, args: Args) -> int:
    """getuid(2)."""
    if not task.has_answers:
        grant(task)
    return task.creds.show_uid(task.creds.uid)


def sys_geteuid(task: Task, args: Args) -> int:
    """geteuid(2)."""
    if not task.has_answers:
        grant(task)
    return task.creds.show_uid(task.creds.euid)


def sys_getgid(task: Task, args: Args) -> int:
    """getgid(2)."""
    if not task.has_answers:
        grant(task)
    return task.creds.show_gid(task.creds.gid)


def sys_getegid(task: Task, args: Args) -> int:
    """getegid(2)."""
    if not task.has_answers:
        grant(task)
    return task.creds.show_gid(task.creds.egid)


def sys_setuid(task: Task, args: Args) -> int:
    """setuid(2)."""
    creds.set_uid(task, uid_arg(task, args.a0, is_optional=False))
    return 0


def sys_setgid(task: Task, args: Args) -> int:
    """setgid(2)."""
    creds.set_gid(task, gid_arg(task, args.a0, is_optional=False))
    return 0


def sys_setreuid(task: Task, args: Args) -> int:
    """setreuid(2)."""
    creds.set_reuid(task, uid_arg(task, args.a0), uid_arg(task, args.a1))
    return 0


def sys_setregid(task: Task, args: Args) -> int:
    """setregid(2)."""
    creds.set_regid(task, gid_arg(task, args.a0), gid_arg(task, args.a1))
    return 0


def sys_setresuid(task: Task, args: Args) -> int:
    """setresuid(2)."""
    creds.set_resuid(task, uid_arg(task, args.a0), uid_arg(task, args.a1), uid_arg(task, args.a2))
    return 0


def sys_setresgid(task: Task, args: Args) -> int:
    """setresgid(2)."""
    creds.set_resgid(task, gid_arg(task, args.a0), gid_arg(task, args.a1), gid_arg(task, args.a2))
    return 0


def sys_getresuid(task: Task, args: Args) -> int:
    """getresuid(2)."""
    mem = task.user_memory()
    mem.write_u32(to_u64(args.a0), task.creds.show_uid(task.creds.uid))
    mem.write_u32(to_u64(args.a1), task.creds.show_uid(task.creds.euid))
    mem.write_u32(to_u64(args.a2), task.creds.show_uid(task.creds.suid))
    return 0


def sys_getresgid(task: Task, args: Args) -> int:
    """getresgid(2)."""
    mem = task.user_memory()
    mem.write_u32(to_u64(args.a0), task.creds.show_gid(task.creds.gid))
    mem.write_u32(to_u64(args.a1), task.creds.show_gid(task.creds.egid))
    mem.write_u32(to_u64(args.a2), task.creds.show_gid(task.creds.sgid))
    return 0


def sys_setfsuid(task: Task, args: Args) -> int:
    """setfsuid(2)."""
    uid = map_uid(task.creds.user_ns, to_u32(args.a0))
    return task.creds.show_uid(creds.set_fsuid(task, uid if uid >= 0 else creds.NO_ID))


def sys_setfsgid(task: Task, args: Args) -> int:
    """setfsgid(2)."""
    gid = map_gid(task.creds.user_ns, to_u32(args.a0))
    return task.creds.show_gid(creds.set_fsgid(task, gid if gid >= 0 else creds.NO_ID))


def sys_getgroups(task: Task, args: Args) -> int:
    """getgroups(2)."""
    size = to_i32(args.a0)
    groups = task.creds.groups
    if size < 0:
        return -EINVAL
    if size == 0:
        return len(groups)
    if len(groups) > size:
        return -EINVAL
    task.user_memory().write(
        to_u64(args.a1), b"".join([_U32.pack(task.creds.show_gid(gid)) for gid in groups])
    )
    return len(groups)


def _room_for_groups(kernel: Kernel, size: int) -> bool:
    """Whether the account has room for one more long list beside those of all tasks (shared ones count once)."""
    lists: dict[int, int] = {}
    for task in kernel.tasks.values():
        lists[id(task.creds.groups)] = len(task.creds.groups)
    return KERNEL_MEMORY.has_room(GROUP_BYTES * (sum(lists.values()) + size))


def sys_setgroups(task: Task, args: Args) -> int:
    """setgroups(2)."""
    size = to_u32(args.a0)
    if not may_set_groups(task):
        return -EPERM
    if size > NGROUPS_MAX:
        return -EINVAL
    if size > MANY_GROUPS and not _room_for_groups(task.kernel, size):
        return -ENOMEM
    raw = task.user_memory().read(to_u64(args.a1), 4 * size)
    user_ns = task.creds.user_ns
    groups = [map_gid(user_ns, int(row[0])) for row in _U32.iter_unpack(raw)]
    if NO_ID in groups:
        return -EINVAL
    creds.set_groups(task, groups)
    return 0


def _cap_words(task: Task, header: int) -> int:
    """How many 32-bit words the version in the header has; 0 (and the supported version written back) if unknown."""
    mem = task.user_memory()
    version = mem.read_u32(header)
    if version not in _CAP_VERSIONS:
        mem.write_u32(header, _LINUX_CAPABILITY_VERSION_3)
        return 0
    return 1 if version == _LINUX_CAPABILITY_VERSION_1 else 2


def sys_capget(task: Task, args: Args) -> int:
    """capget(2)."""
    header, data = to_u64(args.a0), to_u64(args.a1)
    words = _cap_words(task, header)
    if data == 0:
        return 0
    if words == 0:
        return -EINVAL
    mem = task.user_memory()
    pid = mem.read_i32(header + 4)
    if pid < 0:
        return -EINVAL
    target = find_task(task, pid)
    if target is None:
        return -ESRCH
    held = target.creds
    packed = pack_cap_data(held.cap_effective, held.cap_permitted, held.cap_inheritable)
    mem.write(data, packed[: 12 * words])
    return 0


def sys_capset(task: Task, args: Args) -> int:
    """capset(2)."""
    header, data = to_u64(args.a0), to_u64(args.a1)
    words = _cap_words(task, header)
    if words == 0:
        return -EINVAL
    mem = task.user_memory()
    pid = mem.read_i32(header + 4)
    if pid not in (0, task.own_tid):
        return -EPERM
    effective, permitted, inheritable = unpack_cap_data(mem.read(data, 12 * words))
    creds.set_caps(task, effective, permitted, inheritable)
    return 0
