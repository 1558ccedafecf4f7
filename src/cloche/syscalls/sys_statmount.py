"""statmount(2) and listmount(2): the contents of /proc/PID/mountinfo, one mount at a time (fs/namespace.c)."""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import E2BIG, EINVAL, ENOENT, EOVERFLOW, EPERM, LinuxError
from cloche.abi.fs import (
    LISTMOUNT_REVERSE,
    MNT_ID_REQ_SIZE_VER0,
    MNT_ID_REQ_SIZE_VER1,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_RELATIME,
    MS_SHARED,
    MS_SLAVE,
)
from cloche.abi.stat import major, minor
from cloche.fs.proc_mounts import UNIQUE_ID_BASE, mount_point, root_in_fs, unique_id
from cloche.kernel.args import Args, to_u32, to_u64
from cloche.kernel.task import Task
from cloche.vfs.objects import Mount

_SB_BASIC: Final = 1
_MNT_BASIC: Final = 2
_PROPAGATE_FROM: Final = 4
_MNT_ROOT: Final = 8
_MNT_POINT: Final = 0x10
_FS_TYPE: Final = 0x20
_MNT_OPTS: Final = 0x80
_STRINGS: Final = _MNT_ROOT | _MNT_POINT | _FS_TYPE | _MNT_OPTS

