"""/sys: the part of sysfs(5) that programs read to learn about processors, nodes and interfaces.

Read by glibc (get_nprocs), nproc, lscpu, htop, Go, Python, node and the JVM.  Read-only.  The topology is
that of /proc/cpuinfo: one package, a core per processor, one memory node.
"""

from collections.abc import Callable
from typing import Final

from cloche.abi.magic import SYSFS_MAGIC
from cloche.fs.proc_text import cpu_list, cpu_mask_text
from cloche.kernel.accounting import MemoryFigures
from cloche.kernel.task import Container, Kernel, container_of
from cloche.vfs.objects import Context, FileSystem, Inode
from cloche.vfs.pseudo import DirEntry, GeneratedInode, PseudoFs, StaticDir, Symlink

ATTRIBUTE_BYTES: Final = 4096  # st_size of every attribute


class SysAttribute(GeneratedInode):
    """A read-only attribute with fixed contents (given without the newline)."""

    def __init__(self, fs: PseudoFs, text: str) -> None:
        super().__init__(fs, 0o444)
        self.text: bytes = text.encode() + b"\n"
        self.size = ATTRIBUTE_BYTES

    def generate(self, ctx: Context) -> bytes:
        return self.text


class SysKernelAttribute(GeneratedInode):
    """A read-only attribute that is a function of the reader's container."""

    def __init__(self, fs: PseudoFs, text: Callable[[Container], bytes]) -> None:
        super().__init__(fs, 0o444)
        self.text: Callable[[Container], bytes] = text
        self.size = ATTRIBUTE_BYTES

    def generate(self, ctx: Context) -> bytes:
        return self.text(container_of(ctx))


class Sysfs(PseudoFs):
    """The sandbox's one instance of sysfs."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__("sysfs", SYSFS_MAGIC, kernel.numbers.dev())
        self.kernel: Kernel = kernel
        self.is_filled: bool = False
        self.root: StaticDir = _Root(self)
        self.root_inode = self.root

    def fill(self) -> None:
        """Make this module's files, unless they are there."""
        if self.is_filled:
            return
        self.is_filled = True
        for path in _DIRECTORIES:
            self.directory(path)
        for path, text in _ATTRIBUTES:
            self.attribute(path, text)
        _add_cpus(self, self.kernel)
        _add_node(self, self.kernel)
        self.link("class/net/lo", "../../devices/virtual/net/lo")
        for item in _STATISTICS:
            self.attribute(f"devices/virtual/net/lo/statistics/{item}", "0")

    def directory(self, path: str) -> StaticDir:
        """The directory at `path`, made if it is not there."""
        self.fill()
        at = self.root
        for part in path.encode().split(b"/"):
            child = at.children.get(part)
            if isinstance(child, StaticDir):
                at = child
            else:
                made = StaticDir(self, 0o755)
                at.add(part, made)
                at = made
        return at

    def attribute(self, path: str, text: str) -> None:
        """Add an attribute with fixed contents."""
        head, _slash, name = path.rpartition("/")
        self.directory(head).add(name.encode(), SysAttribute(self, text))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        head, _slash, name = path.rpartition("/")
        self.directory(head).add(name.encode(), Symlink(self, target.encode()))


class _Root(StaticDir):
    """/sys, filled when it is first looked into: an idle sandbox needs none of its files."""

    def __init__(self, fs: Sysfs) -> None:
        super().__init__(fs, 0o555, ino=1)
        self.owner: Sysfs = fs

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        self.owner.fill()
        return super().lookup(ctx, name)

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        self.owner.fill()
        return super().entries(ctx, start)

    def refresh(self, ctx: Context) -> None:
        self.owner.fill()  # its number of links counts directories


def sysfs(kernel: Kernel) -> FileSystem:
    """The sandbox's sysfs, made at the first call."""
    known = kernel.file_systems.sysfs
    if known is None:
        known = kernel.file_systems.sysfs = Sysfs(kernel)
    return known


def _add_cpus(fs: Sysfs, kernel: Kernel) -> None:
    """devices/system/cpu."""
    base = "devices/system/cpu"
    count = kernel.cpu_count
    everyone = cpu_list(kernel.cpu_mask)
    for name in ("online", "possible", "present", "enabled"):
        fs.attribute(f"{base}/{name}", everyone)
    fs.attribute(f"{base}/offline", "")
    fs.attribute(f"{base}/isolated", "")
    fs.attribute(f"{base}/kernel_max", "8191")
    fs.attribute(f"{base}/smt/active", "0")
    fs.attribute(f"{base}/smt/control", "notsupported")
    cache_kib = _cache_kib(kernel)
    for cpu in range(count):
        own, all_mask = cpu_mask_text(1 << cpu, count), cpu_mask_text(kernel.cpu_mask, count)
        topology = f"{base}/cpu{cpu}/topology"
        rows = (
            ("cluster_cpus", own),
            ("cluster_cpus_list", str(cpu)),
            ("cluster_id", "65535"),
            ("core_cpus", own),
            ("core_cpus_list", str(cpu)),
            ("core_id", str(cpu)),
            ("core_siblings", all_mask),
            ("core_siblings_list", everyone),
            ("die_cpus", all_mask),
            ("die_cpus_list", everyone),
            ("die_id", "0"),
            ("package_cpus", all_mask),
            ("package_cpus_list", everyone),
            ("physical_package_id", "0"),
            ("thread_siblings", own),
            ("thread_siblings_list", str(cpu)),
        )
        for name, text in rows:
            fs.attribute(f"{topology}/{name}", text)
        if cpu:
            fs.attribute(f"{base}/cpu{cpu}/online", "1")
        if cache_kib:
            _add_cache(fs, f"{base}/cpu{cpu}/cache/index0", cpu, own, cache_kib)
        fs.link(f"{base}/cpu{cpu}/node0", "../../node/node0")


