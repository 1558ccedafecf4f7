"""The texts of /proc/net (proc(5)): functions of a network; boot puts them in place."""

from typing import Final

from cloche.abi.rtnetlink import RTN_PROHIBIT, RTN_UNREACHABLE
from cloche.abi.socket import AF_INET, AF_INET6
from cloche.abi.tcp import TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_LISTEN
from cloche.net import view_text
from cloche.net.inet_addr import ANY4, LO_INDEX, LOOPBACK6, mapped, text
from cloche.net.inet_base import InetSocket, NetStack
from cloche.net.netlink import ports_of
from cloche.net.packet import PacketSocket
from cloche.net.raw import PingSocket, RawSocket
from cloche.net.routes import TABLE_MAIN
from cloche.net.rtroute import routes4
from cloche.net.sock_diag import queues_of, state_of, unix_state
from cloche.net.tcp import TcpSocket
from cloche.net.udp import DatagramSocket, UdpSocket
from cloche.net.unix_base import LISTENING, UnixSocket, names_of
from cloche.vfs.objects import FileDescription

_TCP_HEAD: Final = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
)
_TCP6_HEAD: Final = (
    "  sl  local_address                         remote_address                        st tx_queue rx_queue"
    " tr tm->when retrnsmt   uid  timeout inode"
)
_UDP_HEAD: Final = (
    "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    " ref pointer drops"
)
_UDP6_HEAD: Final = (
    "  sl  local_address                         remote_address                        st tx_queue rx_queue"
    " tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
)


def _shown(sock: InetSocket, addr: bytes) -> str:
    if sock.family == AF_INET6:
        return text(mapped(addr) if len(addr) == 4 and any(addr) else addr.ljust(16, b"\0"))
    return text(addr[-4:])


class NetLines:
    """A table of sockets that can be long: its heading, the sockets in it, and the line of each."""

    def head(self) -> bytes:
        raise NotImplementedError

    def sockets(self, stack: NetStack) -> list[FileDescription]:
        raise NotImplementedError

    def line(self, sock: FileDescription, number: int) -> bytes:
        """The line of a socket; empty if it is not shown (any more)."""
        raise NotImplementedError


class TcpLines(NetLines):
    """/proc/net/tcp and tcp6."""

    def __init__(self, family: int) -> None:
        self.family: int = family

    def head(self) -> bytes:
        return (
            _TCP_HEAD.ljust(149).encode() + b"\n" if self.family == AF_INET else _TCP6_HEAD.encode() + b"\n"
        )

    def sockets(self, stack: NetStack) -> list[FileDescription]:
        listening: list[FileDescription] = []
        others: list[FileDescription] = []
        for sock in stack.sockets:
            if sock.family == self.family and isinstance(sock, TcpSocket):
                state = state_of(sock)
                if state == TCP_LISTEN:
                    listening.append(sock)
                elif state != TCP_CLOSE:
                    others.append(sock)
        return listening + others

    def line(self, sock: FileDescription, number: int) -> bytes:
        assert isinstance(sock, TcpSocket)
        unread, unsent = queues_of(sock)
        if sock.state == TCP_LISTEN:
            unsent = 0
        line = (
            f"{number:4d}: {_shown(sock, sock.laddr)}:{sock.lport:04X} {_shown(sock, sock.raddr)}:{sock.rport:04X} "
            f"{sock.state:02X} {unsent:08X}:{unread:08X} 00:00000000 00000000 {sock.owner_uid:5d}        0 "
            f"{sock.inode.ino} 1 0000000000000000 100 0 0 10 0"
        )
        return (line.ljust(149) if self.family == AF_INET else line).encode() + b"\n"


class GramLines(NetLines):
    """/proc/net/udp, raw, icmp and those of IPv6."""

    def __init__(self, family: int, which: str) -> None:
        self.family: int = family
        self.which: str = which

    def head(self) -> bytes:
        return (
            _UDP_HEAD.ljust(127).encode() + b"\n" if self.family == AF_INET else _UDP6_HEAD.encode() + b"\n"
        )

    def sockets(self, stack: NetStack) -> list[FileDescription]:
        found: list[FileDescription] = []
        for sock in stack.sockets:
            if sock.family != self.family:
                continue
            if self.which == "udp":
                is_shown = isinstance(sock, UdpSocket) and sock.lport != 0
            elif self.which == "icmp":
                is_shown = isinstance(sock, PingSocket)
            else:
                is_shown = isinstance(sock, RawSocket)
            if is_shown:
                found.append(sock)
        return found

    def line(self, sock: FileDescription, number: int) -> bytes:
        assert isinstance(sock, DatagramSocket)
        is_raw = self.which == "raw"
        slot = port = sock.protocol if is_raw else sock.lport
        line = (
            f"{slot:5d}: {_shown(sock, sock.laddr)}:{port:04X} {_shown(sock, sock.raddr)}:{sock.rport:04X} "
            f"{state_of(sock):02X} {0:08X}:{sock.charged:08X} 00:00000000 00000000 {sock.owner_uid:5d}        0 "
            f"{sock.inode.ino} 2 0000000000000000 {sock.drops}"
        )
        return (line.ljust(127) if self.family == AF_INET else line).encode() + b"\n"


