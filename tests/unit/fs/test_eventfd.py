"""eventfd, timerfd, signalfd and pidfd."""

import struct
import time

from cloche.abi.errno import EAGAIN, EBADF, EINVAL, EPERM, ESRCH
from cloche.abi.poll import POLLHUP, POLLIN, POLLOUT
from cloche.abi.structs import pack_itimerspec
from cloche.fs.eventfd import MAX_COUNT, EventFile
from cloche.fs.pidfd import install, pidfd_group
from cloche.fs.signalfd import SignalFile
from cloche.fs.timerfd import TimerFile
from cloche.kernel.blocking import BLOCKED
from cloche.kernel.signals import send_group_info, user_info
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import KernelIovIter
from cloche.syscalls.sys_eventfd import (
    sys_eventfd2,
    sys_signalfd4,
    sys_timerfd_create,
    sys_timerfd_gettime,
    sys_timerfd_settime,
)
from cloche.syscalls.sys_pidfd import sys_pidfd_getfd, sys_pidfd_open, sys_pidfd_send_signal
from cloche.syscalls.sys_rw import sys_read, sys_write
from cloche.vfs.objects import FileDescription

from .harness import Guest

MS = 1_000_000


def read_u64(guest: Guest, fd: int) -> int:
    addr = guest.put(bytes(8))
    result = guest.call(sys_read, fd, addr, 8)
    return int.from_bytes(guest.get(addr, 8), "little") if result == 8 else result


def write_u64(guest: Guest, fd: int, value: int) -> int:
    return guest.call(sys_write, fd, guest.put(value.to_bytes(8, "little")), 8)


def poll(guest: Guest, fd: int) -> int:
    return guest.task.files.get(fd).poll(guest.task)


# -- eventfd -------------------------------------------------------------------------------------------------
def test_counter() -> None:
    guest = Guest()
    fd = guest.call(sys_eventfd2, 3, 0o4000)
    assert poll(guest, fd) == POLLIN | POLLOUT
    assert write_u64(guest, fd, 4) == 8
    assert read_u64(guest, fd) == 7
    assert read_u64(guest, fd) == -EAGAIN
    assert poll(guest, fd) == POLLOUT
    assert write_u64(guest, fd, MAX_COUNT) == -EINVAL
    assert write_u64(guest, fd, MAX_COUNT - 1) == 8
    assert poll(guest, fd) == POLLIN
    assert write_u64(guest, fd, 1) == -EAGAIN
    assert guest.call(sys_read, fd, guest.put(bytes(8)), 7) == -EINVAL
    assert guest.call(sys_eventfd2, 0, 0x100) == -EINVAL


def test_semaphore() -> None:
    guest = Guest()
    fd = guest.call(sys_eventfd2, 2, 1)
    assert [read_u64(guest, fd) for _ in range(3)] == [1, 1, BLOCKED]


def test_blocked_reader_and_writer() -> None:
    guest = Guest()
    fd = guest.call(sys_eventfd2, 0, 0)
    assert read_u64(guest, fd) == BLOCKED
    file = guest.task.files.get(fd)
    assert isinstance(file, EventFile)
    file.signal(5)
    assert guest.step() == 8
    assert write_u64(guest, fd, MAX_COUNT - 1) == 8
    assert write_u64(guest, fd, 9) == BLOCKED
    sink = KernelIovIter(capacity=8)
    assert file.read(guest.task, sink) == 8
    assert guest.step() == 8
    assert file.count == 9
    assert file.fdinfo().startswith("eventfd-count:                9\n")


# -- timerfd -------------------------------------------------------------------------------------------------
def timer(guest: Guest, clock: int = 1) -> tuple[int, TimerFile]:
    fd = guest.call(sys_timerfd_create, clock, 0o4000)
    file = guest.task.files.get(fd)
    assert isinstance(file, TimerFile)
    return fd, file


def settime(guest: Guest, fd: int, flags: int, interval_ns: int, value_ns: int, old: int = 0) -> int:
    new = guest.put(pack_itimerspec(interval_ns, value_ns))
    return guest.call(sys_timerfd_settime, fd, flags, new, old)


