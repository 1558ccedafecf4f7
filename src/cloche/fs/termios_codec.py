"""struct termios and struct termios2: the speeds that the short form encodes in c_cflag
(drivers/tty/tty_baudrate.c).
"""

from typing import Final

from cloche.abi.structs import TERMIOS, pack_termios, pack_termios2, unpack_termios2
from cloche.abi.termios import BOTHER, CBAUD, IBSHIFT

TERMIOS_SIZE: Final = TERMIOS.size
TERMIOS2_SIZE: Final = TERMIOS.size + 8

_SPEEDS: Final[list[int]] = [
    0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400,
]  # fmt: skip
_HIGH_SPEEDS: Final[list[int]] = [
    57600, 115200, 230400, 460800, 500000, 576000, 921600, 1000000,
    1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000,
]  # fmt: skip


def speed_of(code: int) -> int:
    """Bits per second of a B* code; 0 for BOTHER and unknown codes."""
    code &= CBAUD
    if code & BOTHER:
        index = (code & 0xF) - 1
        return _HIGH_SPEEDS[index] if 0 <= index < len(_HIGH_SPEEDS) else 0
    return _SPEEDS[code]


def code_of(speed: int) -> int:
    """The B* code of a speed, BOTHER if there is none."""
    if speed in _SPEEDS:
        return _SPEEDS.index(speed)
    if speed in _HIGH_SPEEDS:
        return BOTHER | _HIGH_SPEEDS.index(speed) + 1
    return BOTHER


def termios_to_termios2(data: bytes) -> bytes:
    """The long form of a struct termios."""
    iflag, oflag, cflag, lflag, line, cc = TERMIOS.unpack(data[:TERMIOS_SIZE])
    out_speed = speed_of(cflag)
    in_code = cflag >> IBSHIFT & CBAUD
    in_speed = speed_of(in_code) if in_code else out_speed
    return pack_termios2(iflag, oflag, cflag, lflag, line, cc, in_speed, out_speed)


def termios2_to_termios(data: bytes) -> bytes:
    """The short form; a speed that has no code of its own becomes BOTHER."""
    iflag, oflag, cflag, lflag, line, cc, _in_speed, out_speed = unpack_termios2(data)
    if cflag & CBAUD == BOTHER:
        cflag = cflag & ~CBAUD | code_of(out_speed)
    return pack_termios(iflag, oflag, cflag, lflag, line, cc)
