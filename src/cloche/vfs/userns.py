"""User namespaces: their ids, and the ids outside to which these map (user_namespaces(7), kernel/user_namespace.c).

Inside the kernel every id is one of the initial namespace ("kernel id"); ids are translated only where they are
passed to or from a guest, and the initial namespace, which is None, translates nothing. Below `vfs.credentials`;
imports nothing.
"""

from typing import Final

from cloche.abi.errno import EINVAL, EPERM, LinuxError

NO_ID: Final = -1  # stands for an id without a mapping
OVERFLOW_ID: Final = 65534  # /proc/sys/kernel/overflowuid and overflowgid
MAX_LEVEL: Final = 33  # of nesting
MAX_EXTENTS: Final = 340
_U32: Final = 0xFFFFFFFF
FIRST_USER_INO: Final = 0xEFFFFFFD  # PROC_USER_INIT_INO


class Extent:
    """A range of ids: `first` here is `lower` in the initial namespace."""

    def __init__(self, first: int, lower: int, count: int) -> None:
        self.first: int = first
        self.lower: int = lower
        self.count: int = count


class IdMap:
    """The extents of one kind of ids; empty until it is written, which is possible only once."""

    def __init__(self) -> None:
        self.extents: list[Extent] = []

    def to_kernel(self, ident: int) -> int:
        """The kernel id of an id of this namespace; NO_ID without a mapping (make_kuid)."""
        for each in self.extents:
            if each.first <= ident < each.first + each.count:
                return each.lower + ident - each.first
        return NO_ID

    def from_kernel(self, ident: int) -> int:
        """The id here of a kernel id; NO_ID without a mapping (from_kuid)."""
        for each in self.extents:
            if each.lower <= ident < each.lower + each.count:
                return each.first + ident - each.lower
        return NO_ID

    def range_to_kernel(self, first: int, count: int) -> int:
        """The kernel id of `first` if the whole range lies in one extent; else NO_ID (map_id_range_down)."""
        for each in self.extents:
            if each.first <= first and first + count <= each.first + each.count:
                return each.lower + first - each.first
        return NO_ID


class Place:
    """A namespace's place in the count of its kind, held while it lives (kernel.namespaces.NamespaceCount)."""


class UserNamespace:
    """A user namespace below the initial one; `parent` is None for those right below it."""

    def __init__(self, parent: "UserNamespace | None", owner_uid: int, owner_gid: int, ino: int) -> None:
        self.parent: UserNamespace | None = parent
        self.level: int = parent.level + 1 if parent is not None else 1
        self.owner_uid: int = owner_uid  # kernel ids of its creator
        self.owner_gid: int = owner_gid
        self.ino: int = ino  # of /proc/PID/ns/user
        self.uids: IdMap = IdMap()
        self.gids: IdMap = IdMap()
        self.projids: IdMap = IdMap()
        self.place: Place | None = None  # kernel.namespaces.NamespaceCount
        self.may_setgroups: bool = parent.may_setgroups if parent is not None else True
        self.parent_could_setfcap: bool = False  # the creator held CAP_SETFCAP

    @staticmethod
    def of_container(
        uid_map: list[tuple[int, int, int]],
        gid_map: list[tuple[int, int, int]],
        ino: int,
        *,
        may_setgroups: bool,
    ) -> "UserNamespace":
        """That of a container, with maps that the host's kernel has accepted: rows of (id here, id outside, count)."""
        made = UserNamespace(None, 0, 0, ino)
        made.uids.extents = [Extent(*row) for row in uid_map]
        made.gids.extents = [Extent(*row) for row in gid_map]
        made.may_setgroups = may_setgroups
        made.parent_could_setfcap = True
        return made

    def show_uid(self, uid: int) -> int:
        """A kernel uid as a program here sees it (from_kuid_munged)."""
        found = self.uids.from_kernel(uid)
        return found if found >= 0 else OVERFLOW_ID

    def show_gid(self, gid: int) -> int:
        """A kernel gid as a program here sees it."""
        found = self.gids.from_kernel(gid)
        return found if found >= 0 else OVERFLOW_ID

    def has_ids(self, uid: int, gid: int) -> bool:
        """Whether both kernel ids exist here (privileged_wrt_inode_uidgid)."""
        return self.uids.from_kernel(uid) >= 0 and self.gids.from_kernel(gid) >= 0

    def is_within(self, other: "UserNamespace | None") -> bool:
        """Whether this is `other` or one of its descendants (in_userns)."""
        if other is None:
            return True
        at: UserNamespace | None = self
        while at is not None:
            if at is other:
                return True
            at = at.parent
        return False


def map_uid(ns: UserNamespace | None, uid: int) -> int:
    """The kernel id of a uid that a program in `ns` names; NO_ID if it is none."""
    if uid < 0 or uid >= _U32:
        return NO_ID
    return uid if ns is None else ns.uids.to_kernel(uid)


def map_gid(ns: UserNamespace | None, gid: int) -> int:
    """The kernel id of a gid that a program in `ns` names; NO_ID if it is none."""
    if gid < 0 or gid >= _U32:
        return NO_ID
    return gid if ns is None else ns.gids.to_kernel(gid)


def parse_map(text: bytes) -> list[Extent]:
    """The lines written to an id map, `lower` still in the parent's ids (map_write).  Raises LinuxError(EINVAL)."""
    found: list[Extent] = []
    for line in text.removesuffix(b"\n").split(b"\n"):
        words = line.split()
        if len(words) != 3:
            raise LinuxError(EINVAL)
        numbers = [_parse_number(word) for word in words]
        first, lower, count = numbers[0], numbers[1], numbers[2]
        if first == _U32 or lower == _U32 or count == 0 or first + count > _U32 or lower + count > _U32:
            raise LinuxError(EINVAL)
        for other in found:
            if first < other.first + other.count and other.first < first + count:
                raise LinuxError(EINVAL)
            if lower < other.lower + other.count and other.lower < lower + count:
                raise LinuxError(EINVAL)
        if len(found) >= MAX_EXTENTS:
            raise LinuxError(EINVAL)
        found.append(Extent(first, lower, count))
    return found


def _parse_number(word: bytes) -> int:
    """A 32-bit number as simple_strtoul with base 10 takes it.  Raises LinuxError(EINVAL)."""
    if not word.isdigit() or len(word) > 20:
        raise LinuxError(EINVAL)
    return int(word) & _U32


def lower_map(extents: list[Extent], parent: IdMap | None) -> list[Extent]:
    """Replace the parent's ids by kernel ids; each range must lie in one of its extents.

    Raises LinuxError(EPERM).
    """
    found: list[Extent] = []
    for each in extents:
        lower = each.lower if parent is None else parent.range_to_kernel(each.lower, each.count)
        if lower < 0:
            raise LinuxError(EPERM)
        found.append(Extent(each.first, lower, each.count))
    return found


def map_text(extents: list[Extent], viewer: IdMap | None) -> bytes:
    """The text of an id map: its outer ids as `viewer` (None: the initial namespace) calls them."""
    lines: list[bytes] = []
    for each in extents:
        lower = each.lower if viewer is None else viewer.from_kernel(each.lower)
        lines.append(b"%10d %10d %10d\n" % (each.first, lower & _U32, each.count))
    return b"".join(lines)
