"""The records of sandboxes with a name: a directory of files for each, below one root directory.

    ROOT/.lock            held (flock) while records are made and removed
    ROOT/NAME/lock        an open-file lock, held by the monitor for as long as it lives, however it ends
    ROOT/NAME/state.json  what the sandbox is, replaced as a whole
    ROOT/NAME/control     the monitor's socket
    ROOT/NAME/log, log.1  the output of a detached sandbox (`runtime.logs`)

Whether a sandbox runs is asked of the lock, never of a process id: ids are used again.  The root is /run/cloche for
root, else $XDG_RUNTIME_DIR/cloche, else a directory of the user's own in /tmp; nobody else may be able to write
there.
"""

import errno
import fcntl
import json
import os
import re
import socket
import stat
import struct
import time
from typing import Any, Final

STATE_VERSION: Final = 1
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
RUNNING: Final = "running"
EXITED: Final = "exited"
DEAD: Final = "dead"  # its monitor was killed: nobody knows how it ended
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_STATE_BYTES: Final = 1 << 20
_BACKLOG: Final = 128
_FIRST: Final = ("amber", "bright", "calm", "early", "fern", "green", "hazel", "ivory", "late", "mossy", "pale",
                 "quiet", "russet", "silver", "tall", "warm")  # fmt: skip
_SECOND: Final = ("aster", "basil", "clover", "dahlia", "fennel", "iris", "lilac", "mallow", "mint", "poppy", "quince",
                  "sage", "sorrel", "thyme", "violet", "yarrow")  # fmt: skip


class RecordError(Exception):
    """A record cannot be made, found or removed; the text says why in one line."""


def default_root() -> str:
    """Where records are without `--root`."""
    if os.geteuid() == 0:
        return "/run/cloche"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.path.isdir(runtime):
        return os.path.join(runtime, "cloche")
    return f"/tmp/cloche-{os.geteuid()}"


def new_name() -> str:
    """A name that is most likely free."""
    first, second = os.urandom(2)
    return f"{_FIRST[first % len(_FIRST)]}-{_SECOND[second % len(_SECOND)]}-{os.urandom(3).hex()}"


def check_name(name: str) -> None:
    """Raises RecordError unless `name` is one that a sandbox may have."""
    if not NAME_PATTERN.fullmatch(name):
        raise RecordError(
            f"{name!r} is not a name: letters, digits, _ . and -, at most 64, the first no sign"
        )


def _remove_tree(path: str) -> None:
    """Remove a record's directory; it has no directories below it.  Nothing is raised."""
    try:
        names = os.listdir(path)
    except OSError:
        return
    for name in names:
        try:
            os.unlink(os.path.join(path, name))
        except OSError:
            pass
    try:
        os.rmdir(path)
    except OSError:
        pass


class State:
    """What state.json holds."""

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.pid: int = 0  # of the monitor
        self.created_s: float = 0.0  # since the epoch
        self.ended_s: float = 0.0
        self.command: list[str] = []
        self.status: str = RUNNING
        self.exit_status: int = -1
        self.error: str = ""  # why cloche itself ended it
        self.oom_kills: int = 0
        self.is_detached: bool = False
        self.is_temporary: bool = False  # no record is kept of its end

    def to_json(self) -> dict[str, Any]:
        """As plain data, for files and `--json`."""
        return {
            "version": STATE_VERSION,
            "name": self.name,
            "pid": self.pid,
            "created": self.created_s,
            "ended": self.ended_s,
            "command": self.command,
            "status": self.status,
            "exit_status": self.exit_status,
            "error": self.error,
            "oom_kills": self.oom_kills,
            "detached": self.is_detached,
            "temporary": self.is_temporary,
        }

    @staticmethod
    def from_json(name: str, text: bytes) -> "State":
        """The inverse; what is missing or of a wrong type keeps its default.  Raises ValueError for no JSON."""
        data = json.loads(text)
        state = State(name)
        if not isinstance(data, dict):
            return state
        command = data.get("command")
        if isinstance(command, list):
            state.command = [word for word in command if isinstance(word, str)]
        state.pid = _number(data.get("pid"), 0)
        state.created_s = float(_number(data.get("created"), 0))
        state.ended_s = float(_number(data.get("ended"), 0))
        state.status = EXITED if data.get("status") == EXITED else RUNNING
        state.exit_status = _number(data.get("exit_status"), -1)
        state.oom_kills = _number(data.get("oom_kills"), 0)
        error = data.get("error")
        state.error = error if isinstance(error, str) else ""
        state.is_detached = data.get("detached") is True
        state.is_temporary = data.get("temporary") is True
        return state


def _number(value: object, default: int) -> int:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default


