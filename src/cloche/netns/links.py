"""The links, addresses and routes of a network namespace, read from the kernel by rtnetlink(7), and followed.

The messages are passed on as the kernel wrote them; only their headers are read here.
"""

import socket
from struct import Struct
from typing import Final

from cloche.abi.netlink import NETLINK_ROUTE, NLMSG_DONE, NLMSG_ERROR
from cloche.abi.rtnetlink import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE
from cloche.abi.socket import AF_INET, AF_INET6

__all__ = ["MAX_BYTES", "Links", "read_parameters"]

MAX_BYTES: Final = 1 << 20  # what is beyond it is not passed on
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links; addresses and routes of both families
_REQUEST_DUMP: Final = 0x301
_HEAD: Final = Struct("<IHHII")
# RTEXT_FILTER_SKIP_STATS: they change all the time
_IFLA_EXT_MASK: Final = Struct("<HHI").pack(8, 29, 1 << 3)
_BUFFER: Final = 1 << 17
_PARAMETERS: Final = Struct("<IIIII")


def _number(path: str, default: list[int]) -> list[int]:
    try:
        with open("/proc/sys/net/ipv4/" + path, encoding="ascii") as file:
            found = [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return default
    return found if len(found) == len(default) else default


def read_parameters() -> bytes:
    """Parameters of the namespace that programs depend on; before the root is empty."""
    values = [
        *_number("ip_unprivileged_port_start", [1024]),
        *_number("ping_group_range", [1, 0]),
        *_number("ip_local_port_range", [32768, 60999]),
    ]
    return _PARAMETERS.pack(*[value & 0xFFFFFFFF for value in values])


class Links:
    """The namespace that this process has joined."""

    def __init__(self, parameters: bytes) -> None:
        """Before the filter: it makes the sockets.  Raises OSError."""
        self.parameters: bytes = parameters
        self.news: socket.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self.news.bind((0, _GROUPS))
        self.news.setblocking(False)
        self.asking: socket.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)

    def has_changed(self) -> bool:
        """Read the kernel's notifications; returns whether there were any."""
        found = False
        while True:
            try:
                self.news.recv(_BUFFER)
            except BlockingIOError:
                return found
            except OSError:
                pass  # ENOBUFS: there was more than the socket holds
            found = True

    def snapshot(self) -> bytes:
        """The whole state, as messages of rtnetlink after the parameters."""
        out = [
            self.parameters,
            self._dump(RTM_GETLINK, bytes(16) + _IFLA_EXT_MASK),
            self._dump(RTM_GETADDR, bytes(8)),
            self._dump(RTM_GETROUTE, bytes([AF_INET]) + bytes(11)),
            self._dump(RTM_GETROUTE, bytes([AF_INET6]) + bytes(11)),
        ]
        return b"".join(out)

    def _dump(self, kind: int, body: bytes) -> bytes:
        self.asking.send(_HEAD.pack(16 + len(body), kind, _REQUEST_DUMP, 1, 0) + body)
        out: list[bytes] = []
        total = 0
        while True:
            data = self.asking.recv(_BUFFER)
            at = 0
            while at + 16 <= len(data):
                size, found = _HEAD.unpack_from(data, at)[:2]
                if size < 16 or at + size > len(data):
                    break
                if found in (NLMSG_DONE, NLMSG_ERROR):
                    return b"".join(out)
                total += size
                if total <= MAX_BYTES // 4:
                    out.append(data[at : at + (size + 3 & ~3)])
                at += size + 3 & ~3
