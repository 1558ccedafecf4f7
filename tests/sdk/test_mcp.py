"""`cloche mcp`, driven by a client of the official SDK."""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloche import Sandbox
from cloche.sdk import Result
from tests.cli.harness import environment, run_words, wait_until

pytest.importorskip("mcp.server.mcpserver", reason="the package mcp (2.0 or later) is not installed")


@asynccontextmanager
async def client(root: str, *options: str, cwd: Path | None = None) -> AsyncIterator[Any]:
    from mcp import Client, StdioServerParameters

    words = ["-m", "cloche.cli.main", "--root", root, "mcp", *options]
    server = StdioServerParameters(command=sys.executable, args=words, env=environment(), cwd=cwd)
    async with Client(server, read_timeout_seconds=100) as connected:
        yield connected


def text_of(result: Any) -> str:
    return "\n".join([part.text for part in result.content if part.type == "text"])


def test_tools(root: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host\n")

    async def main() -> None:
        async with client(root, "--memory", "512m", "-v", ".:/mnt:ro", cwd=tmp_path) as server:
            call = server.call_tool
            names = {tool.name for tool in (await server.list_tools()).tools}
            assert names == {
                *("run_command", "run_code", "read_file", "write_file", "list_files"),
                *("start_job", "job_output", "stop_job", "reset"),
            }
            seen: list[float] = []

            async def progress(count: float, _total: float | None, _message: str | None) -> None:
                seen.append(count)

            result = await call(
                "run_command", {"command": "cat /mnt/file; exit 3"}, progress_callback=progress
            )
            assert result.structured_content == {"exit_code": 3, "stdout": "host\n", "stderr": ""}
            assert seen == [5]
            late = await call("run_command", {"command": "echo a; sleep 1000", "timeout": 1})
            assert late.structured_content["timed_out"] is True
            await call("run_code", {"code": "x = 20"})
            shown = await call("run_code", {"code": "print('hi'); x * 2"})
            assert text_of(shown).split() == ["hi", "40"]
            broken = await call("run_code", {"code": "1/0"})
            assert "ZeroDivisionError" in text_of(broken) and not broken.is_error
            gone = text_of(await call("run_code", {"code": "import os; os._exit(3)"}))
            assert gone == "InterpreterEnded: status 3; its state is lost"  # no "context", which no tool has
            liar = "class P:\n    def _repr_png_(self): return 5\nP()"
            assert "cannot be decoded" in text_of(await call("run_code", {"code": liar}))
            flood = "for n in range(500): display('x' * 20_000)\n'the end'"
            shown = await call("run_code", {"code": flood})
            assert len(text_of(shown)) < 100_000 and "results were left out" in text_of(shown)
            assert "the end" in shown.content[-1].text
            await call("write_file", {"path": "/work/a/b", "content": "é" * 10})
            assert text_of(await call("read_file", {"path": "/work/a/b", "offset": 8})) == "éé"
            assert "/work/a/b" in text_of(await call("list_files", {"path": "/work", "depth": 2}))
            found = await server.read_resource("sandbox://work/a/b")
            assert found.contents[0].text == "é" * 10
            part = await call("read_file", {"path": "/work/a/b", "offset": 3, "limit": 4})
            assert text_of(part) == "éééé\n[… it goes on at offset 7]"
            # Only what is given is read: not the rest, which is no text, nor all that there is.
            made = "printf 'hello%0100000d\\377' 0 > /tmp/mixed; truncate -s 1T /tmp/mixed"
            await call("run_command", {"command": made})
            part = await call("read_file", {"path": "/tmp/mixed", "limit": 5})
            assert text_of(part) == "hello\n[… it goes on at offset 5]"
            refused = await call("read_file", {"path": "/no"})
            assert refused.is_error and "No such file" in text_of(refused)
            long = await call("run_command", {"command": "head -c 1000000 /dev/zero | tr '\\0' x"})
            assert len(text_of(long)) < 100_000 and "left out" in text_of(long)

            await call("reset", {})
            assert (await call("read_file", {"path": "/work/a/b"})).is_error

    asyncio.run(main())
    wait_until(lambda: not Sandbox.list(root=root), "the sandbox has ended with the server")


# What a client of the server does not have.
SDK_WORDS = (
    "format=",
    "max_bytes",
    "max_entries",
    "kill()",
    "create_code_context",
    "rootfs",
    "data:",
    "make another",
)


def test_errors_name_what_the_tools_have(root: str) -> None:
    """Each says what happened, and a remedy only if it is one of the tools'."""

    async def main() -> None:
        async with client(root) as server:

            async def refused(tool: str, **arguments: Any) -> str:
                result = await server.call_tool(tool, arguments)
                assert result.is_error
                text = text_of(result)
                assert not [word for word in SDK_WORDS if word in text]
                return text

            prepared = (
                "printf '\\377' > /tmp/latin; truncate -s 300M /tmp/large; mkdir /tmp/many; cd /tmp/many"
            )
            await server.call_tool("run_command", {"command": prepared + "; seq 11000 | xargs touch"})
            assert "not UTF-8 text" in (text := await refused("read_file", path="/tmp/latin"))
            assert "run_command can show parts" in text
            text = await refused("read_file", path="/tmp/large", offset=1 << 30)
            assert "offset: up to 268435456" in text and "run_command can show parts" in text
            text = await refused("list_files", path="/tmp/many")
            assert "more than 10000 entries; give a smaller depth" in text
            assert "Is a directory" in await refused("read_file", path="/tmp")
            assert "cwd: " in await refused("run_command", command="true", cwd="/none")
            assert "language: " in await refused("run_code", code="1", language="perl")

            slow = "print('begun', flush=True)\nimport time; time.sleep(1000)"
            begun = asyncio.Event()

            async def progress(_count: float, _total: float | None, _message: str | None) -> None:
                begun.set()

            cell = asyncio.create_task(
                server.call_tool("run_code", {"code": slow, "timeout": 1000}, progress_callback=progress)
            )
            await begun.wait()
            assert "runs a cell already; wait for its end" in await refused("run_code", code="1")
            cell.cancel()

            job = (await server.call_tool("start_job", {"command": "sleep 1000"})).structured_content["job"]
            for info in Sandbox.list(root=root):
                Sandbox.connect(info.name, root=root).kill()
            found = await server.call_tool("job_output", {"job": job, "wait_seconds": 60})
            assert "the sandbox has ended" in found.structured_content["error"]
            assert not [word for word in SDK_WORDS if word in found.structured_content["error"]]

    asyncio.run(main())


def test_pictures_have_a_limit() -> None:
    """The first, and each that still has room."""
    from cloche.integrations.mcp import MAX_PICTURE_BYTES, shown_results

    def picture(size: int) -> Result:
        return Result({"image/png": base64.b64encode(bytes(size)).decode()})

    small = MAX_PICTURE_BYTES // 4
    parts = shown_results([picture(small), picture(MAX_PICTURE_BYTES), picture(small), picture(3 * small)])
    assert [type(part).__name__ for part in parts] == ["Image", "str", "Image", "str"]
    assert f"a picture of {MAX_PICTURE_BYTES} bytes was left out" in str(parts[1])


def test_a_character_that_no_file_can_have(root: str) -> None:
    """A model is told by the name of its own parameter; so it is by the tools of LangChain and Pydantic AI."""
    from cloche.integrations.tools import Tools, shortened

    tools = Tools(None, 60, {"root": root})
    try:
        told = tools.write_file("/tmp/a", "\ud800")
        assert told == "error: content: has a character that is half of a pair"
        tools.run_command("printf '\\377' > /tmp/latin")
        assert tools.read_file("/tmp/latin").endswith(
            "; run_command can show parts of it, as by head, tail, sed or xxd"
        )
        tools.write_file("/tmp/long", "ä" * 100_000 + "the end")
        shown = tools.read_file("/tmp/long")
        assert shown == shortened("ä" * 100_000 + "the end") and tools.read_file("/tmp/no").startswith(
            "error: "
        )
        tools.run_command("truncate -s 1T /tmp/huge")
        assert "more than 268435456 bytes; run_command" in tools.read_file("/tmp/huge")
        tools.sandbox.kill()
        assert tools.run_command("true").endswith("; the next call finds a new sandbox")
    finally:
        tools.close()


def test_jobs(root: str) -> None:
    async def main() -> None:
        async with client(root) as server:
            call = server.call_tool
            job = (await call("start_job", {"command": "echo up; read x; sleep 1000"})).structured_content[
                "job"
            ]
            first = await call("job_output", {"job": job, "wait_seconds": 60})
            assert first.structured_content["output"] == "up\n"
            ended = await call("job_output", {"job": job, "wait_seconds": 0})
            assert ended.structured_content["output"] == ""
            stopped = (await call("stop_job", {"job": job})).structured_content
            assert not stopped["is_running"] and stopped["exit_code"] == 137
            assert "there is no job" in text_of(await call("stop_job", {"job": job}))

    asyncio.run(main())


def test_a_call_that_is_cancelled(root: str) -> None:
    async def main() -> None:
        async with client(root) as server:
            await server.call_tool("run_command", {"command": "true"})
            call = asyncio.create_task(
                server.call_tool("run_command", {"command": "exec sleep 1000", "timeout": 1000})
            )
            [info] = Sandbox.list(root=root)
            sandbox = Sandbox.connect(info.name, root=root)
            await asyncio.to_thread(
                wait_until,
                lambda: any(process.args[0] == "sleep" for process in sandbox.commands.list()),
                "it runs",
                60,
            )
            call.cancel()
            await asyncio.to_thread(
                wait_until,
                lambda: not any(process.args[0] == "sleep" for process in sandbox.commands.list()),
                "it is gone",
                60,
            )
            assert not (await server.call_tool("run_command", {"command": "true"})).is_error

    asyncio.run(main())


def test_options_that_there_are_not(root: str) -> None:
    for words in (["--nonsense"], ["--", "true"]):
        outcome = run_words([sys.executable, "-m", "cloche.cli.main", "--root", root, "mcp", *words])
        assert (
            outcome.status == 125 and outcome.err.count("\n") == 1 and outcome.err.startswith("cloche mcp: ")
        )
