"""The sentry process, from its birth to the exit of the program.

Order (see `confine`): namespaces are entered already; read what is needed of the host (`begin_sentry`, before the
spec is known), give everything up, start the platform, install the seccomp filter, build the kernel, run. In a spare
of the template, and where `cloche-oci create` has asked for it, all of this but the filter, which depends on the spec,
is done before that is known (`begin_ahead`), with what a sandbox has that asks for nothing unusual.
"""

import gc
import os
import signal
import socket
import sys
from typing import Final

from cloche.abi.errno import LinuxError
from cloche.boot import confine, cpu_guard, memory_guard, seccomp
from cloche.boot.assemble import assemble, set_boot_time, storage_limit
from cloche.boot.control import SOFTWARE, Control
from cloche.boot.lanes import LaneThreads
from cloche.boot.part import ignore_signals
from cloche.boot.seccomp_sentry import sentry_policy
from cloche.boot.spec import SandboxSpec
from cloche.boot.start import explain
from cloche.kernel.host_facts import HostFacts
from cloche.kernel.meter import LIMIT_NS, strict_limit_ns, strict_once_ns
from cloche.kernel.task import Container, Kernel
from cloche.platform.choose import new_platform
from cloche.platform.interface import HostNeeds, Platform
from cloche.syscalls.strace import install as install_strace
from cloche.vfs.forgetting import NAMES
from cloche.wire import protocol, timing

EXIT_INTERNAL: Final = 125  # as in `launch`
ADOPTED: Final = b"A"  # of the keeper: it is this process's parent now
_EXECUTE_AND_READ: Final = 0x1 | 0x4  # LANDLOCK_ACCESS_FS_*
_READ_FILE: Final = 0x4


class StartError(Exception):
    """The sentry could not begin; the text says why."""


class Begun:
    """A sentry that has given up everything but what its platform needs, and whose platform has started."""

    def __init__(self, platform: Platform, needs: HostNeeds) -> None:
        self.platform: Platform = platform
        self.needs: HostNeeds = needs
        self.threads: LaneThreads = LaneThreads(platform)
        self.kernel: Kernel | None = None  # without a container, if there was time for it


def log_confinement(report: confine.Report, level: str) -> None:
    """Log the measures that are not in force, and why (--log-level info); with debug those in force, too."""
    if level not in ("info", "debug") or sys.stderr is None:
        return
    for measure in report.measures:
        if not measure.is_in_force or level == "debug":
            state = "in force" if measure.is_in_force else "not in force"
            reason = f" ({measure.reason})" if measure.reason else ""
            sys.stderr.write(f"cloche: {measure.name}: {state}{reason}\n")
    sys.stderr.flush()


def log_counters(kernel: Kernel, level: str) -> None:
    """With --log-level info or debug, log calls that are not implemented, took too long, or failed."""
    if level not in ("info", "debug") or sys.stderr is None:
        return
    for number, count in sorted(kernel.missing.items()):
        sys.stderr.write(f"cloche: system call {number} is missing: asked for {count} times\n")
    for line in [*kernel.meter.summary(), *kernel.platform.summary()]:
        sys.stderr.write(f"cloche: {line}\n")


def send_failure(control: socket.socket, text: str) -> None:
    """Tell the monitor why the sentry cannot start: an ERROR that belongs to no request."""
    try:
        control.sendall(protocol.hello(SOFTWARE) + protocol.error(0, EXIT_INTERNAL, text))
    except OSError:
        pass


def begin_sentry(report: confine.Report) -> HostFacts:
    """The steps of a sentry before its spec is known, in the namespaces that it has entered."""
    signal.set_wakeup_fd(-1)
    confine.name_process("cloche-sentry")
    ignore_signals()
    gc.freeze()
    gc.disable()
    facts = HostFacts.read()
    confine.mount_own_proc(report)
    return facts


def sentry_main(
    spec: SandboxSpec,
    gofer_sock: socket.socket | None,
    broker_sock: socket.socket | None,
    egress_sock: socket.socket | None,
    network_sock: socket.socket | None,
    control: socket.socket,
    report: confine.Report,
    keeper: socket.socket,
    facts: HostFacts,
    stubs: dict[str, int],
    begun: Begun | str | None,
) -> int:
    """Run one sandbox; the process's exit status (the program's goes over the control socket).

    `begun`: what `begin_ahead` has given, if it was called; then the sandbox is usual.
    """
    try:
        if isinstance(begun, str):
            raise StartError(begun)
        if begun is None:
            begun = _begin_for(spec, report, keeper, stubs)
        keeper.close()
        return _serve(spec, gofer_sock, broker_sock, egress_sock, network_sock, control, report, facts, begun)
    except StartError as error:
        send_failure(control, str(error))
    except LinuxError as refusal:
        send_failure(control, f"the sandbox could not be set up: {explain(refusal.errno)}")
    except OSError as failure:
        if spec.log_level == "debug":
            sys.excepthook(type(failure), failure, failure.__traceback__)
        send_failure(control, failure.strerror or str(failure))
    return EXIT_INTERNAL


def await_keeper(keeper: socket.socket) -> bool:
    """Wait until the keeper is this process's parent; False: it has ended."""
    try:
        return keeper.recv(1) == ADOPTED
    except ConnectionResetError:  # with something unread
        return False


def hold_to_keeper(keeper: socket.socket) -> None:
    """Die with the keeper, which is this process's parent.  Raises StartError if it is gone."""
    # The keeper's pid is not visible from inside the pid namespace; its socket tells whether it still lives.
    confine.die_with(os.getppid())
    try:
        if keeper.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            return  # the specification is there already
    except BlockingIOError:
        return
    raise StartError("the keeper died")


