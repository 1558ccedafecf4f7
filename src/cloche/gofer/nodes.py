"""Attach points and the table of directories that the sentry refers to by fid.

Owns every directory descriptor of the gofer.  Directories are opened one component at a time, relative to
the parent's descriptor, with O_NOFOLLOW: per component this is what openat2's
RESOLVE_BENEATH|NO_SYMLINKS|NO_MAGICLINKS gives, on every kernel.  `..` is never resolved, so nothing above
an attach point can be named.

At most `max_open` descriptors are kept; the least recently used are closed and opened again through the
chain of parents, and then must still be the same inode (else ESTALE).  Procfs and its like are not entered
when they are mounted below an attach point: they show the host and the gofer itself.
"""

import os
from typing import Final

from cloche.abi.errno import (
    EACCES,
    EBADF,
    EINVAL,
    ELOOP,
    ENFILE,
    ENOSYS,
    ENOTDIR,
    EPERM,
    ESTALE,
    EXDEV,
    LinuxError,
)
from cloche.abi.fcntl import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
)
from cloche.abi.magic import (
    BINFMTFS_MAGIC,
    BPF_FS_MAGIC,
    CGROUP2_SUPER_MAGIC,
    CGROUP_SUPER_MAGIC,
    DEBUGFS_MAGIC,
    DEVPTS_SUPER_MAGIC,
    EFIVARFS_MAGIC,
    NSFS_MAGIC,
    PROC_SUPER_MAGIC,
    PSTOREFS_MAGIC,
    RDTGROUP_SUPER_MAGIC,
    SECURITYFS_MAGIC,
    SELINUX_MAGIC,
    SMACK_MAGIC,
    SYSFS_MAGIC,
    TRACEFS_MAGIC,
)
from cloche.abi.stat import S_IFDIR, S_IFMT
from cloche.boot.idmaps import Rows, clone_mount
from cloche.gofer.skeleton import Skeleton, is_public
from cloche.platform import hostsys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloche.gofer.counts import FileCounts

CONFIGFS_MAGIC: Final = 0x62656570  # linux/magic.h does not list it (fs/configfs)
FUSECTL_MAGIC: Final = 0x65735543  # fs/fuse/control.c

# Kernel interfaces that look like files: reading them tells about the host, or about the gofer.
FORBIDDEN_MAGICS: Final = frozenset(
    [
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        DEBUGFS_MAGIC,
        TRACEFS_MAGIC,
        SECURITYFS_MAGIC,
        SELINUX_MAGIC,
        SMACK_MAGIC,
        BPF_FS_MAGIC,
        BINFMTFS_MAGIC,
        DEVPTS_SUPER_MAGIC,
        EFIVARFS_MAGIC,
        PSTOREFS_MAGIC,
        RDTGROUP_SUPER_MAGIC,
        NSFS_MAGIC,
        CONFIGFS_MAGIC,
        FUSECTL_MAGIC,
    ]
)

DIR_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_NODES: Final = 1 << 20  # about 300 bytes each


