"""RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE: routes over netlink (inet_rtm_newroute, inet6_rtm_newroute).

There is only lo: no multipath, next-hop objects or encapsulation (EOPNOTSUPP). Routes that come with lo's addresses
cannot be deleted (EOPNOTSUPP).
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import (
    EEXIST,
    EINVAL,
    ENETDOWN,
    ENETUNREACH,
    ENOBUFS,
    ENODEV,
    ENOENT,
    EOPNOTSUPP,
    ESRCH,
    LinuxError,
)
from cloche.abi.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE
from cloche.abi.rtnetlink import (
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    RTA_CACHEINFO,
    RTA_DST,
    RTA_ENCAP,
    RTA_GATEWAY,
    RTA_METRICS,
    RTA_MULTIPATH,
    RTA_NH_ID,
    RTA_OIF,
    RTA_PREF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_SRC,
    RTA_TABLE,
    RTA_UID,
    RTA_VIA,
    RTM_DELROUTE,
    RTM_F_CLONED,
    RTM_NEWROUTE,
    RTN_BLACKHOLE,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_PROHIBIT,
    RTN_THROW,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    RTPROT_KERNEL,
)
from cloche.abi.socket import AF_INET, AF_INET6, AF_UNSPEC
from cloche.net.inet_addr import ANY4, LO_INDEX, LOOPBACK4, LOOPBACK6, same_network
from cloche.net.inet_base import NetStack
from cloche.net.nlmsg import Reply, attribute, attribute_u32, attributes
from cloche.net.routes import MAX_ROUTES, TABLE_LOCAL, TABLE_MAIN, Route, network_bits

_RTMSG: Final = Struct("<BBBBBBBBI")
_RTMSG_SIZE: Final = 12
_I32: Final = Struct("<i")
_U32: Final = Struct("<I")
_RTCF_LOCAL: Final = 0x80000000
_V6_TAIL: Final = attribute(RTA_CACHEINFO, bytes(32)) + attribute(RTA_PREF, b"\0")
_METRIC6: Final = 1024  # IP6_RT_PRIO_USER
_KINDS: Final = frozenset(
    {RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW}
)
_NOT_THERE: Final = (RTA_MULTIPATH, RTA_VIA, RTA_ENCAP, RTA_NH_ID)
_GROUP_ROUTE4: Final = 7  # RTNLGRP_*
_GROUP_ROUTE6: Final = 11


# -- dumps -----------------------------------------------------------------------------------------------------
def _made(dest: bytes, prefix: int, table: int, kind: int, scope: int, source: bytes, metric: int) -> Route:
    """Make a route that comes with an address."""
    row = Route(dest, prefix, table, kind)
    row.scope, row.source, row.metric, row.protocol = scope, source, metric, RTPROT_KERNEL
    return row


def own_routes4(stack: NetStack) -> list[Route]:
    """The routes that come with lo's IPv4 addresses."""
    rows: list[Route] = []
    for addr, prefix in sorted(stack.lo.addresses4.items()):
        shift = 32 - prefix
        base = (int.from_bytes(addr, "big") >> shift << shift).to_bytes(4, "big")
        if base != addr:
            rows.append(_made(base, prefix, TABLE_LOCAL, RTN_LOCAL, RT_SCOPE_HOST, addr, 0))
        rows.append(
            _made(addr, 32 if base != addr else prefix, TABLE_LOCAL, RTN_LOCAL, RT_SCOPE_HOST, addr, 0)
        )
        if prefix < 31:
            last = (int.from_bytes(base, "big") | (1 << shift) - 1).to_bytes(4, "big")
            rows.append(_made(last, 32, TABLE_LOCAL, RTN_BROADCAST, RT_SCOPE_LINK, addr, 0))
    return rows


def own_routes6(stack: NetStack) -> list[Route]:
    """The routes that come with lo's IPv6 addresses."""
    rows: list[Route] = []
    for addr, prefix in stack.lo.addresses6.items():
        if addr != LOOPBACK6:
            base = (network_bits(addr, prefix) << 128 - prefix).to_bytes(16, "big")
            rows.append(_made(base, prefix, TABLE_MAIN, RTN_UNICAST, RT_SCOPE_UNIVERSE, b"", 256))
        rows.append(_made(addr, 128, TABLE_LOCAL, RTN_LOCAL, RT_SCOPE_UNIVERSE, b"", 0))
    return rows


def routes4(stack: NetStack) -> list[Route]:
    """All IPv4 routes in the order of a dump."""
    rows = own_routes4(stack) if stack.lo.is_up else []
    rows += [row for row in stack.lo.routes.rows if len(row.dest) == 4]
    rows.sort(key=_key4)
    return rows


def _key4(row: Route) -> tuple[int, bytes, int, int]:
    return row.table, row.dest, row.prefix, row.metric


def routes6(stack: NetStack) -> list[Route]:
    """All IPv6 routes in the order of a dump: the more specific before the less."""
    rows = own_routes6(stack) if stack.lo.is_up else []
    rows += [row for row in stack.lo.routes.rows if len(row.dest) == 16]
    rows.sort(key=_key6)
    return rows


