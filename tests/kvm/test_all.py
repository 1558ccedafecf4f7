"""The long run (CLOCHE_SLOW=1, `make kvm-all`): every program of tests/guest that test_guest_programs.py does not run, and the
tests of tests/guest and tests/security themselves, by pytest in the machine, with the platform kvm.

What is left out is named in programs.py and docs/kvm.md, with reasons.
"""

import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import pytest

from tests.guest.test_programs import OPTIONS
from tests.kvm import trace
from tests.kvm.machine import Machine
from tests.kvm.programs import ALL, FILES, GROUPS, HOSTILE, LEFT_OUT, LEFT_OUT_TESTS, ROOT, families
from tests.kvm.test_given import EITHER, ENDS, GOES_ON
from tests.kvm.test_guest_programs import differences, forbidden_calls

IS_SLOW: Final = os.environ.get("CLOCHE_SLOW") == "1"
PAGE: Final = (ROOT / "docs" / "kvm.md").read_text()
FAMILY_S: Final = 900
FILE_S: Final = 4500
slow = pytest.mark.skipif(not IS_SLOW, reason="the long run: CLOCHE_SLOW=1 (make kvm-all)")


def test_no_program_is_forgotten() -> None:
    """Each runs in the short run, in the long one, or is left out by name; docs/kvm.md repeats those, with their number."""
    grouped = [name for names in GROUPS.values() for name in names.split()]
    others = [name for names in families().values() for name in names]
    assert sorted([*grouped, *others, *LEFT_OUT]) == ALL
    assert f" {len(grouped)} programs of `tests/guest`" in PAGE
    rows = table_rows()
    assert {name: rows.get(f"`{name}`") for name in LEFT_OUT} == LEFT_OUT
    tests = [
        path.name for folder in ("guest", "security") for path in (ROOT / "tests" / folder).glob("test_*.py")
    ]
    assert sorted([*(Path(name).name for name in FILES), *LEFT_OUT_TESTS]) == sorted(tests)
    assert {name: rows.get(f"`{name}`") for name in LEFT_OUT_TESTS} == LEFT_OUT_TESTS


def test_every_attack_is_in_the_table() -> None:
    """docs/kvm.md says what each attack from ring 3 and from ring 0 is for."""
    said = [name.strip("`") for cell in table_rows().values() for name in cell.split()]
    attacks = [*GOES_ON, *ENDS, *EITHER, *(source.name for source in HOSTILE)]
    assert [name for name in attacks if not any(fnmatch(name, pattern) for pattern in said)] == []


def table_rows() -> dict[str, str]:
    """First cell -> second, of the tables with two columns."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line[:1] == "|"]
    return {row[0]: row[1] for row in rows if len(row) == 2}


@slow
@pytest.mark.timeout(FAMILY_S * 2 + 120)
@pytest.mark.parametrize("family", families())
def test_other_programs(long_machine: Machine, family: str) -> None:
    names = families()[family]
    alike = [name for name in names if name not in OPTIONS]
    found = differences(long_machine, alike, seconds=FAMILY_S)
    for name in names:
        if name in OPTIONS:
            found += differences(long_machine, [name], *OPTIONS[name], seconds=FAMILY_S)
    assert not found, "\n".join(found)


@slow
@pytest.mark.timeout(FILE_S + 120)
@pytest.mark.parametrize("name", FILES)
def test_file(long_machine: Machine, name: str) -> None:
    """As tests/run.py runs it, but for the platform."""
    command = ["python", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--timeout=600", name]
    options = ["-k", " and ".join(f"not {word}" for word in FILES[name].split())] if FILES[name] else []
    env = {"CLOCHE_TEST_OPTIONS": "--platform kvm", "CLOCHE_STRICT": "5000"}
    trace.start(long_machine)
    done = long_machine.run([*command, *options], cwd=str(ROOT), timeout_s=FILE_S, env=env)
    print(done)  # which are skipped, and why
    assert done.status == 0, (done, "\n".join(forbidden_calls(long_machine)))
