"""fs.pipe against pipe(7) and Linux's edge cases."""

import pytest

from cloche.abi.errno import EAGAIN, EBUSY, EFAULT, EMFILE, ENXIO, EPIPE, LinuxError
from cloche.abi.fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, O_DIRECT, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT
from cloche.fs.pipe import PipeFile, create_pipe, open_fifo, pipe_fcntl
from cloche.mm.usermem import KernelIovIter
from cloche.syscalls.sys_pipe import sys_pipe, sys_pipe2
from cloche.vfs.objects import FileSystem, Inode

from .harness import Guest


def pair(guest: Guest, flags: int = 0) -> tuple[PipeFile, PipeFile]:
    reader, writer = create_pipe(guest.kernel, guest.task, flags)
    reader.get()
    writer.get()
    return reader, writer


def read(guest: Guest, file: PipeFile, count: int) -> bytes | int:
    sink = KernelIovIter(capacity=count)
    result = file.read(guest.task, sink)
    return bytes(sink.sink) if result >= 0 else result


def write(guest: Guest, file: PipeFile, data: bytes) -> int:
    return file.write(guest.task, KernelIovIter(data))


def test_bytes_come_out_in_order() -> None:
    guest = Guest()
    reader, writer = pair(guest)
    assert read(guest, reader, 10) == -EAGAIN
    assert write(guest, writer, b"hello ") == 6
    assert write(guest, writer, b"world") == 5
    assert read(guest, reader, 8) == b"hello wo"
    assert read(guest, reader, 8) == b"rld"
    writer.put()
    assert read(guest, reader, 8) == b""


def test_capacity_counts_pages() -> None:
    guest = Guest()
    reader, writer = pair(guest)
    for _index in range(16):
        assert write(guest, writer, b"x" * 4095) == 4095
    assert write(guest, writer, b"yy") == -EAGAIN  # does not fit into the last page
    assert write(guest, writer, b"y") == 1  # this does
    assert write(guest, writer, b"y") == -EAGAIN
    assert writer.poll(guest.task) & POLLOUT == 0
    assert read(guest, reader, 4094) == b"x" * 4094
    assert writer.poll(guest.task) & POLLOUT == 0  # the first page is still in use
    assert read(guest, reader, 1) == b"x"
    assert writer.poll(guest.task) & POLLOUT
    assert write(guest, writer, b"z" * 5000) == 4096


def test_single_bytes_fill_64_kib() -> None:
    guest = Guest()
    reader, writer = pair(guest)
    count = 0
    while write(guest, writer, b"a") == 1:
        count += 1
    assert count == 65536
    assert reader.pipe.size == 65536
    assert len(read(guest, reader, 100000)) == 65536  # type: ignore[arg-type]
    assert reader.pipe.used == 0


def test_atomic_up_to_pipe_buf() -> None:
    guest = Guest()
    _reader, writer = pair(guest)
    assert write(guest, writer, b"a" * 65536) == 65536
    assert write(guest, writer, b"b" * 4096) == -EAGAIN
    reader2, writer2 = pair(guest)
    assert write(guest, writer2, b"a" * 61000) == 61000
    assert write(guest, writer2, b"b" * 10000) == 4096  # the odd part does not fit into the newest page
    assert reader2.pipe.size == 61000 + 4096


@pytest.mark.parametrize("sizes", [[1, 4096, 5000, 3], [8191, 1, 1, 8193], [100] * 100, [70000]])
def test_content_survives_odd_sizes(sizes: list[int]) -> None:
    guest = Guest()
    reader, writer = pair(guest)
    sent = bytearray()
    for index, size in enumerate(sizes):
        data = bytes([index & 255]) * size
        done = write(guest, writer, data)
        sent += data[:done]
    got = bytearray()
    while True:
        piece = read(guest, reader, 777)
        if isinstance(piece, int):
            break
        got += piece
    assert got == sent
    assert reader.pipe.used == 0 and reader.pipe.size == 0


def test_packet_mode_keeps_boundaries() -> None:
    guest = Guest()
    reader, writer = pair(guest, O_DIRECT)
    write(guest, writer, b"one")
    write(guest, writer, b"two2")
    assert read(guest, reader, 2) == b"on"  # the rest of the packet is lost
    assert read(guest, reader, 100) == b"two2"
    assert write(guest, writer, b"z" * 5000) == 5000
    assert read(guest, reader, 9999) == b"z" * 4096
    assert read(guest, reader, 9999) == b"z" * 904


def test_write_without_reader() -> None:
    guest = Guest()
    reader, writer = pair(guest)
    reader.put()
    assert writer.poll(guest.task) & POLLERR
    assert write(guest, writer, b"x") == -EPIPE
    assert guest.signals == [(guest.task, 13)]
    assert write(guest, writer, b"") == 0