def _key6(row: Route) -> tuple[int, int, int, int]:
    last = int.from_bytes(row.dest, "big") | (1 << 128 - row.prefix) - 1
    return row.table, last, -row.prefix, row.metric


def route_body(row: Route) -> bytes:
    """struct rtmsg with its attributes."""
    is_v6 = len(row.dest) == 16
    family = AF_INET6 if is_v6 else AF_INET
    table = row.table if row.table < 256 else 252  # RT_TABLE_COMPAT
    out = _RTMSG.pack(family, row.prefix, 0, row.tos, table, row.protocol, row.scope, row.kind, 0)
    out += attribute_u32(RTA_TABLE, row.table)
    if row.prefix:
        out += attribute(RTA_DST, row.dest)
    if row.metric or is_v6:
        out += attribute_u32(RTA_PRIORITY, row.metric)
    if row.metrics:
        out += attribute(RTA_METRICS, row.metrics)
    if row.source:
        out += attribute(RTA_PREFSRC, row.source)
    if row.gateway:
        out += attribute(RTA_GATEWAY, row.gateway)
    if row.has_device() or is_v6:  # the error routes of IPv6 name lo
        out += attribute_u32(RTA_OIF, LO_INDEX)
    return out + _V6_TAIL if is_v6 else out


def dump_routes(stack: NetStack, reply: Reply, family: int) -> int:
    """`ip route show table all`; programs choose among them."""
    if family in (AF_UNSPEC, AF_INET):
        for row in routes4(stack):
            reply.add(RTM_NEWROUTE, route_body(row))
    if family in (AF_UNSPEC, AF_INET6):
        for row in routes6(stack):
            reply.add(RTM_NEWROUTE, route_body(row))
    return 0


def get_route(stack: NetStack, reply: Reply, body: bytes, uid: int) -> int:
    """`ip route get`."""
    if len(body) < _RTMSG_SIZE:
        return EINVAL
    family = body[0]
    dest = attributes(body[_RTMSG_SIZE:]).get(RTA_DST, LOOPBACK4 if family == AF_INET else LOOPBACK6)
    if len(dest) != (4 if family == AF_INET else 16):
        return EINVAL
    lo = stack.lo
    try:
        source = lo.source_for(dest)
    except LinuxError as error:
        return error.errno
    is_v6 = family == AF_INET6
    is_local = lo.is_local(dest)
    added = lo.routes.lookup(dest)
    if not is_v6 and same_network(dest, LOOPBACK4, 8):
        source = LOOPBACK4
    reply.is_dump = False
    # As Linux reports a cloned route.
    table = TABLE_LOCAL if is_v6 and is_local else TABLE_MAIN
    flags = 0 if is_v6 else _RTCF_LOCAL | RTM_F_CLONED
    protocol = (added.protocol if added is not None else RTPROT_KERNEL) if is_v6 else 0
    kind = RTN_LOCAL if is_local else RTN_UNICAST
    size = len(dest) * 8
    head = (family, size, 128 if is_v6 else 0, 0, table, protocol, RT_SCOPE_UNIVERSE, kind, flags)
    out = _RTMSG.pack(*head) + attribute_u32(RTA_TABLE, table)
    out += attribute(RTA_DST, dest) + attribute_u32(RTA_OIF, LO_INDEX)
    if source != ANY4:
        out += attribute(RTA_PREFSRC, source)
    if is_v6:
        metric = added.metric if added is not None else 0
        out += attribute(RTA_SRC, bytes(16)) + attribute_u32(RTA_PRIORITY, metric) + _V6_TAIL
    else:
        out += attribute_u32(RTA_UID, uid) + attribute(RTA_CACHEINFO, bytes(32))
    reply.add(RTM_NEWROUTE, out)
    return 0


# -- changes ---------------------------------------------------------------------------------------------------
class _Request:
    """The fields of a request about a route."""

    def __init__(self, body: bytes) -> None:
        fields: tuple[int, int, int, int, int, int, int, int, int] = _RTMSG.unpack_from(body, 0)
        self.family, self.prefix, _, self.tos, table, self.protocol, self.scope, self.kind, _ = fields
        self.found: dict[int, bytes] = attributes(body[_RTMSG_SIZE:])
        self.table: int = self.number(RTA_TABLE, table) or TABLE_MAIN
        self.metric: int = self.number(RTA_PRIORITY, 0)
        self.size: int = 4 if self.family == AF_INET else 16
        self.oif: int = self.number(RTA_OIF, 0)
        self.dest: bytes = self.found.get(RTA_DST, bytes(self.size))

    def number(self, name: int, default: int) -> int:
        raw = self.found.get(name, b"")
        return _U32.unpack(raw)[0] if len(raw) == 4 else default

    def is_sound(self) -> bool:
        """Whether addresses have the size of their family."""
        if self.family not in (AF_INET, AF_INET6) or self.prefix > self.size * 8:
            return False
        gateway, source = self.found.get(RTA_GATEWAY), self.found.get(RTA_PREFSRC)
        return (
            len(self.dest) == self.size
            and (gateway is None or len(gateway) == self.size)
            and (source is None or len(source) == self.size)
        )


