"""The examples in the pages of the SDK are run."""

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from cloche.sdk import CreateOptions
from tests.cli.harness import environment
from tests.sdk.test_plugs import run_pytest

FOLDER = Path(__file__).parents[2] / "docs" / "sdk"
BLOCK = re.compile(r"(?:^<!-- needs: (\S+) -->\n)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """(what it needs, code) of each."""
    return [
        (found[1] or "", found[2]) for found in BLOCK.finditer((FOLDER / page).read_text(encoding="utf-8"))
    ]


def run_block(page: str, number: int) -> None:
    needed, code = blocks(page)[number]
    if needed and shutil.which(needed) is None:
        pytest.skip(f"needs {needed}")
    exec(compile(code, f"{page}, example {number + 1}", "exec"), {"__name__": "example"})


@pytest.fixture(autouse=True)
def _own_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What examples keep is kept here."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


@pytest.mark.parametrize("number", range(len(blocks("README.md"))))
def test_the_examples_run(number: int) -> None:
    """Each as it stands: who copies one needs no other."""
    run_block("README.md", number)


def test_the_quick_start(capsys: pytest.CaptureFixture[str]) -> None:
    run_block("README.md", 0)
    assert capsys.readouterr().out == "hello\nLinux\n 0\n"
    assert len(blocks("README.md")[0][1].splitlines()) <= 10


SAID = [
    "None \n[1, 2, 3] \nIndexError: list index out of range\n",
    "True\n ['/opt/site',",
    "98 of 100\n",
    "['notes.txt'] ['one', 'two']\n",
    "42",
    "['999', '998', '997', '996', '995', '994', '993', '992']\n",
    "stdout fetch\n",
    "ready\n [True]\n",
    "from inside\n",
    "good 0 False False 45\n",
    "True 0\n",
    "False True 1\n",
]


@pytest.mark.parametrize("number", range(len(SAID)))
def test_the_recipes(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    run_block("recipes.md", number)
    assert SAID[number] in capsys.readouterr().out


def test_there_are_twelve() -> None:
    assert len(blocks("recipes.md")) == len(SAID) == 12


def test_the_fixtures_of_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(blocks("plugs.md")[0][1])
    done = run_pytest(tmp_path)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_settings_of_an_mcp_client(root: str, tmp_path: Path) -> None:
    """The server starts with these words, and sees the project."""
    pytest.importorskip("mcp.server.mcpserver", reason="the package mcp (2.0 or later) is not installed")
    from mcp import Client, StdioServerParameters

    found = re.findall(r"^```json\n(.*?)^```", (FOLDER / "mcp.md").read_text(), re.DOTALL | re.MULTILINE)
    [server] = json.loads(found[0])["mcpServers"].values()
    assert server["command"] == "cloche" and server["args"][0] == "mcp"
    (tmp_path / "file").write_text("of the project\n")
    words = [word.replace("/home/me/project", str(tmp_path)) for word in server["args"]]
    settings = StdioServerParameters(
        command=sys.executable, args=["-m", "cloche.cli.main", "--root", root, *words], env=environment()
    )

    async def main() -> str:
        async with Client(settings, read_timeout_seconds=100) as client:
            result = await client.call_tool("run_command", {"command": "cat file", "cwd": "/work"})
            return str(result.structured_content["stdout"])

    assert asyncio.run(main()) == "of the project\n"


def test_the_kernel_of_jupyter() -> None:
    """The rest of it is tried in `test_jupyter`."""
    found = re.findall(r"^```json\n(.*?)^```", (FOLDER / "plugs.md").read_text(), re.DOTALL | re.MULTILINE)
    provisioner = json.loads(found[0])["metadata"]["kernel_provisioner"]
    assert provisioner["provisioner_name"] == "cloche"
    assert set(provisioner["config"]["sandbox"]) <= set(CreateOptions.__annotations__)
    assert compile("\n".join(code for _needs, code in blocks("plugs.md")), "plugs.md", "exec")
