"""Files of a sandbox, as both fronts use them: requests and streams of records (`wire.files`).

What a sandbox says of its files is not trusted. Records are checked, and sizes that it names are not relied on.
Listings, and files that are read whole, have limits. What is copied to the host is written below one directory,
without following any link (`runtime.hosttree`).
"""

import errno
import os
import posixpath
import re
import socket
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, Final

from cloche.abi.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
)
from cloche.runtime.copying import Reader as HostReader
from cloche.runtime.copying import Writer as HostWriter
from cloche.runtime.hosttree import HostTree, Policy
from cloche.sdk.arguments import data_of, encoded, is_whole, items_of, pairs_of
from cloche.sdk.core import SandboxCore
from cloche.sdk.effects import Source, Steps, deadline_of, wait
from cloche.sdk.errors import (
    FileError,
    InvalidArgument,
    SandboxEnded,
    SandboxError,
    SandboxTimeout,
    UnknownUser,
    file_error,
)
from cloche.sdk.link import ANOTHER, KILL, PATIENCE_S, Link
from cloche.sdk.options import PathLike
from cloche.sdk.results import Change, FileEvent, FileInfo
from cloche.wire import files as wire
from cloche.wire.files import FileEntry, Record, RecordDecoder, entry_from
from cloche.wire.protocol import Fields, ProtocolError

MAX_READ: Final = 256 << 20  # bytes of a file that is read whole, unless more are allowed
MAX_ENTRIES: Final = 100_000  # of a listing
_READ_BYTES: Final = 1 << 18
_MAX_PASSWD: Final = 4 << 20
_MAX_ID: Final = 0xFFFFFFFE
_OUT_BYTES: Final = 1 << 18
_KINDS: Final = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
_CHANGES: Final = {wire.ADDED: "added", wire.CHANGED: "changed", wire.DELETED: "deleted"}
_EVENTS: Final = (
    (IN_Q_OVERFLOW, "overflow"),
    (IN_CREATE | IN_MOVED_TO, "create"),
    (IN_MODIFY, "write"),
    (IN_ATTRIB, "chmod"),
    (IN_DELETE | IN_DELETE_SELF, "remove"),
    (IN_MOVED_FROM | IN_MOVE_SELF, "rename"),
)
_NONSENSE: Final = "the sandbox sends what it should not"

Data = str | bytes | bytearray | memoryview | BinaryIO


def _is_id(text: str) -> bool:
    return re.fullmatch(r"\d{1,10}", text, re.ASCII) is not None and int(text) <= _MAX_ID


def resolve_user(core: SandboxCore, user: int | str | None) -> Steps[tuple[int, int, str]]:
    """Numbers and home directory of a user: a number, "UID:GID", or a name of the sandbox's own /etc/passwd.

    -1 stands for the sandbox's user.  Raises UnknownUser, SandboxError.
    """
    if user is None:
        return -1, -1, ""
    text = str(user)
    if re.fullmatch(r"\d{1,10}(:\d{1,10})?", text, re.ASCII):
        uid, colon, gid = text.partition(":")
        return int(uid), int(gid if colon else uid), ""
    try:
        data = yield from read(core, "/etc/passwd", None, _MAX_PASSWD)
    except FileError:
        data = b""
    for line in data.decode(errors="replace").splitlines():
        parts = line.split(":")
        if len(parts) >= 6 and parts[0] == text and _is_id(parts[2]) and _is_id(parts[3]):
            return int(parts[2]), int(parts[3]), parts[5]
    if text == "root":
        return 0, 0, ""
    raise UnknownUser(
        f"user: there is no {text!r} in the sandbox's /etc/passwd", "use a number, or 'UID:GID'"
    )


def rights(core: SandboxCore, user: int | str | None) -> Steps[Fields]:
    """The fields of a request that say as which user it acts. Raises InvalidArgument, SandboxError."""
    uid, gid, _home = yield from resolve_user(core, user)
    return {"uid": uid, "gid": gid}