_LSMT_ROOT: Final = 0xFFFFFFFFFFFFFFFF
_MAX_IDS: Final = 1_000_000
_PAGE: Final = 4096
# struct statmount: size mnt_opts mask major minor magic sb_flags fs_type id parent id_old parent_old attr propagation
# peer_group master propagate_from root point, then room for more (STATMOUNT_MNT_NS_ID is not answered)
_STATMOUNT: Final = Struct("<IIQIIQIIQQIIQQQQQII400x")
_BYTES: Final = 512
_REQUEST: Final = Struct("<IIQQQ")  # size spare mnt_id param mnt_ns_id
_ATTRIBUTES: Final = (
    (MS_RDONLY, MOUNT_ATTR_RDONLY),
    (MS_NOSUID, MOUNT_ATTR_NOSUID),
    (MS_NODEV, MOUNT_ATTR_NODEV),
    (MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    (MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
    (MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
)


def _read_request(task: Task, addr: int) -> tuple[int, int]:
    """(mnt_id, param) of a struct mnt_id_req.  Raises LinuxError."""
    mem = task.user_memory()
    size = mem.read_u32(addr)
    if size > _PAGE:
        raise LinuxError(E2BIG)
    if size < MNT_ID_REQ_SIZE_VER0:
        raise LinuxError(EINVAL)
    data = mem.read(addr, size)
    if any(data[MNT_ID_REQ_SIZE_VER1:]):
        raise LinuxError(E2BIG)
    data = data[:MNT_ID_REQ_SIZE_VER1].ljust(MNT_ID_REQ_SIZE_VER1, b"\0")
    _size, spare, mnt_id, param, namespace = _REQUEST.unpack(data)
    if spare or mnt_id <= UNIQUE_ID_BASE:
        raise LinuxError(EINVAL)
    if namespace and namespace != task.mount_ns.ino:
        raise LinuxError(ENOENT)
    return mnt_id, param


def _find(task: Task, mnt_id: int) -> Mount:
    for mount in task.mount_ns.mounts:
        if unique_id(mount) == mnt_id:
            return mount
    raise LinuxError(ENOENT)


def _attributes(mount: Mount) -> int:
    value = 0
    for flag, attribute in _ATTRIBUTES:
        if mount.flags & flag:
            value |= attribute
    if mount.flags & MS_NOATIME:
        value |= MOUNT_ATTR_NOATIME
    elif not mount.flags & MS_RELATIME:
        value |= MOUNT_ATTR_STRICTATIME
    return value


def sys_statmount(task: Task, args: Args) -> int:
    """statmount(2)."""
    if to_u32(args.a3):
        return -EINVAL
    mnt_id, wanted = _read_request(task, to_u64(args.a0))
    room = to_u64(args.a2)
    mount = _find(task, mnt_id)
    place = mount_point(task.fs.root, mount)
    if place is None and not task.creds.capable_in(task.mount_ns.user_ns, CAP_SYS_ADMIN):
        return -EPERM
    if wanted & _STRINGS and room <= _BYTES:
        return -EOVERFLOW
    fs = mount.fs
    mask = wanted & (_SB_BASIC | _MNT_BASIC | _PROPAGATE_FROM)
    strings = bytearray()
    offsets: dict[int, int] = {}
    for flag, text in (
        (_FS_TYPE, fs.kind.encode()),
        (_MNT_ROOT, root_in_fs(mount)),
        (_MNT_POINT, place if place is not None else b""),
        (_MNT_OPTS, fs.options().lstrip(",").encode("utf-8", "surrogateescape")),
    ):
        if wanted & flag and text:
            mask |= flag
            offsets[flag] = len(strings)
            strings += text + b"\0"
    if strings and len(strings) >= room - _BYTES:  # the last byte stays free, as in a full seq_file
        return -EOVERFLOW
    has_sb, has_mnt = wanted & _SB_BASIC != 0, wanted & _MNT_BASIC != 0
    parent = mount.parent if mount.parent is not None else mount
    fixed = min(room, _BYTES)
    data = _STATMOUNT.pack(
        fixed + len(strings),
        offsets.get(_MNT_OPTS, 0),
        mask,
        major(fs.dev) if has_sb else 0,
        minor(fs.dev) if has_sb else 0,
        fs.magic & 0xFFFFFFFF if has_sb else 0,
        fs.sync_flags | (MS_RDONLY if fs.is_readonly else 0) if has_sb else 0,
        offsets.get(_FS_TYPE, 0),
        mnt_id if has_mnt else 0,
        unique_id(parent) if has_mnt else 0,
        mount.ident if has_mnt else 0,
        parent.ident if has_mnt else 0,
        _attributes(mount) if has_mnt else 0,
        (mount.propagation or MS_PRIVATE) if has_mnt else 0,
        mount.peer_group if has_mnt and mount.propagation & MS_SHARED else 0,
        mount.master_group if has_mnt and mount.propagation & MS_SLAVE else 0,
        0,
        offsets.get(_MNT_ROOT, 0),
        offsets.get(_MNT_POINT, 0),
    )
    task.user_memory().write(to_u64(args.a1), data[:fixed] + strings)
    return 0


def sys_listmount(task: Task, args: Args) -> int:
    """listmount(2): the numbers of the mounts below one, after the number `param`."""
    flags, count = to_u32(args.a3), to_u64(args.a2)
    if flags & ~LISTMOUNT_REVERSE:
        return -EINVAL
    if count > _MAX_IDS:
        return -EOVERFLOW
    mnt_id, last = _read_request(task, to_u64(args.a0))
    if last and last <= UNIQUE_ID_BASE:
        return -EINVAL
    top = task.fs.root.mount if mnt_id == _LSMT_ROOT else _find(task, mnt_id)
    if mount_point(task.fs.root, top) is None and not task.creds.capable_in(
        task.mount_ns.user_ns, CAP_SYS_ADMIN
    ):
        return -EPERM
    is_reverse = flags & LISTMOUNT_REVERSE != 0
    found: list[int] = []
    for mount in task.mount_ns.mounts:
        ident = unique_id(mount)
        if last and (ident >= last if is_reverse else ident <= last):
            continue
        if (
            (mount is not top or mnt_id == _LSMT_ROOT)
            and _is_below(mount, top)
            and mount_point(task.fs.root, mount) is not None
        ):
            found.append(ident)
    found.sort(reverse=is_reverse)
    found = found[:count]
    task.user_memory().write(to_u64(args.a1), b"".join(ident.to_bytes(8, "little") for ident in found))
    return len(found)


def _is_below(mount: Mount, top: Mount) -> bool:
    at: Mount | None = mount
    while at is not None:
        if at is top:
            return True
        at = at.parent
    return False
