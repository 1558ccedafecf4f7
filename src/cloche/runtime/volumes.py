"""Named volumes: directories that outlive sandboxes, and that several may use at once.

    NAME/data    what sandboxes see: plain files
    NAME/lock    flock: shared by the monitor of each sandbox that uses it, exclusive for a process that removes it

They are below $XDG_DATA_HOME/cloche/volumes; without that, below ~/.local/share, or of root below /var/lib.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
from typing import Final

from cloche.runtime.records import NAME_PATTERN, RecordError, open_directory

_LOCKS: Final[list[int]] = []  # held until this process and its forks have ended


def default_directory() -> str:
    """Where volumes are."""
    data = os.environ.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):
        if os.geteuid() == 0:
            return "/var/lib/cloche/volumes"
        data = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "cloche", "volumes")


def _top() -> str:
    top = default_directory()
    os.makedirs(top, 0o700, exist_ok=True)
    os.close(open_directory(top))
    return top


def is_volume_name(text: str) -> bool:
    """Whether the source of a mount is a volume's name, not a path."""
    return NAME_PATTERN.fullmatch(text) is not None


def _path(name: str) -> str:
    if not is_volume_name(name):
        raise RecordError(f"{name} is no name of a volume: letters, digits, '_', '.' and '-'")
    return os.path.join(_top(), name)


def exists(name: str) -> bool:
    """Whether there is such a volume.  Raises RecordError, OSError."""
    return os.path.isdir(os.path.join(_path(name), "data"))


def create(name: str) -> None:
    """Make a volume, unless it exists. Raises RecordError, OSError."""
    path = _path(name)
    if exists(name):
        return
    new = os.path.join(_top(), f".new-{secrets.token_hex(8)}")
    os.mkdir(new, 0o700)
    os.mkdir(os.path.join(new, "data"), 0o755)
    os.chmod(os.path.join(new, "data"), 0o755)
    try:
        os.rename(new, path)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not exists(name):
            raise


def use(name: str) -> str:
    """The directory with the volume's files; the volume is made if it does not exist.

    It cannot be removed until this process and its children have ended. Raises RecordError, OSError.
    """
    while True:
        create(name)
        path = _path(name)
        try:
            lock = os.open(
                os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except FileNotFoundError:
            continue  # it has just been removed
        fcntl.flock(lock, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(lock).st_ino == os.stat(os.path.join(path, "lock")).st_ino:
                _LOCKS.append(lock)
                return os.path.join(path, "data")
        os.close(lock)


def names() -> list[str]:
    """All volumes.  Raises RecordError, OSError."""
    top = _top()
    return sorted(
        name
        for name in os.listdir(top)
        if is_volume_name(name) and os.path.isdir(os.path.join(top, name, "data"))
    )


def take(name: str) -> int:
    """Lock a volume exclusively. Raises RecordError if it is in use, or does not exist."""
    path = _path(name)
    if not exists(name):
        raise RecordError(f"there is no volume {name}")
    lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise RecordError(f"the volume {name} is in use by a sandbox") from None
    return lock


def remove(name: str) -> None:
    """Remove a volume with all its files. Raises RecordError, OSError."""
    lock = take(name)
    try:
        gone = os.path.join(_top(), f".gone-{secrets.token_hex(8)}")
        os.rename(_path(name), gone)
        shutil.rmtree(gone)
    finally:
        os.close(lock)


def size(name: str) -> int:
    """The size of a volume in bytes."""
    total = 0
    for folder, _folders, files in os.walk(os.path.join(_path(name), "data")):
        for each in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, each)).st_blocks * 512
    return total
