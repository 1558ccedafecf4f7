"""Who counts as waking, and who may spin: csrc/host/waking.c and spinning.c in small programs of their own."""

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


@pytest.mark.parametrize("part", ["waking", "spinning"])
def test_states(part: str, tmp_path: Path) -> None:
    """What the programs check is in them."""
    include = Path(sysconfig.get_paths()["include"])
    if shutil.which("gcc") is None or not (include / "Python.h").exists():
        pytest.skip("gcc or Python.h is not there")
    subprocess.run([sys.executable, "-B", str(CSRC / "generate.py"), str(tmp_path)], check=True)
    folders = [f"-I{folder}" for folder in (include, tmp_path, CSRC / "stub", CSRC / "host")]
    program = tmp_path / part
    subprocess.run(["gcc", *FLAGS, *folders, "-o", str(program), str(HERE / f"{part}_states.c")], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
