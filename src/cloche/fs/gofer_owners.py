"""Owners of the host's files, between the kernel's ids and those of a gofer's user namespace.

A gofer of a container with a user namespace of its own is in that: the host tells it owners as that calls them, and
lets it make no others, whatever the sentry asks for.  Here they are only renamed.  Imports the ids alone.
"""

from typing import Final

from cloche.abi.errno import EOVERFLOW, LinuxError
from cloche.vfs.userns import UserNamespace
from cloche.wire.gofer import KEEP_ID

STRANGER: Final = 0xFFFFFFFE  # the kernel id of owners that have none in a gofer's user namespace


def user_to_gofer(ns: UserNamespace | None, uid: int) -> int:
    """A kernel uid as the gofer's user namespace calls it.  Raises LinuxError(EOVERFLOW) if it has no such user."""
    found = uid if ns is None else ns.uids.from_kernel(uid)
    if found < 0:
        raise LinuxError(EOVERFLOW)
    return found


def group_to_gofer(ns: UserNamespace | None, gid: int) -> int:
    """The same for a group. A new file's may come from a directory whose group has no id: then the host's are kept."""
    found = gid if ns is None else ns.gids.from_kernel(gid)
    if found < 0 and gid != STRANGER:
        raise LinuxError(EOVERFLOW)
    return found if found >= 0 else KEEP_ID


def to_gofer(ns: UserNamespace | None, uid: int, gid: int) -> tuple[int, int]:
    """The owner of a new file.  Raises LinuxError(EOVERFLOW)."""
    return user_to_gofer(ns, uid), group_to_gofer(ns, gid)


def from_gofer(ns: UserNamespace, uid: int, gid: int) -> tuple[int, int]:
    """The kernel ids of an owner that the gofer has reported. An owner without an id in its namespace is reported as
    user 65534; what that one may do beyond others, the host does not let the gofer do.
    """
    uid, gid = ns.uids.to_kernel(uid), ns.gids.to_kernel(gid)
    return uid if uid >= 0 else STRANGER, gid if gid >= 0 else STRANGER