def inside(core: SandboxCore, path: PathLike, what: str = "path") -> str:
    """An absolute path inside.  Raises InvalidArgument."""
    text = os.fsdecode(encoded(what, path))
    if not text or "\0" in text:
        raise InvalidArgument(f"{what}: {text!r}: a path is not empty and has no NUL")
    if not text.startswith("/"):
        if not core.cwd:
            raise InvalidArgument(f"{what}: {text!r}: write an absolute path")
        text = core.cwd.rstrip("/") + "/" + text
    return text


def _split(path: str) -> tuple[bytes, bytes]:
    """The directory of a file to be written, and its name.  Raises InvalidArgument."""
    above, _slash, name = path.rpartition("/")
    if name in ("", ".", ".."):
        raise InvalidArgument(f"path: {path!r} names a directory; write the name of a file")
    return os.fsencode(above or "/"), os.fsencode(name)


def info_of(path: str, entry: FileEntry) -> FileInfo:
    """The sandbox's information about a file."""
    return FileInfo(
        path=path,
        kind=_KINDS.get(stat.S_IFMT(entry.mode), "other"),
        size=entry.size,
        mode=stat.S_IMODE(entry.mode),
        uid=entry.uid,
        gid=entry.gid,
        modified=entry.mtime_ns / 1e9,
        target=os.fsdecode(entry.target) if not entry.is_link else "",
    )


def _checked(fields: Fields, path: str, operation: str) -> Fields:
    """The fields of an answer. Raises FileError if the kernel inside has refused."""
    number = fields.get("errno")
    if isinstance(number, int) and number:
        raise file_error(number, path, operation)
    return fields


def call(
    core: SandboxCore, method: str, path: str, operation: str, fields: Fields, user: int | str | None
) -> Steps[Fields]:
    """One request.  Raises FileError, SandboxError."""
    who = yield from rights(core, user)
    answer = yield from core.call(method, {**fields, **who})
    return _checked(answer, path, operation)


class Stream:
    """A request with a stream of records."""

    def __init__(
        self,
        core: SandboxCore,
        method: str,
        path: str,
        operation: str,
        fields: Fields,
        who: Fields,
    ) -> None:
        """Raises SandboxError."""
        self.path: str = path
        self.operation: str = operation
        self.link: Link = core.connect()
        self.sock, theirs = socket.socketpair()
        try:
            self.sock.setblocking(False)
            self.ident: int = self.link.ask(method, {**fields, **who}, [theirs.fileno()])
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()
        self.decoder: RecordDecoder = RecordDecoder()
        self.found: deque[Record] = deque()

    def close(self) -> None:
        """Close the stream; files inside that are only half written are removed."""
        self.sock.close()
        self.link.close()

    def look(self, deadline_s: float | None) -> Steps[Record | None]:
        """The next record of a stream that has no end; None: nothing came.  Raises FileError, SandboxError."""
        self.link.check_owner()
        while not self.found:
            fd = self.sock.fileno()
            if not (yield from wait([fd], self.link.wants(), deadline_s)):
                return None
            yield from self._take()
        return self.found.popleft()

    def _wait(self, *, is_writing: bool) -> Steps[None]:
        """Wait until the stream is ready. Raises SandboxTimeout if the sandbox does nothing for long."""
        fd = self.sock.fileno()
        ready = yield from wait(
            [] if is_writing else [fd],
            [*([fd] if is_writing else []), *self.link.wants()],
            deadline_of(PATIENCE_S),
        )
        if not ready:
            raise SandboxTimeout(f"{self.operation} {self.path}: nothing came in {PATIENCE_S:g} s", KILL)

    def answer(self) -> Steps[Fields]:
        """The answer at the end of the stream. Raises FileError, SandboxError."""
        fields = yield from self.link.answer(self.ident, deadline_of(PATIENCE_S))
        return _checked(fields, self.path, self.operation)

    def next_record(self) -> Steps[Record | None]:
        """The next record; None after the last. Raises FileError, SandboxError."""
        self.link.check_owner()
        while not self.found:
            if self.decoder.is_done:
                yield from self.answer()
                self.close()
                return None
            yield from self._wait(is_writing=False)
            yield from self._take()
        return self.found.popleft()

    def _take(self) -> Steps[None]:
        """Read what has come. Raises FileError, SandboxError."""
        self.link.channel.flush()
        try:
            data = self.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            yield from self.answer()  # raises the reason
            raise SandboxEnded(f"{self.operation} {self.path}: cut off; the sandbox may have ended", ANOTHER)
        try:
            self.found += self.decoder.feed(data)
        except ProtocolError as error:
            raise SandboxError(f"{self.operation} {self.path}: {error}: {_NONSENSE}", KILL) from None
        if self.found and self.found[-1].kind == wire.DONE:
            self.found.pop()

    def send(self, records: Iterable[bytes]) -> Steps[int]:
        """Send all records; returns how many files the sandbox has made. Raises FileError, SandboxError, and what
        `records` raises.
        """
        self.link.check_owner()
        out = bytearray()
        rows = iter(records)
        is_over = False
        while out or not is_over:
            while not is_over and len(out) < _OUT_BYTES:
                record = next(rows, None)
                if record is None:
                    is_over = True
                    out += wire.pack([wire.DONE])
                else:
                    out += record
            yield from self._wait(is_writing=True)
            self.link.channel.flush()
            try:
                with memoryview(out) as view:
                    count = self.sock.send(view)
            except BlockingIOError:
                continue
            except OSError:
                break  # the answer says why
            del out[:count]
        answer = yield from self.answer()
        number = answer.get("files")
        return number if isinstance(number, int) else 0


