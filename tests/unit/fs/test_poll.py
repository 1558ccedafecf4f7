"""poll, ppoll, select and pselect6."""

import struct

from cloche.abi.errno import EBADF, EINVAL, ERESTART_RESTARTBLOCK, ERESTARTNOHAND
from cloche.abi.poll import POLLHUP, POLLIN, POLLNVAL, POLLOUT
from cloche.abi.structs import POLLFD, pack_timespec, pack_timeval
from cloche.fs.pipe import create_pipe
from cloche.kernel.blocking import BLOCKED, Blocked
from cloche.mm.usermem import KernelIovIter
from cloche.syscalls.sys_poll import sys_poll, sys_ppoll, sys_pselect6, sys_select

from .harness import Guest


def setup() -> tuple[Guest, int, int]:
    guest = Guest()
    reader, writer = create_pipe(guest.kernel, guest.task, 0)
    files = guest.task.files
    return guest, files.install(reader, 100), files.install(writer, 100)


def pollfds(guest: Guest, *rows: tuple[int, int]) -> int:
    return guest.put(b"".join(POLLFD.pack(fd, events, 0x7FFF) for fd, events in rows))


def revents(guest: Guest, addr: int, count: int) -> list[int]:
    return [row[2] for row in POLLFD.iter_unpack(guest.get(addr, 8 * count))]


def write(guest: Guest, fd: int, data: bytes = b"x") -> None:
    guest.task.files.get(fd).write(guest.task, KernelIovIter(data))


def test_poll_now() -> None:
    guest, r, w = setup()
    addr = pollfds(guest, (r, POLLIN), (w, POLLOUT), (-1, POLLIN), (77, POLLIN))
    assert guest.call(sys_poll, addr, 4, 0) == 2
    assert revents(guest, addr, 4) == [0, POLLOUT, 0, POLLNVAL]
    addr = pollfds(guest, (r, POLLIN))
    assert guest.call(sys_poll, addr, 1, 0) == 0
    assert revents(guest, addr, 1) == [0]


def test_poll_waits() -> None:
    guest, r, w = setup()
    addr = pollfds(guest, (r, POLLIN), (w, 0))
    assert guest.call(sys_poll, addr, 2, -1) == BLOCKED
    write(guest, w)
    assert guest.step() == 1
    assert revents(guest, addr, 2) == [POLLIN, 0]
    file = guest.task.files.get(r)
    assert file.refs == 1
    queue = file.wait_queue()
    assert queue is not None and queue.is_empty()


def test_poll_sees_hangup_of_a_file_closed_meanwhile() -> None:
    guest, r, w = setup()
    addr = pollfds(guest, (r, 0))
    assert guest.call(sys_poll, addr, 1, 1000) == BLOCKED
    guest.task.files.close(guest.task, w)
    assert guest.step() == 1
    assert revents(guest, addr, 1) == [POLLHUP]


def test_poll_timeout_and_restart() -> None:
    guest, r, w = setup()
    addr = pollfds(guest, (r, POLLIN))
    assert guest.call(sys_poll, addr, 1, 10_000) == BLOCKED
    op = guest.task.blocked
    assert op is not None
    deadline = op.deadline_ns
    assert guest.interrupt() == -ERESTART_RESTARTBLOCK
    restart = guest.task.restart
    assert isinstance(restart, Blocked)
    assert restart.restart(guest.task) == BLOCKED
    again = guest.task.blocked
    assert again is not None and again.deadline_ns == deadline
    assert guest.expire() == 0
    assert guest.task.files.get(r).refs == 1


def test_poll_limits() -> None:
    guest, _r, _w = setup()
    assert guest.call(sys_poll, 4096, 1025, 0) == -EINVAL
    assert guest.call(sys_poll, 1 << 40, 1, 0) == -14
    assert guest.call(sys_poll, 0, 0, 0) == 0


def test_ppoll_mask_is_in_force_only_while_waiting() -> None:
    guest, r, w = setup()
    guest.task.sigmask.now = 0x5
    addr = pollfds(guest, (r, POLLIN))
    mask = guest.put(struct.pack("<Q", 0x300))
    assert guest.call(sys_ppoll, addr, 1, 0, mask, 8) == BLOCKED
    assert guest.task.sigmask.now == 0x200 and guest.task.sigmask.lasting() == 5
    write(guest, w)
    assert guest.step() == 1
    assert guest.task.sigmask.now == 5 and not guest.task.sigmask.is_lent
    assert guest.call(sys_ppoll, addr, 1, 0, mask, 4) == -EINVAL


