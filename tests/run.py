"""Builds cloche from this tree into an environment of its own and runs the tests there.

    python3 tests/run.py [ARGUMENT OF PYTEST ...]

Compiled by mypyc, or with CLOCHE_PURE=1 interpreted.  Needs Python 3.11, its headers and gcc; what a test needs
beyond that it names when it skips.  The environment is .venv-tests/compiled or .venv-tests/pure, a report goes to
reports/.  CLOCHE_SLOW=1 runs the long forms of some tests.  A first failure is a failure; with CLOCHE_UNSTABLE=N, as
.ci/run says, at most N tests of a group may fail and then pass, and are named, to be mended.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from xml.etree import ElementTree

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
    apart = quarantined()
    left_out = [word for test in apart for word in ("--deselect", test)]
    status = 0
    for group, arguments in groups.items():
        status = run_group(python, f"{name}-{group}", [*arguments, *left_out]) or status
    if apart:
        print("apart, and not deciding: the tests of tests/quarantine.txt", flush=True)
        run_tests(python, f"{name}-quarantine", apart)
    return status


def run_group(python: Path, report: str, arguments: list[str]) -> int:
    """One group's status; see above for what may fail first."""
    status = run_tests(python, report, arguments)
    allowed = int(os.environ.get("CLOCHE_UNSTABLE", "0"))
    if status != 1 or not allowed:
        return status
    unstable = failures(ROOT / "reports" / f"{report}.xml")
    print(f"failed at first, {len(unstable)}:", *unstable, sep="\n    ", flush=True)
    if len(unstable) > allowed:
        return status
    alone = arguments[2:] if arguments[0] == "-n" else arguments
    status = run_tests(python, f"{report}-again", ["--last-failed", *alone])
    print(
        f"UNSTABLE, to be mended or explained: {', '.join(unstable)}" if status == 0 else "again", flush=True
    )
    return status


def failures(report: Path) -> list[str]:
    """The tests that a report says have failed."""
    cases = ElementTree.parse(report).getroot().iter("testcase")
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return list(dict.fromkeys(f"{case.get('classname')}::{case.get('name')}" for case in bad))


def quarantined() -> list[str]:
    """The tests that do not decide, as pytest names them."""
    lines = (ROOT / "tests" / "quarantine.txt").read_text().splitlines()
    return [line.partition(": ")[0] for line in lines if line and not line.startswith("#")]


def run_tests(python: Path, report: str, arguments: list[str]) -> int:
    """One run of pytest; its exit status.  What is tested is what was installed, not src/."""
    command = [python, "-m", "pytest", "-ra", f"--junitxml=reports/{report}.xml", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=ROOT, env={"CLOCHE_STRICT": "1", **environment}, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
