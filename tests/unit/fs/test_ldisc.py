"""The line discipline, byte for byte against the host's own pseudo-terminals."""

import os
import pty
import select
import struct
import termios
import time
from fcntl import ioctl

import pytest

from cloche.abi.termios import (
    ECHO,
    ECHOCTL,
    ECHOE,
    ECHOK,
    ECHOKE,
    ECHONL,
    ECHOPRT,
    ICANON,
    ICRNL,
    IEXTEN,
    IGNCR,
    INLCR,
    ISIG,
    ISTRIP,
    IUTF8,
    IXANY,
    IXON,
    OCRNL,
    ONLCR,
    ONLRET,
    ONOCR,
    OPOST,
    PARMRK,
    XTABS,
)
from cloche.fs.ldisc import LineDiscipline, Termios

SANE = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN
NONE: dict[int, int] = {}


class Recorder(LineDiscipline):
    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()
        self.signals: list[int] = []

    def output(self, data: bytes) -> None:
        self.out += data

    def signal_foreground(self, signo: int) -> None:
        self.signals.append(signo)

    def input_arrived(self) -> None:
        pass

    def output_possible(self) -> None:
        pass

    def packet_event(self, bits: int) -> None:
        pass


def make_termios(iflag: int, oflag: int, lflag: int, cc: dict[int, int]) -> Termios:
    mode = Termios()
    mode.iflag, mode.oflag, mode.lflag = iflag, oflag, lflag
    chars = bytearray(mode.cc)
    for index, char in cc.items():
        chars[index] = char
    mode.cc = bytes(chars)
    return mode


class HostPty:
    def __init__(self, mode: Termios) -> None:
        self.master, self.slave = pty.openpty()
        ioctl(self.slave, termios.TCSETS, mode.pack())
        os.set_blocking(self.master, False)
        os.set_blocking(self.slave, False)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)

    def settle(self) -> None:
        """Wait until the host's work queue has moved input to the line discipline."""
        last, rests = -1, 0
        for _round in range(500):
            time.sleep(0.001)
            (now,) = struct.unpack("i", ioctl(self.master, termios.FIONREAD, bytes(4)))
            rests = rests + 1 if now == last else 0
            if rests == 3:
                return
            last = now

    def drain(self, fd: int) -> list[bytes]:
        parts: list[bytes] = []
        while select.select([fd], [], [], 0)[0]:
            try:
                parts.append(os.read(fd, 10000))
            except OSError:
                break
            if len(parts) > 50:
                break
        return parts


def run_host(mode: Termios, keys: list[bytes], written: bytes) -> tuple[bytes, list[bytes]]:
    host = HostPty(mode)
    try:
        if written:
            os.write(host.slave, written)
        for piece in keys:
            os.write(host.master, piece)
            host.settle()
        host.settle()
        return b"".join(host.drain(host.master)), host.drain(host.slave)
    finally:
        host.close()


def run_ours(mode: Termios, keys: list[bytes], written: bytes) -> tuple[bytes, list[bytes]]:
    ours = Recorder()
    ours.set_termios(mode)
    if written:
        ours.output(ours.process_output(written))
    for piece in keys:
        ours.receive(piece)
    got: list[bytes] = []
    if ours.is_canonical():
        while ours.lines:
            line = ours.peek_line(10000)
            ours.take_line(len(line))
            got.append(line)
    elif ours.has_input(is_poll=True):
        got.append(ours.peek_raw(10000))
    return bytes(ours.out), got


