"""Maps of ids: user namespaces that are made for them, and copies of mounts, which may be id-mapped.

Used by the OCI runtime and by gofers.  Knows nothing of the sentry; calls the host only.  Only a process with a single
thread may call these.
"""

import os
from collections.abc import Callable
from errno import EINVAL, EIO
from typing import Final

from cloche.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE
from cloche.abi.fs import MOUNT_ATTR_IDMAP, MS_PRIVATE, MS_SLAVE, OPEN_TREE_CLONE
from cloche.abi.sched import CLONE_NEWUSER
from cloche.platform import hostsys

__all__ = ["Rows", "Stand", "clone_mount", "is_inside", "is_mapped", "map_text", "new_namespace", "outside"]

Rows = list[tuple[int, int, int]]  # id inside, id outside, count

_READY: Final = b"+"


def outside(rows: Rows, ident: int) -> int:
    """The id outside for one inside; -1 if there is none."""
    for first, other, count in rows:
        if first <= ident < first + count:
            return other + ident - first
    return -1


def is_mapped(rows: Rows, ident: int) -> bool:
    """Whether there is an id outside for one inside."""
    return outside(rows, ident) >= 0


def is_inside(rows: Rows, ident: int) -> bool:
    """Whether there is an id inside for one outside."""
    return any(other <= ident < other + count for _first, other, count in rows)


def map_text(rows: Rows) -> bytes:
    """As it is written to uid_map or gid_map."""
    return b"".join([b"%d %d %d\n" % row for row in rows])


class Stand:
    """A child that has called `enter` and waits for `end`, so that its namespaces can be opened.  Raises OSError."""

    def __init__(self, enter: Callable[[], None]) -> None:
        hear, say = os.pipe2(os.O_CLOEXEC)
        wait, self._keep = os.pipe2(os.O_CLOEXEC)
        self.pid: int = os.fork()
        if self.pid == 0:
            try:
                os.close(self._keep)
                enter()
                os.write(say, _READY + os.fsencode(os.readlink("/proc/self")))
                os.read(wait, 1)
            except OSError as error:
                os.write(say, str(error.errno or EIO).encode())
            finally:
                os._exit(0)
        os.close(say)
        os.close(wait)
        answer = os.read(hear, 16)
        os.close(hear)
        # Its pid as /proc has it, which may be another's than the caller's pid namespace's.
        self.shown_pid: int = int(answer[1:]) if answer.startswith(_READY) else 0
        if not self.shown_pid:
            self.end()
            number = int(answer or str(EIO).encode())
            raise OSError(number, os.strerror(number))

    def end(self) -> None:
        """End it."""
        os.close(self._keep)
        os.waitpid(self.pid, 0)


def new_namespace(uids: Rows, gids: Rows) -> int:
    """A descriptor of a new user namespace with these maps, in which there is no process.  Raises OSError."""
    stand = Stand(_leave)
    try:
        for name, rows in (("uid_map", uids), ("gid_map", gids)):
            fd = os.open(f"/proc/{stand.shown_pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, map_text(rows))
            finally:
                os.close(fd)
        return os.open(f"/proc/{stand.shown_pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        stand.end()


def _leave() -> None:
    hostsys.unshare(CLONE_NEWUSER)


def clone_mount(
    source: str,
    uids: Rows,
    gids: Rows,
    *,
    is_recursive: bool = True,
    is_private: bool = False,
    maps_below: bool = False,
) -> int:
    """A descriptor of a copy of the mount at a path of the host, which is in no mount namespace, with what is mounted
    below it (`is_recursive`). With rows its ids are mapped: those of the files are the ids inside, and appear as the
    ids outside; in the mounts below, too, with `maps_below`. Unless it is private, what the host mounts later in what
    it shares appears below it, if the host's kernel is 6.15 or newer, and not the other way round.

    Raises OSError, EINVAL or EPERM where the file system or the caller's rights do not permit a map.
    """
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if is_recursive else 0)
    fd = hostsys.open_tree(AT_FDCWD, os.fsencode(source), flags)
    namespace = -1
    try:
        propagation = MS_PRIVATE if is_private else MS_SLAVE
        hostsys.mount_setattr(fd, AT_EMPTY_PATH | (AT_RECURSIVE if is_recursive else 0), 0, propagation, 0)
        if uids or gids:
            if not uids or not gids:
                raise OSError(EINVAL, "a map of users needs one of groups, and the other way round")
            namespace = new_namespace(uids, gids)
            below = AT_RECURSIVE if maps_below and is_recursive else 0
            hostsys.mount_setattr(fd, AT_EMPTY_PATH | below, MOUNT_ATTR_IDMAP, 0, namespace)
    except OSError:
        os.close(fd)
        raise
    finally:
        if namespace >= 0:
            os.close(namespace)
    return fd
