"""NETLINK_ROUTE in a network that is a namespace of the host: answers from its `NetView`, as the host's kernel wrote
them. The sandbox cannot change anything: EPERM for every caller.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import EINVAL, ENODEV, EOPNOTSUPP, EPERM, LinuxError
from cloche.abi.if_link import IFLA_IFNAME
from cloche.abi.rtnetlink import (
    RT_SCOPE_UNIVERSE,
    RTA_CACHEINFO,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_TABLE,
    RTA_UID,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_F_CLONED,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from cloche.abi.socket import AF_BRIDGE, AF_INET, AF_INET6, AF_UNSPEC
from cloche.net.nlmsg import Reply, attribute, attribute_u32, attributes
from cloche.net.view import NetView
from cloche.vfs.objects import Context

__all__ = ["NOT_HERE", "answer", "changes"]

NOT_HERE: Final = -1  # `rtnetlink` answers this for all networks alike
_IFINFO: Final = Struct("<BxHiII")
_IFADDR: Final = Struct("<BBBBI")
_RTMSG: Final = Struct("<BBBBBBBBI")
_GROUP_LINK: Final = 1  # RTNLGRP_*
_GROUP_ADDRESS4: Final = 5
_GROUP_ADDRESS6: Final = 9
_GROUP_ROUTE4: Final = 7
_GROUP_ROUTE6: Final = 11


def answer(view: NetView, ctx: Context, reply: Reply, kind: int, body: bytes, *, is_dump: bool) -> int:
    """Answer one request: 0, a positive errno, or `NOT_HERE`."""
    if kind & 3 != 2:  # neither GET
        return EPERM
    family = body[0]
    if kind == RTM_GETLINK:
        if family == AF_BRIDGE:
            return 0 if is_dump else EOPNOTSUPP
        return _links(view, reply, body, is_dump=is_dump)
    if kind == RTM_GETADDR and is_dump:
        index: int = _IFADDR.unpack_from(body, 0)[4] if len(body) >= _IFADDR.size else 0
        for address in view.addresses:
            if family in (AF_UNSPEC, address.family) and index in (0, address.index):
                reply.add(RTM_NEWADDR, address.body)
        return 0
    if kind == RTM_GETROUTE:
        if not is_dump:
            return _route_to(view, reply, body, ctx.creds.euid)
        for route in view.routes:
            if family in (AF_UNSPEC, route.family):
                reply.add(RTM_NEWROUTE, route.body)
        return 0
    return NOT_HERE


def _links(view: NetView, reply: Reply, body: bytes, *, is_dump: bool) -> int:
    if is_dump:
        for each in view.links:
            reply.add(RTM_NEWLINK, each.body)
        return 0
    if len(body) < _IFINFO.size:
        return EINVAL
    index: int = _IFINFO.unpack_from(body, 0)[2]
    name = attributes(body[_IFINFO.size :]).get(IFLA_IFNAME, b"").rstrip(b"\0")
    if index == 0 and not name:
        return EINVAL
    found = view.link(index, name)
    if found is None:
        return ENODEV
    reply.is_dump = False
    reply.add(RTM_NEWLINK, found.body)
    return 0


def _route_to(view: NetView, reply: Reply, body: bytes, uid: int) -> int:
    """`ip route get`."""
    if len(body) < _RTMSG.size:
        return EINVAL
    family = body[0]
    size = 4 if family == AF_INET else 16
    dest = attributes(body[_RTMSG.size :]).get(RTA_DST, bytes(size))
    if family not in (AF_INET, AF_INET6) or len(dest) != size:
        return EINVAL
    try:
        source = view.source_for(dest)
    except LinuxError as error:
        return error.errno
    route = view.route_to(dest)
    if route is None:
        return ENODEV
    reply.is_dump = False
    protocol = route.protocol if family == AF_INET6 else 0
    head = (family, size * 8, 0, 0, min(route.table, 252), protocol, RT_SCOPE_UNIVERSE, route.kind)
    out = _RTMSG.pack(*head, RTM_F_CLONED) + attribute_u32(RTA_TABLE, route.table) + attribute(RTA_DST, dest)
    if route.gateway:
        out += attribute(RTA_GATEWAY, route.gateway)
    out += attribute_u32(RTA_OIF, route.index)
    if any(source):
        out += attribute(RTA_PREFSRC, source)
    out += attribute_u32(RTA_UID, uid) + attribute(RTA_CACHEINFO, bytes(32))
    reply.add(RTM_NEWROUTE, out)
    return 0


def changes(old: NetView, new: NetView) -> list[tuple[int, int, bytes]]:
    """The notices about the differences, for members of groups: (RTNLGRP_*, kind, body)."""
    found: list[tuple[int, int, bytes]] = []
    before = {each.body for each in old.links}
    for link in new.links:
        if link.body not in before:
            found.append((_GROUP_LINK, RTM_NEWLINK, link.body))
    before = {each.body for each in old.addresses}
    now = {each.body for each in new.addresses}
    for gone in old.addresses:
        if gone.body not in now:
            found.append(
                (_GROUP_ADDRESS4 if gone.family == AF_INET else _GROUP_ADDRESS6, RTM_DELADDR, gone.body)
            )
    for address in new.addresses:
        if address.body not in before:
            group = _GROUP_ADDRESS4 if address.family == AF_INET else _GROUP_ADDRESS6
            found.append((group, RTM_NEWADDR, address.body))
    before = {each.body for each in old.routes}
    now = {each.body for each in new.routes}
    for row in old.routes:
        if row.body not in now:
            found.append((_GROUP_ROUTE4 if row.family == AF_INET else _GROUP_ROUTE6, RTM_DELROUTE, row.body))
    for route in new.routes:
        if route.body not in before:
            group = _GROUP_ROUTE4 if route.family == AF_INET else _GROUP_ROUTE6
            found.append((group, RTM_NEWROUTE, route.body))
    indexes = {each.index for each in new.links}
    for each in old.links:
        if each.index not in indexes:
            found.append((_GROUP_LINK, RTM_DELLINK, each.body))
    return found
