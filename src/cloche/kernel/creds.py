"""Changes of credentials: the rules of credentials(7) and capabilities(7) (kernel/sys.c, commoncap.c).

Each function takes the task, checks, and installs a changed copy of its credentials; open files keep the old.
Raises LinuxError when refused.  execve's transitions are in `kernel.exec_creds`.  Ids are kernel ids: the system call
has translated them, NO_ID included; capabilities are those of the own user namespace (`capable_here`).
"""

from typing import Final

from cloche.abi.capability import (
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    CAP_FSETID,
    CAP_FULL_SET,
    CAP_LAST_CAP,
    CAP_LINUX_IMMUTABLE,
    CAP_MAC_OVERRIDE,
    CAP_MKNOD,
    CAP_SETGID,
    CAP_SETPCAP,
    CAP_SETUID,
)
from cloche.abi.errno import EINVAL, EPERM, LinuxError
from cloche.kernel.answers import withdraw
from cloche.kernel.task import Task
from cloche.vfs.credentials import Credentials

NO_ID: Final = 0xFFFFFFFF  # "leave as it is"; never a valid id

SECBIT_NOROOT: Final = 1
SECBIT_NO_SETUID_FIXUP: Final = 4
SECBIT_KEEP_CAPS: Final = 16
SECBIT_KEEP_CAPS_LOCKED: Final = 32
SECBIT_NO_CAP_AMBIENT_RAISE: Final = 64
SECURE_ALL_BITS: Final = 0x55
SECURE_ALL_LOCKS: Final = 0xAA

# Capabilities that follow the file-system uid (CAP_FS_SET).
FS_CAPS: Final = (
    1 << CAP_CHOWN
    | 1 << CAP_DAC_OVERRIDE
    | 1 << CAP_DAC_READ_SEARCH
    | 1 << CAP_FOWNER
    | 1 << CAP_FSETID
    | 1 << CAP_LINUX_IMMUTABLE
    | 1 << CAP_MKNOD
    | 1 << CAP_MAC_OVERRIDE
)


def install(task: Task, new: Credentials) -> None:
    """Make `new` the credentials (commit_creds): a change of identity ends dumpability and pdeath_signal."""
    old = task.creds
    if (
        old.euid != new.euid
        or old.egid != new.egid
        or old.fsuid != new.fsuid
        or old.fsgid != new.fsgid
        or not _is_subset(old, new)
    ):
        task.group.is_dumpable = False
        task.pdeath_signal = 0
        task.thread.queue_keep_only([])
    task.creds = new
    withdraw(task)


def _is_subset(old: Credentials, new: Credentials) -> bool:
    """Whether the new capabilities give nothing that the old did not (cred_cap_issubset)."""
    if old.user_ns is new.user_ns:
        return new.cap_permitted & ~old.cap_permitted == 0
    at = new.user_ns
    while at is not None:
        if at.parent is old.user_ns and at.owner_uid == old.euid:
            return True
        at = at.parent
    return False


def _fix_setuid(old: Credentials, new: Credentials) -> None:
    """The capability transitions of a change of uids (cap_emulate_setxuid)."""
    if old.securebits & SECBIT_NO_SETUID_FIXUP:
        return
    root = old.root_uid()
    had_root = old.uid == root or old.euid == root or old.suid == root
    if had_root and new.uid != root and new.euid != root and new.suid != root:
        if not old.keep_caps:
            new.cap_permitted = 0
            new.cap_effective = 0
        new.cap_ambient = 0
    if old.euid == root and new.euid != root:
        new.cap_effective = 0
    if old.euid != root and new.euid == root:
        new.cap_effective = new.cap_permitted


def set_uid(task: Task, uid: int) -> None:
    """setuid(2)."""
    old = task.creds
    if uid == NO_ID:
        raise LinuxError(EINVAL)
    new = old.clone()
    if old.capable_here(CAP_SETUID):
        new.uid = uid
        new.suid = uid
    elif uid != old.uid and uid != old.suid:
        raise LinuxError(EPERM)
    new.euid = uid
    new.fsuid = uid
    _fix_setuid(old, new)
    install(task, new)