# -- reading -------------------------------------------------------------------------------------------------------
class Contents:
    """The contents of one file inside, as they come."""

    def __init__(self, core: SandboxCore, path: PathLike, user: int | str | None) -> None:
        """Raises InvalidArgument."""
        self.path: str = inside(core, path)
        fields: Fields = {"paths": [os.fsencode(self.path)], "depth": 0, "data": True, "follow": True}
        self.core: SandboxCore = core
        self.user: int | str | None = user
        self.fields: Fields = fields
        self.stream: Stream | None = None  # not opened yet
        self.at: int = 0
        self.hole: int = 0  # zeros to give before `kept`
        self.kept: bytes = b""

    def next_piece(self) -> Steps[bytes]:
        """The next piece; empty at the end. Raises FileError, SandboxError."""
        stream = self.stream
        if stream is None:
            who = yield from rights(self.core, self.user)
            self.stream = stream = Stream(self.core, wire.GET, self.path, "read", self.fields, who)
        while True:
            if self.hole:
                count = min(self.hole, _READ_BYTES)
                self.hole -= count
                return bytes(count)
            if self.kept:
                data, self.kept = self.kept, b""
                return data
            record = yield from stream.next_record()
            if record is None:
                return b""
            if record.kind == wire.ERROR:
                raise file_error(record.offset, self.path, "read")
            if record.entry is not None:
                kind = stat.S_IFMT(record.entry.mode)
                if kind != stat.S_IFREG:
                    raise file_error(
                        errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL, self.path, "read"
                    )
            elif record.kind in (wire.DATA, wire.END):
                if record.offset < self.at:
                    raise SandboxError(f"read {self.path}: {_NONSENSE}", KILL)
                self.hole = record.offset - self.at
                self.kept = record.data
                self.at = record.offset + len(record.data)

    def close(self) -> None:
        """Stop reading."""
        if self.stream is not None:
            self.stream.close()


def read(core: SandboxCore, path: PathLike, user: int | str | None, max_bytes: int) -> Steps[bytes]:
    """A whole file.  Raises FileError, SandboxError."""
    contents = Contents(core, path, user)
    parts: list[bytes] = []
    size = 0
    try:
        while True:
            data = yield from contents.next_piece()
            if not data:
                return b"".join(parts)
            size += len(data)
            if size > max_bytes:
                raise SandboxError(
                    f"read {contents.path}: more than {max_bytes} bytes",
                    "use stream() or download(), or a larger max_bytes",
                )
            parts.append(data)
    finally:
        contents.close()


