"""Fixtures of the tests of the SDK: a sandbox whose records are the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche import Sandbox


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "records")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One for the tests of a module that do not harm it."""
    root = tmp_path_factory.mktemp("sdk") / "records"
    with Sandbox.create(root=str(root), ports=[8000], metadata={"for": "tests"}, name="shared") as sandbox:
        yield sandbox
