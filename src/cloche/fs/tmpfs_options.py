"""The options of a tmpfs, as mount(2) and fsconfig(2) give them (tmpfs(5))."""

from cloche.abi.errno import (
    EINVAL,
    LinuxError,
)
from cloche.fs.quota import PAGE
from cloche.vfs.credentials import Credentials
from cloche.vfs.pseudo import parse_digits
from cloche.vfs.userns import map_gid, map_uid


class TmpfsOptions:
    """The options of a tmpfs; -1: not given, 0: no limit."""

    def __init__(self) -> None:
        self.size: int = -1  # bytes
        self.inodes: int = -1
        self.mode: int = 0o1777
        self.uid: int = 0
        self.gid: int = 0


def _parse_size(text: bytes, total: int) -> int:
    """A number with k, m or g, or a percentage of `total` bytes (memparse).  Raises LinuxError(EINVAL)."""
    scale = 1
    if text.endswith(b"%"):
        digits = text[:-1]
    else:
        digits = text.rstrip(b"kKmMgGtT")
        for letter in text[len(digits) :].lower():
            scale <<= 10 * (b"kmgt".index(letter) + 1)
    value = parse_digits(digits)
    if len(text) - len(digits) > 8 or value >= 1 << 64:
        raise LinuxError(EINVAL)
    return value * total // 100 if text.endswith(b"%") else value * scale


def parse_options(data: bytes, total_bytes: int, creds: Credentials | None = None) -> TmpfsOptions:
    """The data of mount(2); percentages are of `total_bytes`; `creds` are the mounter's, whose ids are the default
    owner. Raises LinuxError(EINVAL).
    """
    options = TmpfsOptions()
    user_ns = None
    if creds is not None:
        options.uid, options.gid = creds.fsuid, creds.fsgid
        user_ns = creds.user_ns
    for item in data.split(b","):
        key, _, value = item.partition(b"=")
        if key == b"size":
            options.size = (_parse_size(value, total_bytes) + PAGE - 1) // PAGE * PAGE
        elif key == b"nr_blocks":
            options.size = _parse_size(value, total_bytes) * PAGE
        elif key == b"nr_inodes":
            options.inodes = _parse_size(value, total_bytes)
        elif key == b"mode" or key == b"uid" or key == b"gid":
            number = parse_digits(value, 8 if key == b"mode" else 10)
            if key == b"mode":
                options.mode = number & 0o7777
            elif key == b"uid":
                options.uid = map_uid(user_ns, number)
            else:
                options.gid = map_gid(user_ns, number)
            if options.uid < 0 or options.gid < 0:
                raise LinuxError(EINVAL)
        elif key not in (b"", b"huge", b"mpol", b"inode32", b"inode64", b"noswap"):
            raise LinuxError(EINVAL)
    return options


def check_option(option: bytes) -> None:
    """Check an option. Raises LinuxError(EINVAL)."""
    key, equals, _ = option.partition(b"=")
    if not equals and key in (b"size", b"nr_blocks", b"nr_inodes", b"mode", b"uid", b"gid", b"huge", b"mpol"):
        raise LinuxError(EINVAL)
    parse_options(option, 1 << 30)
