"""An image's file system, read-only: the lower layer of a container's root.

Names and attributes come from the image's tree (`wire.imagetree`), which the gofer opened; owners, modes, links and
devices are those of the image although an ordinary user may have unpacked it.  Contents are plain files with numbers
for names, in a directory for each layer, which the gofer opens as it opens any file of the host (`fs.gofer`). The
numbers are in the order of the layer; so files that are read in turn mostly have numbers in turn, and are opened ahead.

The tree is not trusted: rows are checked when they are read, blocks have a bounded size, and the names in a directory
are read when they are needed.
"""

import os

from cloche.abi.errno import EINVAL, EIO, ENODATA, LinuxError
from cloche.abi.magic import EROFS_SUPER_MAGIC_V1
from cloche.abi.stat import S_IFDIR, S_IFMT, S_IFREG, dtype
from cloche.fs.gofer import GoferDir, GoferFs
from cloche.fs.gofer_client import GoferClient
from cloche.vfs.devices import open_special
from cloche.vfs.forgetting import NAMES, Forgetful, inode_holders
from cloche.vfs.objects import (
    Context,
    DirectoryDescription,
    DirEmitter,
    FileDescription,
    FileSystem,
    Inode,
    Path,
)
from cloche.vfs.records import StatFs
from cloche.wire.imagetree import ROWS, TreeDirectory, TreeFile, TreeRow, content_name


class ImageFs(FileSystem):
    """One image."""

    def __init__(self, client: GoferClient, index: int, dev: int, tree: bytes) -> None:
        """`tree`: its name in attach point number `index`, beside the directories of the layers.  Raises LinuxError."""
        super().__init__("image", EROFS_SUPER_MAGIC_V1, dev)
        self.is_readonly = True
        self.contents: GoferFs = GoferFs(client, index, dev, is_shared=False)
        self.tree: TreeFile = TreeFile(client.open(self.contents.root_fid, tree, os.O_RDONLY)[0])
        self.layers: list[Inode | None] = [None] * len(self.tree.layers)
        self.linked: dict[int, ImageInode] = {}  # files with several names
        self.root: ImageDir = ImageDir(self, self.tree.root)
        self.root_inode = self.root

    def statfs(self, ctx: Context) -> StatFs:
        return self.contents.statfs(ctx)

    def make(self, row: TreeRow) -> "ImageInode":
        """The inode of a row."""
        if row.mode & S_IFMT == S_IFDIR:
            return ImageDir(self, row)
        if row.nlink > 1:
            known = self.linked.get(row.ino)
            if known is not None:
                return known
        inode = ImageInode(self, row)
        if row.nlink > 1:
            self.linked[row.ino] = inode
        return inode

    def content_of(self, ctx: Context, row: TreeRow) -> Inode:
        """The file with the contents.  Raises LinuxError."""
        layer = self.layers[row.layer]
        if layer is None:
            layer = self.contents.root.lookup(ctx, self.tree.layers[row.layer])
            self.layers[row.layer] = layer
        group, name = content_name(row.number)
        directory = layer.lookup(ctx, group) if layer is not None else None
        if isinstance(directory, GoferDir):
            directory.has_numbers = True
        found = directory.lookup(ctx, name) if directory is not None else None
        if found is None or not found.is_regular():
            raise LinuxError(EIO)  # it was removed from the store
        return found

    def forget_content(self, row: TreeRow) -> None:
        """Drop what is cached of the file with the contents, and of its directory with the last one."""
        layer = self.layers[row.layer] if row.mode & S_IFMT == S_IFREG else None
        group, name = content_name(row.number)
        directory = layer.known(group) if isinstance(layer, GoferDir) else None
        if not isinstance(layer, GoferDir) or not isinstance(directory, GoferDir):
            return
        directory.forget_name(name)
        is_last = directory.has_no_known()
        directory = None
        if is_last:
            layer.forget_name(group)


