"""The files of /proc about the whole system (proc(5)): processors, memory, load, counters.

Each is a function of the kernel. Figures are those of the sandbox; those that only the host has (interrupts, disks,
paging) are shown as empty or 0.
"""

from collections.abc import Callable
from typing import Final

from cloche.kernel import uts
from cloche.kernel.accounting import (
    MemoryFigures,
    all_cpu_ns,
    load_average,
    running_count,
    uptime_ns,
)
from cloche.kernel.pid_namespace import PidNamespace, pid_in
from cloche.kernel.task import Container, Kernel, Task
from cloche.vfs.mount import filesystem_kinds

NS_PER_TICK: Final = 10_000_000


def cpuinfo_text(container: Container) -> bytes:
    """/proc/cpuinfo: the host's, cut and renumbered to the sandbox's processors."""
    kernel = container.kernel
    blocks = [block for block in kernel.facts.cpuinfo.split(b"\n\n") if block.strip()]
    count = kernel.cpu_count
    if not blocks:
        blocks = [b"processor\t: 0\nvendor_id\t: unknown\nmodel name\t: unknown"]
    if len(blocks) == count:
        return b"".join([block.strip(b"\n") + b"\n\n" for block in blocks])
    shown: list[bytes] = []
    for index in range(count):
        block = blocks[index] if index < len(blocks) else blocks[0]
        shown.append(_renumbered(block, index, count))
    return b"".join(shown)


def _renumbered(block: bytes, index: int, count: int) -> bytes:
    """One processor's block as the `index`-th of `count` cores of a single package."""
    values = {
        b"processor": index,
        b"physical id": 0,
        b"siblings": count,
        b"core id": index,
        b"cpu cores": count,
        b"apicid": index,
        b"initial apicid": index,
    }
    lines: list[bytes] = []
    for line in block.strip(b"\n").split(b"\n"):
        key = line.split(b":", 1)[0].rstrip()
        value = values.get(key)
        lines.append(line if value is None else line.split(b":", 1)[0] + b": %d" % value)
    return b"\n".join(lines) + b"\n\n"


