"""Lanes (csrc/host/lanes.c): threads that take turns at a call of the host that takes long.  Each in a process of its own."""

import subprocess
import sys

PROGRAM = """
import _thread, os
from cloche.platform import _native, slow

bell = os.eventfd(0)
out, into = os.pipe()
came = []

def came_back(lane):
    came.append(lane)
    if len(came) == 2:
        raise KeyError(lane)

def lane():
    taken = _native.stand_by(1)
    while True:
        print("took", taken, flush=True)
        os.write(into, b"x")  # so that the call is over
        os.read(bell, 8)
        taken = _native.stand_by(0)  # the turn is given back

_native.open_lanes(bell, 2_000_000, came_back)
for _ in range(2):
    _thread.start_new_thread(lane, ())
print(slow.write(-1, into, b"quick", -1), slow.read(-1, out, 5, -1))
print(slow.read(7, out, 1, -1), came, flush=True)
try:
    slow.read(8, out, 1, -1)
except KeyError:
    print("gone", came, flush=True)
try:
    slow.read(-1, 9999, 1, 0)
except OSError as error:
    print(error.errno)
print(_native.call_slowly(-1, 3, 9999, 0, 0, 0, 0, 0), flush=True)
os._exit(0)
"""


def test_a_call_that_takes_long_leaves_the_turn_to_another_lane() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.stdout.splitlines() == [
        "5 b'quick'",
        "took (0, 7)",
        "b'x' [0]",
        "took (0, 8)",
        "gone [0, 0]",
        "9",
        "-9",
    ], done.stderr


END = """
import _thread, os
from cloche.platform import _native, slow

bell = os.eventfd(0)
out, into = os.pipe()

def lane():
    print("took", _native.stand_by(1), flush=True)
    _native.leave_to_first()  # which is away, so this goes on
    print("is away", flush=True)
    os.write(into, b"x")
    os.read(bell, 8)
    _native.leave_to_first()  # it is back: this never returns
    os._exit(1)

_native.open_lanes(bell, 2_000_000, lambda lane: None)
_thread.start_new_thread(lane, ())
print(slow.read(7, out, 1, -1), flush=True)
os._exit(0)
"""


def test_the_end_is_the_first_lanes_if_it_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", END], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.stdout.splitlines() == ["took (0, 7)", "is away", "b'x'"], done.stderr
    assert done.returncode == 0


WITHOUT = """
import os, threading
from cloche.platform import slow

pipes = [os.pipe() for _ in range(2)]
said = []
threads = [threading.Thread(target=lambda out=out: said.append(slow.read(-1, out, 1, -1))) for out, _ in pipes]
for thread in threads:
    thread.start()
for thread, (_, into) in zip(threads, pipes):
    os.write(into, b"x")
    thread.join()
print(said)
"""


def test_without_lanes_calls_of_several_threads_do_not_meet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=150, check=False
    )
    assert (done.stdout, done.returncode) == ("[b'x', b'x']\n", 0), done.stderr
