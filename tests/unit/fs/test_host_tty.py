"""The bridge between a host terminal and the sandbox's own."""

import os
import pty
import select
import tty as host_tty

from cloche.abi.errno import EAGAIN
from cloche.abi.poll import POLLHUP
from cloche.fs.devpts import devpts_fs
from cloche.fs.host_tty import TerminalBridge, bridge_terminal
from cloche.fs.tty_files import SlaveFile
from cloche.mm.usermem import KernelIovIter

from .harness import Guest


class Fixture:
    def __init__(self) -> None:
        self.guest = Guest()
        devpts_fs(self.guest.container)
        self.screen, self.line = pty.openpty()
        host_tty.setraw(self.line)
        made = bridge_terminal(self.guest.task, self.guest.kernel, self.line, self.line)
        self.bridge: TerminalBridge = made[0]
        self.slave: SlaveFile = made[1]
        self.slave.get()

    def type(self, keys: bytes) -> None:
        os.write(self.screen, keys)
        assert select.select([self.line], [], [], 60)[0]
        self.guest.host_events()

    def shown(self) -> bytes:
        """The text on the screen, once the host has moved it there."""
        data = b""
        while select.select([self.screen], [], [], 0.1 if data else 10)[0]:
            data += os.read(self.screen, 65536)
        return data

    def read(self) -> bytes | int:
        sink = KernelIovIter(capacity=100)
        result = self.slave.read(self.guest.task, sink)
        return bytes(sink.sink) if result >= 0 else result

    def write(self, data: bytes) -> int:
        return self.slave.write(self.guest.task, KernelIovIter(data))


def test_keys_and_screen() -> None:
    f = Fixture()
    f.type(b"hi\r")
    assert f.read() == b"hi\n"
    assert f.write(b"answer\n") == 7
    assert f.shown() == b"hi\r\nanswer\r\n"


def test_interrupt_key_signals_the_foreground() -> None:
    f = Fixture()
    f.bridge.tty.adopt(f.guest.task.group)
    f.type(b"\x03")
    assert f.guest.task.group.pending.mask == 2


def test_stuck_screen_loses_nothing() -> None:
    f = Fixture()
    total = 0
    for _round in range(100):
        count = f.write(b"x" * 4000)
        if count == -EAGAIN:
            break
        total += count
    assert count == -EAGAIN
    assert f.bridge.is_writing
    seen = 0
    for _round in range(200):
        if select.select([f.screen], [], [], 0.2)[0]:
            seen += len(os.read(f.screen, 65536))
        f.guest.host_events()
        if seen == total:
            break
    assert seen == total
    f.type(b"k\r")
    assert f.read() == b"k\n"


def test_flush_at_the_end() -> None:
    f = Fixture()
    f.bridge.tty.out += b"last words"
    f.bridge.flush()
    assert f.shown() == b"last words"
    assert f.guest.platform.tokens == {}


def test_vanished_terminal_hangs_up() -> None:
    f = Fixture()
    f.bridge.tty.adopt(f.guest.task.group)
    os.close(f.screen)
    f.guest.host_events()
    assert f.slave.poll(f.guest.task) & POLLHUP
    assert f.guest.task.group.pending.mask & 1
    assert f.guest.platform.tokens == {}


def test_resize() -> None:
    f = Fixture()
    f.bridge.resize(30, 100)
    assert f.bridge.tty.winsize == (30, 100, 0, 0)
