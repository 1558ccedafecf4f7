"""The sentry's side of a connection to the gofer: requests, answers, and waits (`fs.gofer_client` makes the requests).

Owns the connection to one worker of the gofer. If the running call can be run again (`kernel.host_wait`), a method
waits for its answer for at most `PATIENCE_S` and then raises HostWait; otherwise it waits until the answer comes. A
failed operation raises LinuxError with the gofer's errno; a broken connection or a reply that does not parse raises
LinuxError(EIO), for this and every later call, because the stream is out of step. Methods that programs make fail
often (`stat`) return the errno as a value instead.

If the gofer's death ends the sandbox (`is_part`) guests do not see that error: the keeper ends the sentry, and calls
that ask, or have asked, wait for that.

While a change of a directory is not answered, other calls about that directory wait and then start again, so that the
cached state and the host's never diverge.

If the caller dies meanwhile, the state of the names is not known, and the observer is told. Sending never waits:
bytes that the socket does not take are queued.
"""

import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from mypy_extensions import trait

from cloche.abi.errno import EIO, ENFILE, LinuxError
from cloche.abi.poll import EPOLLIN, EPOLLOUT
from cloche.fs.gofer_watch import KnownAnswer, KnownChild, KnownNames, NameWatch
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.host_wait import HostRequest, HostServer, HostWait, HostWaits
from cloche.kernel.task import Kernel
from cloche.platform import slow
from cloche.vfs.objects import FileDescription
from cloche.wire.frame import FLAG_MORE, MAX_IDENT, Frame, FrameChannel, ProtocolError
from cloche.wire.gofer import (
    MAX_REPLY_BYTES,
    OP_ALLOCATE,
    OP_ATTACH,
    OP_BIND,
    OP_CREATE,
    OP_DIAL,
    OP_FORGET,
    OP_LINK,
    OP_LISTEN,
    OP_LOOKUP,
    OP_MKDIR,
    OP_MKNOD,
    OP_OPEN,
    OP_OPENDIR,
    OP_REMOVEXATTR,
    OP_RENAME,
    OP_RMDIR,
    OP_SETATTR,
    OP_SETXATTR,
    OP_STATFS,
    OP_SYMLINK,
    OP_TMPFILE,
    OP_UNBIND,
    OP_UNLINK,
    OP_WALK,
    OP_WRITE,
    Attr,
    Reader,
    pack_u64,
    unpack_attr,
)

PATIENCE_S: Final = 0.001
_PATIENCE_NS: Final = 1_000_000
_CLOSE_AT_ONCE: Final = 16
# Operations that change something, and of these the ones that change names in directories.
_TREE: Final = frozenset(
    [OP_CREATE, OP_TMPFILE, OP_MKDIR, OP_SYMLINK, OP_LINK, OP_UNLINK, OP_RMDIR, OP_RENAME, OP_MKNOD, OP_BIND]
)
_ONCE: Final = _TREE | frozenset(
    [OP_SETATTR, OP_SETXATTR, OP_REMOVEXATTR, OP_WRITE, OP_ALLOCATE, OP_LISTEN, OP_DIAL]
)


@trait
class ChangeObserver:
    """Keeps the cached state of directories."""

    def change_lost(self) -> None:
        """A change was made, and the call that asked for it has not applied it to the cached state."""
        raise NotImplementedError


class GoferRequest(HostRequest):
    """One request, and its answer."""

    def __init__(self, client: "GoferLink", op: int, body: bytes, fids: tuple[int, int]) -> None:
        super().__init__()
        self.client: GoferLink = client
        self.op: int = op
        self.body: bytes = body
        self.fids: tuple[int, int] = fids  # directories that it is about
        self.is_change = op in _TREE
        self.is_once = op in _ONCE
        self.ident: int = 0
        self.is_late: bool = False  # a task waits for it
        self.is_spent: bool = False  # its descriptors were given away
        self.was_taken: bool = False
        self.is_forgotten: bool = False
        self.parts: list[bytes] = []
        self.code: int = 0
        self.fds: list[int] = []

    def forget(self) -> None:
        self.client.forget_request(self)