def test_ppoll_interrupted_keeps_the_mask_for_the_handler() -> None:
    guest, r, _w = setup()
    addr = pollfds(guest, (r, POLLIN))
    mask = guest.put(bytes(8))
    limit = guest.put(pack_timespec(100 * 10**9))
    guest.task.sigmask.now = 1 << 9
    guest.task.pending.mask = 1 << 9
    assert guest.call(sys_ppoll, addr, 1, limit, mask, 8) == -ERESTARTNOHAND
    assert guest.task.sigmask.lasting() == 1 << 9 and guest.task.sigmask.now == 0
    assert guest.task.wants_attention
    seconds, _nanos = struct.unpack("<qq", guest.get(limit, 16))
    assert seconds == 99


def test_ppoll_bad_time() -> None:
    guest, r, _w = setup()
    addr = pollfds(guest, (r, POLLIN))
    assert guest.call(sys_ppoll, addr, 1, guest.put(struct.pack("<qq", 1, 10**9)), 0, 0) == -EINVAL
    zero = guest.put(bytes(16))
    assert guest.call(sys_ppoll, addr, 1, zero, 0, 0) == 0


def fdset(guest: Guest, *fds: int) -> int:
    value = 0
    for fd in fds:
        value |= 1 << fd
    return guest.put(value.to_bytes(128, "little"))


def bits(guest: Guest, addr: int) -> set[int]:
    value = int.from_bytes(guest.get(addr, 128), "little")
    return {fd for fd in range(1024) if value >> fd & 1}


def test_select_now() -> None:
    guest, r, w = setup()
    write(guest, w)
    reads, writes = fdset(guest, r), fdset(guest, w)
    assert guest.call(sys_select, 10, reads, writes, 0, 0) == 2
    assert bits(guest, reads) == {r} and bits(guest, writes) == {w}


def test_select_waits_and_counts_bits() -> None:
    guest, r, w = setup()
    reads = fdset(guest, r)
    limit = guest.put(pack_timeval(5 * 10**9))
    assert guest.call(sys_select, r + 1, reads, 0, 0, limit) == BLOCKED
    assert bits(guest, reads) == {r}
    write(guest, w)
    assert guest.step() == 1
    assert bits(guest, reads) == {r}
    seconds, micros = struct.unpack("<qq", guest.get(limit, 16))
    assert seconds == 4 and micros > 0
    assert guest.call(sys_select, r + 1, reads, 0, 0, 0) == 1


def test_select_timeout_clears_the_sets() -> None:
    guest, r, _w = setup()
    reads = fdset(guest, r)
    limit = guest.put(pack_timeval(10**9))
    assert guest.call(sys_select, r + 1, reads, 0, 0, limit) == BLOCKED
    assert guest.expire() == 0
    assert bits(guest, reads) == set()
    zero = guest.put(bytes(16))
    reads = fdset(guest, r)
    assert guest.call(sys_select, r + 1, reads, 0, 0, zero) == 0
    assert bits(guest, reads) == set()


def test_select_errors() -> None:
    guest, r, _w = setup()
    assert guest.call(sys_select, -1, 0, 0, 0, 0) == -EINVAL
    assert guest.call(sys_select, 10, fdset(guest, 9), 0, 0, guest.put(bytes(16))) == -EBADF
    assert guest.call(sys_select, 10, fdset(guest, 9, 200), 0, 0, guest.put(bytes(16))) == -EBADF
    assert guest.call(sys_select, r + 1, 0, 0, 0, guest.put(struct.pack("<qq", -1, 0))) == -EINVAL


def test_select_ignores_what_is_beyond_the_table() -> None:
    guest, _r, _w = setup()
    assert guest.call(sys_select, 1000, fdset(guest, 500), 0, 0, guest.put(bytes(16))) == 0


def test_pselect6_mask_argument() -> None:
    guest, r, w = setup()
    mask = guest.put(struct.pack("<Q", 0x200))
    packed = guest.put(struct.pack("<QQ", mask, 8))
    reads = fdset(guest, r)
    assert guest.call(sys_pselect6, r + 1, reads, 0, 0, 0, packed) == BLOCKED
    assert guest.task.sigmask.now == 0x200
    assert guest.interrupt() == -ERESTARTNOHAND
    assert guest.task.sigmask.now == 0x200 and guest.task.sigmask.lasting() == 0
