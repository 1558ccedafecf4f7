"""Files of the host, served by the gofer: its directories, and the file system of one attach point.

May call the gofer client; blocks for one round trip (about 30 µs) per request.  Files and what all objects share are
in `fs.gofer_inode`.

Two ways to keep metadata:
- Not shared (an image, or a directory that only this sandbox changes): a directory is fetched once, with the
  attributes of all its entries, and never asked for again; changes by guests are applied to the cached state.
- Shared (`is_shared`): the host may change it at any time. Every lookup asks the gofer, unless the host would have
  reported a change (`fs.gofer_watch`); the attributes of an open file (except its owner) come from its descriptor.
  The same file (device, number, type) stays the same inode object while it is in use.

An object is addressed by its directory's fid and its name, or by a fid of its own while it is open; an unlinked one
exists by its descriptors. A regular file has at most two descriptors, one to read and one to write, shared by
everything that has it open (positions are kept here, so only positioned calls are used). Descriptors for reading stay
open for later, up to a limit, unless the directory is shared and not watched. (An open descriptor also keeps the host
from reusing the inode number.)
"""

import os
import time
from typing import Final

from cloche.abi.errno import (
    EACCES,
    EINVAL,
    ENOENT,
    EPERM,
    EROFS,
    ESTALE,
    LinuxError,
)
from cloche.abi.fcntl import RENAME_EXCHANGE, RENAME_NOREPLACE
from cloche.abi.stat import S_IFDIR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK
from cloche.fs.gofer_ahead import WalkAhead, WalkedDir
from cloche.fs.gofer_client import GoferClient, Listing
from cloche.fs.gofer_file import GoferFile
from cloche.fs.gofer_inode import GoferHost, GoferInode
from cloche.fs.gofer_owners import to_gofer
from cloche.fs.gofer_watch import WATCH_AFTER, KnownNames, is_worth_it, refused
from cloche.fs.volume_quota import NAMED, NAMELESS
from cloche.vfs.attr import new_owner
from cloche.vfs.forgetting import NAMES, Forgetful, inode_holders
from cloche.vfs.host_sockets import HostDoor, SocketPlace
from cloche.vfs.objects import (
    Context,
    DirectoryDescription,
    DirEmitter,
    FileDescription,
    Inode,
    Path,
)
from cloche.vfs.userns import UserNamespace
from cloche.wire.gofer import MAX_AHEAD, Attr, Entry, entry_at, ino_and_mode_at

SINGLE_LOOKUPS: Final = 6  # names of a directory that are asked for one by one before all of it is fetched
# Entries between one file that is asked for and the next: those opened ahead, directories, links.
AHEAD_SKIP: Final = 48
AHEAD_FIRST: Final = 4  # files that are opened ahead at first
_MAX_FORGOTTEN: Final = 1024  # names below a directory that are dropped with it


class GoferFs(GoferHost):
    """One attach point of the gofer as a file system."""

    def __init__(
        self,
        client: GoferClient,
        index: int,
        dev: int,
        *,
        is_shared: bool,
        user_ns: UserNamespace | None = None,
    ) -> None:
        """Attaches.  Raises LinuxError."""
        super().__init__(client, index, dev, is_shared=is_shared, user_ns=user_ns)
        self.walks: WalkAhead = WalkAhead(client)
        self.keeps_names: bool = is_shared and not self.is_remote
        self.root: GoferInode = self.make(None, Entry(b"", self.root_attr, b""))
        self.root_inode = self.root

    def make(self, parent: "GoferInode | None", entry: Entry) -> "GoferInode":
        """The inode of an entry: the known one if it is the same file, else a new one."""
        attr = entry.attr
        is_dir = attr.mode & S_IFMT == S_IFDIR
        is_known = self.is_shared or (attr.nlink > 1 and not is_dir)
        key = (attr.dev, attr.ino)
        if is_known:
            known = self._inodes.get(key)
            if known is not None and (known.mode ^ attr.mode) & S_IFMT == 0:
                known.update(attr)
                known.target = entry.target
                if self.is_shared:
                    known.set_address(parent, entry.name)  # the latest address is the most reliable
                elif parent is not None:
                    known.add_name(parent, entry.name)
                return known
        inode = GoferDir(self, attr) if is_dir else GoferInode(self, attr)
        inode.target = entry.target
        inode.set_address(parent, entry.name)
        if is_known:
            self._inodes[key] = inode
            if self.is_shared and len(self._inodes) > max(self.max_shared_inodes, self.trim_above):
                self._trim()
        return inode

    def knows(self, dev: int, ino: int) -> bool:
        """Whether a file of several names has an inode already."""
        return (dev, ino) in self._inodes

    def open_file(self, path: Path, inode: GoferInode, flags: int) -> FileDescription:
        return GoferFile(path, inode, flags)

    def begin_watch(self, fid: int, names: KnownNames) -> None:
        """Have a directory watched, if possible. Raises HostWait."""
        try:
            number, fd = self.client.watch(fid)
        except LinuxError:
            refused(names)
            return
        self.client.names.begin(number, fd, names)

    def end_watch(self, names: KnownNames) -> None:
        """Stop watching a directory, because it does not pay."""
        number = names.watch
        self.client.names.ended(number)
        self.client.unwatch(number)


