"""The records of sandboxes with a name: a directory of files for each, below one root directory.

    ROOT/.lock            held (flock) while records are made and removed
    ROOT/NAME/lock        an open-file lock, held by the monitor for as long as it lives, however it ends
    ROOT/NAME/state.json  what the sandbox is, replaced as a whole
    ROOT/NAME/control     the monitor's socket
    ROOT/NAME/log, log.1  the output of a detached sandbox (`runtime.logs`)

Whether a sandbox runs is asked of the lock, never of a process id: ids are used again. Another user may have made
files in /tmp. So directories are held by descriptor once their owner and mode are checked, no link is followed, and
the socket is asked which user is at its other end. The root is /run/cloche for root, else $XDG_RUNTIME_DIR/cloche,
else a directory of the user's own in /tmp; it is refused if others can write there.
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

from cloche.runtime.root import RecordError, default_root, open_directory, prepared_root
from cloche.wire.keeper import RecordPlace

__all__ = [
    "Record",
    "RecordError",
    "RecordPlace",
    "State",
    "Store",
    "default_root",
    "new_name",
    "open_directory",
]

STATE_VERSION: Final = 1
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
RUNNING: Final = "running"
EXITED: Final = "exited"
DEAD: Final = "dead"  # its monitor was killed, so its exit status is not known
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_PEER: Final = struct.Struct("3i")  # struct ucred
_CONNECT_TIME: Final = struct.pack("ll", 2, 0)  # struct timeval
_NO_TIME: Final = struct.pack("ll", 0, 0)
_STATE_BYTES: Final = 1 << 20
_BACKLOG: Final = 128
_FIRST: Final = ("amber", "bright", "calm", "early", "fern", "green", "hazel", "ivory", "late", "mossy", "pale",
                 "quiet", "russet", "silver", "tall", "warm")  # fmt: skip
_SECOND: Final = ("aster", "basil", "clover", "dahlia", "fennel", "iris", "lilac", "mallow", "mint", "poppy", "quince",
                  "sage", "sorrel", "thyme", "violet", "yarrow")  # fmt: skip


def new_name() -> str:
    """A random name, which is most likely not taken."""
    first, second = os.urandom(2)
    return f"{_FIRST[first % len(_FIRST)]}-{_SECOND[second % len(_SECOND)]}-{os.urandom(3).hex()}"


def check_name(name: str) -> None:
    """Raises RecordError if a sandbox must not have this name."""
    if not NAME_PATTERN.fullmatch(name):
        raise RecordError(
            f"{name!r} is not a name: letters, digits, _ . and -, at most 64, the first no sign"
        )


def _read_file(directory: int, name: str, limit: int) -> bytes:
    """Read a file of a record. Raises OSError, also for a link or a file that is not regular."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _remove_tree(root: int, name: str) -> None:
    """Remove a record's directory; it has no directories below it.  Nothing is raised."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    except OSError:
        return
    try:
        for each in os.listdir(fd):
            try:
                os.unlink(each, dir_fd=fd)
            except OSError:
                pass
        os.rmdir(name, dir_fd=root)
    except OSError:
        pass
    finally:
        os.close(fd)


class State:
    """The contents of state.json."""

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.pid: int = 0  # of the monitor
        self.created_s: float = 0.0  # since the epoch
        self.ended_s: float = 0.0
        self.command: list[str] = []
        self.status: str = RUNNING
        self.exit_status: int = -1
        self.error: str = ""  # why cloche itself has ended it
        self.oom_kills: int = 0
        self.is_detached: bool = False
        self.is_temporary: bool = False  # the record is removed when it ends
        self.metadata: dict[str, str] = {}  # labels that its maker has chosen
        # The results of its health checks (`cli.health`); empty: it has none
        self.health: dict[str, Any] = {}
        self.published: list[tuple[str, int, int]] = []  # (address and port of the host, port inside)

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
            "metadata": self.metadata,
            "health": self.health,
            "published": [list(each) for each in self.published],
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
        metadata = data.get("metadata")
        if isinstance(metadata, dict):
            state.metadata = {key: value for key, value in metadata.items() if isinstance(value, str)}
        health = data.get("health")
        if isinstance(health, dict):
            state.health = health
        published = data.get("published")
        for each in published if isinstance(published, list) else []:
            if isinstance(each, list) and len(each) == 3 and isinstance(each[0], str):
                state.published.append((each[0], _number(each[1], 0), _number(each[2], 0)))
        return state


def _number(value: object, default: int) -> int:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default


class Store:
    """The records below one root. Every call opens and checks the root again."""

    def __init__(self, root: str = "") -> None:
        self.root: str = os.path.abspath(root) if root else default_root()

    # -- the root ----------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Make the root if it is missing, and check that no other user may write there.  Raises RecordError."""
        os.close(prepared_root(self.root))

    def _open(self) -> int:
        """A descriptor of the root.  Raises RecordError, FileNotFoundError."""
        return open_directory(self.root)

    def _lock(self, root: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(".lock", flags, 0o600, dir_fd=root)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    # -- making and removing -------------------------------------------------------------------------------
    def create(self, state: State) -> "Record":
        """Make the record of a sandbox that is about to start.  Raises RecordError if the name is taken."""
        name = state.name
        check_name(name)
        self.prepare()
        root = guard = -1
        try:
            root = self._open()
            guard = self._lock(root)
            old = self._find(root, name)
            if old is not None and old.status == RUNNING:
                raise RecordError(f"a sandbox named {name} is running")
            if old is not None and not old.is_temporary:
                raise RecordError(f"the name {name} is that of an ended sandbox; cloche rm {name}")
            _remove_tree(root, name)
            os.mkdir(name, 0o700, dir_fd=root)
            record = Record(self.root, open_directory(name, root), state)
            record.save()
            return record
        except OSError as error:
            raise RecordError(f"{os.path.join(self.root, name)}: {error.strerror}") from None
        finally:
            for fd in (guard, root):
                if fd >= 0:
                    os.close(fd)

    def remove(self, name: str) -> None:
        """Forget an ended sandbox.  Raises RecordError if it runs or is not known."""
        check_name(name)
        root = guard = -1
        try:
            root = self._open()
            guard = self._lock(root)
            state = self._find(root, name)
            if state is None:
                raise _unknown(name)
            if state.status == RUNNING:
                raise RecordError(f"{name} is running; cloche stop {name}, or cloche rm -f {name}")
            _remove_tree(root, name)
        except FileNotFoundError:
            raise _unknown(name) from None
        finally:
            for fd in (guard, root):
                if fd >= 0:
                    os.close(fd)

    def sweep(self, name: str) -> None:
        """Remove the record of a temporary sandbox whose monitor was killed before the keeper knew of the record.

        Records of sandboxes that run, or that are not temporary, stay. Nothing is raised.
        """
        root = guard = -1
        try:
            check_name(name)
            root = self._open()
            guard = self._lock(root)  # the maker of a record holds this lock until the record is complete
            state = self._find(root, name)
            if state is not None and state.status != RUNNING and (state.is_temporary or not state.pid):
                _remove_tree(root, name)
        except (OSError, RecordError):
            pass
        finally:
            for fd in (guard, root):
                if fd >= 0:
                    os.close(fd)

    def clean(self, place: RecordPlace) -> None:
        """The monitor of the sandbox at `place` was killed: remove its socket, and a temporary record. Nothing is
        raised.
        """
        root = guard = -1
        try:
            root = self._open()
            guard = self._lock(root)
            now, then = os.stat(place.name, dir_fd=root, follow_symlinks=False), os.fstat(place.fd)
            if (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino):
                return  # another sandbox has the name by now
            if place.is_temporary:
                _remove_tree(root, place.name)
            else:
                os.unlink("control", dir_fd=place.fd)
        except (OSError, RecordError):
            pass
        finally:
            for fd in (guard, root):
                if fd >= 0:
                    os.close(fd)

    # -- looking ---------------------------------------------------------------------------------------------
    def _find(self, root: int, name: str) -> State | None:
        """The state of a record; None if there is none. Raises RecordError for a directory of another user."""
        try:
            directory = open_directory(name, root)
        except FileNotFoundError:
            return None
        try:
            try:
                state = State.from_json(name, _read_file(directory, "state.json", _STATE_BYTES))
            except (OSError, ValueError):
                state = State(name)
            if state.status == RUNNING and not is_locked(directory):
                state.status = DEAD
            return state
        finally:
            os.close(directory)

    def find(self, name: str) -> State:
        """The state of a sandbox.  Raises RecordError if there is none of that name."""
        check_name(name)
        try:
            root = self._open()
        except FileNotFoundError:
            raise _unknown(name) from None
        try:
            state = self._find(root, name)
        finally:
            os.close(root)
        if state is None:
            raise _unknown(name)
        return state

    def list(self) -> list[State]:
        """The states of all sandboxes, oldest first. Raises RecordError if the root belongs to another user."""
        try:
            root = self._open()
        except FileNotFoundError:
            return []
        found: list[State] = []
        try:
            for name in os.listdir(root):
                if not NAME_PATTERN.fullmatch(name):
                    continue
                try:
                    state = self._find(root, name)
                except RecordError:
                    continue
                if state is not None:
                    found.append(state)
        finally:
            os.close(root)
        return sorted(found, key=_age)

    def open_record(self, name: str) -> int:
        """A descriptor of the directory of a record.  Raises RecordError."""
        check_name(name)
        try:
            root = self._open()
            try:
                return open_directory(name, root)
            finally:
                os.close(root)
        except FileNotFoundError:
            raise _unknown(name) from None

    def connect(self, name: str) -> socket.socket:
        """Connect to a sandbox's monitor, and check that it belongs to this user.

        Raises RecordError if it does not run, or does not accept the connection in time (it is stopped, or has too
        many).
        """
        state = self.find(name)
        directory = self.open_record(name)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if not stat.S_ISSOCK(os.stat("control", dir_fd=directory, follow_symlinks=False).st_mode):
                raise ConnectionRefusedError
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _CONNECT_TIME)
            sock.connect(socket_path(directory))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _NO_TIME)
            _pid, uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            if uid != os.geteuid():
                raise RecordError(f"{name}: its monitor is another user's")
        except OSError as error:
            sock.close()
            if error.errno == errno.EAGAIN:
                raise RecordError(f"{name}: its monitor does not answer") from None
            if state.status == RUNNING and error.errno not in (errno.ENOENT, errno.ECONNREFUSED, None):
                raise RecordError(f"{name}: {error.strerror}") from None
            raise RecordError(f"{name} is not running") from None
        except RecordError:
            sock.close()
            raise
        finally:
            os.close(directory)
        return sock