CASES: dict[str, tuple[int, int, int, dict[int, int], list[bytes], bytes]] = {
    "lines": (ICRNL | IXON, OPOST | ONLCR, SANE, NONE, [b"hello\rworld\nrest"], b""),
    "erase": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"abc\x7f\x7fd\n"], b""),
    "erase control": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"a\x01\x7fb\x02\x02\x7f\x7f\x7f\x7fz\n"], b""),
    "erase tab": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"ab\tc\x7f\x7fd\n"], b"prompt> "),
    "erase two tabs": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"a\t\tb\x7f\x7f\x7fd\n"], b"$ "),
    "erase without echoe": (ICRNL, OPOST | ONLCR, SANE & ~ECHOE, NONE, [b"abc\x7f\x7fx\n"], b""),
    "echoprt": (ICRNL, OPOST | ONLCR, SANE | ECHOPRT, NONE, [b"abc\x7f\x7fx\n"], b""),
    "echoprt all": (ICRNL, OPOST | ONLCR, SANE | ECHOPRT, NONE, [b"abc\x17\n"], b""),
    "kill": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"some text\x15ok\n"], b""),
    "kill without echoke": (ICRNL, OPOST | ONLCR, SANE & ~ECHOKE, NONE, [b"some\x15ok\n"], b""),
    "kill quietly": (ICRNL, OPOST | ONLCR, SANE & ~ECHO, NONE, [b"some\x15ok\n"], b""),
    "word erase": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"one two-three  \x17X\n", b"a b\x17\x17\x17q\n"], b""),
    "word erase underscore": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"foo.bar_baz\x17\n"], b""),
    "literal next": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"a\x16\x7f\x16\x03\x16\rb\n"], b""),
    "reprint": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"ab\x01c\x12d\n"], b""),
    "end of file": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"par\x04tial\n"], b""),
    "end of line char": (ICRNL, OPOST | ONLCR, SANE, {11: ord(";")}, [b"one;two;three\n"], b""),
    "second end of line": (ICRNL, OPOST | ONLCR, SANE, {16: ord("|")}, [b"one|two\n"], b""),
    "no iexten": (ICRNL, OPOST | ONLCR, SANE & ~IEXTEN, NONE, [b"a b\x17\x16\x12\n"], b""),
    "echonl": (ICRNL, OPOST | ONLCR, (SANE & ~ECHO) | ECHONL, NONE, [b"secret\n"], b""),
    "no echoctl": (ICRNL, OPOST | ONLCR, SANE & ~ECHOCTL, NONE, [b"a\x01b\x7f\x7f\n"], b""),
    "igncr": (IGNCR, OPOST | ONLCR, SANE, NONE, [b"a\rb\n"], b""),
    "inlcr": (INLCR, OPOST | ONLCR, SANE, NONE, [b"a\nb\x04"], b""),
    "istrip": (ISTRIP | ICRNL, OPOST | ONLCR, SANE, NONE, [b"\xe1\xe2\n"], b""),
    "utf8 erase": (ICRNL | IUTF8, OPOST | ONLCR, SANE, NONE, ["aé€z\x7f\x7f\x7f!\n".encode()], b""),
    "latin erase": (ICRNL, OPOST | ONLCR, SANE, NONE, ["aé\x7f!\n".encode()], b""),
    "parmrk": (ICRNL | PARMRK, OPOST | ONLCR, SANE, NONE, [b"a\xffb\n"], b""),
    "utf8 columns": (ICRNL | IUTF8, OPOST | ONLCR | XTABS, SANE, NONE, ["é\tx\n".encode()], "ü\t|".encode()),
    "xtabs": (ICRNL, OPOST | ONLCR | XTABS, SANE, NONE, [b"a\tb\x7f\x7fc\n"], b"12\t3\n\t4\b\tx"),
    "ocrnl": (ICRNL, OPOST | OCRNL, SANE, NONE, [b"x\n"], b"a\rb\nc"),
    "onocr": (ICRNL, OPOST | ONOCR, SANE, NONE, [b"x\n"], b"\r\ra\rb\r\r"),
    "onlret": (ICRNL, OPOST | ONLRET | XTABS, SANE, NONE, [b"x\n"], b"abc\n\tz"),
    "no opost": (ICRNL, 0, SANE, NONE, [b"ab\tc\x7f\x7f\n"], b"plain\ntext"),
    "raw": (0, 0, 0, {6: 1, 5: 0}, [b"\x03\x04\r\n\x7f\xff\0"], b""),
    "raw with echo": (0, OPOST | ONLCR, ECHO | ECHOCTL, {6: 1, 5: 0}, [b"a\x03\r\n\t\x7f"], b""),
    "cbreak": (ICRNL | IXON, OPOST | ONLCR, SANE & ~ICANON, {6: 1, 5: 0}, [b"a\x7f\x15\rq"], b""),
    "stop and start": (ICRNL | IXON, OPOST | ONLCR, SANE, NONE, [b"a\x13b", b"c\x11d\n"], b""),
    "ixany": (ICRNL | IXON | IXANY, OPOST | ONLCR, SANE, NONE, [b"a\x13", b"bc\n"], b""),
    "interrupt discards": (ICRNL | IXON, OPOST | ONLCR, SANE, NONE, [b"line\nabc", b"\x03", b"new\n"], b""),
    "interrupt without isig": (ICRNL, OPOST | ONLCR, SANE & ~ISIG, NONE, [b"a\x03\x1c\x1a\n"], b""),
    "disabled char": (ICRNL, OPOST | ONLCR, SANE, {4: 0, 2: 0}, [b"a\0\x04\x7fb\n"], b""),
    "empty end of file": (ICRNL, OPOST | ONLCR, SANE, NONE, [b"\x04after\n"], b""),
}


