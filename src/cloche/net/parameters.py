"""Parameters of a network that can be changed in /proc/sys/net, since they have an effect (ip-sysctl.rst)."""

from typing import Final

INT_MAX: Final = 0x7FFFFFFF

# Below /proc/sys/net: lowest, highest and first value.
NUMBERS: Final[dict[str, tuple[int, int, int]]] = {
    "core/somaxconn": (0, INT_MAX, 4096),
    "ipv4/icmp_echo_ignore_all": (0, 1, 0),
    "ipv4/ip_default_ttl": (1, 255, 64),
    "ipv4/ip_nonlocal_bind": (0, 255, 0),
    "ipv4/tcp_fin_timeout": (0, INT_MAX, 60),
    "ipv4/tcp_keepalive_intvl": (0, INT_MAX, 75),
    "ipv4/tcp_keepalive_probes": (0, 255, 9),
    "ipv4/tcp_keepalive_time": (0, INT_MAX, 7200),
    "ipv4/tcp_syn_retries": (1, 127, 6),
    "ipv6/bindv6only": (0, 255, 0),
    "unix/max_dgram_qlen": (-INT_MAX - 1, INT_MAX, 10),
}
CONGESTION: Final = (b"reno", b"cubic")


class Parameters:
    """The parameters of one network."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {name: first for name, (_low, _high, first) in NUMBERS.items()}
        self.congestion: bytes = b"cubic"

    def set_number(self, name: str, value: int) -> bool:
        """Change a parameter if the value is in its range. Returns whether it was."""
        low, high, _first = NUMBERS[name]
        if not low <= value <= high:
            return False
        self.numbers[name] = value
        return True
