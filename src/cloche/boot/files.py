"""Requests for files of a container (`wire.files`), in the sentry.

Long answers and contents travel over a stream socket that the client passes. The work is done in slices of half a
millisecond, which are chores of the kernel (I8): a stream runs while its socket can be read or written, and otherwise
waits for the event loop. Files are read as they are at that moment; a guest that changes a directory meanwhile can
make a stream miss or repeat a name, and no more.

Only directories and regular files are opened, so nothing waits for the other end of a FIFO. Clients belong to the
owner of the sandbox, who may have all rights inside; they must not trust what they get from the guest.
"""

import socket
from collections.abc import Generator
from typing import Final

from cloche.abi.errno import (
    EBADF,
    EBUSY,
    EEXIST,
    EINVAL,
    ELOOP,
    ENOENT,
    ENOTEMPTY,
    EPERM,
    LinuxError,
)
from cloche.abi.fcntl import O_DIRECTORY
from cloche.abi.poll import EPOLLIN, EPOLLOUT
from cloche.boot.execs import EXIT_INTERNAL, Answers
from cloche.boot.spec import SandboxSpec
from cloche.boot.start import user_credentials
from cloche.boot.tree_build import TreeBuilder, find_base, make_parents
from cloche.boot.tree_read import Walker, change_records, entry_of, list_some, open_held
from cloche.boot.watching import Watching
from cloche.kernel.blocking import SLICE_NS
from cloche.kernel.chores import Chore
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.patience import Patience
from cloche.kernel.task import Container, Kernel, KernelContext
from cloche.kernel.timers import monotonic_ns
from cloche.vfs.dcache import lookup_child
from cloche.vfs.namei import (
    LOOKUP_FOLLOW,
    lookup_parent,
    path_lookup,
    vfs_mkdir,
    vfs_rename,
    vfs_rmdir,
    vfs_unlink,
)
from cloche.vfs.objects import Context, Dentry, FsContext, Inode, Path
from cloche.vfs.waitqueue import Waiter, WaitQueue
from cloche.wire import files as wire
from cloche.wire.files import Record, RecordDecoder
from cloche.wire.protocol import Fields, Message, ProtocolError, take_bool, take_int

MAX_STREAMS: Final = 64  # open streams of one container
_OUT_BYTES: Final = 1 << 18  # that may wait in a stream
_IN_BYTES: Final = 1 << 17
_TRIES: Final = 1000  # attempts to remove a directory that guests fill again


# -- streams -----------------------------------------------------------------------------------------------------
class Stream(Chore, FdWatcher):
    """One end of a client's stream, until all is sent or taken."""

    def __init__(self, table: "FileTable", ident: int, fd: int) -> None:
        """Takes `fd` over.  Raises OSError."""
        self.table: FileTable = table
        self.kernel: Kernel = table.kernel
        self.ident: int = ident
        self.sock: socket.socket = socket.socket(fileno=fd)
        self.events: int = 0
        self.token: int = 0
        self.is_queued: bool = False
        self.is_closed: bool = False
        self.patience: Patience = Patience(self.kernel.host_waits, self.kernel.chores, self)

    def begin(self, events: int) -> None:
        """Watch the socket, which is ready for `events` when there is something to do.  Raises OSError."""
        self.events = events
        self.token = self.kernel.fds.watch(self.sock.fileno(), events, self)

    def fd_ready(self, token: int, events: int) -> None:
        """The socket is ready: go on as a chore, in turns with others, and watch no more until that waits again."""
        if not self.is_queued and not self.is_closed:
            self.is_queued = True
            self.kernel.fds.rewatch(self.sock.fileno(), self.token, 0)
            self.kernel.chores.append(self)

    def step(self) -> bool:
        if self.is_closed:
            return False
        is_more = False
        try:
            is_more = self.work(monotonic_ns() + SLICE_NS)
        except LinuxError as refusal:
            self.finish({"errno": refusal.errno})
        except ProtocolError as error:
            self.fail(str(error))
        except OSError as failure:
            self.fail(failure.strerror or "the stream is broken")
        if self.patience.is_waiting():
            return False  # an answer of the gofer has it go on
        if not is_more:
            self.is_queued = False
            if not self.is_closed:
                self.kernel.fds.rewatch(self.sock.fileno(), self.token, self.events)
        return is_more

    def work(self, end_ns: int) -> bool:
        """Work until `end_ns`; returns whether there is more to do without waiting. Raises LinuxError, ProtocolError,
        OSError.
        """
        raise NotImplementedError

    def finish(self, fields: Fields) -> None:
        """Answer the request: all is done."""
        self.close()
        self.table.answers.reply(self.ident, fields)

    def fail(self, text: str) -> None:
        """Answer the request with an error, and end the stream."""
        if not self.is_closed:
            self.close()
            self.table.answers.fail(self.ident, EXIT_INTERNAL, text)

    def close(self) -> None:
        """Close everything that the stream holds."""
        if not self.is_closed:
            self.is_closed = True
            self.kernel.fds.unwatch(self.sock.fileno(), self.token)
            self.sock.close()
            self.table.streams.pop(self.ident, None)
            self.patience.drop()
            self.dropped()

    def dropped(self) -> None:
        """Called once at the end of the stream, whether it was finished or failed."""


