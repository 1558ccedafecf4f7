"""devpts: the file system of /dev/pts (Documentation/filesystems/devpts.rst).

Each container has an instance of its own (`Container.devpts`); mount(2) makes further ones.  Each numbers its pairs,
lowest free number first.
"""

import time
from typing import Final

from cloche.abi.errno import EINVAL, ENOSPC, LinuxError
from cloche.abi.magic import DEVPTS_SUPER_MAGIC
from cloche.abi.stat import DT_CHR, S_IFCHR, S_IFDIR
from cloche.fs.tty import MAX_PTYS, PTMX_RDEV, Terminal
from cloche.fs.tty_files import DevptsPaths, PtmxInode, SlaveInode
from cloche.kernel.task import Container, Kernel
from cloche.vfs.memory_inode import MemoryAttrInode
from cloche.vfs.objects import (
    Context,
    Dentry,
    DirectoryDescription,
    DirEmitter,
    FileDescription,
    Inode,
    Path,
)
from cloche.vfs.pseudo import parse_digits
from cloche.vfs.userns import UserNamespace, map_gid, map_uid

_ROOT_INO: Final = 1
_PTMX_INO: Final = 2
_FIRST_INO: Final = 3
TTY_GID: Final = 5


class DevptsFs(DevptsPaths):
    """The pairs by number."""

    def __init__(self, kernel: Kernel, *, gid: int, mode: int, ptmx_mode: int) -> None:
        super().__init__("devpts", DEVPTS_SUPER_MAGIC, kernel.numbers.dev())
        self.kernel: Kernel = kernel
        self.uid: int = -1  # of new slaves; -1: their opener's
        self.gid: int = gid
        self.mode: int = mode
        self.ptmx_mode: int = ptmx_mode
        self.terminals: dict[int, Terminal] = {}
        self.has_stable_dentries = False
        root = DevptsRoot(self, _ROOT_INO, S_IFDIR | 0o755)
        root.nlink = 2
        ptmx = PtmxInode(self, _PTMX_INO, S_IFCHR | ptmx_mode)
        ptmx.rdev = PTMX_RDEV
        now = time.time_ns()
        for inode in (root, ptmx):
            inode.atime_ns = inode.mtime_ns = inode.ctime_ns = now
        self.ptmx: PtmxInode = ptmx
        self.root_inode = root

    def options(self) -> str:
        gid = f",gid={self.gid}" if self.gid >= 0 else ""
        return f"{gid},mode={self.mode:03o},ptmxmode={self.ptmx_mode:03o}"

    def new_terminal(self, ctx: Context) -> Terminal:
        index = 0
        while index in self.terminals:
            index += 1
        if index >= MAX_PTYS:
            raise LinuxError(ENOSPC)
        tty = Terminal(self.kernel, index)
        uid = self.uid if self.uid >= 0 else ctx.creds.fsuid
        gid = self.gid if self.gid >= 0 else ctx.creds.fsgid
        inode = SlaveInode(self, index + _FIRST_INO, self.mode, tty, uid, gid)
        now = time.time_ns()
        inode.atime_ns = inode.mtime_ns = inode.ctime_ns = now
        tty.inode = inode
        tty.fs = self
        self.terminals[index] = tty
        return tty

    def find(self, index: int) -> Terminal | None:
        return self.terminals.get(index)

    def drop(self, terminal: Terminal) -> None:
        inode = terminal.inode
        if inode is not None:
            inode.nlink = 0
            terminal.inode = None  # the two refer to each other
        if self.terminals.get(terminal.index) is terminal:
            del self.terminals[terminal.index]

    def peer_path(self, ctx: Context, terminal: Terminal) -> Path | None:
        inode = terminal.inode
        if inode is None:
            return None
        for mount in ctx.mount_ns.mounts:
            if mount.fs is self:
                return Path(mount, Dentry(b"%d" % terminal.index, mount.root, inode))
        return None


class DevptsRoot(MemoryAttrInode):
    """The directory: `ptmx` and the numbers."""

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        fs = self.fs
        assert isinstance(fs, DevptsFs)
        if name == b"ptmx":
            return fs.ptmx
        if not name.isdigit() or (name[:1] == b"0" and len(name) > 1):
            return None
        tty = fs.terminals.get(int(name)) if len(name) < 8 else None
        return tty.inode if tty is not None else None

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return DevptsDirectory(path, self, flags)


class DevptsDirectory(DirectoryDescription):
    """An open /dev/pts; a slave's position is its number + 3."""

    def iterate(self, ctx: Context, emitter: DirEmitter) -> int:
        fs = self.inode.fs
        assert isinstance(fs, DevptsFs)
        parent = self.path.mount.mountpoint if self.path is not None else None
        above = parent.parent if parent is not None else None
        above_ino = above.require().ino if above is not None else _ROOT_INO
        fixed = ((b".", _ROOT_INO, 4), (b"..", above_ino, 4), (b"ptmx", _PTMX_INO, DT_CHR))
        while self.pos < len(fixed):
            name, ino, kind = fixed[self.pos]
            if not emitter.emit(name, ino, kind, self.pos + 1):
                return 0
            self.pos += 1
        for index in sorted(fs.terminals):
            if index + _FIRST_INO < self.pos:
                continue
            if not emitter.emit(b"%d" % index, index + _FIRST_INO, DT_CHR, index + _FIRST_INO + 1):
                return 0
            self.pos = index + _FIRST_INO + 1
        return 0


def devpts_fs(container: Container) -> DevptsFs:
    """The container's devpts, made at first use."""
    found = container.devpts
    if isinstance(found, DevptsFs):
        return found
    root = container.root_credentials()
    gid = map_gid(root.user_ns, TTY_GID)
    fs = DevptsFs(container.kernel, gid=gid if gid >= 0 else root.gid, mode=0o620, ptmx_mode=0o666)
    for inode in (fs.ptmx, fs.root_inode):
        if inode is not None:
            inode.uid, inode.gid = root.uid, root.gid
    container.devpts = fs
    return fs


def new_devpts(kernel: Kernel, ctx: Context, data: bytes) -> DevptsFs:
    """A further instance for mount(2) with its options.  Raises LinuxError(EINVAL)."""
    fs = DevptsFs(kernel, gid=-1, mode=0o600, ptmx_mode=0)
    ns = ctx.creds.user_ns
    configure(fs, data, ns)
    fs.ptmx.uid = max(ctx.creds.root_uid(), 0)
    fs.ptmx.gid = max(map_gid(ns, 0), 0)
    return fs


def configure(fs: DevptsFs, data: bytes, ns: UserNamespace | None = None) -> None:
    """Take the options of mount(2) over, ids being those of `ns`.  Raises LinuxError(EINVAL)."""
    for item in data.split(b","):
        key, _, value = item.partition(b"=")
        if key in (b"", b"newinstance"):
            continue
        number = parse_digits(value, 8 if key in (b"mode", b"ptmxmode") else 10)
        if key == b"uid":
            fs.uid = map_uid(ns, number)
        elif key == b"gid":
            fs.gid = map_gid(ns, number)
        elif key == b"mode":
            fs.mode = number & 0o7777
        elif key == b"ptmxmode":
            fs.ptmx_mode = number & 0o7777
        elif key != b"max":
            raise LinuxError(EINVAL)
        if number < 0 or (key == b"uid" and fs.uid < 0) or (key == b"gid" and fs.gid < 0):
            raise LinuxError(EINVAL)
    fs.ptmx.mode = S_IFCHR | fs.ptmx_mode
