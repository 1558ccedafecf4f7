"""Inodes of files and directories of the host, which the gofer serves, and the shared state of an attach point.

Owns the descriptors that the gofer donated. Directories are in `fs.gofer`, whose docstring says how metadata are
cached; open files are in `fs.gofer_file`. May call the gofer client. Owners always come from the gofer: the sentry is
in a user namespace, in which stat(2) shows nearly every owner as nobody. All other attributes may also come from
fstat(2) of a descriptor. A file that is open and may be changed has a fid of its own (`pin`), which stays valid when
the file is renamed or removed.
"""

import os
import resource
import time
from typing import Final

from cloche.abi.errno import (
    EACCES,
    EINVAL,
    EIO,
    ENFILE,
    ENOTDIR,
    EROFS,
    ESTALE,
    LinuxError,
)
from cloche.abi.fs import FALLOC_FL_KEEP_SIZE
from cloche.abi.magic import REMOTE_MAGICS
from cloche.abi.stat import S_IFMT, S_IFREG
from cloche.abi.xattr import NAME_CAPS, USER_PREFIX
from cloche.fs.gofer_client import GoferClient
from cloche.fs.gofer_link import ChangeObserver
from cloche.fs.gofer_owners import from_gofer, group_to_gofer, user_to_gofer
from cloche.fs.gofer_watch import KnownChild
from cloche.fs.text import TextAhead, may_have_text
from cloche.fs.volume_quota import GONE, NAMELESS, FileCharge, VolumeQuota
from cloche.kernel.host_wait import HostWait
from cloche.kernel.task import Task
from cloche.mm.content import CONTENT_KEYS
from cloche.mm.text import PatchedText
from cloche.platform import hostsys, slow
from cloche.vfs.devices import open_special
from cloche.vfs.file_caps import from_namespace, to_namespace
from cloche.vfs.host_sockets import HostEnd, SocketNode
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode, Path
from cloche.vfs.records import (
    ATTR_ATIME,
    ATTR_GID,
    ATTR_MODE,
    ATTR_MTIME,
    ATTR_SIZE,
    ATTR_UID,
    SetAttr,
    StatFs,
)
from cloche.vfs.userns import UserNamespace
from cloche.wire.gofer import Attr, Entry

MAX_IDLE_FDS: Final = 16384
MAX_SHARED_INODES: Final = 32768
CLUNK_BATCH: Final = 64
# A lookup has just asked the gofer; within this time the same call need not ask again for the attributes.
FRESH_NS: Final = 200_000
# A local disk that has made a change at once is expected to do so again within this time.
TRUST_NS: Final = 10_000_000
_QUICK_NS: Final = 1_000_000
_MUCH_FREED: Final = 1 << 20  # bytes of a file: freeing more takes long
_OTHER_DEVICE_SHIFT: Final = 56  # inode numbers stay below it on every file system of Linux in practice


def _fail(error: OSError) -> LinuxError:
    return LinuxError(error.errno or EIO)


def fill_holes(fd: int, size: int) -> None:
    """Have the host allocate all of a file. Raises LinuxError."""
    if size > 0:
        try:
            hostsys.fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size)
        except OSError as error:
            raise _fail(error)


