"""Which threads count as waking: of these depends how long the sentry spins (csrc/host/spinning.c)."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
CSRC: Final = HERE.parents[2] / "csrc"
FLAGS: Final = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers")


def test_a_thread_is_waking_until_it_runs_and_no_longer(tmp_path: Path) -> None:
    include = Path(sysconfig.get_paths()["include"])
    if shutil.which("gcc") is None or not (include / "Python.h").exists():
        pytest.skip("gcc or Python.h is not there")
    subprocess.run([sys.executable, "-B", str(CSRC / "generate.py"), str(tmp_path)], check=True)
    folders = [f"-I{folder}" for folder in (include, tmp_path, CSRC / "stub", CSRC / "host")]
    program = tmp_path / "waking"
    subprocess.run(["gcc", *FLAGS, *folders, "-o", str(program), str(HERE / "waking_states.c")], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