def _confine(platform: Platform, report: confine.Report, *, is_confined: bool) -> HostNeeds:
    """Give everything up but what the platform needs.  Raises OSError."""
    needs = platform.prepare()
    if is_confined:
        confine.empty_root(report)
        confine.become_unprivileged(report)
        confine.drop_capabilities(report)
        allowed = [(fd, _EXECUTE_AND_READ) for fd in needs.executables]
        if needs.proc_fd >= 0:
            allowed.append((needs.proc_fd, _READ_FILE))
        confine.deny_paths(report, allowed, may_signal=True)
    return needs


def _begin(
    platform: Platform,
    report: confine.Report,
    keeper: socket.socket,
    *,
    is_confined: bool,
    is_adopted: bool = True,
) -> Begun:
    """Confine this process and start its platform.  Raises StartError, OSError.

    `is_adopted`: the keeper is known to be its parent. Otherwise the process before it ends meanwhile, which takes as
    long as this does.
    """
    try:
        needs = _confine(platform, report, is_confined=is_confined)
    finally:
        if not is_adopted and not await_keeper(keeper):
            raise StartError("the keeper died")
    timing.mark("sentry: is confined")
    hold_to_keeper(keeper)
    platform.start()
    begun = Begun(platform, needs)
    begun.threads.start()
    timing.mark("sentry: platform has started")
    return begun


def begin_ahead(
    report: confine.Report, keeper: socket.socket, facts: HostFacts, stubs: dict[str, int]
) -> Begun | str:
    """Get ready for a usual sandbox before there is one, and before `await_keeper`. In case of a failure the text says
    why, for its monitor.
    """
    usual = SandboxSpec([])
    try:
        platform = new_platform(usual.platform, usual.mm_mode, is_patching=usual.is_patching, stubs=stubs)
        begun = _begin(platform, report, keeper, is_confined=True, is_adopted=False)
        begun.kernel = assemble(platform, facts)
        timing.mark("sentry: kernel is assembled")
        return begun
    except StartError as error:
        return str(error)
    except OSError as failure:
        return failure.strerror or str(failure)


def _begin_for(
    spec: SandboxSpec, report: confine.Report, keeper: socket.socket, stubs: dict[str, int]
) -> Begun:
    """Raises StartError, OSError."""
    try:
        platform = new_platform(spec.platform, spec.mm_mode, is_patching=spec.is_patching, stubs=stubs)
    except ValueError as error:
        raise StartError(str(error)) from error
    if spec.device_fd >= 0:
        platform.take_device(spec.device_fd)
    return _begin(platform, report, keeper, is_confined=spec.is_confined)


def bound_processors(container: Container, spec: SandboxSpec) -> None:
    """--cpus, where no control group does it."""
    if spec.cpus > 0 and not spec.has_cpu_group:
        cpu_guard.install(container.kernel, spec.cpus)


def _serve(
    spec: SandboxSpec,
    gofer_sock: socket.socket | None,
    broker_sock: socket.socket | None,
    egress_sock: socket.socket | None,
    network_sock: socket.socket | None,
    control: socket.socket,
    report: confine.Report,
    facts: HostFacts,
    begun: Begun,
) -> int:
    platform, threads, needs = begun.platform, begun.threads, begun.needs
    host_bytes = facts.memory_total
    memory_guard.bound_sentry(
        platform.own_data_bytes(), spec.memory_bytes, storage_limit(spec, host_bytes), host_bytes
    )
    if spec.is_confined:
        confine.set_undumpable(report)
        has_network = network_sock is not None
        has_ports = broker_sock is not None or egress_sock is not None or has_network or spec.is_reachable
        # Containers that join a pod later bring volumes of their own; there is a network then.
        has_doors = has_network or any(each.has_doors or each.shows_sockets for each in spec.mounts)
        policy = sentry_policy(
            needs.proc_fd, spec.platform, has_ports=has_ports, has_network=has_network, has_doors=has_doors
        )
        seccomp.install(policy)
        report.in_force(confine.SECCOMP)
    timing.mark("sentry: filter is in force")
    log_confinement(report, spec.log_level)
    kernel = begun.kernel
    if kernel is None:
        kernel = assemble(platform, facts)
        timing.mark("sentry: kernel is assembled")
    set_boot_time(kernel)
    kernel.is_patching = platform.is_patching()
    kernel.is_strict = bool(os.environ.get("CLOCHE_STRICT"))
    NAMES.set_bound(os.environ.get("CLOCHE_NAMES", ""))
    if spec.strace_fd >= 0:
        install_strace(kernel, spec.strace_fd)
    channel = Control(kernel, control, gofer_sock, broker_sock, egress_sock, network_sock, bound_processors)

    def begin_metering() -> None:
        if kernel.is_strict:
            setting = os.environ.get("CLOCHE_STRICT", "")
            kernel.meter.once_ns = strict_once_ns(setting)
            platform.set_meter(LIMIT_NS, strict_limit_ns(setting))
        else:
            platform.set_meter(LIMIT_NS, LIMIT_NS if spec.log_level == "debug" else 0)

    channel.begin_metering = begin_metering

    def finish() -> None:
        if threads.failure:
            channel.fail(0, EXIT_INTERNAL, threads.failure)
        log_counters(kernel, spec.log_level)
        channel.close()  # by the gofer it writes the rest of kept layers
        for server in (gofer_sock, network_sock):
            if server is not None:
                server.close()  # they end while this process does, which takes longer
        platform.shutdown()
        if sys.stderr is not None:  # None: closed when the interpreter started
            sys.stderr.flush()

    threads.install(kernel, finish)
    threads.run(kernel)
    finish()
    return 0
