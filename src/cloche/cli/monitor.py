"""The monitor: the process of `cloche run` that supervises a sandbox for the user.

In the foreground it handles signals, the window's size, the time limit and the exit status. For a sandbox with a name
it also serves the socket for `cloche exec` and the other verbs, and keeps the record; detached, in a session of its
own, it writes the log as well. It runs no guest data.
"""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

from cloche.boot.launch import LaunchError, Sandbox, launch
from cloche.boot.spawn import KeeperProcess
from cloche.boot.spec import SandboxSpec, host_places
from cloche.cli.terminal import (
    ENDING,
    EXIT_INTERNAL,
    FORWARDED,
    KEYBOARD,
    Terminal,
    TerminalModes,
    exit_status,
    note_signals,
    printable_text,
    window_size,
)
from cloche.cli.watchdog import Watchdog
from cloche.platform.shared_pages import RESTLESS_MS, share_again

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloche.boot.control_server import ControlServer
    from cloche.cli.health import Health
    from cloche.runtime.cgroups import Group
    from cloche.runtime.layers import KeptLayer
    from cloche.runtime.logs import LogWriter
    from cloche.runtime.records import Record

EXIT_TIMEOUT: Final = 124
EXIT_KILLED: Final = 137
DEFAULT_TASKS: Final = 4096
# What has become of a leash.
HELD: Final = 0
RELEASED: Final = 1
GONE: Final = 2
_PUMP_BYTES: Final = 65536
_KEEPING_S: Final = 600.0  # at most, for a sentry that makes progress to write its kept layers
_GONE_S: Final = 2.0  # for a program to end by itself when its terminal is gone


