"""Many guests at once, on all processors and on one: all make progress, and none waits for ever."""

import os
import time
from collections.abc import Iterator

import pytest
from code_guest import MAP_FIXED_ANON, Guest
from machine_code import LOOP, SYSCALL, mov

from cloche.platform.interface import EV_OPS_FAILED, EV_SYSCALL, HostThread
from cloche.platform.systrap import Systrap

CALLER = mov("rax", 110) + SYSCALL + bytes.fromhex("ebf2")


@pytest.fixture(params=["one", "all"])
def cpus(request: pytest.FixtureRequest) -> Iterator[str]:
    before = os.sched_getaffinity(0)
    if request.param == "one":
        os.sched_setaffinity(0, {min(before)})
    yield request.param
    os.sched_setaffinity(0, before)


@pytest.fixture
def guest(cpus: str) -> Iterator[Guest]:
    platform = Systrap()
    platform.start()
    yield Guest(platform)
    platform.shutdown()


def test_sixteen_callers(guest: Guest) -> None:
    threads = [guest.start(CALLER) for _ in range(16)]
    counts = dict.fromkeys((t.ident() for t in threads), 0)
    total = 0
    # A busy host gives them their turns by the millisecond: the test is that none is left out.
    while total < 16 * 300 or (min(counts.values()) <= 20 and total < 1_000_000):
        event = guest.event(20_000_000_000)
        assert event[0] == EV_SYSCALL
        counts[event[1]] += 1
        total += 1
        guest.platform.thread(event[1]).ret(0)
    assert min(counts.values()) > 20


def test_callers_beside_endless_loops(guest: Guest) -> None:
    spinners = [guest.start(LOOP) for _ in range(4)]
    caller = guest.start(CALLER)
    for _ in range(100):
        assert guest.event(20_000_000_000)[1] == caller.ident()
        caller.ret(0)
    for t in spinners:
        t.interrupt()
    stopped = set()
    while len(stopped) < 4:
        event = guest.event(20_000_000_000)
        if event[1] == caller.ident():
            caller.ret(0)
        else:
            stopped.add(event[1])


def test_threads_of_one_process_map_at_the_same_time(guest: Guest) -> None:
    main = guest.start(CALLER)
    guest.event()
    threads: list[HostThread] = [main]
    for _ in range(7):
        threads.append(main.queue_clone_thread())
        main.ret(0)
        guest.event()
        assert guest.event()[0] == EV_SYSCALL
    by_id = {t.ident(): t for t in threads}
    turns = dict.fromkeys(by_id, 0)
    for i, t in enumerate(threads):
        t.queue_mmap(0x10000000 + i * 0x100000, 0x1000, 3, MAP_FIXED_ANON, -1, 0)
        t.ret(0)
    while min(turns.values()) < 30:
        event = guest.event(20_000_000_000)
        assert event[0] != EV_OPS_FAILED
        t = by_id[event[1]]
        turns[event[1]] += 1
        base = 0x10000000 + threads.index(t) * 0x100000
        t.queue_munmap(base, 0x1000)
        t.queue_mmap(base, 0x1000, 3, MAP_FIXED_ANON, -1, 0)
        t.write(base, b"mine")
        t.ret(0)


def test_operations_of_siblings_happen_in_the_order_of_resumption() -> None:
    """A place that one thread's waiting munmap frees may be mapped by the next thread already."""
    platform = Systrap("direct")
    platform.start()
    guest = Guest(platform)
    main = guest.start(CALLER)
    guest.event()
    threads: list[HostThread] = [main]
    for _ in range(2):
        threads.append(main.queue_clone_thread())
        main.ret(0)
        guest.event()
        guest.event()
    place = 0x20000000
    main.queue_mmap(place, 0x1000, 3, MAP_FIXED_ANON, -1, 0)
    main.ret(0)
    guest.event()
    for i in range(40):
        threads[0].queue_mmap(0x10000000 + i * 0x2000, 0x1000, 3, MAP_FIXED_ANON | 0x8000, -1, 0)
    threads[0].ret(0)
    threads[1].queue_munmap(place, 0x1000)
    threads[1].ret(0)
    time.sleep(0.02)  # the first batch ends before the next look
    threads[2].queue_mmap(place, 0x1000, 3, MAP_FIXED_ANON, -1, 0)
    threads[2].write(place, b"mine")
    threads[2].ret(0)
    for _ in range(3):
        assert guest.event()[0] == EV_SYSCALL
    assert main.process().read(place, 4) == b"mine"
    platform.shutdown()
