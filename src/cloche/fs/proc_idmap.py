"""/proc/PID/uid_map, gid_map, projid_map and setgroups (user_namespaces(7), kernel/user_namespace.c).

A map is written once, by a process in the namespace or in its parent. Its allowed contents depend on the capabilities
of both the writer and the opener of the file.
"""

from typing import Final

from cloche.abi.capability import CAP_SETFCAP, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN
from cloche.abi.errno import EACCES, EINVAL, EPERM, ESRCH, LinuxError
from cloche.fs.proc_pid import TaskFile
from cloche.fs.proc_table import no_text
from cloche.fs.proc_task import is_present, reader_of
from cloche.kernel.answers import withdraw
from cloche.kernel.task import Task
from cloche.mm.usermem import IovIter
from cloche.vfs.credentials import Credentials
from cloche.vfs.objects import Context, FileDescription, Path
from cloche.vfs.pseudo import GeneratedDescription, PseudoFs
from cloche.vfs.userns import (
    Extent,
    IdMap,
    UserNamespace,
    lower_map,
    map_gid,
    map_text,
    map_uid,
    parse_map,
)

_WRITE_MAX: Final = 4096  # shorter writes only
_ALL: Final = 0xFFFFFFFF  # ids of the initial namespace


def _map_of(ns: UserNamespace | None, name: bytes) -> IdMap | None:
    """The map of a kind; None for the initial namespace, which maps every id to itself."""
    if ns is None:
        return None
    if name == b"uid_map":
        return ns.uids
    return ns.gids if name == b"gid_map" else ns.projids


class IdMapFile(TaskFile):
    """A map of a user namespace, or its setgroups file."""

    def __init__(self, fs: PseudoFs, task: Task, name: bytes) -> None:
        super().__init__(fs, task, 0o644, no_text)
        self.name: bytes = name

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        if not is_present(self.task):
            raise LinuxError(ESRCH)
        ns = self.task.creds.user_ns
        if self.name == b"setgroups" and flags & 3 and not ctx.creds.capable_in(ns, CAP_SYS_ADMIN):
            raise LinuxError(EACCES)
        return IdMapDescription(path, self, flags, ns, ctx.creds)


class IdMapDescription(GeneratedDescription):
    """An open map: of the namespace that the task was in when it was opened."""

    def __init__(
        self, path: Path, inode: IdMapFile, flags: int, ns: UserNamespace | None, opener: Credentials
    ) -> None:
        super().__init__(path, inode, flags)
        self.name: bytes = inode.name
        self.ns: UserNamespace | None = ns
        self.opener: Credentials = opener

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        text = self._text_for()
        return dst.copy_to(text[offset : offset + dst.remaining()]) if offset < len(text) else 0

    def _text_for(self) -> bytes:
        ns = self.ns
        if self.name == b"setgroups":
            return b"allow\n" if ns is None or ns.may_setgroups else b"deny\n"
        viewer = self.opener.user_ns
        if ns is None:
            return map_text([Extent(0, 0, _ALL)], _map_of(viewer, self.name))
        if viewer is ns:
            viewer = ns.parent
        found = _map_of(ns, self.name)
        assert found is not None
        return map_text(found.extents, _map_of(viewer, self.name))

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        if src.remaining() >= _WRITE_MAX or offset:
            return -EINVAL
        data = src.copy_from(src.remaining())
        try:
            if self.name == b"setgroups":
                self._write_setgroups(data)
            else:
                self._write_map(ctx, data)
        except LinuxError as error:
            return -error.errno
        return len(data)

    def _write_setgroups(self, data: bytes) -> None:
        """proc_setgroups_write.  Raises LinuxError(EINVAL, EPERM)."""
        word = data.rstrip(b" \t\n\0")
        if len(data) >= 8 or word not in (b"allow", b"deny"):
            raise LinuxError(EINVAL)
        ns = self.ns
        if word == b"allow":
            if ns is not None and not ns.may_setgroups:
                raise LinuxError(EPERM)
        else:
            if ns is None or ns.gids.extents:
                raise LinuxError(EPERM)
            ns.may_setgroups = False

    def _write_map(self, ctx: Context, data: bytes) -> None:
        """map_write.  Raises LinuxError(EINVAL, EPERM)."""
        ns, opener = self.ns, self.opener
        writer = reader_of(ctx)
        if ns is None or (opener.user_ns is not ns and opener.user_ns is not ns.parent):
            raise LinuxError(EPERM)
        target = _map_of(ns, self.name)
        assert target is not None
        if target.extents:
            raise LinuxError(EPERM)
        cap = {b"uid_map": CAP_SETUID, b"gid_map": CAP_SETGID}.get(self.name, -1)
        if cap >= 0 and not opener.capable_in(ns, CAP_SYS_ADMIN):
            raise LinuxError(EPERM)
        wanted = parse_map(data)
        if not _is_permitted(ctx.creds, opener, ns, cap, wanted):
            raise LinuxError(EPERM)
        target.extents = lower_map(wanted, _map_of(ns.parent, self.name))
        for task in writer.kernel.tasks.values():
            inside = task.creds.user_ns
            if inside is not None and inside.is_within(ns):
                withdraw(task)  # its ids have changed


def _maps_root(wanted: list[Extent]) -> bool:
    return any(each.lower == 0 for each in wanted)


def _is_permitted(
    writer: Credentials, opener: Credentials, ns: UserNamespace, cap: int, wanted: list[Extent]
) -> bool:
    """new_idmap_permitted: one's own id without privilege, anything with the capability over the parent."""
    if cap == CAP_SETUID and _maps_root(wanted):
        # Root in the parent could give a file capabilities there.
        if opener.user_ns is ns:
            if not ns.parent_could_setfcap:
                return False
        elif not opener.capable_in(ns.parent, CAP_SETFCAP):
            return False
    if len(wanted) == 1 and wanted[0].count == 1 and ns.owner_uid == opener.euid:
        lower = wanted[0].lower
        if cap == CAP_SETUID and map_uid(ns.parent, lower) == opener.euid:
            return True
        if cap == CAP_SETGID and not ns.may_setgroups and map_gid(ns.parent, lower) == opener.egid:
            return True
    if cap < 0:
        return True
    return writer.capable_in(ns.parent, cap) and opener.capable_in(ns.parent, cap)
