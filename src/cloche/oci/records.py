"""The records of containers, below the directory `--root`: one directory for each.

    ROOT/ID/state.json   what the container is (`Record`), replaced as a whole
    ROOT/ID/control      the monitor's socket
    ROOT/ID/started      it has been started
    ROOT/ID/paused       it is paused
    ROOT/ID/log          what the parts of the sandbox say

`state`, `list`, `delete` and `kill` use only these files, and whether processes live, so they work even if a monitor
hangs. A process is identified by its pid and its start time, because pids are used again.
"""

import os
import signal
import time
from typing import Any, Final

from cloche.oci import quickjson as json
from cloche.oci.errors import OciError
from cloche.oci.rootless import in_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket  # a tenth of the time of `state` and `delete`, which need none

CREATING: Final = "creating"
CREATED: Final = "created"
RUNNING: Final = "running"
PAUSED: Final = "paused"
STOPPED: Final = "stopped"
_MAX_ID: Final = 1024
_STATE_BYTES: Final = 32 << 20
_ENDING_S: Final = 15.0  # for processes that were killed to be gone


def default_root() -> str:
    """Where records are without `--root`: apart from those of `cloche run`."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0 and not (runtime and in_user_namespace()):
        return "/run/cloche-oci"
    if not runtime.startswith("/"):  # a directory in /tmp could be another user's
        raise OciError("there is no XDG_RUNTIME_DIR: say with --root where records are")
    return os.path.join(runtime, "cloche-oci")


def check_id(ident: str) -> None:
    """Raises OciError unless runc would accept the id, too."""
    is_plain = all(each.isalnum() or each in "_+.-" for each in ident)
    if not ident or not is_plain or ident in (".", "..") or len(ident) > _MAX_ID:
        raise OciError("invalid container ID format: " + json.dumps(ident[:_MAX_ID]))


def start_time(pid: int) -> int:
    """When a process began, in ticks since boot; 0 if it is gone, or dead and not waited for."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if len(fields) < 20 or fields[0] in (b"Z", b"X") else int(fields[19])


