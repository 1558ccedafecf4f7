"""The costs of a start: modules that it does not need must not creep in again (docs/performance.md)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.harness import IS_ROOT, SOURCE, TIMEOUT_S, run, run_words

# Each of these was once imported at the start, for one function.
HEAVY = {
    "asyncio", "dataclasses", "decimal", "hashlib", "inspect", "json", "logging", "multiprocessing", "pathlib", "pickle",
    "random", "shutil", "subprocess", "tempfile", "threading", "traceback", "unittest", "urllib.parse",
}  # fmt: skip

PARSE = """
import sys
from cloche.cli import main
sys.argv = ["cloche", "run", "--bad-option"]
try:
    main.main()
except SystemExit:
    pass
print(" ".join(sys.modules))
"""


@pytest.fixture(scope="module")
def modules() -> set[str]:
    """The modules that are loaded when the command line of `cloche run` has been parsed."""
    done = subprocess.run(
        [sys.executable, "-c", PARSE], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    return set(done.stdout.split())


def test_no_heavy_module_is_imported(modules: set[str]) -> None:
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(' '.join(sys.modules))"],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    assert HEAVY & modules - set(before.stdout.split()) == set()


def test_the_monitor_does_not_import_the_kernel(modules: set[str]) -> None:
    assert "cloche.boot.launch" in modules
    kernel = (
        "cloche.kernel",
        "cloche.fs",
        "cloche.net",
        "cloche.syscalls",
        "cloche.mm",
        "cloche.vfs",
        "cloche.boot.sentry",
    )
    assert sorted(name for name in modules if name.startswith(kernel)) == []


PLAIN = """
import sys
from cloche.cli import main
options = main.plain_options(["run", "-e", "A=1", "--memory", "512m", "--", "true"])
assert options is not None
print(" ".join(sys.modules))
"""


def test_an_ordinary_command_line_needs_no_argparse() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert "argparse" not in done.stdout.split() and "gettext" not in done.stdout.split()


def test_the_steps_of_a_start_are_told() -> None:
    done = run("true", options=("--timing",))
    steps = [line.split("  ")[-1] for line in done.err.splitlines()]
    assert done.status == 0 and steps[-1] == "command: all is gone", done.err
    order = [
        "command: request is sent",
        "keeper: request is here",
        "sentry: is confined",
        "sentry: program is loaded",
    ]
    assert [step for step in steps if step in order] == order
    assert len(run("true").err) == 0


@pytest.mark.skipif(not IS_ROOT, reason="an ordinary user's parts are that user still")
def test_one_that_only_root_may_read(tmp_path: Path) -> None:
    """A clone, or a virtual environment, in root's home: the sentry is nobody."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    shutil.copytree(SOURCE / "cloche", private / "cloche", ignore=shutil.ignore_patterns("__pycache__"))
    for library in SOURCE.glob("*__mypyc*.so"):
        shutil.copy(library, private)
    words = [
        sys.executable,
        "-m",
        "cloche.cli.main",
        "run",
        "-p",
        "127.0.0.1::80",
        "--log-level",
        "error",
        "--",
    ]
    done = run_words([*words, "sh", "-c", "id -u; ls -d /"], PYTHONPATH=str(private))
    assert (done.status, done.out) == (0, "0\n/\n"), done