class Sender(Stream):
    """Records to a client."""

    def __init__(self, table: "FileTable", ident: int, fd: int) -> None:
        super().__init__(table, ident, fd)
        self.records: Generator[bytes, None, None] | None = None
        self.out: bytearray = bytearray()

    def work(self, end_ns: int) -> bool:
        out = self.out
        records = self.records
        while records is not None and len(out) < _OUT_BYTES:
            record = next(records, None)
            if record is None:
                self.records = records = None
                break
            out += record
            if self.patience.is_waiting() or monotonic_ns() >= end_ns:
                break
        if out:
            try:
                with memoryview(out) as view:
                    count = self.sock.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            del out[:count]
        if not out and records is None:
            self.finish({})
            return False
        return True

    def dropped(self) -> None:
        records = self.records
        self.records = None
        if records is not None:
            # closes the files that the generator holds; a compiled generator does not do so by itself
            records.close()


class Watcher(Stream):
    """Sends events of a directory until the client closes its end."""

    def __init__(self, table: "FileTable", ident: int, fd: int, ctx: Context, fields: Fields) -> None:
        """Raises OSError, ProtocolError."""
        super().__init__(table, ident, fd)
        self.watching: Watching = Watching(
            self.kernel, ctx, self.patience, wire.take_path(fields, "path"), is_deep=take_bool(fields, "deep")
        )
        self.records: Generator[bytes, None, None] | None = self.watching.begin()
        self.out: bytearray = bytearray()
        self.rouser: Rouser = Rouser(self)
        self.watching.wake(self.rouser)

    def work(self, end_ns: int) -> bool:
        try:
            if self.sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                raise ProtocolError("a client that watches has nothing to say")
            self.finish({})
            return False
        except BlockingIOError:
            pass
        out = self.out
        while len(out) < _OUT_BYTES and monotonic_ns() < end_ns:
            records = self.records
            if records is None:
                if not self.watching.has_some():
                    break
                records = self.records = self.watching.some()
            record = next(records, None)
            if record is None:
                self.records = None
                continue
            out += record
            if self.patience.is_waiting():
                break
        if out:
            try:
                with memoryview(out) as view:
                    count = self.sock.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                del out[:count]
            except BlockingIOError:
                self.events = EPOLLIN | EPOLLOUT
                return False
        self.events = EPOLLIN
        return bool(out) or self.records is not None or self.watching.has_some()

    def dropped(self) -> None:
        records = self.records
        self.records = None
        if records is not None:
            records.close()
        self.watching.close()