def _cache_kib(kernel: Kernel) -> int:
    """The cache size that /proc/cpuinfo states, in KiB; 0 if it does not."""
    for line in kernel.facts.cpuinfo.split(b"\n"):
        if line.startswith(b"cache size"):
            words = line.split(b":", 1)[-1].split()
            return int(words[0]) if words and words[0].isdigit() else 0
    return 0


def _add_cache(fs: Sysfs, path: str, cpu: int, mask: str, size_kib: int) -> None:
    rows = (
        ("coherency_line_size", "64"),
        ("id", str(cpu)),
        ("level", "2"),
        ("shared_cpu_list", str(cpu)),
        ("shared_cpu_map", mask),
        ("size", f"{size_kib}K"),
        ("type", "Unified"),
    )
    for name, text in rows:
        fs.attribute(f"{path}/{name}", text)


def _node_meminfo(container: Container) -> bytes:
    memory = MemoryFigures(container)
    rows = (("MemTotal", memory.total), ("MemFree", memory.free), ("MemUsed", memory.total - memory.free))
    return "".join([f"Node 0 {name + ':':<15}{value // 1024:8d} kB\n" for name, value in rows]).encode()


def _add_node(fs: Sysfs, kernel: Kernel) -> None:
    """devices/system/node: one node with all processors and memory."""
    base = "devices/system/node"
    for name in ("online", "possible", "has_cpu", "has_memory", "has_normal_memory"):
        fs.attribute(f"{base}/{name}", "0")
    fs.attribute(f"{base}/node0/cpulist", cpu_list(kernel.cpu_mask))
    fs.attribute(f"{base}/node0/cpumap", cpu_mask_text(kernel.cpu_mask, kernel.cpu_count))
    fs.attribute(f"{base}/node0/distance", "10")
    fs.directory(f"{base}/node0").add(b"meminfo", SysKernelAttribute(fs, _node_meminfo))
    for cpu in range(kernel.cpu_count):
        fs.link(f"{base}/node0/cpu{cpu}", f"../../cpu/cpu{cpu}")


_DIRECTORIES: Final = (
    "block",
    "bus/cpu/devices",
    "class/block",
    "class/dmi",
    "class/drm",
    "class/hwmon",
    "class/mem",
    "class/misc",
    "class/net",
    "class/power_supply",
    "class/thermal",
    "class/tty",
    "dev/block",
    "dev/char",
    "devices/system/cpu",
    "devices/virtual/net",
    "firmware",
    "fs/cgroup",
    "kernel/mm/hugepages",
    "module",
    "power",
)
_STATISTICS: Final = (
    "collisions", "multicast", "rx_bytes", "rx_compressed", "rx_crc_errors", "rx_dropped", "rx_errors",
    "rx_fifo_errors", "rx_frame_errors", "rx_length_errors", "rx_missed_errors", "rx_nohandler", "rx_over_errors",
    "rx_packets", "tx_aborted_errors", "tx_bytes", "tx_carrier_errors", "tx_compressed", "tx_dropped", "tx_errors",
    "tx_fifo_errors", "tx_heartbeat_errors", "tx_packets", "tx_window_errors",
)  # fmt: skip
_ATTRIBUTES: Final = (
    ("devices/system/clocksource/clocksource0/available_clocksource", "tsc "),
    ("devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
    ("devices/virtual/net/lo/address", "00:00:00:00:00:00"),
    ("devices/virtual/net/lo/broadcast", "00:00:00:00:00:00"),
    ("devices/virtual/net/lo/addr_len", "6"),
    ("devices/virtual/net/lo/carrier", "1"),
    ("devices/virtual/net/lo/dev_id", "0x0"),
    ("devices/virtual/net/lo/flags", "0x9"),
    ("devices/virtual/net/lo/ifindex", "1"),
    ("devices/virtual/net/lo/iflink", "1"),
    ("devices/virtual/net/lo/mtu", "65536"),
    ("devices/virtual/net/lo/operstate", "unknown"),
    ("devices/virtual/net/lo/tx_queue_len", "1000"),
    ("devices/virtual/net/lo/type", "772"),
    ("kernel/address_bits", "64"),
    ("kernel/cpu_byteorder", "little"),
    ("kernel/fscaps", "1"),
    ("kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never"),
    ("kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
    ("kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152"),
    ("kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force"),
    ("kernel/mm/transparent_hugepage/use_zero_page", "1"),
    ("kernel/uevent_seqnum", "0"),
)