def change_route(stack: NetStack, reply: Reply, body: bytes, flags: int, *, is_new: bool) -> int:
    """`ip route add`, `replace`, `change`, `append`, `del`: 0, or a positive errno."""
    if len(body) < _RTMSG_SIZE:
        return EINVAL
    request = _Request(body)
    if not request.is_sound():
        return EINVAL
    if any(name in request.found for name in _NOT_THERE):
        return EOPNOTSUPP
    shift = request.size * 8 - request.prefix
    masked = (network_bits(request.dest, request.prefix) << shift).to_bytes(request.size, "big")
    if masked != request.dest:
        if request.family == AF_INET:
            reply.complaint = "Invalid prefix for given prefix length"
            return EINVAL
        request.dest = masked
    group = _GROUP_ROUTE4 if request.family == AF_INET else _GROUP_ROUTE6
    if not is_new:
        return _delete(stack, reply, request, group)
    made = Route(request.dest, request.prefix, request.table, request.kind or RTN_UNICAST)
    made.tos, made.scope, made.protocol = request.tos, request.scope, request.protocol
    made.metric = request.metric
    if request.family == AF_INET6:
        made.metric = made.metric or _METRIC6
        made.scope = RT_SCOPE_UNIVERSE
    made.gateway, made.source = request.found.get(RTA_GATEWAY, b""), request.found.get(RTA_PREFSRC, b"")
    made.metrics = request.found.get(RTA_METRICS, b"")
    errno = _check(stack, reply, request, made) or _insert(stack, made, flags)
    if errno == 0:
        reply.notices.append((group, RTM_NEWROUTE, route_body(made)))
    return errno


def _check(stack: NetStack, reply: Reply, request: _Request, made: Route) -> int:
    """0 if such a route is valid, or a positive errno (fib_create_info)."""
    lo = stack.lo
    if made.kind not in _KINDS:
        reply.complaint = "Invalid scope"
        return EINVAL
    if made.source and not lo.is_local(made.source):
        reply.complaint = "Invalid prefsrc address" if request.family == AF_INET else "Invalid source address"
        return EINVAL
    if request.oif not in (0, LO_INDEX):
        return ENODEV
    if not made.has_device():
        return 0
    if not lo.is_up:
        reply.complaint = "Device for nexthop is not up"
        return ENETDOWN
    if made.gateway:
        way = lo.routes.lookup(made.gateway)
        if not lo.is_local(made.gateway) and (way is None or way.errno()):
            reply.complaint = "Nexthop has invalid gateway"
            return ENETUNREACH
    elif not request.oif:
        return ENODEV
    return 0


def _insert(stack: NetStack, made: Route, flags: int) -> int:
    """Put a route into its table as the flags demand (fib_table_insert)."""
    rows = stack.lo.routes.rows
    own = own_routes4(stack) if len(made.dest) == 4 else own_routes6(stack)
    if any(row.is_at(made) for row in own):
        return EEXIST if not flags & NLM_F_REPLACE else EOPNOTSUPP
    places = [at for at in range(len(rows)) if rows[at].is_at(made)]
    if not places:
        if not flags & NLM_F_CREATE:
            return ENOENT
        if len(rows) >= MAX_ROUTES:
            return ENOBUFS
        rows.append(made)
        return 0
    if flags & NLM_F_EXCL:
        return EEXIST
    if flags & NLM_F_REPLACE:
        rows[places[0]] = made
        return 0
    if any(rows[at].equals(made) for at in places):
        return EEXIST
    if len(rows) >= MAX_ROUTES:
        return ENOBUFS
    rows.insert(places[len(places) - 1] + 1 if flags & NLM_F_APPEND else places[0], made)
    return 0


def _delete(stack: NetStack, reply: Reply, request: _Request, group: int) -> int:
    """Remove the first route that fits the request (fib_table_delete)."""
    rows = stack.lo.routes.rows
    best = -1
    for at in range(len(rows)):
        if _fits(request, rows[at]) and (best < 0 or rows[at].metric < rows[best].metric):
            best = at
    if best < 0:
        own = own_routes4(stack) if request.family == AF_INET else own_routes6(stack)
        return EOPNOTSUPP if any(_fits(request, row) for row in own) else ESRCH
    reply.notices.append((group, RTM_DELROUTE, route_body(rows[best])))
    del rows[best]
    return 0


def _fits(request: _Request, row: Route) -> bool:
    """Whether a request to delete fits a route: fields that it leaves out may have any value."""
    found = request.found
    if row.dest != request.dest or row.prefix != request.prefix or row.table != request.table:
        return False
    if request.metric and row.metric != request.metric:
        return False
    if found.get(RTA_GATEWAY, row.gateway) != row.gateway:
        return False
    if request.oif and (request.oif != LO_INDEX or not row.has_device()):
        return False
    if request.family == AF_INET6:
        return True
    return (
        row.tos == request.tos
        and request.kind in (0, row.kind)
        and request.scope in (RT_SCOPE_NOWHERE, row.scope)
        and request.protocol in (0, row.protocol)
        and found.get(RTA_PREFSRC, row.source) == row.source
    )
