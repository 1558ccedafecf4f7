"""The keeper: starts the parts of one sandbox, waits for them, and ends the rest when one of them ends.

It runs in an interpreter of its own that began with an empty environment (`spawn`), so no data of the user is in the
processes that are forked from it. Order:

1. A process for the sentry is forked at once, which imports the kernel while the monitor reads the command line.  It
   enters the namespaces and forks the sentry, so that the sentry is pid 1 of its pid namespace where there is one (I5:
   its death then ends every guest).  It exits; this process is a subreaper, so the sentry becomes its child, and
   without a pid namespace so do guests whose sentry died.  Where it is a fork of the template, or of `cloche-oci
   create`'s monitor, the sentry now confines itself and starts its platform. If the monitor then says that the sandbox
   is unusual, it is ended for another.
2. The monitor's request: the gofer (it opens the attach points) and, if ports are published, the broker are forked;
   egress and its connector, if there are rules for the network; the network process, if there is a namespace to join.
3. The sentry, which has waited for this, gets its spec and its sockets.
4. From then on it only waits: for the death of a part or of the monitor, which ends the others; for the first
   question to an analyst, which is then forked; and for containers that join. Each of those gets a gofer of its own,
   whose end is reported to the monitor and ends nothing else.

Each part has a parent-death signal, so they end with the keeper.  It handles no guest data.  Neither this process nor
the gofer imports the kernel, and the sentry does not import the gofer.
"""

import marshal
import os
import select
import signal
import socket
import sys
import time
from array import array
from typing import Any, Final, NoReturn

from cloche.abi.prctl import PR_SET_CHILD_SUBREAPER
from cloche.boot import confine
from cloche.boot.attaching import attach_points
from cloche.boot.broker import BrokerProcess, start_broker, take_ports
from cloche.boot.noted import note_signals
from cloche.boot.orphans import end_orphans
from cloche.boot.part import Part, PartError, ignore_signals
from cloche.boot.spawn import KEEPER_FD, KeeperProcess, high_pair, leave_light_modules
from cloche.boot.spec import PLATFORMS, SandboxSpec, load
from cloche.platform import hostsys
from cloche.platform.shared_pages import RESTLESS_MS, share_again
from cloche.wire import timing
from cloche.wire.keeper import DIED, FAILED, GONE, LOST, SERVE, SERVED, START, STARTED, UNUSUAL, RecordPlace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # imported where they are used, after the sentry's process was forked
    from cloche.egress.launch import EgressProcess
    from cloche.gofer.launch import GoferProcess
    from cloche.gofer.nodes import AttachPoint
    from cloche.netns.connector import ConnectorProcess
    from cloche.netns.launch import NetworkProcess

EXIT_INTERNAL: Final = 125
_MAX_FDS: Final = 16
_GRACE_S: Final = 2.0  # for servers to end by themselves, after the sentry
_SENTRY: Final = "sentry"
_ANALYST: Final = "analyst"

# Signals that the caller of the command may have blocked or ignored.
_DEFAULT: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGPIPE,
)


class StartFailure(Exception):
    """The sandbox could not start; the text says why in one line."""


class Abandoned(Exception):
    """The monitor has died, or has given up the start."""


class Further:
    """The gofer of a container that has joined."""

    def __init__(self, number: int, gofer: "GoferProcess") -> None:
        self.number: int = number  # as the monitor calls it
        self.gofer: GoferProcess = gofer
        self.is_ready: bool = False


