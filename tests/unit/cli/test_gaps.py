"""Memory with gaps, filled: what is allocated afterwards lies together."""

import subprocess
import sys

SCRIPT = """
import gc
from cloche.cli.gaps import fill_gaps

PAGE = 4096
COUNT = 200


def pages(make):
    made = [make() for _ in range(COUNT)]
    return len({id(each) // PAGE for each in made})


def scatter(size):
    "Objects of a size, of which every twentieth is gone."
    made = [bytes(size - 33) for _ in range(20_000)]
    del made[::20]
    return made


kept = {size: scatter(size) for size in (64, 160, 400)}
chunks = [bytes(3000 + n % 7) for n in range(4000)]
del chunks[::5]
gc.collect()
before = {size: pages(lambda: bytes(size - 33)) for size in kept}
gaps = fill_gaps()
after = {size: pages(lambda: bytes(size - 33)) for size in kept}
for size, found in after.items():
    least = COUNT * size // PAGE
    assert found <= 2 * least + 4, (size, least, before, after)
    assert before[size] > found, (size, before, after)
last = max(map(id, chunks))
assert all(id(each) > last for each in [bytes(2800) for _ in range(50)])
print("ok")
"""


def test_what_comes_later_lies_together() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.stdout == "ok\n", done.stderr


SMALL = """
import gc, os, sys
from cloche.cli.gaps import fill_gaps

NAMES = [f"VARIABLE_{number}_OF_THE_CALLER" for number in range(300)]


def private_pages():
    with open("/proc/self/smaps_rollup", "rb", 0) as file:
        [line] = [line for line in file.read().splitlines() if line.startswith(b"Private_Dirty:")]
    return int(line.split()[1]) // 4


def touched_by_a_fork():
    "Pages that a fork copies, or makes, when it gets an environment."
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        private_pages()
        before = private_pages()
        for name in NAMES:
            os.putenv(name, "value")
        os.write(write, f"{private_pages() - before}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    return int(os.read(read, 100))


# In each second of many chunks one that is smaller, and behind it a gap.
chunks = [bytes(1967) for _ in range(2000)]
del chunks[::2]
smaller = [bytes(1767) for _ in range(1000)]
gc.collect()
before = touched_by_a_fork()
environment = dict(os.environb), open("/proc/self/environ", "rb").read()
gaps = fill_gaps()
after = touched_by_a_fork()
assert environment == (dict(os.environb), open("/proc/self/environ", "rb").read())
words = [sys.executable, "-c", "import os; print(len([name for name in os.environ if name.endswith('xxx')]))"]
os.execv(sys.executable, [*words[:2], f"print({before}, {after}); {words[2]}"])
"""


def test_what_c_code_allocates_later_lies_together() -> None:
    """And nothing is left in the environment."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after, left = map(int, done.stdout.split())
    assert before > 100 and after < before / 2, (before, after)
    assert left == 0


def test_other_allocators_do_no_harm() -> None:
    for name in ("malloc", "debug"):
        code = "from cloche.cli.gaps import fill_gaps; print(sum(map(len, fill_gaps())) < 40_000)"
        words = [sys.executable, "-c", code]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=150, check=False, env={"PYTHONMALLOC": name}
        )
        assert done.stdout == "True\n", done.stderr


LOOKED_UP = """
import sys
from cloche.cli.gaps import make_ready

class Names:
    pass

names = [sys.intern(f"name_{number}") for number in range(1000)]
alone = sum(map(sys.getrefcount, names))
for name in names:
    setattr(Names, name, 1)  # which is one reference
    getattr(Names, name)
del name
held = sum(map(sys.getrefcount, names)) - alone - len(names)
kept = make_ready()
left = sum(map(sys.getrefcount, names)) - alone - len(names)
print(held > 300, left)
"""


def test_no_name_is_held_by_the_cache_of_look_ups() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOKED_UP], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.stdout == "True 0\n", done.stdout + done.stderr
