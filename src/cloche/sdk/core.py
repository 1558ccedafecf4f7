"""A sandbox, as both fronts use it: making, finding, looking, ending.  Generators of effects (`sdk.effects`)."""

import os
import signal
import socket
import time
import weakref
from typing import Final

from cloche.boot.spawn import spawn_host, spawn_template
from cloche.runtime import template
from cloche.runtime.records import RUNNING, RecordError, State, Store, new_name
from cloche.sdk.arguments import check_seconds, is_whole
from cloche.sdk.effects import Steps, deadline_of, wait
from cloche.sdk.errors import (
    InvalidArgument,
    NotFound,
    PortClosed,
    SandboxEnded,
    SandboxError,
    SandboxTimeout,
    StartError,
)
from cloche.sdk.link import ANOTHER, PATIENCE_S, SOFTWARE, Link, Refused, call, connect
from cloche.sdk.options import Options
from cloche.sdk.results import Metrics, ProcessInfo, SandboxInfo
from cloche.wire import requests
from cloche.wire.channel import Channel
from cloche.wire.protocol import Fields, ProtocolError, take_bytes, take_int, take_text

START_S: Final = 60.0  # storage may be slow
_TEMPLATE_S: Final = 20.0  # for the template to start, or start again, and to fork
_LAUNCH: Final = "launch"
_RELEASE: Final = "release"
_USAGE: Final = 2  # EXIT_USAGE of `cli.hosted`: what was asked for makes no sense
_MAX: Final = 1 << 62

# Leashes that this process holds. A process that is forked from this one must not hold them.
_LEASHES: Final[set[socket.socket]] = set()


def _let_go_in_child() -> None:
    for leash in _LEASHES:
        leash.close()
    _LEASHES.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


def _let_go(leash: socket.socket) -> None:
    _LEASHES.discard(leash)
    leash.close()


