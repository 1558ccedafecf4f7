"""Large states of the kernel, and the call that deals with all of one: no other guest may wait for that (I8).

The sentry's own meter judges (`kernel.meter`): under CLOCHE_STRICT a turn of its loop that takes too long ends the
sandbox.  The sizes are such that an interpreted build, which has a larger bound, gets there in reasonable time.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.guest.harness import IS_EMULATED, cloche_command, strict

from cloche.kernel import loop

PROGRAM = Path(__file__).parent / "programs" / "holds.c"
IS_FAST = not loop.__file__.endswith(".py") and not IS_EMULATED
TIMEOUT_S = 150
SIZES = {
    "high-descriptor": 1_000_000,
    "many-descriptors": 100_000,
    "one-file-watched": 20_000,
    "many-files-watched": 40_000,
    "inotify-watches": 50_000,
    "many-children": 1000,
    "semaphores": 800,
    "mounts": 9000,
    "full-tmpfs": 40_000,
    "deep-path": 20_000,
    "timers": 7000,
    "locks": 20_000,
    "descriptors-sent": 50_000,
    "signals-queued": 7000,
    "messages": 16_000,
    "threads": 1500,
    "areas": 40_000,
    "pieces": 50_000,
    "groups": 1,
    "file-locks": 10_000,
    "filters": 1,
    "arguments": 400_000,
    "undone": 960_000,
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not there")
    target = tmp_path_factory.mktemp("holds") / "holds"
    command = ["gcc", "-O1", "-pthread", "-w", "-D_GNU_SOURCE", "-o", str(target), str(PROGRAM)]
    subprocess.run(command, check=True, timeout=150)
    return target


@pytest.mark.parametrize("case", SIZES)
def test_a_large_state_keeps_nobody(program: Path, case: str) -> None:
    """Twice, as what takes too long does so each time (`kernel.meter`)."""
    once = f"./{program.name} {case} {SIZES[case] if IS_FAST else max(SIZES[case] // 20, 1)}"
    done = subprocess.run(
        [*cloche_command("-u", "0"), "sh", "-c", f"{once} && {once}"],
        cwd=program.parent, env=strict(), text=True,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\ndone\n", ""), done
