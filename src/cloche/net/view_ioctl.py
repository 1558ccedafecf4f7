"""SIOCGIF* in a network that is a namespace of the host (netdevice(7)); the sandbox cannot change anything: EPERM."""

from struct import Struct
from typing import Final

from cloche.abi.errno import EADDRNOTAVAIL, ENODEV, EPERM
from cloche.abi.ioctl import (
    SIOCETHTOOL,
    SIOCGIFADDR,
    SIOCGIFBRDADDR,
    SIOCGIFCONF,
    SIOCGIFDSTADDR,
    SIOCGIFFLAGS,
    SIOCGIFHWADDR,
    SIOCGIFINDEX,
    SIOCGIFMETRIC,
    SIOCGIFMTU,
    SIOCGIFNAME,
    SIOCGIFNETMASK,
    SIOCGIFTXQLEN,
)
from cloche.abi.socket import AF_INET, IFF_LOOPBACK, IFF_RUNNING
from cloche.net.ethtool import ethtool_ioctl
from cloche.net.inet_addr import ANY4, encode
from cloche.net.view import HostAddress, HostLink, NetView
from cloche.vfs.objects import Context

__all__ = ["view_ioctl"]

_I32: Final = Struct("<i")
_IFREQ: Final = 40
_ADDRESSES: Final = (SIOCGIFADDR, SIOCGIFDSTADDR, SIOCGIFBRDADDR, SIOCGIFNETMASK)


def view_ioctl(view: NetView, ctx: Context, command: int, arg: int) -> int:
    """Answer an ioctl of interfaces."""
    memory = ctx.user_memory()
    if command == SIOCGIFCONF:
        return _all(view, ctx, arg)
    request = memory.read(arg, _IFREQ)
    if command == SIOCGIFNAME:
        found = view.link(_I32.unpack_from(request, 16)[0])
        if found is None:
            return -ENODEV
        memory.write(arg, found.name.ljust(16, b"\0"))
        return 0
    name = request[:16].split(b"\0", 1)[0]
    link = view.link(0, name.partition(b":")[0])
    argument = int.from_bytes(request[16:24], "little")
    if command == SIOCETHTOOL:
        memory.read(argument, 4)
    if link is None:
        return -ENODEV
    if command == SIOCETHTOOL:
        is_loopback = link.flags & IFF_LOOPBACK != 0
        return ethtool_ioctl(
            ctx,
            argument,
            link.hardware,
            is_up=link.flags & IFF_RUNNING != 0,
            is_loopback=is_loopback,
            may_change=False,
        )
    if command in _ADDRESSES:
        address = _address(view, link, name)
        if address is None:
            return -EADDRNOTAVAIL
        memory.write(arg + 16, encode(AF_INET, _part(address, command), 0))
        return 0
    value: bytes
    if command == SIOCGIFFLAGS:
        value = (link.flags & 0xFFFF).to_bytes(2, "little") + bytes(14)
    elif command == SIOCGIFHWADDR:
        value = (link.kind & 0xFFFF).to_bytes(2, "little") + link.hardware[:14].ljust(14, b"\0")
    elif command == SIOCGIFINDEX:
        value = _I32.pack(link.index)
    elif command == SIOCGIFMTU:
        value = _I32.pack(link.mtu & 0x7FFFFFFF)
    elif command == SIOCGIFMETRIC:
        value = _I32.pack(0)
    elif command == SIOCGIFTXQLEN:
        value = _I32.pack(link.queue_length & 0x7FFFFFFF)
    else:
        return -EPERM
    memory.write(arg + 16, value)
    return 0


def _address(view: NetView, link: HostLink, name: bytes) -> HostAddress | None:
    """The first address of an interface, or the one with a label."""
    for each in view.addresses:
        if each.family == AF_INET and each.index == link.index and (name in (link.name, each.label)):
            return each
    return None


def _part(address: HostAddress, command: int) -> bytes:
    if command == SIOCGIFADDR:
        return address.addr
    if command == SIOCGIFDSTADDR:
        return address.peer if len(address.peer) == 4 else address.addr
    if command == SIOCGIFBRDADDR:
        return address.broadcast if len(address.broadcast) == 4 else ANY4
    return ((1 << address.prefix) - 1 << 32 - address.prefix).to_bytes(4, "big")


def _all(view: NetView, ctx: Context, arg: int) -> int:
    """SIOCGIFCONF: an entry for each IPv4 address."""
    memory = ctx.user_memory()
    raw = memory.read(arg, 16)
    room: int = _I32.unpack_from(raw, 0)[0]
    pointer = int.from_bytes(raw[8:16], "little")
    rows: list[bytes] = []
    for each in view.addresses:
        link = view.link(each.index)
        if each.family == AF_INET and link is not None:
            name = each.label or link.name
            rows.append(name[:15].ljust(16, b"\0") + encode(AF_INET, each.addr, 0) + bytes(8))
    if pointer == 0:
        memory.write_i32(arg, len(rows) * _IFREQ)
        return 0
    shown = b"".join(rows[: max(room, 0) // _IFREQ])
    if shown:
        memory.write(pointer, shown)
    memory.write_i32(arg, len(shown))
    return 0
