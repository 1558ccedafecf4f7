"""Control messages at SOL_SOCKET that a sender gives: of AF_UNIX and AF_NETLINK (scm_send of net/core/scm.c,
unix(7)), and of all others (__sock_cmsg_send of net/core/sock.c).

May call kernel and vfs; raises LinuxError.
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN
from cloche.abi.errno import EBADF, EINVAL, EPERM, ESRCH, LinuxError
from cloche.abi.limits import SCM_MAX_FD
from cloche.abi.socket import (
    SCM_CREDENTIALS,
    SCM_RIGHTS,
    SO_MARK,
    SO_PRIORITY,
    SO_TIMESTAMPING_NEW,
    SO_TIMESTAMPING_OLD,
    SOL_SOCKET,
)
from cloche.kernel.pid_namespace import pid_from
from cloche.kernel.task import Task
from cloche.net.rights import drop_files
from cloche.net.socket import (
    Outgoing,
    SocketFile,
)
from cloche.net.ucred import Ucred
from cloche.vfs.objects import Context, FileDescription
from cloche.vfs.userns import map_gid, map_uid

_TIMESTAMPING_SEND: Final = 0x40303  # SOF_TIMESTAMPING_TX_RECORD_MASK
_I32: Final = Struct("<i")
_UCRED: Final = Struct("<iII")


def socket_control(ctx: Context, sock: SocketFile, out: Outgoing) -> None:
    """Check the SOL_SOCKET messages of a family that takes no files; keep mark and priority.  Raises LinuxError."""
    for level, kind, data in out.control:
        if level != SOL_SOCKET or kind in (
            SCM_RIGHTS,
            SCM_CREDENTIALS,
        ):  # only for AF_UNIX: not even looked at
            continue
        if kind not in (SO_MARK, SO_PRIORITY, SO_TIMESTAMPING_OLD, SO_TIMESTAMPING_NEW):
            raise LinuxError(EINVAL)
        may_mark = kind != SO_MARK or sock.is_net_raw(ctx)
        if not may_mark:
            raise LinuxError(EPERM)
        if len(data) != 4:
            raise LinuxError(EINVAL)
        value: int = _I32.unpack(data)[0]
        if kind == SO_MARK:
            out.mark = value
        elif kind == SO_PRIORITY:
            if not sock.may_prioritize(ctx, value):
                raise LinuxError(EPERM)
            out.priority = value
        elif value & ~_TIMESTAMPING_SEND:
            raise LinuxError(EINVAL)


def parse_control(task: Task, out: Outgoing, *, takes_files: bool) -> None:
    """Decode the SOL_SOCKET messages of `out`, once: credentials checked, files held."""
    if out.is_parsed:
        return
    out.is_parsed = True
    files: list[FileDescription] = []
    try:
        for level, kind, data in out.control:
            if level != SOL_SOCKET:
                continue
            if kind == SCM_RIGHTS:
                if not takes_files:
                    raise LinuxError(EINVAL)
                _collect_files(task, data, files)
            elif kind == SCM_CREDENTIALS:
                out.cred = _checked_cred(task, data)
            else:
                raise LinuxError(EINVAL)
    except LinuxError as error:
        drop_files(task.kernel, files)
        raise LinuxError(error.errno)
    out.files = files if files else None


def _collect_files(task: Task, data: bytes, files: list[FileDescription]) -> None:
    count = len(data) // 4
    if len(files) + count > SCM_MAX_FD:
        raise LinuxError(EINVAL)
    for index in range(count):
        fd: int = _I32.unpack_from(data, index * 4)[0]
        file = task.files.find(fd) if fd >= 0 else None
        if file is None:
            raise LinuxError(EBADF)
        files.append(file.get())


def _checked_cred(task: Task, data: bytes) -> Ucred:
    if len(data) != 12:
        raise LinuxError(EINVAL)
    fields: tuple[int, int, int] = _UCRED.unpack(data)
    pid, uid, gid = fields
    creds = task.creds
    pid = pid_from(task.pid_ns, pid)
    uid, gid = map_uid(creds.user_ns, uid), map_gid(creds.user_ns, gid)
    if uid < 0 or gid < 0:
        raise LinuxError(EINVAL)
    pid_ns_owner = task.pid_ns.user_ns if task.pid_ns is not None else None
    if (
        (pid != task.group.tgid and not creds.capable_in(pid_ns_owner, CAP_SYS_ADMIN))
        or (uid not in (creds.uid, creds.euid, creds.suid) and not creds.capable_here(CAP_SETUID))
        or (gid not in (creds.gid, creds.egid, creds.sgid) and not creds.capable_here(CAP_SETGID))
    ):
        raise LinuxError(EPERM)
    group = task.kernel.groups.get(pid)
    if group is None:
        raise LinuxError(ESRCH)
    return Ucred(pid, uid, gid, group)
