"""`create`, and what `run` shares with it.

Order: the bundle is read; record and control groups are made, and the monitor hears of them (`begin`); everything of
the bundle is checked; the anchor is forked into the namespaces; hooks (prestart, createRuntime) run; the anchor makes
its mounts; hooks (createContainer) run; the anchor stands in the root; the monitor starts the sandbox, in which the
program is looked for.  The pid-file is last.
"""

import os
import socket
import stat
import time
from array import array
from typing import TYPE_CHECKING, Any, Final

from cloche.abi.capability import ALL_CAPS
from cloche.abi.stat import S_IFBLK, S_IFCHR, S_IFIFO
from cloche.boot.idmaps import outside
from cloche.boot.platforms import platform_problem
from cloche.boot.spec import PLATFORMS, RO, RW, SandboxSpec, dump
from cloche.oci import cgroups
from cloche.oci import quickjson as json
from cloche.oci.anchor import Anchor
from cloche.oci.begin import PLATFORM_ANNOTATION, Begun, may_join
from cloche.oci.egress import check_joined, egress_of, packed
from cloche.oci.errors import OciError
from cloche.oci.log import Log
from cloche.oci.messages import say
from cloche.oci.mounts import guest_mounts
from cloche.oci.propagation import describe_mounts
from cloche.oci.records import CREATING, Record
from cloche.oci.rootless import is_rootless
from cloche.oci.scheduling import check_deadline, explain_attributes
from cloche.oci.spec import Bundle, ProcessSpec, encode
from cloche.oci.userns import IdMaps
from cloche.oci.users import add_home

if TYPE_CHECKING:
    from cloche.oci.systemd import Scope

_KINDS: Final = {"c": S_IFCHR, "u": S_IFCHR, "b": S_IFBLK, "p": S_IFIFO}
_DEVICES: Final = (
    (b"/dev/null", 1, 3),
    (b"/dev/zero", 1, 5),
    (b"/dev/full", 1, 7),
    (b"/dev/random", 1, 8),
    (b"/dev/urandom", 1, 9),
    (b"/dev/tty", 5, 0),
)
_MAX_TASKS: Final = 1 << 22
_NO_LIMIT_TASKS: Final = 32768
_NOFILE: Final = 1 << 20


def chosen_platform(bundle: Bundle, flag: str) -> str:
    """How the container's code runs: as the runtime's flag says, else as the annotation does.  Raises OciError.

    The flag is set by the administrator, the annotation perhaps by the pod's author: so it must not contradict the
    flag.
    """
    asked = bundle.annotations.get(PLATFORM_ANNOTATION, "")
    if flag and asked and asked != flag:
        raise OciError(
            f"annotation {PLATFORM_ANNOTATION}: {asked}, but the runtime was given --platform {flag}"
        )
    platform = flag or asked or PLATFORMS[0]
    problem = platform_problem(platform)
    if problem:
        raise OciError(problem)
    return platform


