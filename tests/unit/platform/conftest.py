"""A started platform, shared by the tests of a module."""

from collections.abc import Iterator

import pytest
from code_guest import Guest

from cloche.platform.systrap import Systrap


@pytest.fixture(scope="module")
def platform() -> Iterator[Systrap]:
    systrap = Systrap()
    systrap.start()
    yield systrap
    systrap.shutdown()


@pytest.fixture
def guest(platform: Systrap) -> Guest:
    return Guest(platform)