class GoferHost(FileSystem, ChangeObserver):
    """One attach point of the gofer, and the state shared by its inodes; `fs.gofer` adds the directories."""

    def __init__(
        self,
        client: GoferClient,
        index: int,
        dev: int,
        *,
        is_shared: bool,
        user_ns: UserNamespace | None = None,
    ) -> None:
        """Attaches to a gofer that is in the container's user namespace `user_ns`.  Raises LinuxError."""
        root = client.attach(index)
        super().__init__("gofer", client.statfs(root.fid)[0], dev)
        self.client: GoferClient = client
        self.root_fid: int = root.fid
        self.is_shared: bool = is_shared
        self.has_stable_dentries = not is_shared
        self.is_readonly = not root.is_writable
        self.has_doors: bool = root.has_doors  # sockets that are bound in it are sockets of the host's
        self.shows_sockets: bool = root.shows_sockets  # the host's sockets in it can be connected to
        self.reads_ahead: bool = self.is_readonly and not is_shared
        # A sandbox has a few of these file systems: together they leave most descriptors to open files.
        self.max_idle_fds: int = min(MAX_IDLE_FDS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 32)
        self.max_shared_inodes: int = MAX_SHARED_INODES
        # When so many are known, and more than may be, unused ones are looked for next
        self.trim_above: int = 0
        self.gofer_ns: UserNamespace | None = user_ns
        self._devices: dict[int, int] = {root.attr.dev: 0}
        # Files that have several names, and on a shared attach point everything, by host device and number.
        self._inodes: dict[tuple[int, int], GoferInode] = {}
        self._idle: dict[GoferInode, None] = {}  # unused files with a descriptor, the oldest first
        self._dead_fids: list[int] = []
        self.reads_at_once: bool = True  # its files can be read as far as they are in memory (RWF_NOWAIT)
        # served by a process or another machine, which may hang
        self.is_remote: bool = self.magic in REMOTE_MAGICS
        if self.is_remote:
            client.probe_fid = root.fid
        self.quick_ns: int = 0  # when a change was last made at once
        self.looked_ns: int = 0  # when the clock was last read for `quick_ns`
        self.away: int = 0  # host calls on its files that are taking long (kernel.lanes)
        self.root_attr: Attr = root.attr
        self.quota: VolumeQuota | None = None  # of a named volume that has a size
        client.observers.append(self)

    def change_lost(self) -> None:
        """Cached names may be wrong: from now on they are asked for, as on a shared attach point."""
        self.is_shared = True
        self.has_stable_dentries = False

    def must_ask(self) -> bool:
        """Whether the gofer must make a change: if the storage may hang, or has not answered quickly of late.

        Also if the running call has waited: what it has requested must not be done here a second time.
        """
        if self.is_remote or self.away or self.client.is_again() or self.client.is_last_lane():
            return True
        now = self.looked_ns = time.monotonic_ns()
        return now - self.quick_ns >= TRUST_NS

    def storage_away(self, *, is_away: bool) -> None:
        """A change on the spot takes long (`is_away`), or is over."""
        self.away += 1 if is_away else -1
        self.quick_ns = 0

    def changed_since(self, start_ns: int) -> None:
        """A change that began at `start_ns` has just been made on the spot."""
        now = time.monotonic_ns()
        self.quick_ns = now if now - start_ns < _QUICK_NS else 0

    def has_answered(self) -> None:
        """The gofer has made a change; quickly, if the call did not have to wait."""
        if not self.client.is_again():
            self.quick_ns = time.monotonic_ns()

    def statfs(self, ctx: Context) -> StatFs:
        row = self.client.statfs(self.root_fid)
        out = StatFs(row[0])
        out.block_size = row[1]
        out.blocks = row[2]
        out.blocks_free = row[3]
        out.blocks_avail = row[4]
        out.files = row[5]
        out.files_free = row[6]
        out.name_max = row[7]
        if self.quota is not None:
            self.quota.show(out)
        return out

    def sync(self) -> int:
        if not self.is_readonly:
            try:
                self.client.syncfs(self.root_fid)
            except LinuxError as error:
                return -error.errno
        return 0

    def guest_ino(self, dev: int, ino: int) -> int:
        """A number that is unique in this file system although the host's tree may span several devices."""
        index = self._devices.get(dev)
        if index is None:
            index = len(self._devices)
            self._devices[dev] = index
        return ino if index == 0 else ino | (index << _OTHER_DEVICE_SHIFT)

    def make(self, parent: "GoferInode | None", entry: Entry) -> "GoferInode":
        """The inode of an entry: the known one if it is the same file, else a new one."""
        raise NotImplementedError

    def open_file(self, path: Path, inode: "GoferInode", flags: int) -> FileDescription:
        """An open regular file, whose descriptors the inode has."""
        raise NotImplementedError

    def remember(self, inode: "GoferInode") -> None:
        """An inode has got a second name: remember it by its number."""
        self._inodes[(inode.host_dev, inode.host_ino)] = inode

    def forget(self, inode: "GoferInode") -> None:
        """Forget an inode whose last name is gone."""
        key = (inode.host_dev, inode.host_ino)
        if self._inodes.get(key) is inode:
            del self._inodes[key]

    def _trim(self) -> None:
        """Drop unused inodes. Directories stay, because a task may be in them.

        What stays is looked at again only when as much has been added: each inode pays for a constant number of looks.
        """
        for key, inode in list(self._inodes.items()):
            if inode.is_idle() and not inode.is_dir():
                inode.close_fds()
                del self._inodes[key]
        self.trim_above = max(self.max_shared_inodes, 2 * len(self._inodes))

    def park(self, inode: "GoferInode") -> None:
        """The last user of a file is gone: keep its descriptor for the next one, or close it."""
        if not inode.has_address or (self.is_shared and not inode.is_name_kept()):
            inode.close_fds()
            return
        inode.close_write_fd()
        if inode.read_fd < 0:
            return
        self._idle[inode] = None
        self._close_oldest()

    def park_new(self, inode: "GoferInode") -> None:
        """A file was made: keep its descriptor for the open that follows; otherwise it is closed later."""
        self._idle[inode] = None
        self._close_oldest()

    def _close_oldest(self) -> None:
        if len(self._idle) > self.max_idle_fds:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            oldest.close_fds()

    def unpark(self, inode: "GoferInode") -> None:
        """An inode is used again."""
        self._idle.pop(inode, None)

    def is_parked(self, inode: "GoferInode") -> bool:
        """Whether it is kept open for a later open."""
        return inode in self._idle

    def is_known(self, inode: "GoferInode") -> bool:
        """Whether it is the known inode of its file."""
        return self._inodes.get((inode.host_dev, inode.host_ino)) is inode

    def clunk(self, fid: int) -> None:
        """Release a directory's fid; the gofer is told in batches."""
        if fid:
            self._dead_fids.append(fid)
            if len(self._dead_fids) >= CLUNK_BATCH:
                self.flush_dead()

    def flush_dead(self) -> None:
        """Have the gofer release unused fids: they would keep the blocks of files without a name."""
        if self._dead_fids:
            fids = self._dead_fids
            self._dead_fids = []
            self.client.forget(fids)


