"""Which directories of the host's /var, /run and /srv a sandbox of the default view has: their names, nothing in them.

Services expect what their packages have made (/var/lib/nginx, /run/lock); directories that users have made in the
same places would reveal something about them, so most are left out:

- Only directories, down to a fixed depth below well-known ones, and of /srv and /var/www only names that say nothing.
- Only directories that every user of the host may list. A directory that others may not read is shown as empty.
- Only directories of system accounts; none that are called like a person's account, a domain, or an id of this machine.
"""

import os
from stat import S_ISDIR
from typing import Final

FIRST_USER: Final = 1000
NOBODY: Final = 65534
_LONG_ID: Final = 12  # hexadecimal digits and dashes: a machine's, a container's, a disk's
_HEX: Final = frozenset(b"0123456789abcdefABCDEF-_")

# How many levels below each directory show; those that are not named here do not.
_VAR: Final[dict[bytes, int]] = {
    b"lib": 2,
    b"cache": 2,
    b"spool": 2,
    b"log": 1,
    b"tmp": 0,
    b"mail": 0,
    b"opt": 0,
    b"local": 0,
    b"www": 0,
    b"games": 0,
    b"backups": 0,
    b"crash": 0,
    b"db": 0,
    b"empty": 0,
}
_SRV: Final[dict[bytes, int]] = dict.fromkeys(b"ftp git http https nfs rsync samba tftp www".split(), 0)
# Directories in which users choose the names: of containers, machines, users, connections.
_CLOSED: Final = frozenset(
    b"AccountsService bluetooth containerd containers docker incus k3s kubelet libvirt lightdm-data lxc lxd machines "
    b"NetworkManager portables rancher sudo systemd cron at mail user screen tmux netns".split()
)
_EXTRA: Final[frozenset[bytes]] = frozenset(
    [b"lib/apt/lists/partial", b"cache/apt/archives/partial", b"www/html"]
)


class Skeleton:
    """The rules for one attach point; `kind` is "var", "run" or "srv"."""

    def __init__(self, kind: str, people: frozenset[bytes]) -> None:
        """`people`: names that are never shown."""
        self._tops: dict[bytes, int] | None = _VAR if kind == "var" else _SRV if kind == "srv" else None
        self._extra: frozenset[bytes] = _EXTRA if kind == "var" else frozenset()
        self._people: frozenset[bytes] = people

    def is_open(self, path: list[bytes], mode: int) -> bool:
        """Whether any name can show in the directory at `path`, below the attach point, with this mode."""
        return mode & 0o005 == 0o005 and len(path) <= 3

    def shows(self, path: list[bytes], name: bytes, status: os.stat_result) -> bool:
        """Whether the sandbox has `name`, found in an open directory."""
        if not S_ISDIR(status.st_mode) or FIRST_USER <= status.st_uid != NOBODY:
            return False
        if name in self._people or name == b"cloche" or b"@" in name or _is_domain(name) or _is_long_id(name):
            return False
        whole = [*path, name]
        if b"/".join(whole) in self._extra:
            return True
        tops = self._tops
        if tops is None:
            return not path
        depth = tops.get(whole[0], -1)
        if depth < len(path):
            return False
        return not any(part in _CLOSED for part in path)


def _is_domain(name: bytes) -> bool:
    _rest, dot, last = name.rpartition(b".")
    return dot != b"" and (last.isalpha() or not last)


def _is_long_id(name: bytes) -> bool:
    return len(name) >= _LONG_ID and all(byte in _HEX for byte in name)