class Monitor:
    """Supervises one sandbox."""

    def __init__(self, spec: SandboxSpec) -> None:
        self.spec: SandboxSpec = spec
        self.modes: TerminalModes = TerminalModes()
        self.terminal: Terminal | None = Terminal() if spec.has_terminal and spec.is_attached else None
        # Before the sandbox exists, so that signals that arrive meanwhile are neither lost nor end only this process.
        self.wake_read: int = note_signals()
        self.server: ControlServer | None = None
        self.health: Health | None = None
        self.record: Record | None = None
        self.log: LogWriter | None = None
        self.is_quiet: bool = False  # errors reach the starter in another way
        self.layer: KeptLayer | None = None  # its kept layer
        self.pumps: dict[int, int] = {}  # descriptor of a pipe -> stream in the log
        self.ready_fd: int = -1  # the pipe on which a starter waits for the program's start
        # called in this process when the program has started
        self.on_started: Callable[[], None] | None = None
        self.leash: socket.socket | None = None  # when its other end is closed, the sandbox ends
        self.on_leash: Callable[[], int] | None = None  # reads what came on it -> HELD, RELEASED, GONE
        self.error: str = ""  # why cloche itself ended the sandbox
        self.ending: int = -1  # the exit status, once the sentry was asked to end
        self.group: Group | None = None  # control groups of the guests
        self.watchdog: Watchdog | None = None
        self.is_unheard: bool = False  # the user wanted the end twice, and the sentry does not react
        # CLOCK_MONOTONIC: the terminal has gone, and at this time the sandbox is ended
        self.gone_at_s: float = -1.0
        self.is_restless: bool = True  # something has happened for which memory was needed
        self.early: bytearray = bytearray()  # signals that came before the sentry could take them

    def say(self, text: str) -> None:
        """A line for the user; what the sandbox says of its end may have names in it that a guest chose."""
        text = printable_text(text)
        if self.log is not None:
            self.log.append(2, f"cloche: {text}\n".encode())
        elif sys.stderr is not None and not self.is_quiet:
            print(f"cloche: {text}", file=sys.stderr)

    def start(
        self,
        streams: list[int],
        keeper: KeeperProcess | None = None,
        record: "Record | None" = None,
    ) -> Sandbox:
        """Launch the sandbox.  Raises LaunchError, OSError."""
        spec = self.spec
        if spec.egress is not None and record is not None:
            spec.egress.sandbox = record.state.name
        if os.geteuid() == 0 and (spec.memory_bytes > 0 or spec.cpus > 0 or spec.max_tasks < DEFAULT_TASKS):
            self._make_groups()
        try:
            sandbox = launch(
                spec,
                streams,
                keeper=keeper,
                record=record.place() if record is not None else None,
                groups=self.group.made if self.group is not None else None,
                may_wait=self._wait_for_start,
            )
        except (LaunchError, OSError):
            if self.group is not None:
                self.group.destroy()
            raise
        finally:
            if spec.oom_fd >= 0:
                os.close(spec.oom_fd)
        sandbox.on_placing = self._place
        self.watchdog = Watchdog(sandbox)
        return sandbox

    def _wait_for_start(self, fd: int) -> bool:
        """Wait until `fd` is readable. False: the user has asked twice for the end meanwhile (storage may be slow, or
        hang).
        """
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.register(self.wake_read, select.POLLIN)
        first_s = -1.0
        while True:
            ready = [each for each, _events in poller.poll()]
            if fd in ready:
                return True
            numbers = os.read(self.wake_read, 512)
            self.early += numbers
            if any(number in ENDING for number in numbers):
                if 0 <= first_s <= time.monotonic() - 1.0:
                    return False
                if first_s < 0:
                    first_s = time.monotonic()

    def _make_groups(self) -> None:
        from cloche.runtime.cgroups import Limits, create

        spec = self.spec
        tasks = spec.max_tasks if spec.max_tasks < DEFAULT_TASKS else 0
        if spec.platform == "kvm":
            tasks *= 2  # the host's kernel has a thread for each machine, and each process has a machine
        self.group = create(Limits(max(spec.memory_bytes, 0), spec.cpus, tasks))
        if self.group is not None:
            spec.is_placed = True
            spec.has_cpu_group = self.group.has_cpu
            if self.group.events:
                spec.oom_fd = os.open(self.group.events, os.O_RDONLY | os.O_CLOEXEC)

    def _place(self, sentry_pid: int) -> bool:
        """Put the platform's processes, from which guests are forked, into the control groups. Returns whether that
        worked.
        """
        if self.group is None:
            return False
        try:
            self.group.place(sentry_pid)
        except OSError as error:
            self.say(f"no limits by control groups: {error.strerror}")
            return False
        return True

    def serve(self, record: "Record", listener: socket.socket, sandbox: Sandbox) -> None:
        """Serve the clients of a sandbox with a name."""
        from cloche.boot.control_server import ControlServer

        self.record = record
        self.server = ControlServer(listener, sandbox)
        self.server.net = sandbox.net
        self.server.places = host_places(self.spec)
        self.server.stop_signal = self.spec.stop_signal
        self.server.on_forgotten = self._forget
        if self.spec.health is not None:
            from cloche.cli.health import Health

            self.health = Health(self.spec.health, self.server, self._save_health)

    def _save_health(self) -> None:
        if self.record is not None and self.health is not None:
            self.record.state.health = self.health.to_json()
            try:
                self.record.save()
            except OSError:
                pass  # a full disk; the next change writes the record again

    def _forget(self) -> None:
        """The record is about to be removed, and the layer with it: write nothing more."""
        if self.layer is not None and self.layer.is_automatic:
            self.layer.is_temporary = True

    def serve_only(self, client: socket.socket, sandbox: Sandbox) -> None:
        """Serve a sandbox without a name: it has one client from the beginning, and ends with that."""
        from cloche.boot.control_server import ControlServer

        self.server = ControlServer(None, sandbox)
        self.server.places = host_places(self.spec)
        self.server.adopt(client)

    def on_signals(self, sandbox: Sandbox, numbers: bytes) -> bool:
        """Pass on signals that have arrived. True: the sandbox does not react and is to end at once."""
        is_end = False
        for number in numbers:
            if number in ENDING and self.watchdog is not None:
                is_end = self.watchdog.on_end_wanted() or is_end
            if number == signal.SIGWINCH or number == signal.SIGCONT:
                if number == signal.SIGCONT:
                    if self.terminal is not None:
                        self.terminal.enter()  # the shell has changed the modes while the command was stopped
                    sandbox.send_group_signal(number)
                if self.terminal is not None:
                    sandbox.send_window(*window_size())
            elif number in KEYBOARD:
                sandbox.send_group_signal(number)
            elif number == signal.SIGTSTP:
                if self.terminal is not None:
                    self.terminal.leave()
                sandbox.send_group_signal(signal.SIGSTOP)
                os.kill(os.getpid(), signal.SIGSTOP)
            elif number in FORWARDED:
                sandbox.send_signal(number)
                if number == signal.SIGHUP and self.terminal is not None and self.terminal.is_gone():
                    # A program that ignores the signal could neither be seen nor ended any more.
                    self.gone_at_s = time.monotonic() + _GONE_S
        return is_end

    def supervise(self, sandbox: Sandbox) -> int:
        """Supervise until the sandbox is gone. Returns the exit status."""
        try:
            if self.terminal is not None:
                self.terminal.enter()
                sandbox.send_window(*window_size())
            status = self._loop(sandbox)
        finally:
            if self.terminal is not None:
                self.terminal.leave()
            sandbox.reap()
            if self.group is not None:
                self.group.destroy()
            if sandbox.status < 0:
                self.modes.restore()
        if status < 0:
            status = self._final_status(sandbox)
        if self.keeps_layer() and sandbox.has_created and not sandbox.failure and sandbox.layer_errno:
            if sandbox.layer_errno > 0:
                self._complain(f"not all that it wrote is kept: {os.strerror(sandbox.layer_errno)}")
            else:
                self._complain("what it wrote last may not be kept")
            status = status or EXIT_INTERNAL
        if self.error:
            self.say(self.error)
        self._end(status, sandbox)
        return status

    def _loop(self, sandbox: Sandbox) -> int:
        """Serve everything until the end: -1, or the status when this process ended it."""
        spec = self.spec
        limit = time.monotonic() + spec.timeout_s if spec.timeout_s else -1.0
        over_at = -1.0  # the deadline for the sentry to write kept layers
        control, link = sandbox.channel.fileno(), sandbox.link.fileno()
        if self.early:
            self.on_signals(sandbox, bytes(self.early))
        watchdog = self.watchdog
        assert watchdog is not None
        if self.server is not None:
            self.server.on_end_wanted = self._end_wanted
            self.server.deadline_s = limit
        while True:
            now = time.monotonic()
            # Clients may change it
            deadline = self.server.deadline_s if self.server is not None else limit
            # With a kept layer the sentry ends by itself in all cases, and is waited for.
            is_ending = sandbox.is_ending and self.keeps_layer()
            if is_ending and over_at < 0:
                over_at = now + _KEEPING_S
            if watchdog.on_time() or self.is_unheard or 0 <= over_at <= now:
                sandbox.kill()
                self._complain("the sentry does not answer and was ended")
                return self.ending if self.ending >= 0 else EXIT_INTERNAL
            stop_at = -1.0
            if is_ending:
                deadline = -1.0
            else:
                stops = [self.gone_at_s, self.server.stop_at_s if self.server is not None else -1.0]
                stop_at = min([at for at in stops if at >= 0], default=-1.0)
            if 0 <= deadline <= now:
                self._complain(
                    "the sandbox's time is over"
                    if spec.is_idle
                    else f"the command took longer than {spec.timeout_s:g} s and was ended"
                )
                if self._end_now(sandbox, EXIT_TIMEOUT):
                    return EXIT_TIMEOUT
                continue
            if 0 <= stop_at <= now:
                if self._end_now(sandbox, EXIT_KILLED):
                    return EXIT_KILLED
                continue
            if self.health is not None and not is_ending:
                self.health.on_time()
            due_s = self.health.due_s if self.health is not None and not is_ending else -1.0
            ends = [at for at in (deadline, stop_at, over_at, watchdog.due_s, due_s) if at >= 0]
            left_ms = max(int((min(ends) - now) * 1000), 0) + 1
            for fd, events in self._wait(sandbox, left_ms):
                if fd == self.wake_read:
                    if self.on_signals(sandbox, os.read(self.wake_read, 512)):
                        self.is_unheard = True
                elif fd in self.pumps:
                    self._pump(fd)
                elif self.health is not None and fd == self.health.pipe:
                    self.health.read()
                elif self.leash is not None and fd == self.leash.fileno():
                    hold = self.on_leash() if self.on_leash is not None else GONE
                    if hold == HELD:
                        continue
                    self.leash = None
                    if hold == RELEASED:
                        continue
                    self._complain("whoever started the sandbox has let it go")
                    if self._end_now(sandbox, EXIT_KILLED):
                        return EXIT_KILLED
                elif fd == link:
                    sandbox.read_link()
                elif fd == control:
                    if events & select.POLLOUT:
                        sandbox.channel.flush()
                    if events & ~select.POLLOUT and not sandbox.read_control():
                        return self.ending
                    self._tell_start(sandbox)
                elif self.server is not None:
                    self.is_restless = True
                    self.server.on_ready(fd, events)

    def keeps_layer(self) -> bool:
        """Whether the sandbox has a kept layer."""
        return bool(self.spec.layer_source) and not (self.layer is not None and self.layer.is_temporary)

    def _complain(self, text: str) -> None:
        """Add a reason to the error line that is printed at the end."""
        self.error = f"{self.error}; {text}" if self.error else text

    def _end_now(self, sandbox: Sandbox, status: int) -> bool:
        """End everything inside. False: the sentry still has to write a layer."""
        if not self.keeps_layer() or not sandbox.has_created:
            sandbox.kill()
            return True
        if sandbox.status < 0:
            self.ending = status
        sandbox.shut_down()
        self._end_wanted()  # the watchdog asks the sentry now, and expects an answer soon
        return False

    def _end_wanted(self) -> None:
        """A client has sent the command a signal."""
        if self.watchdog is not None and self.watchdog.on_end_wanted():
            self.is_unheard = True

    def _wait(self, sandbox: Sandbox, left_ms: int) -> list[tuple[int, int]]:
        poller = select.poll()
        poller.register(self.wake_read, select.POLLIN)
        wants_write = sandbox.channel.wants_write()
        poller.register(sandbox.channel.fileno(), select.POLLIN | (select.POLLOUT if wants_write else 0))
        if sandbox.is_kept:
            poller.register(sandbox.link.fileno(), select.POLLIN)
        for fd in self.pumps:
            poller.register(fd, select.POLLIN)
        if self.health is not None and self.health.pipe >= 0:
            poller.register(self.health.pipe, select.POLLIN)
        if self.leash is not None:
            poller.register(self.leash.fileno(), select.POLLIN)
        if self.server is not None:
            for fd, events in self.server.watched():
                poller.register(fd, events)
        if self.is_restless:
            ready = poller.poll(min(left_ms, RESTLESS_MS))
            if ready or left_ms <= RESTLESS_MS:
                return ready
            self.is_restless = False
            share_again()
            left_ms -= RESTLESS_MS
        return poller.poll(left_ms)

    def _final_status(self, sandbox: Sandbox) -> int:
        if sandbox.failure:
            self.error = sandbox.failure
            return sandbox.failure_status
        if sandbox.status < 0:
            self.error = sandbox.death or "the sentry died"
            return EXIT_INTERNAL
        return exit_status(sandbox.status)

    def _tell_start(self, sandbox: Sandbox) -> None:
        """Tell the starter of a detached sandbox that the program runs."""
        if self.ready_fd >= 0 and sandbox.has_started:
            ports = [str(each.host_port) for each in self.spec.published]
            os.write(self.ready_fd, b"R" + " ".join(ports).encode())
            os.close(self.ready_fd)
            self.ready_fd = -1
        if self.health is not None and sandbox.has_started and self.health.begun_s < 0:
            self.health.begin()
            self._save_health()
        if self.on_started is not None and sandbox.has_started:
            tell, self.on_started = self.on_started, None
            tell()

    def _pump(self, fd: int) -> bool:
        """Copy output of a detached sandbox to its log; False at the end of the stream."""
        data = os.read(fd, _PUMP_BYTES)
        if not data:
            del self.pumps[fd]
            os.close(fd)
            return False
        if self.log is not None:
            self.log.append(self.pumps[fd], data)
        return True

    def _end(self, status: int, sandbox: Sandbox) -> None:
        """The sandbox has ended: write the rest of the output and the result to the record, and answer the clients
        that wait.
        """
        for fd in list(self.pumps):
            os.set_blocking(fd, False)
            try:
                while self._pump(fd):
                    pass
            except BlockingIOError:
                pass
        if self.ready_fd >= 0:
            os.write(self.ready_fd, b"F" + bytes([status]) + self.error.encode())
            if self.record is not None:
                self.record.state.is_temporary = True  # it did not start
        if self.layer is not None and self.layer.is_temporary:
            from cloche.runtime.layers import discard

            discard(self.layer)  # before anybody learns of the end
        if self.record is not None:
            self.record.finish(status, self.error, sandbox.oom_kills)
        if self.layer is not None:
            self.layer.release()  # a client that learns of the end may use the layer at once
        if self.server is not None:
            self.server.ended(status, self.error)
        if self.log is not None:
            self.log.close()


