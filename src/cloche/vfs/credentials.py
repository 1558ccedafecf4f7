"""Credentials of a task or an open file (credentials(7), capabilities(7)).

Immutable by convention: a change makes a copy (`clone`), so that open files keep what they were opened with.
They live here, left of `kernel`, because permission checks in the VFS need them.

Ids are those of the initial user namespace, whatever `user_ns` says.  Capabilities hold in `user_ns` and below it:
`capable` asks about the initial namespace, so that by default a check refuses processes of other namespaces.
"""

from typing import Final

from cloche.vfs.userns import UserNamespace

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
        self.user_ns: UserNamespace | None = None  # None: the initial one

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
        new.user_ns = self.user_ns
        return new

    def capable(self, cap: int) -> bool:
        """Whether capability number `cap` is effective in the initial user namespace."""
        return self.user_ns is None and (self.cap_effective >> cap) & 1 == 1

    def capable_here(self, cap: int) -> bool:
        """Whether `cap` is effective in the own user namespace (ns_capable of current_user_ns)."""
        return (self.cap_effective >> cap) & 1 == 1

    def capable_in(self, target: UserNamespace | None, cap: int) -> bool:
        """Whether `cap` is effective over what belongs to the user namespace `target` (cap_capable)."""
        mine = self.user_ns
        if target is mine:
            return (self.cap_effective >> cap) & 1 == 1
        level = mine.level if mine is not None else 0
        at = target
        while at is not None and at.level > level:
            above = at.parent
            if above is mine:
                # The creator of a namespace has every capability over it; a process with a capability in the parent
                # has that one.
                return at.owner_uid == self.euid or (self.cap_effective >> cap) & 1 == 1
            at = above
        return False

    def capable_over(self, uid: int, gid: int, cap: int) -> bool:
        """Whether `cap` holds over a file of that owner and group (capable_wrt_inode_uidgid)."""
        if (self.cap_effective >> cap) & 1 == 0:
            return False
        ns = self.user_ns
        return ns is None or ns.has_ids(uid, gid)

    def root_uid(self) -> int:
        """The kernel id of uid 0 of the own namespace; -1 if it has none."""
        ns = self.user_ns
        return 0 if ns is None else ns.uids.to_kernel(0)

    def show_uid(self, uid: int) -> int:
        """A kernel uid in the own namespace, 65534 if it has none (from_kuid_munged)."""
        ns = self.user_ns
        return uid if ns is None else ns.show_uid(uid)

    def show_gid(self, gid: int) -> int:
        """A kernel gid in the own namespace, 65534 if it has none."""
        ns = self.user_ns
        return gid if ns is None else ns.show_gid(gid)

    def in_group(self, gid: int) -> bool:
        """Whether fsgid or a supplementary group is `gid` (in_group_p)."""
        return gid == self.fsgid or gid in self.groups
