"""SIOCETHTOOL: what programs read of an interface, such as whether its link is up (ethtool(8), net/ethtool/ioctl.c)."""

from struct import Struct
from typing import Final

from cloche.abi.errno import EOPNOTSUPP, EPERM
from cloche.vfs.objects import Context

__all__ = ["ethtool_ioctl"]

# Commands (linux/ethtool.h); of a link, of the checksums and segments that the device takes over, of all else.
_GLINK: Final = 0x0A
_GPERMADDR: Final = 0x20
_GSSET_INFO: Final = 0x37
_GET_TS_INFO: Final = 0x41
_OF_LOOPBACK: Final[dict[int, int]] = {
    0x14: 1,  # GRXCSUM
    0x16: 1,  # GTXCSUM
    0x18: 1,  # GSG
    0x1E: 1,  # GTSO
    0x23: 1,  # GGSO
    0x2B: 1,  # GGRO
    0x25: 0,  # GFLAGS
}
# What needs no CAP_NET_ADMIN and is not there.
_READS: Final = frozenset(
    [0x01, 0x03, 0x07, 0x0E, 0x10, 0x12, 0x1B, 0x1D, 0x21, 0x27, 0x29, 0x2D, 0x2E, 0x2F, 0x30, 0x38]
    + [0x3A, 0x3C, 0x44, 0x46, 0x48, 0x4A, 0x4C, 0x4E, 0x50, *_OF_LOOPBACK]
)
_ETOOSMALL: Final = 525  # linux/errno.h: one that programs should never see, and do
_U32: Final = Struct("<I")
_TS_INFO: Final = Struct("<IIi32x")
_SOFTWARE_TIMES: Final = 0x1A  # SOF_TIMESTAMPING_TX_SOFTWARE, RX_SOFTWARE, SOFTWARE


def ethtool_ioctl(
    ctx: Context, argument: int, address: bytes, *, is_up: bool, is_loopback: bool, may_change: bool
) -> int:
    """Answer the command in the buffer at `argument` for an interface with this hardware address.

    Nothing can be changed: EOPNOTSUPP, or EPERM for who `may_change` nothing.
    """
    memory = ctx.user_memory()
    command: int = _U32.unpack(memory.read(argument, 4))[0]
    if command == _GLINK:
        memory.write(argument + 4, _U32.pack(is_up))
    elif command == _GPERMADDR:
        room: int = _U32.unpack(memory.read(argument + 4, 4))[0]
        if room < len(address):
            return -_ETOOSMALL
        memory.write(argument + 4, _U32.pack(len(address)) + address)
    elif command == _GSSET_INFO:
        memory.write(argument + 8, bytes(8))  # of the sets of strings asked for there is none
    elif command == _GET_TS_INFO:
        memory.write(argument, _TS_INFO.pack(command, _SOFTWARE_TIMES, -1))
    elif is_loopback and command in _OF_LOOPBACK:
        memory.write(argument + 4, _U32.pack(_OF_LOOPBACK[command]))
    elif command in _READS or may_change:
        return -EOPNOTSUPP
    else:
        return -EPERM
    return 0
