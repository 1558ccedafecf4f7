"""Socket filters: the classic BPF programs of SO_ATTACH_FILTER (socket(7), bpf_check_classic).

A program sees a message before its receiver and says how many bytes of it are kept, 0 for none.  It jumps only
forward, so it ends.  `data` begins where Linux begins it: at the link header for AF_PACKET, at the IP header for raw
sockets, at the UDP header for UDP, at the message for others.
"""

import os
from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.bpf_program import INSN
from cloche.abi.errno import EINVAL, ENOMEM, LinuxError
from cloche.kernel.bpf import Subject, check, run
from cloche.mm.quota import FILTER_BYTES, KERNEL_MEMORY

_SIZES: Final[dict[int, int]] = {bpf.BPF_W: 4, bpf.BPF_H: 2, bpf.BPF_B: 1}
_ANCILLARY: Final = 0xFFFFF000  # SKF_AD_OFF
_NETWORK: Final = 0xFFF00000  # SKF_NET_OFF
_LINK: Final = 0xFFE00000  # SKF_LL_OFF
# SKF_AD_*: those that are the same for every message here.
_FACTS: Final[dict[int, int]] = {8: 1, 20: 0, 24: 0, 28: 772, 32: 0, 36: 0, 44: 0, 48: 0, 60: 0}
_AD_PROTOCOL: Final = 0
_AD_PKTTYPE: Final = 4
_AD_XOR_X: Final = 40
_AD_RANDOM: Final = 56


class SocketFilter:
    """A program that was checked."""

    def __init__(self, raw: bytes) -> None:
        """Raises LinuxError: EINVAL if `raw` is not a valid program, ENOMEM."""
        self.held: int = 0
        if not KERNEL_MEMORY.has_room(FILTER_BYTES + len(raw)):
            raise LinuxError(ENOMEM)
        check_filter(raw)
        self.program: bytes = raw
        self.held = FILTER_BYTES + len(raw)
        KERNEL_MEMORY.take(self.held)

    def __del__(self) -> None:
        KERNEL_MEMORY.give(self.held)

    def run(self, data: bytes, protocol: int = 0, kind: int = 0, network: int = 0) -> int:
        """How many bytes of `data` are kept; `network` is where its network header begins."""
        return run(self.program, _Message(data, protocol, kind, network))


class _Message(Subject):
    """A message, with what is known of it."""

    def __init__(self, data: bytes, protocol: int, kind: int, network: int) -> None:
        self.size = len(data)
        self.data: bytes = data
        self.protocol: int = protocol
        self.kind: int = kind
        self.network: int = network

    def load(self, code: int, k: int, a: int, x: int) -> int:
        data = self.data
        if code & 7 == bpf.BPF_LDX:  # BPF_MSH: the length of an IP header
            return (data[k] & 15) << 2 if k < self.size else -1
        if code & 0xE0 == bpf.BPF_IND:
            k = k + x & 0xFFFFFFFF
        elif k >= _ANCILLARY:
            return self._ancillary(k - _ANCILLARY, a, x)
        if k >= _NETWORK:
            k = k - _NETWORK + self.network
        elif k >= _LINK:
            k = k - _LINK
        width = _SIZES[code & 0x18]
        return int.from_bytes(data[k : k + width], "big") if k + width <= self.size else -1

    def _ancillary(self, name: int, a: int, x: int) -> int:
        if name == _AD_PROTOCOL:
            return self.protocol
        if name == _AD_PKTTYPE:
            return self.kind
        if name == _AD_XOR_X:
            return a ^ x
        if name == _AD_RANDOM:
            return int.from_bytes(os.urandom(4), "little")
        return _FACTS.get(name, 0)


def check_filter(raw: bytes) -> None:
    """Check an array of struct sock_filter.  Raises LinuxError(EINVAL)."""
    check(raw)
    for code, _jump_true, _jump_false, k in INSN.iter_unpack(raw):
        if code & 0xE7 == bpf.BPF_LD | bpf.BPF_ABS and k >= _ANCILLARY and not _is_known(k - _ANCILLARY):
            raise LinuxError(EINVAL)


def _is_known(name: int) -> bool:
    return name in _FACTS or name in (_AD_PROTOCOL, _AD_PKTTYPE, _AD_XOR_X, _AD_RANDOM)
