"""Every C program in tests/guest/programs behaves in cloche as on the host."""

from pathlib import Path

import pytest

from tests.guest.harness import PROGRAMS, compare, compile_program

SOURCES = sorted(PROGRAMS.glob("*.c"))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.mark.parametrize("source", SOURCES, ids=[source.stem for source in SOURCES])
def test_program(source: Path, built: Path, tmp_path: Path) -> None:
    program = compile_program(source, built)
    compare([f"./{program.name}"], tmp_path, files=(program,))
