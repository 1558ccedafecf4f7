"""NETLINK_ROUTE: links, addresses, routes, rules and neighbours of a network that has lo only (rtnetlink(7)).

Answers dumps and single requests; changes of lo (up, down, addresses) and of routes (`rtroute`) need CAP_NET_ADMIN.
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN
from cloche.abi.errno import EADDRNOTAVAIL, EEXIST, EINVAL, ENODEV, EOPNOTSUPP, EPERM
from cloche.abi.if_link import (
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_ALLMULTI,
    IFLA_BROADCAST,
    IFLA_CARRIER,
    IFLA_CARRIER_CHANGES,
    IFLA_CARRIER_DOWN_COUNT,
    IFLA_CARRIER_UP_COUNT,
    IFLA_GRO_IPV4_MAX_SIZE,
    IFLA_GRO_MAX_SIZE,
    IFLA_GROUP,
    IFLA_GSO_IPV4_MAX_SIZE,
    IFLA_GSO_MAX_SEGS,
    IFLA_GSO_MAX_SIZE,
    IFLA_IFNAME,
    IFLA_INET6_ADDR_GEN_MODE,
    IFLA_LINKMODE,
    IFLA_MAP,
    IFLA_MAX_MTU,
    IFLA_MIN_MTU,
    IFLA_MTU,
    IFLA_NUM_RX_QUEUES,
    IFLA_NUM_TX_QUEUES,
    IFLA_OPERSTATE,
    IFLA_PROMISCUITY,
    IFLA_PROTO_DOWN,
    IFLA_QDISC,
    IFLA_STATS,
    IFLA_STATS64,
    IFLA_TSO_MAX_SEGS,
    IFLA_TSO_MAX_SIZE,
    IFLA_TXQLEN,
)
from cloche.abi.netlink import NLM_F_DUMP, NLM_F_EXCL
from cloche.abi.rtnetlink import (
    IFA_ADDRESS,
    IFA_CACHEINFO,
    IFA_F_PERMANENT,
    IFA_FLAGS,
    IFA_LABEL,
    IFA_LOCAL,
    IFA_PROTO,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RTA_CACHEINFO,
    RTA_PREF,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETMULTICAST,
    RTM_GETNEIGH,
    RTM_GETNEIGHTBL,
    RTM_GETNETCONF,
    RTM_GETNEXTHOP,
    RTM_GETNSID,
    RTM_GETQDISC,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTM_GETTCLASS,
    RTM_GETTFILTER,
    RTM_MAX,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNETCONF,
    RTM_NEWQDISC,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    RTM_SETLINK,
    RTPROT_KERNEL,
)
from cloche.abi.socket import (
    AF_BRIDGE,
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    ARPHRD_LOOPBACK,
    IFF_LOOPBACK,
    IFF_RUNNING,
    IFF_UP,
)
from cloche.net import view_netlink
from cloche.net.inet_addr import LO_INDEX, LOOPBACK6
from cloche.net.inet_base import NetStack
from cloche.net.nlmsg import Reply, attribute, attribute_u32, attributes
from cloche.net.routes import TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN
from cloche.net.rtroute import change_route, dump_routes, get_route
from cloche.vfs.objects import Context

_IFINFO: Final = Struct("<BxHiII")
_IFADDR: Final = Struct("<BBBBI")
_RTMSG: Final = Struct("<BBBBBBBBI")
_RULE: Final = Struct("<BBBBBxxBI")
_CACHEINFO: Final = Struct("<IIII")
_U32: Final = Struct("<I")
_LOWER_UP: Final = 0x10000
# Attributes that only `ip -d` shows.
_AF_SPEC: Final = attribute(IFLA_AF_SPEC, attribute(AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, b"\0")))
_FOREVER: Final = attribute(IFA_CACHEINFO, _CACHEINFO.pack(0xFFFFFFFF, 0xFFFFFFFF, 0, 0))
_KEPT_FLAGS: Final = 0x02 | 0x10  # IFA_F_NODAD, IFA_F_HOMEADDRESS
_GROUP_LINK: Final = 1  # RTNLGRP_*
_GROUP_ADDRESS4: Final = 5
_GROUP_ADDRESS6: Final = 9
_IFAPROT_KERNEL_LO: Final = 1
_RTCF_LOCAL: Final = 0x80000000
_TCMSG: Final = Struct("<BxxxiIII")
_TCA_KIND: Final = 1
_V6_TAIL: Final = attribute(RTA_CACHEINFO, bytes(32)) + attribute(RTA_PREF, b"\0")
_FRA_PRIORITY: Final = 6
_FRA_SUPPRESS_PREFIXLEN: Final = 14
_FRA_TABLE: Final = 15
_FRA_PROTOCOL: Final = 21


# Tables that are always empty: neighbours, classes, filters, next hops, labels of addresses, multicast groups.
_EMPTY: Final = frozenset(
    {
        RTM_GETNEIGH,
        RTM_GETNEIGHTBL,
        RTM_GETNSID,
        RTM_GETTCLASS,
        RTM_GETTFILTER,
        RTM_GETMULTICAST,
        RTM_GETNEXTHOP,
    }
)


def answer(stack: NetStack, ctx: Context, reply: Reply, kind: int, flags: int, body: bytes) -> int:
    """Answer one request: 0, or a positive errno (rtnetlink_rcv_msg)."""
    if kind > RTM_MAX:
        return EOPNOTSUPP
    if not body:
        return 0
    view = stack.view
    if view is not None:
        is_dump = flags & NLM_F_DUMP == NLM_F_DUMP
        result = view_netlink.answer(view, ctx, reply, kind, body, is_dump=is_dump)
        if result != view_netlink.NOT_HERE:
            return result
    is_get = kind & 3 == 2
    if not is_get and not ctx.creds.capable_in(stack.user_ns, CAP_NET_ADMIN):
        return EPERM
    is_dump = flags & NLM_F_DUMP == NLM_F_DUMP
    family = body[0]
    if kind == RTM_GETLINK:
        if family == AF_BRIDGE:
            return 0 if is_dump else EOPNOTSUPP
        return _get_link(stack, reply, body, is_dump=is_dump)
    if kind == RTM_GETADDR:
        if not is_dump:
            return EOPNOTSUPP if family != AF_INET6 else EINVAL
        return _dump_addresses(stack, reply, family)
    if kind == RTM_GETROUTE:
        if is_dump:
            return dump_routes(stack, reply, family)
        return get_route(stack, reply, body, ctx.creds.euid)
    if kind == RTM_GETRULE and is_dump:
        return _dump_rules(reply, family)
    if kind == RTM_GETQDISC and is_dump:
        return _dump_qdiscs(reply)
    if kind == RTM_GETNETCONF and is_dump:
        return _dump_netconf(reply, family)
    if kind in _EMPTY and is_dump:
        return 0
    if kind in (RTM_NEWLINK, RTM_SETLINK):
        return _set_link(stack, reply, body)
    if kind == RTM_DELLINK:
        return EOPNOTSUPP
    if kind in (RTM_NEWROUTE, RTM_DELROUTE):
        return change_route(stack, reply, body, flags, is_new=kind == RTM_NEWROUTE)
    if kind in (RTM_NEWADDR, RTM_DELADDR):
        return _change_address(stack, reply, body, flags, is_new=kind == RTM_NEWADDR)
    return EOPNOTSUPP


# -- links -----------------------------------------------------------------------------------------------------
def link_flags(stack: NetStack) -> int:
    """IFF_* of lo."""
    return IFF_LOOPBACK | (IFF_UP | IFF_RUNNING | _LOWER_UP if stack.lo.is_up else 0)


def link_body(stack: NetStack) -> bytes:
    """struct ifinfomsg with the attributes of lo."""
    lo = stack.lo
    head = _IFINFO.pack(AF_UNSPEC, ARPHRD_LOOPBACK, LO_INDEX, link_flags(stack), 0)
    counters = (lo.packets, lo.packets, lo.bytes, lo.bytes)
    stats64 = b"".join([value.to_bytes(8, "little") for value in counters]).ljust(200, b"\0")
    stats = b"".join([_U32.pack(value & 0xFFFFFFFF) for value in counters]).ljust(96, b"\0")
    return head + b"".join(
        [
            attribute(IFLA_IFNAME, b"lo\0"),
            attribute_u32(IFLA_TXQLEN, lo.queue_length),
            attribute(IFLA_OPERSTATE, b"\0" if lo.is_up else b"\2"),
            attribute(IFLA_LINKMODE, b"\0"),
            attribute_u32(IFLA_MTU, lo.mtu),
            attribute_u32(IFLA_GROUP, 0),
            attribute_u32(IFLA_PROMISCUITY, 0),
            attribute_u32(IFLA_NUM_TX_QUEUES, 1),
            attribute_u32(IFLA_GSO_MAX_SEGS, 65535),
            attribute_u32(IFLA_GSO_MAX_SIZE, 65536),
            attribute_u32(IFLA_NUM_RX_QUEUES, 1),
            attribute(IFLA_CARRIER, b"\1"),
            attribute(IFLA_QDISC, b"noqueue\0" if lo.is_up or lo.was_up else b"noop\0"),
            attribute_u32(IFLA_CARRIER_CHANGES, 0),
            attribute(IFLA_ADDRESS, bytes(6)),
            attribute(IFLA_BROADCAST, bytes(6)),
            attribute(IFLA_STATS64, stats64),
            attribute(IFLA_STATS, stats),
            attribute(IFLA_MAP, bytes(32)),
            attribute(IFLA_PROTO_DOWN, b"\0"),
            attribute_u32(IFLA_CARRIER_UP_COUNT, 0),
            attribute_u32(IFLA_CARRIER_DOWN_COUNT, 0),
            attribute_u32(IFLA_MIN_MTU, 0),
            attribute_u32(IFLA_MAX_MTU, 0),
            attribute_u32(IFLA_GRO_MAX_SIZE, 65536),
            attribute_u32(IFLA_TSO_MAX_SIZE, 524280),
            attribute_u32(IFLA_TSO_MAX_SEGS, 65535),
            attribute_u32(IFLA_ALLMULTI, 0),
            attribute_u32(IFLA_GSO_IPV4_MAX_SIZE, 65536),
            attribute_u32(IFLA_GRO_IPV4_MAX_SIZE, 65536),
            _AF_SPEC,
        ]
    )


def _get_link(stack: NetStack, reply: Reply, body: bytes, *, is_dump: bool) -> int:
    if is_dump:
        reply.add(RTM_NEWLINK, link_body(stack))
        return 0
    if len(body) < 16:
        return EINVAL
    index: int = _IFINFO.unpack_from(body, 0)[2]
    name = attributes(body[16:]).get(IFLA_IFNAME, b"").rstrip(b"\0")
    if index == 0 and not name:
        return EINVAL
    if (index and index != LO_INDEX) or (not index and name != b"lo"):
        return ENODEV
    reply.is_dump = False
    reply.add(RTM_NEWLINK, link_body(stack))
    return 0


def _set_link(stack: NetStack, reply: Reply, body: bytes) -> int:
    if len(body) < 16:
        return EINVAL
    fields: tuple[int, int, int, int, int] = _IFINFO.unpack_from(body, 0)
    _family, _type, index, flags, change = fields
    found = attributes(body[16:])
    name = found.get(IFLA_IFNAME, b"").rstrip(b"\0")
    if index != LO_INDEX and name != b"lo":
        return EOPNOTSUPP if not index and name else ENODEV
    mtu = found.get(IFLA_MTU)
    if mtu is not None and len(mtu) == 4:
        stack.lo.mtu = _U32.unpack(mtu)[0]
    length = found.get(IFLA_TXQLEN)
    if length is not None and len(length) == 4:
        stack.lo.queue_length = _U32.unpack(length)[0]
    was_up = stack.lo.is_up
    if (change or flags) and (change & IFF_UP or not change):
        stack.lo.set_up(is_up=flags & IFF_UP != 0)
    reply.notices.append((_GROUP_LINK, RTM_NEWLINK, link_body(stack)))
    if stack.lo.is_up and not was_up:
        for addr in stack.lo.addresses4:
            reply.notices.append((_GROUP_ADDRESS4, RTM_NEWADDR, _address4(stack, addr)))
        for addr in stack.lo.addresses6:
            reply.notices.append((_GROUP_ADDRESS6, RTM_NEWADDR, _address6(stack, addr)))
    return 0


# -- addresses -------------------------------------------------------------------------------------------------
def _address4(stack: NetStack, addr: bytes) -> bytes:
    """struct ifaddrmsg with its attributes."""
    lo = stack.lo
    scope = RT_SCOPE_HOST if addr[0] == 127 else lo.scopes.get(addr, RT_SCOPE_UNIVERSE)
    return (
        _IFADDR.pack(AF_INET, lo.addresses4[addr], IFA_F_PERMANENT, scope, LO_INDEX)
        + attribute(IFA_ADDRESS, addr)
        + attribute(IFA_LOCAL, addr)
        + attribute(IFA_LABEL, lo.labels.get(addr, b"lo") + b"\0")
        + attribute_u32(IFA_FLAGS, IFA_F_PERMANENT)
        + _FOREVER
    )


def _address6(stack: NetStack, addr: bytes) -> bytes:
    scope = (
        RT_SCOPE_HOST if addr == LOOPBACK6 else RT_SCOPE_LINK if addr[:1] == b"\xfe" else RT_SCOPE_UNIVERSE
    )
    flags = IFA_F_PERMANENT | stack.lo.flags.get(addr, 0)
    body = _IFADDR.pack(AF_INET6, stack.lo.addresses6[addr], flags & 0xFF, scope, LO_INDEX)
    body += attribute(IFA_ADDRESS, addr) + _FOREVER + attribute_u32(IFA_FLAGS, flags)
    if addr == LOOPBACK6:
        body += attribute(IFA_PROTO, bytes([_IFAPROT_KERNEL_LO]))
    return body


def _dump_addresses(stack: NetStack, reply: Reply, family: int) -> int:
    lo = stack.lo
    if family in (AF_UNSPEC, AF_INET):
        for addr in lo.addresses4:
            reply.add(RTM_NEWADDR, _address4(stack, addr))
    if family in (AF_UNSPEC, AF_INET6) and lo.is_up:
        for addr in reversed(lo.addresses6):  # by scope, the newest first
            if addr != LOOPBACK6:
                reply.add(RTM_NEWADDR, _address6(stack, addr))
        if LOOPBACK6 in lo.addresses6:
            reply.add(RTM_NEWADDR, _address6(stack, LOOPBACK6))
    return 0


def _change_address(stack: NetStack, reply: Reply, body: bytes, flags: int, *, is_new: bool) -> int:
    if len(body) < 8:
        return EINVAL
    fields: tuple[int, int, int, int, int] = _IFADDR.unpack_from(body, 0)
    family, prefix, given_flags, scope, index = fields
    if index != LO_INDEX:
        return ENODEV
    found = attributes(body[8:])
    addr = found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))
    lo = stack.lo
    if family == AF_INET and len(addr) == 4 and prefix <= 32:
        table = lo.addresses4
        group = _GROUP_ADDRESS4
    elif family == AF_INET6 and len(addr) == 16 and prefix <= 128:
        table = lo.addresses6
        group = _GROUP_ADDRESS6
    else:
        return EINVAL
    version = "ipv4" if family == AF_INET else "ipv6"
    if not is_new:
        if addr not in table:
            reply.complaint = f"{version}: Address not found" if family == AF_INET else "address not found"
            return EADDRNOTAVAIL
        notice = _address4(stack, addr) if family == AF_INET else _address6(stack, addr)
        reply.notices.append((group, RTM_DELADDR, notice))
        del table[addr]
        lo.labels.pop(addr, None)
        lo.scopes.pop(addr, None)
        lo.flags.pop(addr, None)
        return 0
    if addr in table:
        if not flags & NLM_F_EXCL and family != AF_INET:
            return 0
        reply.complaint = (
            f"{version}: Address already assigned" if family == AF_INET else "address already assigned"
        )
        return EEXIST
    if len(table) >= 256:
        return 105  # ENOBUFS
    table[addr] = prefix
    label = found.get(IFA_LABEL, b"").rstrip(b"\0")[:15]
    if label and label != b"lo":
        lo.labels[addr] = label
    if scope:
        lo.scopes[addr] = scope
    wide_flags = found.get(IFA_FLAGS)
    if wide_flags is not None and len(wide_flags) == 4:
        given_flags = _U32.unpack(wide_flags)[0]
    if family == AF_INET6 and given_flags & _KEPT_FLAGS:
        lo.flags[addr] = given_flags & _KEPT_FLAGS
    notice = _address4(stack, addr) if family == AF_INET else _address6(stack, addr)
    reply.notices.append((group, RTM_NEWADDR, notice))
    return 0


# -- the rest ------------------------------------------------------------------------------------------------------
def _dump_qdiscs(reply: Reply) -> int:
    """lo has no queue."""
    head = _TCMSG.pack(0, LO_INDEX, 0, 0xFFFFFFFF, 2)  # TC_H_ROOT, two references
    reply.add(RTM_NEWQDISC, head + attribute(_TCA_KIND, b"noqueue\0"))
    return 0


def _dump_netconf(reply: Reply, family: int) -> int:
    """The settings of /proc/sys/net/ipv4/conf of each interface, of all and of new ones: nothing is switched on."""
    for which in (AF_INET, AF_INET6):
        if family not in (AF_UNSPEC, which):
            continue
        for index in (LO_INDEX, -1, -2):
            body = bytes([which, 0, 0, 0]) + attribute_u32(1, index)
            for name in (2, 3, 4, 5, 6) if which == AF_INET else (2, 4, 5, 6):
                body += attribute_u32(name, 0)
            reply.add(RTM_NEWNETCONF, body)
    return 0


def _dump_rules(reply: Reply, family: int) -> int:
    rows: list[tuple[int, int, int]] = []
    if family in (AF_UNSPEC, AF_INET):
        rows += [(AF_INET, 0, TABLE_LOCAL), (AF_INET, 32766, TABLE_MAIN), (AF_INET, 32767, TABLE_DEFAULT)]
    if family in (AF_UNSPEC, AF_INET6):
        rows += [(AF_INET6, 0, TABLE_LOCAL), (AF_INET6, 32766, TABLE_MAIN)]
    for which, priority, table in rows:
        body = _RULE.pack(which, 0, 0, 0, table, 1, 0) + attribute_u32(_FRA_TABLE, table)
        body += attribute_u32(_FRA_SUPPRESS_PREFIXLEN, -1)
        if priority:
            body += attribute_u32(_FRA_PRIORITY, priority)
        reply.add(RTM_NEWRULE, body + attribute(_FRA_PROTOCOL, bytes([RTPROT_KERNEL])))
    return 0