def sandbox_spec(bundle: Bundle) -> SandboxSpec:
    """The container's spec for the sentry. Raises OciError."""
    process = bundle.process
    add_home(process, bundle.rootfs)
    spec = SandboxSpec(process.argv)
    for item in process.env:
        key, _equals, value = item.partition(b"=")
        spec.env[key] = value
    spec.cwd = process.cwd
    spec.uid, spec.gid, spec.groups = process.uid, process.gid, process.groups
    spec.umask, spec.rlimits, spec.cap_sets = process.umask, process.rlimits, process.cap_sets
    spec.no_new_privileges, spec.oom_score_adj = process.no_new_privileges, process.oom_score_adj
    spec.scheduler, spec.io_priority = process.scheduler, process.io_priority
    spec.personality, spec.memory_policy = bundle.personality, bundle.memory_policy
    spec.has_terminal = process.has_terminal
    spec.is_attached = False
    spec.capabilities = ALL_CAPS  # the capability sets decide
    spec.allows_suid = True
    spec.has_init = False
    spec.checks_program = True
    spec.is_placed = True  # `start` comes later
    spec.root_source = bundle.rootfs
    spec.root_mode = RO if bundle.is_read_only else RW
    spec.root_is_shared, spec.root_is_private = True, bundle.is_private
    spec.mounts = guest_mounts(bundle)
    describe_mounts(spec, bundle)
    spec.late_directories = [(bundle.process.cwd, 0o755, 0, 0)]
    spec.hostname = encode(bundle.hostname)  # otherwise that of the namespace, which the monitor looks up
    spec.domainname = encode(bundle.domainname)
    spec.nofile_limit = _NOFILE
    memory = (bundle.resources.get("memory") or {}).get("limit") or 0
    spec.memory_bytes = memory if memory > 0 else -1
    tasks = (bundle.resources.get("pids") or {}).get("limit") or 0
    spec.max_tasks = min(tasks, _MAX_TASKS) if tasks > 0 else _NO_LIMIT_TASKS
    # In a /dev of the host's, which is a bind mount, nothing is made, as with runc.
    dev = [mount.is_bind for mount in bundle.mounts if mount.destination == "/dev"]
    if dev and not dev[-1]:
        spec.devices = [(path, S_IFCHR | 0o666, major, minor, 0, 0) for path, major, minor in _DEVICES]
        known = [row[0] for row in spec.devices]
        for each in bundle.devices:
            path = encode(os.path.normpath(each["path"]))
            if path in known or path == b"/dev/ptmx" or not path.startswith(b"/dev/"):
                continue
            mode = _KINDS[each["type"]] | each["mode"]
            spec.devices.append((path, mode, each["major"], each["minor"], each["uid"], each["gid"]))
    spec.masked_paths = [encode(path) for path in bundle.masked_paths]
    spec.read_only_paths = [encode(path) for path in bundle.read_only_paths]
    spec.sysctls = [(encode(key), encode(value)) for key, value in bundle.sysctls.items()]
    if bundle.maps is not None:
        spec.uid_map, spec.gid_map = bundle.maps.uids, bundle.maps.gids
    if bundle.seccomp is not None:
        from cloche.oci.seccomp import compile_profile

        spec.filter = compile_profile(bundle.seccomp)
    return spec


def open_namespaces(bundle: Bundle) -> list[tuple[str, int]]:
    """The namespaces that the anchor joins or makes; the maps of a user namespace that is joined are read.

    Raises OciError.
    """
    found: list[tuple[str, int]] = []
    for kind, path in bundle.namespaces.items():
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else -1
        except OSError as error:
            if kind == "user":
                what = f"userns spawn: open userns path {path} failed: {error.strerror}"
                raise OciError(f"failed to cache mappings for userns: {what}") from None
            raise OciError(f"namespace {path}: {error.strerror}") from None
        if kind == "user" and path:
            bundle.read_namespace(fd)
        found.append((kind, fd))
    return found


def open_terminal(path: str, process: ProcessSpec, maps: IdMaps | None = None) -> tuple[int, int]:
    """A terminal of the host for the container: its slave, and its master, or -1 if that went to the engine's socket.
    It belongs to the process's user, of a user namespace with `maps`.

    Raises OciError.
    """
    import termios

    try:
        master, slave = os.openpty()
    except OSError as error:
        raise OciError(f"no terminal: {error.strerror}") from None
    try:
        # The line discipline of the sandbox's own terminal does the work; this terminal is raw.
        raw: list[Any] = termios.tcgetattr(slave)
        raw[0] = raw[1] = raw[3] = 0
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(slave, termios.TCSANOW, raw)
        if process.rows and process.columns:
            termios.tcsetwinsize(slave, (process.rows, process.columns))
        if maps is None:
            os.fchown(slave, process.uid, process.gid)
        else:
            os.fchown(slave, outside(maps.uids, process.uid), outside(maps.gids, process.gid))
        if path:
            send_master(path, master, os.ttyname(slave))
    except (OSError, termios.error) as problem:
        os.close(slave)
        raise OciError(f"console socket {path}: {problem}") from None
    finally:
        if path:
            os.close(master)
    return slave, -1 if path else master