def meminfo_text(container: Container) -> bytes:
    """/proc/meminfo: the container's limit, or the host's size at boot, less what guests use."""
    memory = MemoryFigures(container)
    rows = (
        ("MemTotal", memory.total),
        ("MemFree", memory.free),
        ("MemAvailable", memory.free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", memory.used),
        ("Inactive", 0),
        ("Active(anon)", memory.used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", memory.used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("SecPageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", memory.total // 2),
        ("Committed_AS", memory.used),
        ("VmallocTotal", 34359738367 * 1024),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("AnonHugePages", 0),
        ("ShmemHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FileHugePages", 0),
        ("FilePmdMapped", 0),
    )
    text = "".join([f"{name + ':':<16}{value // 1024:8d} kB\n" for name, value in rows])
    pages = ("HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp")
    text += "".join([f"{name + ':':<16}{0:8d}\n" for name in pages])
    text += f"{'Hugepagesize:':<16}{2048:8d} kB\n{'Hugetlb:':<16}{0:8d} kB\n"
    return text.encode()


def stat_text(container: Container) -> bytes:
    """/proc/stat: time by processor as an equal share of the whole."""
    kernel = container.kernel
    user_ns, system_ns = all_cpu_ns(container)
    count = kernel.cpu_count
    user, system = user_ns // NS_PER_TICK, system_ns // NS_PER_TICK
    idle = max(uptime_ns(kernel) * count // NS_PER_TICK - user - system, 0)
    lines = [f"cpu  {user} 0 {system} {idle} 0 0 0 0 0 0"]
    for cpu in range(count):
        lines.append(f"cpu{cpu} {user // count} 0 {system // count} {idle // count} 0 0 0 0 0 0")
    lines += [
        "intr 0",
        f"ctxt {kernel.total_syscalls}",
        f"btime {kernel.boot_real_ns // 1_000_000_000}",
        f"processes {kernel.total_forks + 1}",
        f"procs_running {max(running_count(kernel), 1)}",
        "procs_blocked 0",
        "softirq 0 0 0 0 0 0 0 0 0 0 0",
    ]
    return ("\n".join(lines) + "\n").encode()


def uptime_text(container: Container) -> bytes:
    """/proc/uptime."""
    kernel = container.kernel
    up = uptime_ns(kernel)
    user_ns, system_ns = all_cpu_ns(container)
    idle = max(up * kernel.cpu_count - user_ns - system_ns, 0)
    return f"{up // 10**9}.{up // 10**7 % 100:02d} {idle // 10**9}.{idle // 10**7 % 100:02d}\n".encode()


def loadavg_text(kernel: Kernel, reader: Task | None) -> bytes:
    """/proc/loadavg."""
    ns = reader.pid_ns if reader is not None else None
    one, five, fifteen = load_average(kernel, reader)
    running = max(running_count(kernel), 1)
    newest = max((ns.next_pid if ns is not None else kernel.next_pid) - 1, 1)
    return f"{one:.2f} {five:.2f} {fifteen:.2f} {running}/{len(kernel.tasks)} {newest}\n".encode()


def vmstat_text(container: Container) -> bytes:
    """/proc/vmstat, the counters that tools look for."""
    memory = MemoryFigures(container)
    rows = (
        ("nr_free_pages", memory.free // 4096),
        ("nr_inactive_anon", 0),
        ("nr_active_anon", memory.used // 4096),
        ("nr_inactive_file", 0),
        ("nr_active_file", 0),
        ("nr_unevictable", 0),
        ("nr_mlock", 0),
        ("nr_anon_pages", memory.used // 4096),
        ("nr_mapped", 0),
        ("nr_file_pages", 0),
        ("nr_dirty", 0),
        ("nr_writeback", 0),
        ("nr_shmem", 0),
        ("nr_slab_reclaimable", 0),
        ("nr_slab_unreclaimable", 0),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgfault", 0),
        ("pgmajfault", 0),
        ("oom_kill", container.oom_kills),
    )
    return "".join([f"{name} {value}\n" for name, value in rows]).encode()


def interrupts_text(container: Container) -> bytes:
    """/proc/interrupts: the header alone."""
    kernel = container.kernel
    return ("           " + "".join([f"CPU{cpu:<8}" for cpu in range(kernel.cpu_count)]) + "\n").encode()


def softirqs_text(container: Container) -> bytes:
    """/proc/softirqs: all zero."""
    kernel = container.kernel
    head = "                    " + "".join([f"CPU{cpu:<8}" for cpu in range(kernel.cpu_count)]) + "\n"
    names = ("HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU")
    zeros = "".join([f" {0:10d}" for _cpu in range(kernel.cpu_count)])
    return (head + "".join([f"{name:>12}:{zeros}\n" for name in names])).encode()


def pid_shower(ns: PidNamespace | None) -> Callable[[int], int]:
    """A function from kernel pids to those of a namespace, 0 if it is not visible there."""

    def shown(pid: int) -> int:
        return pid_in(ns, pid)

    return shown


def all_filesystems() -> list[tuple[bytes, bool]]:
    """The types that mount(2) can make, and those that exist without being mountable: (name, whether it needs a
    device).
    """
    return [*filesystem_kinds(), (b"overlay", False), (b"sockfs", False), (b"pipefs", False)]


def filesystems_text(container: Container) -> bytes:
    """/proc/filesystems."""
    lines = [
        (b"\t" if needs_device else b"nodev\t") + kind + b"\n" for kind, needs_device in all_filesystems()
    ]
    return b"".join(lines)


DEVICES: Final = (
    b"Character devices:\n  1 mem\n  4 tty\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n 10 misc\n"
    b"128 ptm\n136 pts\n\nBlock devices:\n"
)
SWAPS: Final = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
PARTITIONS: Final = b"major minor  #blocks  name\n\n"
CGROUPS: Final = (
    b"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n"
)
TTY_DRIVERS: Final = (
    b"/dev/tty             /dev/tty        5       0 system:/dev/tty\n"
    b"/dev/console         /dev/console    5       1 system:console\n"
    b"/dev/ptmx            /dev/ptmx       5       2 system\n"
    b"pty_slave            /dev/pts      136 0-1048575 pty:slave\n"
    b"pty_master           /dev/ptm      128 0-1048575 pty:master\n"
)
EXECDOMAINS: Final = b"0-0\tLinux           \t[kernel]\n"
VERSION: Final = uts.PROC_VERSION
