"""The first steps of `create`: the record, the control groups, and the monitor, which starts the keeper.

The keeper takes longest to get ready, so it comes before all else: config.json is parsed here, and checked only
afterwards (`create`), while the keeper imports the kernel.  Nothing that this module imports is in the compiled
library.  What `create` refuses is removed again (`Begun.undo`).

The monitor comes later (`Begun.fork`) where systemd makes the control groups, from limits that must be checked first,
and where a container perhaps has none because it joins the sandbox of another.
"""

import fcntl
import os
import signal
import socket
import sys
from typing import Any, Final, NoReturn

from cloche.boot.spawn import spawn_keeper
from cloche.oci import cgroups
from cloche.oci.config import read_json
from cloche.oci.errors import OciError
from cloche.oci.records import Record, check_id, start_time
from cloche.oci.rootless import is_rootless

__all__ = ["POD_CONTAINER", "POD_MARKS", "Begun", "begin"]

# (type of the container, id of its sandbox): of containerd (pkg/cri/annotations), of CRI-O (pkg/annotations).
POD_MARKS: Final = (
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
)
POD_CONTAINER: Final = "container"
_IGNORED: Final = (
    *(
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGPIPE,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)
_ABOVE_STDIO: Final = 10


class Begun:
    """A container that is being made, as far as it is."""

    def __init__(self, record: Record, path: str, data: dict[str, Any], streams: list[int]) -> None:
        self.record: Record = record
        self.path: str = path  # of the bundle
        self.data: dict[str, Any] = data  # its config.json
        self.streams: list[int] = streams
        self.is_recorded: bool = False
        self.link: socket.socket | None = None  # to the monitor
        self.sock: socket.socket  # the monitor's end of the socket between anchor and monitor
        self.far: socket.socket

    def make_record(self) -> None:
        """Raises OciError if there is one."""
        self.record.make()
        self.is_recorded = True

    def make_groups(self, places: list[cgroups.Place], *, may_fail: bool = False) -> None:
        """Make the control groups.  The record names them before: should the caller be killed, `delete` finds them.

        Raises OciError, OSError.
        """
        record = self.record
        record.groups = cgroups.paths(places)
        record.save()
        try:
            record.groups = cgroups.make(places, may_fail=may_fail)
        except BaseException:
            record.groups = []  # what has been made is removed; a frozen one is another's
            raise

    def fork(self) -> None:
        """The monitor, which outlives the caller, and the keeper.  Raises OSError."""
        record = self.record
        self.sock, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener = record.listen()
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _be_monitor(record, self.streams, self.sock, listener, theirs)
        record.monitor, record.monitor_start = pid, start_time(pid)
        record.save()
        theirs.close()
        listener.close()

    def drop(self) -> None:
        """Say no more to the monitor: unless it has been told to go on it ends."""
        if self.link is not None:
            self.link.close()
            self.link = None

    def undo(self) -> None:
        """Remove everything of a container that could not be made, but its anchor."""
        sys.stdout.flush()
        self.drop()
        record = self.record
        if not self.is_recorded:
            return
        if record.monitor or record.sandbox:
            record.pid = 0
            try:
                record.end()
            except OciError:
                pass
        from cloche.oci.deletion import remove_groups

        remove_groups(record)
        record.remove()


def begin(
    root: str, ident: str, bundle_path: str, streams: list[int], *, has_groups: bool, is_systemd: bool
) -> Begun:
    """Begin to make a container.  Raises OciError; everything that was made is then removed."""
    check_id(ident)
    path = os.path.realpath(bundle_path)
    made = Begun(Record(root, ident), path, read_json(os.path.join(path, "config.json")), streams)
    if is_systemd or _may_join(made.data):
        return made
    made.make_record()
    try:
        made.record.bundle = path
        if has_groups:
            made.make_groups(cgroups.places(_groups_path(made.data), ident), may_fail=is_rootless())
        made.fork()
    except OSError as failure:
        made.undo()
        raise OciError(f"cannot create the container: {failure}") from None
    except BaseException:
        made.undo()
        raise
    return made


def _may_join(data: dict[str, Any]) -> bool:
    annotations = data.get("annotations")
    return isinstance(annotations, dict) and any(
        annotations.get(kind) == POD_CONTAINER for kind, _ident in POD_MARKS
    )


def _groups_path(data: dict[str, Any]) -> str:
    """`linux.cgroupsPath`; empty if it is none, which will be refused."""
    linux = data.get("linux")
    path = linux.get("cgroupsPath") if isinstance(linux, dict) else None
    return path if isinstance(path, str) and "\0" not in path else ""


def _be_monitor(
    record: Record, streams: list[int], sock: socket.socket, listener: socket.socket, link: socket.socket
) -> NoReturn:
    try:
        for signo in _IGNORED:
            signal.signal(signo, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.setsid()
        log = os.open(
            os.path.join(record.path, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STDIO) if fd >= 0 else -1 for fd in streams]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(log, 2)
        os.chdir("/")
        # Else not before: it takes longer than the keeper's interpreter.
        is_in = cgroups.is_quick(record.groups)
        if is_in:
            cgroups.enter(record.groups)
        keeper = spawn_keeper()
        if not is_in:
            cgroups.enter(record.groups)
            cgroups.place_family(record.groups, keeper.pid)
        from cloche.oci.monitor import serve  # while the keeper gets ready

        serve(record, sock, high, listener, link, keeper)
    except BaseException as failure:
        sys.excepthook(type(failure), failure, failure.__traceback__)
    finally:
        os._exit(0)