@pytest.mark.parametrize("name", list(CASES))
def test_like_the_host(name: str) -> None:
    iflag, oflag, lflag, cc, keys, written = CASES[name]
    ours = run_ours(make_termios(iflag, oflag, lflag, cc), keys, written)
    for _attempt in range(5):  # on a busy host its work queue may be late
        host = run_host(make_termios(iflag, oflag, lflag, cc), keys, written)
        if ours == host:
            break
    assert ours == host


def test_long_lines_keep_room_for_their_end() -> None:
    mode = make_termios(ICRNL, OPOST, SANE & ~ECHO, NONE)
    keys = [b"x" * 3000, b"y" * 3000, b"z\n"]
    host = run_host(mode, keys, b"")[1]
    ours = run_ours(mode, keys, b"")[1]
    assert [len(line) for line in ours] == [len(line) for line in host] == [4096]
    assert ours[0][-1:] == b"\n"


def test_signals() -> None:
    ours = Recorder()
    ours.receive(b"\x03\x1c\x1a")
    assert ours.signals == [2, 3, 20]
    assert bytes(ours.out) == b"^C^\\^Z"


def test_switching_modes_keeps_what_was_typed() -> None:
    for first in (b"abc", b"one\nabc"):
        canonical = make_termios(ICRNL, OPOST, ICANON, NONE)
        raw = make_termios(0, 0, 0, {6: 1, 5: 0})
        host = HostPty(canonical)
        ours = Recorder()
        ours.set_termios(make_termios(ICRNL, OPOST, ICANON, NONE))
        os.write(host.master, first)
        host.settle()
        ours.receive(first)
        ioctl(host.slave, termios.TCSETS, raw.pack())
        ours.set_termios(raw)
        assert ours.peek_raw(100) == b"".join(host.drain(host.slave))
        host.close()


def test_raw_to_canonical_pushes_a_line() -> None:
    raw = make_termios(0, 0, 0, {6: 1, 5: 0})
    host = HostPty(raw)
    ours = Recorder()
    ours.set_termios(raw.clone())
    for piece in (b"typed",):
        os.write(host.master, piece)
        host.settle()
        ours.receive(piece)
    canonical = make_termios(ICRNL, OPOST, ICANON, NONE)
    ioctl(host.slave, termios.TCSETS, canonical.pack())
    ours.set_termios(canonical)
    assert ours.lines[0].data == b"typed"
    assert b"".join(host.drain(host.slave)) == b"typed"
    host.close()
