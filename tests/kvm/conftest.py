"""The machine is booted once for all tests of a session."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kvm import contents, kernel
from tests.kvm.machine import Machine, missing

LONG_MIB = 4096
LONG_S = 5.0 * 3600


@pytest.fixture(scope="session")
def kvm_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with the environment that the tests run in."""
    yield from booted(tmp_path_factory.mktemp("kvm"), is_long=False)


@pytest.fixture(scope="session")
def long_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The same with all tests and what they need in it, for the long run."""
    yield from booted(tmp_path_factory.mktemp("kvm-all"), is_long=True)


def booted(folder: Path, *, is_long: bool) -> Iterator[Machine]:
    lacks, found = missing(), kernel.find()
    if lacks:
        pytest.skip(f"needs {lacks}")
    if found is None:
        pytest.skip("needs a kernel with kvm-amd: python -m tests.kvm.kernel")
    python = Path(sys.executable)
    contents.whole(found, python, folder, is_long=is_long).write(folder / "initramfs")
    limits = (LONG_MIB, LONG_S) if is_long else ()
    with Machine(found, folder / "initramfs", folder, python, *limits) as machine:
        yield machine


FIRST = (
    "test_given.py",
    "test_security.py",
    "test_hostile_programs",
)  # the most important tests, should time run out


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [at for at, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    in_order = sorted(
        (items[at] for at in here), key=lambda item: not any(name in item.nodeid for name in FIRST)
    )
    for at, item in zip(here, in_order, strict=True):
        items[at] = item
