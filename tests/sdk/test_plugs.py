"""The plugs for pytest, deepagents, smolagents, LangChain and OpenAI Agents, each with the real package if it is installed."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cloche import Sandbox
from tests.cli.harness import environment

needs_deepagents = pytest.mark.skipif(
    find_spec("deepagents") is None, reason="the package deepagents is not installed"
)
needs_smolagents = pytest.mark.skipif(
    find_spec("smolagents") is None, reason="the package smolagents is not installed"
)


needs_openai_agents = pytest.mark.skipif(
    find_spec("agents") is None, reason="the package openai-agents is not installed"
)


needs_langchain = pytest.mark.skipif(
    find_spec("langchain_core") is None, reason="the package langchain-core is not installed"
)


def run_pytest(folder: Path) -> "subprocess.CompletedProcess[str]":
    """The tests in it, with cloche's fixtures."""
    words = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"]
    if "cloche" not in [
        point.name for point in __import__("importlib.metadata").metadata.entry_points(group="pytest11")
    ]:
        words += ["-p", "cloche.integrations.pytest"]
    return subprocess.run(
        [*words, str(folder)],
        cwd=folder,
        env=environment(),
        timeout=100,
        capture_output=True,
        text=True,
        check=False,
    )


def test_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "names = []\n"
        "@pytest.mark.sandbox(env={'A': 'b'}, cwd='/tmp')\n"
        "def test_marked(sandbox):\n"
        "    names.append(sandbox.name)\n"
        "    assert sandbox.commands.run('echo $A; pwd').stdout == 'b\\n/tmp\\n'\n"
        "def test_factory(sandbox_factory):\n"
        "    one, other = sandbox_factory(), sandbox_factory()\n"
        "    names.extend([one.name, other.name])\n"
        "    assert one.name != other.name\n"
        "def test_nothing_is_left():\n"
        "    from cloche import Sandbox\n"
        "    assert len(names) == 3 and not {info.name for info in Sandbox.list()} & set(names)\n"
    )
    done = run_pytest(tmp_path)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


@needs_deepagents
def test_deepagents(shared: Sandbox) -> None:
    from cloche.integrations.deepagents import ClocheSandbox

    with ClocheSandbox(shared, timeout=60) as backend:
        assert backend.id == "shared"
        done = backend.execute("echo out; echo err >&2; exit 3")
        assert (done.output, done.exit_code, done.truncated) == ("out\nerr\n", 3, False)
        late = backend.execute("sleep 1000", timeout=1)
        assert late.exit_code == 124 and "longer than 1 s" in late.output
        sent = backend.upload_files([("/tmp/d/a", b"\0a"), ("/proc/x", b"")])
        assert sent[0].error is None and sent[1].error is not None
        got = backend.download_files(["/tmp/d/a", "/tmp/d/none", "/tmp/d"])
        assert [(each.content, each.error) for each in got] == [
            (b"\0a", None), (None, "file_not_found"), (None, "is_directory"),
        ]  # fmt: skip
        # The base class's versions of these run python3 inside.
        assert backend.write("/tmp/d/text", "one\ntwo\n").error is None
        edited = backend.edit("/tmp/d/text", "two", "three")
        assert edited.error is None
        assert "three" in str(backend.read("/tmp/d/text"))
        assert any("text" in entry["path"] for entry in backend.ls("/tmp/d").entries or [])
        assert backend.grep("three", "/tmp/d").matches
    assert shared.is_running()  # it was given
    shared.files.remove("/tmp/d")


@needs_smolagents
def test_smolagents(root: str) -> None:
    from smolagents import FinalAnswerTool, Tool
    from smolagents.utils import AgentError

    from cloche.integrations.smolagents import ClocheExecutor

    executor = ClocheExecutor(root=root)
    try:
        executor.send_tools({"final_answer": FinalAnswerTool()})
        executor.send_variables({"x": 20, "words": ["a", "b"]})
        done = executor("print(words); x * 2")
        assert (done.output, done.logs, done.is_final_answer) == ("40", "['a', 'b']\n", False)
        with pytest.raises(AgentError, match="ZeroDivisionError"):
            executor("1 / 0")
        final = executor("final_answer({'answer': x})")
        assert final.is_final_answer and final.output == {"answer": 20}
        assert executor("final_answer((1, {2}))").output == (1, {2})
        assert issubclass(FinalAnswerTool, Tool)
    finally:
        executor.cleanup()
    assert Sandbox.list(root=root) == []


