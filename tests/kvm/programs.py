"""Which programs run in the machine, and how many of them in one sandbox are told apart."""

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
HOSTILE: Final = sorted((HERE / "hostile").glob("*.c"))
ROOT: Final = HERE.parents[1]
PLATFORM_TESTS: Final = HERE.parent / "unit" / "platform"
# The conformance suite of platforms, with what pytest reads on the way.
CONFORMANCE: Final = (
    ROOT / "pyproject.toml",
    HERE.parent / "__init__.py",
    HERE.parent / "conftest.py",
    HERE.parent / "unit" / "__init__.py",
    *sorted(PLATFORM_TESTS.glob("*.py")),
)
# Of tests/security what a platform can get wrong; and the monitor of a pod.
SECURITY: Final = HERE.parent / "security" / "programs"
ATTACKS: Final = [SECURITY / f"{name}.c" for name in ("addresses", "alive", "entries", "numbers", "tracers")]
POD: Final = HERE.parent / "cli" / "pod.py"
GUEST: Final = HERE.parent / "guest" / "programs"
PLACE: Final = "/opt/guest"  # of the compiled programs, in the machine and in sandboxes
BATCH: Final = "/opt/guest/batch.sh"

# Of tests/guest/programs those that a platform can get wrong: memory, signals, processes and threads, waking, tracing,
# and of the rest what moves data.  Each takes less than three seconds in the emulated processor, and says the
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
