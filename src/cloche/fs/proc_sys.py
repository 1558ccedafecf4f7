"""/proc/sys: the parameters of sysctl(8), as a table (proc(5), Documentation/admin-guide/sysctl).

Only parameters that have an effect can be written (names of the host, pid_max, ptrace_scope …); the others are
read-only, so that no write succeeds without effect. As in Linux, root's capabilities do not override the mode of a
parameter. Other packages add their own directories with `ProcSys.add` (net, SysV IPC).
"""

import os
from typing import Final

from cloche.abi.capability import (
    CAP_CHECKPOINT_RESTORE,
    CAP_LAST_CAP,
    CAP_NET_ADMIN,
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    CAP_SYS_RESOURCE,
)
from cloche.abi.errno import EACCES, EINVAL, EPERM, LinuxError
from cloche.abi.limits import NGROUPS_MAX
from cloche.arch.machine import MACHINE
from cloche.fs.aio import AIO_MAX_NR
from cloche.kernel import uts
from cloche.kernel.host_facts import HostFacts
from cloche.kernel.ipc.msg import MSGMAX, MSGMNB, MSGMNI
from cloche.kernel.ipc.sem import SEMMNI, SEMMNS, SEMMSL, SEMOPM
from cloche.kernel.ipc.shm import SHMALL, SHMMAX, SHMMNI
from cloche.kernel.namespaces import MAX_NAMESPACES, UtsNamespace
from cloche.kernel.parts import SysctlTree
from cloche.kernel.task import Kernel, Task, container_of
from cloche.kernel.unshare import KINDS
from cloche.vfs.mount import MAX_MOUNTS
from cloche.vfs.objects import Context, FileDescription, Inode, Path
from cloche.vfs.pseudo import (
    Consumer,
    DirEntry,
    GeneratedDescription,
    GeneratedInode,
    Producer,
    PseudoFs,
    StaticDir,
    parse_int,
)


class SysctlFile(GeneratedInode):
    """A parameter: a producer and, for the writable ones, a consumer."""

    def __init__(
        self, fs: PseudoFs, producer: Producer, consumer: "Consumer | None" = None, mode: int = 0
    ) -> None:
        super().__init__(fs, mode if mode else (0o644 if consumer is not None else 0o444))
        self.producer: Producer = producer
        self.consumer: Consumer | None = consumer
        self.is_net: bool = False  # of a network namespace, whose owner counts as root (net_ctl_permissions)
        self.is_mode_fixed = True
        self.has_end = True

    def permission(self, ctx: Context, mask: int) -> bool:
        """Owner and group bits for root only, no override (sysctl_perm)."""
        mode = self.mode
        if ctx.creds.euid == 0 or (self.is_net and _owns_network(ctx)):
            mode >>= 6
        elif ctx.creds.egid == 0 or 0 in ctx.creds.groups:
            mode >>= 3
        return mask & ~mode & 7 == 0

    def generate(self, ctx: Context) -> bytes:
        return self.producer(ctx)

    def store(self, ctx: Context, data: bytes, offset: int) -> int:
        consumer = self.consumer
        if consumer is None:
            return -EACCES
        if offset != 0:
            return len(data)  # sysctl_writes_strict: only a write at 0 counts
        return consumer(ctx, data)

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return GeneratedDescription(path, self, flags)

    def show(self, text: bytes) -> None:
        """From now on the parameter has this value."""
        self.producer = _Constant(text).produce


def _owns_network(ctx: Context) -> bool:
    return isinstance(ctx, Task) and ctx.creds.capable_in(ctx.ns.net.user_ns, CAP_NET_ADMIN)


class SysctlDir(StaticDir):
    """A directory of parameters; nlink is 1, as in Linux."""

    def __init__(self, fs: PseudoFs) -> None:
        super().__init__(fs, 0o555)

    def refresh(self, ctx: Context) -> None:
        self.nlink = 1


