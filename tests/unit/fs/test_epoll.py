"""fs.epoll and the epoll calls against epoll(7)."""

from cloche.abi.errno import EBADF, EEXIST, EINVAL, ELOOP, ENOENT, ENOSPC, EPERM
from cloche.abi.poll import (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
)
from cloche.abi.structs import EPOLL_EVENT, pack_epoll_event
from cloche.fs.epoll import LOOKS, MAX_WATCHERS, EpollFile
from cloche.fs.pipe import create_pipe
from cloche.kernel.blocking import BLOCKED
from cloche.mm.usermem import KernelIovIter
from cloche.syscalls.sys_poll import sys_epoll_create1, sys_epoll_ctl, sys_epoll_wait
from cloche.vfs.objects import FileDescription, FileSystem, Inode

from .harness import Guest


class Fixture:
    def __init__(self) -> None:
        self.guest = Guest()
        self.ep = self.guest.call(sys_epoll_create1, 0)
        self.r, self.w = self.pipe()
        self.buffer = self.guest.put(bytes(12 * 16))

    def pipe(self) -> tuple[int, int]:
        files = self.guest.task.files
        reader, writer = create_pipe(self.guest.kernel, self.guest.task, 0)
        return files.install(reader, 100), files.install(writer, 100)

    def ctl(self, operation: int, fd: int, events: int = 0, data: int = 0, ep: int = -1) -> int:
        addr = self.guest.put(pack_epoll_event(events, data))
        return self.guest.call(sys_epoll_ctl, self.ep if ep < 0 else ep, operation, fd, addr)

    def wait(self, limit: int = 16, timeout: int = 0, ep: int = -1) -> list[tuple[int, int]] | int:
        count = self.guest.call(sys_epoll_wait, self.ep if ep < 0 else ep, self.buffer, limit, timeout)
        return self.events(count)

    def events(self, count: int) -> list[tuple[int, int]] | int:
        if count < 0:
            return count
        return list(EPOLL_EVENT.iter_unpack(self.guest.get(self.buffer, 12 * count)))

    def write(self, fd: int, data: bytes = b"x") -> None:
        file = self.guest.task.files.get(fd)
        assert file.write(self.guest.task, KernelIovIter(data)) == len(data)

    def read(self, fd: int, count: int = 100) -> None:
        self.guest.task.files.get(fd).read(self.guest.task, KernelIovIter(capacity=count))

    def close(self, fd: int) -> None:
        self.guest.task.files.close(self.guest.task, fd)


def test_level_triggered_repeats() -> None:
    f = Fixture()
    assert f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN, 7) == 0
    assert f.wait() == []
    f.write(f.w)
    assert f.wait() == [(EPOLLIN, 7)]
    assert f.wait() == [(EPOLLIN, 7)]
    f.read(f.r)
    assert f.wait() == []


def test_edge_triggered_reports_each_write_once() -> None:
    f = Fixture()
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN | EPOLLET, 7)
    f.write(f.w)
    assert f.wait() == [(EPOLLIN, 7)]
    assert f.wait() == []
    f.write(f.w)
    assert f.wait() == [(EPOLLIN, 7)]


def test_oneshot_is_rearmed_by_mod() -> None:
    f = Fixture()
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN | EPOLLONESHOT, 7)
    f.write(f.w)
    assert f.wait() == [(EPOLLIN, 7)]
    f.write(f.w)
    assert f.wait() == []
    assert f.ctl(EPOLL_CTL_MOD, f.r, EPOLLIN | EPOLLONESHOT, 8) == 0
    assert f.wait() == [(EPOLLIN, 8)]


def test_hangup_is_always_reported() -> None:
    f = Fixture()
    f.ctl(EPOLL_CTL_ADD, f.r, 0, 7)
    f.close(f.w)
    assert f.wait() == [(EPOLLHUP, 7)]


def test_ready_items_take_turns() -> None:
    f = Fixture()
    fds = [f.pipe() for _ in range(3)]
    for index, (r, w) in enumerate(fds):
        f.ctl(EPOLL_CTL_ADD, r, EPOLLIN, index)
        f.write(w)
    seen = [f.wait(limit=1) for _ in range(4)]
    assert seen == [[(1, 0)], [(1, 1)], [(1, 2)], [(1, 0)]]
    assert f.wait(limit=2) == [(1, 1), (1, 2)]