class AttachPoint:
    """A host directory or file that the sandbox may see."""

    def __init__(self, path: str, *, is_writable: bool, only: list[bytes] | None = None) -> None:
        """`path` is the host's, symbolic links allowed: it comes from the operator, not from a guest.

        `only`: the names of its top directory that exist for the sandbox (None: all).
        """
        self.only: frozenset[bytes] | None = frozenset(only) if only is not None else None
        self.is_public_only: bool = False  # show only what every user of the host may read
        self.skeleton: Skeleton | None = None  # show only some directories
        self.counts: FileCounts | None = None  # of a volume that may have only so many files
        self.counts_source: str = ""
        self.counts_slot: int = -1
        self.keeps_suid: bool = False  # set-user-ID and set-group-ID bits may be made in it
        self.has_worker: bool = False  # it is served by a process of its own
        self.has_doors: bool = False  # sockets that are bound in it are sockets of the host's
        self.shows_sockets: bool = False  # programs may connect to the host's sockets in it
        self.uid_map: Rows = []  # of an id-mapped mount
        self.gid_map: Rows = []
        self.maps_below: bool = False
        self.is_flat: bool = False  # without what is mounted below it
        self.is_private: bool = False  # what the host mounts below it later does not appear
        self.path: str = path
        self.is_writable: bool = is_writable
        self.fd: int = -1
        self.dev: int = 0
        self.ino: int = 0
        self.is_dir: bool = False

    def show_directories(self, kind: str, people: list[bytes]) -> None:
        """Show only the directories of a `Skeleton`."""
        self.skeleton = Skeleton(kind, frozenset(people))

    def count_files(self, source: str, slot: int) -> None:
        """Limit the number of files by an account (`gofer.counts`)."""
        self.counts_source, self.counts_slot = source, slot

    def hold(self) -> None:
        """Open it for the gofer's life.  Raises OSError; PermissionError for procfs."""
        if self.uid_map or self.gid_map:
            self.fd = self._clone()
        elif self.is_flat or self.is_private:
            try:
                self.fd = self._clone()
            except PermissionError:  # without rights over its own mounts: it sees all that the host has there
                self.fd = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        else:
            # Below it are the mounts of the namespace of the gofer's start, also later ones.
            self.fd = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        status = os.fstat(self.fd)
        self.dev = status.st_dev
        self.ino = status.st_ino
        self.is_dir = status.st_mode & S_IFMT == S_IFDIR
        if hostsys.fstatfs(self.fd).magic == PROC_SUPER_MAGIC:
            os.close(self.fd)
            self.fd = -1
            raise PermissionError(EPERM, "procfs cannot be attached: it shows the gofer itself", self.path)
        if self.counts_source:
            from cloche.gofer.counts import FileCounts

            self.counts = FileCounts(self.counts_source, self.counts_slot)

    def _clone(self) -> int:
        return clone_mount(
            self.path,
            self.uid_map,
            self.gid_map,
            is_recursive=not self.is_flat,
            is_private=self.is_private,
            maps_below=self.maps_below,
        )

    def let_go(self) -> None:
        """Another process serves it."""
        os.close(self.fd)
        self.fd = -1
        if self.counts is not None:
            self.counts.close()
            self.counts = None


class Node:
    """A directory that has a fid (or the file of a file attach point)."""

    def __init__(
        self, fid: int, attach: AttachPoint, parent: "Node | None", name: bytes, dev: int, ino: int
    ) -> None:
        self.fid: int = fid
        self.attach: AttachPoint = attach
        self.parent: Node | None = parent  # None for the root of the attach point
        self.name: bytes = name
        self.dev: int = dev
        self.ino: int = ino
        self.fd: int = -1
        self.children: int = 0  # nodes whose parent this is
        self.is_pin: bool = False  # an open file itself, on its descriptor
        self.write_fd: int = -1  # of a pin: the descriptor with which the sentry writes


def path_of(node: Node) -> list[bytes]:
    """The names from the attach point to a directory."""
    names: list[bytes] = []
    current = node
    while current.parent is not None:
        names.append(current.name)
        current = current.parent
    names.reverse()
    return names


def check_device(fd: int, dev: int, parent_dev: int) -> None:
    """Refuse to cross from one device into a kernel interface.  Raises LinuxError(EACCES)."""
    if dev != parent_dev and hostsys.fstatfs(fd).magic in FORBIDDEN_MAGICS:
        raise LinuxError(EACCES)


def open_dir(parent_fd: int, name: bytes) -> int:
    """An O_PATH descriptor of one component that is a directory.  Raises OSError, LinuxError(ENOTDIR)."""
    try:
        return os.open(name, DIR_FLAGS, dir_fd=parent_fd)
    except OSError as error:
        if error.errno == ELOOP:  # a symbolic link: with O_DIRECTORY it is just not a directory
            raise LinuxError(ENOTDIR)
        raise


