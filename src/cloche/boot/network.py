"""Puts the network of a sandbox into its file systems: /proc/net, /proc/sys/net, /sys/class/net/lo.

The packages fs and net do not know each other; `install_network` is called once, after `proc_fs` can be built.
"""

from collections.abc import Callable
from typing import Final

from cloche.abi.errno import EINVAL, ENOENT
from cloche.boot.network_defaults import DEFAULTS
from cloche.fs.pieces import PiecedDescription
from cloche.fs.proc import proc_net, proc_sysctl
from cloche.fs.proc_sys import ProcSys, SysctlDir
from cloche.kernel.task import Kernel
from cloche.net.inet_base import NetStack, stack_for
from cloche.net.parameters import CONGESTION, NUMBERS
from cloche.net.proc_text import FILES, TABLES, NetLines, nothing
from cloche.vfs.objects import Context, FileDescription, Inode, Path
from cloche.vfs.pseudo import DirEntry, GeneratedInode, PseudoFs, parse_digits

NetText = Callable[[NetStack], bytes]
_LINES: Final = 64  # sockets in one piece of a table

# Parameters that have no effect here, with the values of a fresh network namespace.
_U32: Final = 0xFFFFFFFF
_CONSTANTS: Final = (
    (b"net/core/rmem_default", b"212992"),
    (b"net/core/wmem_default", b"212992"),
    (b"net/core/rmem_max", b"4194304"),
    (b"net/core/wmem_max", b"4194304"),
    (b"net/core/optmem_max", b"131072"),
    (b"net/core/netdev_max_backlog", b"1000"),
    (b"net/core/default_qdisc", b"pfifo_fast"),
    (b"net/ipv4/ip_forward", b"0"),
    (b"net/ipv4/ip_local_reserved_ports", b""),
    (b"net/ipv4/tcp_abort_on_overflow", b"0"),
    (b"net/ipv4/tcp_available_congestion_control", b"reno cubic"),
    (b"net/ipv4/tcp_allowed_congestion_control", b"reno cubic"),
    (b"net/ipv4/tcp_ecn", b"2"),
    (b"net/ipv4/tcp_fastopen", b"1"),
    (b"net/ipv4/tcp_max_syn_backlog", b"512"),
    (b"net/ipv4/tcp_mem", b"46728\t62304\t93456"),
    (b"net/ipv4/tcp_rmem", b"4096\t131072\t6291456"),
    (b"net/ipv4/tcp_wmem", b"4096\t16384\t4194304"),
    (b"net/ipv4/tcp_retries2", b"15"),
    (b"net/ipv4/tcp_sack", b"1"),
    (b"net/ipv4/tcp_syncookies", b"1"),
    (b"net/ipv4/tcp_timestamps", b"1"),
    (b"net/ipv4/tcp_tw_reuse", b"2"),
    (b"net/ipv4/tcp_window_scaling", b"1"),
    (b"net/ipv4/udp_mem", b"93456\t124608\t186912"),
    (b"net/ipv4/conf/all/rp_filter", b"0"),
    (b"net/ipv4/conf/lo/rp_filter", b"0"),
    (b"net/ipv4/conf/all/forwarding", b"0"),
    (b"net/ipv6/conf/all/disable_ipv6", b"0"),
    (b"net/ipv6/conf/default/disable_ipv6", b"0"),
    (b"net/ipv6/conf/lo/disable_ipv6", b"0"),
    (b"net/ipv6/conf/all/forwarding", b"0"),
)


class NetFile(GeneratedInode):
    """A file of /proc/net, about the network that its reader is in."""

    def __init__(self, fs: PseudoFs, kernel: Kernel, text: NetText) -> None:
        super().__init__(fs, 0o444)
        self.kernel: Kernel = kernel
        self.text: NetText = text
        self.is_by_segment = True

    def generate(self, ctx: Context) -> bytes:
        return self.text(stack_for(ctx))


class NetTable(NetFile):
    """A file of /proc/net that can be long."""

    def __init__(self, fs: PseudoFs, kernel: Kernel, lines: NetLines) -> None:
        super().__init__(fs, kernel, nothing)
        self.lines: NetLines = lines

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return NetTableDescription(path, self, flags, self.lines)


class NetTableDescription(PiecedDescription):
    """An open table of sockets."""

    def __init__(self, path: Path, inode: NetTable, flags: int, lines: NetLines) -> None:
        super().__init__(path, inode, flags)
        self.lines: NetLines = lines
        self.sockets: list[FileDescription] = []
        self.index: int = -1

    def restart(self, ctx: Context) -> None:
        self.sockets = self.lines.sockets(stack_for(ctx))
        self.index = -1

    def more(self, ctx: Context) -> bytes | None:
        head = b""
        if self.index < 0:
            self.index = 0
            head = self.lines.head()
        elif self.index >= len(self.sockets):
            self.sockets = []
            return None
        begin = self.index
        self.index += _LINES
        shown = self.sockets[begin : self.index]
        return head + b"".join([self.lines.line(sock, begin + at) for at, sock in enumerate(shown)])