class Rouser(Waiter):
    """Wakes a watcher when there are events."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher: Watcher = watcher

    def notify(self, queue: WaitQueue, mask: int) -> bool:
        watcher = self.watcher
        if watcher.events == EPOLLIN:  # otherwise the client has not read the last events yet
            watcher.fd_ready(watcher.token, 0)
        return False


class Receiver(Stream):
    """Records from a client, which make files."""

    def __init__(self, table: "FileTable", ident: int, fd: int) -> None:
        super().__init__(table, ident, fd)
        self.builder: TreeBuilder | None = None
        self.taking: Generator[bytes, None, None] | None = None  # the record at hand
        self.is_last: bool = False  # that was the last
        self.decoder: RecordDecoder = RecordDecoder()
        self.waiting: list[Record] = []  # the next one last

    def work(self, end_ns: int) -> bool:
        builder = self.builder
        assert builder is not None
        while True:
            taking = self.taking
            if taking is not None:
                for _nothing in taking:
                    if self.patience.is_waiting():
                        return True
                self.taking = None
                if self.is_last:
                    self.finish({"files": builder.count})
                    return False
            elif self.waiting:
                record = self.waiting.pop()
                self.is_last = record.kind == wire.DONE
                self.taking = builder.finish() if self.is_last else builder.take(record)
                continue
            else:
                try:
                    data = self.sock.recv(_IN_BYTES, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return False
                if not data:
                    raise ProtocolError("the stream was cut off")
                self.waiting = self.decoder.feed(data)
                self.waiting.reverse()
            if monotonic_ns() >= end_ns:
                return True

    def dropped(self) -> None:
        taking = self.taking
        self.taking = None
        if taking is not None:
            taking.close()
        if self.builder is not None:
            self.builder.abandon()


class Remover(Chore):
    """Removes a tree, some names at a time."""

    def __init__(self, table: "FileTable", ident: int, ctx: Context, parent: Path, name: bytes) -> None:
        self.table: FileTable = table
        self.ident: int = ident
        self.ctx: Context = ctx
        self.stack: list[tuple[Path, bytes]] = [(parent, name)]
        self.tries: int = 0
        kernel = table.kernel
        self.patience: Patience = Patience(kernel.host_waits, kernel.chores, self)
        self.one: Generator[bytes, None, None] | None = None  # under way

    def step(self) -> bool:
        try:
            end_ns = monotonic_ns() + SLICE_NS
            while self.stack and not self.table.is_closed:
                one = self.one
                if one is None:
                    one = self.one = self._one()
                for _nothing in one:
                    if self.patience.is_waiting():
                        return False
                self.one = None
                if monotonic_ns() >= end_ns:
                    return True
        except LinuxError as refusal:
            self.table.answers.reply(self.ident, {"errno": refusal.errno})
            return False
        if not self.table.is_closed:
            self.table.answers.reply(self.ident, {})
        return False

    def _one(self) -> Generator[bytes, None, None]:
        """Go down, or remove something."""
        ctx, ask = self.ctx, self.patience.ask
        parent, name = self.stack[-1]
        dentry = yield from ask(lambda: lookup_child(ctx, parent.dentry, parent.inode(), name))
        inode = dentry.inode
        if inode is None:
            self.stack.pop()
            return
        if not inode.is_dir():
            yield from ask(lambda: vfs_unlink(ctx, parent, name))
            self.stack.pop()
            return
        try:
            yield from ask(lambda: vfs_rmdir(ctx, parent, name))
            self.stack.pop()
            return
        except LinuxError as error:
            if error.errno != ENOTEMPTY:
                raise
        self.tries += 1
        if len(self.stack) >= wire.MAX_DEPTH or dentry.mounted:
            raise LinuxError(EBUSY if dentry.mounted else ELOOP)
        place = Path(parent.mount, dentry)
        file = yield from ask(lambda: open_held(ctx, place, O_DIRECTORY))
        try:
            names, _result = yield from ask(lambda: list_some(ctx, file))
        finally:
            file.put()
        found = [each for each in names.names if each not in (b".", b"..")]
        if not found and self.tries > _TRIES:
            raise LinuxError(ENOTEMPTY)
        for each in found:
            child = (yield from self._child(dentry, inode, each)).inode
            if child is not None and child.is_dir():
                self.stack.append((place, each))
                return  # first things first: the stack is as deep as the tree
            if child is not None:
                yield from self._unlink(place, each)

    def _child(self, dentry: Dentry, inode: Inode, name: bytes) -> Generator[bytes, None, Dentry]:
        found = yield from self.patience.ask(lambda: lookup_child(self.ctx, dentry, inode, name))
        return found

    def _unlink(self, place: Path, name: bytes) -> Generator[bytes, None, None]:
        yield from self.patience.ask(lambda: vfs_unlink(self.ctx, place, name))


class Request(Chore):
    """A request without a stream: answered at once, unless the host's storage is slow."""

    def __init__(self, table: "FileTable", message: Message) -> None:
        self.table: FileTable = table
        self.message: Message = message
        self.fds: list[int] = message.fds  # owned by this object while it waits
        self.patience: Patience = Patience(table.kernel.host_waits, table.kernel.chores, self)

    def attempt(self) -> None:
        """Raises ProtocolError, OSError."""
        message = self.message
        message.fds = self.fds
        try:
            self.patience.attempt(lambda: self.table.answer(message))
        except LinuxError as refusal:
            self.table.answers.reply(message.ident, {"errno": refusal.errno})
        if self.patience.is_waiting():
            message.fds = []

    def step(self) -> bool:
        message = self.message
        message.fds = self.fds
        try:
            if not self.table.is_closed:
                self.attempt()
        except ProtocolError as error:
            self.table.answers.fail(message.ident, EXIT_INTERNAL, str(error))
        except OSError as failure:
            self.table.answers.fail(message.ident, EXIT_INTERNAL, failure.strerror or "it failed")
        if not self.patience.is_waiting():
            message.close_fds()
        return False