class ImageInode(Inode):
    """A file, link or node of an image."""

    def __init__(self, fs: ImageFs, row: TreeRow) -> None:
        super().__init__(fs, row.ino, row.mode, row.uid, row.gid)
        self.image: ImageFs = fs
        self.row: TreeRow = row
        self.nlink = row.nlink
        self.rdev = row.rdev
        self.size = len(row.target) if self.is_symlink() else row.size
        self.blocks = row.blocks if row.blocks >= 0 else (row.size + 511) // 512
        self.atime_ns = self.mtime_ns = self.ctime_ns = self.btime_ns = row.mtime_ns

    def readlink(self, ctx: Context) -> bytes:
        if not self.is_symlink():
            raise LinuxError(EINVAL)
        return self.row.target

    def getxattr(self, ctx: Context, name: bytes) -> bytes:
        for key, value in self.row.xattrs:
            if key == name:
                return value
        raise LinuxError(ENODATA)

    def listxattr(self, ctx: Context) -> list[bytes]:
        return [key for key, _value in self.row.xattrs]

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        if self.mode & S_IFMT == S_IFREG:
            return self.image.content_of(ctx, self.row).open(ctx, path, flags)
        return open_special(ctx, path, self, flags)


class ImageDir(ImageInode, Forgetful):
    """A directory of an image."""

    def __init__(self, fs: ImageFs, row: TreeRow) -> None:
        super().__init__(fs, row)
        self.names: TreeDirectory | None = None
        self.children: dict[bytes, ImageInode] = {}
        self.counted: int = 0  # names in the account of those that may be forgotten

    def directory(self) -> TreeDirectory:
        """Its names.  Raises LinuxError."""
        names = self.names
        if names is None:
            names = self.image.tree.directory(self.row)
            self.names = names
        counted = len(names.rows)
        NAMES.listed += counted - self.counted
        self.counted = counted
        return names

    def __del__(self) -> None:
        NAMES.listed -= self.counted

    def can_forget(self, name: bytes) -> bool:
        return True

    def forget_child(self, name: bytes, cell: list[Inode]) -> bool:
        """An image is only below other file systems."""
        return False

    def has_by_now(self, ctx: Context, name: bytes) -> bool:
        return self.lookup(ctx, name) is not None

    def forget_name(self, name: bytes) -> None:
        inode = self.children.pop(name, None)
        if inode is None:
            return
        linked = self.image.linked
        cell: list[Inode] = [inode]
        row = inode.row
        is_linked = row.nlink > 1 and linked.get(row.ino) is inode
        inode = None
        if inode_holders(cell) <= (1 if is_linked else 0):
            if is_linked:
                del linked[row.ino]
            self.image.forget_content(row)
        elif not is_linked:
            self._put_back(name, cell[0])

    def _put_back(self, name: bytes, inode: Inode) -> None:
        assert isinstance(inode, ImageInode)
        self.children[name] = inode

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        child = self.children.get(name)
        if child is None:
            row = self.directory().find(name)
            if row is None:
                return None
            child = self.image.make(row)
            self.children[name] = child
        return child

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return ImageDirDescription(path, self, flags)


class ImageDirDescription(DirectoryDescription):
    """An open directory; `.` and `..` have the numbers that the overlay above gives them."""

    def __init__(self, path: Path, directory: ImageDir, flags: int) -> None:
        super().__init__(path, directory, flags)
        self._directory: ImageDir = directory

    def iterate(self, ctx: Context, emitter: DirEmitter) -> int:
        """Emit the rest of a block of names; `pos` holds the number of the block and, in its lower bits, of the row
        in it.
        """
        try:
            names = self._directory.directory()
            at, index = divmod(self.pos, ROWS)
            while 0 <= at < len(names.blocks):
                rows = names.block(at)
                for row in rows[index:]:
                    if not emitter.emit(row.name, row.ino, dtype(row.mode), self.pos + 1):
                        return 0
                    self.pos += 1
                at += 1
                self.pos = at * ROWS
                if index < len(rows):
                    return 0  # only one block may be read at once
                index = 0
        except LinuxError as error:
            return -error.errno
        return 0