def set_gid(task: Task, gid: int) -> None:
    """setgid(2)."""
    old = task.creds
    if gid == NO_ID:
        raise LinuxError(EINVAL)
    new = old.clone()
    if old.capable_here(CAP_SETGID):
        new.gid = gid
        new.sgid = gid
    elif gid != old.gid and gid != old.sgid:
        raise LinuxError(EPERM)
    new.egid = gid
    new.fsgid = gid
    install(task, new)


def set_reuid(task: Task, ruid: int, euid: int) -> None:
    """setreuid(2)."""
    old = task.creds
    may = old.capable_here(CAP_SETUID)
    new = old.clone()
    if ruid != NO_ID:
        if ruid not in (old.uid, old.euid) and not may:
            raise LinuxError(EPERM)
        new.uid = ruid
    if euid != NO_ID:
        if euid not in (old.uid, old.euid, old.suid) and not may:
            raise LinuxError(EPERM)
        new.euid = euid
    if ruid != NO_ID or (euid != NO_ID and euid != old.uid):
        new.suid = new.euid
    new.fsuid = new.euid
    _fix_setuid(old, new)
    install(task, new)


def set_regid(task: Task, rgid: int, egid: int) -> None:
    """setregid(2)."""
    old = task.creds
    may = old.capable_here(CAP_SETGID)
    new = old.clone()
    if rgid != NO_ID:
        if rgid not in (old.gid, old.egid) and not may:
            raise LinuxError(EPERM)
        new.gid = rgid
    if egid != NO_ID:
        if egid not in (old.gid, old.egid, old.sgid) and not may:
            raise LinuxError(EPERM)
        new.egid = egid
    if rgid != NO_ID or (egid != NO_ID and egid != old.gid):
        new.sgid = new.egid
    new.fsgid = new.egid
    install(task, new)


def set_resuid(task: Task, ruid: int, euid: int, suid: int) -> None:
    """setresuid(2)."""
    old = task.creds
    held = (old.uid, old.euid, old.suid, NO_ID)
    if (ruid not in held or euid not in held or suid not in held) and not old.capable_here(CAP_SETUID):
        raise LinuxError(EPERM)
    new = old.clone()
    if ruid != NO_ID:
        new.uid = ruid
    if euid != NO_ID:
        new.euid = euid
    if suid != NO_ID:
        new.suid = suid
    new.fsuid = new.euid
    _fix_setuid(old, new)
    install(task, new)


def set_resgid(task: Task, rgid: int, egid: int, sgid: int) -> None:
    """setresgid(2)."""
    old = task.creds
    held = (old.gid, old.egid, old.sgid, NO_ID)
    if (rgid not in held or egid not in held or sgid not in held) and not old.capable_here(CAP_SETGID):
        raise LinuxError(EPERM)
    new = old.clone()
    if rgid != NO_ID:
        new.gid = rgid
    if egid != NO_ID:
        new.egid = egid
    if sgid != NO_ID:
        new.sgid = sgid
    new.fsgid = new.egid
    install(task, new)


def set_fsuid(task: Task, uid: int) -> int:
    """setfsuid(2): the previous fsuid, whether or not the change was allowed."""
    old = task.creds
    previous = old.fsuid
    if uid == NO_ID or uid == previous:
        return previous
    if uid in (old.uid, old.euid, old.suid) or old.capable_here(CAP_SETUID):
        new = old.clone()
        new.fsuid = uid
        if not old.securebits & SECBIT_NO_SETUID_FIXUP:
            root = old.root_uid()
            if previous == root:
                new.cap_effective &= ~FS_CAPS
            elif uid == root:
                new.cap_effective |= new.cap_permitted & FS_CAPS
        install(task, new)
    return previous


def set_fsgid(task: Task, gid: int) -> int:
    """setfsgid(2): the previous fsgid."""
    old = task.creds
    previous = old.fsgid
    if gid == NO_ID or gid == previous:
        return previous
    if gid in (old.gid, old.egid, old.sgid) or old.capable_here(CAP_SETGID):
        new = old.clone()
        new.fsgid = gid
        install(task, new)
    return previous


