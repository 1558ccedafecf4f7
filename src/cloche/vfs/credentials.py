"""Credentials of a task or an open file (credentials(7), capabilities(7)).

Immutable by convention: a change makes a copy (`clone`), so that open files keep what they were opened with.
They live here, left of `kernel`, because permission checks in the VFS need them.
"""

from typing import Final

ALL_CAPS: Final = (1 << 41) - 1


class Credentials:
    """User and group ids, supplementary groups, capability sets and securebits."""

    def __init__(self, uid: int = 0, gid: int = 0, groups: list[int] | None = None, caps: int = 0) -> None:
        self.uid: int = uid
        self.euid: int = uid
        self.suid: int = uid
        self.fsuid: int = uid
        self.gid: int = gid
        self.egid: int = gid
        self.sgid: int = gid
        self.fsgid: int = gid
        self.groups: list[int] = groups if groups is not None else []
        self.cap_effective: int = caps
        self.cap_permitted: int = caps
        self.cap_inheritable: int = 0
        self.cap_bounding: int = ALL_CAPS
        self.cap_ambient: int = 0
        self.securebits: int = 0
        self.no_new_privs: bool = False
        self.keep_caps: bool = False

    def clone(self) -> "Credentials":
        """A copy to change before it is installed."""
        new = Credentials()
        new.uid, new.euid, new.suid, new.fsuid = self.uid, self.euid, self.suid, self.fsuid
        new.gid, new.egid, new.sgid, new.fsgid = self.gid, self.egid, self.sgid, self.fsgid
        new.groups = list(self.groups)
        new.cap_effective = self.cap_effective
        new.cap_permitted = self.cap_permitted
        new.cap_inheritable = self.cap_inheritable
        new.cap_bounding = self.cap_bounding
        new.cap_ambient = self.cap_ambient
        new.securebits = self.securebits
        new.no_new_privs = self.no_new_privs
        new.keep_caps = self.keep_caps
        return new

    def capable(self, cap: int) -> bool:
        """Whether the effective set holds capability number `cap`."""
        return (self.cap_effective >> cap) & 1 == 1

    def in_group(self, gid: int) -> bool:
        """Whether fsgid or a supplementary group is `gid` (in_group_p)."""
        return gid == self.fsgid or gid in self.groups