def test_one_shot() -> None:
    guest = Guest()
    fd, file = timer(guest)
    assert read_u64(guest, fd) == -EAGAIN
    assert settime(guest, fd, 0, 0, 3600 * 10**9) == 0
    assert poll(guest, fd) == 0
    addr = guest.put(bytes(32))
    assert guest.call(sys_timerfd_gettime, fd, addr) == 0
    interval_s, _ns, value_s, _ns2 = struct.unpack("<4q", guest.get(addr, 32))
    assert (interval_s, value_s) == (0, 3599)
    assert settime(guest, fd, 1, 0, 1, addr) == 0  # in the past: at once
    assert struct.unpack("<4q", guest.get(addr, 32))[2] == 3599
    assert poll(guest, fd) == POLLIN
    assert read_u64(guest, fd) == 1
    assert read_u64(guest, fd) == -EAGAIN
    assert file.gettime() == (0, 0)


def test_interval_counts_what_was_missed() -> None:
    guest = Guest()
    fd, file = timer(guest)
    start = monotonic_ns() - 105 * MS
    assert settime(guest, fd, 1, 10 * MS, start) == 0
    assert 11 <= read_u64(guest, fd) < 100_000
    assert file.interval_ns == 10 * MS and 0 < file.remaining_ns() <= 10 * MS
    assert guest.kernel.timers.next_deadline_ns() > 0
    settime(guest, fd, 0, 0, 0)
    assert guest.kernel.timers.next_deadline_ns() == -1


def test_expiry_wakes_once_until_read() -> None:
    guest = Guest()
    fd, file = timer(guest)
    settime(guest, fd, 0, 1, 1)
    time.sleep(0.002)
    guest.kernel.timers.run_due(monotonic_ns())
    assert file.is_expired and guest.kernel.timers.next_deadline_ns() == -1
    assert read_u64(guest, fd) > 1000


def test_blocked_timer_read() -> None:
    guest = Guest()
    fd = guest.call(sys_timerfd_create, 0, 0)
    settime(guest, fd, 0, 0, 5 * MS)
    assert read_u64(guest, fd) == BLOCKED
    guest.kernel.timers.run_due(monotonic_ns())
    assert guest.step() == BLOCKED
    time.sleep(0.006)
    guest.kernel.timers.run_due(monotonic_ns())
    assert guest.step() == 8


def test_timer_errors() -> None:
    guest = Guest()
    assert guest.call(sys_timerfd_create, 2, 0) == -EINVAL
    assert guest.call(sys_timerfd_create, 1, 1) == -EINVAL
    guest.task.creds.cap_effective = 0
    assert guest.call(sys_timerfd_create, 8, 0) == -EPERM
    fd, _file = timer(guest)
    assert settime(guest, fd, 8, 0, 0) == -EINVAL
    bad = guest.put(struct.pack("<4q", 0, 0, 0, 10**9))
    assert guest.call(sys_timerfd_settime, fd, 0, bad, 0) == -EINVAL
    event = guest.call(sys_eventfd2, 0, 0)
    assert settime(guest, event, 0, 0, 1) == -EINVAL
    assert settime(guest, 99, 0, 0, 1) == -EBADF


# -- signalfd ------------------------------------------------------------------------------------------------
def test_signals_are_read() -> None:
    guest = Guest()
    guest.task.sigmask.now = 1 << 9 | 1 << 11
    mask = guest.put(struct.pack("<Q", 1 << 9 | 1 << 11 | 1 << 8))
    fd = guest.call(sys_signalfd4, -1, mask, 8, 0)
    file = guest.task.files.get(fd)
    assert isinstance(file, SignalFile) and file.mask == 1 << 9 | 1 << 11
    addr = guest.put(bytes(300))
    assert guest.call(sys_read, fd, addr, 300) == BLOCKED
    assert file.poll(guest.task) == 0
    for signo in (12, 10):
        send_group_info(guest.task.group, user_info(guest.task, signo))
    assert guest.step() == 256
    first = struct.unpack_from("<IiiII", guest.get(addr, 128))
    assert first == (10, 0, 0, 2, 0)
    assert guest.get(addr + 128, 4) == b"\x0c\0\0\0"
    assert guest.call(sys_read, fd, addr, 127) == -EINVAL
    assert guest.task.group.pending.mask == 0


def test_signalfd_belongs_to_the_reader() -> None:
    guest = Guest()
    mask = guest.put(struct.pack("<Q", 1 << 9))
    fd = guest.call(sys_signalfd4, -1, mask, 8, 0)
    child = guest.add_task(9)
    file = guest.task.files.get(fd)
    assert file.poll(child) == 0
    assert file.wait_queue() is child.group.signal_wait
    child.sigmask.now = 1 << 9
    send_group_info(child.group, user_info(child, 10))
    assert file.poll(child) == POLLIN and file.poll(guest.task) == 0


