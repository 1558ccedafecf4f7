"""The control protocol of a sandbox: what `cloche exec`, `ps`, `kill`, `wait` and `stop` say to its monitor, and the
monitor to the sentry.

Two hops.  Clients talk to the monitor over a stream socket (mode 0600, the peer's uid checked) in the frames of
`wire.frame`: a request's code is one of OP_*, a reply's one of RE_*.  Monitor and sentry talk over a socketpair of
packets: a packet is a letter (TO_* or FROM_*), a little-endian u32 that names the request, and a body; long bodies
come in pieces of at most PIECE_BYTES, each but the last marked with MORE.

Bodies are packed structs and counted byte strings.  Every `decode_*` checks all of it (version, lengths, counts,
ranges, no NUL where the kernel would see one) and raises ProtocolError: the sentry trusts the monitor, and still no
further.
"""

import socket
from array import array
from struct import Struct
from typing import Final

from cloche.wire.frame import ProtocolError

VERSION: Final = 1
MAX_BODY_BYTES: Final = 4 << 20
PIECE_BYTES: Final = 32768
MAX_STRINGS: Final = 65536
MAX_FDS: Final = 3

# Requests of clients, and the replies.
OP_EXEC: Final = 1  # ExecRequest, with its descriptors; one in the life of a connection
OP_SIGNAL: Final = 2  # to what this connection executes: u8 signal number, u8 SCOPE_*
OP_WINDOW: Final = 3  # the terminal of what this connection executes: u16 rows, u16 columns
OP_PS: Final = 4
OP_KILL: Final = 5  # to the sandbox: u8 signal number, u8 is_all
OP_WAIT: Final = 6  # RE_ENDED when it has ended
OP_STOP: Final = 7  # u32 ms that it may take to end after SIGTERM; then RE_ENDED
RE_STARTED: Final = 1  # u32 pid inside
RE_EXITED: Final = 2  # u32 wait status
RE_FAILED: Final = 3  # u8 exit status for the command, text
RE_TABLE: Final = 4  # rows of Process
RE_DONE: Final = 5
RE_ENDED: Final = 6  # the sandbox: i32 exit status, text

# Packets of the monitor, and the sentry's.
TO_EXEC: Final = b"X"  # u8 MORE or 0, a piece of ExecRequest; descriptors with the last
TO_SIGNAL: Final = b"K"  # u8 signal number, u8 SCOPE_*
TO_WINDOW: Final = b"w"  # u16 rows, u16 columns
TO_PS: Final = b"P"
TO_KILL_ALL: Final = b"A"  # u8 signal number
FROM_STARTED: Final = b"x"  # u32 pid
FROM_EXITED: Final = b"e"  # u32 wait status
FROM_FAILED: Final = b"f"  # u8 exit status, text
FROM_TABLE: Final = b"p"  # u8 MORE or 0, a piece of the table

MORE: Final = 1
SCOPE_PROCESS: Final = 0
SCOPE_FOREGROUND: Final = 1  # the process group that the keyboard reaches
SCOPE_SESSION: Final = 2  # everything that was started with it and has not left its session

EXEC_TERMINAL: Final = 1
EXEC_HAS_FD: Final = (2, 4, 8)  # descriptors 0, 1 and 2 come along, in this order
EXEC_DETACHED: Final = 16  # it may outlive its client
_EXEC_FLAGS: Final = 31
_MAX_ID: Final = 0xFFFFFFFE

_EXEC: Final = Struct("<HHqqHHII")  # version, flags, uid, gid, rows, columns, arguments, variables
_ROW: Final = Struct("<IIIIQH")  # pid, ppid, uid, state, CPU time in ns, length of the command
_LENGTH: Final = Struct("<I")
PACKET_HEAD: Final = Struct("<cI")


class ExecRequest:
    """A command to start in a running sandbox."""

    def __init__(self, argv: list[bytes]) -> None:
        self.argv: list[bytes] = argv
        self.env: list[bytes] = []  # K=V, over the sandbox's own
        self.cwd: bytes = b""  # empty: the sandbox's
        self.uid: int = -1  # -1: the sandbox's user
        self.gid: int = -1
        self.flags: int = 0
        self.rows: int = 0
        self.columns: int = 0

    def fd_count(self) -> int:
        """How many descriptors belong to it."""
        return sum([1 for bit in EXEC_HAS_FD if self.flags & bit])


class Process:
    """A row of `cloche ps`."""

    def __init__(self, pid: int, ppid: int, uid: int, state: str, cpu_ns: int, command: bytes) -> None:
        self.pid: int = pid
        self.ppid: int = ppid
        self.uid: int = uid
        self.state: str = state  # as in /proc/PID/stat
        self.cpu_ns: int = cpu_ns
        self.command: bytes = command  # arguments, a NUL after each; the guest chose them


def encode_exec(request: ExecRequest) -> bytes:
    """The body of OP_EXEC."""
    head = _EXEC.pack(
        VERSION,
        request.flags,
        request.uid,
        request.gid,
        request.rows,
        request.columns,
        len(request.argv),
        len(request.env),
    )
    parts = [head]
    for text in (request.cwd, *request.argv, *request.env):
        parts.append(_LENGTH.pack(len(text)))
        parts.append(text)
    return b"".join(parts)


