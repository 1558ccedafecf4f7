"""Which programs run in the machine, and how many of them in one sandbox are told apart."""

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
HOSTILE: Final = sorted((HERE / "hostile").glob("*.c"))
ROOT: Final = HERE.parents[1]
BENCH: Final = ROOT / "bench"
PLATFORM_TESTS: Final = HERE.parent / "unit" / "platform"
# The conformance suite of platforms, with the files that pytest needs for it.
CONFORMANCE: Final = (
    ROOT / "pyproject.toml",
    ROOT / "docs" / "kvm.md",
    HERE.parent / "__init__.py",
    HERE.parent / "conftest.py",
    HERE.parent / "unit" / "__init__.py",
    *sorted(PLATFORM_TESTS.glob("*.py")),
)
# The programs of tests/security that a platform can get wrong, and the monitor of a pod.
NAMES: Final = "addresses alive bombs entries numbers paths peers scripts storms tracers"
SECURITY: Final = HERE.parent / "security" / "programs"
ATTACKS: Final = [SECURITY / f"{name}.c" for name in NAMES.split()]
POD: Final = HERE.parent / "cli" / "pod.py"
GUEST: Final = HERE.parent / "guest" / "programs"
PLACE: Final = "/opt/guest"  # of the compiled programs, in the machine and in sandboxes
BATCH: Final = "/opt/guest/batch.sh"
# Alternatives, which belong to no package.
ALTERNATIVES: Final = tuple(f"/usr/bin/{name}" for name in ("awk", "cc", "gcc", "python3"))
# Debian's packages for the tests that run in the machine's own pytest, in the long run only.
PACKAGES: Final = (
    "bash bc bsdutils bubblewrap busybox-static coreutils diffutils e2fsprogs findutils gdb git grep gzip iproute2"
    " iputils-ping libcap2-bin make mawk mount perl perl-base procps sed sqlite3 strace tar util-linux util-linux-extra"
    " binutils binutils-common binutils-x86-64-linux-gnu libbinutils gcc gcc-12 cpp cpp-12 libgcc-12-dev libc6-dev libc-dev-bin"
    " linux-libc-dev libcrypt-dev libc-bin ncurses-base ncurses-bin python3 python3-minimal python3.13 python3.13-minimal"
    " libpython3.13-minimal libpython3.13-stdlib libperl5.40 perl-modules-5.40 hostname login passwd media-types netbase"
).split()

# Of tests/guest/programs those that a platform can get wrong: memory, signals, processes and threads, waking, tracing,
# and calls that move data.  Each takes less than three seconds in the emulated processor, and says the
# same on the kernels of this machine and of the emulated one (futex_pi counts who sleeps already: not there).
GROUPS: Final[dict[str, str]] = {
    "memory": "mm_basic mm_collapse mm_dontunmap mm_far_apart mm_grows mm_interrupted mm_locked mm_many mm_mdwe mm_remap_file_pages"
    " mm_no_execution mm_residency misc_process_vm sysv_shm vfs_mmap_shared file_windows",
    "signals": "signal_altstack signal_autodisarm signal_basic signal_faults signal_fix_fault signal_flags signal_forced"
    " signal_fpu signal_mask signal_overflow signal_rt_queue signal_stop_threads signal_threads"
    " signal_timedwait signal_traps signal_vfork",
    "processes": "process_clone3 process_exec process_leader_exit process_threads process_vfork process_wait_table"
    " static_hello static_maps_text misc_arch_prctl misc_seccomp cred_setuid proc_maps proc_tasks",
    "waking": "futex_basic futex_bitset futex_clear_tid futex_pthread futex_robust futex_shared futex_wake"
    " futex_wake_op epoll_threads eventfd_basic poll_signals",
    "tracing": "ptrace_attach ptrace_events ptrace_memory ptrace_regs ptrace_siginfo ptrace_step ptrace_syscall"
    " ptrace_traceme",
    "data and time": "file_rw file_vec file_splice pipe_basic pipe_blocking unix_pair inet_tcp socket_faults"
    " time_itimer time_posix_timers",
}


