"""Kept layers on the host: a directory for each name, with what `fs.kept` writes and

    head.json   version, the places of the host that it lies over, when it was made
    lock        held (flock) by the monitor of the sandbox that uses it

They are below $XDG_DATA_HOME/cloche/layers; without that, below ~/.local/share, or of root below /var/lib.
"""

import errno
import fcntl
import json
import os
import shutil
import stat
import time
from typing import Any, Final

from cloche.runtime.records import NAME_PATTERN, RecordError, open_directory

VERSION: Final = 1
_COPY_BYTES: Final = 1 << 26
_HEAD_BYTES: Final = 1 << 22


def default_directory() -> str:
    """Where layers are."""
    data = os.environ.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):
        if os.geteuid() == 0:
            return "/var/lib/cloche/layers"
        data = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "cloche", "layers")


class KeptLayer:
    """One that this process may use."""

    def __init__(self, name: str, path: str, fd: int) -> None:
        self.name: str = name
        self.path: str = path
        self.fd: int = fd  # of the directory
        self.is_new: bool = False  # made by this process
        self.is_temporary: bool = False  # it goes with its sandbox
        self.lock: int = -1  # held as long as this process, or a child, lives

    def take(self) -> None:
        """Nobody else may use it.  Raises RecordError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.lock = os.open("lock", flags, 0o600, dir_fd=self.fd)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(f"the layer {self.name} is in use by a sandbox") from None

    def release(self) -> None:
        """Others may use it, even those that ask before this process (and who has the lock with it) is gone."""
        if self.lock >= 0:
            fcntl.flock(self.lock, fcntl.LOCK_UN)
            os.close(self.lock)
            self.lock = -1

    def head(self) -> dict[str, Any]:
        """What head.json says.  Raises RecordError."""
        try:
            fd = os.open("head.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            with open(fd, "rb") as file:
                head = json.loads(file.read(_HEAD_BYTES))
        except (OSError, ValueError):
            raise RecordError(f"{self.path} is not a layer that cloche has kept") from None
        if not isinstance(head, dict) or head.get("version") != VERSION:
            raise RecordError(f"the layer {self.name} was kept by another version of cloche")
        return head

    def check(self, places: list[object]) -> None:
        """It lies over the same places.  Raises RecordError."""
        known = self.head().get("places")
        if known != _plain(places):
            first = [row[0] for row in known if row not in _plain(places)] if isinstance(known, list) else []
            where = f" (it has {first[0]} otherwise)" if first else ""
            raise RecordError(
                f"the layer {self.name} was made over other directories{where}; "
                "use the same -v and --rootfs, and start where it was started"
            )

    def write_head(self, places: list[object]) -> None:
        """Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open("head.json", flags, 0o600, dir_fd=self.fd), "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "places": _plain(places), "created": time.time()}, file)
            file.flush()
            os.fsync(file.fileno())

    def files(self) -> str:
        """The directory that the sandbox writes to."""
        return os.path.join(self.path, "files")


def _plain(places: list[object]) -> list[list[object]]:
    """Places as JSON has them."""
    rows: list[list[object]] = []
    for row in places:
        if isinstance(row, list):
            rows.append([os.fsdecode(each) if isinstance(each, bytes) else each for each in row])
    return rows


def _top(directory: str) -> str:
    top = directory or default_directory()
    os.makedirs(top, 0o700, exist_ok=True)
    os.close(open_directory(top))
    return top


def find(name: str, directory: str = "") -> KeptLayer | None:
    """The layer of that name.  Raises RecordError, OSError."""
    if not NAME_PATTERN.fullmatch(name):
        raise RecordError(f"{name} is no name: letters, digits, '_', '.' and '-'")
    path = os.path.join(_top(directory), name)
    try:
        return KeptLayer(name, path, open_directory(path))
    except FileNotFoundError:
        return None


def create(name: str, places: list[object], directory: str = "") -> KeptLayer:
    """A new one, taken.  Raises RecordError, OSError."""
    if find(name, directory) is not None:
        raise RecordError(
            f"a layer named {name} is kept already; --from {name} goes on with it, cloche discard {name}"
        )
    path = os.path.join(_top(directory), name)
    os.mkdir(path, 0o700)
    layer = KeptLayer(name, path, open_directory(path))
    layer.is_new = True
    layer.take()
    os.mkdir("files", 0o700, dir_fd=layer.fd)
    layer.write_head(places)
    return layer


def copy(source: KeptLayer, name: str, places: list[object], directory: str = "") -> KeptLayer:
    """A new one that begins as another is, taken; blocks are shared where the file system can.

    Raises RecordError, OSError.
    """
    source.take()
    made = create(name, places, directory)
    try:
        below = os.open(
            "files", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source.fd
        )
        try:
            for each in os.listdir(below):
                if each == "journal" or each.isdigit():
                    _copy_file(below, each, os.path.join(made.files(), each))
        finally:
            os.close(below)
    except OSError:
        discard(made)
        raise
    finally:
        os.close(source.lock)
    return made


def _copy_file(directory: int, name: str, target: str) -> None:
    """A regular file: a sentry that has been taken over could have left links there, or FIFOs."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb") as old, open(target, "xb") as new:
        if not stat.S_ISREG(os.fstat(old.fileno()).st_mode):
            raise OSError(errno.EINVAL, "a layer with something in it that is no file")
        try:
            fcntl.ioctl(new.fileno(), 0x40049409, old.fileno())  # FICLONE
            return
        except OSError:
            pass
        size = os.fstat(old.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
                end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            except OSError:
                break  # a hole to the end
            while at < end:
                done = os.copy_file_range(old.fileno(), new.fileno(), min(end - at, _COPY_BYTES), at, at)
                if done == 0:
                    break
                at += done
        new.truncate(size)


def discard(layer: KeptLayer) -> None:
    """Remove it."""
    shutil.rmtree(layer.path, ignore_errors=True)
