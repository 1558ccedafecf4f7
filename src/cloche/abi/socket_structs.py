"""Structs of sockets: addresses, messages, control messages (x86-64 layouts); see cloche.abi.structs."""

from struct import Struct
from typing import Final

from cloche.abi.errno import EINVAL, LinuxError
from cloche.abi.structs import U32, unpack_u16, unpack_u32

MSGHDR: Final = Struct("<QIxxxxQQQQIxxxx")
MSGHDR_SIZE: Final = 56
MMSGHDR_SIZE: Final = 64
CMSGHDR: Final = Struct("<Qii")
CMSGHDR_SIZE: Final = 16
UCRED: Final = Struct("<iII")
UCRED_SIZE: Final = 12
LINGER: Final = Struct("<ii")
LINGER_SIZE: Final = 8
SOCKADDR_IN_SIZE: Final = 16
SOCKADDR_IN6_SIZE: Final = 28
SOCKADDR_IN6_MIN: Final = 24  # without the scope: what Linux still takes
SOCKADDR_UN_SIZE: Final = 110
SOCKADDR_NL: Final = Struct("<HxxII")
SOCKADDR_NL_SIZE: Final = 12
SOCKADDR_STORAGE_SIZE: Final = 128
_PORT: Final = Struct(">H")
_IN6_HEAD: Final = Struct("<H2sI16sI")


def sockaddr_family(data: bytes) -> int:
    """sa_family; EINVAL if there are fewer than two bytes."""
    if len(data) < 2:
        raise LinuxError(EINVAL)
    return unpack_u16(data, 0)


def unpack_sockaddr_in(data: bytes) -> tuple[bytes, int]:
    """(4 address bytes, port); EINVAL if too short (ip(7))."""
    if len(data) < SOCKADDR_IN_SIZE:
        raise LinuxError(EINVAL)
    port: int = _PORT.unpack_from(data, 2)[0]
    return data[4:8], port


def pack_sockaddr_in(address: bytes, port: int) -> bytes:
    """struct sockaddr_in, 16 bytes."""
    return b"\x02\x00" + _PORT.pack(port) + address + bytes(8)


def unpack_sockaddr_in6(data: bytes) -> tuple[bytes, int, int, int]:
    """(16 address bytes, port, flow information, scope); EINVAL if too short (ipv6(7))."""
    if len(data) < SOCKADDR_IN6_MIN:
        raise LinuxError(EINVAL)
    port: int = _PORT.unpack_from(data, 2)[0]
    scope = unpack_u32(data, 24) if len(data) >= SOCKADDR_IN6_SIZE else 0
    return data[8:24], port, int.from_bytes(data[4:8], "big"), scope


def pack_sockaddr_in6(address: bytes, port: int, flowinfo: int, scope: int) -> bytes:
    """struct sockaddr_in6, 28 bytes."""
    return b"\x0a\x00" + _PORT.pack(port) + flowinfo.to_bytes(4, "big") + address + U32.pack(scope)


def unpack_sockaddr_un(data: bytes) -> bytes:
    """The name in a struct sockaddr_un of exactly `data` (unix(7)).

    A path ends before its first NUL; an abstract name keeps its leading NUL and every byte; empty is unnamed.
    """
    name = data[2:SOCKADDR_UN_SIZE]
    if not name or name[0] == 0:
        return name
    end = name.find(b"\0")
    return name if end < 0 else name[:end]


def pack_sockaddr_un(name: bytes) -> bytes:
    """struct sockaddr_un with just its family and name, as getsockname(2) gives it; a path gets its NUL."""
    if not name or name[0] == 0:
        return b"\x01\x00" + name
    return b"\x01\x00" + name + b"\0"


def unpack_sockaddr_nl(data: bytes) -> tuple[int, int]:
    """(port id, groups) (netlink(7)); EINVAL if too short."""
    if len(data) < SOCKADDR_NL_SIZE:
        raise LinuxError(EINVAL)
    _family, pid, groups = SOCKADDR_NL.unpack_from(data, 0)
    return pid, groups


def pack_sockaddr_nl(pid: int, groups: int) -> bytes:
    """struct sockaddr_nl, 12 bytes."""
    return SOCKADDR_NL.pack(16, pid, groups)


class MsgHdr:
    """struct msghdr, decoded (recvmsg(2))."""

    def __init__(self, data: bytes) -> None:
        fields: tuple[int, ...] = MSGHDR.unpack_from(data, 0)
        self.name: int = fields[0]
        self.namelen: int = fields[1]
        self.iov: int = fields[2]
        self.iovlen: int = fields[3]
        self.control: int = fields[4]
        self.controllen: int = fields[5]
        self.flags: int = fields[6]


# Offsets of what recvmsg(2) writes back.
MSGHDR_NAMELEN_OFFSET: Final = 8
MSGHDR_CONTROLLEN_OFFSET: Final = 40
MSGHDR_FLAGS_OFFSET: Final = 48


def cmsg_align(length: int) -> int:
    """CMSG_ALIGN."""
    return (length + 7) & ~7


def pack_cmsg(level: int, kind: int, data: bytes) -> bytes:
    """One control message, padded to its alignment (cmsg(3))."""
    return (
        CMSGHDR.pack(CMSGHDR_SIZE + len(data), level, kind) + data + bytes(cmsg_align(len(data)) - len(data))
    )


def unpack_cmsgs(control: bytes) -> list[tuple[int, int, bytes]]:
    """(level, type, data) of every control message; EINVAL for one that does not fit, as in Linux."""
    out: list[tuple[int, int, bytes]] = []
    at = 0
    while at + CMSGHDR_SIZE <= len(control):
        length, level, kind = CMSGHDR.unpack_from(control, at)
        if length < CMSGHDR_SIZE or length > len(control) - at:
            raise LinuxError(EINVAL)
        out.append((level, kind, control[at + CMSGHDR_SIZE : at + length]))
        at += cmsg_align(length)
    return out