def as_text(data: bytes, path: PathLike) -> str:
    """Decode UTF-8. Raises InvalidArgument for other bytes, rather than replace them silently."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"read {os.fsdecode(path)}: not UTF-8 text ({error.reason})", 'use format="bytes"'
        ) from None


# -- writing -------------------------------------------------------------------------------------------------------
def _pieces(data: Data) -> Iterator[bytes]:
    """Yield the data to be written in pieces; a file object is read piece by piece. Raises InvalidArgument."""
    if isinstance(data, str):
        data = data_of("data", data)
    if isinstance(data, (bytes, bytearray, memoryview)):
        view = memoryview(data).cast("B")
        for at in range(0, len(view), wire.CHUNK_BYTES):
            yield bytes(view[at : at + wire.CHUNK_BYTES])
        return
    if not hasattr(data, "read"):
        raise InvalidArgument(f"data: {type(data).__name__}: text, bytes or a binary file object")
    while True:
        piece: object = data.read(wire.CHUNK_BYTES)
        if not isinstance(piece, bytes):
            raise InvalidArgument("data: a file object is to be opened in binary mode")
        if not piece:
            return
        yield piece


def _file_records(name: bytes, data: Data, mode: int | None) -> Iterator[bytes]:
    entry = FileEntry(name, stat.S_IFREG | (mode or 0))
    entry.uid = entry.gid = wire.KEEP
    entry.mtime_ns = wire.KEEP_NS if mode is None else time.time_ns()
    yield wire.pack(entry.to_list())
    at = 0
    for piece in _pieces(data):
        yield wire.pack_data(at, piece)
        at += len(piece)
    yield wire.pack_end(at)


def put(
    core: SandboxCore, base: bytes, path: str, records: Iterable[bytes], user: int | str | None
) -> Steps[int]:
    """Make the files that the records describe below a directory inside, which is made if it is missing; returns how
    many.

    Raises FileError, SandboxError, and what `records` raises.
    """
    fields: Fields = {"path": base, "parents": True, "follow": True}
    stream = Stream(core, wire.PUT, path, "write", fields, (yield from rights(core, user)))
    try:
        return (yield from stream.send(records))
    finally:
        stream.close()


def write(
    core: SandboxCore, path: PathLike, data: Data, *, mode: int | None, user: int | str | None
) -> Steps[FileInfo]:
    """Write one file; returns its new description. Raises FileError, SandboxError."""
    where = inside(core, path)
    base, name = _split(where)
    yield from put(core, base, where, _file_records(name, data, _mode(mode)), user)
    return (yield from get_info(core, where, user, follow=True))


def write_files(
    core: SandboxCore, files: Mapping[str, Data], *, mode: int | None, user: int | str | None
) -> Steps[int]:
    """Write many files in one stream; returns how many. Raises FileError, SandboxError."""
    named = [
        (posixpath.normpath(inside(core, path)).lstrip("/"), data)
        for path, data in pairs_of("files", files).items()
    ]
    for path, _data in named:
        if not path:
            raise InvalidArgument("path: '/' names a directory; write the name of a file")

    def records() -> Iterator[bytes]:
        for path, data in named:
            yield from _file_records(os.fsencode(path), data, _mode(mode))

    return (yield from put(core, b"/", f"{len(named)} files", records(), user))


def _mode(mode: int | None) -> int | None:
    if mode is not None and not is_whole(mode, 0, 0o7777):
        raise InvalidArgument(f"mode: {mode!r}: permission bits, as 0o644")
    return mode


# -- looking -------------------------------------------------------------------------------------------------------
def get_info(core: SandboxCore, path: PathLike, user: int | str | None, *, follow: bool) -> Steps[FileInfo]:
    """Describe the file at a path. Raises FileError, SandboxError."""
    where = inside(core, path)
    fields: Fields = {"path": os.fsencode(where), "follow": follow}
    answer = yield from call(core, wire.STAT, where, "get_info", fields, user)
    found = answer.get("entry")
    try:
        if isinstance(found, list):
            return info_of(where, entry_from(found))
    except ProtocolError:
        pass
    raise SandboxError(f"get_info {where}: {_NONSENSE}", KILL)


def exists(core: SandboxCore, path: PathLike, user: int | str | None) -> Steps[bool]:
    """Whether there is something at a path, a link that leads nowhere included.  Raises FileError, SandboxError."""
    try:
        yield from get_info(core, path, user, follow=False)
    except FileError as refusal:
        if refusal.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return False
    return True


def listing(
    core: SandboxCore, path: PathLike, depth: int, user: int | str | None, max_entries: int
) -> Steps[list[FileInfo]]:
    """The entries of a directory, down to a depth.  Links are not followed.  Raises FileError, SandboxError."""
    if not is_whole(depth, 1, wire.MAX_DEPTH):
        raise InvalidArgument(f"depth: {depth}: from 1, the directory's own entries, to {wire.MAX_DEPTH}")
    top = inside(core, path)
    fields: Fields = {"paths": [os.fsencode(top)], "depth": depth, "data": False, "follow": True}
    stream = Stream(core, wire.GET, top, "list", fields, (yield from rights(core, user)))
    found: list[FileInfo] = []
    try:
        while True:
            record = yield from stream.next_record()
            if record is None:
                break
            entry = record.entry
            if record.kind == wire.ERROR and record.data in (b"", os.fsencode(top)):
                raise file_error(record.offset, top, "list")
            if entry is None:
                continue  # what cannot be read below is left out
            if not entry.path:
                if not stat.S_ISDIR(entry.mode):
                    raise file_error(errno.ENOTDIR, top, "list")
                continue
            if not wire.is_clean(entry.path):
                raise SandboxError(f"list {top}: {_NONSENSE}", KILL)
            if len(found) >= max_entries:
                raise SandboxError(
                    f"list {top}: more than {max_entries} entries", "give a larger max_entries"
                )
            found.append(info_of(top.rstrip("/") + "/" + os.fsdecode(entry.path), entry))
    finally:
        stream.close()
    found.sort(key=lambda each: each.path.split("/"))
    return found


def changes(core: SandboxCore, paths: Sequence[PathLike], max_entries: int) -> Steps[list[Change]]:
    """The sandbox's changes at or below `paths`, or anywhere.  Raises SandboxError."""
    wanted = [os.fsencode(inside(core, path)) for path in items_of("paths", paths)]
    fields: Fields = {"paths": wanted, "data": False, "all_rights": True}
    stream = Stream(core, wire.CHANGES, "the sandbox", "diff", fields, {})
    found: list[Change] = []
    kind = ""
    try:
        while True:
            record = yield from stream.next_record()
            if record is None:
                break
            if record.kind == wire.CHANGE:
                kind = _CHANGES.get(record.change, "")
            elif record.entry is not None and kind:
                if len(found) >= max_entries:
                    raise SandboxError(
                        f"diff: more than {max_entries} changes", "give paths, or a larger max_entries"
                    )
                path = "/" + os.fsdecode(record.entry.path).lstrip("/")
                found.append(Change(kind, info_of(path, record.entry)))
                kind = ""
    finally:
        stream.close()
    found.sort(key=lambda each: each.path.split("/"))
    return found


