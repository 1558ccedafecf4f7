"""The directory in which a user's sandboxes have their records (`runtime.records`) and their template its socket.

It imports almost nothing, because `cloche run --template` waits for the import.
"""

import errno
import os


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


def open_directory(path: str, above: int | None = None) -> int:
    """Open a directory that belongs to this user and that others cannot write to; links are not followed.

    Raises FileNotFoundError, and RecordError for any other file or directory.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise refusal(path) from None
        raise RecordError(f"{path}: {error.strerror}; give another directory with --root") from None
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        raise refusal(path)
    return fd


def refusal(path: str) -> RecordError:
    return RecordError(f"{path} is not a directory that only you may write to; give another with --root")


def prepared_root(root: str) -> int:
    """A descriptor of the root, which is made if it is missing.  Raises RecordError if others may write there."""
    try:
        os.makedirs(root, 0o700, exist_ok=True)
    except FileExistsError:
        raise refusal(root) from None
    except OSError as error:
        raise RecordError(f"{root}: {error.strerror}; give another directory with --root") from None
    return open_directory(root)
