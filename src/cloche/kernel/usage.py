"""What getrusage(2) tells of processes besides CPU time."""

from cloche.abi.structs import pack_rusage


class Usage:
    """Memory, faults and context switches of a process, or of several that are gone."""

    def __init__(self) -> None:
        self.maxrss_kib: int = 0
        self.minor_faults: int = 0
        self.major_faults: int = 0
        self.waits: int = 0  # voluntary switches: calls that had to wait
        self.preemptions: int = 0  # involuntary ones, by the host

    def add(self, other: "Usage") -> None:
        """Sums, but the larger of the sizes."""
        self.maxrss_kib = max(self.maxrss_kib, other.maxrss_kib)
        self.minor_faults += other.minor_faults
        self.major_faults += other.major_faults
        self.waits += other.waits
        self.preemptions += other.preemptions


def packed_usage(user_ns: int, system_ns: int, usage: Usage) -> bytes:
    """struct rusage.  No guest reads or writes blocks of a disk: the host's page cache is below its files."""
    return pack_rusage(
        user_ns,
        system_ns,
        usage.maxrss_kib,
        usage.minor_faults,
        usage.major_faults,
        0,
        0,
        usage.waits,
        usage.preemptions,
    )