# -- names ---------------------------------------------------------------------------------------------------------
def make_dir(core: SandboxCore, path: PathLike, user: int | str | None) -> Steps[bool]:
    """Make a directory and the missing ones above it; returns whether it was made. Raises FileError, SandboxError."""
    where = inside(core, path)
    if (yield from exists(core, where, user)):
        found = yield from get_info(core, where, user, follow=True)
        if not found.is_dir:
            raise file_error(errno.EEXIST, where, "make_dir")
        return False
    fields: Fields = {"path": os.fsencode(where.rstrip("/")), "parents": True}
    yield from call(core, wire.MKDIR, where, "make_dir", fields, user)
    return True


def remove(core: SandboxCore, path: PathLike, user: int | str | None) -> Steps[None]:
    """Remove a file, or a directory with all that is in it. Raises FileError, SandboxError."""
    where = inside(core, path)
    fields: Fields = {"path": os.fsencode(where), "recursive": True}
    yield from call(core, wire.REMOVE, where, "remove", fields, user)


def rename(core: SandboxCore, old: PathLike, new: PathLike, user: int | str | None) -> Steps[None]:
    """rename(2).  Raises FileError, SandboxError."""
    where, there = inside(core, old), inside(core, new)
    fields: Fields = {"old": os.fsencode(where), "new": os.fsencode(there)}
    yield from call(core, wire.RENAME, where, f"rename to {there}:", fields, user)