class Number:
    """A parameter that has an effect."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel: Kernel = kernel
        self.name: str = name

    def produce(self, ctx: Context) -> bytes:
        return b"%d\n" % stack_for(ctx).parameters.numbers[self.name]

    def consume(self, ctx: Context, data: bytes) -> int:
        word = data.strip()
        if not word.removeprefix(b"-").isdigit() or len(word) > 11:
            return -EINVAL
        if not stack_for(ctx).parameters.set_number(self.name, int(word)):
            return -EINVAL
        return len(data)


class Congestion:
    """net.ipv4.tcp_congestion_control: what new TCP sockets begin with."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel

    def produce(self, ctx: Context) -> bytes:
        return stack_for(ctx).parameters.congestion + b"\n"

    def consume(self, ctx: Context, data: bytes) -> int:
        word = data.strip()
        if word not in CONGESTION:
            return -ENOENT
        stack_for(ctx).parameters.congestion = word
        return len(data)


class PortRange:
    """net.ipv4.ip_local_port_range."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel

    def produce(self, ctx: Context) -> bytes:
        return b"%d\t%d\n" % (stack_for(ctx).tcp.low, stack_for(ctx).tcp.high)

    def consume(self, ctx: Context, data: bytes) -> int:
        words = data.split()
        if len(words) != 2:
            return -EINVAL
        low, high = parse_digits(words[0]), parse_digits(words[1])
        if not 0 < low <= high <= 65535 or low < stack_for(ctx).unprivileged_port:
            return -EINVAL
        stack = stack_for(ctx)
        for table in (stack.tcp, stack.udp, stack.udplite):
            table.low, table.high = low, high
        return len(data)


class FirstPort:
    """net.ipv4.ip_unprivileged_port_start."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel

    def produce(self, ctx: Context) -> bytes:
        return b"%d\n" % stack_for(ctx).unprivileged_port

    def consume(self, ctx: Context, data: bytes) -> int:
        port = parse_digits(data.strip())
        if port > 65535 or port > stack_for(ctx).tcp.low:
            return -EINVAL
        stack_for(ctx).unprivileged_port = port
        return len(data)


class PingGroups:
    """net.ipv4.ping_group_range."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel

    def produce(self, ctx: Context) -> bytes:
        return b"%d\t%d\n" % (stack_for(ctx).ping_low, stack_for(ctx).ping_high)

    def consume(self, ctx: Context, data: bytes) -> int:
        words = data.split()
        if len(words) != 2:
            return -EINVAL
        low, high = parse_digits(words[0]), parse_digits(words[1])
        if low >= _U32 or high >= _U32:
            return -EINVAL
        stack_for(ctx).ping_low, stack_for(ctx).ping_high = low, high
        return len(data)


class NetSysctl(SysctlDir):
    """/proc/sys/net, filled when it is first looked into: it has hundreds of files, and few sandboxes read one."""

    def __init__(self, tree: ProcSys) -> None:
        super().__init__(tree.fs)
        self.tree: ProcSys = tree
        self.is_filled: bool = False

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        self.fill()
        return super().lookup(ctx, name)

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        self.fill()
        return super().entries(ctx, start)

    def fill(self) -> None:
        """Make every file."""
        if self.is_filled:
            return
        self.is_filled = True
        tree = self.tree
        kernel = tree.kernel
        for path, value in _CONSTANTS:
            tree.add_constant(path, value)
        taken = {path for path, _value in _CONSTANTS}
        for folders, words in DEFAULTS:
            for word in words.split():
                name, _equals, text = word.partition("=")
                for folder in folders:
                    place = f"net/{folder}/{name}".encode()
                    if place not in taken:
                        tree.add_constant(place, text.encode())
        for parameter in NUMBERS:
            number = Number(kernel, parameter)
            tree.add_file(f"net/{parameter}".encode(), number.produce, number.consume, 0o644)
        congestion = Congestion(kernel)
        path = b"net/ipv4/tcp_congestion_control"
        tree.add_file(path, congestion.produce, congestion.consume, 0o644)
        ports = PortRange(kernel)
        tree.add_file(b"net/ipv4/ip_local_port_range", ports.produce, ports.consume, 0o644)
        first = FirstPort(kernel)
        tree.add_file(b"net/ipv4/ip_unprivileged_port_start", first.produce, first.consume, 0o644)
        groups = PingGroups(kernel)
        tree.add_file(b"net/ipv4/ping_group_range", groups.produce, groups.consume, 0o644)


def install_network(kernel: Kernel) -> None:
    """Add the files of the network to proc."""
    net = proc_net(kernel)
    fs = net.fs
    assert isinstance(fs, PseudoFs)
    for name, function in FILES:
        net.add(name, NetFile(fs, kernel, function))
    for name, lines in TABLES:
        net.add(name, NetTable(fs, kernel, lines))
    tree = proc_sysctl(kernel)
    tree.root.add(b"net", NetSysctl(tree))
