"""What of the host's /var, /run and /srv a sandbox of the default view has: directories, empty, and packages' own data.

Services expect what their packages have made (/var/lib/nginx, /run/lock); directories that users have made in the
same places would reveal something about them, so most are left out:

- Only directories, down to a fixed depth below well-known ones, and of /srv and /var/www only names that say nothing.
- Only directories that every user of the host may list. A directory that others may not read is shown as empty.
- Only directories of system accounts; none that are called like a person's account, a domain, or an id of this machine.

A few directories are parts of programs below /usr that lead there by links or need them to run (a compiler's table of
packages, caches of fonts): they show whole, as far as every user of the host may read them.
"""

import os
from stat import S_ISDIR, S_ISLNK, S_ISREG
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
# What packages' scripts make of what lies in /usr: it says no more than that.
_WHOLE: Final[frozenset[bytes]] = frozenset(
    b"lib/dpkg lib/ghc lib/ghostscript lib/ocaml lib/texmf lib/sgml-base lib/xml-core cache/fontconfig".split()
)


def is_public(mode: int) -> bool:
    """Whether all users may read a file of this mode; true of symbolic links."""
    return S_ISLNK(mode) or S_ISREG(mode) and mode & 4 != 0 or S_ISDIR(mode) and mode & 5 == 5


class Skeleton:
    """The rules for one attach point; `kind` is "var", "run" or "srv"."""

    def __init__(self, kind: str, people: frozenset[bytes]) -> None:
        """`people`: names that are never shown."""
        self._tops: dict[bytes, int] | None = _VAR if kind == "var" else _SRV if kind == "srv" else None
        self._extra: frozenset[bytes] = _EXTRA if kind == "var" else frozenset()
        self._whole: frozenset[bytes] = _WHOLE if kind == "var" else frozenset()
        self._people: frozenset[bytes] = people

    def is_open(self, path: list[bytes], mode: int) -> bool:
        """Whether any name can show in the directory at `path`, below the attach point, with this mode."""
        return mode & 0o005 == 0o005 and (len(path) <= 3 or self._is_whole(path))

    def _is_whole(self, path: list[bytes]) -> bool:
        return len(path) >= 2 and path[0] + b"/" + path[1] in self._whole

    def shows(self, path: list[bytes], name: bytes, status: os.stat_result) -> bool:
        """Whether the sandbox has `name`, found in an open directory."""
        if self._is_whole(path):
            return is_public(status.st_mode) and not FIRST_USER <= status.st_uid != NOBODY
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
