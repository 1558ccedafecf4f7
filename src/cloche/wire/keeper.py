"""Messages between the monitor and the keeper: datagrams (SOCK_SEQPACKET) of a letter and an argument.

The request to start carries descriptors; the first is a memfd with the other fields (`boot.launch`, `boot.keeper`).
These are marshalled, which is safe because both ends are the same program, run by the same user.
"""

from typing import Final

# To the keeper, before the request to start: the sandbox is none that a sentry can get ready for before it is known.
UNUSUAL: Final = b"U"
START: Final = b"L"  # to the keeper: + descriptors
END: Final = b"K"  # to the keeper: kill the sentry; so does the end of the connection
# From the keeper: + marshalled (pid of the sentry, ports of the host, marks of `timing`)
STARTED: Final = b"S"
FAILED: Final = b"F"  # from the keeper: + exit status (one byte) + text
GONE: Final = b"Q"  # from the keeper: every part has ended, and the keeper ends
DIED: Final = b"X"  # from the keeper: + which part died; everything else ends now
# A further gofer, of a container that joins (a pod), in control groups of its own:
SERVE: Final = b"G"  # to the keeper: + a memfd: marshalled (its number, the spec that it serves, its groups)
SERVED: Final = b"g"  # from the keeper: + its number (4 bytes) + its socket, or a text that says why not
LOST: Final = b"x"  # from the keeper: + its number (4 bytes): it has ended


class RecordPlace:
    """The directory of a sandbox's record: open, and where it is."""

    def __init__(self, fd: int, root: str, name: str, *, is_temporary: bool) -> None:
        self.fd: int = fd
        self.root: str = root
        self.name: str = name
        self.is_temporary: bool = is_temporary