class GoferLink(HostServer, FdWatcher):
    """A connection to a worker of the gofer."""

    def __init__(
        self, sock: socket.socket, kernel: Kernel | None = None, *, always_waits: bool = False
    ) -> None:
        """Without a kernel every call waits for its answer."""
        sock.settimeout(PATIENCE_S)
        self._sock: socket.socket = sock
        self._channel: FrameChannel = FrameChannel(sock, MAX_REPLY_BYTES, may_receive_fds=True)
        self._input: select.poll = select.poll()  # whether there is something to read
        self._input.register(sock, select.POLLIN)
        self._kernel: Kernel | None = kernel
        self._always_waits: bool = always_waits
        self._waits: HostWaits = kernel.host_waits if kernel is not None and not always_waits else HostWaits()
        # It serves one call so far, which allows that others run while it waits
        self.bears_others: bool = False
        self._is_broken: bool = False
        self.is_part: bool = False  # its death ends the sandbox
        self._is_gone: bool = False  # the gofer has died
        self._last_ident: int = 0
        self._pending: dict[int, GoferRequest] = {}  # not answered, by their numbers
        self._late: int = 0  # how many of these tasks wait for
        self._writes: dict[int, GoferRequest] = {}  # of these, writes
        self._busy: dict[int, GoferRequest] = {}  # by the fid of a directory: the late change in it
        self._out: bytes = b""  # bytes that the socket has not taken yet
        self._token: int = 0  # of the watch, 0: none
        self._events: int = 0  # events that are watched for
        # The directories that this worker watches
        self.names: NameWatch = NameWatch(kernel.fds if kernel is not None else None)
        self.probe_fid: int = 0  # a directory to ask about whether the storage answers; 0: it always does
        self._probe: GoferRequest | None = None
        self._closing: list[int] = []  # descriptors to close once the storage has answered
        self._workers: list[GoferLink] = []
        self.observers: list[ChangeObserver] = []
        self.fd_limit: int = 1 << 30  # limit of descriptors that guests may make this process hold
        self.calls: int = 0  # for metrics and tests
        self.lost_changes: int = 0
        self.is_alone: Callable[[], bool] | None = None  # whether no other guest would be kept waiting

    def fileno(self) -> int:
        """The socket's descriptor (readable while idle only when the gofer is gone)."""
        return self._channel.fileno()

    def close(self) -> None:
        """Close the connection, which ends the gofer."""
        for worker in self._workers:
            worker.close()
        self.names.close()
        self.is_part = False
        self._fail()
        self._channel.close()

    def shared(self) -> None:
        self.bears_others = False
        for worker in self._workers:
            worker.shared()

    def patiently(self, *, is_on: bool) -> None:
        """For a client that always waits: say whether the running call can be run again from here on."""
        kernel = self._kernel
        if kernel is not None and self._always_waits:
            self._waits = kernel.host_waits if is_on else HostWaits()

    def may_wait(self) -> bool:
        """Whether the running call can wait for an answer (and be run again)."""
        return self._waits.may_wait

    def lets_others(self) -> bool:
        """Whether the running call allows that others run in the middle of it."""
        return self._waits.bears_others

    def is_last_lane(self) -> bool:
        """Whether no other lane is left that could take the turn (kernel.lanes)."""
        return self._waits.lane_turn is not None

    def is_about(self, file: FileDescription) -> None:
        """Set the file on which a host call on the spot follows (kernel.lanes)."""
        self._waits.file = file

    def is_again(self) -> bool:
        """Whether the running call has waited already."""
        return self._waits.is_again

    def known_again(self, names: KnownNames, name: bytes) -> KnownAnswer | None:
        """What an earlier run of the call was told of the name without a question."""
        for each in self._waits.journal:
            if isinstance(each, KnownAnswer) and each.names is names and each.name == name:
                return each
        return None

    def was_known(self, names: KnownNames, name: bytes, child: KnownChild | None) -> None:
        """The running call was told so without a question."""
        if self._waits.may_wait:
            self._waits.journal.append(KnownAnswer(names, name, child))

    def close_fd(self, fd: int) -> None:
        """Close a donated descriptor.

        On remote storage that may take long (FUSE's FLUSH), so it is delayed until the storage has answered any
        request.
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
        self._probe = probe
        try:
            self.submit_late(probe)
        except LinuxError:
            pass  # the request was answered with an error

    def submit_late(self, request: GoferRequest) -> None:
        """Send a request whose answer the event loop handles. Raises LinuxError(EIO); the request is then answered
        with that.
        """
        request.is_late = True
        self._late += 1
        try:
            self._submit(request)
        finally:
            self._watch()

    def late_count(self) -> int:
        """The number of requests whose answers the event loop waits for."""
        return self._late

    def _close_some(self) -> None:
        """The storage has answered: close delayed descriptors."""
        self._probe = None
        fds = self._closing if self._is_broken else self._closing[:_CLOSE_AT_ONCE]
        del self._closing[: len(fds)]
        for fd in fds:
            os.close(fd)
        if self._closing:
            self._ask_for_life()

    def commit(self) -> None:
        """From here on the running call cannot be run again."""
        self._waits.commit()

    # -- transport -------------------------------------------------------------------------------------
    def _exchange(self, op: int, body: bytes, fid: int, other: int, data: bytes = b"") -> Frame:
        """Send a request; returns the reply as one frame, however long.

        `fid`, `other`: the directories that it concerns. `data` follows the body and is not compared with the
        journal, because the program may have changed it since. Raises LinuxError(EIO), HostWait.
        """
        waits = self._waits
        if waits.is_again:
            known = self._in_journal(op, body)
            if known is not None:
                return self._take(known)
        if self._is_broken and not self._is_gone:
            raise LinuxError(EIO)
        if self._busy:
            self._take_turn(fid, other)
        self.calls += 1
        request = GoferRequest(self, op, body, (fid, other))
        self._submit(request, data)
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

    def begin(self, op: int, body: bytes) -> GoferRequest:
        """Send a request that changes nothing and that no call waits for so far. Raises LinuxError(EIO)."""
        if self._is_broken:
            raise LinuxError(EIO)
        self.calls += 1
        request = GoferRequest(self, op, body, (0, 0))
        request.was_taken = request.is_settled = True
        self._submit(request)
        return request

    def has_come(self, request: GoferRequest, *, is_waiting: bool) -> bool:
        """Whether the answer to such a request has come; `is_waiting`: wait for it. Raises LinuxError, HostWait."""
        while not request.is_answered:
            if is_waiting:
                if not self._await(request, is_patient=not self._waits.may_wait):
                    if not request.is_late:
                        self._is_late(request)
                    raise HostWait(request)
            elif (
                self._is_gone or not (self._channel.has_frame() or self._input.poll(0)) or not self._receive()
            ):
                return False
        return True

    def _in_journal(self, op: int, body: bytes) -> GoferRequest | None:
        """A request like this one, if an earlier run of the call has sent it. Raises HostWait if it is not answered."""
        found = self._find_in_journal(op, body)
        if found is not None and not found.is_answered:
            raise HostWait(found)
        return found

    def _find_in_journal(self, op: int, body: bytes) -> GoferRequest | None:
        for each in self._waits.journal:
            if (
                isinstance(each, GoferRequest)
                and not each.is_taken
                and not each.is_spent
                and each.client is self
                and each.op == op
                and each.body == body
            ):
                return each
        return None

    def _take(self, request: GoferRequest) -> Frame:
        """The answer from the journal, where it stays: its descriptors are duplicated."""
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
        """The change is applied: let calls go on that wait for its directories."""
        request.is_settled = True
        for fid in request.fids:
            if self._busy.get(fid) is request:
                del self._busy[fid]
        request.queue.wake()

    def _take_turn(self, fid: int, other: int) -> None:
        """Wait while a change of one of these directories is under way.  Raises HostWait, LinuxError."""
        for mine in self._waits.journal:
            if mine.is_change and not mine.is_settled:
                return  # no deadlock: those calls do not wait for this one
        for each in (fid, other):
            change = self._busy.get(each)
            if change is None:
                continue
            if self._waits.may_wait:
                raise HostWait(change, is_turn=True)
            self._await(change, is_patient=True)

    def _submit(self, request: GoferRequest, data: bytes = b"") -> None:
        """Raises LinuxError(EIO)."""
        ident = self._last_ident % MAX_IDENT + 1
        while ident in self._pending:
            ident = ident % MAX_IDENT + 1
        self._last_ident = request.ident = ident
        self._pending[ident] = request
        if request.op == OP_WRITE:
            self._writes[ident] = request
        self._send(request.op, request.ident, request.body + data if data else request.body)

    def _send(self, op: int, ident: int, body: bytes) -> None:
        """Raises LinuxError(EIO)."""
        if not self._is_broken:
            self._channel.ident = ident
            self._out += self._channel.pack(op, 0, body)
            self._flush()
        if self._is_broken and not self._is_gone:
            raise LinuxError(EIO)
        if self._out:
            self._watch()

    def _flush(self) -> None:
        """Send as much as the socket takes."""
        try:
            while self._out:
                count = os.write(self._sock.fileno(), self._out)  # the socket's own method would poll first
                self._out = self._out[count:]
        except BlockingIOError:
            pass
        except OSError:
            self._lost()

    def _await(self, request: GoferRequest, *, is_patient: bool) -> bool:
        """Take replies until this one is there; False if it does not come soon.  Raises LinuxError(EIO)."""
        end_ns = 0 if is_patient else time.monotonic_ns() + _PATIENCE_NS
        while request.ident in self._pending:
            if self._is_gone:
                if is_patient:
                    select.poll().poll()  # wait for the end of the sandbox
                return False
            if self.bears_others and is_patient and not self._out and not self._channel.has_frame():
                self._wait_in_turns()
            if not self._receive() and self._out:
                self._flush()
            if is_patient or request.ident not in self._pending or self._channel.has_frame():
                continue
            if time.monotonic_ns() >= end_ns:
                return False
        while self._late and self._channel.has_frame():
            # frames that were read together with it, for which the socket is not readable again
            self._receive()
        if self._is_broken:
            raise LinuxError(EIO)
        return True

    def _wait_in_turns(self) -> None:
        """Let others run until the socket can be read (kernel.lanes)."""
        self._waits.file = None
        if self._kernel is not None:
            self._kernel.host_waits.file = None
        slow.wait_for(self._sock.fileno())

    def _receive(self) -> bool:
        """Take a frame; False if none comes in time."""
        try:
            frame = self._channel.receive()
        except TimeoutError:
            return False
        except OSError:
            frame = None
        except ProtocolError:
            self._fail()
            return True
        if frame is None:
            self._lost()
        elif frame.code > 0:
            self._fail()
        else:
            self._dispatch(frame)
        return True

    def _lost(self) -> None:
        """The gofer has gone: requests stay unanswered, even by an error, if the sandbox ends now."""
        if not self.is_part:
            self._fail()
            return
        self._is_broken = self._is_gone = True
        self._out = b""
        self._watch()

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
        if request.op == OP_WRITE:
            del self._writes[request.ident]
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
        """The connection is broken: answer every request with EIO."""
        self._is_broken = True
        self._is_gone = False
        self._out = b""
        for request in list(self._pending.values()):
            request.code = -EIO
            request.parts = []
            self._answered(request)
        self._watch()

    def _is_late(self, request: GoferRequest) -> None:
        """Mark a request that a task is going to wait for."""
        request.is_late = True
        self._late += 1
        if request.is_change:
            for fid in request.fids:
                if fid:
                    self._busy[fid] = request
        self._watch()

    def _watch(self) -> None:
        """Have the event loop watch the socket, while there is something to wait for."""
        kernel = self._kernel
        if kernel is None:
            return
        events = (EPOLLIN if self._late and not self._is_gone else 0) | (EPOLLOUT if self._out else 0)
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
        """Drop a request whose answer is not needed any more."""
        if not request.is_forgotten:
            request.is_forgotten = True
            if request.is_answered:
                self._discard(request)

    def _discard(self, request: GoferRequest) -> None:
        """Close the descriptors of an answer that was not taken, release its fid or socket, and report its change."""
        for fd in request.fds:
            self.close_fd(fd)
        request.fds = []
        if request.was_taken:
            return
        if request.code == 0 and not self._is_broken:
            body = b"".join(request.parts)
            fids, number = _fids_in_reply(request.op, body), _socket_in_reply(request.op, body)
            try:
                if fids:
                    self.forget(fids)
                if number:
                    self._send(OP_UNBIND, 0, pack_u64(number))
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
        fd = self._only_fd(frame)
        try:
            reader = Reader(frame.body)
            attr = reader.attr()
            return fd, attr, reader.u64()
        except ProtocolError:
            self.close_fd(fd)
            raise self._broken()

    def _only_fd(self, frame: Frame) -> int:
        """The descriptor that an answer brings, the caller's.  Raises LinuxError."""
        fds = frame.fds
        if frame.code < 0 or len(fds) != 1 or fds[0] >= self.fd_limit:
            for fd in fds:
                self.close_fd(fd)
            # The kernel drops descriptors that exceed RLIMIT_NOFILE.
            raise LinuxError(-frame.code if frame.code < 0 else ENFILE)
        return fds[0]

    def _broken(self) -> LinuxError:
        self._fail()
        return LinuxError(EIO)

    def _attr(self, body: bytes) -> Attr:
        try:
            return unpack_attr(body)
        except ProtocolError:
            raise self._broken()

    def forget(self, fids: list[int]) -> None:
        """Close fids without waiting; the gofer handles this before the next request."""
        for start in range(0, len(fids), 1024):
            self._send(OP_FORGET, 0, pack_u64(*fids[start : start + 1024]))


def _fids_in_reply(op: int, body: bytes) -> list[int]:
    """The fids that a reply gives."""
    try:
        reader = Reader(body)
        if op in (OP_OPEN, OP_CREATE, OP_TMPFILE):
            reader.attr()
            fid = reader.u64()
            return [fid] if fid else []
        if op == OP_LOOKUP:
            reader.attr()
            reader.string()
            fid = reader.u64()
            return [fid] if fid else []
        if op in (OP_WALK, OP_OPENDIR, OP_ATTACH):
            return [reader.u64()]
    except ProtocolError:
        pass
    return []


def _socket_in_reply(op: int, body: bytes) -> int:
    """The number of the bound socket that a reply gives, or 0."""
    if op != OP_BIND:
        return 0
    try:
        reader = Reader(body)
        reader.attr()
        return reader.u64()
    except ProtocolError:
        return 0
