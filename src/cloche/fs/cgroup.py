"""A read-only cgroup2 that shows the sandbox as its root: the limits and usage that runtimes look for.

Go, the JVM, node and systemd's libraries read memory.max, cpu.max and pids.max to size themselves
(Documentation/admin-guide/cgroup-v2).  Groups cannot be made: mkdir gives EPERM, as in a container.
"""

from typing import Final

from cloche.abi.magic import CGROUP2_SUPER_MAGIC
from cloche.kernel.accounting import all_cpu_ns, guest_rss_bytes
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.task import Container, Kernel, container_of
from cloche.vfs.objects import Context, FileSystem
from cloche.vfs.pseudo import GeneratedInode, PseudoFs, StaticDir

CPU_PERIOD_US: Final = 100_000


class CgroupFile(GeneratedInode):
    """An interface file, told apart by its name."""

    def __init__(self, fs: PseudoFs, name: str) -> None:
        super().__init__(fs, 0o444)
        self.name: str = name

    def generate(self, ctx: Context) -> bytes:
        return cgroup_text(container_of(ctx), self.name).encode()


def cgroup_text(container: Container, name: str) -> str:
    """The contents of one interface file of a container's group."""
    kernel, ns = container.kernel, container.pid_ns
    if name == "cgroup.procs":
        pids = [
            pid_in(ns, pid)
            for pid, group in kernel.groups.items()
            if group.has_guest_code and group.container is container
        ]
        return "".join([f"{pid}\n" for pid in sorted(pids)])
    if name == "cgroup.threads":
        tids = [
            pid_in(ns, tid)
            for tid, task in kernel.tasks.items()
            if task.group.has_guest_code and task.group.container is container
        ]
        return "".join([f"{tid}\n" for tid in sorted(tids)])
    if name == "memory.max":
        return f"{container.memory_limit}\n" if container.memory_limit > 0 else "max\n"
    if name == "memory.current":
        return f"{guest_rss_bytes(container)}\n"
    if name == "memory.stat":
        return f"anon {guest_rss_bytes(container)}\nfile 0\ninactive_file 0\nactive_file 0\n"
    if name == "memory.events":
        kills = container.oom_kills
        return f"low 0\nhigh 0\nmax {kills}\noom {kills}\noom_kill {kills}\noom_group_kill 0\n"
    if name == "pids.max":
        return f"{container.max_tasks}\n"
    if name == "pids.current":
        return f"{container.task_count}\n"
    if name == "cpu.max":
        quota = str(int(container.cpu_limit * CPU_PERIOD_US)) if container.cpu_limit > 0 else "max"
        return f"{quota} {CPU_PERIOD_US}\n"
    if name == "cpu.stat":
        user, system = all_cpu_ns(container)
        total = user + system
        return f"usage_usec {total // 1000}\nuser_usec {user // 1000}\nsystem_usec {system // 1000}\n"
    if name in ("cpuset.cpus.effective", "cpuset.cpus"):
        return f"0-{kernel.cpu_count - 1}\n" if kernel.cpu_count > 1 else "0\n"
    return _FIXED[name]


_FIXED: Final[dict[str, str]] = {
    "cgroup.controllers": "cpuset cpu memory pids\n",
    "cgroup.subtree_control": "",
    "cgroup.type": "domain\n",
    "cgroup.events": "populated 1\nfrozen 0\n",
    "cgroup.stat": "nr_descendants 0\nnr_dying_descendants 0\n",
    "cpu.weight": "100\n",
    "memory.high": "max\n",
    "memory.low": "0\n",
    "memory.min": "0\n",
    "memory.swap.max": "0\n",
    "memory.swap.current": "0\n",
    "cpuset.mems.effective": "0\n",
}
_LIVE: Final = (
    "cgroup.procs",
    "cgroup.threads",
    "memory.max",
    "memory.current",
    "memory.stat",
    "memory.events",
    "pids.max",
    "pids.current",
    "cpu.max",
    "cpu.stat",
    "cpuset.cpus",
    "cpuset.cpus.effective",
)


def cgroup_fs(kernel: Kernel) -> FileSystem:
    """The sandbox's cgroup2, built at the first call."""
    known = kernel.file_systems.cgroup
    if isinstance(known, PseudoFs):
        return known
    fs = PseudoFs("cgroup2", CGROUP2_SUPER_MAGIC, kernel.numbers.dev())
    kernel.file_systems.cgroup = fs
    root = StaticDir(fs, 0o555, ino=1)
    for name in (*_LIVE, *_FIXED):
        root.add(name.encode(), CgroupFile(fs, name))
    fs.root_inode = root
    return fs
