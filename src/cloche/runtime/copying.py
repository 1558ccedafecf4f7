"""Copying between the host and a sandbox: records (`wire.files`) from files of the host, and files of the host from
records.

For `cloche cp` and the SDK. A file that is left out is reported, and the copy goes on.
"""

import os
import stat
from collections.abc import Callable, Iterator

from cloche.runtime.hosttree import (
    HostTree,
    NewFile,
    Policy,
    Unwanted,
    finish_directory,
    make_directory,
    pieces_of,
)
from cloche.wire import files
from cloche.wire.files import FileEntry, Record

Complain = Callable[[bytes, str], None]  # called with the path and the reason


class Reader:
    """The records of files of the host."""

    def __init__(self, complain: Complain, *, is_archive: bool) -> None:
        self.complain: Complain = complain  # of what is left out
        self.is_archive: bool = is_archive
        self.links: dict[tuple[int, int], bytes] = {}
        self.has_failed: bool = False

    def tree(self, source: bytes, name: bytes, *, follow: bool) -> Iterator[bytes]:
        """A file, or a directory and all below it, under `name` (empty: its contents only).

        A sandbox may exchange names there meanwhile: only `source` may be a link that is followed, with `follow`, so
        nothing else of the host is read.  Raises OSError if `source` itself cannot be read.
        """
        st = os.stat(source) if follow else os.lstat(source)
        above, top = source, b""
        if not stat.S_ISDIR(st.st_mode):
            above, top = os.path.split(os.path.realpath(source) if follow else source)
        tree = HostTree(above or b".", follow=follow or top != b"")
        try:
            stack = [(top, name)]
            while stack:
                path, called = stack.pop()
                try:
                    yield from self._file(tree, path, called, stack)
                except OSError as error:
                    if path == top:
                        raise
                    self._leave_out(above, path, error.strerror or str(error))
                except Unwanted as what:
                    self._leave_out(above, path, str(what))
        finally:
            tree.close()

    def _leave_out(self, above: bytes, path: bytes, why: str) -> None:
        self.has_failed = True
        self.complain(os.path.join(above, path), why)

    def _file(
        self, tree: HostTree, path: bytes, name: bytes, stack: list[tuple[bytes, bytes]]
    ) -> Iterator[bytes]:
        """The records of one file; what is in a directory goes to the stack. Raises OSError, Unwanted."""
        st = tree.lstat(path)
        fd = -1
        try:
            if stat.S_ISDIR(st.st_mode):
                fd = tree.open_directory(path)
                for each in sorted(map(os.fsencode, os.listdir(fd)), reverse=True):
                    stack.append((path + b"/" + each if path else each, name + b"/" + each if name else each))
            elif stat.S_ISREG(st.st_mode):
                fd = tree.open_file(path)
            if fd >= 0:
                st = os.fstat(fd)  # another one may have the name now
            if name:
                yield from self._records(tree, path, name, st, fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def _records(
        self, tree: HostTree, path: bytes, name: bytes, st: os.stat_result, fd: int
    ) -> Iterator[bytes]:
        kind = stat.S_IFMT(st.st_mode)
        mode = st.st_mode if self.is_archive else kind | st.st_mode & 0o1777
        entry = FileEntry(name, mode)
        entry.uid, entry.gid = (st.st_uid, st.st_gid) if self.is_archive else (files.KEEP, files.KEEP)
        entry.mtime_ns = st.st_mtime_ns
        if kind == stat.S_IFLNK:
            parent_fd, base = tree.parent(path)
            entry.target = os.readlink(base, dir_fd=parent_fd)
        elif kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO):
            raise Unwanted("neither file, directory nor link: left out")
        if kind == stat.S_IFREG:
            known = self.links.get((st.st_dev, st.st_ino))
            if known is not None:
                entry.target, entry.is_link = known, True
                yield files.pack(entry.to_list())
                return
            if st.st_nlink > 1:
                self.links[st.st_dev, st.st_ino] = name
        if self.is_archive and fd >= 0:
            for each in os.listxattr(fd):
                if not each.startswith("system."):
                    entry.xattrs.append((os.fsencode(each), os.getxattr(fd, each)))
        yield files.pack(entry.to_list())
        if kind == stat.S_IFREG:
            yield from self._contents(fd)

    def _contents(self, fd: int) -> Iterator[bytes]:
        size = os.fstat(fd).st_size
        for offset, data in pieces_of(fd, size):
            yield files.pack_data(offset, data)
        yield files.pack_end(size)


class Writer:
    """Makes files of the host from records."""

    def __init__(self, tree: HostTree, top: bytes, policy: Policy, complain: Complain) -> None:
        self.complain: Complain = complain
        self.tree: HostTree = tree
        self.top: bytes = top  # the name of the file that was asked for; empty: the tree itself
        self.policy: Policy = policy
        self.directories: list[tuple[bytes, FileEntry]] = []
        self.file: NewFile | None = None
        self.entry: FileEntry | None = None
        self.failed: int = 0

    def _fail(self, path: bytes, text: str) -> None:
        self.failed += 1
        self.complain(path, text)

    def take(self, record: Record) -> None:
        """Handle one record. A file that cannot be made is reported, and nothing is raised."""
        entry = record.entry
        if record.kind == files.ERROR:
            self._fail(record.data, os.strerror(record.offset))
        elif entry is not None:
            self._drop()
            self._begin(entry)
        elif self.file is not None and self.entry is not None:
            try:
                if record.kind == files.DATA:
                    self.file.write(record.offset, record.data)
                elif record.kind == files.END:
                    os.ftruncate(self.file.fd, record.offset)
                    self.file.commit(self.entry, self.policy)
                    self.file = None
            except OSError as error:
                self._fail(self.entry.path, error.strerror or str(error))
                self._drop()

    def _drop(self) -> None:
        if self.file is not None:
            self.file.discard()
            self.file = None

    def _named(self, path: bytes) -> bytes:
        return self.top + b"/" + path if self.top and path else self.top or path

    def _begin(self, entry: FileEntry) -> None:
        path = self._named(entry.path)
        made: NewFile | None = None
        try:
            if stat.S_ISDIR(entry.mode):
                if path:
                    if make_directory(self.tree, path):
                        self.directories.append((path, entry))
                return
            made = NewFile(self.tree, path, make=True)
            if entry.is_link:
                made.link_to(self._named(entry.target))
                made.commit(entry, self.policy)
            elif stat.S_ISREG(entry.mode):
                made.open()
                self.file, self.entry = made, entry
                made = None
            else:
                made.make(entry, self.policy)
                made.commit(entry, self.policy)
        except Unwanted as what:
            self._fail(entry.path, f"{what}: left out")
        except OSError as error:
            self._fail(entry.path, error.strerror or str(error))
        finally:
            if made is not None:
                made.discard()

    def finish(self) -> None:
        """No more records."""
        self._drop()
        for path, entry in reversed(self.directories):
            try:
                finish_directory(self.tree, path, entry, self.policy)
            except OSError as error:
                self._fail(entry.path, error.strerror or str(error))
