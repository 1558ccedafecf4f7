"""Facts about the host, read by boot before it is confined; and the samples of load averages."""

from struct import iter_unpack


class HostFacts:
    """Read once by boot; `loads` is kept up to date by kernel.accounting."""

    def __init__(self, cpuinfo: bytes = b"", memory_total: int = 0, memory_available: int = 0) -> None:
        self.cpuinfo: bytes = cpuinfo  # the host's /proc/cpuinfo
        self.memory_total: int = memory_total  # bytes
        self.memory_available: int = memory_available  # bytes
        self.hwcap: int = 0  # AT_HWCAP, AT_HWCAP2, AT_MINSIGSTKSZ of the host
        self.hwcap2: int = 0
        self.min_sigstack_bytes: int = 2048
        self.cmdline: bytes = b"cloche\n"  # /proc/cmdline
        self.boot_id: bytes = b""  # a UUID, made at the first look
        self.loads: list[float] = [0.0, 0.0, 0.0]
        self.load_at_ns: int = 0

    @staticmethod
    def read() -> "HostFacts":
        """Read them from the host's /proc; for boot, before it is confined.  Raises OSError."""
        with open("/proc/cpuinfo", "rb") as file:
            facts = HostFacts(file.read())
        with open("/proc/meminfo", "rb") as file:
            for line in file:
                words = line.split()
                if words[:1] == [b"MemTotal:"]:
                    facts.memory_total = int(words[1]) * 1024
                elif words[:1] == [b"MemAvailable:"]:
                    facts.memory_available = int(words[1]) * 1024
        with open("/proc/self/auxv", "rb") as file:
            for key, value in iter_unpack("<QQ", file.read()):
                if key == 16:
                    facts.hwcap = value
                elif key == 26:
                    facts.hwcap2 = value
                elif key == 51:
                    facts.min_sigstack_bytes = value
        return facts
