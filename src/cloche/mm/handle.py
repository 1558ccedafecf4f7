"""Descriptors of the host that the kernel's state needs, and what it takes to have each of them again.

State holds handles, not numbers: a number means nothing in another process.  A handle says in data what it stands for,
and `reopen` has a descriptor of that again; what was in a memfd, whoever carries the state copies.
"""

import os
from typing import Final

from cloche.platform import hostsys


class HostHandle:
    """A descriptor, -1 while there is none.  It is closed by whoever has it."""

    def __init__(self) -> None:
        self.fd: int = -1

    def reopen(self) -> None:
        """Have a descriptor where there is none.  Raises OSError, or LinuxError."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the descriptor up, if there is one."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


CLOSED: Final = HostHandle()  # of nothing


class Memfd(HostHandle):
    """Memory of the host's, without a name in a file system; made empty."""

    def __init__(self, name: str, flags: int) -> None:
        super().__init__()
        self.name: str = name
        self.flags: int = flags

    def reopen(self) -> None:
        self.fd = os.memfd_create(self.name, self.flags)


class ReadOnly(HostHandle):
    """What another handle has, open only for reading."""

    def __init__(self, origin: HostHandle) -> None:
        super().__init__()
        self.origin: HostHandle = origin

    def reopen(self) -> None:
        self.fd = hostsys.reopen_readonly(self.origin.fd)
