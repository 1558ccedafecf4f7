"""Named volumes: directories that outlive sandboxes, and that several may use at once.

    NAME/data     what sandboxes see: plain files
    NAME/lock     flock: shared by the monitor of each sandbox that uses it, exclusive for a process that removes it
    NAME/account/sizes   of a volume that has a size: what it may take, and what it takes (`wire.volume`)
    NAME/inodes   of a volume that may have only so many files: an account of them, which only gofers see
    NAME/slots    N for each slot of the accounts: flock, exclusive for the monitor of the sandbox that has it; `count`:
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


class Places:
    """What a sandbox needs to take part in a volume's accounts."""

    def __init__(self, sizes: str = "", inodes: str = "", slot: int = -1) -> None:
        self.sizes: str = sizes  # the directory of the account of bytes; empty: the volume has no size
        self.inodes: str = inodes  # the account of files; empty: there is none
        self.slot: int = slot


def _sizes_path(name: str) -> str:
    return os.path.join(_path(name), "account", ACCOUNT_NAME.decode())


def _inodes_path(name: str) -> str:
    return os.path.join(_path(name), "inodes")


def account(name: str) -> Account | None:
    """What a volume may take and takes, in bytes; None if it has no size. Raises RecordError, OSError."""
    return _read_account(name, _sizes_path(name))


def inodes(name: str) -> Account | None:
    """How many files a volume may have and has; None if there is no limit. Raises RecordError, OSError."""
    return _read_account(name, _inodes_path(name))


def _read_account(name: str, path: str) -> Account | None:
    try:
        with open(path, "rb") as file:
            return unpack_account(file.read(ACCOUNT_BYTES + 1))
    except FileNotFoundError:
        return None
    except ValueError:
        raise RecordError(
            f"the account of the volume {name} is damaged; create --size or --inodes makes a new one"
        ) from None


def set_size(name: str, limit: int) -> None:
    """Give a volume a size, or another one.

    The size may change while sandboxes use it, but they must have begun with one. Raises RecordError, OSError.
    """
    _set_limit(name, _sizes_path(name), limit)


def set_inodes(name: str, limit: int) -> None:
    """Limit how many files a volume may have; for the rest as `set_size`."""
    _set_limit(name, _inodes_path(name), limit)


def _set_limit(name: str, place: str, limit: int) -> None:
    path = _path(name)
    data = os.open(os.path.join(path, "data"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        magic = hostsys.fstatfs(data).magic
    finally:
        os.close(data)
    if magic in REMOTE_MAGICS:
        raise RecordError(f"the volume {name} is on a file system that cannot say what files take")
    try:
        known = _read_account(name, place)
    except RecordError:
        known = None
    if known is not None:
        fd = os.open(place, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(fd, pack_account(Account(limit, known.slots))[:16], 0)
        finally:
            os.close(fd)
        return
    lock = take(name)
    try:
        for folder in ("account", "slots"):
            os.makedirs(os.path.join(path, folder), 0o700, exist_ok=True)
        _write_account(place, limit, 0)  # the first sandbox counts
    finally:
        os.close(lock)


def _write_account(place: str, limit: int, total: int) -> None:
    new = f"{place}.new"
    with open(new, "wb", opener=_private) as file:
        file.write(pack_account(Account(limit, [total, *([0] * (SLOTS - 1))])))
    os.rename(new, place)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _count(name: str) -> tuple[int, int]:
    """What all files of a volume take, in bytes, and how many there are."""
    total, count = 0, 1
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(os.path.join(_path(name), "data")):
        for each in [*folders, *files]:
            with contextlib.suppress(OSError):
                st = os.lstat(os.path.join(folder, each))
                if stat.S_ISDIR(st.st_mode):
                    total += DIRECTORY_BYTES
                    count += 1
                elif st.st_nlink == 1 or (st.st_dev, st.st_ino) not in seen:
                    total += st.st_blocks * 512
                    count += 1
                    if st.st_nlink > 1:
                        seen.add((st.st_dev, st.st_ino))
    return total, count


def use_account(name: str) -> Places:
    """The accounts of a volume that is in use by this process, and a slot in them for its sandbox.

    The slot is held until this process and its children have ended. Raises RecordError, OSError.
    """
    if account(name) is None and inodes(name) is None:
        return Places()
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
        sizes, files = account(name), inodes(name)
        if len(free) == SLOTS:
            total, count = _count(name)
            if sizes is not None:
                _write_account(_sizes_path(name), sizes.limit, total)
            if files is not None:
                _write_account(_inodes_path(name), files.limit, count)
        slot = min(free)
        _LOCKS.append(free.pop(slot))
        return Places(
            os.path.join(_path(name), "account") if sizes is not None else "",
            _inodes_path(name) if files is not None else "",
            slot,
        )
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


def file_count(name: str) -> int:
    """How many files a volume has, with its directories."""
    return _count(name)[1]
