"""The first steps of `create`: the record, the control groups, and the monitor (`ahead`), which starts the keeper.

The keeper takes longest to get ready, so it comes before all else: config.json is parsed here, and checked only
afterwards (`create`), while the keeper imports the kernel.  Nothing that this module imports is in the compiled
library.  What `create` refuses is removed again (`Begun.undo`).

The monitor hears of the container later (`Begun.fork`) where systemd makes the control groups, from limits that must be
checked first, and where a container perhaps has none because it joins the sandbox of another.
"""

import os
import socket
from typing import Any, Final

from cloche.oci import cgroups
from cloche.oci.ahead import Ahead, adopted, fork_monitor
from cloche.oci.config import read_json
from cloche.oci.errors import OciError
from cloche.oci.messages import say
from cloche.oci.records import Record, check_id, start_time
from cloche.oci.rootless import is_rootless

__all__ = ["PLATFORM_ANNOTATION", "POD_CONTAINER", "POD_MARKS", "Begun", "begin", "may_join"]

# (type of the container, id of its sandbox): of containerd (pkg/cri/annotations), of CRI-O (pkg/annotations).
POD_MARKS: Final = (
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
)
POD_CONTAINER: Final = "container"
PLATFORM_ANNOTATION: Final = "dev.cloche.platform"
_USUAL_PLATFORM: Final = "systrap"


class Begun:
    """A container that is being made, as far as it is."""

    def __init__(
        self, record: Record, path: str, data: dict[str, Any], streams: list[int], *, is_usual: bool
    ) -> None:
        self.record: Record = record
        self.path: str = path  # of the bundle
        self.data: dict[str, Any] = data  # its config.json
        self.streams: list[int] = streams
        self.is_usual: bool = is_usual  # as far as it is known: a wrong guess costs the sentry's start
        self.is_recorded: bool = False
        self.has_company: bool = False  # there are others' processes in its control groups
        self.ahead: Ahead | None = adopted()
        # to the monitor
        self.link: socket.socket | None = self.ahead.link if self.ahead is not None else None
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
        self.has_company = cgroups.are_occupied(places)
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
        ahead = self.ahead if self.ahead is not None else fork_monitor()
        self.link = ahead.link
        log = os.open(
            os.path.join(record.path, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        ways = cgroups.ways_in(record.groups)
        self._tell((self.streams, self.is_usual), [log, *ways])
        for fd in (log, *ways):
            os.close(fd)
        self.sock, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener = record.listen()
        told = (record.root, record.ident, record.groups, dict(os.environ))
        self._tell(told, [self.sock.fileno(), listener.fileno()])
        listener.close()
        record.monitor, record.monitor_start = ahead.pid, start_time(ahead.pid)
        record.save()

    def _tell(self, value: Any, fds: list[int]) -> None:
        assert self.link is not None
        try:
            say(self.link, value, fds)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has died; `create` finds out why

    def drop(self) -> None:
        """Say no more to the monitor: unless it has been told to go on it ends."""
        if self.link is not None:
            self.link.close()
            self.link = None

    def undo(self) -> None:
        """Remove everything of a container that could not be made, but its anchor."""
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
    root: str,
    ident: str,
    bundle_path: str,
    streams: list[int],
    *,
    has_groups: bool,
    is_systemd: bool,
    platform: str = "",
) -> Begun:
    """Begin to make a container.  Raises OciError; everything that was made is then removed."""
    check_id(ident)
    path = os.path.realpath(bundle_path)
    data = read_json(os.path.join(path, "config.json"))
    made = Begun(Record(root, ident), path, data, streams, is_usual=_is_usual(data, platform))
    if is_systemd or may_join(made.data):
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


def _is_usual(data: dict[str, Any], platform: str) -> bool:
    """What `boot.spec.is_usual` will say, without that module: with the usual platform, and not changed by a test."""
    annotations = data.get("annotations")
    asked = annotations.get(PLATFORM_ANNOTATION) if isinstance(annotations, dict) else None
    return (platform or asked or _USUAL_PLATFORM) == _USUAL_PLATFORM and "CLOCHE_SPIN_NS" not in os.environ


def may_join(data: dict[str, Any]) -> bool:
    """Whether the container may be one that joins the sandbox of another, as its config.json says."""
    annotations = data.get("annotations")
    if isinstance(annotations, dict) and any(
        annotations.get(kind) == POD_CONTAINER for kind, _ident in POD_MARKS
    ):
        return True
    linux = data.get("linux")
    rows = linux.get("namespaces") if isinstance(linux, dict) else None
    return isinstance(rows, list) and any(
        isinstance(row, dict) and row.get("type") == "pid" and bool(row.get("path")) for row in rows
    )


def _groups_path(data: dict[str, Any]) -> str:
    """`linux.cgroupsPath`; empty if it is none, which will be refused."""
    linux = data.get("linux")
    path = linux.get("cgroupsPath") if isinstance(linux, dict) else None
    return path if isinstance(path, str) and "\0" not in path else ""
