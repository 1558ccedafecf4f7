"""The sentry's end of the control connection: what the monitor asks of it (`wire.requests`), and its answers.

The monitor holds every socket that clients can reach. The sentry gets only the monitor's requests, with the
descriptors that clients gave it. Containers are made, started and ended by these requests, the first like any other.
When the monitor dies everything ends (I5). Nothing here waits for the monitor: messages that it does not read at once
are queued.
"""

import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from cloche.abi.errno import LinuxError
from cloche.abi.poll import EPOLLIN, EPOLLOUT
from cloche.abi.signal import SIGHUP, SIGINT, SIGKILL, SIGTERM
from cloche.boot.assemble import add_container, add_volume, remove_container, user_namespace_of
from cloche.boot.execs import Answers, ExecTable, process_rows, signal_all
from cloche.boot.files import FileTable
from cloche.boot.memory_guard import share_kernel_memory
from cloche.boot.network_links import show_links
from cloche.boot.spec import SandboxSpec, from_fields
from cloche.boot.start import (
    Failure,
    Streams,
    check_program,
    explain,
    rehearse,
    start_program,
    user_credentials,
)
from cloche.fs.hostfd import remember_owner
from cloche.kernel import container as containers
from cloche.kernel.accounting import all_cpu_ns, guest_rss_bytes
from cloche.kernel.chores import Chore
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.loop import resume_container
from cloche.kernel.patience import Patience
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.signals import send_group_signal
from cloche.kernel.task import ENDED, Container, Kernel, ThreadGroup
from cloche.kernel.timers import monotonic_ns
from cloche.net.inet_addr import LOOPBACK4
from cloche.net.joined import guard_network, open_network
from cloche.net.outward import open_gateway
from cloche.net.published import Publisher, publish
from cloche.platform.interface import PlatformDied
from cloche.wire import files, protocol, requests, timing
from cloche.wire.broker import Arrival
from cloche.wire.channel import Channel
from cloche.wire.descriptors import as_connection
from cloche.wire.protocol import Fields, Message, ProtocolError, take_bool, take_int, take_list

EXIT_INTERNAL: Final = 125
SOFTWARE: Final = "cloche sentry"
_FAREWELL_S: Final = 2.0
_NEWS_NS: Final = 500_000_000
_ENDING: Final = (SIGHUP, SIGINT, SIGKILL, SIGTERM)

Prepare = Callable[[Container, SandboxSpec], None]


class Served:
    """A container with its requests, commands and streams from outside."""

    def __init__(
        self, container: Container, spec: SandboxSpec, streams: Streams, execs: ExecTable, table: FileTable
    ) -> None:
        self.container: Container = container
        self.spec: SandboxSpec = spec
        self.streams: Streams = streams
        self.execs: ExecTable = execs
        self.files: FileTable = table
        self.gofer: socket.socket | None = None
        self.publisher: Publisher | None = None  # takes connections to its ports
        self.waiting: list[int] = []  # `wait` requests
        self.is_finished: bool = False  # it has ended, and its output is out
        self.is_starting: bool = False  # its program is being looked for


class Starting(Chore):
    """The start of a program while others run: all answers of the gofer are fetched before anything is made."""

    def __init__(self, control: "Control", served: Served, ident: int) -> None:
        self.control: Control = control
        self.served: Served = served
        self.ident: int = ident
        kernel = control.kernel
        self.patience: Patience = Patience(kernel.host_waits, kernel.chores, self)

    def step(self) -> bool:
        try:
            self.patience.attempt(self._go)
        except LinuxError as refusal:
            self.control.fail(self.ident, EXIT_INTERNAL, f"{requests.START}: {explain(refusal.errno)}")
        except OSError as failure:
            self.control.fail(self.ident, EXIT_INTERNAL, f"{requests.START}: {failure.strerror or failure}")
        return False

    def _go(self) -> bool:
        """Try to start; called again until the gofer has answered everything."""
        served, spec = self.served, self.served.spec
        container = served.container
        root = container.root
        if root is None or self.control.served.get(container.ident) is not served:
            self.control.fail(self.ident, EXIT_INTERNAL, f"container {container.ident} is gone")
            return True
        if not spec.is_idle:
            creds = user_credentials(container, spec, spec.uid, spec.gid, spec.groups)
            rehearse(container, root, creds, spec.cwd, spec.argv, spec.env)
        container.kernel.host_waits.rehearsed()
        self.control.start(served, self.ident)
        return True