class Keeper:
    """The parts of one sandbox."""

    def __init__(self, link: socket.socket) -> None:
        self.link: socket.socket = link  # to the monitor
        self.parts: dict[int, str] = {}  # pid -> which it is
        self.sentry: int = 0
        self.middle: int = 0  # the process between keeper and sentry, while the sentry starts
        self.tell: socket.socket | None = None  # a socket to that process
        self.gofer: GoferProcess | None = None
        self.broker: BrokerProcess | None = None
        self.egress: EgressProcess | None = None
        self.connector: ConnectorProcess | None = None  # egress's
        self.network: NetworkProcess | None = None
        # The sockets of analysts that were not started yet: a list for each gofer and its workers
        self.asking: list[list[socket.socket]] = []
        self.further: dict[int, Further] = {}  # by pid
        self.poller: Any = select.poll()
        self.fds: dict[str, int] = {}  # descriptors of the monitor's request, by role
        self.request: dict[str, Any] = {}
        self.is_ahead: bool = False  # the sentry gets ready before the request comes
        self.has_monitor: bool = True
        self.is_ending: bool = False
        self.wake_read: int = note_signals((signal.SIGCHLD,))

    # -- the start -----------------------------------------------------------------------------------------
    def prepare(self, *, is_ahead: bool = False) -> None:
        """Fork the process that becomes the sentry's parent. It imports the kernel, and waits for the keeper's
        messages. `is_ahead`: the sentry gets ready for a usual sandbox before it hears of one.
        """
        self.is_ahead = is_ahead
        hear, tell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            status = EXIT_INTERNAL
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                hear.close()
                self.link.close()
                timing.begin()
                status = _middle(tell, is_ahead=is_ahead)
            except BaseException as failure:
                sys.excepthook(type(failure), failure, failure.__traceback__)
            finally:
                os._exit(status)
        tell.close()
        self.middle, self.tell = pid, hear

    def start(self) -> None:
        """Take the request and start everything.  Raises StartFailure, OSError, Abandoned."""
        # Imported while this process waits, and after the fork: the sentry must not have the gofer's code.
        import cloche.gofer.launch  # noqa: F401

        timing.mark("keeper: gofer is imported")
        self._await_request()
        packet, fds = self._receive()
        if packet == UNUSUAL:
            if self.is_ahead:
                self._prepare_again()
            self._await_request()
            packet, fds = self._receive()
        if packet != START or not fds:
            raise Abandoned
        timing.mark("keeper: request is here")
        self.request = _read_request(fds[0])
        self.fds = dict(zip(self.request["names"], fds, strict=True))
        os.environ.update(self.request["settings"])
        if "stderr" in self.fds:
            os.dup2(self.fds["stderr"], 2)
        spec = load(self.request["spec"])
        self._start_servers(spec)
        timing.mark("keeper: gofer is forked")
        self._brief_sentry()
        timing.mark("keeper: sentry knows")
        if self.gofer is not None:
            self._await(self.gofer)
            timing.mark("keeper: gofer serves")
        if self.broker is not None:
            take_ports(spec.published, self._await(self.broker))
        if self.connector is not None:
            self._await(self.connector)
        if self.egress is not None:
            self._await(self.egress)
        if self.network is not None:
            self._await(self.network)
        authority = self.egress.authority if self.egress is not None else b""
        ports = [each.host_port for each in spec.published]
        self.link.send(STARTED + marshal.dumps((self.sentry, ports, timing.marks(), authority)))

    def _prepare_again(self) -> None:
        """The sandbox is none that the sentry is ready for: have another one, which waits. Nothing of the request is in
        this process so far.
        """
        sock = self.tell
        assert sock is not None
        while not self.sentry:
            if not self._hear_middle():
                raise StartFailure("the sentry did not start")
        self.parts.pop(self.sentry)
        os.kill(self.sentry, signal.SIGKILL)
        os.waitpid(self.sentry, 0)
        self.sentry = 0
        sock.close()
        end_orphans()
        self.prepare()

    def _start_servers(self, spec: SandboxSpec) -> None:
        """Start the gofer, and the broker, egress and network process if the spec needs them."""
        from cloche.gofer.launch import start_gofer

        points = attach_points(spec)
        if points:
            asking = self._askers(points) if spec.is_patching else []
            self.gofer = start_gofer(
                points, is_confined=spec.is_confined, analyst=asking, user_ns=self.fds.get("user_ns", -1)
            )
            self.parts[self.gofer.pid] = "gofer"
            for asker in asking:
                asker.close()
        if spec.published:
            self.broker = start_broker(spec.published, is_confined=spec.is_confined)
            self.parts[self.broker.pid] = "broker"
        # -1: there is none to join, and connections leave from the host's
        namespace = self.fds.pop("network", -1)
        user_ns = self.fds.pop("user_ns", -1)
        if namespace >= 0:
            self._start_network(namespace, user_ns, is_confined=spec.is_confined)
        if user_ns >= 0:
            os.close(user_ns)
        if "egress" in self.fds:
            self._start_egress(namespace, is_confined=spec.is_confined)
        if namespace >= 0:
            os.close(namespace)
        if spec.platform != PLATFORMS[0]:  # which needs none
            self._open_device(spec.platform)

    def _open_device(self, platform: str) -> None:
        """Open the platform's device with the rights of the user who started the sandbox: the sentry has none. Raises
        StartFailure.
        """
        from cloche.platform.choose import open_device

        try:
            fd = open_device(platform)
        except OSError as error:
            raise StartFailure(error.strerror or str(error)) from None
        if fd >= 0:
            self.fds["device"] = fd

    def _askers(self, points: "list[AttachPoint]") -> list[socket.socket]:
        """Sockets to an analyst for a gofer and its workers."""
        asking: list[socket.socket] = []
        answering: list[socket.socket] = []
        for _asker in range(1 + sum([point.has_worker for point in points])):
            ours, asker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            answering.append(ours)
            asking.append(asker)
        self.asking.append(answering)
        return asking

    def _start_network(self, namespace: int, user_ns: int, *, is_confined: bool) -> None:
        from cloche.netns.launch import start_network

        is_guarded = "egress" in self.fds
        self.network = start_network(namespace, user_ns, is_confined=is_confined, is_guarded=is_guarded)
        self.parts[self.network.pid] = "network process"

    def _start_egress(self, namespace: int, *, is_confined: bool) -> None:
        """Beside the sentry; neither that nor the process before it ever sees the rules."""
        from cloche.netns.connector import start_connector

        # The sentry's socket to egress: the connector answers there, too, and does not read it.
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connector = start_connector(namespace, pair[1], is_confined=is_confined)
        self.connector = connector
        self.parts[connector.pid] = "connector"
        leave_light_modules()  # asyncio and the IDNA decoder need the full standard library
        from cloche.egress.launch import Wanted, start_egress

        memory = self.fds.pop("egress")
        # Only egress reads the memfd: processes that are forked later must have no secrets in their memory.
        wanted = Wanted(memory)
        wanted.namespace = namespace
        given = [self.fds.pop(name, -1) for name in ("net_log", "net_second_log", "net_control")]
        wanted.log_fd, wanted.second_log_fd = given[0], given[1]
        wanted.control = socket.socket(fileno=given[2]) if given[2] >= 0 else None
        wanted.connector = connector.sock
        self.egress = start_egress(wanted, pair)
        connector.sock.close()
        self.parts[self.egress.pid] = "egress"
        for fd in (memory, *given[:2]):
            if fd >= 0:
                os.close(fd)
        if wanted.control is not None:
            wanted.control.close()

    def _await(self, part: Part) -> bytes:
        """Wait until a part serves; returns what its message says besides. Raises StartFailure, Abandoned."""
        self._wait_for(part.hello)
        try:
            return part.wait_ready()
        except PartError as refusal:
            raise StartFailure(str(refusal)) from None

    def _await_request(self) -> None:
        """Wait for the monitor's request; meanwhile the sentry enters its namespaces and is forked."""
        sock = self.tell
        assert sock is not None
        poller = select.poll()
        poller.register(self.link, select.POLLIN)
        poller.register(sock, select.POLLIN)
        while True:
            ready = [fd for fd, _events in poller.poll()]
            if sock.fileno() in ready and (not self._hear_middle() or self.sentry):
                poller.unregister(sock)
            if self.link.fileno() in ready:
                return

    def _hear_middle(self) -> bool:
        """Map ids for the sentry's parent, or learn the sentry's pid from it; False if it has died."""
        sock = self.tell
        assert sock is not None
        try:
            message = sock.recv(16)
            if message == b"M":
                try:
                    confine.map_ids(self.middle, confine.NOBODY, confine.NOBODY)
                    sock.send(b"1")
                except BrokenPipeError:
                    return False
                except OSError:
                    sock.send(b"0")
                return True
        except (BrokenPipeError, ConnectionResetError):
            return False
        if not message:
            return False
        self.sentry = int(message)
        self.parts[self.sentry] = _SENTRY
        os.waitpid(self.middle, 0)
        self.middle = 0
        timing.mark("keeper: sentry is forked")
        try:
            # the keeper is the sentry's parent from here on: the sentry may set its parent-death signal
            sock.send(b"A")
        except OSError:
            pass  # it has died, which is noticed elsewhere
        return True

    def _brief_sentry(self) -> None:
        """Send the sentry its spec and its sockets. Raises StartFailure, Abandoned."""
        sock = self.tell
        assert sock is not None
        is_there = True
        while is_there and not self.sentry:
            self._wait_for(sock)
            is_there = self._hear_middle()
        names = list(self.fds)
        fds = list(self.fds.values())
        servers = (self.gofer, self.broker, self.egress, self.network)
        for name, server in zip(("gofer", "broker", "egress", "network"), servers, strict=True):
            if server is not None:
                names.append(name)
                fds.append(server.sock.fileno())
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))
        try:
            if is_there:
                sock.sendmsg([" ".join(names).encode()], [rights])
        except (BrokenPipeError, ConnectionResetError):
            is_there = False
        for server in servers:
            if server is not None:
                server.sock.close()
        for name in list(self.fds):
            if name != "record":
                os.close(self.fds.pop(name))
        if not is_there:
            if self.gofer is not None:
                self._await(self.gofer)  # its error message says more
            raise StartFailure("the sentry did not start")
        # The socket stays open: its end tells the sentry of this process's death until it has a parent-death signal.

    def _wait_for(self, sock: socket.socket) -> None:
        """Wait until `sock` can be read. Raises Abandoned when the monitor gives up or dies."""
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.register(self.link, select.POLLIN)
        while True:
            for fd, _events in poller.poll():
                if fd == self.link.fileno():
                    self._read_link()
                    raise Abandoned
                return

    def _read_link(self) -> None:
        for fd in self._receive()[1]:
            os.close(fd)

    def _receive(self) -> tuple[bytes, list[int]]:
        """The monitor's next message and its descriptors; empty if the monitor is gone."""
        fds = array("i")
        try:
            packet, ancillary, _flags, _address = self.link.recvmsg(
                64, socket.CMSG_SPACE(4 * _MAX_FDS), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            packet, ancillary = b"", []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
        if not packet:
            self.has_monitor = False
        return packet, fds.tolist()

    # -- while it runs -------------------------------------------------------------------------------------
    def serve(self) -> None:
        """Serve until the sentry is gone."""
        poller = self.poller
        poller.register(self.wake_read, select.POLLIN)
        poller.register(self.link, select.POLLIN)
        for group in self.asking:
            for sock in group:
                poller.register(sock, select.POLLIN)
        self._reap()  # parts that died before the loop began
        while self.sentry:
            ready = poller.poll(RESTLESS_MS)
            if not ready:
                share_again()
                ready = poller.poll()
            fd = ready[0][0]  # one at a time: handling it may close other descriptors
            if fd == self.link.fileno():
                self._on_link()
            elif fd == self.wake_read:
                os.read(self.wake_read, 512)
                self._reap()
            elif not self._on_hello(fd):
                self._on_question(fd)

    def _on_link(self) -> None:
        """Handle a message of the monitor: a container joins, or the sandbox is to end."""
        packet, fds = self._receive()
        if packet == SERVE and 1 <= len(fds) <= 2:
            self._serve_further(fds[0], fds[1] if len(fds) == 2 else -1)
            return
        for fd in fds:
            os.close(fd)
        if not self.has_monitor:
            self.poller.unregister(self.link)
        self.end_sentry()

    def _serve_further(self, memory: int, user_ns: int) -> None:
        """Start the gofer of a container that joins, in its user namespace; `_on_hello` tells how it went."""
        from cloche.gofer.launch import start_gofer

        number, data, groups = marshal.loads(os.pread(memory, os.fstat(memory).st_size, 0))
        os.close(memory)
        spec = load(data)
        points = attach_points(spec)
        asking = self._askers(points) if spec.is_patching else []
        gofer = start_gofer(
            points, is_confined=spec.is_confined, analyst=asking, groups=groups, user_ns=user_ns
        )
        if user_ns >= 0:
            os.close(user_ns)
        for asker in asking:
            asker.close()
        if asking:
            for sock in self.asking[-1]:
                self.poller.register(sock, select.POLLIN)
        self.parts[gofer.pid] = "gofer"
        self.further[gofer.pid] = Further(number, gofer)
        self.poller.register(gofer.hello, select.POLLIN)

    def _on_hello(self, fd: int) -> bool:
        """Handle the descriptor if it is the socket of a further gofer that is starting; returns whether it was."""
        for each in list(self.further.values()):
            if not each.is_ready and each.gofer.hello.fileno() == fd:
                self._hear_further(each)
                return True
        return False

    def _hear_further(self, each: Further) -> None:
        """Read whether such a gofer serves, or has failed or died."""
        gofer = each.gofer
        number = each.number.to_bytes(4, "little")
        each.is_ready = True
        self.poller.unregister(gofer.hello)
        try:
            gofer.wait_ready()
        except PartError as refusal:
            self.further.pop(gofer.pid, None)
            self.parts.pop(gofer.pid, None)
            self.say(SERVED + number + str(refusal).encode()[:4000])
            return
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [gofer.sock.fileno()]))
        try:
            self.link.sendmsg([SERVED + number], [rights])
        except OSError:
            pass  # the monitor is gone, which is noticed elsewhere
        gofer.sock.close()

    def _on_question(self, fd: int) -> None:
        """A gofer has asked an analyst for the first time, or has ended."""
        for group in self.asking:
            for sock in group:
                if sock.fileno() != fd:
                    continue
                if has_data(sock):
                    for each in group:
                        self.poller.unregister(each)
                    self.asking.remove(group)
                    self._start_analyst(group)
                    return
                self.poller.unregister(fd)  # the gofer has ended, and never asked
                group.remove(sock)
                sock.close()
                if not group:
                    self.asking.remove(group)
                return

    def _start_analyst(self, group: list[socket.socket]) -> None:
        """Fork an analyst for one gofer and its workers."""
        leave_light_modules()  # the instruction decoder needs the full standard library
        from cloche.analyst.serve import start_analyst

        self.parts[start_analyst(group)] = _ANALYST
        for sock in group:
            sock.close()

    def end_sentry(self) -> None:
        """Kill the sentry, with which every guest dies; the end of everything else follows from that."""
        self.is_ending = True
        if self.sentry:
            # a child that was not reaped yet, so the pid is still its own
            os.kill(self.sentry, signal.SIGKILL)
        if self.middle:
            os.kill(self.middle, signal.SIGKILL)

    def _reap(self) -> None:
        """Reap children; the death of a part ends the sandbox."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            part = self.parts.pop(pid, "")
            gone = self.further.pop(pid, None)
            if gone is not None:
                self._forget(gone)
                continue
            if pid == self.middle:
                self.middle = 0
            if pid == self.sentry:
                self.sentry = 0
            if part and not self.is_ending and (os.WIFSIGNALED(status) or status and part != _ANALYST):
                # (The end of an analyst only makes system calls slower.)
                how = f"signal {status & 0x7F}" if os.WIFSIGNALED(status) else f"status {status >> 8}"
                self.say(DIED + f"the {part} died ({how})".encode())
                self.end_sentry()
            elif part == _SENTRY:
                self.is_ending = True

    def _forget(self, gone: Further) -> None:
        """The gofer of a container that has joined has ended: tell the monitor."""
        if gone.is_ready:
            self.say(LOST + gone.number.to_bytes(4, "little"))
        else:
            self._hear_further(gone)

    def say(self, message: bytes) -> None:
        """Send the monitor a message, if it is alive."""
        try:
            self.link.send(message)
        except OSError:
            pass

    # -- the end -------------------------------------------------------------------------------------------
    def finish(self) -> None:
        """The sentry has ended, or did not start: end guests and servers, and remove what a monitor that died has
        left.
        """
        self.end_sentry()
        if self.tell is not None:
            self.tell.close()
        for group in self.asking:
            for sock in group:
                sock.close()
        for each in self.further.values():
            each.gofer.sock.close()
        for server in (self.gofer, self.broker, self.egress, self.connector, self.network):
            if server is not None:
                server.sock.close()
                server.hello.close()
        servers = set(self.parts)
        end_orphans(servers.__contains__)
        deadline = time.monotonic() + _GRACE_S
        while self.parts and time.monotonic() < deadline:
            self._reap()
            if self.parts:
                poller = select.poll()
                poller.register(self.wake_read, select.POLLIN)
                if poller.poll(100):
                    os.read(self.wake_read, 512)
        end_orphans()
        if self.has_monitor:
            self._reread_link()
        if not self.has_monitor:
            self._clean_up()

    def _reread_link(self) -> None:
        """Find out whether the monitor has died meanwhile."""
        self.link.setblocking(False)
        try:
            while self.has_monitor:
                if not self.link.recv(64):
                    self.has_monitor = False
        except BlockingIOError:
            pass
        except OSError:
            self.has_monitor = False

    def _clean_up(self) -> None:
        """Remove the control groups and the record of a monitor that was killed."""
        if self.request.get("groups"):
            from cloche.runtime.cgroups import remove_all

            remove_all(self.request["groups"])
        if self.request.get("record"):
            from cloche.runtime.records import Store

            root, name, is_temporary = self.request["record"]
            Store(root).clean(RecordPlace(self.fds["record"], root, name, is_temporary=is_temporary))


def has_data(sock: socket.socket) -> bool:
    """Whether there is something to read: the other end's death makes it readable, too."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False