def _unknown(name: str) -> RecordError:
    return RecordError(f"no sandbox is named {name}")


def _age(state: State) -> tuple[float, str]:
    return state.created_s, state.name


def socket_path(directory: int) -> str:
    """A short name of the socket in a directory: the names of sockets have at most 107 bytes."""
    return f"/proc/self/fd/{directory}/control"


def is_locked(directory: int) -> bool:
    """Whether the record's monitor is alive."""
    try:
        fd = os.open("lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
        kind: int = _FLOCK.unpack(answer)[0]
        return kind != fcntl.F_UNLCK
    except OSError:
        return False
    finally:
        os.close(fd)


class Record:
    """The record of this process's own sandbox; the lock is held as long as it (or a child) lives."""

    def __init__(self, root: str, directory: int, state: State) -> None:
        self.root: str = root
        self.directory: int = directory  # a descriptor, taken over
        self.state: State = state
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock: int = os.open("lock", flags, 0o600, dir_fd=directory)
        fcntl.fcntl(self._lock, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
        state.created_s = time.time()

    def place(self) -> RecordPlace:
        """Where the record is, for the keeper, which removes it if this process is killed."""
        return RecordPlace(self.directory, self.root, self.state.name, is_temporary=self.state.is_temporary)

    def listen(self) -> socket.socket:
        """The socket for clients; connections wait until the monitor takes them.  Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        old = os.umask(0o177)
        try:
            sock.bind(socket_path(self.directory))
        finally:
            os.umask(old)
        sock.listen(_BACKLOG)
        return sock

    def save(self) -> None:
        """Write the state, as a whole or not at all.  Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open("state.new", flags, 0o600, dir_fd=self.directory)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(self.state.to_json(), file)
        os.rename("state.new", "state.json", src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def finish(self, exit_status: int, error: str, oom_kills: int) -> None:
        """The sandbox has ended: write its exit status to the record, or remove a temporary record. Nothing is
        raised.
        """
        state = self.state
        state.status, state.exit_status, state.error = EXITED, exit_status, error
        state.ended_s, state.oom_kills = time.time(), oom_kills
        try:
            os.unlink("control", dir_fd=self.directory)
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
        place = self.place()
        place.is_temporary = True
        Store(self.root).clean(place)
