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
