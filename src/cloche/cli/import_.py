"""`cloche import`: an image of one layer out of a root file system, a tar archive or a directory."""

import argparse
import errno
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from cloche.cli.imagenames import report_image_errors
from cloche.cli.options import UsageError
from cloche.cli.tarstream import write_tar
from cloche.images.holes import HoleWriter
from cloche.images.make import make_image
from cloche.images.reference import parse_reference
from cloche.images.store import Store
from cloche.images.streams import LayerStream
from cloche.images.unpack import clean_path
from cloche.runtime.hosttree import USER, HostTree, pieces_of
from cloche.wire import files
from cloche.wire.files import FileEntry, Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche import`."""
    add = parser.add_argument
    add("--cmd", default="/bin/sh", metavar="COMMAND", help="what it runs, in words as a shell splits them")
    add("source", metavar="SRC", help="a tar archive, a directory, or - for standard input")
    add("name", metavar="IMAGE", help="the image's name")


class _Packer:
    """The records (`wire.files`) of a directory of the host as it is, without what is mounted below.

    A sandbox may exchange names there meanwhile: they are looked up below descriptors, and no link is followed, so
    nothing else of the host gets into the image.
    """

    def __init__(self, tree: HostTree) -> None:
        self.tree: HostTree = tree
        self.device: int = os.fstat(tree.fd).st_dev
        self.links: dict[tuple[int, int], bytes] = {}  # of several names: the first

    def records(self) -> Iterator[Record]:
        """Directories before what is in them.  Raises OSError, with the path, ImageError."""
        stack = [b""]
        while stack:
            path = clean_path(stack.pop())  # no image may be deeper
            try:
                yield from self._file(path, stack)
            except OSError as error:
                raise OSError(error.errno, error.strerror or str(error), os.fsdecode(path)) from None

    def _file(self, path: bytes, stack: list[bytes]) -> Iterator[Record]:
        """One file; what is in a directory goes to the stack."""
        st = self.tree.lstat(path)
        fd = -1
        try:
            if stat.S_ISDIR(st.st_mode):
                fd = self.tree.open_directory(path)
            elif stat.S_ISREG(st.st_mode):
                fd = self.tree.open_file(path)
            if fd >= 0:
                st = os.fstat(fd)  # another one may have the name now
            if st.st_dev != self.device:
                return
            if stat.S_ISDIR(st.st_mode):
                names = sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
                stack += [path + b"/" + name if path else name for name in names]
            record = Record(files.ENTRY)
            record.entry = self._entry(path, st, fd)
            yield record
            if stat.S_ISREG(st.st_mode) and not record.entry.is_link:
                yield from _contents(fd, st.st_size)
        finally:
            if fd >= 0:
                os.close(fd)

    def _entry(self, path: bytes, st: os.stat_result, fd: int) -> FileEntry:
        entry = FileEntry(path, st.st_mode)
        entry.uid, entry.gid, entry.size, entry.mtime_ns = st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns
        entry.rdev = st.st_rdev
        if stat.S_ISLNK(st.st_mode):
            parent_fd, name = self.tree.parent(path)
            entry.target = os.readlink(name, dir_fd=parent_fd)
        elif stat.S_ISREG(st.st_mode) and st.st_nlink > 1:
            first = self.links.setdefault((st.st_dev, st.st_ino), path)
            if first != path:
                entry.target, entry.is_link = first, True
        if fd >= 0 and not entry.is_link:
            entry.xattrs = _attributes(fd)
        return entry


def _attributes(fd: int) -> list[tuple[bytes, bytes]]:
    """What engines keep in layers, too: the user's and capabilities; labels and access lists are this host's."""
    found: list[tuple[bytes, bytes]] = []
    try:
        for name in sorted(os.listxattr(fd)):
            if name.startswith(USER) or name == "security.capability":
                found.append((os.fsencode(name), os.getxattr(fd, name)))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA):  # ENODATA: removed meanwhile
            raise
    return found


def _contents(fd: int, size_bytes: int) -> Iterator[Record]:
    """So much as the header says, or less, where it was cut off meanwhile."""
    for offset, data in pieces_of(fd, size_bytes):
        record = Record(files.DATA)
        record.offset, record.data = offset, data
        yield record
    yield Record(files.END)


def pack(directory: str, out: IO[bytes]) -> None:
    """Write a directory of the host as a tar archive, with holes.  Raises OSError, ImageError."""
    tree = HostTree(os.fsencode(directory))
    writer = HoleWriter(out)
    try:
        write_tar(_Packer(tree).records(), writer, b"")
        writer.finish()
    finally:
        tree.close()


def _run(options: argparse.Namespace) -> int:
    name = parse_reference(options.name)
    store = Store()
    with store.using(), tempfile.TemporaryFile(dir=store.path) as layer:
        if options.source != "-" and os.path.isdir(options.source):
            pack(options.source, layer)
        else:
            if options.source == "-" and sys.stdin.isatty():
                raise UsageError("a tar archive on standard input")
            with open(options.source, "rb") if options.source != "-" else sys.stdin.buffer as source:
                stream, writer = LayerStream(source), HoleWriter(layer)
                while data := stream.read(1 << 18):
                    writer.write(data)
                writer.finish()
        image = make_image(
            store, None, layer, {"Cmd": shlex.split(options.cmd)}, f"cloche import {options.source}"
        )
        store.set_name(name, image.digest)
    print(image.digest)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("import", _run, options)
