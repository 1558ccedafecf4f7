"""Kept layers on the host: a directory for each name, with what `fs.kept` writes and

    head.json   version, the places of the host that it lies over, when it was made, whether it goes with its record
    sandbox     the sandbox without its programs (`boot.spec`, CBOR): to look at the files after it has ended
    lock        held (flock) by the monitor of the sandbox that uses it

They are below $XDG_DATA_HOME/cloche/layers; without that, below ~/.local/share, or of root below /var/lib. Automatic
layers, those of detached sandboxes, are removed with their sandbox's record; with `--root DIR` they are in
DIR/.layers.
"""

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from typing import Any, Final

from cloche.runtime.records import NAME_PATTERN, RecordError, open_directory

VERSION: Final = 2
# Version 1 had no changes of several frames in its journal (fs.kept), and the file `sandbox` was called `spec`. It can
# be read, and becomes version 2 when it is written to, so that older builds refuse it instead of dropping such changes:
# `run` by the version, and what looks at it by the name (it reads no version).
_READABLE: Final = (1, VERSION)
_SPEC: Final = "sandbox"
_OLD_SPEC: Final = "spec"
_COPY_BYTES: Final = 1 << 26
_HEAD_BYTES: Final = 1 << 22
_SPEC_BYTES: Final = 1 << 26
AUTOMATIC: Final = ".layers"
TEMPORARY: Final = "-temporary"  # the end of the names of layers that go with their sandboxes
_TRIES: Final = 16


def default_directory() -> str:
    """Where layers are."""
    data = os.environ.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):
        if os.geteuid() == 0:
            return "/var/lib/cloche/layers"
        data = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "cloche", "layers")


def automatic_directory(root: str) -> str:
    """The directory of automatic layers of sandboxes whose records are below `root`; empty: the default root."""
    return os.path.join(os.path.abspath(root), AUTOMATIC) if root else ""


def find_of(name: str, root: str) -> "KeptLayer | None":
    """The automatic layer of the sandbox of this name whose record is below `root`, or else the layer that was kept
    under this name (`--keep`).

    Raises RecordError, OSError.
    """
    found = find(name, automatic_directory(root)) if root else None
    return found if found is not None else find(name)