class SandboxCore:
    """A sandbox that runs, or has run. If this object holds its leash, a socket, the sandbox ends with this object
    and with this process.
    """

    def __init__(self, name: str, root: str, pid: int, cwd: str = "") -> None:
        self.name: str = name
        self.root: str = root
        self.pid: int = pid  # of its monitor
        self.cwd: str = cwd
        self.finalizer: weakref.finalize[[socket.socket], SandboxCore] | None = None

    def hold(self, leash: socket.socket) -> None:
        """Keep the leash as long as this object exists."""
        _LEASHES.add(leash)
        self.finalizer = weakref.finalize(self, _let_go, leash)

    def connect(self) -> Link:
        """Open a connection for one call. Raises SandboxEnded."""
        return connect(self.root, self.name, was_known=True)

    def call(self, method: str, fields: Fields | None = None) -> Steps[Fields]:
        """One request."""
        return call(self.root, self.name, method, fields or {})

    # -- ending ------------------------------------------------------------------------------------------
    def kill(self) -> Steps[bool]:
        """End it at once; whether it was running."""
        was_running = True
        try:
            yield from self.call(requests.STOP, {"patience_ms": 0})
        except SandboxEnded:
            was_running = False
        finally:
            if self.finalizer is not None:
                self.finalizer()
        return was_running

    def set_timeout(self, timeout: float | None) -> Steps[None]:
        """Limit the sandbox's life to so many seconds from now; None: no limit."""
        check_seconds("timeout", timeout)
        if timeout is not None and timeout > 2_000_000:
            raise InvalidArgument(
                f"timeout: {timeout}: more than 0 and at most 2,000,000 seconds, or None for no limit"
            )
        limit_ms = 0 if timeout is None else max(int(timeout * 1000), 1)
        yield from self.call(requests.TIME, {"limit_ms": limit_ms})

    # -- looking -----------------------------------------------------------------------------------------
    def is_running(self) -> Steps[bool]:
        """Whether it answers."""
        try:
            yield from self.call(requests.PING)
        except SandboxEnded:
            return False
        return True

    def info(self) -> Steps[SandboxInfo]:
        """The sandbox's name, state and options."""
        left = yield from self.call(requests.TIME)
        found = yield from self.call(requests.LIST)
        left_ms = take_int(left, "left_ms", 0, 0, _MAX)
        state = _find_state(self.root, self.name)
        containers = found.get("containers")
        first = containers[0] if isinstance(containers, list) and containers else {}
        is_paused = isinstance(first, dict) and first.get("state") == "paused"
        return _info(state, "paused" if is_paused else "running", left_ms / 1000 if left_ms else None)

    def metrics(self) -> Steps[Metrics]:
        """The resources that the sandbox uses."""
        figures = yield from self.call(requests.STATS)

        def number(name: str) -> int:
            value = figures.get(name)
            return value if isinstance(value, int) else 0

        limit = number("memory_limit")
        return Metrics(
            memory_bytes=number("memory"),
            memory_limit_bytes=limit if limit > 0 else None,
            cpu_seconds=(number("user_ns") + number("system_ns")) / 1e9,
            processes=number("processes"),
            tasks=number("tasks"),
            tasks_limit=number("tasks_limit"),
            oom_kills=number("oom_kills"),
        )

    def processes(self) -> Steps[list[ProcessInfo]]:
        """The processes inside."""
        fields = yield from self.call(requests.PS)
        try:
            rows = requests.processes(fields)
        except ProtocolError as error:
            raise SandboxError(str(error)) from None
        return [
            ProcessInfo(
                row.pid,
                row.ppid,
                row.uid,
                row.state,
                row.cpu_ns / 1e9,
                [part.decode(errors="replace") for part in row.command.rstrip(b"\0").split(b"\0")],
            )
            for row in rows
        ]

    def signal_all(self, signo: int) -> Steps[None]:
        """A signal to every process inside."""
        yield from self.call(requests.SIGNAL, {"signal": signo, "scope": requests.ALL})

    def host(self, port: int) -> str:
        """The address and port of the host that lead to a port of the sandbox. Raises InvalidArgument, SandboxEnded."""
        found = _info(_find_state(self.root, self.name), "running", None).ports.get(port)
        if found is None:
            raise InvalidArgument(f"port {port} is not published", f"make the sandbox with ports=[{port}]")
        return found

    def dial(self, port: int) -> Steps[socket.socket]:
        """A connection to a port of the sandbox. Raises PortClosed, InvalidArgument, SandboxError."""
        if not is_whole(port, 1, 0xFFFF):
            raise InvalidArgument(f"port: {port!r}: from 1 to 65535")
        try:
            ours, theirs = _loopback_pair()
        except OSError as error:
            raise SandboxError(f"no connection on this host's loopback: {error.strerror or error}") from None
        try:
            with theirs:
                link = self.connect()
                try:
                    fields: Fields = {"port": port, "peer_port": ours.getsockname()[1]}
                    ident = link.ask(requests.DIAL, fields, [theirs.fileno()])
                    yield from link.answer(ident, deadline_of(PATIENCE_S))
                finally:
                    link.close()
        except BaseException as failure:
            ours.close()
            if isinstance(failure, Refused) and failure.status == requests.STATUS_REFUSED:
                raise PortClosed(str(failure)) from None
            raise
        return ours


def _loopback_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a TCP connection. Connections that other programs of this machine make meanwhile are closed.

    Raises OSError.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        ours = socket.create_connection(server.getsockname(), PATIENCE_S)
        try:
            while True:
                theirs, peer = server.accept()
                if peer == ours.getsockname():
                    break
                theirs.close()
        except BaseException:
            ours.close()
            raise
    ours.settimeout(None)
    return ours, theirs


def _find_state(root: str, name: str) -> State:
    try:
        return Store(root).find(name)
    except RecordError as error:
        raise SandboxEnded(f"{error}: the sandbox has ended", ANOTHER) from None


def _info(state: State, status: str, seconds_left: float | None) -> SandboxInfo:
    ports: dict[int, str] = {}
    for address, host_port, port in state.published:
        ports.setdefault(port, f"[{address}]:{host_port}" if ":" in address else f"{address}:{host_port}")
    return SandboxInfo(
        name=state.name,
        state=status,
        pid=state.pid,
        created=state.created_s,
        metadata=dict(state.metadata),
        command=list(state.command),
        ports=ports,
        seconds_left=seconds_left,
    )


