"""Random socket calls: none may end in an error of the sentry's own (CLOCHE_STRICT=1 makes that fatal)."""

import subprocess
from pathlib import Path

import pytest
from tests.guest.harness import IS_EMULATED, run_cloche

PROGRAM = Path(__file__).parent / "programs" / "sockets.c"
CALLS = 4000 if IS_EMULATED else 20000  # which take up to 100 s


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("hostile") / "sockets"
    subprocess.run(["gcc", "-O1", "-w", "-o", str(target), str(PROGRAM)], check=True, timeout=150)
    return target


@pytest.mark.parametrize("seed", range(4))
def test_random_calls(program: Path, seed: int) -> None:
    outcome = run_cloche([f"./{program.name}", str(CALLS), str(seed)], program.parent, timeout=110)
    assert outcome.status == 0, repr(outcome)
    assert outcome.stdout == b"done\n"
