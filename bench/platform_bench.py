"""Micro-benchmark of the systrap platform alone, without a kernel: microseconds per operation.

Usage: python bench/platform_bench.py [strict|direct] [--one-cpu]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "unit" / "platform"))

from code_guest import MAP_FIXED_ANON, Guest
from machine_code import SYSCALL, mov

from cloche.platform.interface import EV_PROCESS_DIED
from cloche.platform.systrap import Systrap

CALLER = mov("rax", 110) + SYSCALL + bytes.fromhex("ebf2")
FORKER = mov("rax", 57) + SYSCALL + bytes.fromhex("85c075f0") + mov("rax", 60) + SYSCALL


def timed(name: str, count: int, work: Callable[[], None]) -> None:
    for _ in range(count // 10):
        work()
    start = time.perf_counter()
    for _ in range(count):
        work()
    print(f"{name:32} {(time.perf_counter() - start) / count * 1e6:9.2f} us")


def bench(mode: str) -> None:
    platform = Systrap(mode)
    platform.start()
    guest = Guest(platform)
    caller = guest.start(CALLER)
    guest.event_of()

    def call() -> None:
        caller.ret(0)
        platform.next_event(-1)

    def map_once() -> None:
        caller.queue_mmap(0x700000, 0x1000, 3, MAP_FIXED_ANON, -1, 0)
        call()

    def map_and_unmap_twice() -> None:
        for _ in range(2):
            caller.queue_mmap(0x700000, 0x1000, 3, MAP_FIXED_ANON, -1, 0)
            caller.queue_munmap(0x700000, 0x1000)
        call()

    timed("system call", 50_000, call)
    timed("system call with an mmap", 3_000, map_once)
    timed("system call with 4 operations", 3_000, map_and_unmap_twice)
    guest.kill(caller.process())
    forker = guest.start(FORKER)
    guest.event_of()

    def fork_exit() -> None:
        child = forker.queue_fork()
        forker.ret(5)
        left = 2
        while left:
            event = guest.event_of()
            if event[0] == EV_PROCESS_DIED:
                child.main_thread().discard()
            elif event[1] != forker.ident():
                child.kill()
                continue
            left -= 1

    def blank_exit() -> None:
        thread = guest.start(CALLER)
        guest.event_of()
        guest.kill(thread.process())

    timed("fork, first call, death", 500, fork_exit)
    timed("blank, 2 areas, call, death", 300, blank_exit)
    platform.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", nargs="?", default="strict", choices=["strict", "direct"])
    parser.add_argument("--one-cpu", action="store_true")
    options = parser.parse_args()
    if options.one_cpu:
        os.sched_setaffinity(0, {0})
    bench(options.mode)
