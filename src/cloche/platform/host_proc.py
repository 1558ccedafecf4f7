"""The host's procfs, for what a platform needs of it: the memory and time of processes and of the sentry itself.

Call `open` while paths can be opened, and `check` once the pid namespace is final; then it can be used until `close`.
"""

import os


class HostProc:
    """A directory descriptor of a procfs that counts processes as this one does; without one, figures are unknown."""

    def __init__(self) -> None:
        self._fd = -1
        self._is_ours = False
        self.hosts_threads = 0  # threads of the host's kernel that a guest process may have (platform kvm)

    def open(self) -> None:
        """Open the present procfs."""
        try:
            self._fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1  # guests then get no vDSO, and resident sizes are unknown

    def open_score(self) -> int:
        """Open this process's oom_score_adj for writing: it says how soon the host ends the process when it lacks
        memory. -1: not possible.
        """
        try:
            return os.open("self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return -1

    def check(self) -> bool:
        """Check whether its pids are those of this process's pid namespace, or of an outer one; the answer holds from
        now on.
        """
        try:
            self._is_ours = os.readlink("self", dir_fd=self._fd) == str(os.getpid())
        except (OSError, ValueError):
            self._is_ours = False
        return self._is_ours

    def fd(self) -> int:
        """The descriptor, -1 if there is none."""
        return self._fd

    def usable_fd(self) -> int:
        """The descriptor, -1 if there is none with the pids of this namespace."""
        return self._fd if self._is_ours else -1

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._is_ours = False

    def read(self, pid: int, name: str) -> str:
        """A file of /proc/PID, "" when that cannot be read."""
        if pid < 0 or not self._is_ours:
            return ""
        try:
            fd = os.open(f"{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return ""
        try:
            return os.read(fd, 8192).decode("ascii", "replace")
        except OSError:
            return ""
        finally:
            os.close(fd)

    def read_at(self, pid: int, name: str, offset: int, length: int) -> bytes:
        """A part of a file of /proc/PID, nothing when that cannot be read."""
        if pid < 0 or not self._is_ours:
            return b""
        try:
            fd = os.open(f"{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return b""
        try:
            return os.pread(fd, length, offset)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def shown(self, pid: int) -> tuple[int, ...] | None:
        """For C (csrc/host/proof.c): the number of threads of a process, or with 0 the children of this process;
        None: unknown.
        """
        if not self._is_ours:
            return None
        try:
            fd = os.open(
                f"{pid}/stat" if pid else "thread-self/children", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd
            )
            text = b""
            try:
                while part := os.read(fd, 65536):
                    text += part
            finally:
                os.close(fd)
            if pid:
                return (int(text.rpartition(b")")[2].split()[17]) - self.hosts_threads,)
            return tuple([int(word) for word in text.split()])
        except (OSError, ValueError, IndexError):
            return None

    def own_pages(self) -> list[int]:
        """/proc/self/statm: size, resident, shared, text, nothing, data and stack; zeros when unknown."""
        if not self._is_ours:
            return [0] * 7
        try:
            fd = os.open("self/statm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return [0] * 7
        try:
            return [int(word) for word in os.read(fd, 256).split()]
        finally:
            os.close(fd)


def faults(stat: str) -> tuple[int, int]:
    """Minor and major faults out of a stat file."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[7]), int(fields[9])) if len(fields) > 9 else (0, 0)


def figure(status: str, name: str) -> int:
    """A number of /proc/PID/status, 0 if it is missing (a thread that has ended has no memory)."""
    _before, found, rest = status.partition(f"\n{name}:")
    words = rest.split(None, 1) if found else []
    return int(words[0]) if words and words[0].isdigit() else 0


def preemptions(status: str) -> int:
    """How often the host took the processor away, out of a status file."""
    return figure(status, "nonvoluntary_ctxt_switches")