class UnixLines(NetLines):
    """/proc/net/unix."""

    def head(self) -> bytes:
        return b"Num       RefCount Protocol Flags    Type St Inode Path\n"

    def sockets(self, stack: NetStack) -> list[FileDescription]:
        return list(names_of(stack).sockets)

    def line(self, sock: FileDescription, number: int) -> bytes:
        assert isinstance(sock, UnixSocket)
        if sock not in names_of(sock.stack).sockets:
            return b""
        flags = 0x10000 if sock.state == LISTENING else 0
        text = (
            f"{0:016x}: {2 + (sock.peer is not None):08X} 00000000 {flags:08X} {sock.kind:04X} "
            f"{_unix_shown(sock):02X} {sock.inode.ino:5d}{_unix_name(sock)}\n"
        )
        return text.encode("utf-8", "surrogateescape")


def _unix_shown(sock: UnixSocket) -> int:
    """SS_UNCONNECTED or SS_CONNECTED."""
    return 3 if unix_state(sock) == 1 else 1


def _unix_name(sock: UnixSocket) -> str:
    name = sock.name
    if name is None:
        return ""
    return " " + name.replace(b"\0", b"@").decode("utf-8", "surrogateescape")


def dev_text(stack: NetStack) -> bytes:
    """/proc/net/dev."""
    lo = stack.lo
    head = (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|"
        "bytes    packets errs drop fifo colls carrier compressed\n"
    )
    if stack.view is not None:
        return (head + view_text.dev_lines(stack.view)).encode()
    return (
        f"{head}    lo: {lo.bytes:7d} {lo.packets:7d}    0    0    0     0          0         0 "
        f"{lo.bytes:8d} {lo.packets:7d}    0    0    0     0       0          0\n"
    ).encode()


def route_text(stack: NetStack) -> bytes:
    """/proc/net/route: the routes of IPv4 but the local ones."""
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"
    out = [head]
    if stack.view is not None:
        out += view_text.route_lines(stack.view)
        return "".join([line.ljust(127) + "\n" for line in out]).encode()
    for row in routes4(stack):
        if row.table != TABLE_MAIN:
            continue
        mask = ((1 << row.prefix) - 1 << 32 - row.prefix).to_bytes(4, "big")
        flags = 1 | (2 if row.gateway else 0) | (4 if row.prefix == 32 else 0)
        flags |= 0x200 if row.kind in (RTN_UNREACHABLE, RTN_PROHIBIT) else 0  # RTF_REJECT
        device = "lo" if row.has_device() else "*"
        where = f"{text(row.dest)}\t{text(row.gateway or ANY4)}\t{flags:04X}"
        out.append(f"{device}\t{where}\t0\t0\t{row.metric}\t{text(mask)}\t0\t0\t0")
    return "".join([line.ljust(127) + "\n" for line in out]).encode()


def ipv6_route_text(stack: NetStack) -> bytes:
    """/proc/net/ipv6_route."""
    if stack.view is not None:
        return view_text.ipv6_route_text(stack.view).encode()
    zero = "0" * 32
    return (
        f"{LOOPBACK6.hex()} 80 {zero} 00 {zero} 00000100 00000001 00000000 00000001       lo\n"
        f"{LOOPBACK6.hex()} 80 {zero} 00 {zero} 00000000 00000002 00000000 80200001       lo\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
    ).encode()


def if_inet6_text(stack: NetStack) -> bytes:
    """/proc/net/if_inet6."""
    if stack.view is not None:
        return view_text.if_inet6_text(stack.view).encode()
    lo = stack.lo
    if not lo.is_up:
        return b""
    out = [
        f"{addr.hex()} {LO_INDEX:02x} {prefix:02x} {16 if addr == LOOPBACK6 else 0:02x} 80       lo\n"
        for addr, prefix in lo.addresses6.items()
    ]
    return "".join(out).encode()


def arp_text(stack: NetStack) -> bytes:
    """/proc/net/arp."""
    return b"IP address       HW type     Flags       HW address            Mask     Device\n"