class _Root(SysctlDir):
    """/proc/sys, filled when it is first looked into: an idle sandbox needs none of its files."""

    def __init__(self, tree: "ProcSys") -> None:
        super().__init__(tree.fs)
        self.tree: ProcSys = tree

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        self.tree.fill()
        return super().lookup(ctx, name)

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        self.tree.fill()
        return super().entries(ctx, start)


class _Constant:
    """The producer of a fixed value."""

    def __init__(self, text: bytes) -> None:
        self.text: bytes = text

    def produce(self, ctx: Context) -> bytes:
        return self.text


class _NamespaceLimit:
    """user/max_KIND_namespaces."""

    def __init__(self, kernel: Kernel, kind: str) -> None:
        self.kernel: Kernel = kernel
        self.kind: str = kind

    def text(self, ctx: Context) -> bytes:
        return b"%d\n" % self.kernel.namespace_limits.quota(self.kind).limit

    def store(self, ctx: Context, data: bytes) -> int:
        """Set a limit, which stays below the sandbox's own maximum."""
        if not ctx.creds.capable(CAP_SYS_RESOURCE):
            return -EPERM
        value = parse_int(data)
        if value < 0:
            return -EINVAL
        self.kernel.namespace_limits.quota(self.kind).limit = min(value, MAX_NAMESPACES)
        return len(data)