def run_attached(
    spec: SandboxSpec,
    streams: list[int],
    record: "Record | None",
    keeper: KeeperProcess | None,
    layer: "KeptLayer | None" = None,
) -> tuple[Monitor, Sandbox]:
    """Start a sandbox in the foreground.  Raises LaunchError, OSError."""
    listener = None
    try:
        monitor = Monitor(spec)
        monitor.layer = layer
        listener = record.listen() if record is not None else None
        sandbox = monitor.start(streams, keeper, record)
    except (LaunchError, OSError):
        if record is not None:
            record.discard()
        raise
    if record is not None and listener is not None:
        monitor.serve(record, listener, sandbox)
    return monitor, sandbox


def run_detached(
    spec: SandboxSpec, record: "Record", log_bytes: int, layer: "KeptLayer | None" = None
) -> tuple[int, str]:
    """Start a sandbox that goes on without its starter. Returns (-1, "") once its program runs, otherwise an exit
    status and the reason.
    """
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready_read)
            _detached_child(spec, record, log_bytes, ready_write, layer)
        except BaseException as failure:
            os.write(ready_write, b"F" + bytes([EXIT_INTERNAL]) + str(failure).encode())
            record.discard()
        finally:
            os._exit(0)
    os.close(ready_write)
    parts: list[bytes] = []
    while True:
        data = os.read(ready_read, 4096)
        if not data:
            break
        parts.append(data)
    answer = b"".join(parts)
    if answer[:1] == b"R":
        for published, port in zip(spec.published, answer[1:].split(), strict=True):
            published.host_port = int(port)  # chosen by the host
        return -1, ""
    if answer[:1] == b"F" and len(answer) > 1:
        return answer[1], answer[2:].decode(errors="replace") or "the sandbox did not start"
    return EXIT_INTERNAL, "the monitor died"


def _detached_child(
    spec: SandboxSpec, record: "Record", log_bytes: int, ready_write: int, layer: "KeptLayer | None"
) -> None:
    from cloche.runtime.logs import LogWriter

    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    keyboard = -1
    if spec.is_interactive or spec.has_terminal:
        keyboard, _never_written = os.pipe2(os.O_CLOEXEC)  # standard input that never has data and never ends
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    os.dup2(out_write, 1)
    os.dup2(err_write, 2)
    for fd in (out_write, err_write):
        os.close(fd)
    monitor = Monitor(spec)
    monitor.log = LogWriter(record.directory, log_bytes)
    monitor.ready_fd = ready_write
    monitor.layer = layer
    listener = record.listen()
    record.state.pid = os.getpid()
    record.save()
    sandbox = monitor.start([keyboard if keyboard >= 0 else 0, 1, 2], record=record)
    os.dup2(null, 1)
    os.dup2(null, 2)
    monitor.pumps = {out_read: 1, err_read: 2}
    monitor.serve(record, listener, sandbox)
    monitor.supervise(sandbox)
