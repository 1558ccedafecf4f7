"""Named volumes: directories that outlive sandboxes, and that several may use at once.

    NAME/data     what sandboxes see: plain files
    NAME/lock     flock: shared by the monitor of each sandbox that uses it, exclusive for a process that removes it
    NAME/account/sizes   of a volume that has a size: what it may take, and what it takes (`wire.volume`)
    NAME/slots    N for each slot of the account: flock, exclusive for the monitor of the sandbox that has it; `count`:
                  exclusive for a process that looks for a slot or counts the files

They are below $XDG_DATA_HOME/cloche/volumes; without that, below ~/.local/share, or of root below /var/lib.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from typing import Final

from cloche.abi.magic import REMOTE_MAGICS
from cloche.platform import hostsys
from cloche.runtime.records import NAME_PATTERN, RecordError, open_directory
from cloche.wire.volume import (
    ACCOUNT_BYTES,
    ACCOUNT_NAME,
    DIRECTORY_BYTES,
    SLOTS,
    Account,
    pack_account,
    unpack_account,
)

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
            lock = _open_lock(os.path.join(path, "lock"))
        except FileNotFoundError:
            continue  # it has just been removed
        fcntl.flock(lock, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(lock).st_ino == os.stat(os.path.join(path, "lock")).st_ino:
                _LOCKS.append(lock)
                return os.path.join(path, "data")
        os.close(lock)


def name_of(path: str) -> str:
    """The volume whose files this directory holds; empty: that of none."""
    parent, last = os.path.split(path)
    top, name = os.path.split(parent)
    return name if last == "data" and top == default_directory() else ""


def _open_lock(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _try_lock(path: str) -> int:
    """A descriptor that holds the lock, -1 if another has it."""
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return -1
    return lock


def _account_path(name: str) -> str:
    return os.path.join(_path(name), "account", ACCOUNT_NAME.decode())


def account(name: str) -> Account | None:
    """What a volume may take and takes; None if it has no size. Raises RecordError, OSError."""
    try:
        with open(_account_path(name), "rb") as file:
            return unpack_account(file.read(ACCOUNT_BYTES + 1))
    except FileNotFoundError:
        return None
    except ValueError:
        raise RecordError(
            f"the account of the volume {name} is damaged; create --size makes a new one"
        ) from None


def set_size(name: str, limit: int) -> None:
    """Give a volume a size, or another one.

    The size may change while sandboxes use it, but they must have begun with one. Raises RecordError, OSError.
    """
    path = _path(name)
    data = os.open(os.path.join(path, "data"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        magic = hostsys.fstatfs(data).magic
    finally:
        os.close(data)
    if magic in REMOTE_MAGICS:
        raise RecordError(f"the volume {name} is on a file system that cannot say what files take")
    try:
        known = account(name)
    except RecordError:
        known = None
    if known is not None:
        fd = os.open(_account_path(name), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(fd, pack_account(Account(limit, known.slots))[:16], 0)
        finally:
            os.close(fd)
        return
    lock = take(name)
    try:
        for folder in ("account", "slots"):
            os.makedirs(os.path.join(path, folder), 0o700, exist_ok=True)
        _write_account(name, Account(limit, [_count(name), *([0] * (SLOTS - 1))]))
    finally:
        os.close(lock)


def _write_account(name: str, made: Account) -> None:
    new = f"{_account_path(name)}.new"
    with open(new, "wb") as file:
        file.write(pack_account(made))
    os.rename(new, _account_path(name))


def _count(name: str) -> int:
    """What all files of a volume take, in bytes."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(os.path.join(_path(name), "data")):
        for each in [*folders, *files]:
            with contextlib.suppress(OSError):
                st = os.lstat(os.path.join(folder, each))
                if stat.S_ISDIR(st.st_mode):
                    total += DIRECTORY_BYTES
                elif st.st_nlink == 1 or (st.st_dev, st.st_ino) not in seen:
                    total += st.st_blocks * 512
                    if st.st_nlink > 1:
                        seen.add((st.st_dev, st.st_ino))
    return total


def use_account(name: str) -> tuple[str, int]:
    """The directory of the account of a volume that is in use by this process, and a slot for its sandbox.

    ("", -1) if the volume has no size. The slot is held until this process and its children have ended. Raises
    RecordError, OSError.
    """
    known = account(name)
    if known is None:
        return "", -1
    slots = os.path.join(_path(name), "slots")
    counting = _open_lock(os.path.join(slots, "count"))
    free: dict[int, int] = {}
    try:
        fcntl.flock(counting, fcntl.LOCK_EX)
        for number in range(SLOTS):
            lock = _try_lock(os.path.join(slots, str(number)))
            if lock >= 0:
                free[number] = lock
        if not free:
            raise RecordError(f"{SLOTS} sandboxes use the volume {name}; no more can while it has a size")
        if len(free) == SLOTS:
            known = account(name) or known
            _write_account(name, Account(known.limit, [_count(name), *([0] * (SLOTS - 1))]))
        slot = min(free)
        _LOCKS.append(free.pop(slot))
        return os.path.join(_path(name), "account"), slot
    finally:
        for lock in free.values():
            os.close(lock)
        os.close(counting)


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
    lock = _try_lock(os.path.join(path, "lock"))
    if lock < 0:
        raise RecordError(f"the volume {name} is in use by a sandbox")
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