class ProcSys(SysctlTree):
    """Builds and holds the tree of /proc/sys."""

    def __init__(self, fs: PseudoFs, kernel: Kernel) -> None:
        self.fs: PseudoFs = fs
        self.kernel: Kernel = kernel
        self.is_filled: bool = False
        self.root: SysctlDir = _Root(self)

    def fill(self) -> None:
        """Make this module's parameters, unless they are there."""
        if self.is_filled:
            return
        self.is_filled = True
        for name, value in _CONSTANTS:
            self.add_constant(name, value)
        self._add_live()

    def directory(self, path: bytes) -> StaticDir:
        """The directory at `path` ("kernel/random"), made if it is not there."""
        self.fill()  # what others add comes later, and replaces what has the same name
        at: StaticDir = self.root
        for part in path.split(b"/"):
            if not part:
                continue
            child = at.children.get(part)
            if isinstance(child, StaticDir):
                at = child
            else:
                made = SysctlDir(self.fs)
                at.add(part, made)
                at = made
        return at

    def add(self, path: bytes, inode: Inode) -> None:
        """Put an inode at `path`, e.g. b"net/core/somaxconn"."""
        head, _slash, name = path.rpartition(b"/")
        if isinstance(inode, SysctlFile):
            inode.is_net = path.startswith(b"net/")
        self.directory(head).add(name, inode)

    def add_constant(self, path: bytes, text: bytes) -> None:
        """A read-only parameter; `text` without the newline."""
        self.add(path, SysctlFile(self.fs, _Constant(text + b"\n").produce))

    def add_file(
        self, path: bytes, producer: Producer, consumer: "Consumer | None" = None, mode: int = 0
    ) -> None:
        """A parameter of functions."""
        self.add(path, SysctlFile(self.fs, producer, consumer, mode))

    def _add_live(self) -> None:
        self.add_file(b"kernel/hostname", self._hostname, self._set_hostname)
        self.add_file(b"kernel/domainname", self._domainname, self._set_domainname)
        self.add_file(b"kernel/pid_max", self._pid_max, self._set_pid_max)
        self.add_file(b"kernel/ns_last_pid", self._last_pid, self._set_last_pid, 0o666)
        self.add_file(b"kernel/yama/ptrace_scope", self._ptrace_scope, self._set_ptrace_scope)
        self.add_file(b"kernel/threads-max", self._threads_max)
        self.add_file(b"kernel/random/boot_id", self._boot_id)
        self.add_file(b"kernel/random/uuid", _uuid)
        self.add_file(b"fs/aio-nr", self._aio_nr)
        self.add_file(b"fs/lease-break-time", self._lease_break, self._set_lease_break)
        self.add_file(b"fs/leases-enable", self._leases, self._set_leases)
        self.add_file(b"fs/file-nr", self._file_nr)
        self.add_file(b"vm/mmap_min_addr", self._min_address)
        self.add_file(b"fs/inode-nr", self._inode_nr)
        for _flag, kind in KINDS:
            limit = _NamespaceLimit(self.kernel, kind)
            self.add_file(b"user/max_%s_namespaces" % kind.encode(), limit.text, limit.store)

    def _names(self, ctx: Context) -> UtsNamespace:
        return ctx.ns.uts if isinstance(ctx, Task) else container_of(ctx).ns.uts

    def _hostname(self, ctx: Context) -> bytes:
        return self._names(ctx).hostname + b"\n"

    def _set_hostname(self, ctx: Context, data: bytes) -> int:
        self._names(ctx).hostname = _name_of(ctx, data)
        return len(data)

    def _domainname(self, ctx: Context) -> bytes:
        return self._names(ctx).domainname + b"\n"

    def _set_domainname(self, ctx: Context, data: bytes) -> int:
        self._names(ctx).domainname = _name_of(ctx, data)
        return len(data)

    def _pid_max(self, ctx: Context) -> bytes:
        return b"%d\n" % self.kernel.pid_max

    def _set_pid_max(self, ctx: Context, data: bytes) -> int:
        value = parse_int(data)
        if not 301 <= value <= 4194304:
            return -EINVAL
        self.kernel.pid_max = value
        return len(data)

    def _lease_break(self, ctx: Context) -> bytes:
        return b"%d\n" % self.kernel.locks.lease_break_s

    def _set_lease_break(self, ctx: Context, data: bytes) -> int:
        value = parse_int(data)
        if not 0 <= value <= 0x7FFFFFFF:
            return -EINVAL
        self.kernel.locks.lease_break_s = value
        return len(data)

    def _leases(self, ctx: Context) -> bytes:
        return b"%d\n" % self.kernel.locks.has_leases

    def _set_leases(self, ctx: Context, data: bytes) -> int:
        value = parse_int(data)
        if not 0 <= value <= 1:
            return -EINVAL
        self.kernel.locks.has_leases = value == 1
        return len(data)

    def _ptrace_scope(self, ctx: Context) -> bytes:
        return b"%d\n" % self.kernel.ptrace_scope

    def _set_ptrace_scope(self, ctx: Context, data: bytes) -> int:
        """yama_dointvec_minmax: the value 3 cannot be changed any more."""
        if not ctx.creds.capable(CAP_SYS_PTRACE):
            return -EPERM
        value = parse_int(data)
        if not 0 <= value <= 3 or (self.kernel.ptrace_scope == 3 and value != 3):
            return -EINVAL
        self.kernel.ptrace_scope = value
        return len(data)

    def _last_pid(self, ctx: Context) -> bytes:
        ns = ctx.pid_ns if isinstance(ctx, Task) else None
        return b"%d\n" % ((ns.next_pid if ns is not None else self.kernel.next_pid) - 1)

    def _set_last_pid(self, ctx: Context, data: bytes) -> int:
        ns = ctx.pid_ns if isinstance(ctx, Task) else None
        owner = ns.user_ns if ns is not None else None
        creds = ctx.creds
        if not creds.capable_in(owner, CAP_SYS_ADMIN) and not creds.capable_in(owner, CAP_CHECKPOINT_RESTORE):
            return -EPERM
        value = parse_int(data)
        if not 0 <= value < self.kernel.pid_max:
            return -EINVAL
        if ns is not None:
            ns.next_pid = max(value + 1, 2)
        else:
            self.kernel.next_pid = max(value + 1, 2)
        return len(data)

    def _threads_max(self, ctx: Context) -> bytes:
        return b"%d\n" % container_of(ctx).max_tasks

    def _boot_id(self, ctx: Context) -> bytes:
        return boot_id(self.kernel.facts) + b"\n"

    def _aio_nr(self, ctx: Context) -> bytes:
        return b"%d\n" % self.kernel.aio_events

    def _file_nr(self, ctx: Context) -> bytes:
        seen: set[int] = set()
        count = 0
        for task in self.kernel.tasks.values():
            if id(task.files) not in seen:
                seen.add(id(task.files))
                count += task.files.count
        return b"%d\t0\t9223372036854775807\n" % count

    def _min_address(self, ctx: Context) -> bytes:
        return b"%d\n" % self.kernel.platform.min_address()

    def _inode_nr(self, ctx: Context) -> bytes:
        return b"0\t0\n"