def test_poll_hangup_only_without_writers() -> None:
    guest = Guest()
    reader, writer = pair(guest)
    assert reader.poll(guest.task) == 0
    write(guest, writer, b"x")
    assert reader.poll(guest.task) & (POLLIN | POLLHUP) == POLLIN
    writer.put()
    assert reader.poll(guest.task) & (POLLIN | POLLHUP) == POLLIN | POLLHUP
    read(guest, reader, 9)
    assert reader.poll(guest.task) & (POLLIN | POLLHUP) == POLLHUP


def test_size_changes() -> None:
    guest = Guest()
    reader, writer = pair(guest)
    assert pipe_fcntl(guest.task, reader, F_GETPIPE_SZ, 0) == 65536
    assert pipe_fcntl(guest.task, reader, F_SETPIPE_SZ, 5000) == 8192
    assert write(guest, writer, b"x" * 10000) == 8192
    assert pipe_fcntl(guest.task, reader, F_SETPIPE_SZ, 1) == -EBUSY
    assert pipe_fcntl(guest.task, reader, F_SETPIPE_SZ, 16384) == 16384
    assert write(guest, writer, b"x" * 10000) == 8192


def make_fifo() -> Inode:
    return Inode(FileSystem("fake", 1, 1), 5, 0o10644)


def test_fifo_open_protocol() -> None:
    guest = Guest()
    inode = make_fifo()
    with pytest.raises(LinuxError) as caught:
        open_fifo(guest.task, None, inode, O_WRONLY | O_NONBLOCK)
    assert caught.value.errno == ENXIO
    reader = open_fifo(guest.task, None, inode, O_RDONLY).get()
    assert reader.open_is_pending(guest.task)
    writer = open_fifo(guest.task, None, inode, O_WRONLY).get()
    assert not writer.open_is_pending(guest.task)
    writer.put()
    assert not reader.open_is_pending(guest.task)  # a writer came, although it has closed again
    reader.put()
    assert inode.pipe is None


def test_fifo_read_write_never_waits() -> None:
    guest = Guest()
    both = open_fifo(guest.task, None, make_fifo(), O_RDWR).get()
    assert isinstance(both, PipeFile)
    assert not both.open_is_pending(guest.task)
    assert write(guest, both, b"self") == 4
    assert read(guest, both, 9) == b"self"
    assert read(guest, both, 9) == -EAGAIN


def test_fifo_nonblocking_reader_has_no_hangup_before_a_writer() -> None:
    guest = Guest()
    inode = make_fifo()
    reader = open_fifo(guest.task, None, inode, O_RDONLY | O_NONBLOCK).get()
    assert isinstance(reader, PipeFile)
    assert reader.poll(guest.task) & POLLHUP == 0
    assert read(guest, reader, 1) == b""
    writer = open_fifo(guest.task, None, inode, O_WRONLY | O_NONBLOCK).get()
    writer.put()
    assert reader.poll(guest.task) & POLLHUP


def test_interrupted_open_gives_up_its_end() -> None:
    guest = Guest()
    inode = make_fifo()
    reader = open_fifo(guest.task, None, inode, O_RDONLY).get()
    assert reader.open_is_pending(guest.task)
    reader.put()
    with pytest.raises(LinuxError):
        open_fifo(guest.task, None, inode, O_WRONLY | O_NONBLOCK)


def test_pipe_calls() -> None:
    guest = Guest()
    addr = guest.put(bytes(8))
    assert guest.call(sys_pipe, addr) == 0
    assert guest.get(addr, 8) == bytes([0, 0, 0, 0, 1, 0, 0, 0])
    assert guest.call(sys_pipe2, addr, 0o1) == -22
    assert guest.call(sys_pipe2, addr, 0o2000000 | O_NONBLOCK) == 0
    assert guest.task.files.marked() == [2, 3]
    assert guest.task.files.get(2).flags & O_NONBLOCK
    assert guest.call(sys_pipe, 1 << 30) == -EFAULT
    assert guest.task.files.descriptors() == [0, 1, 2, 3]
    guest.task.group.rlimits[7] = (5, 5)
    assert guest.call(sys_pipe, addr) == -EMFILE
    assert guest.task.files.descriptors() == [0, 1, 2, 3]


def test_fionread() -> None:
    guest = Guest()
    reader, writer = pair(guest)
    write(guest, writer, b"12345")
    addr = guest.put(bytes(4))
    assert reader.ioctl(guest.task, 0x541B, addr) == 0
    assert guest.get(addr, 4) == b"\5\0\0\0"
