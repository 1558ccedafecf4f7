"""The figures of getrusage(2) other than CPU time."""

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
        """Add what another has used; of the maximal sizes the larger one stays."""
        self.maxrss_kib = max(self.maxrss_kib, other.maxrss_kib)
        self.minor_faults += other.minor_faults
        self.major_faults += other.major_faults
        self.waits += other.waits
        self.preemptions += other.preemptions


class IoCounts:
    """The bytes that read and write calls have moved (kernel.io_counts)."""

    def __init__(self) -> None:
        self.read_bytes: int = 0
        self.written_bytes: int = 0
        self.reads: int = 0
        self.writes: int = 0

    def add(self, other: "IoCounts | None") -> None:
        if other is not None:
            self.read_bytes += other.read_bytes
            self.written_bytes += other.written_bytes
            self.reads += other.reads
            self.writes += other.writes


class Spent:
    """The usage of a process, without its living threads and its present address space.

    Invariant: the children's part is that of reaped children and theirs, each counted once.
    """

    def __init__(self) -> None:
        self.user_ns: int = 0  # CPU time of threads and address spaces that are gone
        self.system_ns: int = 0
        self.usage: Usage = Usage()  # of the same
        self.children_user_ns: int = 0
        self.children_system_ns: int = 0
        self.children_usage: Usage = Usage()
        self.io: IoCounts = IoCounts()  # of threads that are gone and children that were waited for
        self.is_wanted: bool = False  # it or an ancestor has asked for a struct rusage

    def add_child(self, user_ns: int, system_ns: int, usage: Usage, child: "Spent") -> None:
        """A child was waited for: add what it has used itself, and what its own children have."""
        self.children_user_ns += user_ns + child.children_user_ns
        self.children_system_ns += system_ns + child.children_system_ns
        self.children_usage.add(usage)
        self.children_usage.add(child.children_usage)
        self.io.add(child.io)


def packed_usage(user_ns: int, system_ns: int, usage: Usage) -> bytes:
    """struct rusage.  Block counts are 0, because guests' files are in the host's page cache."""
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