# -- trees ---------------------------------------------------------------------------------------------------------
def upload(core: SandboxCore, source: PathLike, target: PathLike, user: int | str | None) -> Steps[list[str]]:
    """Copy a file or a tree of the host into the sandbox, as `target`; returns what was left out.

    Raises OSError, FileError, SandboxError.
    """
    here, there = os.fsencode(source), inside(core, target)
    left_out: list[str] = []

    def complain(path: bytes, why: str) -> None:
        left_out.append(f"{os.fsdecode(path)}: {why}")

    reader = HostReader(complain, is_archive=False)
    if os.path.isdir(here):
        base, name = os.fsencode(there), b""
    else:
        base, name = _split(there)
    yield from put(core, base, there, reader.tree(here, name, follow=True), user)
    return left_out


def download(
    core: SandboxCore, source: PathLike, target: PathLike, user: int | str | None
) -> Steps[list[str]]:
    """Copy a file or a tree of the sandbox to the host, as `target`; returns what was left out.

    Raises OSError, FileError, SandboxError.
    """
    where, here = inside(core, source), os.path.abspath(os.fsencode(target))
    found = yield from get_info(core, where, user, follow=True)
    left_out: list[str] = []

    def complain(path: bytes, why: str) -> None:
        left_out.append(f"{os.fsdecode(path) or where}: {why}")

    if found.is_dir:
        os.makedirs(here, exist_ok=True)
        base, name = here, b""
    else:
        base, name = os.path.split(here)
    fields: Fields = {
        "paths": [os.fsencode(where)],
        "depth": wire.MAX_DEPTH if found.is_dir else 0,
        "data": True,
        "follow": True,
    }
    tree = HostTree(base)
    try:
        writer = HostWriter(tree, name, Policy(), complain)
        stream = Stream(core, wire.GET, where, "download", fields, (yield from rights(core, user)))
        try:
            while True:
                record = yield from stream.next_record()
                if record is None:
                    break
                if record.kind == wire.ERROR and record.data in (b"", os.fsencode(where)):
                    raise file_error(record.offset, where, "download")
                writer.take(record)
        finally:
            stream.close()
            writer.finish()
    finally:
        tree.close()
    return left_out


# -- watching ------------------------------------------------------------------------------------------------------
class Watch(Source[FileEvent]):
    """The events in a directory."""

    def __init__(self, core: SandboxCore, path: PathLike) -> None:
        """Raises InvalidArgument."""
        self.core: SandboxCore = core
        self.path: str = inside(core, path)
        self.stream: Stream | None = None

    def begin(self, user: int | str | None, *, is_recursive: bool) -> Steps[None]:
        """Start watching; no change after this is missed. Raises FileError, SandboxError."""
        who = yield from rights(self.core, user)
        fields: Fields = {"path": os.fsencode(self.path), "deep": is_recursive}
        stream = Stream(self.core, wire.WATCH, self.path, "watch", fields, who)
        try:
            while True:
                record = yield from stream.next_record()
                if record is not None and record.kind == wire.EVENT and not record.offset:
                    break
        except BaseException:
            stream.close()
            raise
        self.stream = stream

    def next_event(self, deadline_s: float | None) -> Steps[FileEvent | None]:
        while self.stream is not None:
            record = yield from self.stream.look(deadline_s)
            if record is None:
                return None
            event = self._event(record)
            if event is not None:
                return event
        return None

    def waiting(self) -> Steps[list[FileEvent]]:
        """All events that have come. Raises SandboxError."""
        found: list[FileEvent] = []
        while len(found) < MAX_ENTRIES:
            event = yield from self.next_event(time.monotonic())
            if event is None:
                break
            found.append(event)
        return found

    def _event(self, record: Record) -> FileEvent | None:
        if record.kind == wire.ERROR:
            return FileEvent("overflow", posixpath.join(self.path, os.fsdecode(record.data)), is_dir=True)
        if record.kind != wire.EVENT:
            raise SandboxError(f"watch {self.path}: {_NONSENSE}", KILL)
        for bit, kind in _EVENTS:
            if record.offset & bit:
                path = posixpath.join(self.path, os.fsdecode(record.data)) if record.data else self.path
                return FileEvent(kind, path, is_dir=record.offset & IN_ISDIR != 0 or not record.data)
        return None

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None
