"""User namespaces of containers: their maps of ids, and how a process gets into one.

The maps are checked as runc checks them, and then written, by which the host's kernel decides whether the caller may
map these ids.  An ordinary user's are written by newuidmap(1) and newgidmap(1), which ask /etc/subuid and /etc/subgid.
"""

import fcntl
import os
from typing import Final

from cloche.abi.ioctl import NS_GET_USERNS
from cloche.abi.sched import CLONE_NEWUSER
from cloche.boot.idmaps import Rows, Stand, is_inside, is_mapped, map_text
from cloche.boot.spec import SandboxSpec
from cloche.oci.errors import OciError
from cloche.platform import hostsys

_MAP_BYTES: Final = 65536


class IdMaps:
    """The maps of a user namespace."""

    def __init__(self, uids: Rows, gids: Rows, *, may_setgroups: bool = True) -> None:
        self.uids: Rows = uids
        self.gids: Rows = gids
        self.may_setgroups: bool = may_setgroups

    def has(self, uid: int, gid: int) -> bool:
        """Whether a user and a group outside have ids inside."""
        return is_inside(self.uids, uid) and is_inside(self.gids, gid)

    def check_root(self) -> None:
        """Raises OciError unless both have root, as which a container is set up."""
        if not is_mapped(self.uids, 0):
            raise OciError("User namespaces enabled, but no user mapping found.")
        if not is_mapped(self.gids, 0):
            raise OciError("User namespaces enabled, but no group mapping found.")

    def check_user(self, uid: int, gid: int, groups: list[int]) -> None:
        """Raises OciError unless a process can have these ids."""
        problem = ""
        if not is_mapped(self.uids, uid):
            problem = "cannot set uid to unmapped user in user namespace"
        elif not is_mapped(self.gids, gid):
            problem = "cannot set gid to unmapped user in user namespace"
        elif groups and not self.may_setgroups:
            problem = "cannot set any additional groups in a rootless container"
        elif any(not is_mapped(self.gids, each) for each in groups):
            problem = "setgroups: invalid argument"
        if problem:
            raise OciError(f"unable to start container process: unable to setup user: {problem}")


def _parse(text: str) -> Rows:
    found: Rows = []
    for line in text.splitlines():
        first, other, count = line.split()
        found.append((int(first), int(other), int(count)))
    return found


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read(_MAP_BYTES)


def maps_of(pid: int) -> IdMaps:
    """Those of the user namespace of a process, as they look from this one's.  Raises OSError."""
    folder = f"/proc/{pid}/"
    may_setgroups = _read(folder + "setgroups").strip() != "deny"
    return IdMaps(
        _parse(_read(folder + "uid_map")), _parse(_read(folder + "gid_map")), may_setgroups=may_setgroups
    )


# -- processes in one ------------------------------------------------------------------------------------------
def write_maps(pid: int, maps: IdMaps) -> None:
    """Give the new user namespace of a process its maps.  Raises OciError."""
    try:
        _write(f"/proc/{pid}/uid_map", map_text(maps.uids))
    except PermissionError:
        if os.geteuid() == 0:
            raise OciError(f"failed to update /proc/{pid}/uid_map: Operation not permitted") from None
        _write_as_user(pid, maps)
        return
    except OSError as error:
        raise OciError(f"failed to update /proc/{pid}/uid_map: {error.strerror}") from None
    try:
        _write(f"/proc/{pid}/gid_map", map_text(maps.gids))
    except OSError as error:
        raise OciError(f"failed to update /proc/{pid}/gid_map: {error.strerror}") from None


def _write(path: str, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def _write_as_user(pid: int, maps: IdMaps) -> None:
    """Raises OciError."""
    own = maps.uids[0][1:] == (os.geteuid(), 1) and maps.gids[0][1:] == (os.getegid(), 1)
    if own and len(maps.uids) == len(maps.gids) == 1:
        try:
            _write(f"/proc/{pid}/setgroups", b"deny")
            _write(f"/proc/{pid}/uid_map", map_text(maps.uids))
            _write(f"/proc/{pid}/gid_map", map_text(maps.gids))
        except OSError as error:
            raise OciError(f"failed to update /proc/{pid}/uid_map: {error.strerror}") from None
        maps.may_setgroups = False
        return
    for name, rows in (("newuidmap", maps.uids), ("newgidmap", maps.gids)):
        words = [name, str(pid), *[str(number) for row in rows for number in row]]
        try:
            helper = os.posix_spawnp(name, words, os.environ)
        except OSError as error:
            raise OciError(f"failed to use {name} on {pid}: {error.strerror}") from None
        if os.waitpid(helper, 0)[1]:
            raise OciError(f"failed to use {name} on {pid}")


def describe(spec: SandboxSpec, pid: int) -> None:
    """Tell a spec of the user namespace of the container's anchor, which is open from then on.  Raises OSError."""
    fd = spec.user_ns_fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    spec.user_ns_name = b"%d:%d" % (os.fstat(fd).st_dev, os.fstat(fd).st_ino)
    maps = maps_of(pid)
    spec.uid_map, spec.gid_map, spec.may_setgroups = maps.uids, maps.gids, maps.may_setgroups
    spec.owned_namespaces = owned_by(pid)


def owned_by(pid: int) -> list[bytes]:
    """The kinds of a process's namespaces that belong to its user namespace.  Raises OSError."""
    own = os.stat(f"/proc/{pid}/ns/user")
    found: list[bytes] = []
    for kind in ("uts", "ipc", "net", "cgroup", "pid"):
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            owner = fcntl.ioctl(fd, NS_GET_USERNS)
        except PermissionError:  # it belongs to none that can be seen from here
            continue
        finally:
            os.close(fd)
        if os.path.samestat(os.fstat(owner), own):
            found.append(kind.encode())
        os.close(owner)
    return found


def maps_at(fd: int, path: str) -> IdMaps:
    """The maps of an existing user namespace.  Raises OciError."""
    where = "failed to cache mappings for userns: userns spawn: "

    def enter() -> None:
        hostsys.setns(fd, CLONE_NEWUSER)

    try:
        stand = Stand(enter)
    except OSError as error:
        raise OciError(f"{where}setns {path} failed: {error.strerror}") from None
    try:
        return maps_of(stand.shown_pid)
    except OSError as refusal:
        raise OciError(f"{where}{refusal}") from None
    finally:
        stand.end()


def id_maps(uids: Rows, gids: Rows) -> IdMaps:
    """The maps of a new namespace.  Raises OciError."""
    if not uids:
        raise OciError("User namespaces enabled, but no uid mappings found.")
    if not gids:
        raise OciError("User namespaces enabled, but no gid mappings found.")
    maps = IdMaps(uids, gids)
    maps.check_root()
    return maps
