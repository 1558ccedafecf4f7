"""The plug for Pydantic AI: a backend of workspaces by that package's own suite, and tools that an agent calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("pydantic_ai", reason="the package pydantic-ai is not installed")

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.tools import RunContext
from pydantic_ai.workspaces import Workspace, WorkspaceBackend, WorkspaceRef, WorkspaceUnavailableError
from pydantic_ai.workspaces.conformance import WorkspaceBackendSuite

from cloche import AsyncSandbox, Sandbox
from cloche.integrations.pydantic_ai import ClocheToolset, ClocheWorkspace, ClocheWorkspaceBackend, delete

# An ordinary user inside: root may read and write whatever the mode says.
OPTIONS: dict[str, Any] = {"user": "1000:1000"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class TestSuite(WorkspaceBackendSuite):
    """Theirs."""

    @pytest.fixture(scope="class")
    async def backend(self, anyio_backend: str) -> AsyncIterator[WorkspaceBackend]:
        made = ClocheWorkspaceBackend(**OPTIONS)
        yield made
        if made.ref is not None:
            await delete(made.ref)

    @pytest.fixture
    def fresh_backend(self) -> Iterator[Callable[[], WorkspaceBackend]]:
        made: list[ClocheWorkspaceBackend] = []

        def make() -> WorkspaceBackend:
            made.append(ClocheWorkspaceBackend(**OPTIONS))
            return made[-1]

        yield make
        for each in made:
            if each.ref is not None:
                asyncio.run(delete(each.ref))

    @pytest.fixture
    def attach_backend(self) -> Callable[[WorkspaceRef], WorkspaceBackend]:
        return ClocheWorkspaceBackend

    @pytest.fixture
    def destroy_environment(self) -> Callable[[WorkspaceBackend], Awaitable[None]]:
        async def destroy(backend: WorkspaceBackend) -> None:
            assert backend.ref is not None and await delete(backend.ref)

        return destroy


def test_a_ref_of_others() -> None:
    """A history may name any sandbox; only those that were made for workspaces are found."""

    async def main() -> None:
        async with await AsyncSandbox.create() as other:
            for name in (other.name, "none-of-that-name"):
                backend = ClocheWorkspaceBackend(WorkspaceRef(provider="cloche", id=name))
                with pytest.raises(WorkspaceUnavailableError):
                    await backend.working_dir()
            assert await other.is_running()

    asyncio.run(main())


def scripted(*calls: tuple[str, dict[str, Any]]) -> tuple[FunctionModel, list[str]]:
    """A model that calls these tools, one after the other, and what it is told."""
    told: list[str] = []

    def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        told.extend(str(part.content) for part in messages[-1].parts if isinstance(part, ToolReturnPart))
        if len(told) == len(calls):
            return ModelResponse(parts=[TextPart("done")])
        name, arguments = calls[len(told)]
        return ModelResponse(parts=[ToolCallPart(name, arguments)])

    return FunctionModel(answer), told


def test_tools(root: str) -> None:
    model, told = scripted(
        ("run_command", {"command": "echo out; echo err >&2; exit 3"}),
        ("run_code", {"code": "x = 41"}),
        ("run_code", {"code": "print('hey')\nx + 1"}),
        ("write_file", {"path": "/tmp/a/b", "content": "text"}),
        ("read_file", {"path": "/tmp/a/b"}),
        ("list_files", {"path": "/tmp/a"}),
        ("read_file", {"path": "/none"}),
    )
    tools = ClocheToolset(root=root)
    assert Agent(model, toolsets=[tools]).run_sync("go").output == "done"
    assert told[:3] == ["out\n\nerr\n\nexit status 3", "(no output)", "hey\n42"]
    assert told[3] == "/tmp/a/b: 4 bytes" and told[4] == "text" and "/tmp/a/b" in told[5]
    assert told[6].startswith("error: ") and "No such file" in told[6]
    assert len(Sandbox.list(root=root)) == 1
    tools.close()
    assert Sandbox.list(root=root) == []


def test_a_workspace(root: str) -> None:
    model, told = scripted(("look", {}))
    agent = Agent(model, capabilities=[ClocheWorkspace(root=root)])
    refs: list[WorkspaceRef] = []

    @agent.tool
    async def look(ctx: RunContext[Any]) -> str:
        workspace: Workspace = ctx.workspace
        await workspace.write_text("file", "text")
        done = await workspace.run(["cat", "file"])
        assert workspace.ref is not None
        refs.append(workspace.ref)
        return done.stdout

    assert agent.run_sync("go").output == "done" and told == ["text"]
    assert [info.name for info in Sandbox.list(root=root)] == [refs[0].id]
    assert asyncio.run(delete(refs[0], root=root)) and Sandbox.list(root=root) == []
    assert not asyncio.run(delete(refs[0], root=root))