@needs_openai_agents
def test_openai_agents(tmp_path: Path) -> None:
    import asyncio
    import io

    from agents.sandbox.entries import File
    from agents.sandbox.errors import ExecTimeoutError, WorkspaceReadNotFoundError
    from agents.sandbox.manifest import Manifest
    from agents.sandbox.snapshot import LocalSnapshotSpec

    from cloche.integrations.openai_agents import ClocheSandboxClient, ClocheSandboxClientOptions

    async def main() -> None:
        client = ClocheSandboxClient()
        session = await client.create(
            manifest=Manifest(entries={"a.txt": File(content=b"hello")}),
            options=ClocheSandboxClientOptions(memory="512m", exposed_ports=(8000,)),
            snapshot=LocalSnapshotSpec(base_path=tmp_path),
        )
        async with session:
            done = await session.exec("cat a.txt; pwd; echo err >&2; exit 3")
            assert (done.exit_code, done.stdout, done.stderr) == (3, b"hello/workspace\n", b"err\n")
            await session.write(Path("d/b.bin"), io.BytesIO(b"\0\1"))
            assert (await session.read(Path("d/b.bin"))).read() == b"\0\1"
            assert {entry.path for entry in await session.ls(".")} == {"/workspace/a.txt", "/workspace/d"}
            with pytest.raises(WorkspaceReadNotFoundError):
                await session.read(Path("none"))
            with pytest.raises(ExecTimeoutError):
                await session.exec("sleep 1000", timeout=1)
            endpoint = await session.resolve_exposed_port(8000)
            assert endpoint.host == "127.0.0.1" and endpoint.port > 0
            assert await session.running()
        assert not await session.running()
        payload = client.serialize_session_state(session.state)
        again = await client.resume(client.deserialize_session_state(payload))
        async with again:  # another sandbox, with the workspace of the first
            assert (await again.read(Path("d/b.bin"))).read() == b"\0\1"

    asyncio.run(main())


@needs_langchain
def test_langchain(root: str) -> None:
    import asyncio

    from cloche.integrations.langchain import ClocheToolkit

    with ClocheToolkit(root=root, timeout=60) as toolkit:
        tools = {tool.name: tool for tool in toolkit.get_tools()}
        assert set(tools) == {"run_command", "run_code", "read_file", "write_file", "list_files"}
        assert "stdin" in tools["run_command"].args and "sandbox" in tools["run_command"].description
        assert Sandbox.list(root=root) == []  # no test has needed one yet
        assert (
            tools["run_command"].invoke({"command": "cat; pwd", "cwd": "/tmp", "stdin": "in\n"})
            == "in\n/tmp\n"
        )
        assert (
            tools["run_code"]
            .invoke({"code": "x = 1; 1 / 0"})
            .rstrip()
            .endswith("ZeroDivisionError: division by zero")
        )
        assert asyncio.run(tools["run_code"].ainvoke({"code": "x + 1"})) == "2"
        assert "No such file" in tools["read_file"].invoke({"path": "/none"})
        (info,) = Sandbox.list(root=root)
        Sandbox.connect(info.name, root=root).kill()
        assert "next call finds a new sandbox" in tools["run_command"].invoke({"command": "true"})
        assert tools["run_command"].invoke({"command": "true"}) == "(no output)"
    assert Sandbox.list(root=root) == []


@needs_langchain
def test_langchain_with_a_sandbox(shared: Sandbox) -> None:
    from cloche.integrations.langchain import ClocheToolkit

    toolkit = ClocheToolkit(shared, timeout=1)
    (command,) = [tool for tool in toolkit.get_tools() if tool.name == "run_command"]
    assert "longer than 1 s" in command.invoke({"command": "sleep 1000"})
    toolkit.close()
    assert shared.is_running()  # it was given
