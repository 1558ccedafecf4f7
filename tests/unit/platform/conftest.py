"""A started platform, shared by the tests of a module."""

import os
from collections.abc import Iterator

import pytest
from code_guest import Guest
from platforms import PLATFORMS

from cloche.platform.choose import problem
from cloche.platform.interface import Platform
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


@pytest.fixture(scope="module", params=PLATFORMS)
def any_platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """For the conformance suite: each platform that there is."""
    lacks = problem(request.param.partition(",")[0])
    if lacks:
        pytest.skip(lacks)
    made = PLATFORMS[request.param]()
    made.prepare()
    made.start()
    yield made
    made.shutdown()


@pytest.fixture
def lab(any_platform: Platform) -> Guest:
    return Guest(any_platform)


@pytest.fixture
def memory_file() -> Iterator[int]:
    """A memfd of four pages: AAAA..., BBBB..., CCCC..., DDDD..."""
    fd = os.memfd_create("test")
    os.write(fd, b"".join(bytes([letter]) * 4096 for letter in b"ABCD"))
    yield fd
    os.close(fd)