class NodeTable:
    """All nodes by fid, with a bounded number of open descriptors."""

    def __init__(self, attach_points: list[AttachPoint], max_open: int, max_pins: int = 1024) -> None:
        self._max_pins: int = max_pins
        self._pins: int = 0
        self._writers: int = 0  # pins that hold a descriptor to write
        # descriptors for writing that are to be closed; that may take long
        self.unused_writers: list[int] = []
        self._attach_points: list[AttachPoint] = attach_points
        self._max_open: int = max(max_open, 8)
        self._nodes: dict[int, Node] = {}
        self._open: dict[int, Node] = {}  # by fid, the least recently used first; roots are not in it
        self._next_fid: int = 1

    def attach(self, index: int) -> Node:
        """A node for the root of an attach point.  Raises LinuxError(EINVAL)."""
        if index >= len(self._attach_points):
            raise LinuxError(EINVAL)
        point = self._attach_points[index]
        if point.fd < 0:  # another process serves it
            raise LinuxError(EINVAL)
        node = self._add(point, None, b"", point.dev, point.ino)
        node.fd = point.fd
        return node

    def get(self, fid: int) -> Node:
        """The node of a fid.  Raises LinuxError(EBADF)."""
        node = self._nodes.get(fid)
        if node is None:
            raise LinuxError(EBADF)
        return node

    def dir_fd(self, node: Node) -> int:
        """An open descriptor of a directory node, valid until the next call.  Raises LinuxError, OSError."""
        if node.is_pin or not node.attach.is_dir:
            raise LinuxError(ENOTDIR)
        if node.parent is None:
            return node.attach.fd
        fd = node.fd
        if fd < 0:
            fd = self._reopen(node)
        self._open.pop(node.fid, None)
        self._open[node.fid] = node
        return fd

    def own_fd(self, node: Node) -> int:
        """An open descriptor of the node itself, valid until the next call."""
        if node.is_pin:
            return node.fd
        return node.attach.fd if node.parent is None else self.dir_fd(node)

    def pin(self, attach: AttachPoint, fd: int) -> int:
        """A fid for the file of `fd` (O_PATH), which is taken over; 0, and `fd` closed, if there are too many."""
        if self._pins >= self._max_pins or len(self._nodes) >= MAX_NODES:
            os.close(fd)
            return 0
        status = os.fstat(fd)
        node = self._add(attach, None, b"", status.st_dev, status.st_ino)
        node.is_pin = True
        node.fd = fd
        self._pins += 1
        if attach.counts is not None:
            attach.counts.pinned(node.dev, node.ino)
        return node.fid

    def keep_writer(self, node: Node, fd: int) -> None:
        """Let a pin keep a descriptor for writing, unless it has one already or too many do. Raises OSError."""
        if node.write_fd < 0 and self._writers < self._max_pins // 2:
            node.write_fd = os.dup(fd)
            self._writers += 1

    def walk(self, parent: Node, name: bytes) -> Node:
        """A node for the child directory `name`.  Raises LinuxError, OSError."""
        parent_fd = self.dir_fd(parent)
        fd = open_dir(parent_fd, name)
        try:
            status = os.fstat(fd)
            check_device(fd, status.st_dev, parent.dev)
            node = self._add(parent.attach, parent, name, status.st_dev, status.st_ino)
        except BaseException:
            os.close(fd)
            raise
        self._keep(node, fd)
        return node

    def is_visible(self, node: Node, name: bytes) -> bool:
        """Whether the attach point shows this name.  Raises LinuxError, OSError."""
        attach = node.attach
        if not name:
            return True
        if attach.only is not None and node.parent is None and name not in attach.only:
            return False
        skeleton = attach.skeleton
        if skeleton is not None:
            dir_fd, path = self.dir_fd(node), path_of(node)
            if not skeleton.is_open(path, os.fstat(dir_fd).st_mode):
                return False
            return skeleton.shows(path, name, os.stat(name, dir_fd=dir_fd, follow_symlinks=False))
        if not attach.is_public_only:
            return True
        return is_public(os.stat(name, dir_fd=self.dir_fd(node), follow_symlinks=False).st_mode)

    def clunk(self, fid: int) -> None:
        """Forget a fid; nodes below it live on.  Unknown fids are ignored."""
        node = self._nodes.pop(fid, None)
        if node is None:
            return
        self._collect(node)

    def moved(self, fid: int, old_parent: Node, old_name: bytes, new_parent: Node, new_name: bytes) -> None:
        """A rename moved the directory of `fid`.  Ignored if the fid does not stand for that directory."""
        node = self._nodes.get(fid)
        if node is None or node.parent is None or node.name != old_name:
            return
        parent = node.parent
        if parent.dev != old_parent.dev or parent.ino != old_parent.ino or node is new_parent:
            return
        ancestor: Node | None = new_parent
        while ancestor is not None:
            if ancestor is node:  # not true: it would make a circle
                return
            ancestor = ancestor.parent
        new_parent.children += 1
        node.parent = new_parent
        node.name = new_name
        parent.children -= 1
        self._collect(parent)

    def _add(self, point: AttachPoint, parent: Node | None, name: bytes, dev: int, ino: int) -> Node:
        if len(self._nodes) >= MAX_NODES:
            raise LinuxError(ENFILE)
        node = Node(self._next_fid, point, parent, name, dev, ino)
        self._next_fid += 1
        self._nodes[node.fid] = node
        if parent is not None:
            parent.children += 1
        return node

    def _collect(self, node: Node) -> None:
        """Close what no fid and no child refers to, up the chain."""
        current: Node | None = node
        while current is not None:
            if current.children > 0 or current.fid in self._nodes:
                return
            self._drop_fd(current)
            parent = current.parent
            if parent is not None:
                parent.children -= 1
            current = parent

    def _drop_fd(self, node: Node) -> None:
        if node.is_pin:
            self._pins -= 1
            if node.attach.counts is not None:
                node.attach.counts.unpinned(node.dev, node.ino)
        if node.write_fd >= 0:
            self._writers -= 1
            self.unused_writers.append(node.write_fd)
            node.write_fd = -1
        if (node.is_pin or node.parent is not None) and node.fd >= 0:
            os.close(node.fd)
            node.fd = -1
        self._open.pop(node.fid, None)

    def _keep(self, node: Node, fd: int) -> None:
        node.fd = fd
        self._open[node.fid] = node
        while len(self._open) > self._max_open:
            self._drop_fd(next(iter(self._open.values())))

    def _reopen(self, node: Node) -> int:
        """Open an evicted directory again, from its nearest ancestor that is open."""
        names: list[bytes] = []
        current: Node = node
        while current.fd < 0:
            names.append(current.name)
            parent = current.parent
            if parent is None:
                raise LinuxError(ESTALE)
            current = parent
        names.reverse()
        try:
            fd = _open_chain(current.fd, names)
        except (FileNotFoundError, NotADirectoryError):
            raise LinuxError(ESTALE)
        except OSError as error:
            raise LinuxError(ESTALE if error.errno in (ELOOP, EXDEV) else error.errno or ESTALE)
        status = os.fstat(fd)
        if status.st_dev != node.dev or status.st_ino != node.ino:
            os.close(fd)
            raise LinuxError(ESTALE)
        self._keep(node, fd)
        return fd


def _open_chain(start_fd: int, names: list[bytes]) -> int:
    """Open a chain of directories below `start_fd`; at once where the kernel has openat2."""
    path = b"/".join(names)
    if len(path) < 4096:
        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
        try:
            return hostsys.openat2(start_fd, path, DIR_FLAGS, 0, resolve)
        except OSError as error:
            if error.errno not in (ENOSYS, EPERM):  # an old kernel, an old container profile
                raise
    fd = start_fd
    for name in names:
        try:
            child = open_dir(fd, name)
        finally:
            if fd != start_fd:
                os.close(fd)
        fd = child
    return fd
