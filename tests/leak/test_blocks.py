"""Functions on the way of every call leave no objects behind: compiled code counts references by itself."""

import gc
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from cloche.abi import structs
from cloche.abi.errno import LinuxError
from cloche.arch.x86_64 import sigframe
from cloche.arch.x86_64.registers import Registers
from cloche.wire import protocol, requests
from cloche.wire.protocol import Decoder, ProtocolError


def blocks_left_by(function: Callable[[], object]) -> int:
    """Memory blocks that 1,000 calls leave allocated, after as many to warm up."""
    for _ in range(1000):
        function()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(1000):
        function()
    gc.collect()
    return sys.getallocatedblocks() - before


def _frames() -> None:
    regs = Registers()
    regs.rsp = 0x7FFF00000000
    stack = sigframe.AltStack(0x100000, 0x4000, 0)
    frame = sigframe.build(
        regs, bytes(900), 11, bytes(128), 2**63, stack, 0x400000, 0x8000000, 0x500000, 14, 6, 8
    )
    sigframe.parse(frame.data[8:], regs)


def _files() -> None:
    structs.pack_stat(2**40, 2**41, 2**42, 4, 5, 6, 7, 2**43, 9, 10, 2**60, 2**60, 2**60)
    structs.pack_dirent64(2**63, 5, 8, b"name")
    structs.unpack_iovec(structs.IOVEC.pack(2**40, 2**41) * 10)
    structs.CloneArgs(bytes(88))


def _control() -> None:
    request = requests.ExecRequest([b"sh", b"-c", b"x" * 1000])
    request.env = [b"A=%d" % number for number in range(50)]
    frame = protocol.request(1, requests.EXEC, request.to_fields())
    decoder = Decoder()
    decoder.feed(protocol.hello("test") + frame[:100], [])
    (message,) = decoder.feed(frame[100:], [])
    requests.exec_request(message.fields, 0)
    requests.processes(requests.process_fields([requests.Process(1, 2, 3, "S", 4, b"command")] * 20))
    with suppress(ProtocolError):
        decoder.feed(b"\1\0\0\0\0\xff", [])


def _errors() -> None:
    with suppress(LinuxError):
        structs.unpack_timespec(structs.TIMESPEC.pack(-1, 0))
    with suppress(LinuxError):
        structs.unpack_iovec(structs.IOVEC.pack(0, 2**63))


@pytest.mark.parametrize("function", [_frames, _files, _control, _errors])
def test_nothing_is_left(function: Callable[[], None]) -> None:
    assert blocks_left_by(function) < 50


def test_a_leak_is_seen() -> None:
    kept: list[bytes] = []
    assert blocks_left_by(lambda: kept.append(bytes(100))) > 500
