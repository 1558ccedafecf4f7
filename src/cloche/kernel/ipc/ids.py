"""Shared by the three kinds of System V objects: identifiers, keys, permissions, and the limit of their memory
(ipc/util.c).

An identifier is a slot and the sequence number of its use, so that a stale identifier does not match a new object.
"""

import time
from typing import Final

from cloche.abi.capability import CAP_IPC_OWNER, CAP_SYS_ADMIN
from cloche.abi.errno import EACCES, EEXIST, EINVAL, ENOENT, ENOMEM, ENOSPC, EPERM, LinuxError
from cloche.abi.ipc import IPC_CREAT, IPC_EXCL, IPC_PRIVATE
from cloche.vfs.objects import Context
from cloche.vfs.userns import UserNamespace

SLOT_BITS: Final = 15  # ipcmni_seq_shift
SLOTS: Final = 1 << SLOT_BITS
SEQ_MAX: Final = 0xFFFF
_MIN_CYCLE: Final = 64
QUOTA_BYTES: Final = 64 << 20
OBJECT_BYTES: Final = 1024  # approximate memory of an object


class IpcQuota:
    """Sentry memory of all IPC objects of the sandbox, whatever their namespace; asked before anything changes."""

    def __init__(self, limit_bytes: int = QUOTA_BYTES) -> None:
        self.limit_bytes: int = limit_bytes
        self.used_bytes: int = 0

    def charge(self, count: int) -> None:
        """Raises LinuxError(ENOMEM)."""
        if self.used_bytes + count > self.limit_bytes:
            raise LinuxError(ENOMEM)
        self.used_bytes += count

    def uncharge(self, count: int) -> None:
        self.used_bytes -= count


class IpcObject:
    """A segment, semaphore set or queue: owner, mode and identity (struct kern_ipc_perm)."""

    def __init__(self, ctx: Context, key: int, mode: int) -> None:
        creds = ctx.creds
        self.ident: int = -1
        self.seq: int = 0
        self.key: int = key
        self.mode: int = mode & 0o777
        self.uid: int = creds.euid
        self.gid: int = creds.egid
        self.cuid: int = creds.euid
        self.cgid: int = creds.egid
        self.ctime: int = int(time.time())
        self.is_removed: bool = False
        # the user namespace whose capabilities apply to it (set by IpcIds.add)
        self.user_ns: UserNamespace | None = None

    def grants(self, ctx: Context, flags: int) -> bool:
        """ipcperms: whether the caller has the rights in any of the three digits of `flags`."""
        creds = ctx.creds
        wanted = flags >> 6 | flags >> 3 | flags
        granted = self.mode
        if creds.euid == self.cuid or creds.euid == self.uid:
            granted >>= 6
        elif creds.in_group(self.cgid) or creds.in_group(self.gid):
            granted >>= 3
        return wanted & ~granted & 7 == 0 or creds.capable_in(self.user_ns, CAP_IPC_OWNER)

    def require(self, ctx: Context, flags: int) -> None:
        """Raises LinuxError(EACCES)."""
        if not self.grants(ctx, flags):
            raise LinuxError(EACCES)

    def require_owner(self, ctx: Context) -> None:
        """Of IPC_SET and IPC_RMID.  Raises LinuxError(EPERM)."""
        creds = ctx.creds
        if creds.euid not in (self.cuid, self.uid) and not creds.capable_in(self.user_ns, CAP_SYS_ADMIN):
            raise LinuxError(EPERM)

    def set_owner(self, uid: int, gid: int, mode: int) -> None:
        """IPC_SET with kernel ids.  Raises LinuxError(EINVAL) for ids that cannot be."""
        if uid < 0 or gid < 0 or uid == 0xFFFFFFFF or gid == 0xFFFFFFFF:
            raise LinuxError(EINVAL)
        self.uid, self.gid = uid, gid
        self.mode = self.mode & ~0o777 | mode & 0o777
        self.ctime = int(time.time())


class IpcIds:
    """The objects of one kind in one namespace (struct ipc_ids)."""

    def __init__(self, limit: int, quota: IpcQuota) -> None:
        self.limit: int = limit
        self.quota: IpcQuota = quota
        self.user_ns: UserNamespace | None = None  # the owner of the namespace
        self.by_slot: dict[int, IpcObject] = {}
        self.by_key: dict[int, IpcObject] = {}
        self._next_slot: int = 0
        self._last_slot: int = -1
        self._seq: int = 0

    def get(self, ident: int) -> IpcObject:
        """The object of an identifier.  Raises LinuxError(EINVAL)."""
        found = self.by_slot.get(ident & (SLOTS - 1)) if ident >= 0 else None
        if found is None or found.ident != ident:
            raise LinuxError(EINVAL)
        return found

    def at(self, index: int) -> IpcObject:
        """The object in a slot (SHM_STAT and its kin).  Raises LinuxError(EINVAL)."""
        found = self.by_slot.get(index & (SLOTS - 1)) if index >= 0 else None
        if found is None:
            raise LinuxError(EINVAL)
        return found

    def highest(self) -> int:
        """The highest slot in use, -1 for none."""
        return max(self.by_slot) if self.by_slot else -1

    def existing(self, ctx: Context, key: int, flags: int) -> IpcObject | None:
        """The object that `key` names, None if one is to be made.  Raises LinuxError(ENOENT, EEXIST).

        The caller still has to check sizes, then permissions.
        """
        if key == IPC_PRIVATE:
            return None
        found = self.by_key.get(key)
        if found is None:
            if not flags & IPC_CREAT:
                raise LinuxError(ENOENT)
            return None
        if flags & IPC_CREAT and flags & IPC_EXCL:
            raise LinuxError(EEXIST)
        return found

    def charge_object(self, extra_bytes: int = 0) -> None:
        """Before `add`: check and charge the memory of one more object, and `extra_bytes`. Raises LinuxError(ENOSPC,
        ENOMEM).
        """
        if len(self.by_slot) >= min(self.limit, SLOTS):
            raise LinuxError(ENOSPC)
        self.quota.charge(OBJECT_BYTES + extra_bytes)

    def add(self, made: IpcObject) -> int:
        """Give an object its identifier; it was charged for."""
        ceiling = min(max(len(self.by_slot) * 3 // 2, _MIN_CYCLE), SLOTS)
        slot = self._next_slot
        for _ in range(SLOTS):
            if slot >= ceiling:
                slot = 0
            if slot not in self.by_slot:
                break
            slot += 1
        self._next_slot = slot + 1
        if slot <= self._last_slot:
            self._seq = (self._seq + 1) & SEQ_MAX
        self._last_slot = slot
        made.user_ns = self.user_ns
        made.seq = self._seq
        made.ident = self._seq << SLOT_BITS | slot
        self.by_slot[slot] = made
        if made.key != IPC_PRIVATE:
            self.by_key[made.key] = made
        return made.ident

    def drop_key(self, gone: IpcObject) -> None:
        """The object can no longer be found by its key."""
        if self.by_key.get(gone.key) is gone:
            del self.by_key[gone.key]
        gone.key = IPC_PRIVATE

    def remove(self, gone: IpcObject) -> None:
        """The identifier becomes invalid."""
        if self.by_key.get(gone.key) is gone:
            del self.by_key[gone.key]
        del self.by_slot[gone.ident & (SLOTS - 1)]
        gone.is_removed = True
        self.quota.uncharge(OBJECT_BYTES)

    def in_order(self) -> list[IpcObject]:
        """All of them by slot (/proc/sysvipc)."""
        return [self.by_slot[slot] for slot in sorted(self.by_slot)]