def test_errors() -> None:
    f = Fixture()
    assert f.ctl(EPOLL_CTL_DEL, f.r) == -ENOENT
    assert f.ctl(EPOLL_CTL_MOD, f.r, EPOLLIN) == -ENOENT
    assert f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN) == 0
    assert f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN) == -EEXIST
    assert f.ctl(EPOLL_CTL_ADD, f.ep, EPOLLIN) == -EINVAL
    assert f.ctl(EPOLL_CTL_ADD, 99, EPOLLIN) == -EBADF
    assert f.ctl(EPOLL_CTL_ADD, f.w, EPOLLIN, ep=f.r) == -EINVAL
    assert f.ctl(9, f.w, EPOLLIN) == -EINVAL
    plain = f.guest.task.files.install(
        FileDescription(None, Inode(FileSystem("x", 1, 1), 1, 0o100644), 2), 100
    )
    assert f.ctl(EPOLL_CTL_ADD, plain, EPOLLIN) == -EPERM
    assert f.wait(limit=0) == -EINVAL
    assert f.guest.call(sys_epoll_wait, f.r, f.buffer, 1, 0) == -EINVAL
    assert f.ctl(EPOLL_CTL_MOD, f.r, EPOLLIN | EPOLLEXCLUSIVE) == -EINVAL


def test_closing_the_last_descriptor_forgets_the_file() -> None:
    f = Fixture()
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN, 1)
    f.write(f.w)
    duplicate = f.guest.task.files.install(f.guest.task.files.get(f.r), 100)
    f.close(f.r)
    assert f.wait() == [(EPOLLIN, 1)]  # the file is still open: epoll(7), Q6
    f.close(duplicate)
    assert f.wait() == []


def test_waits_and_wakes() -> None:
    f = Fixture()
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN, 3)
    assert f.guest.call(sys_epoll_wait, f.ep, f.buffer, 4, -1) == BLOCKED
    assert f.guest.step() == BLOCKED
    f.write(f.w)
    assert f.events(f.guest.step()) == [(EPOLLIN, 3)]
    assert f.guest.task.blocked is None


def test_timeout_and_interruption() -> None:
    f = Fixture()
    assert f.guest.call(sys_epoll_wait, f.ep, f.buffer, 4, 50) == BLOCKED
    assert f.guest.expire() == 0
    assert f.guest.call(sys_epoll_wait, f.ep, f.buffer, 4, 50) == BLOCKED
    assert f.guest.interrupt() == -4


def test_one_waiter_is_woken_per_event() -> None:
    f = Fixture()
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN | EPOLLET, 3)
    second = f.guest.add_task(3, f.guest.task.group)
    second.files = f.guest.task.files
    f.guest.call(sys_epoll_wait, f.ep, f.buffer, 4, -1)
    f.guest.call(sys_epoll_wait, f.ep, f.buffer, 4, -1, task=second)
    f.write(f.w)
    assert f.guest.kernel.ready == [f.guest.task]
    # A waiter that takes a signal instead passes the wake-up on.
    f.guest.kernel.ready.clear()
    f.guest.task.is_ready_queued = False
    assert f.guest.interrupt() == -4
    assert f.guest.kernel.ready == [second]


def test_exclusive_wakes_one_epoll() -> None:
    f = Fixture()
    other = f.guest.call(sys_epoll_create1, 0)
    second = f.guest.add_task(3, f.guest.task.group)
    second.files = f.guest.task.files
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN | EPOLLEXCLUSIVE, 1)
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN | EPOLLEXCLUSIVE, 2, ep=other)
    f.guest.call(sys_epoll_wait, f.ep, f.buffer, 4, -1)
    f.guest.call(sys_epoll_wait, other, f.buffer, 4, -1, task=second)
    f.write(f.w)
    assert f.guest.kernel.ready == [f.guest.task]


def test_nested() -> None:
    f = Fixture()
    outer = f.guest.call(sys_epoll_create1, 0)
    assert f.ctl(EPOLL_CTL_ADD, f.ep, EPOLLIN, 9, ep=outer) == 0
    assert f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN, 1) == 0
    assert f.guest.call(sys_epoll_wait, outer, f.buffer, 4, -1) == BLOCKED
    f.write(f.w)
    assert f.events(f.guest.step()) == [(EPOLLIN, 9)]
    f.read(f.r)
    assert f.wait(ep=outer) == []
    assert f.ctl(EPOLL_CTL_ADD, outer, EPOLLIN) == -ELOOP