class Rest(Chore):
    """The requests behind one that takes long."""

    def __init__(self, control: "Control") -> None:
        self.control: Control = control

    def step(self) -> bool:
        self.control.take_waiting()
        return False


class Control(Answers, FdWatcher):
    """Takes requests and answers them."""

    def __init__(
        self,
        kernel: Kernel,
        sock: socket.socket,
        gofer: socket.socket | None,
        broker: socket.socket | None,
        egress: socket.socket | None,
        network: socket.socket | None,
        prepare: Prepare,
    ) -> None:
        """`gofer`, `broker`, `egress`, `network`: of the first container.

        `prepare` sets limits before a program starts.
        """
        self.kernel: Kernel = kernel
        self.gofer: socket.socket | None = gofer
        self.broker: socket.socket | None = broker
        self.egress: socket.socket | None = egress
        self.network: socket.socket | None = network
        self.prepare: Prepare = prepare
        # Called once there are guests that could be kept waiting
        self.begin_metering: Callable[[], None] | None = None
        self.served: dict[str, Served] = {}
        self.waiting: deque[Message] = deque()  # requests that have come
        self.rest: Rest = Rest(self)
        self.listening: list[int] = []  # requests for events
        self.channel: Channel = Channel(sock, SOFTWARE)
        self.token: int = kernel.fds.watch(sock.fileno(), EPOLLIN, self)
        self.is_writing: bool = False
        self.shutdown_ident: int = -1  # the request for the end, which is answered last
        self.told_at_ns: int = 0  # when the monitor was last told that layers are being written
        # number of kills that were reported, and of those of them that were the host's, by container
        self.oom_kills: dict[str, tuple[int, int]] = {}
        kernel.hooks.container_ended = self.container_ended
        kernel.hooks.at_group_exit["news"] = self.group_exits

    # -- out -------------------------------------------------------------------------------------------
    def send(self, frame: bytes) -> None:
        """Send a frame now, or after those that wait."""
        try:
            self.channel.send(frame)
        except ProtocolError:
            self.end_at_once()  # the monitor does not read any more
        self._watch()

    def _watch(self) -> None:
        wants_write = self.channel.wants_write()
        if wants_write != self.is_writing:
            self.is_writing = wants_write
            events = EPOLLIN | EPOLLOUT if wants_write else EPOLLIN
            self.kernel.fds.rewatch(self.channel.fileno(), self.token, events)

    def reply(self, ident: int, fields: Fields) -> None:
        """The answer to a request."""
        self.send(protocol.reply(ident, fields))

    def fail(self, ident: int, status: int, text: str) -> None:
        """The answer to a request that has failed."""
        self.send(protocol.error(ident, status, text))

    def event(self, ident: int, name: str, fields: Fields) -> None:
        """An event of a request."""
        self.send(protocol.event(ident, name, fields))

    def tell(self, container: Container, name: str) -> None:
        """Send an event of a container to every request for events."""
        self._tell(name, {"container": container.ident})

    def _tell(self, name: str, fields: Fields) -> None:
        for ident in self.listening:
            self.event(ident, name, fields)

    def group_exits(self, group: ThreadGroup) -> None:
        """Tell of a process that was ended for want of memory."""
        container = group.container
        kills, by_host = self.oom_kills.get(container.ident, (0, 0))
        if container.oom_kills > kills:
            self.oom_kills[container.ident] = container.oom_kills, container.host_kills
            is_host_s = container.host_kills > by_host
            self._tell(requests.OOM, {"container": container.ident, "by_host": is_host_s})

    # -- in --------------------------------------------------------------------------------------------
    def fd_ready(self, token: int, events: int) -> None:
        """Requests of the monitor, or its death."""
        if events & EPOLLOUT:
            self.channel.flush()
            self._watch()
        if not events & ~EPOLLOUT:
            return
        try:
            messages = self.channel.receive()
        except ProtocolError:
            messages = None
        if messages is None:
            self.end_at_once()
            return
        self.waiting.extend(messages)
        if len(messages) > 1:
            self.kernel.chores.append(self.rest)  # the rest runs as a chore, in turns with the guests
        self.take_waiting()

    def take_waiting(self) -> None:
        """The requests that have come."""
        while self.waiting:
            self._take(self.waiting.popleft())

    def close(self) -> None:
        """The sandbox ends: write kept layers, and send the last answers."""
        errno = 0
        for served in self.served.values():
            if served.container.keeping is not None:
                errno = served.container.keeping.close(self.progress) or errno
        if self.shutdown_ident >= 0:
            self.reply(self.shutdown_ident, {"layer_errno": errno})
        self.channel.flush_all(_FAREWELL_S)
        self.channel.close()
        for served in self.served.values():
            if served.gofer is not None:
                served.gofer.close()  # the gofer ends meanwhile

    def progress(self) -> None:
        """More of a layer was written: tell the monitor now and then that the work goes on."""
        now = monotonic_ns()
        if self.shutdown_ident >= 0 and now - self.told_at_ns >= _NEWS_NS:
            self.told_at_ns = now
            self.event(self.shutdown_ident, requests.WRITING, {})

    def end_at_once(self) -> None:
        """The monitor is gone: end the sandbox at once."""
        self.kernel.platform.shutdown()
        os._exit(EXIT_INTERNAL)

    def _take(self, message: Message) -> None:
        try:
            if message.kind == protocol.REQUEST:
                self._request(message)
            elif message.kind == protocol.CANCEL:
                self._cancel(message.ident)
        except ProtocolError as error:
            self.fail(message.ident, EXIT_INTERNAL, str(error))
        except LinuxError as refusal:
            self.fail(message.ident, EXIT_INTERNAL, f"{message.name}: {explain(refusal.errno)}")
        except OSError as failure:
            self.fail(message.ident, EXIT_INTERNAL, f"{message.name}: {failure.strerror or failure}")
        except PlatformDied:
            raise  # the sandbox ends with this error, which the monitor is told
        except Exception as bug:
            # Reported like any bug of cloche; the asker gets an answer all the same.
            self.fail(
                message.ident, EXIT_INTERNAL, f"{message.name}: internal error: {type(bug).__name__}: {bug}"
            )
            raise
        finally:
            message.close_fds()

    def _request(self, message: Message) -> None:
        """Raises ProtocolError, LinuxError, OSError."""
        name, ident, fields = message.name, message.ident, message.fields
        if name == requests.PING:
            self.reply(ident, {})
        elif name == requests.SIGNAL:
            self._signal(ident, fields)
        elif name == requests.RESIZE:
            self._resize(ident, fields)
        elif name == requests.EXEC:
            self._exec(message)
        elif name == requests.DIAL:
            self._dial(message)
        elif name == requests.CREATE:
            self._create(message)
        elif name == requests.START:
            self._start(ident, fields)
        elif name == requests.WAIT:
            self._wait(ident, fields)
        elif name == requests.PS:
            self.reply(ident, requests.process_fields(process_rows(self._find(fields).container)))
        elif name == requests.STATS:
            self.reply(ident, stats(self._find(fields).container))
        elif name == requests.LIST:
            self.reply(ident, {"containers": [describe(each.container) for each in self.served.values()]})
        elif name == requests.PAUSE:
            container = self._find(fields).container
            containers.pause(container)
            # Before the answer: who has it may end everything.
            self.tell(container, requests.PAUSED)
            self.reply(ident, {})
        elif name == requests.RESUME:
            container = self._find(fields).container
            resume_container(container)
            self.tell(container, requests.RESUMED)
            self.reply(ident, {})
        elif name == requests.EVENTS:
            self.listening.append(ident)
        elif name in files.METHODS:
            self._find(fields).files.request(message)
        elif name == requests.UPDATE:
            self._update(ident, fields)
        elif name == requests.TOLD:
            self._find(fields).container.told_kills += take_int(fields, "kills", 0, 0, 1 << 31)
            self.reply(ident, {})
        elif name == requests.DELETE:
            self._delete(ident, fields)
        elif name == requests.SHUTDOWN:
            self.shutdown_ident = ident  # `close` answers
            self.kernel.is_over = True
        else:
            raise ProtocolError(f"an unknown request: {name}")

    def _cancel(self, ident: int) -> None:
        """The client does not wait for the answer any more: the command that it executed ends, unless it was
        detached.
        """
        if ident in self.listening:
            self.listening.remove(ident)
        for served in self.served.values():
            if ident in served.waiting:
                served.waiting.remove(ident)
            served.execs.abandon(ident)
            served.files.abandon(ident)

    def _find(self, fields: Fields) -> Served:
        """Raises ProtocolError."""
        ident = requests.take_container(fields)
        found = self.served.get(ident)
        if found is None:
            raise ProtocolError(f"there is no container {ident}")
        return found

    def _find_exec(self, fields: Fields) -> tuple[Served, int] | None:
        """The command that a request names by the id of its own; None if it names none, or one that has ended."""
        if "exec" not in fields:
            return None
        ident = take_int(fields, "exec", 0, 0, protocol.MAX_ID)
        for served in self.served.values():
            if served.execs.has(ident):
                return served, ident
        raise ProtocolError("no command of this id runs")

    def _dial(self, message: Message) -> None:
        """A connection to a port.  Raises ProtocolError."""
        served = self._find(message.fields)
        port = take_int(message.fields, "port", 0, 1, 0xFFFF)
        peer_port = take_int(message.fields, "peer_port", 0, 0, 0xFFFF)
        if served.publisher is None:
            raise ProtocolError("its ports are not reached from outside; make the sandbox with --reachable")
        if len(message.fds) != 1:
            raise ProtocolError("a connection is missing, or there are too many")
        host = as_connection(os.dup(message.fds[0]))
        if host is None:
            raise ProtocolError("a descriptor that is no connection of TCP")
        if served.publisher.arrive(Arrival(port, LOOPBACK4, peer_port), host):
            self.reply(message.ident, {})
        else:
            self.fail(message.ident, requests.STATUS_REFUSED, f"nobody listens at port {port}")

    # -- containers --------------------------------------------------------------------------------------
    def _create(self, message: Message) -> None:
        """Raises ProtocolError, LinuxError, OSError."""
        fields = message.fields
        ident = requests.take_container(fields)
        data = fields.get("spec")
        if not isinstance(data, dict):
            raise ProtocolError("no spec")
        spec = from_fields(data)
        roles: list[str] = []
        for role in take_list(fields, "descriptors", protocol.MAX_FDS):
            if not isinstance(role, str) or role in roles:
                raise ProtocolError("roles of descriptors are names, each once")
            roles.append(role)
        if len(roles) != len(message.fds):
            raise ProtocolError("descriptors are missing, or too many")
        owners = requests.take_owners(fields, len(roles))
        given: dict[str, int] = {}
        for role, fd, owner in zip(roles, message.fds, owners, strict=True):
            given[role] = fd
            remember_owner(self.kernel, fd, owner)
        gofer = self.gofer
        is_first = requests.GOFER not in given
        if not is_first:
            gofer = socket.socket(fileno=os.dup(given[requests.GOFER]))
        else:
            self.gofer = None
        if "oom" in given:
            spec.oom_fd = os.dup(given["oom"])
        share, kinds = self._shared(fields)
        user_ns = user_namespace_of(self.kernel, spec)
        for role in roles:
            if role.startswith(requests.VOLUME):
                name = role.removeprefix(requests.VOLUME).encode()
                add_volume(self.kernel, name, socket.socket(fileno=os.dup(given[role])), user_ns)
        try:
            container = add_container(
                self.kernel, ident, spec, gofer, share, kinds, user_ns, is_first=is_first
            )
        except (LinuxError, OSError):
            if gofer is not None and not is_first:
                gofer.close()  # the gofer ends, and nothing else does
            raise
        try:
            self._made(message.ident, container, spec, gofer, given)
        finally:
            if container.storage is not None:
                container.storage.shared()

    def _made(
        self,
        ident: int,
        container: Container,
        spec: SandboxSpec,
        gofer: socket.socket | None,
        given: dict[str, int],
    ) -> None:
        """Finish a container that was made: prepare its streams for the start, and answer. Raises LinuxError,
        OSError.
        """
        # After the hook that counts the host's kills in this container.
        self.kernel.hooks.at_group_exit["news"] = self.kernel.hooks.at_group_exit.pop("news")
        roles = [requests.stream_role(number) for number in range(requests.MAX_STREAMS)]
        streams = Streams(container, spec, [_taken(given, role) for role in roles])
        container.stdio = streams.files
        table = FileTable(container, spec, self)
        served = Served(container, spec, streams, ExecTable(container, spec, self), table)
        served.gofer = gofer
        self.served[container.ident] = served
        failure = check_program(container, spec) if spec.checks_program else None
        if failure is not None:
            self.fail(ident, failure.status, failure.text)
            return
        if self.broker is not None and spec.published:
            served.publisher = publish(container, self.broker)
            self.broker = None
        elif spec.is_reachable:
            served.publisher = publish(container, None)
        if self.egress is not None and spec.net_address:
            open_gateway(container, self.egress, spec.net_address, spec.net_address6)
            self.egress = None
        root = container.root
        if self.network is not None and spec.has_network and root is not None:
            joined = open_network(container, root, self.network)
            show_links(self.kernel, joined)
            self.network = None
            if self.egress is not None:
                guard_network(joined, self.egress)
                self.egress = None
        streams.install(container)
        timing.mark("sentry: container is made")
        self.reply(ident, {"zygote": container.family[1]})

    def _shared(self, fields: Fields) -> tuple[Container | None, list[str]]:
        """Which namespaces a new container shares, and with whom.  Raises ProtocolError."""
        kinds: list[str] = []
        for kind in take_list(fields, "share", len(containers.SHAREABLE)):
            if not isinstance(kind, str) or kind not in containers.SHAREABLE or kind in kinds:
                raise ProtocolError(f"what can be shared: {', '.join(containers.SHAREABLE)}, each once")
            kinds.append(kind)
        if not kinds:
            return None, kinds
        found = self.served.get(protocol.take_text(fields, "share_with"))
        if found is None:
            raise ProtocolError("there is no container to share namespaces with")
        return found.container, kinds

    def _start(self, ident: int, fields: Fields) -> None:
        served = self._find(fields)
        if served.container.main is not None or served.is_starting:
            raise ProtocolError(f"container {served.container.ident} has been started before")
        served.spec.has_cpu_group = take_bool(fields, "has_cpu_group")
        if len(self.served) > 1:  # other containers run, which must not wait for its storage
            served.is_starting = True
            Starting(self, served, ident).step()
        else:
            self.start(served, ident)

    def start(self, served: Served, ident: int) -> None:
        """Start the first program of a container. Raises LinuxError, OSError."""
        container = served.container
        self.prepare(container, served.spec)
        failure: Failure | None = start_program(container, served.spec)
        if failure is not None:
            self.fail(ident, failure.status, failure.text)
            return
        answer: Fields = {"pid": describe(container)["pid"]}
        if served.spec.is_timed:
            timing.mark("sentry: program is loaded")
            answer["timing"] = timing.encode(timing.marks())
        self.reply(ident, answer)
        self.tell(container, requests.STARTED)
        begin, self.begin_metering = self.begin_metering, None
        if begin is not None:
            begin()

    def _wait(self, ident: int, fields: Fields) -> None:
        served = self._find(fields)
        served.waiting.append(ident)
        if served.is_finished:
            self._answer_waiting(served)

    def container_ended(self, container: Container) -> None:
        """The first program has ended; its terminal may still hold output."""
        served = self.served.get(container.ident)
        if served is not None:
            served.streams.finish(lambda: self._finish(served))

    def _finish(self, served: Served) -> None:
        served.is_finished = True
        self._answer_waiting(served)
        self.tell(served.container, requests.ENDED)

    def _answer_waiting(self, served: Served) -> None:
        container = served.container
        fields: Fields = {"status": container.exit_status, "oom_kills": container.oom_kills}
        waiting, served.waiting = served.waiting, []
        for ident in waiting:
            self.reply(ident, fields)

    def _update(self, ident: int, fields: Fields) -> None:
        """Change the limits of a container that runs."""
        container = self._find(fields).container
        if "memory_bytes" in fields:
            container.memory_limit = take_int(fields, "memory_bytes", -1, -1, 1 << 62)
            share_kernel_memory(self.kernel)
        if "max_tasks" in fields:
            container.max_tasks = take_int(fields, "max_tasks", 1, 1, 1 << 22)
        self.reply(ident, {})

    def _delete(self, ident: int, fields: Fields) -> None:
        served = self._find(fields)
        container = served.container
        if container.state != ENDED:
            if not take_bool(fields, "is_forced"):
                raise ProtocolError(f"container {container.ident} is {container.state}")
            containers.kill(container)
        served.files.close()
        remove_container(container)
        if served.gofer is not None:
            served.gofer.close()
        del self.served[container.ident]
        self.oom_kills.pop(container.ident, None)
        self.reply(ident, {})

    # -- programs ----------------------------------------------------------------------------------------
    def _exec(self, message: Message) -> None:
        request = requests.exec_request(message.fields, len(message.fds))
        served = self._find(message.fields)
        for fd, owner in zip(
            message.fds, requests.take_owners(message.fields, len(message.fds)), strict=True
        ):
            remember_owner(self.kernel, fd, owner)
        fds, message.fds = message.fds, []
        served.execs.start(message.ident, request, fds)

    def _signal(self, ident: int, fields: Fields) -> None:
        signo, scope = requests.take_signal(fields), requests.take_scope(fields)
        command = self._find_exec(fields)
        if command is not None:
            command[0].execs.signal(command[1], signo, scope)
        else:
            container = self._find(fields).container
            main = container.main
            if main is None and scope == requests.PROCESS and signo in _ENDING:
                containers.kill(container)  # idle: there is no program inside that could get the signal
            elif scope == requests.ALL:
                signal_all(container, signo)
            elif main is not None and scope == requests.PROCESS:
                send_group_signal(self.kernel, main, signo)
            elif main is not None and main.pgrp is not None:
                for group in list(main.pgrp.members):
                    send_group_signal(self.kernel, group, signo)
        self.reply(ident, {})

    def _resize(self, ident: int, fields: Fields) -> None:
        rows = take_int(fields, "rows", 0, 0, 0xFFFF)
        columns = take_int(fields, "columns", 0, 0, 0xFFFF)
        command = self._find_exec(fields)
        if command is not None:
            command[0].execs.resize(command[1], rows, columns)
        else:
            bridge = self._find(fields).streams.bridge
            if bridge is not None:
                bridge.resize(rows, columns)
        self.reply(ident, {})


def _taken(given: dict[str, int], role: str) -> int:
    """Take over the descriptor for a role; -1: the client's is closed, and so will the program's be."""
    return os.dup(given[role]) if role in given else -1


def describe(container: Container) -> Fields:
    """A container in the answer to `list`."""
    main = container.main
    return {
        "id": container.ident,
        "state": container.state,
        "pid": main.own_tgid if main is not None else 0,
        "status": container.exit_status,
    }


def stats(container: Container) -> Fields:
    """Figures of a container."""
    user_ns, system_ns = all_cpu_ns(container)
    return {
        "memory": guest_rss_bytes(container),
        "memory_limit": container.memory_limit,
        "tasks": container.task_count,
        "tasks_limit": container.max_tasks,
        "user_ns": user_ns,
        "system_ns": system_ns,
        "oom_kills": container.oom_kills,
        "internal_errors": container.kernel.internal_errors,
        "overdue_kills": container.kernel.overdue_kills,
        "processes": len([1 for group in container.kernel.groups.values() if group.container is container]),
        "first": pid_in(container.pid_ns, container.main.tgid) if container.main is not None else 0,
    }