class Store:
    """All records below one root."""

    def __init__(self, root: str = "") -> None:
        self.root: str = os.path.abspath(root) if root else default_root()

    # -- the root ----------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Make the root if it is missing, and check that nobody else may write there.  Raises RecordError."""
        try:
            os.makedirs(self.root, 0o700, exist_ok=True)
            found = os.lstat(self.root)
        except OSError as error:
            raise RecordError(f"{self.root}: {error.strerror}; give another directory with --root") from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise RecordError(
                f"{self.root} is not a directory that only you may write to; give another with --root"
            )

    def _lock(self) -> int:
        fd = os.open(
            os.path.join(self.root, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def path(self, name: str) -> str:
        """The directory of a record."""
        check_name(name)
        return os.path.join(self.root, name)

    # -- making and removing -------------------------------------------------------------------------------
    def create(self, state: State) -> "Record":
        """Make the record of a sandbox that is about to start.  Raises RecordError if the name is taken."""
        path = self.path(state.name)
        self.prepare()
        guard = self._lock()
        try:
            old = self._find(state.name)
            if old is not None and old.status == RUNNING:
                raise RecordError(f"a sandbox named {state.name} is running")
            if old is not None and not old.is_temporary:
                raise RecordError(
                    f"the name {state.name} is that of an ended sandbox; cloche rm {state.name}"
                )
            _remove_tree(path)
            os.mkdir(path, 0o700)
            record = Record(path, state)
            record.save()
            return record
        except OSError as error:
            raise RecordError(f"{path}: {error.strerror}") from None
        finally:
            os.close(guard)

    def remove(self, name: str) -> None:
        """Forget an ended sandbox.  Raises RecordError if it runs or is not known."""
        path = self.path(name)
        if not os.path.isdir(self.root):
            raise RecordError(f"no sandbox is named {name}")
        guard = self._lock()
        try:
            state = self._find(name)
            if state is None:
                raise RecordError(f"no sandbox is named {name}")
            if state.status == RUNNING:
                raise RecordError(f"{name} is running; cloche stop {name}, or cloche rm -f {name}")
            _remove_tree(path)
        finally:
            os.close(guard)

    # -- looking ---------------------------------------------------------------------------------------------
    def _find(self, name: str) -> State | None:
        path = os.path.join(self.root, name)
        if not os.path.isdir(path):
            return None
        try:
            with open(os.path.join(path, "state.json"), "rb") as file:
                state = State.from_json(name, file.read(_STATE_BYTES))
        except (OSError, ValueError):
            state = State(name)
        if state.status == RUNNING and not is_locked(os.path.join(path, "lock")):
            state.status = DEAD
        return state

    def find(self, name: str) -> State:
        """The state of a sandbox.  Raises RecordError if there is none of that name."""
        check_name(name)
        state = self._find(name)
        if state is None:
            raise RecordError(f"no sandbox is named {name}")
        return state

    def list(self) -> list[State]:
        """All, oldest first."""
        try:
            names = os.listdir(self.root)
        except OSError:
            return []
        found = [self._find(name) for name in names if NAME_PATTERN.fullmatch(name)]
        return sorted([state for state in found if state is not None], key=_age)

    def connect(self, name: str) -> socket.socket:
        """A connection to a sandbox's monitor.  Raises RecordError if it does not run."""
        state = self.find(name)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            through_directory(self.path(name), sock.connect)
        except OSError as error:
            sock.close()
            if state.status == RUNNING and error.errno not in (errno.ENOENT, errno.ECONNREFUSED):
                raise RecordError(f"{name}: {error.strerror}") from None
            raise RecordError(f"{name} is not running") from None
        return sock


def _age(state: State) -> tuple[float, str]:
    return state.created_s, state.name


def through_directory(path: str, use: Any) -> None:
    """Call `use` with a short name of the socket in a directory: the names of sockets have at most 107 bytes."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{fd}/control")
    finally:
        os.close(fd)


def is_locked(path: str) -> bool:
    """Whether a monitor lives."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
        kind: int = _FLOCK.unpack(answer)[0]
        return kind != fcntl.F_UNLCK
    finally:
        os.close(fd)


class Record:
    """The record of this process's own sandbox; the lock is held as long as it (or a child) lives."""

    def __init__(self, path: str, state: State) -> None:
        self.path: str = path
        self.state: State = state
        self._lock: int = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.fcntl(self._lock, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
        state.created_s = time.time()

    def listen(self) -> socket.socket:
        """The socket for clients; connections wait until the monitor takes them.  Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        old = os.umask(0o177)
        try:
            through_directory(self.path, sock.bind)
        finally:
            os.umask(old)
        sock.listen(_BACKLOG)
        return sock

    def save(self) -> None:
        """Write the state, as a whole or not at all.  Raises OSError."""
        temporary = os.path.join(self.path, "state.new")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.state.to_json(), file)
        os.rename(temporary, os.path.join(self.path, "state.json"))

    def finish(self, exit_status: int, error: str, oom_kills: int) -> None:
        """The sandbox has ended: keep how, or (a temporary one) forget it.  Nothing is raised: it is over."""
        state = self.state
        state.status, state.exit_status, state.error = EXITED, exit_status, error
        state.ended_s, state.oom_kills = time.time(), oom_kills
        try:
            os.unlink(os.path.join(self.path, "control"))
        except OSError:
            pass
        if state.is_temporary:
            self.discard()
            return
        try:
            self.save()
        except OSError:
            pass

    def discard(self) -> None:
        """Remove the record."""
        _remove_tree(self.path)
