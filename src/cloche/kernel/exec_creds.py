"""The credentials that a program starts with: set-user-ID bits, file capabilities, and the transformation of
capabilities(7) (security/commoncap.c, bprm_creds_from_file).

Without `--allow-suid` boot mounts everything nosuid, and files give privileges only in file systems that a guest has
mounted in a user namespace of its own. Nothing is changed here: `kernel.exec` installs the result once there is no
way back.
"""

from typing import Final

from cloche.abi.capability import CAP_SETUID, CAP_SYS_PTRACE
from cloche.abi.errno import EPERM, LinuxError
from cloche.abi.fs import MS_NOSUID
from cloche.abi.stat import S_ISGID, S_ISUID, S_IXGRP
from cloche.abi.xattr import NAME_CAPS
from cloche.kernel.creds import SECBIT_NOROOT
from cloche.kernel.task import Task
from cloche.vfs.credentials import Credentials
from cloche.vfs.file_caps import FileCaps, owns_namespace, parse
from cloche.vfs.objects import Path

_KEEP_CAPS: Final = 16  # SECBIT_KEEP_CAPS


class ExecCredentials:
    """The credentials of a program, and whether they are more than its caller's (AT_SECURE)."""

    def __init__(self, creds: Credentials, *, is_secure: bool, has_gained: bool) -> None:
        self.creds: Credentials = creds
        self.is_secure: bool = is_secure
        self.has_gained: bool = has_gained  # set-id or new capabilities: dangerous personality flags go


def may_suid(task: Task, path: Path) -> bool:
    """mnt_may_suid: whether set-id bits and capabilities of a file count for the caller."""
    if path.mount.flags & MS_NOSUID or path.mount not in task.mount_ns.mounts:
        return False
    owner, mine = path.mount.fs.user_ns, task.creds.user_ns
    return owner is None or (mine is not None and mine.is_within(owner))


def _set_ids(task: Task, path: Path, new: Credentials) -> None:
    """bprm_fill_uid."""
    inode = path.inode()
    if inode.mode & (S_ISUID | S_ISGID) == 0 or new.no_new_privs or not may_suid(task, path):
        return
    inode.refresh_owner(task)
    mode = inode.mode
    ns = new.user_ns
    if ns is not None and not ns.has_ids(inode.uid, inode.gid):
        return
    if mode & S_ISUID:
        new.euid = inode.uid
    if mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP:
        new.egid = inode.gid


def _file_caps(task: Task, path: Path) -> FileCaps | None:
    """get_file_caps: those that count in the caller's user namespace."""
    if not may_suid(task, path):
        return None
    try:
        raw = path.inode().getxattr(task, NAME_CAPS)
    except LinuxError:
        return None
    found = parse(raw)
    if found is None or not owns_namespace(found.root_uid, task.creds.user_ns):
        return None
    return found


def _shares_fs(task: Task) -> bool:
    """LSM_UNSAFE_SHARE: another process could change the task's root and working directory."""
    return any(other.fs is task.fs and other.group is not task.group for other in task.kernel.tasks.values())


def _is_downgraded(task: Task, new: Credentials) -> bool:
    """Whether what a file gives is refused: no_new_privs, a shared fs, a tracer without the capability."""
    if new.no_new_privs or _shares_fs(task):
        return True
    tracee = task.tracee
    return tracee is not None and not tracee.tracer.creds.capable_in(new.user_ns, CAP_SYS_PTRACE)


def exec_credentials(task: Task, path: Path) -> ExecCredentials:
    """The credentials of the program at `path`.  Raises LinuxError(EPERM): it could not run with less."""
    old = task.creds
    new = old.clone()
    _set_ids(task, path, new)
    root = new.root_uid()
    caps = _file_caps(task, path)
    new.cap_permitted = 0
    is_effective = False
    if caps is not None:
        is_effective = caps.is_effective
        new.cap_permitted = (new.cap_bounding & caps.permitted) | (new.cap_inheritable & caps.inheritable)
        if is_effective and caps.permitted & ~new.cap_permitted:
            raise LinuxError(EPERM)
    is_suid_root = new.uid != root and new.euid == root
    if not new.securebits & SECBIT_NOROOT and not (caps is not None and is_suid_root):
        if root in (new.euid, new.uid):
            new.cap_permitted = old.cap_bounding | old.cap_inheritable
        if new.euid == root:
            is_effective = True
    if new.user_ns is None:
        new.cap_permitted &= task.group.container.cap_ceiling
    is_setid = new.euid != old.uid or new.egid != old.gid
    has_gained = new.cap_permitted & ~old.cap_permitted != 0
    if (is_setid or has_gained) and _is_downgraded(task, new):
        if not task.creds.capable_in(new.user_ns, CAP_SETUID) or new.no_new_privs:
            new.euid, new.egid = new.uid, new.gid
        new.cap_permitted &= old.cap_permitted
    new.suid = new.fsuid = new.euid
    new.sgid = new.fsgid = new.egid
    if caps is not None or is_setid:
        new.cap_ambient = 0
    new.cap_permitted |= new.cap_ambient
    new.cap_effective = new.cap_permitted if is_effective else new.cap_ambient
    new.securebits &= ~_KEEP_CAPS
    new.keep_caps = False
    has_more = is_effective or new.cap_permitted & ~new.cap_ambient != 0
    is_secure = is_setid or (new.uid != root and has_more)
    has_gained = has_gained or new.euid != old.euid or new.egid != old.egid
    return ExecCredentials(new, is_secure=is_secure, has_gained=has_gained)