def _count(stack: NetStack, family: int) -> tuple[int, int, int, int, int]:
    """Numbers of sockets: TCP in use, TCP in all, UDP, raw, and TIME_WAIT."""
    tcp = alloc = udp = raw = 0
    for sock in stack.sockets:
        if sock.family != family:
            continue
        if isinstance(sock, TcpSocket):
            alloc += 1
            tcp += sock.lport != 0
        elif isinstance(sock, UdpSocket):
            udp += sock.lport != 0
        elif isinstance(sock, RawSocket):
            raw += 1
    return tcp, alloc, udp, raw, len(stack.tcp.waiting)


def is_established(sock: InetSocket) -> bool:
    """Whether CurrEstab counts it: established, or in CLOSE_WAIT."""
    return isinstance(sock, TcpSocket) and sock.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT)


def sockstat_text(stack: NetStack) -> bytes:
    """/proc/net/sockstat."""
    tcp, alloc, udp, raw, waiting = _count(stack, AF_INET)
    alloc += _count(stack, AF_INET6)[1]
    used = len(stack.sockets) + len(names_of(stack).sockets) + len(ports_of(stack))
    return (
        f"sockets: used {used}\nTCP: inuse {tcp} orphan 0 tw {waiting} alloc {alloc} mem 0\n"
        f"UDP: inuse {udp} mem 0\nUDPLITE: inuse 0\nRAW: inuse {raw}\nFRAG: inuse 0 memory 0\n"
    ).encode()


def sockstat6_text(stack: NetStack) -> bytes:
    """/proc/net/sockstat6."""
    tcp, _alloc, udp, raw, _waiting = _count(stack, AF_INET6)
    return (
        f"TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse 0\nRAW6: inuse {raw}\nFRAG6: inuse 0 memory 0\n"
    ).encode()


def netlink_text(stack: NetStack) -> bytes:
    """/proc/net/netlink."""
    out = ["sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"]
    for (protocol, pid), sock in ports_of(stack).items():
        out.append(
            f"{0:016x} {protocol:<3d} {pid:<10d} {sock.groups:08x} {sock.queued:<8d} {0:<8d} 0     2        "
            f"0        {sock.inode.ino:<8d}\n"
        )
    return "".join(out).encode()


def packet_text(stack: NetStack) -> bytes:
    """/proc/net/packet."""
    out = ["sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"]
    for sock in stack.taps:
        if isinstance(sock, PacketSocket):
            out.append(
                f"{0:016x} {3:<6d} {sock.kind:<4d} {sock.listens_to:04x}   {sock.ifindex:<5d} 1 "
                f"{sock.charged:<6d} {sock.owner_uid:<6d} {sock.inode.ino:<6d}\n"
            )
    return "".join(out).encode()


def protocols_text(stack: NetStack) -> bytes:
    """/proc/net/protocols: the names and how many sockets."""
    out = ["protocol  size sockets  memory press maxhdr  slab module\n"]
    tcp, tcp_all, udp, raw, _tw = _count(stack, AF_INET)
    _tcp6, tcp6_all, udp6, raw6, _tw6 = _count(stack, AF_INET6)
    rows = (
        ("RAW", raw),
        ("UDP", udp),
        ("TCP", tcp_all),
        ("RAWv6", raw6),
        ("UDPv6", udp6),
        ("TCPv6", tcp6_all),
        ("UNIX", len(names_of(stack).sockets)),
        ("NETLINK", len(ports_of(stack))),
    )
    for name, count in rows:
        out.append(f"{name:<9s} 1024 {count:6d}       0   no       0   yes  kernel\n")
    return "".join(out).encode()


def _pairs(title: str, names: str, values: list[int]) -> str:
    return f"{title}: {names}\n{title}: {' '.join(str(value) for value in values)}\n"


def snmp_text(stack: NetStack) -> bytes:
    """/proc/net/snmp: the counters that exist here; the others are zero."""
    ip = (
        "Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards "
        "InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs "
        "FragFails FragCreates OutTransmits"
    )
    icmp = (
        "InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos "
        "InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors "
        "OutRateLimitGlobal OutRateLimitHost OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs "
        "OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps OutAddrMasks OutAddrMaskReps"
    )
    tcp = (
        "RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs "
        "OutSegs RetransSegs InErrs OutRsts InCsumErrors"
    )
    udp = "InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors"
    live = len([sock for sock in stack.tuples.values() if is_established(sock)])
    packets = stack.lo.packets
    counters = stack.counters
    no_ports = counters.get("UdpNoPorts", 0)
    full = counters.get("UdpRcvbufErrors", 0)
    out = _pairs("Ip", ip, [2, 64, packets, 0, 0, 0, 0, 0, packets, packets, *[0] * 10])
    out += _pairs("Icmp", icmp, [0] * 29)
    opens = counters.get("TcpActiveOpens", 0)
    out += _pairs("Tcp", tcp, [1, 200, 120000, -1, opens, opens, 0, 0, live, 0, 0, 0, 0, 0, 0])
    out += _pairs("Udp", udp, [0, no_ports, full, 0, full, 0, 0, 0, 0])
    out += _pairs("UdpLite", udp, [0] * 9)
    return out.encode()


