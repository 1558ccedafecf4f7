"""The C is small enough to be audited: counted, one job a file, headers that declare, constants from one source."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import cloche
from cloche.platform import layout
from cloche.wire import textfile

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
MAX_FILE = 500  # all lines of one file
# Lines without blanks and comments; docs/design.md says why the first is what it is.
LIMITS = {"host+stub": 3500, "kvm": 1800, "launcher": 177, "anchor": 95}
FLAGS = [
    "-std=gnu11",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-missing-field-initializers",
    "-fsyntax-only",
]
GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="gcc is not there")


def sources(*folders: str) -> list[Path]:
    return sorted(p for f in folders for p in (CSRC / f).iterdir() if p.suffix in (".c", ".h", ".S"))


def count(path: Path) -> int:
    """Lines without blanks and comments."""
    command = ["gcc", "-fpreprocessed", "-dD", "-E", "-P", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(1 for line in text.splitlines() if line.strip())


@needs_gcc
@pytest.mark.parametrize("part", LIMITS)
def test_there_is_no_more_of_it(part: str) -> None:
    assert sum(count(path) for path in sources(*part.split("+"))) <= LIMITS[part]


def test_no_file_is_long() -> None:
    paths = sources("host", "stub", "kvm", "launcher", "anchor")
    assert [path.name for path in paths if len(path.read_text().splitlines()) > MAX_FILE] == []


def test_headers_declare() -> None:
    """No header has the body of a function, or a variable of its own."""
    found = []
    for path in sources("host", "stub", "kvm"):
        if path.suffix == ".h":
            text = path.read_text()
            found += re.findall(r"^\w[^;#\n]*\)\s*\{", text, re.MULTILINE)
            found += re.findall(r"^static .*", text, re.MULTILINE)
    assert found == []


@needs_gcc
def test_each_part_compiles_by_itself(tmp_path: Path) -> None:
    """Its headers declare all that it takes from the others."""
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").exists():
        pytest.skip("Python.h is not there")
    subprocess.run([sys.executable, "-B", str(CSRC / "generate.py"), str(tmp_path)], check=True)
    includes = [f"-I{folder}" for folder in (include, tmp_path, CSRC / "stub")]
    for path in sources("host"):
        if path.suffix == ".c":
            subprocess.run(["gcc", *FLAGS, *includes, str(path)], check=True)


def numbers() -> set[str]:
    values = vars(layout).items()
    mine = {name for name, value in values if name.isupper() and isinstance(value, int)}
    return {name for name in mine if not name.startswith("MAP_")}


def test_every_number_is_used() -> None:
    """In C, or in a module that imports it."""
    paths = [
        *sources("host", "stub", "kvm"),
        CSRC / "stub" / "stub.ld",
        *Path(cloche.__file__).parent.rglob("*.py"),
    ]
    texts = [path.read_text() for path in paths if path.name != "layout.py"]
    words = set(re.findall(r"\w+", " ".join(texts)))
    checked = {f"{struct}_{name}".upper() for struct, names in layout.FIELDS.items() for name in names}
    assert numbers() - words - checked == set()


def test_constants_have_one_source() -> None:
    """Nothing in C defines by hand what is generated, and wire, which may not import the platform, says the same."""
    names = numbers()
    found = []
    for path in sources("host", "stub", "kvm"):
        found += [
            name for name in re.findall(r"^\s*#define (\w+)", path.read_text(), re.MULTILINE) if name in names
        ]
    assert found == []
    assert textfile.STUB_BASE == layout.STUB_BASE
    assert textfile.STUB_ENTRY == layout.STUB_BASE + layout.CALL_ENTRY_OFFSET