def set_groups(task: Task, groups: list[int]) -> None:
    """setgroups(2), after the check of CAP_SETGID; the kernel keeps the list sorted."""
    if NO_ID in groups:
        raise LinuxError(EINVAL)
    new = task.creds.clone()
    new.groups = sorted(groups)
    install(task, new)


def set_caps(task: Task, effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) (cap_capset)."""
    old = task.creds
    effective &= CAP_FULL_SET
    permitted &= CAP_FULL_SET
    inheritable &= CAP_FULL_SET
    if not old.capable_here(CAP_SETPCAP) and inheritable & ~(old.cap_inheritable | old.cap_permitted):
        raise LinuxError(EPERM)
    if inheritable & ~(old.cap_inheritable | old.cap_bounding):
        raise LinuxError(EPERM)
    if permitted & ~old.cap_permitted or effective & ~permitted:
        raise LinuxError(EPERM)
    new = old.clone()
    new.cap_effective = effective
    new.cap_permitted = permitted
    new.cap_inheritable = inheritable
    new.cap_ambient &= permitted & inheritable
    install(task, new)


def cap_is_valid(cap: int) -> bool:
    """Whether `cap` is the number of a capability."""
    return 0 <= cap <= CAP_LAST_CAP


def drop_bounding(task: Task, cap: int) -> None:
    """PR_CAPBSET_DROP."""
    old = task.creds
    if not old.capable_here(CAP_SETPCAP):
        raise LinuxError(EPERM)
    if not cap_is_valid(cap):
        raise LinuxError(EINVAL)
    new = old.clone()
    new.cap_bounding &= ~(1 << cap)
    install(task, new)


def securebits(creds: Credentials) -> int:
    """PR_GET_SECUREBITS: the flags with SECBIT_KEEP_CAPS."""
    return (creds.securebits & ~SECBIT_KEEP_CAPS) | (SECBIT_KEEP_CAPS if creds.keep_caps else 0)


def set_securebits(task: Task, bits: int) -> None:
    """PR_SET_SECUREBITS."""
    old = task.creds
    now = securebits(old)
    if (
        ((now & SECURE_ALL_LOCKS) >> 1) & (now ^ bits)
        or now & SECURE_ALL_LOCKS & ~bits
        or bits & ~(SECURE_ALL_LOCKS | SECURE_ALL_BITS)
        or not old.capable_here(CAP_SETPCAP)
    ):
        raise LinuxError(EPERM)
    new = old.clone()
    new.securebits = bits & ~SECBIT_KEEP_CAPS
    new.keep_caps = bits & SECBIT_KEEP_CAPS != 0
    install(task, new)


def set_keep_caps(task: Task, value: int) -> None:
    """PR_SET_KEEPCAPS."""
    if value not in (0, 1):
        raise LinuxError(EINVAL)
    if task.creds.securebits & SECBIT_KEEP_CAPS_LOCKED:
        raise LinuxError(EPERM)
    new = task.creds.clone()
    new.keep_caps = value == 1
    install(task, new)


def raise_ambient(task: Task, cap: int) -> None:
    """PR_CAP_AMBIENT_RAISE; `cap` is valid."""
    old = task.creds
    bit = 1 << cap
    if not old.cap_permitted & old.cap_inheritable & bit or old.securebits & SECBIT_NO_CAP_AMBIENT_RAISE:
        raise LinuxError(EPERM)
    new = old.clone()
    new.cap_ambient |= bit
    install(task, new)


def lower_ambient(task: Task, mask: int) -> None:
    """PR_CAP_AMBIENT_LOWER and CLEAR_ALL: take the capabilities in `mask` out of the ambient set."""
    new = task.creds.clone()
    new.cap_ambient &= ~mask
    install(task, new)


def set_no_new_privs(task: Task) -> None:
    """PR_SET_NO_NEW_PRIVS: for ever."""
    new = task.creds.clone()
    new.no_new_privs = True
    install(task, new)
