"""Builds cloche from this tree into an environment of its own and runs the tests there.

    python3 tests/run.py [ARGUMENT OF PYTEST ...]

Compiled by mypyc, or with CLOCHE_PURE=1 interpreted.  Needs Python 3.11, its headers and gcc; what a test needs
beyond that it names when it skips.  The environment is .venv-tests/compiled or .venv-tests/pure, a report goes to
reports/.  CLOCHE_SLOW=1 runs the long forms of some tests.  A first failure is a failure; only the tests that
tests/quarantine.txt names do not decide.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# These are the sentry themselves, and want a process without other threads: no workers (tests/conftest.py looks).  The
# others only start processes.
ALONE = ["tests/unit/platform", "tests/security/test_platform_hostile.py", "tests/leak"]
GROUPS = {
    "alone": ALONE,
    "parallel": [
        *("-n", "auto", "--dist", "worksteal", *(f"--ignore={path}" for path in ALONE)),
        *("tests/unit", "tests/security", "tests/style", "tests/guest", "tests/cli", "tests/sdk"),
    ],
    "apps": ["-n", "2", "tests/apps"],
    # By file: an engine, or a world of servers, is made once for all tests of one.
    "engines": ["-n", "2", "--dist", "loadfile", "tests/egress", "tests/engines"],
}
# One after the other; the last two wait much for others' programs, and do so beside each other.
STEPS = [["alone"], ["parallel"], ["apps", "engines"]]


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
    own = Path(tempfile.mkdtemp(prefix="pytest-"))
    status = run_all(python, name, own, sys.argv[1:])
    if status == 0:
        shutil.rmtree(own, ignore_errors=True)
    return status


def run_all(python: Path, name: str, own: Path, arguments: list[str]) -> int:
    """Test, with what tests write in the folder `own`; pytest's exit status."""
    if arguments:
        return run_tests(python, name, own, arguments)
    apart = quarantined()
    left_out = [word for test in apart for word in ("--deselect", test)]
    status = 0
    for groups in STEPS:
        status = run_beside(python, name, own, groups, left_out) or status
    if apart:
        print("apart, and not deciding: the tests of tests/quarantine.txt", flush=True)
        run_tests(python, f"{name}-quarantine", own, apart)
    return status


def quarantined() -> list[str]:
    """The tests that do not decide, as pytest names them."""
    lines = (ROOT / "tests" / "quarantine.txt").read_text().splitlines()
    return [line.partition(": ")[0] for line in lines if line and not line.startswith("#")]


def run_beside(python: Path, name: str, own: Path, groups: list[str], left_out: list[str]) -> int:
    """These groups at once, the first one's output as it comes and the others' at the end; 0 if all of them passed."""
    others = []
    for group in groups[1:]:
        log = ROOT / "reports" / f"{name}-{group}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as file:
            words = command(python, f"{name}-{group}", own, [*GROUPS[group], *left_out])
            others.append(
                (subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=file, stderr=file), log)
            )
    first = run_tests(python, f"{name}-{groups[0]}", own, [*GROUPS[groups[0]], *left_out])
    results = {groups[0]: first}
    for group, (process, log) in zip(groups[1:], others, strict=True):
        results[group] = process.wait()
        print(log.read_text(errors="replace"), flush=True)
    return next((status for status in results.values() if status), 0)  # a signal's is negative


def run_tests(python: Path, report: str, own: Path, arguments: list[str]) -> int:
    """One run of pytest; its exit status."""
    words = command(python, report, own, arguments)
    return subprocess.run(words, cwd=ROOT, env=environment(), check=False).returncode


def command(python: Path, report: str, own: Path, arguments: list[str]) -> list[str | Path]:
    """Pytest, with directories of its own.

    In the one that all runs share by default, `/tmp/pytest-of-USER`, a run that begins shuts other users out, whom
    another's test may just have let in.
    """
    folders = ["-o", f"cache_dir=.pytest_cache/{report}", f"--basetemp={own / report.rpartition('-')[2]}"]
    return [python, "-m", "pytest", "-ra", *folders, f"--junitxml=reports/{report}.xml", *arguments]


def environment() -> dict[str, str]:
    """What is tested is what was installed, not src/."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {"CLOCHE_STRICT": "1", **kept}


if __name__ == "__main__":
    sys.exit(main())
