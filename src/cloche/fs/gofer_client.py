"""The sentry's side of the gofer protocol: one method per operation.

Owns the connection to one worker of the gofer.  A method waits for its answer for `PATIENCE_S` at most where the call
that asks can wait otherwise (`kernel.host_wait`), and raises HostWait then; elsewhere until it comes.  A failed
operation raises LinuxError with the gofer's errno; a broken connection or a reply that does not parse raises
LinuxError(EIO), for this and every later call, because the stream is out of step.  Methods that programs make fail
often (`stat`) return the errno as a value instead.

A change of a directory that is not answered yet keeps others from asking about that directory: they wait for their turn
and begin anew, so that what is known here of a directory and what the host has never part.  If the caller dies
meanwhile, nobody knows what has become of the names, and the observer is told.

Sending never waits: what the socket does not take stays here until it does.
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Final

from mypy_extensions import trait

from cloche.abi.errno import EIO, ENFILE, LinuxError
from cloche.abi.poll import EPOLLIN, EPOLLOUT
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.host_wait import HostRequest, HostServer, HostWait, HostWaits
from cloche.kernel.task import Kernel
from cloche.wire.frame import FLAG_MORE, MAX_IDENT, Frame, FrameChannel, ProtocolError
from cloche.wire.gofer import (
    KEEP_ID,
    MAX_REPLY_BYTES,
    OP_ATTACH,
    OP_CLUNK,
    OP_CONNECT,
    OP_CREATE,
    OP_FORGET,
    OP_FSYNC,
    OP_GETXATTR,
    OP_LINK,
    OP_LIST,
    OP_LISTXATTR,
    OP_MKDIR,
    OP_MKNOD,
    OP_OPEN,
    OP_OPEN_MANY,
    OP_OPENDIR,
    OP_READ,
    OP_REMOVEXATTR,
    OP_RENAME,
    OP_RMDIR,
    OP_SETATTR,
    OP_SETXATTR,
    OP_STAT,
    OP_STATFS,
    OP_SYMLINK,
    OP_SYNCFS,
    OP_TEXT,
    OP_TMPFILE,
    OP_UNLINK,
    OP_WALK,
    STATFS,
    Attr,
    Entry,
    Reader,
    entry_at,
    index_entries,
    pack_string,
    pack_target,
    pack_u32,
    pack_u64,
    unpack_attr,
)

PATIENCE_S: Final = 0.001
_PATIENCE_NS: Final = 1_000_000
_PATIENCE_MS: Final = 4
_PATIENCE_ALONE_MS: Final = 2000
_CLOSE_AT_ONCE: Final = 16
# Operations that change names in directories.
_TREE: Final = frozenset(
    [OP_CREATE, OP_TMPFILE, OP_MKDIR, OP_SYMLINK, OP_LINK, OP_UNLINK, OP_RMDIR, OP_RENAME, OP_MKNOD]
)


@trait
class ChangeObserver:
    """Who keeps what is known of directories."""

    def change_lost(self) -> None:
        """A change was made, and who asked for it has not applied it to what is known."""
        raise NotImplementedError


class GoferRequest(HostRequest):
    """One question, and its answer."""

    def __init__(self, client: "GoferClient", op: int, body: bytes, fids: tuple[int, int]) -> None:
        super().__init__()
        self.client: GoferClient = client
        self.op: int = op
        self.body: bytes = body
        self.fids: tuple[int, int] = fids  # directories that it is about
        self.is_change = op in _TREE
        self.ident: int = 0
        self.is_late: bool = False  # it has been waited for long enough
        self.is_spent: bool = False  # its descriptors were given away
        self.was_taken: bool = False
        self.is_forgotten: bool = False
        self.parts: list[bytes] = []
        self.code: int = 0
        self.fds: list[int] = []

    def forget(self) -> None:
        self.client.forget_request(self)


class Listing:
    """A directory: its fid, attributes and, if the gofer may read it, all entries (packed: few are used)."""

    def __init__(
        self, fid: int, attr: Attr, blob: bytes, index: dict[bytes, int], *, is_listed: bool
    ) -> None:
        self.fid: int = fid
        self.attr: Attr = attr
        self.blob: bytes = blob
        self.index: dict[bytes, int] = index  # name -> offset in blob, for entry_at
        self.is_listed: bool = is_listed  # False: searchable but not readable; look names up with `stat`

    def entries(self) -> list[Entry]:
        """All entries, unpacked."""
        return [entry_at(self.blob, offset) for offset in self.index.values()]


class Attached:
    """The root of an attach point."""

    def __init__(self, fid: int, attr: Attr, *, is_writable: bool) -> None:
        self.fid: int = fid
        self.attr: Attr = attr
        self.is_writable: bool = is_writable


class GoferClient(HostServer, FdWatcher):
    """A connection to a worker of the gofer."""

    def __init__(self, sock: socket.socket, kernel: Kernel | None = None) -> None:
        """Without a kernel every call waits for its answer."""
        sock.settimeout(PATIENCE_S)
        self._sock: socket.socket = sock
        self._channel: FrameChannel = FrameChannel(sock, MAX_REPLY_BYTES, may_receive_fds=True)
        self._kernel: Kernel | None = kernel
        self._waits: HostWaits = kernel.host_waits if kernel is not None else HostWaits()
        self._is_broken: bool = False
        self._last_ident: int = 0
        self._pending: dict[int, GoferRequest] = {}  # not answered, by their numbers
        self._late: int = 0  # of these, for which tasks wait
        self._busy: dict[int, GoferRequest] = {}  # by the fid of a directory: the late change in it
        self._out: bytes = b""  # what the socket has not taken yet
        self._token: int = 0  # of the watch, 0: none
        self._events: int = 0  # that are watched for
        self.probe_fid: int = 0  # a directory to ask about whether the storage answers; 0: it always does
        self._probe: GoferRequest | None = None
        self._closing: list[int] = []  # descriptors to close when it does
        self._workers: list[GoferClient] = []
        self.observers: list[ChangeObserver] = []
        self.fd_limit: int = 1 << 30  # of descriptors that guests may make this process hold
        self.calls: int = 0  # for metrics and tests
        self.lost_changes: int = 0
        self.is_alone: Callable[[], bool] | None = None  # whether nobody else waits while we do

    def fileno(self) -> int:
        """The socket's descriptor (readable while idle only when the gofer is gone)."""
        return self._channel.fileno()

    def close(self) -> None:
        """Close the connection, which ends the gofer."""
        for worker in self._workers:
            worker.close()
        self._fail()
        self._channel.close()

    def worker(self, index: int, *, always_waits: bool = False) -> "GoferClient":
        """A client of the worker that serves attach point number `index`: this one, if it has none of its own.

        `always_waits`: each answer is waited for on the spot, whoever asks.
        """
        frame = self._exchange(OP_CONNECT, pack_u32(index), 0, 0)
        if frame.code < 0 or len(frame.fds) > 1:
            for fd in frame.fds:
                os.close(fd)
            raise LinuxError(-frame.code) if frame.code < 0 else self._broken()
        if not frame.fds:
            return self
        client = GoferClient(socket.socket(fileno=frame.fds[0]), None if always_waits else self._kernel)
        client.is_alone = self.is_alone
        client.fd_limit = self.fd_limit
        self._workers.append(client)
        return client

    def may_wait(self) -> bool:
        """Whether the running call can wait for an answer (and be run again)."""
        return self._waits.may_wait

    def close_fd(self, fd: int) -> None:
        """Close a donated descriptor.

        On storage that a process or another machine serves that may take long (FUSE's FLUSH): it is put off until an
        answer has come, to whatever, from there.
        """
        if self.probe_fid == 0 or self._kernel is None or self._is_broken:
            os.close(fd)
            return
        self._closing.append(fd)
        self._ask_for_life()

    def _ask_for_life(self) -> None:
        if self._probe is not None:
            return
        probe = GoferRequest(self, OP_STATFS, pack_u64(self.probe_fid), (0, 0))
        probe.is_late = True
        self._late += 1
        self._probe = probe
        try:
            self._submit(probe)
        except LinuxError:
            pass  # then it is answered
        self._watch()

    def _close_some(self) -> None:
        """The storage answers."""
        self._probe = None
        fds = self._closing if self._is_broken else self._closing[:_CLOSE_AT_ONCE]
        del self._closing[: len(fds)]
        for fd in fds:
            os.close(fd)
        if self._closing:
            self._ask_for_life()

    def commit(self) -> None:
        """What the running call does from here on cannot be done again."""
        self._waits.commit()

    # -- transport -------------------------------------------------------------------------------------
    def _exchange(self, op: int, body: bytes, fid: int, other: int) -> Frame:
        """Ask; the reply, in one frame whatever its length.  `fid`, `other`: the directories that it is about.

        Raises LinuxError(EIO), HostWait.
        """
        waits = self._waits
        if waits.is_again:
            known = self._in_journal(op, body)
            if known is not None:
                return self._take(known)
        if self._is_broken:
            raise LinuxError(EIO)
        if self._busy:
            self._take_turn(fid, other)
        self.calls += 1
        request = GoferRequest(self, op, body, (fid, other))
        self._submit(request)
        if not waits.may_wait:
            self._await(request, is_patient=True)
            request.was_taken = request.is_taken = request.is_settled = True
            return Frame(request.code, 0, b"".join(request.parts), request.fds)
        waits.journal.append(request)
        if not self._await(request, is_patient=False):
            self._is_late(request)
            raise HostWait(request)
        request.was_taken = request.is_taken = request.is_settled = True
        fds = request.fds
        if fds:
            request.is_spent = True
            request.fds = []
        return Frame(request.code, 0, b"".join(request.parts), fds)

    def _in_journal(self, op: int, body: bytes) -> GoferRequest | None:
        """The same question, if an earlier run of the call has asked it."""
        for each in self._waits.journal:
            if (
                isinstance(each, GoferRequest)
                and not each.is_taken
                and not each.is_spent
                and each.client is self
                and each.op == op
                and each.body == body
            ):
                if not each.is_answered:
                    raise HostWait(each)
                return each
        return None

    def _take(self, request: GoferRequest) -> Frame:
        """The answer out of the journal, where it stays: its descriptors are given as duplicates."""
        self._settle(request)
        request.is_taken = request.was_taken = True
        fds: list[int] = []
        try:
            for fd in request.fds:
                fds.append(os.dup(fd))
        except OSError:
            for fd in fds:
                self.close_fd(fd)
            raise LinuxError(ENFILE)
        return Frame(request.code, 0, b"".join(request.parts), fds)

    def _settle(self, request: GoferRequest) -> None:
        """Whoever waits for a directory that it has changed may have it."""
        request.is_settled = True
        for fid in request.fids:
            if self._busy.get(fid) is request:
                del self._busy[fid]
        request.queue.wake()

    def _take_turn(self, fid: int, other: int) -> None:
        """Wait while a change of one of these directories is under way.  Raises HostWait, LinuxError."""
        for mine in self._waits.journal:
            if mine.is_change and not mine.is_settled:
                return  # who might wait for us does not wait for those
        for each in (fid, other):
            change = self._busy.get(each)
            if change is None:
                continue
            if self._waits.may_wait:
                raise HostWait(change, is_turn=True)
            self._await(change, is_patient=True)

    def _submit(self, request: GoferRequest) -> None:
        """Raises LinuxError(EIO)."""
        ident = self._last_ident % MAX_IDENT + 1
        while ident in self._pending:
            ident = ident % MAX_IDENT + 1
        self._last_ident = request.ident = ident
        self._pending[ident] = request
        self._send(request.op, request.ident, request.body)

    def _send(self, op: int, ident: int, body: bytes) -> None:
        """Raises LinuxError(EIO)."""
        if self._is_broken:
            raise LinuxError(EIO)
        self._channel.ident = ident
        self._out += self._channel.pack(op, 0, body)
        self._flush()
        if self._is_broken:
            raise LinuxError(EIO)
        if self._out:
            self._watch()

    def _flush(self) -> None:
        """Send what the socket takes."""
        try:
            while self._out:
                count = os.write(self._sock.fileno(), self._out)  # the socket's own method would poll first
                self._out = self._out[count:]
        except BlockingIOError:
            pass
        except OSError:
            self._fail()

    def _await(self, request: GoferRequest, *, is_patient: bool) -> bool:
        """Take replies until this one is there; False if it does not come soon.  Raises LinuxError(EIO)."""
        end_ns = 0 if is_patient else time.monotonic_ns() + _PATIENCE_NS
        while request.ident in self._pending:
            if not self._receive() and self._out:
                self._flush()
            if is_patient or request.ident not in self._pending or self._channel.has_frame():
                continue
            if time.monotonic_ns() >= end_ns:
                return False
        while self._late and self._channel.has_frame():
            self._receive()  # what has been read with it: the socket will not tell of that
        if self._is_broken:
            raise LinuxError(EIO)
        return True

    def _receive(self) -> bool:
        """Take a frame; False if none comes in time."""
        try:
            frame = self._channel.receive()
        except TimeoutError:
            return False
        except (OSError, ProtocolError):
            frame = None
        if frame is None or frame.code > 0:
            self._fail()
            return True
        self._dispatch(frame)
        return True

    def _dispatch(self, frame: Frame) -> None:
        """A frame has come."""
        request = self._pending.get(frame.ident)
        if request is None:
            for fd in frame.fds:
                self.close_fd(fd)
            self._fail()
            return
        request.parts.append(frame.body)
        if frame.flags & FLAG_MORE and frame.code == 0:
            return
        request.code = frame.code
        request.fds = frame.fds
        self._answered(request)

    def _answered(self, request: GoferRequest) -> None:
        del self._pending[request.ident]
        request.is_answered = True
        if request is self._probe:
            self._late -= 1
            self._close_some()
            self._watch()
        elif request.is_late:
            self._late -= 1
            if request.is_forgotten:
                self._discard(request)
            request.queue.wake()
            self._watch()

    def _fail(self) -> None:
        """The connection is of no use any more: every question is answered, with EIO."""
        self._is_broken = True
        self._out = b""
        for request in list(self._pending.values()):
            request.code = -EIO
            request.parts = []
            self._answered(request)
        self._watch()

    def _is_late(self, request: GoferRequest) -> None:
        """A task is going to wait for it."""
        request.is_late = True
        self._late += 1
        if request.is_change:
            for fid in request.fids:
                if fid:
                    self._busy[fid] = request
        self._watch()

    def _watch(self) -> None:
        """Have the event loop tell when there is something to do, while there is."""
        kernel = self._kernel
        if kernel is None:
            return
        events = (EPOLLIN if self._late else 0) | (EPOLLOUT if self._out else 0)
        if events == self._events:
            return
        if events == 0:
            kernel.fds.unwatch(self._sock.fileno(), self._token)
            self._token = 0
        elif self._token == 0:
            self._token = kernel.fds.watch(self._sock.fileno(), events, self)
        else:
            kernel.fds.rewatch(self._sock.fileno(), self._token, events)
        self._events = events

    def fd_ready(self, token: int, events: int) -> None:
        """The socket has replies, or takes requests again."""
        if events & EPOLLOUT:
            self._flush()
            self._watch()
        if events & ~EPOLLOUT and self._receive():
            while not self._is_broken and self._channel.has_frame():
                self._receive()

    def forget_request(self, request: GoferRequest) -> None:
        """Nobody is interested in the answer any more."""
        if not request.is_forgotten:
            request.is_forgotten = True
            if request.is_answered:
                self._discard(request)

    def _discard(self, request: GoferRequest) -> None:
        """Give back what came with an answer that nobody has taken, and note what it has changed."""
        for fd in request.fds:
            self.close_fd(fd)
        request.fds = []
        if request.was_taken:
            return
        if request.code == 0 and not self._is_broken:
            fid = _fid_in_reply(request.op, b"".join(request.parts))
            if fid:
                try:
                    self.forget([fid])
                except LinuxError:
                    pass
            if request.is_change:
                self.lost_changes += 1
                for observer in self.observers:
                    observer.change_lost()
        self._settle(request)

    def _call(self, op: int, body: bytes, fid: int = 0, other: int = 0) -> bytes:
        """A request whose reply comes without a descriptor."""
        frame = self._exchange(op, body, fid, other)
        for fd in frame.fds:
            self.close_fd(fd)
        if frame.code < 0:
            raise LinuxError(-frame.code)
        return frame.body

    def _call_for_fd(self, op: int, body: bytes, fid: int) -> tuple[int, Attr, int]:
        frame = self._exchange(op, body, fid, 0)
        fds = frame.fds
        if frame.code < 0 or len(fds) != 1 or fds[0] >= self.fd_limit:
            for fd in fds:
                self.close_fd(fd)
            # The kernel drops descriptors that exceed RLIMIT_NOFILE.
            raise LinuxError(-frame.code if frame.code < 0 else ENFILE)
        try:
            reader = Reader(frame.body)
            attr = reader.attr()
            return fds[0], attr, reader.u64()
        except ProtocolError:
            self.close_fd(fds[0])
            raise self._broken()

    def _broken(self) -> LinuxError:
        self._fail()
        return LinuxError(EIO)

    def _attr(self, body: bytes) -> Attr:
        try:
            return unpack_attr(body)
        except ProtocolError:
            raise self._broken()

    # -- walking ---------------------------------------------------------------------------------------
    def attach(self, index: int) -> Attached:
        """The root of attach point number `index`."""
        reader = Reader(self._call(OP_ATTACH, pack_u32(index)))
        try:
            fid = reader.u64()
            is_writable = reader.u8() != 0
            return Attached(fid, reader.attr(), is_writable=is_writable)
        except ProtocolError:
            raise self._broken()

    def walk(self, fid: int, name: bytes) -> tuple[int, Attr]:
        """The fid and attributes of a child directory, without its entries."""
        reader = Reader(self._call(OP_WALK, pack_target(fid, name), fid))
        try:
            return reader.u64(), reader.attr()
        except ProtocolError:
            raise self._broken()

    def opendir(self, fid: int, name: bytes) -> Listing:
        """A child directory with all its entries, in one round trip."""
        return self._listing(OP_OPENDIR, pack_target(fid, name), fid)

    def relist(self, fid: int) -> Listing:
        """The entries of a directory as they are now."""
        return self._listing(OP_LIST, pack_u64(fid), fid)

    def _listing(self, op: int, body: bytes, fid: int) -> Listing:
        frame = self._exchange(op, body, fid, 0)
        if frame.code < 0:  # perhaps the directory could not be read to its end
            raise LinuxError(-frame.code)
        try:
            reader = Reader(frame.body)
            own_fid = reader.u64()
            is_listed = reader.u8() != 0
            attr = reader.attr()
            blob = reader.rest()
            return Listing(own_fid, attr, blob, index_entries(blob), is_listed=is_listed)
        except ProtocolError:
            raise self._broken()

    def stat(self, fid: int, name: bytes) -> Entry | int:
        """Attributes (and symlink target) of a name as they are now; a negative errno if there is none."""
        frame = self._exchange(OP_STAT, pack_target(fid, name), fid, 0)
        if frame.code < 0:
            return frame.code
        reader = Reader(frame.body)
        try:
            attr = reader.attr()
            return Entry(name, attr, reader.string())
        except ProtocolError:
            raise self._broken()

    def clunk(self, fids: list[int]) -> None:
        """Forget fids; unknown ones are ignored."""
        for start in range(0, len(fids), 1024):
            self._call(OP_CLUNK, pack_u64(*fids[start : start + 1024]))

    def forget(self, fids: list[int]) -> None:
        """The same without waiting: it is done before whatever is asked for next."""
        for start in range(0, len(fids), 1024):
            self._send(OP_FORGET, 0, pack_u64(*fids[start : start + 1024]))

    # -- files -----------------------------------------------------------------------------------------
    def open(self, fid: int, name: bytes, flags: int, dev: int = 0, ino: int = 0) -> tuple[int, Attr]:
        """A descriptor of a regular file, owned by the caller, and its attributes.

        `flags`: the access mode, O_APPEND and O_TRUNC.  With `ino` not 0 it must still be that inode
        (ESTALE).
        """
        fd, attr, _pin = self._open(fid, name, flags, dev, ino, 0)
        return fd, attr

    def open_pinned(self, fid: int, name: bytes, flags: int, dev: int, ino: int) -> tuple[int, Attr, int]:
        """The same, and a fid for the file itself, 0 if there is none (the attach point is read-only, or too many)."""
        return self._open(fid, name, flags, dev, ino, 1)

    def _open(self, fid: int, name: bytes, flags: int, dev: int, ino: int, pin: int) -> tuple[int, Attr, int]:
        body = pack_target(fid, name) + pack_u32(flags) + pack_u64(dev, ino) + pack_u32(pin)
        return self._call_for_fd(OP_OPEN, body, fid)

    def open_many(
        self, fid: int, names: list[tuple[bytes, int, int]]
    ) -> tuple[int, Attr, list[tuple[int, int, Attr]]]:
        """Several regular files of a directory, to read: (name, device, inode number) each, at most 1 + MAX_AHEAD.

        A descriptor and the attributes of the first, as `open` gives them; of those others that could be opened
        (index, descriptor, attributes).  All descriptors are the caller's.
        """
        name, dev, ino = names[0]
        parts = [pack_target(fid, name), pack_u64(dev, ino), pack_u32(len(names) - 1)]
        for name, dev, ino in names[1:]:
            parts += [pack_string(name), pack_u64(dev, ino)]
        frame = self._exchange(OP_OPEN_MANY, b"".join(parts), fid, 0)
        fds = frame.fds
        others: list[tuple[int, int, Attr]] = []
        error = -frame.code
        if not error:
            try:
                reader = Reader(frame.body)
                attr = reader.attr()
                count = reader.u32()
                if count >= len(names):
                    raise ProtocolError("more than was asked for")
                if len(fds) != count + 1 or max(fds) >= self.fd_limit:
                    error = ENFILE  # the kernel drops descriptors that exceed RLIMIT_NOFILE
                for number in range(count if not error else 0):
                    index = reader.u32()
                    if not 0 < index < len(names):
                        raise ProtocolError("a file that was not asked for")
                    others.append((index, fds[number + 1], reader.attr()))
                if not error:
                    reader.end()
                    return fds[0], attr, others
            except ProtocolError:
                self._fail()
                error = EIO
        for fd in fds:
            self.close_fd(fd)
        raise LinuxError(error)

    def text(self, fid: int, name: bytes, dev: int, ino: int) -> tuple[int, bool, Attr]:
        """The patched text (wire/textfile.py) of a regular file: a descriptor, -1 if it needs none; and its attributes.

        And whether it may be used again for as long as size and times stay the same, or this once only.
        Raises LinuxError; EAGAIN if the answer is not known yet, after at most a few milliseconds when others wait too.
        """
        alone = self.is_alone
        patience_ms = _PATIENCE_ALONE_MS if alone is not None and alone() else _PATIENCE_MS
        frame = self._exchange(
            OP_TEXT, pack_target(fid, name) + pack_u64(dev, ino) + pack_u32(patience_ms), fid, 0
        )
        fds = frame.fds
        if frame.code < 0 or len(fds) > 1 or max(fds, default=-1) >= self.fd_limit:
            for fd in fds:
                self.close_fd(fd)
            raise LinuxError(-frame.code if frame.code < 0 else ENFILE)
        try:
            reader = Reader(frame.body)
            attr = reader.attr()
            return fds[0] if fds else -1, reader.u8() != 0, attr
        except ProtocolError:
            for fd in fds:
                self.close_fd(fd)
            raise self._broken()

    def create(
        self, fid: int, name: bytes, flags: int, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID
    ) -> tuple[int, Attr]:
        """A new regular file (EEXIST if the name is taken), opened."""
        body = pack_target(fid, name) + pack_u32(flags, mode, uid, gid, 0)
        fd, attr, _pin = self._call_for_fd(OP_CREATE, body, fid)
        return fd, attr

    def create_pinned(
        self, fid: int, name: bytes, flags: int, mode: int, uid: int, gid: int
    ) -> tuple[int, Attr, int]:
        """The same, and a fid for the file itself as `open_pinned` gives it."""
        return self._call_for_fd(OP_CREATE, pack_target(fid, name) + pack_u32(flags, mode, uid, gid, 1), fid)

    def tmpfile(self, fid: int, mode: int, uid: int, gid: int) -> tuple[int, Attr, int]:
        """A new regular file without a name, opened, and its fid."""
        return self._call_for_fd(OP_TMPFILE, pack_u64(fid) + pack_u32(mode, uid, gid), fid)

    def fsync(self, fid: int, name: bytes, *, is_data_only: bool = False) -> None:
        """Synchronise a directory or a file to its device."""
        self._call(OP_FSYNC, pack_target(fid, name) + (b"\1" if is_data_only else b"\0"), fid)

    def read(
        self, fid: int, name: bytes, dev: int, ino: int, offset: int, length: int, *, wants_data: bool
    ) -> bytes:
        """What a regular file holds, at most MAX_READ_BYTES; without `wants_data` it is only brought into memory."""
        body = pack_target(fid, name) + pack_u64(dev, ino, offset) + pack_u32(length)
        return self._call(OP_READ, body + (b"\1" if wants_data else b"\0"), fid)

    def syncfs(self, fid: int) -> None:
        """Synchronise the host's file system that holds a directory."""
        self._call(OP_SYNCFS, pack_u64(fid))

    # -- changes of the tree ---------------------------------------------------------------------------
    def mkdir(self, fid: int, name: bytes, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID) -> Attr:
        return self._attr(self._call(OP_MKDIR, pack_target(fid, name) + pack_u32(mode, uid, gid), fid))

    def mknod(self, fid: int, name: bytes, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID) -> Attr:
        """A FIFO or a socket, as `mode` says."""
        return self._attr(self._call(OP_MKNOD, pack_target(fid, name) + pack_u32(mode, uid, gid), fid))

    def symlink(self, fid: int, name: bytes, target: bytes, uid: int = KEEP_ID, gid: int = KEEP_ID) -> Attr:
        body = pack_target(fid, name) + pack_string(target) + pack_u32(uid, gid)
        return self._attr(self._call(OP_SYMLINK, body, fid))

    def link(self, fid: int, name: bytes, new_fid: int, new_name: bytes) -> Attr:
        return self._attr(
            self._call(OP_LINK, pack_target(fid, name) + pack_target(new_fid, new_name), fid, new_fid)
        )

    def unlink(self, fid: int, name: bytes) -> None:
        self._call(OP_UNLINK, pack_target(fid, name), fid)

    def rmdir(self, fid: int, name: bytes) -> None:
        self._call(OP_RMDIR, pack_target(fid, name), fid)

    def rename(
        self,
        fid: int,
        name: bytes,
        new_fid: int,
        new_name: bytes,
        flags: int = 0,
        moved_fid: int = 0,
        exchanged_fid: int = 0,
    ) -> None:
        """renameat2(2).  Fids of directories that move with it stay valid if they are told (0: not a
        directory)."""
        body = pack_target(fid, name) + pack_target(new_fid, new_name) + pack_u32(flags)
        self._call(OP_RENAME, body + pack_u64(moved_fid, exchanged_fid), fid, new_fid)

    # -- attributes ------------------------------------------------------------------------------------
    def setattr(
        self,
        fid: int,
        name: bytes,
        valid: int,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        atime_ns: int = 0,
        mtime_ns: int = 0,
        dev: int = 0,
        ino: int = 0,
    ) -> Attr:
        """Apply the SET_* changes in `valid`; the attributes afterwards.  With `ino` it must be that inode (ESTALE)."""
        body = pack_target(fid, name) + pack_u32(valid, mode, uid, gid) + pack_u64(size, atime_ns, mtime_ns)
        body += pack_u64(dev, ino)
        return self._attr(self._call(OP_SETATTR, body, fid))

    def getxattr(self, fid: int, name: bytes, xattr: bytes) -> bytes:
        return self._call(OP_GETXATTR, pack_target(fid, name) + pack_string(xattr), fid)

    def listxattr(self, fid: int, name: bytes) -> list[bytes]:
        data = self._call(OP_LISTXATTR, pack_target(fid, name), fid)
        return [part for part in data.split(b"\0") if part]

    def setxattr(self, fid: int, name: bytes, xattr: bytes, value: bytes, flags: int) -> None:
        body = pack_target(fid, name) + pack_string(xattr) + pack_u32(len(value)) + value + pack_u32(flags)
        self._call(OP_SETXATTR, body, fid)

    def removexattr(self, fid: int, name: bytes, xattr: bytes) -> None:
        self._call(OP_REMOVEXATTR, pack_target(fid, name) + pack_string(xattr), fid)

    def statfs(self, fid: int) -> tuple[int, int, int, int, int, int, int, int]:
        """magic, block_size, blocks, free, avail, files, files_free, name_max."""
        body = self._call(OP_STATFS, pack_u64(fid))
        if len(body) != STATFS.size:
            raise self._broken()
        magic, block_size, blocks, free, avail, files, files_free, name_max = STATFS.unpack(body)
        return magic, block_size, blocks, free, avail, files, files_free, name_max


def _fid_in_reply(op: int, body: bytes) -> int:
    """The fid that a reply gives, 0 for none."""
    try:
        reader = Reader(body)
        if op in (OP_OPEN, OP_CREATE, OP_TMPFILE):
            reader.attr()
            return reader.u64()
        if op in (OP_WALK, OP_OPENDIR, OP_ATTACH):
            return reader.u64()
    except ProtocolError:
        pass
    return 0