# The long run (CLOCHE_SLOW=1): all other programs of tests/guest, by family; but these, with reasons that docs/kvm.md repeats.
LEFT_OUT: Final[dict[str, str]] = {
    "futex_pi": "waits awake for others to sleep, under priorities, where an emulated processor is late",
    "misc_membarrier": "interrupts a spinning thread 20,000 times: minutes there",
    "patched_calls": "is about system call instructions that were replaced, of which there are none with kvm",
    "time_prof_threads": "measures who computes, while others wait awake for 20 ms at a time",
    "time_thread_clocks": "measures who computes, while others wait awake for 20 ms at a time",
}
# The tests that pytest runs in the machine, and which of them not (words of their names).
FILES: Final[dict[str, str]] = {
    "tests/guest/test_debuggers.py": "",
    "tests/guest/test_file_threads.py": "trapped",
    "tests/guest/test_forgotten_names.py": "large_tree",  # 40,000 files
    "tests/guest/test_instructions.py": "",
    "tests/guest/test_namespaces.py": "unshare_many",  # 280 machines in 100 s
    "tests/guest/test_network_tools.py": "",
    "tests/guest/test_random_files.py": "",
    "tests/guest/test_random_sockets.py": "",
    "tests/guest/test_slow_disks.py": "",
    "tests/guest/test_slow_storage.py": "",
    "tests/guest/test_stdio.py": "",
    "tests/guest/test_suid.py": "",
    "tests/guest/test_terminal.py": "",
    "tests/guest/test_volumes.py": "",
    "tests/guest/test_workloads.py": "",
    "tests/security/test_guests.py": "jumps forged calls_without kept region refused",  # slots, the stub, patched text
    "tests/security/test_holds.py": "",
    "tests/security/test_sockets_hostile.py": "",
    "tests/security/test_typed.py": "no-patch",
}
LEFT_OUT_TESTS: Final[dict[str, str]] = {
    "test_programs.py": "its programs run many to a sandbox, as said above",
    "test_platform_hostile.py": "jumps into systrap's stub and writes its slots, which no program in ring 3 can reach; from ring 0: `tests/kvm/given`",
    "test_slots.py": "writes slots; from ring 0: `tests/kvm/given`, and the loop alone",
}
# Those whose output depends on what the machine's own kernel (older than the one that cloche is like), its devices and its file
# system (a tmpfs) do otherwise: they are compared with systrap in the same machine, not with a native run.
OTHER_KERNEL: Final[dict[str, str]] = {
    "file_errors": "RESOLVE_CACHED: a tmpfs remembers no names that are not there",
    "file_handle": "a tmpfs takes a handle of any type",
    "inet_block": "what fits into full buffers of TCP depends on how fast both ends are",
    "inet_raw_checks": "how much memory a datagram is charged for",
    "inet_udp": "the machine has no route but to itself",
    "inotify_calls": "the order of names in a folder of a tmpfs",
    "mm_errors": "mremap of several areas: Linux 6.17",
    "mm_sealed": "mremap of several areas: Linux 6.17",
    "ns_mount_tree": "mounts into trees that are mounted nowhere: Linux 6.15",
    "socket_control": "SO_PRIORITY as a control message: Linux 6.14",
    "socket_options": "SO_RCVPRIORITY and SO_PASSRIGHTS, and limits of the machine's memory",
    "time_clocks": "the machine has a clock that can wake it",
    "time_overrun": "timers of a nanosecond keep the emulated processor busy for a minute",
    "unix_pass_rights": "SO_PASSRIGHTS: Linux 6.16",
    "vfs_times": "when a tmpfs changes times",
}
ALL: Final = sorted(path.stem for path in GUEST.glob("*.c"))


def families() -> dict[str, list[str]]:
    """First word of the name -> the programs that are in no group of the short run."""
    grouped = {name for names in GROUPS.values() for name in names.split()}
    found: dict[str, list[str]] = {}
    for name in ALL:
        if name not in grouped and name not in LEFT_OUT:
            found.setdefault(name.partition("_")[0], []).append(name)
    return found


def parse_batch(output: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> (status, standard output) of what batch.sh has run; what it did not come to is not there."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while output[at : at + 3] == b"@@ ":
        line = output.find(b"\n", at)
        if line < 0:
            break
        name, status, size = output[at + 3 : line].split()
        end = line + 1 + int(size)
        found[name.decode()] = int(status), output[line + 1 : end]
        at = end
    return found