class KeptLayer:
    """A layer that this process has opened."""

    def __init__(self, name: str, path: str, fd: int) -> None:
        self.name: str = name
        self.path: str = path
        self.fd: int = fd  # of the directory
        self.is_new: bool = False  # made by this process
        self.is_temporary: bool = False  # removed with its sandbox
        # Kept because its sandbox was detached: removed with the sandbox's record
        self.is_automatic: bool = False
        self.lock: int = -1  # held as long as this process, or a child, lives

    def take(self) -> None:
        """Lock it, so that no other process uses it. Raises RecordError if one does."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.lock = os.open("lock", flags, 0o600, dir_fd=self.fd)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock)
            self.lock = -1
            raise RecordError(f"the layer {self.name} is in use by a sandbox") from None

    def release(self) -> None:
        """Unlock it, so that others may use it before this process and its children, which share the lock, have
        ended.
        """
        if self.lock >= 0:
            fcntl.flock(self.lock, fcntl.LOCK_UN)
            os.close(self.lock)
            self.lock = -1

    def head(self) -> dict[str, Any]:
        """The contents of head.json. Raises RecordError."""
        try:
            fd = os.open("head.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            with open(fd, "rb") as file:
                head = json.loads(file.read(_HEAD_BYTES))
        except (OSError, ValueError):
            raise RecordError(f"{self.path} is not a layer that cloche has kept") from None
        if not isinstance(head, dict) or head.get("version") not in _READABLE:
            raise RecordError(f"the layer {self.name} was kept by another version of cloche")
        return head

    def check(self, places: list[object], *, may_have_more: bool = False) -> None:
        """Check that it was made over the same places; with `may_have_more` there may be further ones behind them.
        Raises RecordError.
        """
        known, given = self.head().get("places"), _plain(places)
        if may_have_more and isinstance(known, list):
            given = given[: len(known)]
        if known != given:
            first = [row[0] for row in known if row not in given] if isinstance(known, list) else []
            where = f" (it has {first[0]} otherwise)" if first else ""
            raise RecordError(
                f"the layer {self.name} was made over other directories{where}; "
                "use the same -v and --rootfs, and start where it was started"
            )

    def write_head(self, places: list[object], *, is_automatic: bool) -> None:
        """Raises OSError."""
        head = {
            "version": VERSION,
            "places": _plain(places),
            "created": time.time(),
            "automatic": is_automatic,
        }
        self.is_automatic = is_automatic
        self._write("head.json", json.dumps(head).encode())

    def make_current(self) -> None:
        """Before it is written to: give it this version.  The layer is locked.  Raises RecordError, OSError."""
        head = self.head()
        if head["version"] != VERSION:
            with contextlib.suppress(FileNotFoundError):
                os.rename(_OLD_SPEC, _SPEC, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            head["version"] = VERSION
            self._write("head.new", json.dumps(head).encode())
            os.rename("head.new", "head.json", src_dir_fd=self.fd, dst_dir_fd=self.fd)
            if not self.is_automatic:
                os.fsync(self.fd)

    def write_spec(self, data: bytes) -> None:
        """Write the spec, replacing an earlier one. Raises OSError."""
        self._write("spec.new", data)
        os.rename("spec.new", _SPEC, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def spec(self) -> bytes:
        """The specification of `write_spec`. Raises RecordError."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                fd = os.open(_SPEC, flags, dir_fd=self.fd)
            except FileNotFoundError:
                fd = os.open(_OLD_SPEC, flags, dir_fd=self.fd)
            with open(fd, "rb") as file:
                return file.read(_SPEC_BYTES)
        except OSError:
            raise RecordError(
                f"the layer {self.name} was kept by another version of cloche; --from {self.name} begins with it"
            ) from None

    def _write(self, name: str, data: bytes) -> None:
        """Write a file, and sync it unless the layer is temporary.  Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(name, flags, 0o600, dir_fd=self.fd), "wb") as file:
            file.write(data)
            file.flush()
            if not self.is_automatic:
                os.fsync(file.fileno())

    def files(self) -> str:
        """The directory that the sandbox writes to."""
        return os.path.join(self.path, "files")

    def room(self) -> int:
        """The default limit of its size in bytes: what it takes now, and half of the free space. Raises OSError."""
        with os.scandir(self.files()) as found:
            taken = sum(each.stat(follow_symlinks=False).st_blocks * 512 for each in found)
        space = os.statvfs(self.files())
        return taken + space.f_bavail * space.f_frsize // 2


def _plain(places: list[object]) -> list[list[object]]:
    """Places as JSON has them."""
    rows: list[list[object]] = []
    for row in places:
        if isinstance(row, list):
            rows.append([os.fsdecode(each) if isinstance(each, bytes) else each for each in row])
    return rows


def _top(directory: str) -> str:
    """The directory, checked. Raises FileNotFoundError, and RecordError if it belongs to another user."""
    top = directory or default_directory()
    os.close(open_directory(top))
    return top


def find(name: str, directory: str = "") -> KeptLayer | None:
    """The layer of that name.  Raises RecordError, OSError."""
    if not NAME_PATTERN.fullmatch(name):
        raise RecordError(f"{name} is no name: letters, digits, '_', '.' and '-'")
    try:
        path = os.path.join(_top(directory), name)
        layer = KeptLayer(name, path, open_directory(path))
    except FileNotFoundError:
        return None
    try:
        layer.is_automatic = layer.head().get("automatic") is True
    except RecordError:
        pass  # incomplete, or written by another version: it can be discarded
    return layer


def names(directory: str = "") -> list[str]:
    """The names of all kept layers. Raises RecordError, OSError."""
    try:
        return sorted(name for name in os.listdir(_top(directory)) if NAME_PATTERN.fullmatch(name))
    except FileNotFoundError:
        return []


def create(name: str, places: list[object], directory: str = "", *, is_automatic: bool = False) -> KeptLayer:
    """Make a new layer, and lock it. Raises RecordError, OSError."""
    if find(name, directory) is not None:
        raise RecordError(
            f"a layer named {name} is kept already; --from {name} goes on with it, cloche discard {name}"
        )
    for attempt in range(_TRIES):  # the directory is removed with its last layer
        os.makedirs(directory or default_directory(), 0o700, exist_ok=True)
        try:
            path = os.path.join(_top(directory), name)
            os.mkdir(path, 0o700)
            break
        except FileNotFoundError:
            if attempt + 1 == _TRIES:
                raise
    layer = KeptLayer(name, path, open_directory(path))
    layer.is_new = True
    try:
        layer.take()
        os.mkdir("files", 0o700, dir_fd=layer.fd)
        layer.write_head(places, is_automatic=is_automatic)
    except OSError:
        discard(layer)
        raise
    return layer


def sweep(directory: str = "") -> None:
    """Remove temporary layers whose sandboxes were killed together with their monitors.  Nothing is raised."""
    try:
        found = [name for name in names(directory) if name.endswith(TEMPORARY)]
    except (OSError, RecordError):
        return
    for name in found:
        layer = None
        try:
            layer = find(name, directory)
            # Without a head it is being made at this moment, and is not locked yet
            if layer is not None and layer.head():
                layer.take()
                discard(layer)
        except (OSError, RecordError):
            pass  # in use
        if layer is not None:
            layer.release()
            os.close(layer.fd)


def copy(
    source: KeptLayer, name: str, places: list[object], directory: str = "", *, is_automatic: bool = False
) -> KeptLayer:
    """Make a new layer as a copy of another, and lock it.

    Blocks are shared where the file system can do so. Raises RecordError, OSError.
    """
    source.take()
    made = create(name, places, directory, is_automatic=is_automatic)
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
    """Copy a regular file and nothing else: a compromised sentry could have left links or FIFOs there."""
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
    import shutil  # imported late: it is large, and a start does not need it

    shutil.rmtree(layer.path, ignore_errors=True)
    above = os.path.dirname(layer.path)
    if os.path.basename(above) == AUTOMATIC:
        with contextlib.suppress(OSError):  # other layers are in it
            os.rmdir(above)
