"""Builds cloche from this tree into an environment of its own and runs the tests there.

    python3 tests/run.py [ARGUMENT OF PYTEST ...]

Compiled by mypyc, or with CLOCHE_PURE=1 interpreted.  Needs Python 3.11, its headers and gcc; what a test needs
beyond that it names when it skips.  The environment is .venv-tests/compiled or .venv-tests/pure, a report goes to
reports/.  CLOCHE_SLOW=1 runs the long forms of some tests.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Build, test; pytest's exit status."""
    name = "pure" if os.environ.get("CLOCHE_PURE") == "1" else "compiled"
    folder = ROOT / ".venv-tests" / name
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    print(f"building cloche ({name}) ...", flush=True)
    built = subprocess.run(
        [python, "-m", "pip", "install", "--verbose", "--progress-bar=off", f"{ROOT}[dev]"], check=False
    )
    if built.returncode:
        return built.returncode
    if sys.argv[1:]:
        return run_tests(python, name, sys.argv[1:])
    # The platform's tests want a process without other threads: no workers.  The others only start processes.
    groups = {
        "alone": ["tests/unit", "tests/security", "tests/style", "tests/leak"],
        "parallel": ["-n", "auto", "tests/guest", "tests/cli", "tests/sdk"],
        "apps": ["-n", "2", "tests/apps"],
        "engines": [folder for folder in ("tests/egress", "tests/engines") if (ROOT / folder).is_dir()],
    }
    status = 0
    for group, arguments in groups.items():
        status = run_twice(python, f"{name}-{group}", arguments) or status
    return status


def run_twice(python: Path, report: str, arguments: list[str]) -> int:
    """Run, and what failed once more: terminals, signals and interrupts race with the host's scheduler too.

    A failure counts when it comes back.  Not by a plugin: the one for this keeps a thread, which would take SIGCHLD
    from the platform's tests.
    """
    status = run_tests(python, report, arguments)
    if status != 1:
        return status
    print("again, what failed:", flush=True)
    alone = arguments[2:] if arguments[0] == "-n" else arguments
    return run_tests(python, f"{report}-again", ["--last-failed", *alone])


def run_tests(python: Path, report: str, arguments: list[str]) -> int:
    """One run of pytest; its exit status.  What is tested is what was installed, not src/."""
    command = [python, "-m", "pytest", "-ra", f"--junitxml=reports/{report}.xml", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=ROOT, env={"CLOCHE_STRICT": "1", **environment}, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
