"""A started platform, shared by the tests of a module."""

from collections.abc import Iterator

import pytest
from code_guest import Guest

from cloche.platform.systrap import Systrap


@pytest.fixture(scope="module", params=["strict", "direct"])
def platform(request: pytest.FixtureRequest) -> Iterator[Systrap]:
    systrap = Systrap(request.param)
    systrap.start()
    yield systrap
    systrap.shutdown()


@pytest.fixture
def guest(platform: Systrap) -> Guest:
    return Guest(platform)