class GoferDir(WalkedDir, SocketPlace, Forgetful):
    """A directory of the host."""

    def __init__(self, host: GoferFs, attr: Attr) -> None:
        super().__init__(host, attr)
        self._fid: int = 0
        self._blob: bytes = b""
        # Not shared: name -> offset in the blob, or -1 for files made since. None: not fetched yet.
        self._index: dict[bytes, int] | None = None
        self._is_listed: bool = True
        # The only possible names (not shared): the gofer is not asked for others
        self.only: set[bytes] | None = None
        # The names are numbers in hexadecimal, and the files are read in their order (the contents of an image)
        self.has_numbers: bool = False
        self._children: dict[bytes, GoferInode] = {}  # inodes made so far (not shared)
        self._known: KnownNames = KnownNames()  # (shared)
        self._asked: int = 0  # names looked up one by one
        self._order: list[bytes] = []  # in the order in which it was listed to a guest
        self._position: int = 0  # position in it, after the file that was opened last
        self._run: int = 0  # files that were opened in that order
        # the fields above, before the last prediction
        self._before: tuple[list[bytes], int, int] = ([], 0, 0)
        self._counted: int = 0  # names of the listing, in the account of those that may be forgotten

    def __del__(self) -> None:
        NAMES.listed -= self._counted

    def fid(self) -> int:
        """The gofer's number for it.  Raises LinuxError.

        Recursion ends at the parent, which got its fid when this child was looked up in it.
        """
        if self._fid == 0:
            if not self.has_address:
                raise LinuxError(ENOENT)
            parent = self.parent
            if parent is None:
                self._fid = self.host.root_fid
            else:
                fid, attr = self.host.client.walk(parent.fid(), self.name)
                if attr.ino != self.host_ino or attr.dev != self.host_dev:
                    self.host.clunk(fid)
                    raise LinuxError(ESTALE)
                self._fid = fid
        return self._fid

    def drop_fid(self) -> None:
        """The directory was removed: forget its fid."""
        self.host.clunk(self._fid)
        self._fid = 0

    def known_fid(self) -> int:
        """Its fid if there is one, else 0."""
        return self._fid

    # -- reading ---------------------------------------------------------------------------------------
    def _load(self) -> dict[bytes, int]:
        """Fetch the whole directory, unless it was. Raises LinuxError, HostWait."""
        if self._index is None:
            fs = self.fs
            assert isinstance(fs, GoferFs)
            # This directory may be in the answer that is under way, and no other comes earlier anyway.
            fs.walks.collect(is_waiting=True)
        index = self._index
        if index is not None:
            return index
        parent = self.parent
        if self._fid == 0 and parent is not None and self.has_address:
            listing = self.host.client.opendir(parent.fid(), self.name)
            self._fid = listing.fid
        else:
            listing = self.host.client.relist(self.fid())
        self._take(listing)
        return listing.index

    def _take(self, listing: Listing) -> None:
        self._blob = listing.blob
        self._is_listed = listing.is_listed
        self._index = listing.index
        NAMES.listed += len(listing.index) - self._counted
        self._counted = len(listing.index)
        self.subdirs = listing.subdirs
        if self.has_numbers and self.host.reads_ahead:
            self._order = sorted(listing.index, key=_place_among_numbers)

    def take_ahead(self, listing: Listing) -> bool:
        if self._index is not None or not self.has_address:
            self.host.clunk(listing.fid)
            return False
        if self._fid:
            self.host.clunk(listing.fid)
        else:
            self._fid = listing.fid
        self._take(listing)
        return True

    def subdirectory(self, name: bytes) -> WalkedDir | None:
        offset = self._index.get(name, -1) if self._index is not None else -1
        if offset < 0 or ino_and_mode_at(self._blob, offset)[2] & S_IFMT != S_IFDIR:
            return None
        inode = self._child_at(name, offset)
        return inode if isinstance(inode, WalkedDir) else None

    def _child_at(self, name: bytes, offset: int) -> GoferInode:
        """The inode of an entry of the listing (not shared)."""
        inode = self._children.get(name)
        if inode is None:
            inode = self.host.make(self, entry_at(self._blob, offset))
            self._children[name] = inode
        return inode

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        if self.host.is_shared:
            return self._lookup_shared(name)
        child = self._children.get(name)
        if child is not None:
            return child
        if self.only is not None and name not in self.only:
            return None
        if self._index is None and self._asked < SINGLE_LOOKUPS:
            # A program that opens one file of a directory of thousands need not wait for all of them.
            child = self._lookup_now(name)
            self._asked += 1
            if child is not None:
                self._children[name] = child
            return child
        index = self._load()
        if not self._is_listed:
            child = self._lookup_now(name)
        else:
            offset = index.get(name, -1)
            if offset < 0:
                return None
            child = self.host.make(self, entry_at(self._blob, offset))
        if child is not None:
            self._children[name] = child
        return child

    def _lookup_shared(self, name: bytes) -> GoferInode | None:
        """Ask the gofer, unless nothing has changed since that was done."""
        fs, known = self.fs, self._known
        assert isinstance(fs, GoferFs)
        if not fs.keeps_names:
            return self._lookup_now(name)
        client = self.host.client
        if client.is_again():
            # as in the earlier run: from the journal, where a question's answer is, too
            again = client.known_again(known, name)
            if again is None:
                return self._lookup_now(name)
            assert again.child is None or isinstance(again.child, GoferInode)
            return again.child
        if known.watch:
            if client.names.is_quiet():
                is_known, child = known.find(name)
                if is_known:
                    assert child is None or isinstance(child, GoferInode)
                    client.was_known(known, name, child)
                    return child
            if known.watch and not is_worth_it(known):
                fs.end_watch(known)
        else:
            known.asked += 1
            if known.asked > WATCH_AFTER:
                fs.begin_watch(self.fid(), known)
        epoch = known.epoch
        child = self._lookup_now(name)
        if known.watch and known.epoch == epoch:
            known.add(name, child)
        return child

    def keeps(self, name: bytes, child: GoferInode) -> bool:
        return self._known.is_kept(name, child)

    def _lookup_now(self, name: bytes) -> GoferInode | None:
        """Ask the gofer."""
        if not self.host.is_shared:
            return self._look_up(name)
        found = self.host.client.stat(self.fid(), name)
        if isinstance(found, int):
            if found == -ENOENT:
                return None
            raise LinuxError(-found)
        known = self._children.pop(name, None)
        if known is not None:  # cached before a change was lost
            self.host.remember(known)
        child = self.host.make(self, found)
        child.checked_ns = time.monotonic_ns()
        return child

    def _look_up(self, name: bytes) -> GoferInode | None:
        """Ask the gofer (not shared), also for what a walk or an open will need next."""
        host = self.host
        found = host.client.look_up(self.fid(), name, opens=host.reads_ahead and not host.is_remote)
        if isinstance(found, int):
            if found == -ENOENT:
                return None
            raise LinuxError(-found)
        fs, attr = self.fs, found.entry.attr
        assert isinstance(fs, GoferFs)
        is_new = not fs.knows(attr.dev, attr.ino)
        child = host.make(self, found.entry)
        child.checked_ns = time.monotonic_ns()
        if isinstance(child, GoferDir) and child._fid == 0:
            child._fid = found.fid
        else:
            host.clunk(found.fid)
        if found.fd >= 0:
            if is_new:
                child.read_fd, child.text_ahead = found.fd, found.text
                host.park_new(child)
            else:  # it has another name: what is known of its contents is of the descriptor that it has, or had
                host.client.close_fd(found.fd)
        return child

    def snapshot(self) -> list[tuple[bytes, int, int]]:
        """Name, inode number and d_type of every entry as of now.  Raises LinuxError(EACCES) if it is
        unreadable."""
        out: list[tuple[bytes, int, int]] = []
        host = self.host
        if host.is_shared:
            listing = host.client.relist(self.fid())
            index = listing.index
            blob = listing.blob
            is_listed = listing.is_listed
        else:
            index = self._load()
            blob = self._blob
            is_listed = self._is_listed
        if not is_listed:
            raise LinuxError(EACCES)
        if host.reads_ahead:
            self._order = list(index)
            self._position = self._run = 0
            fs = self.fs
            assert isinstance(fs, GoferFs)
            fs.walks.listed(self)
        for name, offset in index.items():
            if offset >= 0:
                dev, ino, mode = ino_and_mode_at(blob, offset)
                out.append((name, host.guest_ino(dev, ino), mode >> 12))
            else:
                child = self._children[name]
                out.append((name, child.ino, child.mode >> 12))
        return out

    def next_files(self, opened: GoferInode) -> list[GoferInode]:
        """The files that a guest is likely to open next: if it has listed this directory and opens the files in that
        order.

        Otherwise empty.
        """
        order, index = self._order, self._index
        self._remember()
        if not order or index is None or opened.nlink > 1:
            return []
        at = self._place_of(opened.name, self._position, AHEAD_SKIP)
        if at < 0:
            self._run = 0
            return []
        self._position = at + 1
        self._run += 1
        out: list[GoferInode] = []
        want = min(AHEAD_FIRST << min(self._run - 1, 4), MAX_AHEAD)
        for here in range(at + 1, min(at + 1 + 2 * want, len(order))):
            name = order[here]
            offset = index.get(name, -1)
            if offset < 0 or ino_and_mode_at(self._blob, offset)[2] & S_IFMT != S_IFREG:
                continue
            inode = self._child_at(name, offset)
            if inode.read_fd >= 0 or inode.nlink > 1 or not inode.has_address:
                continue
            out.append(inode)
            if len(out) >= want:
                break
        return out

    def _place_of(self, name: bytes, position: int, room: int) -> int:
        """Where a name is in the order of the listing, a little after `position` or, for a program that begins anew, at
        the beginning; else -1.
        """
        order = self._order
        for here in range(position, min(position + room, len(order))):
            if order[here] == name:
                return here
        for here in range(min(position, room, len(order))):
            if order[here] == name:
                return here
        return -1

    def _remember(self) -> None:
        self._before = (self._order, self._position, self._run)

    def rewind(self) -> None:
        self._order, self._position, self._run = self._before

    # -- forgetting ------------------------------------------------------------------------------------
    def can_forget(self, name: bytes) -> bool:
        return self.host.is_readonly and not self.host.is_shared

    def forget_child(self, name: bytes, cell: list[Inode]) -> bool:
        if self._children.get(name) is not cell[0] or inode_holders(cell) > 1 + self._count_caches(cell[0]):
            return False
        cell.clear()
        self.forget_name(name)
        return True

    def forget_name(self, name: bytes) -> None:
        if not self.can_forget(name):
            return
        self._forget_ahead(name)
        self.forget_known(name)

    def _forget_ahead(self, name: bytes) -> None:
        """Drop what was listed ahead of guests below a directory."""
        inner = self._children.get(name)
        if isinstance(inner, GoferDir):
            _forget_below(inner)

    def has_by_now(self, ctx: Context, name: bytes) -> bool:
        if self.host.is_shared or self._children.get(name) is not None:
            return self.lookup(ctx, name) is not None
        if self.only is not None and name not in self.only:
            return False
        found = self.host.client.look_up(self.fid(), name, opens=False)
        if isinstance(found, int):
            return False
        self.host.clunk(found.fid)
        return True

    def forget_known(self, name: bytes) -> None:
        """Drop the inode of a name, unless it is used."""
        inode = self._children.pop(name, None)
        if inode is None:
            return
        cell: list[Inode] = [inode]
        inode = None
        if inode_holders(cell) > self._count_caches(cell[0]):
            self._put_back(name, cell[0])
        else:
            self._let_go(cell[0])

    def known(self, name: bytes) -> GoferInode | None:
        """The inode of a name, if there is one already."""
        return self._children.get(name)

    def has_no_known(self) -> bool:
        """Whether no name has an inode."""
        return not self._children

    def _count_caches(self, inode: Inode) -> int:
        """How many caches of the attach point refer to it."""
        assert isinstance(inode, GoferInode)
        host = self.host
        return (1 if host.is_known(inode) else 0) + (1 if host.is_parked(inode) else 0)

    def _put_back(self, name: bytes, inode: Inode) -> None:
        """It is used; if it has several names the attach point knows it, and this one need not be kept."""
        assert isinstance(inode, GoferInode)
        if not self.host.is_known(inode):
            self._children[name] = inode

    def _let_go(self, inode: Inode) -> None:
        """Nobody uses it: release what it has of the host and of the gofer."""
        assert isinstance(inode, GoferInode)
        self.host.forget(inode)
        self.host.unpark(inode)
        inode.close_fds()
        if isinstance(inode, GoferDir):
            inode.drop_fid()

    # -- changing --------------------------------------------------------------------------------------
    def _added(self, name: bytes, inode: GoferInode) -> None:
        """A name was added."""
        self.is_stale = True
        self._known.names.pop(name, None)
        if not self.host.is_shared:
            self._children[name] = inode
            index = self._index
            if index is not None:
                index.pop(name, None)
                index[name] = -1

    def _removed(self, name: bytes) -> None:
        """A name was removed."""
        self.is_stale = True
        self._known.names.pop(name, None)
        self._children.pop(name, None)
        index = self._index
        if index is not None:
            index.pop(name, None)

    def _check_writable(self) -> None:
        if self.host.is_readonly:
            raise LinuxError(EROFS)

    def create(self, ctx: Context, name: bytes, mode: int) -> Inode:
        self._check_writable()
        host = self.host
        uid, gid, mode = new_owner(ctx.creds, self, mode | S_IFREG)
        fd, attr, pin = host.client.create_pinned(
            self.fid(), name, os.O_RDWR, mode & 0o7777, *to_gofer(host.gofer_ns, uid, gid)
        )
        inode = host.make(self, Entry(name, attr, b""))
        if inode.write_fd >= 0:
            os.close(fd)
            host.clunk(pin)
            # a new file cannot have a number that is in use: the gofer is inconsistent
            raise LinuxError(ESTALE)
        host.clunk(inode.pin)
        inode.pin = pin
        inode.write_fd = fd  # for the open that follows
        inode.is_write_fd_readable = True
        host.park_new(inode)
        host.has_answered()
        inode.checked_ns = time.monotonic_ns()
        self._added(name, inode)
        return inode

    def tmpfile(self, ctx: Context, mode: int) -> Inode:
        self._check_writable()
        host = self.host
        uid, gid, mode = new_owner(ctx.creds, self, mode | S_IFREG)
        fd, attr, pin = host.client.tmpfile(self.fid(), mode & 0o7777, *to_gofer(host.gofer_ns, uid, gid))
        inode = GoferInode(host, attr)
        inode.has_address = False
        inode.write_fd, inode.is_write_fd_readable, inode.pin = fd, True, pin
        if host.quota is not None:
            inode.charges().state = NAMELESS
        host.remember(inode)
        host.park_new(inode)
        return inode

    def mkdir(self, ctx: Context, name: bytes, mode: int) -> Inode:
        self._check_writable()
        host = self.host
        if host.quota is not None:
            host.quota.check()
        uid, gid, mode = new_owner(ctx.creds, self, mode | S_IFDIR)
        attr = host.client.mkdir(self.fid(), name, mode & 0o7777, *to_gofer(host.gofer_ns, uid, gid))
        inode = host.make(self, Entry(name, attr, b""))
        inode.checked_ns = time.monotonic_ns()
        self._added(name, inode)
        self.nlink += 1
        if host.quota is not None:
            host.quota.made_directory()
        return inode

    def mknod(self, ctx: Context, name: bytes, mode: int, rdev: int) -> Inode:
        self._check_writable()
        if mode & S_IFMT != S_IFIFO and mode & S_IFMT != S_IFSOCK:
            raise LinuxError(EPERM)
        host = self.host
        uid, gid, mode = new_owner(ctx.creds, self, mode)
        attr = host.client.mknod(self.fid(), name, mode, *to_gofer(host.gofer_ns, uid, gid))
        inode = host.make(self, Entry(name, attr, b""))
        inode.checked_ns = time.monotonic_ns()
        self._added(name, inode)
        return inode

    def bind_socket(self, ctx: Context, name: bytes, mode: int, kind: int) -> tuple[Inode, HostDoor | None]:
        host = self.host
        if not host.has_doors:
            return self.mknod(ctx, name, mode, 0), None
        self._check_writable()
        uid, gid, mode = new_owner(ctx.creds, self, mode)
        attr, number = host.client.bind(
            self.fid(), name, kind, mode & 0o7777, *to_gofer(host.gofer_ns, uid, gid)
        )
        inode = host.make(self, Entry(name, attr, b""))
        inode.checked_ns = time.monotonic_ns()
        self._added(name, inode)
        return inode, GoferDoor(host.client, number) if number else None

    def symlink(self, ctx: Context, name: bytes, target: bytes) -> Inode:
        self._check_writable()
        host = self.host
        uid, gid, _mode = new_owner(ctx.creds, self, 0o777)
        attr = host.client.symlink(self.fid(), name, target, *to_gofer(host.gofer_ns, uid, gid))
        inode = host.make(self, Entry(name, attr, target))
        inode.checked_ns = time.monotonic_ns()
        self._added(name, inode)
        if host.quota is not None:
            host.quota.changed(0, attr.blocks)
        return inode

    def link(self, ctx: Context, name: bytes, inode: Inode) -> None:
        self._check_writable()
        assert isinstance(inode, GoferInode)
        fid, own = inode.name_address() if inode.has_address else inode.address()
        attr = self.host.client.link(fid, own, self.fid(), name)
        if attr.ino != inode.host_ino or attr.dev != inode.host_dev:
            raise LinuxError(ESTALE)  # the host replaced the source meanwhile
        inode.update(attr)
        if inode.charge is not None:
            inode.charge.state = NAMED
        inode.add_name(self, name)
        self.host.remember(inode)
        self._added(name, inode)

    def unlink(self, ctx: Context, name: bytes, inode: Inode) -> None:
        self._check_writable()
        assert isinstance(inode, GoferInode)
        if self.host.quota is not None:
            inode.recount()
        self.host.flush_dead()
        self.host.client.unlink(self.fid(), name)
        self._removed(name)
        inode.lost_name(self, name)
        if inode.openers == 0 and not inode.has_address:
            self.host.unpark(inode)
            inode.close_fds()

    def rmdir(self, ctx: Context, name: bytes, inode: Inode) -> None:
        self._check_writable()
        assert isinstance(inode, GoferDir)
        self.host.client.rmdir(self.fid(), name)
        if self.host.quota is not None:
            self.host.quota.removed_directory()
        self._removed(name)
        self.nlink = max(self.nlink - 1, 0)
        inode.nlink = 1  # lost_name subtracts one
        inode.lost_name(self, name)
        inode.drop_fid()

    def rename(
        self,
        ctx: Context,
        name: bytes,
        inode: Inode,
        new_dir: Inode,
        new_name: bytes,
        target: Inode | None,
        flags: int,
    ) -> None:
        self._check_writable()
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise LinuxError(EINVAL)
        assert isinstance(inode, GoferInode) and isinstance(new_dir, GoferDir)
        assert target is None or isinstance(target, GoferInode)
        is_exchange = flags & RENAME_EXCHANGE != 0
        moved_fid = inode.known_fid() if isinstance(inode, GoferDir) else 0
        other_fid = target.known_fid() if is_exchange and isinstance(target, GoferDir) else 0
        if self.host.quota is not None and target is not None and not is_exchange:
            target.recount()
        self.host.flush_dead()
        self.host.client.rename(self.fid(), name, new_dir.fid(), new_name, flags, moved_fid, other_fid)
        self._removed(name)
        new_dir._removed(new_name)
        if is_exchange:
            assert target is not None
            target.moved(new_dir, new_name, self, name)
            self._added(name, target)
        elif target is not None:
            if isinstance(target, GoferDir):
                target.nlink = 1
                target.drop_fid()
                if self.host.quota is not None:
                    self.host.quota.removed_directory()
            target.lost_name(new_dir, new_name)
            if target.openers == 0 and not target.has_address:
                self.host.unpark(target)
                target.close_fds()
        inode.moved(self, name, new_dir, new_name)
        new_dir._added(new_name, inode)

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return GoferDirDescription(path, self, flags)

    def sync_dir(self) -> None:
        """fsync of the directory on the host."""
        self.host.client.fsync(self.fid(), b"")