def decode_exec(body: bytes) -> ExecRequest:
    """The inverse.  Raises ProtocolError."""
    if len(body) < _EXEC.size or len(body) > MAX_BODY_BYTES:
        raise ProtocolError("an exec request of a wrong size")
    version, flags, uid, gid, rows, columns, arg_count, env_count = _EXEC.unpack_from(body)
    check_version(version)
    if flags & ~_EXEC_FLAGS:
        raise ProtocolError("unknown flags of an exec request")
    if flags & EXEC_TERMINAL and (not flags & EXEC_HAS_FD[0] or not flags & EXEC_HAS_FD[1]):
        raise ProtocolError("a terminal needs its two descriptors")
    if not -1 <= uid < 0xFFFFFFFF or not -1 <= gid < 0xFFFFFFFF or (uid < 0) != (gid < 0):
        raise ProtocolError("ids out of range")
    if arg_count < 1 or arg_count + env_count > MAX_STRINGS:
        raise ProtocolError("too many strings, or none")
    strings = _strings(body, _EXEC.size, 1 + arg_count + env_count)
    request = ExecRequest(strings[1 : 1 + arg_count])
    request.cwd = strings[0]
    request.env = strings[1 + arg_count :]
    request.uid, request.gid, request.flags = uid, gid, flags
    request.rows, request.columns = rows, columns
    if request.cwd and not request.cwd.startswith(b"/"):
        raise ProtocolError("a relative working directory")
    for item in request.env:
        if item.find(b"=") < 1:
            raise ProtocolError("a variable without a name")
    return request


def _strings(body: bytes, at: int, count: int) -> list[bytes]:
    """`count` strings that fill the rest of `body`."""
    found: list[bytes] = []
    for _number in range(count):
        if at + 4 > len(body):
            raise ProtocolError("a string is missing")
        length = _LENGTH.unpack_from(body, at)[0]
        at += 4
        if at + length > len(body):
            raise ProtocolError("a string is cut off")
        text = body[at : at + length]
        if b"\0" in text:
            raise ProtocolError("a NUL in a string")
        found.append(text)
        at += length
    if at != len(body):
        raise ProtocolError("bytes after the last string")
    return found


def check_version(version: int) -> None:
    """Raises ProtocolError unless the peer speaks this version."""
    if version != VERSION:
        raise ProtocolError(f"version {version} of the control protocol; this is version {VERSION}")


def encode_table(rows: list[Process]) -> bytes:
    """The body of RE_TABLE."""
    parts: list[bytes] = []
    for row in rows:
        command = row.command[:0xFFFF]
        parts.append(_ROW.pack(row.pid, row.ppid, row.uid, ord(row.state), row.cpu_ns, len(command)))
        parts.append(command)
    return b"".join(parts)


def decode_table(body: bytes) -> list[Process]:
    """The inverse.  Raises ProtocolError."""
    rows: list[Process] = []
    at = 0
    while at < len(body):
        if at + _ROW.size > len(body):
            raise ProtocolError("a row is cut off")
        pid, ppid, uid, state, cpu_ns, length = _ROW.unpack_from(body, at)
        at += _ROW.size
        if at + length > len(body) or not 32 < state < 127:
            raise ProtocolError("a row is cut off")
        rows.append(Process(pid, ppid, uid, chr(state), cpu_ns, body[at : at + length]))
        at += length
    return rows


def pieces(body: bytes) -> list[bytes]:
    """A long body as packets' bodies, each with its MORE byte in front."""
    starts = list(range(0, max(len(body), 1), PIECE_BYTES))
    last = len(starts) - 1
    return [
        (b"\1" if index < last else b"\0") + body[start : start + PIECE_BYTES]
        for index, start in enumerate(starts)
    ]


class Assembly:
    """Puts the pieces of long bodies together, for one request at a time."""

    def __init__(self) -> None:
        self._ident: int = -1
        self._parts: list[bytes] = []
        self._size: int = 0

    def add(self, ident: int, body: bytes) -> bytes | None:
        """One more piece: the whole body once it is complete.  Raises ProtocolError."""
        if not body or body[0] > MORE:
            raise ProtocolError("a piece without its mark")
        if self._ident not in (-1, ident):
            raise ProtocolError("pieces of two bodies mixed")
        self._ident = ident
        self._size += len(body) - 1
        if self._size > MAX_BODY_BYTES:
            raise ProtocolError("a body that is too long")
        self._parts.append(body[1:])
        if body[0] == MORE:
            return None
        whole = b"".join(self._parts)
        self._ident, self._parts, self._size = -1, [], 0
        return whole


def received_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors of recvmsg's ancillary data."""
    found = array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(payload[: len(payload) // 4 * 4])
    return found.tolist()


def fd_message(fds: list[int]) -> "list[tuple[int, int, array[int]]]":
    """Ancillary data for sendmsg that carries `fds`."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
