"""The sandbox environment for inspect-ai, by the checks that inspect-ai has for such."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="the package inspect-ai is not installed")
from inspect_ai.util._sandbox import self_check

from cloche import Sandbox

# An ordinary user inside: root may read and write whatever the mode says.
OPTIONS = ["--user", "1000:1000"]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def environment(runner: asyncio.Runner) -> Iterator[Any]:
    from cloche.integrations.inspect_ai import ClocheSandboxEnvironment

    made = runner.run(ClocheSandboxEnvironment.create(OPTIONS))
    yield made
    runner.run(made.sandbox.kill())


@pytest.mark.parametrize("name", [name for name in self_check.__all__ if name.startswith("test_")])
def test_self_check(name: str, runner: asyncio.Runner, environment: Any) -> None:
    runner.run(getattr(self_check, name)(environment))


def test_a_sample(tmp_path: Path) -> None:
    """As an evaluation does it, by name, with a file of options."""
    from inspect_ai.util._sandbox.registry import registry_find_sandboxenv

    found = registry_find_sandboxenv("cloche")
    config = tmp_path / "cloche.conf"
    config.write_text("--memory 256m  # enough\n--env 'A=b c'\n")

    async def main() -> str:
        environments = await found.sample_init("task", str(config), {})
        name = environments["default"].sandbox.name  # type: ignore[attr-defined]
        try:
            result = await environments["default"].exec(["sh", "-c", "echo $A"])
            connection = await environments["default"].connection()
            assert result.stdout == "b c\n" and name in connection.command
        finally:
            await found.sample_cleanup("task", str(config), environments, False)
        return str(name)

    name = asyncio.run(main())
    assert name not in [info.name for info in Sandbox.list()]