class Record:
    """One container."""

    def __init__(self, root: str, ident: str) -> None:
        self.root: str = root
        self.ident: str = ident
        self.path: str = os.path.join(root, ident)
        self.version: str = ""  # ociVersion of the bundle
        self.pid: int = 0  # of the anchor
        self.pid_start: int = 0
        self.monitor: int = 0
        self.monitor_start: int = 0
        self.is_made: bool = False  # `create` has done all
        self.bundle: str = ""
        self.rootfs: str = ""
        self.created: str = ""
        self.annotations: dict[str, str] = {}
        self.groups: list[str] = []  # directories of its control groups
        self.unit: str = ""  # its scope, if systemd has made them
        self.bus: str = ""  # the socket at which systemd's manager was reached
        self.sandbox: str = ""  # in a pod: the container whose sandbox and monitor it uses; empty: its own
        self.hooks: dict[str, Any] = {}
        self.process: dict[str, Any] = {}  # of the bundle, for `exec` by words

    # -- files -------------------------------------------------------------------------------------------
    def make(self) -> None:
        """A new directory.  Raises OciError if there is one."""
        try:
            os.makedirs(self.root, 0o711, exist_ok=True)
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            raise OciError("container with given ID already exists") from None
        except OSError as error:
            raise OciError(f"{self.path}: {error.strerror}") from None

    def save(self) -> None:
        """Write the state, as a whole or not at all.  Raises OSError."""
        path = os.path.join(self.path, "state.json")
        fields = {
            name: value for name, value in self.__dict__.items() if name not in ("root", "ident", "path")
        }
        with open(path + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(fields, file)
        os.rename(path + ".new", path)

    def mark(self, name: str, *, is_set: bool) -> None:
        """Set or remove a mark."""
        path = os.path.join(self.path, name)
        if is_set:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        else:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def has_mark(self, name: str) -> bool:
        """Whether it is set."""
        return os.path.exists(os.path.join(self.path, name))

    def remove(self) -> None:
        """Forget the container."""
        try:
            names = os.listdir(self.path)
        except OSError:
            return
        for name in names:
            try:
                os.unlink(os.path.join(self.path, name))
            except OSError:
                pass
        try:
            os.rmdir(self.path)
        except OSError:
            pass

    # -- what it is --------------------------------------------------------------------------------------
    def has_anchor(self) -> bool:
        """Whether the process that engines know lives."""
        return self.pid > 0 and start_time(self.pid) == self.pid_start

    def has_monitor(self) -> bool:
        """Whether the monitor lives."""
        return self.monitor > 0 and start_time(self.monitor) == self.monitor_start

    def status(self) -> str:
        """As in the OCI runtime specification, and "paused"."""
        if self.pid == 0:
            return CREATING
        if not self.has_anchor():
            return STOPPED
        if not self.is_made:
            return CREATING
        if self.has_mark("paused"):
            return PAUSED
        return RUNNING if self.has_mark("started") else CREATED

    def state(self, status: str = "") -> dict[str, Any]:
        """The state that hooks get and `state` prints."""
        status = status or self.status()
        found: dict[str, Any] = {
            "ociVersion": self.version,
            "id": self.ident,
            "pid": self.pid if status != STOPPED else 0,
            "status": status,
            "bundle": self.bundle,
        }
        if self.annotations:
            found["annotations"] = self.annotations
        return found

    # -- processes ---------------------------------------------------------------------------------------
    def kill(self, signo: int) -> bool:
        """Signal the anchor; False if it is gone."""
        if not self.has_anchor():
            return False
        try:
            os.kill(self.pid, signo)
        except ProcessLookupError:
            return False
        return True

    def end(self) -> None:
        """Kill the container's remaining processes, and wait until they are gone. Raises OciError
        if they do not end.
        """
        if self.sandbox:
            self._end_joined()
            return
        self.kill(signal.SIGKILL)
        deadline = time.monotonic() + _ENDING_S
        is_killed = False
        while self.has_anchor() or self.has_monitor():
            left_s = deadline - time.monotonic()
            if left_s < _ENDING_S - 5 and not is_killed and self.has_monitor():
                is_killed = True  # it does not end by itself
                os.kill(self.monitor, signal.SIGKILL)
            if left_s < 0:
                raise OciError(f"container {self.ident}: its processes do not end")
            self._wait_a_little()

    def _end_joined(self) -> None:
        """The same for a container without a sandbox of its own: only its control groups tell its processes. The
        sandbox's monitor ends it when its anchor dies; if the monitor hangs, this does.
        """
        from cloche.oci import cgroups

        self.kill(signal.SIGKILL)
        deadline = time.monotonic() + _ENDING_S
        while True:
            left = [pid for pid in cgroups.processes(self.groups) if start_time(pid)]
            if not left and not self.has_anchor():
                return
            left_s = deadline - time.monotonic()
            if left_s < 0:
                raise OciError(f"container {self.ident}: its processes do not end")
            if left_s < _ENDING_S - 5:
                for pid in left:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            _wait_for_death(left[0] if left else self.pid)

    def _wait_a_little(self) -> None:
        """For the death of one of the processes."""
        for pid, began in ((self.pid, self.pid_start), (self.monitor, self.monitor_start)):
            if pid > 0 and start_time(pid) == began and _wait_for_death(pid):
                return

    def connect(self) -> "socket.socket":
        """A connection to the monitor.  Raises OciError."""
        import socket

        path = os.path.join(self.root, self.sandbox) if self.sandbox else self.path
        try:
            directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            raise OciError("container not running") from None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(f"/proc/self/fd/{directory}/control")
        except OSError:
            sock.close()
            raise OciError("container not running") from None
        finally:
            os.close(directory)
        return sock

    def listen(self) -> "socket.socket":
        """The monitor's socket."""
        import socket

        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        directory = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.bind(f"/proc/self/fd/{directory}/control")  # whatever the length of its path
        finally:
            os.close(directory)
        sock.listen(128)
        return sock


def _wait_for_death(pid: int) -> bool:
    """Wait a little for the death of a process; False if there is none."""
    import select

    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll(200)
    finally:
        os.close(fd)
    return True


def load(root: str, ident: str) -> Record:
    """The record of a container.  Raises OciError."""
    check_id(ident)
    record = Record(root, ident)
    try:
        with open(os.path.join(record.path, "state.json"), "rb") as file:
            # A read takes as much memory as it is asked for.
            size_bytes = min(os.fstat(file.fileno()).st_size, _STATE_BYTES)
            fields = json.loads(file.read(size_bytes).decode(errors="surrogateescape"))
    except FileNotFoundError:
        if not os.path.isdir(record.path):
            raise OciError("container does not exist") from None
        fields = {}  # it is being made, or its maker has died
    except (OSError, ValueError):
        fields = {}
    if isinstance(fields, dict):
        for name, value in fields.items():
            if hasattr(record, name) and isinstance(value, type(getattr(record, name))):
                setattr(record, name, value)
    return record


def names(root: str) -> list[str]:
    """The ids of all containers."""
    try:
        return sorted(name for name in os.listdir(root) if os.path.isdir(os.path.join(root, name)))
    except OSError:
        return []