def test_signalfd_changes_its_mask() -> None:
    guest = Guest()
    fd = guest.call(sys_signalfd4, -1, guest.put(struct.pack("<Q", 1)), 8, 0)
    assert guest.call(sys_signalfd4, fd, guest.put(struct.pack("<Q", 2)), 8, 0) == fd
    file = guest.task.files.get(fd)
    assert isinstance(file, SignalFile) and file.mask == 2
    assert guest.call(sys_signalfd4, fd, guest.put(bytes(8)), 4, 0) == -EINVAL
    event = guest.call(sys_eventfd2, 0, 0)
    assert guest.call(sys_signalfd4, event, guest.put(bytes(8)), 8, 0) == -EINVAL


# -- pidfd ---------------------------------------------------------------------------------------------------
def test_pidfd_is_readable_when_the_process_ends() -> None:
    guest = Guest()
    install(guest.kernel)
    child = guest.add_task(7)
    fd = guest.call(sys_pidfd_open, 7, 0)
    assert guest.task.files.is_cloexec(fd)
    file = guest.task.files.get(fd)
    assert pidfd_group(file) is child.group
    assert file.poll(guest.task) == 0
    child.group.end.is_zombie = True
    assert file.poll(guest.task) & (POLLIN | POLLHUP) == POLLIN
    assert file.fdinfo_in(None) == "Pid:\t7\nNSpid:\t7\n"
    child.group.end.is_reaped = True
    assert file.poll(guest.task) & POLLHUP
    assert file.fdinfo_in(None).startswith("Pid:\t-1\n")
    assert guest.call(sys_pidfd_send_signal, fd, 0, 0, 0) == -ESRCH
    assert guest.call(sys_read, fd, guest.put(bytes(8)), 8) == -EINVAL


def test_pidfd_signals() -> None:
    guest = Guest()
    child = guest.add_task(7)
    child.sigmask.now = 1 << 9
    fd = guest.call(sys_pidfd_open, 7, 0)
    assert guest.call(sys_pidfd_send_signal, fd, 10, 0, 0) == 0
    assert child.group.pending.mask == 1 << 9
    assert guest.call(sys_pidfd_send_signal, fd, 99, 0, 0) == -EINVAL
    assert guest.call(sys_pidfd_send_signal, fd, 10, 0, 64) == -EINVAL
    forged = guest.put(struct.pack("<iii", 10, 0, 0) + bytes(116))
    assert guest.call(sys_pidfd_send_signal, fd, 10, forged, 0) == -EPERM
    queued = guest.put(struct.pack("<iii", 10, 0, -1) + bytes(116))
    assert guest.call(sys_pidfd_send_signal, fd, 10, queued, 0) == 0
    assert guest.call(sys_pidfd_send_signal, fd, 12, queued, 0) == -EINVAL
    event = guest.call(sys_eventfd2, 0, 0)
    assert guest.call(sys_pidfd_send_signal, event, 10, 0, 0) == -EBADF


def test_pidfd_open_errors() -> None:
    guest = Guest()
    assert guest.call(sys_pidfd_open, 0, 0) == -EINVAL
    assert guest.call(sys_pidfd_open, 12345, 0) == -ESRCH
    assert guest.call(sys_pidfd_open, 2, 1) == -EINVAL
    thread = guest.add_task(3, guest.task.group)
    assert guest.call(sys_pidfd_open, thread.tid, 0) == -EINVAL
    assert guest.call(sys_pidfd_open, thread.tid, 0o200) >= 0


def test_pidfd_getfd() -> None:
    guest = Guest()
    child = guest.add_task(7)
    theirs = FileDescription(None, guest.task.fs.root.inode(), 0)
    child.files.install(theirs, 10)
    fd = guest.call(sys_pidfd_open, 7, 0)
    got = guest.call(sys_pidfd_getfd, fd, 0, 0)
    assert guest.task.files.get(got) is theirs
    assert guest.call(sys_pidfd_getfd, fd, 5, 0) == -EBADF
    assert guest.call(sys_pidfd_getfd, fd, 0, 1) == -EINVAL
    child.creds.uid = 5
    guest.task.creds.cap_effective = 0
    assert guest.call(sys_pidfd_getfd, fd, 0, 0) == -EPERM