# -- requests ----------------------------------------------------------------------------------------------------
class FileTable:
    """The streams and requests of one container."""

    def __init__(self, container: Container, spec: SandboxSpec, answers: Answers) -> None:
        self.container: Container = container
        self.kernel: Kernel = container.kernel
        self.spec: SandboxSpec = spec
        self.answers: Answers = answers
        self.streams: dict[int, Stream] = {}  # by request
        self.is_closed: bool = False

    def context(self, fields: Fields) -> Context:
        """The credentials and root with which a request acts. Raises ProtocolError, LinuxError."""
        root = self.container.root
        if root is None:
            raise LinuxError(ENOENT)
        place = root.mount_ns.root
        ctx = KernelContext(self.container, FsContext(place, place), root.mount_ns)
        uid, gid = wire.take_ids(fields)
        spec = self.spec
        if take_bool(fields, "all_rights"):
            return ctx
        if uid < 0:
            ctx.creds = user_credentials(self.container, spec, spec.uid, spec.gid, spec.groups)
        else:
            ctx.creds = user_credentials(self.container, spec, uid, gid, [])
        return ctx

    def request(self, message: Message) -> None:
        """One of `wire.files.METHODS`.  Raises ProtocolError, OSError."""
        Request(self, message).attempt()

    def answer(self, message: Message) -> None:
        """Do what a request asks. After HostWait the call is made again from the start. Raises ProtocolError,
        LinuxError, OSError.
        """
        name, ident, fields = message.name, message.ident, message.fields
        ctx = self.context(fields)
        if name in wire.WITH_STREAM:
            self._open_stream(ctx, message)
        elif name == wire.STAT:
            flags = LOOKUP_FOLLOW if take_bool(fields, "follow") else 0
            path = wire.take_path(fields, "path")
            place = path_lookup(ctx, None, path, flags)
            self.answers.reply(ident, {"entry": entry_of(ctx, path, place.inode()).to_list()})
        elif name == wire.MKDIR:
            self._mkdir(ctx, ident, fields)
        elif name == wire.RENAME:
            old, new = wire.take_path(fields, "old"), wire.take_path(fields, "new")
            vfs_rename(ctx, None, old, None, new)
            self.answers.reply(ident, {})
        elif name == wire.REMOVE:
            self._remove(ctx, ident, fields)
        else:
            raise ProtocolError(f"an unknown request: {name}")

    def _mkdir(self, ctx: Context, ident: int, fields: Fields) -> None:
        path = wire.take_path(fields, "path")
        if take_bool(fields, "parents"):
            make_parents(ctx, path)
        try:
            vfs_mkdir(ctx, None, path, take_int(fields, "mode", 0o755, 0, 0o7777))
        except LinuxError as error:
            is_fine = error.errno == EEXIST and take_bool(fields, "parents")
            if not is_fine or not path_lookup(ctx, None, path).inode().is_dir():
                raise
        self.answers.reply(ident, {})

    def _remove(self, ctx: Context, ident: int, fields: Fields) -> None:
        found = lookup_parent(ctx, None, wire.take_path(fields, "path"))
        if not found.is_plain():
            raise LinuxError(EINVAL)
        dentry = lookup_child(ctx, found.path.dentry, found.path.inode(), found.name)
        inode = dentry.inode
        if inode is None:
            raise LinuxError(ENOENT)
        if take_bool(fields, "recursive") and inode.is_dir():
            if dentry.mounted:
                raise LinuxError(EBUSY)
            self.kernel.chores.append(Remover(self, ident, ctx, found.path, found.name))
            return
        if inode.is_dir():
            vfs_rmdir(ctx, found.path, found.name)
        else:
            vfs_unlink(ctx, found.path, found.name)
        self.answers.reply(ident, {})

    def _open_stream(self, ctx: Context, message: Message) -> None:
        name, ident, fields = message.name, message.ident, message.fields
        if len(message.fds) != 1:
            raise ProtocolError("a stream needs its descriptor")
        if len(self.streams) >= MAX_STREAMS or ident in self.streams:
            raise ProtocolError(f"more than {MAX_STREAMS} streams at once")
        stream: Stream
        fd = message.fds[0]
        if name == wire.PUT:
            has_all = take_bool(fields, "all_rights")
            owner = (self.spec.uid, self.spec.gid) if has_all else (ctx.creds.fsuid, ctx.creds.fsgid)
            place = find_base(ctx, fields)
            receiver = Receiver(self, ident, fd)
            message.fds.clear()
            receiver.builder = TreeBuilder(ctx, receiver.patience, fields, owner, place)
            stream, events = receiver, EPOLLIN
        elif name == wire.WATCH:
            wire.take_path(fields, "path")
            take_bool(fields, "deep")
            stream = Watcher(self, ident, fd, ctx, fields)
            message.fds.clear()
            events = EPOLLIN
        else:
            sender = Sender(self, ident, fd)
            message.fds.clear()
            stream, events = sender, EPOLLOUT
            try:
                sender.records = self._records(ctx, sender.patience, name, fields)
            except (LinuxError, ProtocolError):
                sender.sock.close()
                raise
        if stream.sock.family != socket.AF_UNIX or stream.sock.type != socket.SOCK_STREAM:
            stream.sock.close()
            raise LinuxError(EBADF)
        self.streams[ident] = stream
        stream.begin(events)
        if name == wire.WATCH:
            stream.fd_ready(stream.token, 0)

    def _records(
        self, ctx: Context, patience: Patience, name: str, fields: Fields
    ) -> Generator[bytes, None, None]:
        if name == wire.CHANGES:
            if not take_bool(fields, "all_rights"):
                raise LinuxError(EPERM)
            limit = take_int(fields, "limit", -1, -1, 1 << 62)
            return change_records(ctx, patience, self.container.layers, wire.take_paths(fields), limit)
        own = [layer.fs for layer in self.container.layers if not layer.is_volume]
        return Walker(ctx, patience, fields, own).records()

    def abandon(self, ident: int) -> None:
        """The client does not wait for the answer any more: end the stream."""
        stream = self.streams.get(ident)
        if stream is not None:
            stream.close()

    def close(self) -> None:
        """The container is removed: end all streams."""
        self.is_closed = True
        for stream in list(self.streams.values()):
            stream.fail("the sandbox has ended")
