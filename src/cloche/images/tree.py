"""Layers put together: the tree of an image, in memory and as the file that sandboxes read (`wire.imagetree`).

As in the image specification ("Applying Changesets"): a layer's whiteouts apply only to the layers below it; a
directory over a directory keeps the files in that; anything else replaces the file of its name. A symbolic link on
the way to a name means what it would mean in the image's own root. It is only followed here, in memory.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import IO, Final

from cloche.abi.errno import LinuxError
from cloche.images.errors import ImageError
from cloche.images.store import Store, hex_of, sync_directory
from cloche.images.unpack import ENTRY, LINK, MAX_ENTRIES, OPAQUE, read_rows
from cloche.wire.cbor import encode
from cloche.wire.imagetree import (
    HEAD,
    MAGIC,
    MAX_LAYERS,
    ROWS,
    START,
    VERSION,
    TreeFile,
    TreeRow,
    content_name,
)

MAX_NAMES: Final = 1 << 17  # in a directory: once it was listed, the sentry holds all of them in memory
_MAX_LINKS: Final = 40


class Node:
    """A file with its attributes; it may have several names."""

    __slots__ = ("row", "children", "placed")

    def __init__(self, row: TreeRow) -> None:
        self.row: TreeRow = row
        self.children: dict[bytes, Node] | None = {} if stat.S_ISDIR(row.mode) else None
        self.placed: bool = False


def _new_directory() -> Node:
    return Node(TreeRow(b"/", stat.S_IFDIR | 0o755))


class Tree:
    """An image's files."""

    def __init__(self) -> None:
        self.root: Node = _new_directory()
        self.entries: int = 0

    def apply(self, rows: Iterator[list[object]], layer: int) -> None:
        """Put layer number `layer` on top.  Raises ImageError."""
        entries: list[list[object]] = []
        for row in rows:
            if row[0] in (ENTRY, LINK):
                entries.append(row)
                continue
            path = row[1]
            assert isinstance(path, bytes)
            if row[0] == OPAQUE:
                found = self.find(path)
                if found is not None and found.children is not None:
                    found.children.clear()
            else:
                above, name = self._parent(path, makes=False)
                if above is not None and above.children is not None:
                    above.children.pop(name, None)
        for row in entries:
            self.entries += 1
            if self.entries > MAX_ENTRIES:
                raise ImageError(f"an image has more than {MAX_ENTRIES} files")
            self._add(row, layer)

    def _add(self, row: list[object], layer: int) -> None:
        path, target = row[1], row[8]
        assert isinstance(path, bytes) and isinstance(target, bytes)
        if not path:
            if row[0] == ENTRY and stat.S_ISDIR(_number(row, 2)):
                self.root.row = _tree_row(row, layer)
            return
        above, name = self._parent(path, makes=True)
        if above is None or above.children is None:
            raise ImageError(f"a layer has {path!r} below what is no directory")
        if row[0] == LINK:
            parent, last = self._parent(target, makes=False)
            linked = parent.children.get(last) if parent is not None and parent.children else None
            if linked is None or linked.children is not None:
                raise ImageError(f"a layer has {path!r} as another name of {target!r}, which is no file")
            above.children[name] = linked
            return
        made = Node(_tree_row(row, layer))
        old = above.children.get(name)
        if old is not None and made.children is not None and old.children is not None:
            old.row = made.row
        else:
            above.children[name] = made

    def find(self, path: bytes) -> Node | None:
        """The node at a path, links followed."""
        if not path:
            return self.root
        return self._walk([part for part in path.split(b"/") if part], makes=False)

    def _parent(self, path: bytes, *, makes: bool) -> tuple[Node | None, bytes]:
        above, _slash, name = path.rpartition(b"/")
        return self._walk([part for part in above.split(b"/") if part], makes=makes), name

    def _walk(self, parts: list[bytes], *, makes: bool) -> Node | None:
        """The file at the end, links followed; None if there is none, or too many links."""
        rest = parts[::-1]
        trail = [self.root]
        links = 0
        while rest:
            part = rest.pop()
            if part == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            children = trail[-1].children
            if children is None:
                return None
            below = children.get(part)
            if below is None:
                if not makes:
                    return None
                below = _new_directory()  # as tar would
                self.entries += 1
                children[part] = below
            if stat.S_ISLNK(below.row.mode):
                links += 1
                if links > _MAX_LINKS:
                    return None
                if below.row.target.startswith(b"/"):
                    trail = [self.root]
                rest.extend([each for each in below.row.target.split(b"/") if each not in (b"", b".")][::-1])
                continue
            trail.append(below)
        return trail[-1]

    # -- writing ---------------------------------------------------------------------------------------------
    def write(self, file: IO[bytes], layers: list[str]) -> None:
        """Write the tree in the format of `wire.imagetree`."""
        self._number()
        file.write(MAGIC + bytes(HEAD.size))
        at = START
        # Each directory twice: before what is in it, and after.
        stack: list[tuple[Node, bool]] = [(self.root, False)]
        while stack:
            node, is_over = stack.pop()
            children = node.children
            assert children is not None
            if not is_over:
                stack.append((node, True))
                stack.extend((child, False) for child in children.values() if child.children is not None)
                continue
            at = self._write_directory(file, at, node)
        head = encode([VERSION, [hex_of(layer).encode() for layer in layers], _row(b"/", self.root)])
        file.write(head)
        file.seek(len(MAGIC))
        file.write(HEAD.pack(at, len(head)))

    def _write_directory(self, file: IO[bytes], at: int, node: Node) -> int:
        children = node.children
        assert children is not None
        if len(children) > MAX_NAMES:
            raise ImageError(f"an image has a directory with more than {MAX_NAMES} names")
        names = sorted(children)
        table: list[object] = []
        for start in range(0, max(len(names), 1), ROWS):
            some = names[start : start + ROWS]
            block = encode([0, [_row(name, children[name]) for name in some]])
            file.write(block)
            table.append([some[0] if some else b"", at, len(block)])
            node.row.offset, node.row.length = at, len(block)
            at += len(block)
        if len(table) > 1:
            block = encode([1, table])
            file.write(block)
            node.row.offset, node.row.length = at, len(block)
            at += len(block)
        return at

    def _number(self) -> None:
        """Inode numbers, and how many names each file has."""
        self.root.row.ino = 1
        self.root.row.nlink = 2
        last = 1
        stack = [self.root]
        while stack:
            node = stack.pop()
            for child in (node.children or {}).values():
                row = child.row
                if child.placed:
                    row.nlink += 1
                    continue
                child.placed = True
                last += 1
                row.ino, row.nlink = last, 1
                if child.children is not None:
                    row.nlink = 2
                    node.row.nlink += 1
                    stack.append(child)


