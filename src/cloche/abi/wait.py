"""Flags of wait4(2) and waitid(2), and the encoding of a wait status."""

from typing import Final

__WCHAR_MAX__: Final = 0x7FFFFFFF
__WCHAR_MIN__: Final = -2147483648
__WINT_MAX__: Final = 0xFFFFFFFF
__WINT_MIN__: Final = 0
__WCHAR_WIDTH__: Final = 32
__WINT_WIDTH__: Final = 32
WNOHANG: Final = 0x1
WUNTRACED: Final = 0x2
WSTOPPED: Final = 0x2
WEXITED: Final = 0x4
WCONTINUED: Final = 0x8
WNOWAIT: Final = 0x1000000
__WNOTHREAD: Final = 0x20000000
__WALL: Final = 0x40000000
__WCLONE: Final = 0x80000000
P_ALL: Final = 0
P_PID: Final = 1
P_PGID: Final = 2
P_PIDFD: Final = 3

# pidfd_open(2)
PIDFD_NONBLOCK: Final = 0o4000
PIDFD_THREAD: Final = 0o200
PIDFD_SIGNAL_THREAD: Final = 1
PIDFD_SIGNAL_THREAD_GROUP: Final = 2
PIDFD_SIGNAL_PROCESS_GROUP: Final = 4
PIDFD_GET_CGROUP_NAMESPACE: Final = 65281
PIDFD_GET_IPC_NAMESPACE: Final = 65282
PIDFD_GET_MNT_NAMESPACE: Final = 65283
PIDFD_GET_NET_NAMESPACE: Final = 65284
PIDFD_GET_PID_NAMESPACE: Final = 65285
PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE: Final = 65286
PIDFD_GET_TIME_NAMESPACE: Final = 65287
PIDFD_GET_TIME_FOR_CHILDREN_NAMESPACE: Final = 65288
PIDFD_GET_USER_NAMESPACE: Final = 65289
PIDFD_GET_UTS_NAMESPACE: Final = 65290

_CORE: Final = 0x80


def status_exited(code: int) -> int:
    """The wait status of a process that called exit(code)."""
    return (code & 0xFF) << 8


def status_signaled(signo: int, dumped_core: int) -> int:
    """The wait status of a process that `signo` ended; `dumped_core` is 0 or 1."""
    return (signo & 0x7F) | (_CORE if dumped_core else 0)


def status_stopped(signo: int) -> int:
    """The wait status of a process that `signo` (or a ptrace event in the upper bits) stopped."""
    return (signo << 8) | 0x7F


STATUS_CONTINUED: Final = 0xFFFF


def is_exited(status: int) -> bool:
    """WIFEXITED."""
    return status & 0x7F == 0


def exit_code(status: int) -> int:
    """WEXITSTATUS."""
    return (status >> 8) & 0xFF


def is_signaled(status: int) -> bool:
    """WIFSIGNALED."""
    return 0 < status & 0x7F < 0x7F


def term_signal(status: int) -> int:
    """WTERMSIG."""
    return status & 0x7F


def is_stopped(status: int) -> bool:
    """WIFSTOPPED."""
    return status & 0xFF == 0x7F


def stop_signal(status: int) -> int:
    """WSTOPSIG."""
    return (status >> 8) & 0xFF