def send_master(path: str, master: int, name: str) -> None:
    """Send a terminal to the process that listens on a socket (runc's docs/terminals.md). Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
        sock.sendmsg([name.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [master]))])
    finally:
        sock.close()


def send_process(path: str, pid: int) -> None:
    """Send a pidfd of an anchor there (`--pidfd-socket`). Raises OciError."""
    fd = -1
    try:
        fd = os.pidfd_open(pid)
        send_master(path, fd, "pidfd")
    except OSError as error:
        raise OciError(f"pidfd socket {path}: {error.strerror}") from None
    finally:
        if fd >= 0:
            os.close(fd)


def own_streams(streams: list[int], process: ProcessSpec, maps: IdMaps | None) -> None:
    """Give the standard streams to the program's user, who may then open them by /dev/stdout, as runc does: not
    /dev/null, and nothing of an owner or group without an id in the container's user namespace.
    """
    uid = process.uid if maps is None else outside(maps.uids, process.uid)
    null = os.stat(os.devnull).st_rdev
    for fd in streams:
        if fd < 0:
            continue
        status = os.fstat(fd)
        if status.st_uid == uid or (stat.S_ISCHR(status.st_mode) and status.st_rdev == null):
            continue
        if maps is not None and not maps.has(status.st_uid, status.st_gid):
            continue
        try:
            os.fchown(fd, uid, -1)
        except OSError:
            pass  # of a file system, or an owner, where that is not permitted


def check_terminal(process: ProcessSpec, path: str, *, is_detached: bool) -> None:
    """Raises OciError."""
    if process.has_terminal and not path and is_detached:
        raise OciError("cannot allocate tty if runc will detach without setting console socket")
    if not process.has_terminal and path:
        raise OciError("cannot use console socket if runc will not detach or allocate tty")
    if path:
        try:
            is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
        except OSError as error:
            raise OciError(f"console socket {path}: {error.strerror}") from None
        if not is_socket:
            raise OciError(f"console socket {path} is not a socket")


def timestamp() -> str:
    """RFC 3339 with nanoseconds, as runc has it."""
    now = time.time_ns()
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000)) + f".{now % 1_000_000_000:09d}Z"
    )


def create(
    begun: Begun,
    *,
    console: str,
    pid_file: str,
    pidfd_socket: str,
    platform: str,
    log: Log,
    activated: int = 0,
    egress: str = "",
    is_detached: bool = True,
    has_groups: bool = True,
    is_systemd: bool = False,
) -> tuple[Record, int]:
    """Make a container. Its program is told that the first `activated` descriptors behind the standard streams are
    sockets for it.

    Returns its record, and the master of its terminal if that was not sent to the engine. Raises OciError; everything
    that was made is then removed.
    """
    record, streams = begun.record, begun.streams
    anchor = Anchor()
    scope: Scope | None = None
    try:
        bundle = Bundle(begun.path, begun.data)
        namespaces = open_namespaces(bundle)
        bundle.settle_ids()
        check_terminal(bundle.process, console, is_detached=is_detached)
        for text in bundle.process.warnings:
            log.warning(text)
        if activated:
            bundle.process.env += [b"LISTEN_FDS=%d" % activated, b"LISTEN_PID=1"]  # as runc says it
        spec = sandbox_spec(bundle)
        spec.platform = chosen_platform(bundle, platform)
        spec.egress = egress_of(bundle, record.ident, egress)
        record.version, record.bundle, record.rootfs = bundle.version, bundle.path, bundle.rootfs
        record.annotations, record.hooks = bundle.annotations, bundle.hooks
        record.process, record.created = bundle.process_data, timestamp()
        sandbox: Record | None = None
        if may_join(begun.data):
            from cloche.oci.pods import sandbox_of

            sandbox = sandbox_of(record.root, bundle)
        if sandbox is not None:
            check_joined(bundle.annotations, sandbox.annotations)
            record.sandbox = sandbox.ident
        if not begun.is_recorded:
            begun.make_record()
            if has_groups and is_systemd:
                from cloche.oci import systemd

                scope = systemd.Scope(bundle.groups_path, record.ident, bundle.resources, bundle.annotations)
                record.unit, record.bus = scope.unit, scope.bus
                begun.make_groups(cgroups.places_of_process(scope.groups))
            elif has_groups:
                places = cgroups.places(bundle.groups_path, record.ident)
                begun.make_groups(places, may_fail=is_rootless())
            record.save()
            if sandbox is None:
                begun.fork()
            else:
                begun.drop()  # one that was forked before it was known
        if begun.has_company and not is_systemd:  # whose scope has a process of ours
            log.warning("container's cgroup is not empty")
        cgroups.limit(record.groups, bundle.resources)
        cpus = (bundle.resources.get("cpu") or {}).get("cpus") or ""
        check_deadline(bundle.process.scheduler, record.groups, cpus)
        if (bundle.resources.get("memory") or {}).get("disableOOMKiller") and not cgroups.is_unified():
            # Version 2 has no such thing, and runc says nothing there.
            log.warning("memory.disableOOMKiller has no effect: the sentry ends a process at the limit")
        terminal = master = -1
        if bundle.process.has_terminal:
            terminal, master = open_terminal(console, bundle.process, bundle.maps)
            spec.keeps_newlines = master >= 0  # as with runc: those who get the terminal decide themselves
            streams = [terminal, terminal, terminal, *streams[3:]]
        else:
            own_streams(streams[:3], bundle.process, bundle.maps)
        if sandbox is None:
            anchor.adopt(begun.sock, begun.far)
        else:
            anchor.open()
        anchor.begin(namespaces, record.groups, bundle, bundle.process.argv, terminal)
        record.pid, record.pid_start = anchor.pid, anchor.began()
        record.save()
        if pidfd_socket:
            send_process(pidfd_socket, anchor.pid)
        if scope is not None:
            scope.release()
            scope = None
        state = record.state(CREATING)
        _run_hooks(bundle.hooks, "prestart", state)
        _run_hooks(bundle.hooks, "createRuntime", state)
        anchor.build()
        _run_hooks(bundle.hooks, "createContainer", state)
        end = anchor.sock.fileno() if sandbox is None else os.dup(anchor.sock.fileno())
        anchor.go()
        if sandbox is None:
            _start(begun, anchor.pid, spec, terminal)
        else:
            _join(record, sandbox, anchor, end, spec, streams)
        if pid_file:
            write_pid_file(pid_file, anchor.pid)
        record.is_made = True
        record.save()
    except BaseException as failure:
        begun.drop()
        if scope is not None:
            scope.release()
        if anchor.pid:
            try:
                anchor.end()
            except (OSError, AttributeError):
                pass
        begun.undo()
        if isinstance(failure, OSError):
            raise OciError(f"cannot create the container: {failure}") from None
        raise
    return record, master


def _run_hooks(hooks: dict[str, Any], kind: str, state: dict[str, Any]) -> None:
    """Raises OciError."""
    if hooks.get(kind):
        from cloche.oci.hooks import run_hooks  # most bundles have none

        run_hooks(hooks, kind, state)


def _join(
    record: Record, sandbox: Record, anchor: Anchor, end: int, spec: SandboxSpec, streams: list[int]
) -> None:
    """Raises OciError, and takes `end` over."""
    from cloche.oci.pods import join
    from cloche.wire.control_client import ControlError

    try:
        join(record, sandbox, anchor, end, spec, streams)
    except ControlError as refusal:
        name = spec.argv[0].decode(errors="replace")
        raise OciError(explain_start(refusal.status, str(refusal), name)) from None
    finally:
        os.close(end)


def _start(begun: Begun, pid: int, spec: SandboxSpec, terminal: int) -> None:
    """Have the monitor start the sandbox: the anchor is ready. Raises OciError if that cannot be."""
    link = begun.link
    assert link is not None
    text = b""
    try:
        egress = None if spec.egress is None else packed(spec.egress)
        say(link, (pid, dump(spec), egress), [terminal] if terminal >= 0 else [])
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has died; it may have said why
    try:
        while True:
            data = link.recv(65536)
            if not data:
                break
            text += data
    except ConnectionResetError:
        pass
    begun.drop()
    status, problem = (
        json.loads(text.decode()) if text else (125, _last_line(begun.record) or "the monitor died")
    )
    if problem:
        raise OciError(explain_start(status, problem, spec.argv[0].decode(errors="replace")))


def _last_line(record: Record) -> str:
    try:
        with open(os.path.join(record.path, "log"), errors="replace") as file:
            lines = file.read(65536).strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def explain_start(status: int, problem: str, name: str) -> str:
    """The error in the words by which engines recognize exit statuses 126 and 127."""
    quoted = json.dumps(name)
    if status == 127:
        if "its interpreter" in problem:
            text = f"exec {name}: no such file or directory ({problem})"
        elif "/" in name:
            text = f"exec: {quoted}: stat {name}: no such file or directory"
        else:
            text = f"exec: {quoted}: executable file not found in $PATH"
    elif status == 126:
        text = f"exec {name}: {problem}"
        if "EISDIR" in problem:
            text = f"exec: {quoted}: is a directory: permission denied"
        elif "EACCES" in problem:
            text = f"exec: {quoted}: permission denied"
    else:
        return (
            "runc create failed: " + explain_attributes(problem) if explain_attributes(problem) else problem
        )
    return f"runc create failed: unable to start container process: {text}"


def write_pid_file(path: str, pid: int) -> None:
    """Write the pid-file atomically. Raises OciError."""
    folder, name = os.path.split(path)
    new = os.path.join(folder, f".{name}")
    try:
        with open(new, "w", encoding="ascii") as file:
            file.write(str(pid))
        os.rename(new, path)
    except OSError as error:
        raise OciError(f"{path}: {error.strerror}") from None
