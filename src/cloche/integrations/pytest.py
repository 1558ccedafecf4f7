"""A plugin of pytest: the fixtures `sandbox`, a new one for each test, and `sandbox_factory`.

Installed with cloche (entry point `pytest11`).  A marker sets the sandbox's options:

    @pytest.mark.sandbox(memory="256m", ports=[8000])
    def test_server(sandbox): ...
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cloche.sdk import Sandbox

MARKER = "sandbox(**options): what the sandbox of the fixtures `sandbox` is made with, as Sandbox.create"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def sandbox_factory() -> "Iterator[Callable[..., Sandbox]]":
    """`Sandbox.create`; sandboxes that it has made end with the test."""
    from cloche.sdk import Sandbox

    made: list[Sandbox] = []

    def create(**options: object) -> Sandbox:
        made.append(Sandbox.create(**options))  # type: ignore[arg-type]
        return made[-1]

    try:
        yield create
    finally:
        for each in made:
            each.kill()


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, sandbox_factory: "Callable[..., Sandbox]") -> "Sandbox":
    """A sandbox for one test, made as its markers say."""
    options: dict[str, object] = {}
    for marker in reversed(list(request.node.iter_markers("sandbox"))):
        options.update(marker.kwargs)
    return sandbox_factory(**options)
