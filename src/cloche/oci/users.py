"""HOME, which runc takes from the container's own /etc/passwd where the process has none, or an empty one."""

import os
from typing import Final

from cloche.oci.spec import ProcessSpec, encode
from cloche.platform import hostsys

_RESOLVE: Final = 0x02 | 0x10  # RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT
_PASSWD_BYTES: Final = 1 << 20


def add_home(process: ProcessSpec, rootfs: str) -> None:
    """Set HOME, also where it is empty. The container's files are looked up with links confined to its root."""
    given = [item for item in process.env if item.startswith(b"HOME=")]
    if not given or given[-1] == b"HOME=":
        process.env.append(b"HOME=" + _home(process.uid, rootfs))


def _home(uid: int, rootfs: str) -> bytes:
    text = b""
    try:
        root = os.open(encode(rootfs), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            with open(hostsys.openat2(root, b"etc/passwd", flags, 0, _RESOLVE), "rb") as file:
                text = file.read(_PASSWD_BYTES)
        finally:
            os.close(root)
    except OSError:
        pass
    for line in text.splitlines():
        fields = line.split(b":")
        if len(fields) == 7 and fields[2] == b"%d" % uid and fields[5].startswith(b"/"):
            return fields[5]
    return b"/"