def hear(tell: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """The keeper's next message and what came with it; b"": the keeper has ended.

    One that ends before it has read what was said to it resets the connection (unix(7): ECONNRESET).
    """
    try:
        packet, ancillary, _flags, _address = tell.recvmsg(
            1024, socket.CMSG_SPACE(4 * (_MAX_FDS + 4)), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return b"", []
    return packet, ancillary


def _read_request(fd: int) -> dict[str, Any]:
    request: dict[str, Any] = marshal.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    return request


def _middle(tell: socket.socket, *, is_ahead: bool) -> int:
    """The process between keeper and sentry: imports the kernel, enters the namespaces, forks the sentry and reports
    its pid.

    The spec is not known yet; the sentry gets it later.
    """
    from cloche.boot.sentry import await_keeper, begin_ahead, begin_sentry, sentry_main
    from cloche.platform.choose import open_stubs

    stubs = open_stubs()
    timing.mark("sentry: kernel is imported")
    confine.detach_from_terminal()
    report = confine.Report()
    confine.set_limits(report)
    try:
        confine.enter_user_namespace(report, tell)
        confine.enter_namespaces(report, confine.SENTRY_NAMESPACES)
        sentry = os.fork()
        if sentry:
            tell.send(b"%d" % sentry)
            return 0
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the keeper has died
    facts = begin_sentry(report)
    timing.mark("sentry: waits for its work")
    begun = begin_ahead(report, tell, facts, stubs) if is_ahead else None
    if not is_ahead and not await_keeper(tell):
        return 0  # it has died
    packet, ancillary = hear(tell)
    if not packet:
        return 0  # the fork has failed, and has reported why
    numbers = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) // numbers.itemsize * numbers.itemsize])
    fds = dict(zip(packet.decode().split(), numbers.tolist(), strict=True))
    memory = fds.pop("request")
    request = _read_request(memory)
    os.close(memory)
    os.environ.update(request["settings"])
    spec = load(request["spec"])
    if "record" in fds:
        os.close(fds.pop("record"))
    if "stderr" in fds:
        stderr = fds.pop("stderr")
        os.dup2(stderr, 2)
        os.close(stderr)
    if "strace" in fds:
        spec.strace_fd = fds.pop("strace")
    spec.device_fd = fds.pop("device", -1)
    files = socket.socket(fileno=fds["gofer"]) if "gofer" in fds else None
    ports = socket.socket(fileno=fds["broker"]) if "broker" in fds else None
    outside = socket.socket(fileno=fds["egress"]) if "egress" in fds else None
    control = socket.socket(fileno=fds["control"])
    network = socket.socket(fileno=fds["network"]) if "network" in fds else None
    return sentry_main(spec, files, ports, outside, network, control, report, tell, facts, stubs, begun)


def main(now_ns: int) -> NoReturn:
    """The whole life of a process that was executed to be a keeper; its interpreter was ready at `now_ns`."""
    timing.mark("keeper: interpreter is up", now_ns)
    timing.mark("keeper: modules are imported")
    for fd in range(3):  # closed ones must not become something else
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    _live(KEEPER_FD, is_ahead=False)


def fork_keeper(
    before: "Callable[[], None]" = confine.detach_from_terminal, *, is_ahead: bool = True
) -> KeeperProcess:
    """Fork a keeper from this process, which is a child of the template and holds no data of a user yet.

    `is_ahead`: the sentry gets ready for a usual sandbox at once, because this process has imported all of it.
    """
    ours, theirs = high_pair(socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            before()
            timing.begin()
            timing.mark("keeper: is forked")
            _live(theirs.detach(), is_ahead=is_ahead)
        finally:
            os._exit(EXIT_INTERNAL)
    theirs.close()
    return KeeperProcess(pid, ours)


def fork_first_keeper(*, is_ahead: bool = False) -> KeeperProcess:
    """Fork a keeper from the command, which began with an empty environment and has read nothing yet."""
    return fork_keeper(_leave_command, is_ahead=is_ahead)


def _leave_command() -> None:
    """Give a fork of the command what `spawn_keeper` and the template give theirs: a session of its own, default
    signal handling, and no standard input and output.
    """
    confine.detach_from_terminal()
    for signo in _DEFAULT:
        signal.signal(signo, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    try:
        os.fstat(2)
    except OSError:  # closed: it must not become something else
        os.dup2(null, 2)


def _live(link: int, *, is_ahead: bool) -> NoReturn:
    """Run the keeper, which holds nothing but its socket, until its end."""
    status = 0
    try:
        ignore_signals()
        confine.name_process("cloche-keeper")
        confine.close_all_but([0, 1, 2, link])
        os.set_inheritable(link, False)
        os.chdir("/")
        hostsys.prctl(PR_SET_CHILD_SUBREAPER, 1)
        keeper = Keeper(socket.socket(fileno=link))
        keeper.prepare(is_ahead=is_ahead)
        try:
            keeper.start()
            keeper.serve()
        except StartFailure as refusal:
            keeper.is_ending = True
            keeper.finish()
            keeper.say(FAILED + bytes([EXIT_INTERNAL]) + str(refusal).encode()[:4000])
        except Abandoned:
            keeper.finish()
        else:
            keeper.finish()
        keeper.say(GONE)
    except OSError as problem:
        status = EXIT_INTERNAL
        if sys.stderr is not None:
            sys.stderr.write(f"cloche: the keeper: {problem}\n")
    except BaseException as failure:
        status = EXIT_INTERNAL
        sys.excepthook(type(failure), failure, failure.__traceback__)
    os._exit(status)
