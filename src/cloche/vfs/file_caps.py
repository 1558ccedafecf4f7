"""File capabilities: the extended attribute security.capability (capabilities(7), security/commoncap.c).

Revision 2 belongs to the user namespace of the file system, revision 3 to the one whose root is the kernel id in it:
there, and below, executing the file gives the capabilities.  Values are kept with kernel ids.
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import (
    CAP_FULL_SET,
    CAP_SETFCAP,
    VFS_CAP_FLAGS_EFFECTIVE,
    VFS_CAP_REVISION_1,
    VFS_CAP_REVISION_2,
    VFS_CAP_REVISION_3,
    VFS_CAP_REVISION_MASK,
)
from cloche.abi.errno import EINVAL, EOVERFLOW, EPERM, LinuxError
from cloche.vfs.credentials import Credentials
from cloche.vfs.objects import Inode
from cloche.vfs.userns import NO_ID, UserNamespace, map_uid

_V1: Final = Struct("<III")
_V2: Final = Struct("<IIIII")
_V3: Final = Struct("<IIIIII")


class FileCaps:
    """The decoded attribute."""

    def __init__(self, permitted: int, inheritable: int, root_uid: int, *, is_effective: bool) -> None:
        self.permitted: int = permitted & CAP_FULL_SET
        self.inheritable: int = inheritable & CAP_FULL_SET
        self.root_uid: int = root_uid  # kernel id
        self.is_effective: bool = is_effective


def parse(raw: bytes) -> FileCaps | None:
    """Decode the attribute's value; None if its form is unknown (get_vfs_caps_from_disk)."""
    if len(raw) < 4:
        return None
    magic = int.from_bytes(raw[:4], "little")
    revision = magic & VFS_CAP_REVISION_MASK
    is_effective = magic & VFS_CAP_FLAGS_EFFECTIVE != 0
    if revision == VFS_CAP_REVISION_1 and len(raw) == _V1.size:
        permitted, inheritable = raw[4:8], raw[8:12]
        return FileCaps(
            int.from_bytes(permitted, "little"),
            int.from_bytes(inheritable, "little"),
            0,
            is_effective=is_effective,
        )
    root = 0
    if revision == VFS_CAP_REVISION_3 and len(raw) == _V3.size:
        root = int.from_bytes(raw[20:24], "little")
    elif revision != VFS_CAP_REVISION_2 or len(raw) != _V2.size:
        return None
    low_p = int.from_bytes(raw[4:8], "little")
    low_i = int.from_bytes(raw[8:12], "little")
    high_p = int.from_bytes(raw[12:16], "little")
    high_i = int.from_bytes(raw[16:20], "little")
    return FileCaps(low_p | high_p << 32, low_i | high_i << 32, root, is_effective=is_effective)


def owns_namespace(root_uid: int, ns: UserNamespace | None) -> bool:
    """Whether a kernel id is uid 0 of a user namespace or of one above it (rootid_owns_currentns)."""
    at = ns
    while at is not None:
        if at.uids.from_kernel(root_uid) == 0:
            return True
        at = at.parent
    return root_uid == 0


def stored_value(creds: Credentials, inode: Inode, raw: bytes) -> bytes:
    """The value that setxattr(2) stores (cap_convert_nscap): a process that is privileged only in a user namespace
    can give capabilities only there. Raises LinuxError(EINVAL, EPERM).
    """
    revision = int.from_bytes(raw[:4], "little") & VFS_CAP_REVISION_MASK if len(raw) >= 4 else 0
    is_v3 = revision == VFS_CAP_REVISION_3 and len(raw) == _V3.size
    if not is_v3 and (revision != VFS_CAP_REVISION_2 or len(raw) != _V2.size):
        raise LinuxError(EINVAL)
    if not creds.capable_over(inode.uid, inode.gid, CAP_SETFCAP):
        raise LinuxError(EPERM)
    if not is_v3 and creds.capable_in(inode.fs.user_ns, CAP_SETFCAP):
        return raw
    root = map_uid(creds.user_ns, int.from_bytes(raw[20:24], "little") if is_v3 else 0)
    if root == NO_ID:
        raise LinuxError(EINVAL)
    fs_ns = inode.fs.user_ns
    if fs_ns is not None and fs_ns.uids.from_kernel(root) == NO_ID:
        raise LinuxError(EINVAL)
    magic = int.from_bytes(raw[:4], "little") & VFS_CAP_FLAGS_EFFECTIVE | VFS_CAP_REVISION_3
    return magic.to_bytes(4, "little") + raw[4:20] + root.to_bytes(4, "little")


def shown_value(creds: Credentials, raw: bytes) -> bytes:
    """The value for getxattr(2) (cap_inode_getsecurity).  Raises LinuxError(EINVAL, EOVERFLOW)."""
    found = parse(raw)
    if found is None or len(raw) == _V1.size:
        raise LinuxError(EINVAL)
    ns = creds.user_ns
    root = found.root_uid if ns is None else ns.uids.from_kernel(found.root_uid)
    magic = int.from_bytes(raw[:4], "little") & VFS_CAP_FLAGS_EFFECTIVE
    if root > 0:
        return (magic | VFS_CAP_REVISION_3).to_bytes(4, "little") + raw[4:20] + root.to_bytes(4, "little")
    if not owns_namespace(found.root_uid, ns):
        raise LinuxError(EOVERFLOW)
    return (magic | VFS_CAP_REVISION_2).to_bytes(4, "little") + raw[4:20]


def from_namespace(ns: UserNamespace, raw: bytes) -> bytes:
    """A value as a process in `ns` reads it of the host, with a kernel id."""
    root = _root_of(raw)
    return raw if root < 0 else raw[:20] + (ns.uids.to_kernel(root) & 0xFFFFFFFF).to_bytes(4, "little")


def to_namespace(ns: UserNamespace, raw: bytes) -> bytes:
    """The inverse of `from_namespace`.  Raises LinuxError(EINVAL)."""
    root = _root_of(raw)
    if root < 0:
        return raw
    root = ns.uids.from_kernel(root)
    if root == NO_ID:
        raise LinuxError(EINVAL)
    return raw[:20] + root.to_bytes(4, "little")


def _root_of(raw: bytes) -> int:
    """The id in a value of revision 3; -1 in others."""
    if (
        len(raw) != _V3.size
        or int.from_bytes(raw[:4], "little") & VFS_CAP_REVISION_MASK != VFS_CAP_REVISION_3
    ):
        return -1
    return int.from_bytes(raw[20:24], "little")
