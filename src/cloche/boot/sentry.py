"""The sentry process, from its birth to the exit of the program.

Order (see `confine`): namespaces are entered already; read what is needed of the host, give everything up, start the
platform, install the seccomp filter, build the kernel, run.
"""

import gc
import os
import signal
import socket
import sys
from typing import Final

from cloche.abi.errno import LinuxError
from cloche.boot import confine, seccomp
from cloche.boot.assemble import assemble, explain, start_program
from cloche.boot.seccomp_sentry import sentry_policy
from cloche.boot.spec import SandboxSpec
from cloche.kernel.accounting import HostFacts
from cloche.kernel.loop import StopLoop
from cloche.kernel.loop import run as run_loop
from cloche.kernel.signals import send_group_signal
from cloche.kernel.task import Kernel
from cloche.net.published import publish
from cloche.platform.systrap import Systrap

EXIT_INTERNAL: Final = 125  # as in `launch`
EPOLLIN: Final = 1
# The monitor passes on what concerns the guests; a terminal's own signals do not reach this session.
_IGNORED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
_EXECUTE_AND_READ: Final = 0x1 | 0x4  # LANDLOCK_ACCESS_FS_*
_READ_FILE: Final = 0x4


class StartError(Exception):
    """The program could not be started; `status` is the command's exit status (126, 127 or 125)."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status: int = status


class Control:
    """The sentry's end of the control socket."""

    def __init__(self, kernel: Kernel, sock: socket.socket) -> None:
        self.kernel: Kernel = kernel
        self.sock: socket.socket = sock

    def on_ready(self, events: int) -> None:
        """A message of the monitor, or its death: then everything ends (I5)."""
        try:
            message = self.sock.recv(4096)
        except OSError:
            message = b""
        if not message:
            self.kernel.platform.shutdown()
            os._exit(EXIT_INTERNAL)
        kind = message[:1]
        if kind == b"S" and message[1:3].isdigit():
            self._signal(int(message[1:3]))
        elif kind == b"G" and message[1:3].isdigit():
            self._signal_group(int(message[1:3]))
        elif kind == b"W" and len(message) >= 5:
            rows = int.from_bytes(message[1:3], "little")
            columns = int.from_bytes(message[3:5], "little")
            resize = self.kernel.window_hook
            if resize is not None:
                resize(rows, columns)

    def _signal(self, signo: int) -> None:
        group = self.kernel.main_group
        if group is not None and 1 <= signo <= 64:
            send_group_signal(self.kernel, group, signo)

    def _signal_group(self, signo: int) -> None:
        main = self.kernel.main_group
        pgrp = main.pgrp if main is not None else None
        if pgrp is not None and 1 <= signo <= 64:
            for group in list(pgrp.members):
                send_group_signal(self.kernel, group, signo)


def log_confinement(report: confine.Report, level: str) -> None:
    """With --log-level info what is not in force and why, with debug what is, too."""
    if level not in ("info", "debug") or sys.stderr is None:
        return
    for measure in report.measures:
        if not measure.is_in_force or level == "debug":
            state = "in force" if measure.is_in_force else "not in force"
            reason = f" ({measure.reason})" if measure.reason else ""
            sys.stderr.write(f"cloche: {measure.name}: {state}{reason}\n")
    sys.stderr.flush()


def send_failure(control: socket.socket, text: str, status: int) -> None:
    """Tell the monitor why there is no program."""
    try:
        control.send(b"F" + bytes([status]) + text.encode()[:4000])
    except OSError:
        pass


def sentry_main(
    spec: SandboxSpec,
    gofer_sock: socket.socket | None,
    broker_sock: socket.socket | None,
    control: socket.socket,
    stdio: list[int],
    report: confine.Report,
) -> int:
    """Run one sandbox; the process's exit status (the program's goes over the control socket)."""
    signal.set_wakeup_fd(-1)
    for signo in _IGNORED:
        signal.signal(signo, signal.SIG_IGN)
    gc.freeze()
    gc.disable()
    try:
        return _serve(spec, gofer_sock, broker_sock, control, stdio, report)
    except StartError as error:
        send_failure(control, str(error), error.status)
    except StopLoop:
        send_failure(control, "stopped by an internal error (CLOCHE_STRICT)", EXIT_INTERNAL)
    except LinuxError as refusal:
        send_failure(control, f"the sandbox could not be set up: {explain(refusal.errno)}", EXIT_INTERNAL)
    except OSError as failure:
        if spec.log_level == "debug":
            sys.excepthook(type(failure), failure, failure.__traceback__)
        send_failure(control, failure.strerror or str(failure), EXIT_INTERNAL)
    return EXIT_INTERNAL


def _serve(
    spec: SandboxSpec,
    gofer_sock: socket.socket | None,
    broker_sock: socket.socket | None,
    control: socket.socket,
    stdio: list[int],
    report: confine.Report,
) -> int:
    facts = HostFacts.read()
    platform = Systrap(mm=spec.mm_mode, is_patching=spec.is_patching)
    if spec.is_confined:
        confine.mount_own_proc(report)
    platform.prepare()
    proc_fd = platform.proc_fd()
    if spec.is_confined:
        confine.empty_root(report)
        confine.become_unprivileged(report)
        confine.drop_capabilities(report)
        allowed = [(platform.stub_fd(), _EXECUTE_AND_READ)]
        if proc_fd >= 0:
            allowed.append((proc_fd, _READ_FILE))
        confine.deny_paths(report, allowed, may_signal=True)
    platform.start()
    if spec.is_confined:
        confine.set_undumpable(report)
        seccomp.install(sentry_policy(proc_fd))
        report.in_force(confine.SECCOMP)
    log_confinement(report, spec.log_level)
    kernel = assemble(spec, platform, gofer_sock, stdio, facts)
    kernel.is_patching = platform.is_patching()
    kernel.is_strict = bool(os.environ.get("CLOCHE_STRICT"))
    if broker_sock is not None:
        publish(kernel, broker_sock)
    channel = Control(kernel, control)
    kernel.watch_fd(control.fileno(), EPOLLIN, channel.on_ready)
    failure = start_program(kernel, spec)
    if failure is not None:
        platform.shutdown()
        raise StartError(failure.text, failure.status)
    control.send(b"R")
    status = run_loop(kernel)
    for flush in kernel.shutdown_hooks:
        flush()
    control.send(b"E" + status.to_bytes(4, "little"))
    platform.shutdown()
    if sys.stderr is not None:  # None: closed when the interpreter started
        sys.stderr.flush()
    return 0
