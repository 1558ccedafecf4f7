"""`cloche cp`: files and trees into a sandbox that runs, and out of it."""

import argparse
import errno
import os
import stat
import sys
from collections.abc import Iterator

from cloche.cli.client import connect, report_errors
from cloche.cli.names import base_name, inside, quoted, split_place
from cloche.cli.options import UsageError
from cloche.cli.tarstream import read_tar, write_tar
from cloche.runtime.hosttree import HostTree, NewFile, Policy, Unwanted, finish_directory, make_directory
from cloche.wire import files
from cloche.wire.control_client import ControlError
from cloche.wire.file_client import FileClient, FileError
from cloche.wire.files import FileEntry, Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche cp`."""
    add = parser.add_argument
    add("-a", "--archive", action="store_true", help="keep owners, set-user-ID bits and extended attributes")
    add("-L", "--follow-link", action="store_true", help="copy what SRC leads to if it is a symbolic link")
    add("source", metavar="SRC", help="NAME:PATH, a path of the host, or - for a tar stream")
    add("target", metavar="DST", help="the same")


def _complain(path: bytes, text: str) -> None:
    print(f"cloche cp: {quoted(path)}: {text}", file=sys.stderr)


# -- into the sandbox --------------------------------------------------------------------------------------------
class Reader:
    """The records of files of the host."""

    def __init__(self, *, is_archive: bool) -> None:
        self.is_archive: bool = is_archive
        self.links: dict[tuple[int, int], bytes] = {}
        self.has_failed: bool = False

    def tree(self, source: bytes, name: bytes, *, follow: bool) -> Iterator[bytes]:
        """A file, or a directory and all below it, under `name` (empty: its contents only)."""
        stack = [(source, name)]
        is_top = True
        while stack:
            path, called = stack.pop()
            try:
                st = os.stat(path) if follow and is_top else os.lstat(path)
                if stat.S_ISDIR(st.st_mode):
                    below = sorted(os.listdir(path), reverse=True)
                    stack += [
                        (os.path.join(path, each), called + b"/" + each if called else each) for each in below
                    ]
                if called:
                    yield from self._file(path, called, st)
            except OSError as error:
                if is_top:
                    raise
                self.has_failed = True
                _complain(path, error.strerror or str(error))
            is_top = False

    def _file(self, path: bytes, name: bytes, st: os.stat_result) -> Iterator[bytes]:
        kind = stat.S_IFMT(st.st_mode)
        mode = st.st_mode if self.is_archive else kind | st.st_mode & 0o1777
        entry = FileEntry(name, mode)
        entry.uid, entry.gid = (st.st_uid, st.st_gid) if self.is_archive else (files.KEEP, files.KEEP)
        entry.mtime_ns = st.st_mtime_ns
        if kind == stat.S_IFLNK:
            entry.target = os.readlink(path)
        elif kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO):
            self.has_failed = True
            _complain(path, "neither file, directory nor link: left out")
            return
        fd = -1
        if kind == stat.S_IFREG:
            known = self.links.get((st.st_dev, st.st_ino))
            if known is not None:
                entry.target, entry.is_link = known, True
                yield files.pack(entry.to_list())
                return
            if st.st_nlink > 1:
                self.links[st.st_dev, st.st_ino] = name
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if self.is_archive and kind != stat.S_IFLNK:
                for each in os.listxattr(path, follow_symlinks=False):
                    if not each.startswith("system."):
                        entry.xattrs.append(
                            (os.fsencode(each), os.getxattr(path, each, follow_symlinks=False))
                        )
            yield files.pack(entry.to_list())
            if fd >= 0:
                yield from self._contents(fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def _contents(self, fd: int) -> Iterator[bytes]:
        size = os.fstat(fd).st_size
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
            data = os.pread(fd, files.CHUNK_BYTES, offset)
            if not data:
                break
            yield files.pack_data(offset, data)
            offset += len(data)
        yield files.pack_end(max(size, offset))


def _kind_of(client: FileClient, path: bytes) -> int:
    """The type of what is inside, links followed; 0: nothing."""
    try:
        return stat.S_IFMT(client.stat(path, follow=True).mode)
    except FileError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return 0


def copy_in(client: FileClient, options: argparse.Namespace, source: str, target: str) -> int:
    """SRC of the host to DST inside: the exit status.  Raises UsageError, ControlError, OSError."""
    path = inside(target)
    kind = _kind_of(client, path)
    if source == "-":
        if kind != stat.S_IFDIR:
            raise UsageError(f"{quoted(path)}: a tar stream needs a directory inside that is there")
        records = read_tar(sys.stdin.buffer, keeps_owners=options.archive)
        client.put(path, records, parents=True)
        return 0
    is_tree = os.path.isdir(source) and (options.follow_link or not os.path.islink(source.rstrip("/")))
    name = os.fsencode(base_name(os.path.abspath(source) if base_name(source) in ("", ".", "..") else source))
    has_contents_only = source.endswith("/.") or source == "."
    if is_tree and kind not in (0, stat.S_IFDIR):
        raise UsageError(f"{quoted(path)} is a file inside; a directory cannot be copied there")
    if kind == stat.S_IFDIR:
        base, name = path, b"" if is_tree and has_contents_only else name
    else:
        if target.endswith("/") and not is_tree:
            raise UsageError(f"{target}: there is no such directory inside")
        above, _slash, name = path.rpartition(b"/")
        base = above or b"/"
    reader = Reader(is_archive=options.archive)
    client.put(
        base, reader.tree(os.fsencode(source), name, follow=options.follow_link), follow=kind == stat.S_IFREG
    )
    return 1 if reader.has_failed else 0


# -- out of the sandbox ------------------------------------------------------------------------------------------
class Writer:
    """Makes files of the host from records."""

    def __init__(self, tree: HostTree, top: bytes, policy: Policy) -> None:
        self.tree: HostTree = tree
        self.top: bytes = top  # what the one that was asked for is called; empty: the tree itself
        self.policy: Policy = policy
        self.directories: list[tuple[bytes, FileEntry]] = []
        self.file: NewFile | None = None
        self.entry: FileEntry | None = None
        self.failed: int = 0

    def _fail(self, path: bytes, text: str) -> None:
        self.failed += 1
        _complain(path, text)

    def take(self, record: Record) -> None:
        """One record.  Nothing is raised for a file that cannot be made: it is complained of."""
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


def copy_out(client: FileClient, options: argparse.Namespace, source: str, target: str) -> int:
    """SRC inside to DST of the host: the exit status.  Raises UsageError, ControlError, OSError."""
    path = inside(source)
    has_contents_only = source.endswith("/.") or path == b"/"
    top = client.stat(path, follow=options.follow_link or source.endswith("/"))
    is_tree = stat.S_ISDIR(top.mode)
    follow = options.follow_link or source.endswith("/")
    records = client.get(
        [path], depth=files.MAX_DEPTH, follow=follow, xattrs=options.archive and target == "-"
    )
    name = path.rpartition(b"/")[2]
    if target == "-":
        if sys.stdout.isatty():
            raise UsageError("a tar stream is nothing for a terminal; send it to a file")
        failed = write_tar(records, sys.stdout.buffer, b"" if has_contents_only else name)
        for error in failed:
            _complain(error.path, str(error))
        return 1 if failed else 0
    place = os.fsencode(target)
    if os.path.isdir(place):
        base, name = place, b"" if is_tree and has_contents_only else name
    elif os.path.exists(place) and (is_tree or not os.path.isfile(place)):
        raise UsageError(f"{target} is not a {'directory' if is_tree else 'regular file or directory'}")
    elif target.endswith("/") and not is_tree:
        raise UsageError(f"{target}: there is no such directory")
    else:
        base, name = os.path.split(os.path.realpath(place))
    tree = HostTree(base)
    policy = Policy()
    policy.keeps_owners = policy.keeps_set_ids = options.archive
    writer = Writer(tree, name, policy)
    try:
        for record in records:
            writer.take(record)
    finally:
        writer.finish()
        tree.close()
    return 1 if writer.failed else 0


def _run(options: argparse.Namespace) -> int:
    source_name, source = split_place(options.source)
    target_name, target = split_place(options.target)
    if bool(source_name) == bool(target_name):
        raise UsageError("one of SRC and DST is NAME:PATH, the other a path of the host or -")
    connection = connect(options, source_name or target_name)
    client = FileClient(connection)
    try:
        if target_name:
            return copy_in(client, options, source, target)
        return copy_out(client, options, source, target)
    except FileError as refusal:
        name = quoted(refusal.path) + ": " if refusal.path else ""
        raise ControlError(f"{name}{refusal}") from None
    finally:
        connection.close()


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("cp", _run, options)