def test_nesting_is_limited() -> None:
    for is_upwards in (True, False):
        f = Fixture()
        eps = [f.guest.call(sys_epoll_create1, 0) for _ in range(8)]
        results = []
        for index in range(7):
            low, high = (index, index + 1) if is_upwards else (index + 1, index)
            results.append(f.ctl(EPOLL_CTL_ADD, eps[low], EPOLLIN, ep=eps[high]))
        assert -ELOOP in results
        assert results.index(-ELOOP) == 4


def test_release_leaves_no_waiter_behind() -> None:
    f = Fixture()
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN)
    f.ctl(EPOLL_CTL_ADD, f.w, EPOLLOUT)
    file = f.guest.task.files.get(f.r)
    f.close(f.ep)
    queue = file.wait_queue()
    assert queue is not None and queue.is_empty()
    assert not file.epoll_items


def test_fdinfo() -> None:
    f = Fixture()
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN, 0xAB)
    text = "".join(f.guest.task.files.get(f.ep).fdinfo_parts())
    assert text.startswith(f"tfd: {f.r:8d} events:       19 data:               ab  pos:0 ino:")


def test_level_triggered_events_pass_from_waiter_to_waiter() -> None:
    f = Fixture()
    f.ctl(EPOLL_CTL_ADD, f.r, EPOLLIN, 3)
    second = f.guest.add_task(3, f.guest.task.group)
    second.files = f.guest.task.files
    f.guest.call(sys_epoll_wait, f.ep, f.buffer, 1, -1)
    f.guest.call(sys_epoll_wait, f.ep, f.buffer, 1, -1, task=second)
    f.write(f.w)
    assert f.guest.kernel.ready == [f.guest.task]
    assert f.guest.step() == 1
    assert f.guest.kernel.ready == [second]
    assert f.guest.step(second) == 1


def many_ready(f: Fixture, count: int) -> tuple[list[int], list[int]]:
    """Ends of so many pipes to read and to write, all watched and with something in them."""
    readers, writers = [], []
    files = f.guest.task.files
    for _number in range(count):
        reader, writer = create_pipe(f.guest.kernel, f.guest.task, 0)
        readers.append(files.install(reader, 1 << 20))
        writers.append(files.install(writer, 1 << 20))
        assert f.ctl(EPOLL_CTL_ADD, readers[-1], EPOLLIN, readers[-1]) == 0
        f.write(writers[-1])
    return readers, writers


def test_files_that_close_while_a_closed_instance_lets_go_of_them() -> None:
    """It was an internal error: they were on a list that had been emptied."""
    f = Fixture()
    readers, _writers = many_ready(f, 300)
    f.close(f.ep)
    assert f.guest.kernel.chores  # not all at once
    for fd in readers:
        f.close(fd)
    while f.guest.kernel.chores:
        chore = f.guest.kernel.chores.popleft()
        if chore.step():
            f.guest.kernel.chores.append(chore)


def test_what_is_not_ready_any_more_is_asked_bit_by_bit() -> None:
    f = Fixture()
    readers, writers = many_ready(f, LOOKS + 10)
    for fd in readers:
        f.read(fd)
    file = f.guest.task.files.get(f.ep)
    assert isinstance(file, EpollFile)
    assert file.collect(f.guest.task, 100) == b"" and len(file.ready) == 10
    assert f.wait() == []
    for fd in writers:
        f.write(fd)
    for fd in readers[:-1]:
        f.read(fd)
    assert f.wait() == [(EPOLLIN, readers[-1])]


def test_one_file_is_watched_a_limited_number_of_times() -> None:
    """Each of its events is told to all of them in one go."""
    f = Fixture()
    files = f.guest.task.files
    file = files.get(f.r)
    results = [f.ctl(EPOLL_CTL_ADD, files.install(file, 1 << 20), EPOLLIN) for _ in range(MAX_WATCHERS + 1)]
    assert results == [0] * MAX_WATCHERS + [-ENOSPC]


def test_fdinfo_comes_in_parts() -> None:
    f = Fixture()
    many_ready(f, 200)
    parts = list(f.guest.task.files.get(f.ep).fdinfo_parts())
    assert "".join(parts).count("tfd:") == 200 and max(part.count("tfd:") for part in parts) <= 64