# -- making and finding --------------------------------------------------------------------------------------------
def create(options: Options) -> Steps[SandboxCore]:
    """A new sandbox, forked from the template or, where that cannot be had, executed.  Raises StartError."""
    deadline_s = deadline_of(START_S)
    pid = 0
    # Chosen here, so that it is known even if the monitor dies before it can tell it
    options.name = options.name or new_name()
    forked = yield from _ask_template(options)
    if forked is not None:
        link, ident = forked
    else:
        try:
            pid, sock = spawn_host(dict(os.environ), is_silent=not options.is_leashed)
        except OSError as error:
            raise StartError(f"no process for the sandbox: {error.strerror or error}") from None
        sock.setblocking(False)
        link = Link(Channel(sock, SOFTWARE))
    try:
        if forked is None:
            ident = link.ask(_LAUNCH, _request(options))
        answer = yield from link.answer(ident, deadline_s)
    except SandboxTimeout:
        link.close()
        raise StartError(
            f"the sandbox did not start within {START_S:g} s; is the machine overloaded?"
        ) from None
    except SandboxEnded as ended:
        link.close()
        Store(options.root).sweep(options.name)
        raise StartError(
            "the process for the sandbox died while it started; `cloche doctor` may know why"
        ) from ended
    except Refused as refused:
        link.close()
        kind = InvalidArgument if refused.status == _USAGE else StartError
        raise kind(str(refused)) from None
    except BaseException:
        link.close()
        raise
    finally:
        _reap(pid)
    core = SandboxCore(
        take_text(answer, "name"),
        options.root,
        take_int(answer, "pid", 0, 0, _MAX),
        os.fsdecode(take_bytes(answer, "cwd")),
    )
    if options.is_leashed:
        core.hold(link.channel.sock)
    else:
        try:
            link.ask(_RELEASE, {})
        finally:
            link.close()
    return core


def _request(options: Options) -> Fields:
    return {
        "words": options.words,
        "name": options.name,
        "root": options.root,
        "metadata": options.metadata,
        "network": options.network,
        "is_leashed": options.is_leashed,
        "template": options.template,
    }


def _ask_template(options: Options) -> Steps[tuple[Link, int] | None]:
    """Ask for a sandbox that is forked: the connection to its monitor, and the request's id.

    None if there is no template, or it dies before it has forked: then no process has read the request.
    """
    if os.environ.get(template.SETTING) == "0":
        return None
    found = template.connect(spawn_template)
    if found is None:
        return None
    sock, pid = found
    link = Link(Channel(sock, SOFTWARE))
    is_ready = False
    try:
        fields = _request(options)
        # The caller's environment and directory, as an executed process would have them.
        fields["environment"] = [key + b"=" + value for key, value in os.environb.items()]
        fields["directory"] = _working_directory()
        ident = link.ask(_LAUNCH, fields, [2] if options.is_leashed and _is_open(2) else [])
        deadline_s = time.monotonic() + _TEMPLATE_S
        while True:
            ready = yield from wait([sock.fileno()], link.wants(), deadline_s)
            link.channel.flush()
            if sock.fileno() in ready or not ready:
                break
        try:
            is_ready = sock.recv(1) == template.READY
        except OSError:
            pass  # no answer came, or the template has died
    except InvalidArgument:
        pass  # with the environment the request is too long for a message
    finally:
        _reap(pid)
        if not is_ready:
            link.close()
    return (link, ident) if is_ready else None


def _working_directory() -> bytes:
    try:
        return os.getcwdb()
    except FileNotFoundError:
        return b"/"


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _reap(pid: int) -> None:
    """Wait for the child, which ends as soon as it has forked the monitor; other code of this process may have waited
    for it.
    """
    if not pid:
        return
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    except (ChildProcessError, ProcessLookupError):
        pass


def find(name: str, root: str) -> Steps[SandboxCore]:
    """A sandbox that runs already, made by any process of this user. Raises NotFound."""
    root = os.path.abspath(root) if root else ""
    try:
        state = Store(root).find(name)
    except RecordError as error:
        raise NotFound(str(error), "Sandbox.list() gives those that run") from None
    link = connect(root, name, was_known=False)
    try:
        yield from link.call(requests.PING, {}, time.monotonic() + START_S)
    finally:
        link.close()
    return SandboxCore(name, root, state.pid)


def listing(root: str, metadata: dict[str, str] | None) -> list[SandboxInfo]:
    """The sandboxes that run and have these metadata. Raises SandboxError."""
    try:
        states = Store(root).list()
    except RecordError as error:
        raise SandboxError(str(error)) from None
    wanted = (metadata or {}).items()
    return [
        _info(state, "running", None)
        for state in states
        if state.status == RUNNING and wanted <= state.metadata.items()
    ]
