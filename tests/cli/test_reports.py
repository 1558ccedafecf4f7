"""`cloche doctor` and `cloche syscalls`."""

import json
import subprocess
from pathlib import Path

from cloche.abi.errno import ENOSYS
from cloche.syscalls.row import FULL, MISSING, REFUSED
from cloche.syscalls.sys_process import sys_ni
from cloche.syscalls.table import ROWS
from tests.cli.harness import CLOCHE, environment, is_one_line, run_words

ROOT = Path(__file__).resolve().parents[2]


def test_doctor() -> None:
    done = run_words([*CLOCHE, "doctor"])
    assert done.status == 0 and done.err == "", done
    for part in (
        "Linux 5.14 or newer",
        "seccomp filter",
        "user namespace",
        "cloche run /bin/true",
        "/dev/kvm",
        "cloche can run here",
    ):
        assert part in done.out, done
    done = run_words([*CLOCHE, "doctor", "--bad"])
    assert done.status == 125 and is_one_line(done.err), done


def test_doctor_on_a_machine_where_nothing_ran_before(tmp_path: Path) -> None:
    """The text of its trial is in no cache, so the analyst has to be started."""
    done = run_words([*CLOCHE, "doctor"], XDG_CACHE_HOME=str(tmp_path))
    assert done.status == 0, done
    assert list((tmp_path / "cloche" / "text").iterdir())


def test_doctor_names_a_remedy_for_all_that_is_missing() -> None:
    """Every weaker measure is explained."""
    done = run_words([*CLOCHE, "doctor"])
    for line in done.out.splitlines():
        if line.startswith("  no "):
            assert "(" in line and ":" in line, line


def test_the_compatibility_page_is_current() -> None:
    page = (ROOT / "docs" / "compat.md").read_text()
    assert page == run_words([*CLOCHE, "syscalls", "--format", "markdown"]).out, "run `make docs`"


def test_formats_of_the_table() -> None:
    rows = json.loads(run_words([*CLOCHE, "syscalls", "--format", "json"]).out)
    assert {row["number"]: row["name"] for row in rows}[0] == "read" and len(rows) == len(ROWS)
    done = run_words([*CLOCHE, "syscalls", "--support", "missing"])
    assert "full" not in "".join(line.split()[2] for line in done.out.splitlines()[:-1]), done
    done = run_words([*CLOCHE, "syscalls", "--format", "yaml"])
    assert done.status == 125 and is_one_line(done.err), done


def test_every_row_is_honest() -> None:
    """A call that answers ENOSYS is not called implemented, and what is not full says why."""
    for row in ROWS:
        if row.handler is sys_ni:
            assert row.support in (MISSING, REFUSED), row.name
        if row.support != FULL:
            assert row.note, row.name
        source = (row.handler.__doc__ or "").lower()
        if "absent" in source:
            assert row.support in (MISSING, REFUSED), row.name
    assert ENOSYS == 38


def test_a_reader_that_leaves_early() -> None:
    words = " ".join([*CLOCHE, "syscalls"])
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -1; exit ${{PIPESTATUS[0]}}"],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert done.stdout.count(b"\n") == 1 and done.stderr == b"" and done.returncode in (0, 141), done
