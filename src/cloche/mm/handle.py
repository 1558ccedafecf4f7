"""Host descriptors in the kernel's state, and the data that is needed to open each of them again.

State holds handles, not numbers: a number means nothing in another process. A handle describes its file as data, and
`reopen` opens that again. The contents of a memfd have to be copied by the code that saves the state.
"""

import os
from typing import Final

from cloche.platform import hostsys


class HostHandle:
    """A descriptor, -1 while there is none. The holder of the handle closes it."""

    def __init__(self) -> None:
        self.fd: int = -1

    def reopen(self) -> None:
        """Open the descriptor, if there is none. Raises OSError, or LinuxError."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the descriptor, if there is one."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


CLOSED: Final = HostHandle()  # a handle without a descriptor


class Memfd(HostHandle):
    """A memfd (memfd_create(2)), empty at first."""

    def __init__(self, name: str, flags: int) -> None:
        super().__init__()
        self.name: str = name
        self.flags: int = flags

    def reopen(self) -> None:
        self.fd = os.memfd_create(self.name, self.flags)


class ReadOnly(HostHandle):
    """The file of another handle, opened only for reading."""

    def __init__(self, origin: HostHandle) -> None:
        super().__init__()
        self.origin: HostHandle = origin

    def reopen(self) -> None:
        self.fd = hostsys.reopen_readonly(self.origin.fd)
