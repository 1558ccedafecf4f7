"""The credentials of a sender or a peer: struct ucred (unix(7))."""

from struct import Struct
from typing import Final

from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.task import Task, ThreadGroup
from cloche.vfs.objects import (
    Context,
)

_UCRED: Final = Struct("<iII")


class Ucred:
    """The credentials of a sender or a peer (struct ucred); an id of -1 is unknown."""

    def __init__(self, pid: int, uid: int, gid: int, group: ThreadGroup | None = None) -> None:
        self.pid: int = pid
        self.uid: int = uid
        self.gid: int = gid
        self.group: ThreadGroup | None = group  # for pidfds
        self.groups: list[int] = []  # supplementary, for SO_PEERGROUPS

    def pack(self) -> bytes:
        """struct ucred; an unknown id is the overflow id in a message."""
        return _UCRED.pack(self.pid, self.uid & 0xFFFFFFFF, self.gid & 0xFFFFFFFF)

    def same_as(self, other: "Ucred | None") -> bool:
        return other is not None and self.pid == other.pid and self.uid == other.uid and self.gid == other.gid


def cred_of(ctx: Context) -> Ucred:
    """The credentials that the kernel itself states for a task (effective ids)."""
    creds = ctx.creds
    found = Ucred(ctx.thread_group_id(), creds.euid, creds.egid, ctx.group if isinstance(ctx, Task) else None)
    found.groups = creds.groups
    return found


def show_ucred(ctx: Context, raw: bytes) -> bytes:
    """A struct ucred with kernel ids, as the reader's user and pid namespaces have them."""
    ns = ctx.creds.user_ns
    pid_ns = ctx.pid_ns if isinstance(ctx, Task) else None
    if ns is None and pid_ns is None:
        return raw
    fields: tuple[int, int, int] = _UCRED.unpack(raw)
    pid, uid, gid = fields
    return _UCRED.pack(pid_in(pid_ns, pid), ctx.creds.show_uid(uid), ctx.creds.show_gid(gid))