class GoferInode(Inode, KnownChild, SocketNode):
    """Anything on the host; directories are GoferDir."""

    def __init__(self, host: GoferHost, attr: Attr) -> None:
        super().__init__(host, host.guest_ino(attr.dev, attr.ino), attr.mode)
        self.host: GoferHost = host
        self.host_dev: int = attr.dev
        self.host_ino: int = attr.ino
        self.parent: GoferInode | None = None
        self.name: bytes = b""
        self.has_address: bool = True
        self._other_names: list[tuple[GoferInode, bytes]] = []  # hard links that are known (not shared)
        self.target: bytes = b""  # of a symbolic link
        self.read_fd: int = -1
        self.write_fd: int = -1
        self.pin: int = 0  # a fid for the open file itself, independent of its name
        self.has_writer: bool = False  # the gofer has it open for writing, by its pin
        self.openers: int = 0  # open GoferFiles (a part of `users`), which may need the descriptors
        self.is_write_fd_readable: bool = False
        self.is_stale: bool = False  # written through a descriptor since the attributes were seen
        self.content_key: int = CONTENT_KEYS.next() if host.is_readonly else 0  # of HostThread.read_fd_into
        self.text: PatchedText | None = None  # of the state `text_key`
        self.text_key: tuple[int, int, int] = (-1, -1, -1)
        self.text_ahead: TextAhead | None = None  # of what `read_fd` has open
        self.checked_ns: int = 0  # when the gofer was last asked (CLOCK_MONOTONIC)
        self.owner_ctime_ns: int = 0  # the ctime when the gofer last reported its owner
        self.charge: FileCharge | None = None  # with a quota, once it is changed
        self.update(attr)

    # -- identity --------------------------------------------------------------------------------------
    def set_address(self, parent: "GoferInode | None", name: bytes) -> None:
        """Set the directory and name by which the gofer finds it."""
        self.parent = parent
        self.name = name
        self.has_address = True

    def address(self) -> tuple[int, bytes]:
        """Fid and name for the gofer.  Raises LinuxError(ESTALE) if it was unlinked and is not open."""
        if self.pin:
            return self.pin, b""
        return self.name_address()

    def name_address(self) -> tuple[int, bytes]:
        """An address of the file by one of its names."""
        if not self.has_address:
            raise LinuxError(ESTALE)
        parent = self.parent
        if parent is None:
            return self.host.root_fid, b""
        return parent.fid(), self.name

    def may_dial(self) -> bool:
        return self.host.shows_sockets

    def dial(self, ctx: Context, kind: int) -> HostEnd:
        host = self.host
        try:
            uid = user_to_gofer(host.gofer_ns, ctx.creds.euid)
        except LinuxError:
            raise LinuxError(EACCES)
        fid, name = self.name_address()
        fd, server = host.client.dial(fid, name, self.host_dev, self.host_ino, kind, uid)
        ns = host.gofer_ns
        return HostEnd(fd, *(server if ns is None else from_gofer(ns, *server)))

    def is_idle(self) -> bool:
        """Whether only a cache refers to it."""
        return (
            self.users == 0
            and self.write_count == 0
            and self.locks is None
            and self.watches is None
            and self.pipe is None
            and self.bound_socket is None
        )

    def add_name(self, parent: "GoferInode", name: bytes) -> None:
        """Add a further name."""
        if not self.has_address:
            self.set_address(parent, name)
        elif (self.parent is not parent or self.name != name) and (parent, name) not in self._other_names:
            self._other_names.append((parent, name))

    def lost_name(self, parent: "GoferInode", name: bytes) -> None:
        """Forget a name that was removed."""
        self.nlink = max(self.nlink - 1, 0)
        self._drop_name(parent, name)
        if self.nlink == 0:
            self.host.forget(self)
            if self.host.quota is not None and not self.is_dir():
                self.charges().state = NAMELESS
        self.ctime_ns = time.time_ns()

    def moved(self, parent: "GoferInode", name: bytes, new_parent: "GoferInode", new_name: bytes) -> None:
        """Replace a name that was changed."""
        self._drop_name(parent, name)
        self.add_name(new_parent, new_name)
        self.is_stale = True  # ctime

    def _drop_name(self, parent: "GoferInode", name: bytes) -> None:
        if self.parent is not parent or self.name != name:
            if (parent, name) in self._other_names:
                self._other_names.remove((parent, name))
        elif self._other_names:
            other, other_name = self._other_names.pop()
            self.set_address(other, other_name)
        else:
            self.has_address = False

    # -- what directories have ---------------------------------------------------------------------------
    def fid(self) -> int:
        """The gofer's number for a directory.  Raises LinuxError."""
        raise LinuxError(ENOTDIR)

    def next_files(self, opened: "GoferInode") -> list["GoferInode"]:
        """For a directory: the files that a guest which reads them in order will open next."""
        return []

    def rewind(self) -> None:
        """The call that has used `next_files` will be run again: undo its effect."""

    # -- attributes ------------------------------------------------------------------------------------
    def update(self, attr: Attr) -> None:
        """Take over the gofer's attributes."""
        self.mode = attr.mode
        self.nlink = attr.nlink
        self.rdev = attr.rdev
        self.size = attr.size
        self.blocks = attr.blocks
        self.atime_ns = attr.atime_ns
        self.mtime_ns = attr.mtime_ns
        self.ctime_ns = attr.ctime_ns
        self.owner_ctime_ns = attr.ctime_ns
        if self.host.gofer_ns is None:
            self.uid, self.gid = attr.uid, attr.gid
        else:
            self.uid, self.gid = from_gofer(self.host.gofer_ns, attr.uid, attr.gid)

    def _update_from_fd(self, fd: int) -> None:
        """Take over the attributes of a descriptor: everything but the owner."""
        try:
            st = os.fstat(fd)
        except OSError as error:
            raise _fail(error)
        self.is_stale = False
        self.mode = st.st_mode
        self.nlink = st.st_nlink
        self.size = st.st_size
        self.blocks = st.st_blocks
        self.atime_ns = st.st_atime_ns
        self.mtime_ns = st.st_mtime_ns
        self.ctime_ns = st.st_ctime_ns

    def _ask(self) -> None:
        """Ask the gofer for the attributes, if it still finds this object."""
        if not self.pin and not self.has_address:
            return
        fid, name = self.address()
        found = self.host.client.stat(fid, name)
        if isinstance(found, int):
            return  # gone from the host; the cached attributes stay
        if found.attr.ino == self.host_ino and found.attr.dev == self.host_dev:
            self.checked_ns = time.monotonic_ns()
            self.is_stale = False
            self.update(found.attr)

    def refresh(self, ctx: Context) -> None:
        if not self.is_stale and not self.host.is_shared:
            return
        fd = self.write_fd if self.write_fd >= 0 else self.read_fd
        if fd >= 0 and not self._must_ask():
            was_written = self.is_stale
            self._update_from_fd(fd)
            # A change of the owner sets a ctime. So does a write by this sandbox, after which the gofer need not be
            # asked.
            if self.ctime_ns != self.owner_ctime_ns and not was_written:
                self._ask()
        elif self.is_stale or time.monotonic_ns() - self.checked_ns >= FRESH_NS:
            self._ask()

    def _must_ask(self) -> bool:
        """Whether attributes must not be read by the descriptors, because the file's storage may hang."""
        host = self.host
        return host.is_remote and host.client.may_wait() and (self.pin != 0 or self.has_address)

    def refresh_owner(self, ctx: Context) -> None:
        self.refresh(ctx)
        if self.host.is_shared and self.ctime_ns != self.owner_ctime_ns:
            self._ask()

    def charges(self) -> FileCharge:
        """What was entered in the volume's account for this file."""
        if self.charge is None:
            self.charge = FileCharge()
        return self.charge

    def setattr(self, ctx: Context, attr: SetAttr) -> None:
        host = self.host
        if host.is_readonly:
            raise LinuxError(EROFS)
        quota = host.quota
        if quota is None or attr.valid & ATTR_SIZE == 0 or self.is_dir():
            self._setattr(ctx, attr)
            return
        fd, charge = self.fd_to_write(), self.charges()
        with quota.change(charge, fd) as change:
            if charge.is_mapped:
                # a longer file has a hole that guests could fill through their mappings
                change.fill(attr.size)
            self._setattr(ctx, attr)
            if charge.is_mapped:
                host.client.commit()
                fill_holes(fd, attr.size)
        if self.openers == 0:
            host.park(self)

    def _setattr(self, ctx: Context, attr: SetAttr) -> None:
        host = self.host
        valid = attr.valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_SIZE | ATTR_ATIME | ATTR_MTIME)
        if valid & ATTR_SIZE:
            valid &= ~ATTR_MTIME  # the host's truncate sets it
            if self.write_fd >= 0 and not (host.client.may_wait() and self._is_ftruncate_slow(attr.size)):
                start_ns = time.monotonic_ns()
                # ftruncate, which has set the file (`is_about`)
                if isinstance(ctx, Task) and host.client.lets_others():
                    result = slow.truncate(ctx.thread.ident(), self.write_fd, attr.size)
                    if result < 0:
                        raise LinuxError(-result)
                else:
                    try:
                        os.ftruncate(self.write_fd, attr.size)
                    except OSError as error:
                        raise _fail(error)
                host.changed_since(start_ns)
                self._update_from_fd(self.write_fd)
                valid &= ~ATTR_SIZE
        if valid == 0:
            return
        if not self.has_address and not self.pin:
            self._set_locally(valid, attr)
            return
        fid, name = self.address()
        self.update(
            host.client.setattr(
                fid,
                name,
                valid,
                attr.mode & 0o7777,
                user_to_gofer(host.gofer_ns, attr.uid) if valid & ATTR_UID else 0,
                group_to_gofer(host.gofer_ns, attr.gid) if valid & ATTR_GID else 0,
                attr.size,
                attr.atime_ns,
                attr.mtime_ns,
                self.host_dev,
                self.host_ino,
            )
        )

    def _is_ftruncate_slow(self, size: int) -> bool:
        """Whether the gofer should make the truncation, because it may take long."""
        if not self.pin and not self.has_address:
            return False
        return self.host.must_ask() or self.blocks * 512 - size > _MUCH_FREED

    def _set_locally(self, valid: int, attr: SetAttr) -> None:
        """Change attributes of a removed file that is not open, which only this sandbox can see."""
        if valid & ATTR_SIZE:
            raise LinuxError(ESTALE)
        if valid & ATTR_MODE:
            self.mode = (self.mode & S_IFMT) | (attr.mode & 0o7777)
        if valid & ATTR_UID:
            self.uid = attr.uid
        if valid & ATTR_GID:
            self.gid = attr.gid
        if valid & ATTR_ATIME:
            self.atime_ns = attr.atime_ns
        if valid & ATTR_MTIME:
            self.mtime_ns = attr.mtime_ns
        self.ctime_ns = attr.ctime_ns

    def readlink(self, ctx: Context) -> bytes:
        if not self.is_symlink():
            raise LinuxError(EINVAL)
        return self.target

    # -- extended attributes ---------------------------------------------------------------------------
    def getxattr(self, ctx: Context, name: bytes) -> bytes:
        fid, own = self.address()
        value = self.host.client.getxattr(fid, own, name)
        if self.host.gofer_ns is not None and name == NAME_CAPS:
            value = from_namespace(self.host.gofer_ns, value)
        return value

    def setxattr(self, ctx: Context, name: bytes, value: bytes, flags: int) -> None:
        if name == USER_PREFIX:
            raise LinuxError(EINVAL)
        quota = self.host.quota
        if quota is not None:
            quota.check()
            self._ask()
        before = self.blocks
        fid, own = self.address()
        if self.host.gofer_ns is not None and name == NAME_CAPS:
            value = to_namespace(self.host.gofer_ns, value)
        self.host.client.setxattr(fid, own, name, value, flags)
        self.is_stale = True  # ctime
        if quota is not None:
            self._ask()
            quota.changed(before, self.blocks)

    def listxattr(self, ctx: Context) -> list[bytes]:
        fid, own = self.address()
        return self.host.client.listxattr(fid, own)

    def removexattr(self, ctx: Context, name: bytes) -> None:
        quota = self.host.quota
        if quota is not None:
            self._ask()
        before = self.blocks
        fid, own = self.address()
        self.host.client.removexattr(fid, own, name)
        self.is_stale = True
        if quota is not None:
            self._ask()
            quota.changed(before, self.blocks)

    # -- descriptors -----------------------------------------------------------------------------------
    def fd_to_read(self) -> int:
        """A descriptor open for reading.  Raises LinuxError."""
        if self.read_fd >= 0:
            return self.read_fd
        if self.write_fd >= 0 and self.is_write_fd_readable:
            return self.write_fd
        return self.fd_to_map()

    def fd_to_map(self) -> int:
        """A descriptor open only for reading, for guests to map.  Raises LinuxError."""
        if self.read_fd < 0:
            parent = self.parent
            ahead = parent.next_files(self) if parent is not None and self.has_address else []
            seen_ns = self.ctime_ns
            try:
                self.read_fd = self._open_with(ahead) if ahead else self._open(os.O_RDONLY)
            except HostWait:
                if parent is not None:
                    parent.rewind()
                raise
            self._name_content(seen_ns)
        return self.read_fd

    def _name_content(self, seen_ns: int) -> None:
        """The file is open for reading now; `seen_ns`: its ctime when it was last seen.

        While it was not open, the host may have given its number to a new file: then it gets a new content key.
        """
        if self.content_key and self.ctime_ns != seen_ns:
            self.content_key = CONTENT_KEYS.next()

    def _open_with(self, ahead: list["GoferInode"]) -> int:
        """Open for reading, together with the next files of the directory, by one request to the gofer."""
        host, parent = self.host, self.parent
        assert parent is not None
        names = [(each.name, each.host_dev, each.host_ino) for each in [self, *ahead]]
        try:
            fd, attr, others = host.client.open_many(parent.fid(), names)
        except LinuxError as error:
            if error.errno != ENFILE:
                raise
            return self._open(os.O_RDONLY)  # there is room for one
        self.update(attr)
        for index, other_fd, other_attr in others:
            inode = ahead[index - 1]
            if inode.read_fd >= 0:  # the same file twice
                host.client.close_fd(other_fd)
                continue
            inode.read_fd = other_fd
            seen_ns = inode.ctime_ns
            inode.update(other_attr)
            inode._name_content(seen_ns)
            host.park_new(inode)
        return fd

    def fd_to_write(self) -> int:
        """A descriptor open for writing, and for reading, too, where the host permits. Raises LinuxError."""
        if self.write_fd < 0:
            try:
                self.write_fd = self._open(os.O_RDWR)
                self.is_write_fd_readable = True
            except LinuxError as error:
                if error.errno != EACCES:
                    raise
                self.write_fd = self._open(os.O_WRONLY)
                self.is_write_fd_readable = False
        return self.write_fd

    def _open(self, flags: int) -> int:
        fid, name = self.address()
        host = self.host
        wants_pin = not host.is_readonly and not self.pin
        opened = host.client.open_file(fid, name, flags, self.host_dev, self.host_ino, wants_pin=wants_pin)
        self.pin = self.pin or opened.pin
        if flags == os.O_RDONLY:
            self.text_ahead = opened.text
        self.update(opened.attr)
        return opened.fd

    def patched_text(self) -> PatchedText | None:
        """The patched text of the file's present contents, to map in place of its executable pages."""
        if self.read_fd < 0:
            return None
        if self._must_ask():
            self._ask()
            key = (self.size, self.mtime_ns, self.ctime_ns)
        else:
            st = os.fstat(self.read_fd)
            key = (st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        if key == self.text_key:
            return self.text
        ahead, self.text_ahead = self.text_ahead, None
        if ahead is not None and ahead.key == key:
            self.text, self.text_key = ahead.take(), key
            return self.text
        self.text, self.text_key = None, (-1, -1, -1)
        if (not self.has_address and not self.pin) or not may_have_text(self.read_fd, key[0]):
            return None
        text, lasts = self._ask_for_text(key)
        if lasts:
            self.text, self.text_key = text, key
        return text

    def _ask_for_text(self, key: tuple[int, int, int]) -> tuple[PatchedText | None, bool]:
        """The text, and whether it stays valid as long as the key is the same."""
        fid, name = self.address()
        try:
            fd, lasts, attr = self.host.client.text(fid, name, self.host_dev, self.host_ino)
        except LinuxError:
            return None, False
        answer = TextAhead(fd, attr)
        return (answer.take(), lasts) if answer.key == key else (None, False)

    def _leave_account(self, quota: VolumeQuota, charge: FileCharge) -> None:
        """It has no name and is about to be closed: take its blocks out of the volume's account."""
        fd = self.write_fd if self.write_fd >= 0 else self.read_fd
        if fd >= 0:
            self._update_from_fd(fd)
        charge.state = GONE
        quota.changed(self.blocks, 0)

    def recount(self) -> None:
        """Before a name is removed on a volume that has a size: see what the file takes."""
        fd = self.write_fd if self.write_fd >= 0 else self.read_fd
        if fd >= 0:
            self._update_from_fd(fd)
        else:
            self._ask()

    def close_write_fd(self) -> None:
        """Close the descriptor for writing, after its attributes were taken over."""
        if self.write_fd >= 0:
            if self.is_stale and not self.host.is_remote:
                self._update_from_fd(self.write_fd)
            self.host.client.close_fd(self.write_fd)
            self.write_fd = -1
            # the gofer has a descriptor for writing, too
            if self.pin and (self.host.is_remote or self.has_writer):
                self.host.clunk(self.pin)
                self.pin = 0
                self.has_writer = False
                self.host.flush_dead()

    def close_fds(self) -> None:
        """Close both descriptors."""
        quota, charge = self.host.quota, self.charge
        if quota is not None and charge is not None and charge.state == NAMELESS:
            self._leave_account(quota, charge)
        self.close_write_fd()
        if self.read_fd >= 0:
            self.host.client.close_fd(self.read_fd)
            self.read_fd, self.text_ahead = -1, None
        if self.pin:
            self.host.clunk(self.pin)
            self.pin = 0
            if not self.has_address:
                self.host.flush_dead()

    def is_name_kept(self) -> bool:
        """Whether a change of its name to another file would be noticed."""
        parent = self.parent
        return parent is not None and parent.keeps(self.name, self)

    def keeps(self, name: bytes, child: "GoferInode") -> bool:
        """For a directory: whether a change of `name` from `child` to another file would be noticed."""
        return False

    def may_be_known(self) -> bool:
        return self.nlink == 1 or self.is_dir()

    def close_unused(self) -> None:
        if self.openers == 0 and self.host.is_parked(self):
            self.host.unpark(self)
            self.close_fds()

    def is_as_known(self) -> bool:
        if not self.host.is_known(self):
            return False
        if self.mode & S_IFMT != S_IFREG:
            return True
        fd = self.write_fd if self.write_fd >= 0 else self.read_fd
        if fd < 0 or self.is_stale or self._must_ask():
            return False
        self._update_from_fd(fd)
        return self.ctime_ns == self.owner_ctime_ns and self.nlink == 1

    def add_user(self) -> None:
        """Count an open file description."""
        self.openers += 1
        if self.openers == 1:
            self.host.unpark(self)

    def drop_user(self) -> None:
        """An open file description was released."""
        self.openers -= 1
        if self.openers == 0:
            self.host.park(self)

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        if self.mode & S_IFMT != S_IFREG:
            return open_special(ctx, path, self, flags)
        # Opened now and not at the first read, because the host may refuse although the mode bits allow it.
        access = flags & 3
        if access != os.O_WRONLY:
            self.fd_to_read()
        if access != os.O_RDONLY:
            self.fd_to_write()
        return self.host.open_file(path, self, flags)