def boot_id(facts: HostFacts) -> bytes:
    """The sandbox's own boot id: random, the same for its whole life."""
    if not facts.boot_id:
        facts.boot_id = random_uuid()
    return facts.boot_id


def random_uuid() -> bytes:
    """A version 4 UUID."""
    raw = bytearray(os.urandom(16))
    raw[6] = (raw[6] & 0x0F) | 0x40
    raw[8] = (raw[8] & 0x3F) | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}".encode()


def _uuid(ctx: Context) -> bytes:
    return random_uuid() + b"\n"


def _name_of(ctx: Context, data: bytes) -> bytes:
    """A host or domain name from a write, as proc_do_uts_string takes it."""
    if isinstance(ctx, Task) and not ctx.creds.capable(CAP_SYS_ADMIN):
        raise LinuxError(EPERM)
    return data.split(b"\n", 1)[0].split(b"\0", 1)[0][: uts.HOST_NAME_LIMIT]


_CONSTANTS: Final[list[tuple[bytes, bytes]]] = [
    (b"abi/vsyscall32", b"0"),
    (b"dev/tty/ldisc_autoload", b"0"),
    (b"dev/tty/legacy_tiocsti", b"0"),  # so TIOCSTI is refused
    (b"fs/aio-max-nr", b"%d" % AIO_MAX_NR),
    (b"fs/dentry-state", b"0\t0\t45\t0\t0\t0"),
    (b"fs/epoll/max_user_watches", b"1048576"),
    (b"fs/file-max", b"9223372036854775807"),
    (b"fs/inode-state", b"0\t0\t0\t0\t0\t0\t0"),
    (b"fs/inotify/max_queued_events", b"16384"),
    (b"fs/inotify/max_user_instances", b"128"),
    (b"fs/inotify/max_user_watches", b"65536"),
    (b"fs/mount-max", b"%d" % MAX_MOUNTS),
    (b"fs/mqueue/msg_default", b"10"),
    (b"fs/mqueue/msg_max", b"10"),
    (b"fs/mqueue/msgsize_default", b"8192"),
    (b"fs/mqueue/msgsize_max", b"8192"),
    (b"fs/mqueue/queues_max", b"256"),
    (b"fs/nr_open", b"1048576"),
    (b"fs/overflowgid", b"65534"),
    (b"fs/overflowuid", b"65534"),
    (b"fs/pipe-max-size", b"1048576"),
    (b"fs/pipe-user-pages-hard", b"0"),
    (b"fs/pipe-user-pages-soft", b"16384"),
    (b"fs/protected_fifos", b"0"),
    (b"fs/protected_hardlinks", b"1"),
    (b"fs/protected_regular", b"0"),
    (b"fs/protected_symlinks", b"1"),
    (b"fs/suid_dumpable", b"0"),
    (b"kernel/acct", b"4\t2\t30"),
    (b"kernel/arch", MACHINE),
    (b"kernel/auto_msgmni", b"0"),
    (b"kernel/bpf_stats_enabled", b"0"),
    (b"kernel/cap_last_cap", b"%d" % CAP_LAST_CAP),
    (b"kernel/core_pattern", b"core"),
    (b"kernel/core_pipe_limit", b"0"),
    (b"kernel/core_uses_pid", b"0"),
    (b"kernel/ctrl-alt-del", b"0"),
    (b"kernel/dmesg_restrict", b"1"),
    (b"kernel/io_uring_disabled", b"2"),
    (b"kernel/keys/gc_delay", b"300"),
    (b"kernel/keys/maxbytes", b"20000"),
    (b"kernel/keys/maxkeys", b"200"),
    (b"kernel/keys/persistent_keyring_expiry", b"259200"),
    (b"kernel/keys/root_maxbytes", b"25000000"),
    (b"kernel/keys/root_maxkeys", b"1000000"),
    (b"kernel/kptr_restrict", b"2"),
    (b"kernel/modules_disabled", b"1"),
    (b"kernel/msgmax", b"%d" % MSGMAX),
    (b"kernel/msgmnb", b"%d" % MSGMNB),
    (b"kernel/msgmni", b"%d" % MSGMNI),
    (b"kernel/ngroups_max", b"%d" % NGROUPS_MAX),
    (b"kernel/osrelease", uts.RELEASE),
    (b"kernel/ostype", uts.SYSNAME),
    (b"kernel/overflowgid", b"65534"),
    (b"kernel/overflowuid", b"65534"),
    (b"kernel/panic", b"0"),
    (b"kernel/panic_on_oops", b"0"),
    (b"kernel/perf_event_paranoid", b"4"),
    (b"kernel/print-fatal-signals", b"0"),
    (b"kernel/printk", b"4\t4\t1\t7"),
    (b"kernel/pty/max", b"4096"),
    (b"kernel/pty/reserve", b"1024"),
    (b"kernel/random/entropy_avail", b"256"),
    (b"kernel/random/poolsize", b"256"),
    (b"kernel/random/urandom_min_reseed_secs", b"60"),
    (b"kernel/random/write_wakeup_threshold", b"256"),
    (b"kernel/randomize_va_space", b"2"),
    (b"kernel/sched_rr_timeslice_ms", b"100"),
    (b"kernel/sched_rt_period_us", b"1000000"),
    (b"kernel/sched_rt_runtime_us", b"950000"),
    (b"kernel/sem", b"%d\t%d\t%d\t%d" % (SEMMSL, SEMMNS, SEMOPM, SEMMNI)),
    (b"kernel/shm_rmid_forced", b"0"),
    (b"kernel/shmall", b"%d" % SHMALL),
    (b"kernel/shmmax", b"%d" % SHMMAX),
    (b"kernel/shmmni", b"%d" % SHMMNI),
    (b"kernel/seccomp/actions_avail", b"kill_process kill_thread trap errno user_notif trace log allow"),
    (b"kernel/sysctl_writes_strict", b"1"),
    (b"kernel/sysrq", b"0"),
    (b"kernel/tainted", b"0"),
    (b"kernel/unprivileged_bpf_disabled", b"2"),
    (b"kernel/version", uts.VERSION),
    (b"kernel/watchdog", b"0"),
    (b"user/max_time_namespaces", b"0"),
    (b"user/max_inotify_instances", b"128"),
    (b"user/max_inotify_watches", b"65536"),
    (b"vm/admin_reserve_kbytes", b"8192"),
    (b"vm/dirty_background_ratio", b"10"),
    (b"vm/dirty_ratio", b"20"),
    (b"vm/laptop_mode", b"0"),
    (b"vm/legacy_va_layout", b"0"),
    (b"vm/max_map_count", b"65530"),
    (b"vm/memfd_noexec", b"0"),
    (b"vm/min_free_kbytes", b"67584"),
    (b"vm/nr_hugepages", b"0"),
    (b"vm/nr_overcommit_hugepages", b"0"),
    (b"vm/oom_dump_tasks", b"1"),
    (b"vm/oom_kill_allocating_task", b"0"),
    (b"vm/overcommit_kbytes", b"0"),
    (b"vm/overcommit_memory", b"0"),
    (b"vm/overcommit_ratio", b"50"),
    (b"vm/page-cluster", b"3"),
    (b"vm/panic_on_oom", b"0"),
    (b"vm/swappiness", b"60"),
    (b"vm/unprivileged_userfaultfd", b"0"),
    (b"vm/user_reserve_kbytes", b"131072"),
    (b"vm/vfs_cache_pressure", b"100"),
]