def _row(name: bytes, node: Node) -> list[object]:
    node.row.name = name
    return node.row.to_list()


def _number(row: list[object], index: int) -> int:
    found = row[index]
    assert isinstance(found, int)
    return found


def _tree_row(row: list[object], layer: int) -> TreeRow:
    made = TreeRow(b"/", _number(row, 2))
    made.uid, made.gid, made.mtime_ns, made.size = (_number(row, index) for index in (3, 4, 5, 6))
    made.layer, made.number, made.rdev = layer, _number(row, 7), _number(row, 9)
    target, xattrs = row[8], row[10]
    assert isinstance(target, bytes) and isinstance(xattrs, list)
    made.target = target
    made.xattrs = [(name, value) for name, value in xattrs]
    if len(row) > 11:
        made.blocks = _number(row, 11)
    return made


def tree_name(layers: list[str]) -> str:
    """The name, in the directory of contents, of the tree of these layers (the lowest first)."""
    return "tree-" + hashlib.sha256("\n".join(layers).encode()).hexdigest()


def ensure_tree(store: Store, layers: list[str]) -> str:
    """Make the tree, unless it exists; returns its name. Raises ImageError, OSError."""
    name = tree_name(layers)
    path = store.of("content", name)
    if os.path.exists(path):
        return name
    if len(layers) > MAX_LAYERS:
        raise ImageError(f"an image has more than {MAX_LAYERS} layers")
    tree = Tree()
    for index, layer in enumerate(layers):
        tree.apply(read_rows(store, layer), index)
    new = store.of("content", f"new-{secrets.token_hex(8)}")
    try:
        with open(new, "xb") as file:
            os.fchmod(file.fileno(), 0o400)
            tree.write(file, layers)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        raise
    sync_directory(store.of("content"))
    return name


class OpenTree:
    """A tree with the contents of its files, for this process; no sandbox's tree is removed while it is open."""

    def __init__(self, path: str) -> None:
        """`path`: of the tree's file.  Raises ImageError, OSError."""
        self.directory: str = os.path.dirname(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            self.file: TreeFile = TreeFile(fd)
        except LinuxError:
            raise ImageError(f"{path} is damaged; remove the image and pull it again") from None

    def content_path(self, row: TreeRow) -> str:
        """The file of the host with what is in a regular file."""
        group, name = content_name(row.number)
        layer = self.file.layers[row.layer].decode()
        return os.path.join(self.directory, layer, group.decode(), name.decode())

    def read(self, path: bytes, limit: int) -> bytes | None:
        """The contents of a file, links followed, at most `limit` bytes; None: there is no such file."""
        try:
            row = self.file.resolve(path)
        except LinuxError:
            return None
        if row is None or not stat.S_ISREG(row.mode):
            return None
        with open(self.content_path(row), "rb") as file:
            return file.read(limit)