class GoferDoor(HostDoor):
    """A Unix socket that the gofer has bound."""

    def __init__(self, client: GoferClient, number: int) -> None:
        self._client: GoferClient = client
        self._number: int = number

    def listen(self, backlog: int) -> int:
        fd = self._client.listen(self._number, backlog)
        self._number = 0
        return fd

    def close(self) -> None:
        number = self._number
        self._number = 0
        if number:
            try:
                self._client.unbind(number)
            except LinuxError:
                pass  # the gofer has gone, and the socket with it


def _forget_below(directory: GoferDir) -> None:
    """Drop what is below a directory that no guest knows any more."""
    known = _known_below(directory)
    while known:
        above, name = known.pop()
        above.forget_known(name)


def _known_below(directory: GoferDir) -> list[tuple[GoferDir, bytes]]:
    """The names below a directory for which there are inodes; those in a directory come after its own."""
    known: list[tuple[GoferDir, bytes]] = []
    stack = [directory]
    while stack and len(known) < _MAX_FORGOTTEN:
        each = stack.pop()
        for name, child in each._children.items():
            known.append((each, name))
            if isinstance(child, GoferDir):
                stack.append(child)
    return known


def _place_among_numbers(name: bytes) -> tuple[int, bytes]:
    return len(name), name


class GoferDirDescription(DirectoryDescription):
    """An open directory; a snapshot is taken at its beginning."""

    def __init__(self, path: Path, directory: GoferDir, flags: int) -> None:
        super().__init__(path, directory, flags)
        self._directory: GoferDir = directory
        self._entries: list[tuple[bytes, int, int]] = []

    def iterate(self, ctx: Context, emitter: DirEmitter) -> int:
        directory = self._directory
        if self.pos <= 0:
            try:
                self._entries = directory.snapshot()
            except LinuxError as error:
                return -error.errno
            if not emitter.emit(b".", directory.ino, 4, 1):
                return 0
            self.pos = 1
        if self.pos == 1:
            parent = self.path.dentry.parent if self.path is not None else None
            parent_ino = parent.require().ino if parent is not None else directory.ino
            if not emitter.emit(b"..", parent_ino, 4, 2):
                return 0
            self.pos = 2
        entries = self._entries
        at = self.pos - 2
        while at < len(entries):
            name, ino, dtype = entries[at]
            if not emitter.emit(name, ino, dtype, at + 3):
                return 0
            at += 1
            self.pos = at + 2
        return 0

    def fsync(self, ctx: Context, *, is_data_only: bool) -> int:
        if not self._directory.host.is_readonly:
            try:
                self._directory.sync_dir()
            except LinuxError as error:
                return -error.errno
        return 0
