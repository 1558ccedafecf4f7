"""A module is one job: none has more than LIMIT lines."""

from pathlib import Path
from typing import Final

import cloche

SOURCE: Final = Path(cloche.__file__).parent
ROOT: Final = Path(__file__).parents[2]
LIMIT: Final = 800  # lines
# Modules that are still to be split, with the length that each must not exceed meanwhile.
LONGER: Final[dict[str, int]] = {}


def test_no_module_is_longer_than_the_limit() -> None:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        where = path.relative_to(SOURCE).as_posix()
        lines = path.read_bytes().count(b"\n")
        if lines > LONGER.get(where, LIMIT):
            found[where] = lines
    assert found == {}


def test_what_is_listed_as_longer_is() -> None:
    assert all((SOURCE / where).read_bytes().count(b"\n") > LIMIT for where in LONGER)


def test_no_test_or_source_in_c_is_longer_than_the_limit() -> None:
    found = {}
    for folder in ("tests", "bench", "tools", "csrc"):
        for path in sorted((ROOT / folder).rglob("*.[pchS]*")):
            if path.suffix in (".py", ".c", ".h", ".S") and path.is_file():
                lines = path.read_bytes().count(b"\n")
                if lines > LIMIT:
                    found[path.relative_to(ROOT).as_posix()] = lines
    assert found == {}