def netstat_text(stack: NetStack) -> bytes:
    """/proc/net/netstat: the first names of each group, all zero."""
    return (
        _pairs(
            "TcpExt", "SyncookiesSent SyncookiesRecv SyncookiesFailed ListenOverflows ListenDrops", [0] * 5
        )
        + _pairs(
            "IpExt", "InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts", [0] * 6
        )
    ).encode()


def snmp6_text(stack: NetStack) -> bytes:
    """/proc/net/snmp6."""
    names = ("Ip6InReceives", "Ip6InDelivers", "Ip6OutRequests", "Udp6InDatagrams", "Udp6OutDatagrams")
    return "".join([f"{name:<32}\t0\n" for name in names]).encode()


def igmp_text(stack: NetStack) -> bytes:
    """/proc/net/igmp."""
    return (
        b"Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
        b"1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
    )


def igmp6_text(stack: NetStack) -> bytes:
    """/proc/net/igmp6."""
    return (
        b"1    lo              ff020000000000000000000000000001     1 0000000C 0\n"
        b"1    lo              ff010000000000000000000000000001     1 00000008 0\n"
    )


def nothing(stack: NetStack) -> bytes:
    """A table without entries."""
    return b""


def ptype_text(stack: NetStack) -> bytes:
    """/proc/net/ptype."""
    return b"Type Device      Function\n0800          ip_rcv\n86dd          ipv6_rcv\n"


def psched_text(stack: NetStack) -> bytes:
    """/proc/net/psched."""
    return b"000003e8 00000040 000f4240 3b9aca00\n"


class HeadOnly:
    """A table without entries, but with a heading."""

    def __init__(self, head: str) -> None:
        self.head: bytes = head.encode() + b"\n"

    def text(self, stack: NetStack) -> bytes:
        return self.head


def rt6_stats_text(stack: NetStack) -> bytes:
    """/proc/net/rt6_stats."""
    return b"0001 0001 0000 0001 0000 0000 0000\n"


def softnet_text(stack: NetStack) -> bytes:
    """/proc/net/softnet_stat: all packets are counted at one processor."""
    return (f"{stack.lo.packets & 0xFFFFFFFF:08x}" + " 00000000" * 14 + "\n").encode()


_MR_VIF: Final = "Interface      BytesIn  PktsIn  BytesOut PktsOut Flags"

FILES: Final = (
    (b"anycast6", nothing),
    (b"arp", arp_text),
    (b"dev", dev_text),
    (b"dev_mcast", nothing),
    (b"if_inet6", if_inet6_text),
    (b"igmp", igmp_text),
    (b"igmp6", igmp6_text),
    (
        b"ip6_flowlabel",
        HeadOnly("Label S Owner  Users  Linger Expires  Dst                              Opt").text,
    ),
    (b"ip6_mr_vif", HeadOnly(_MR_VIF).text),
    (b"ip_mr_cache", HeadOnly("Group    Origin   Iif     Pkts    Bytes    Wrong Oifs").text),
    (b"ip_mr_vif", HeadOnly(_MR_VIF + " Local    Remote").text),
    (b"ipv6_route", ipv6_route_text),
    (b"mcfilter", HeadOnly("Idx Device        MCA        SRC    INC    EXC").text),
    (b"netlink", netlink_text),
    (b"netstat", netstat_text),
    (b"packet", packet_text),
    (b"protocols", protocols_text),
    (b"psched", psched_text),
    (b"ptype", ptype_text),
    (b"route", route_text),
    (b"rt6_stats", rt6_stats_text),
    (b"rt_acct", nothing),
    (b"snmp", snmp_text),
    (b"softnet_stat", softnet_text),
    (b"snmp6", snmp6_text),
    (b"sockstat", sockstat_text),
    (b"sockstat6", sockstat6_text),
)

TABLES: Final[tuple[tuple[bytes, NetLines], ...]] = (
    (b"icmp", GramLines(AF_INET, "icmp")),
    (b"icmp6", GramLines(AF_INET6, "icmp")),
    (b"raw", GramLines(AF_INET, "raw")),
    (b"raw6", GramLines(AF_INET6, "raw")),
    (b"tcp", TcpLines(AF_INET)),
    (b"tcp6", TcpLines(AF_INET6)),
    (b"udp", GramLines(AF_INET, "udp")),
    (b"udp6", GramLines(AF_INET6, "udp")),
    (b"unix", UnixLines()),
)
