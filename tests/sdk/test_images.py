"""Sandboxes from images, and images of them, by the SDK."""

import asyncio
import re
from pathlib import Path

import pytest

from cloche import AsyncSandbox, Sandbox
from cloche.sdk import SandboxError
from tests.cli.images import LayerTar, Maker, busybox_layer


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    made = Maker(tmp_path / "layout")
    made.image(
        [busybox_layer()], {"Env": ["PATH=/bin", "GREETING=hello"], "WorkingDir": "/home/app", "User": "app"}
    )
    return str(made.path)


def test_a_sandbox_from_an_image_and_back(layout: str, root: str) -> None:
    with Sandbox.create(image=layout, root=root) as sandbox:
        assert (
            sandbox.commands.run("echo $GREETING from $PWD as $(id -u)").stdout
            == "hello from /home/app as 1000\n"
        )
        sandbox.commands.run("echo done >/home/app/result", check=True)
        digest = sandbox.commit("result:1", changes=["ENV GREETING=bye"])
        assert digest.startswith("sha256:")
        with pytest.raises(SandboxError):
            sandbox.commit("Not A Name")
    with Sandbox.create(image="result:1", root=root) as sandbox:
        assert sandbox.commands.run("cat result; echo $GREETING").stdout == "done\nbye\n"
    with Sandbox.create(image="result:1", user="app:extra", root=root) as sandbox:
        assert sandbox.commands.run("id -g").stdout == "44\n"
    with pytest.raises(SandboxError):
        Sandbox.create(image="./nothing-there", root=root)


def test_the_same_without_waiting(layout: str, root: str) -> None:
    async def main() -> str:
        async with await AsyncSandbox.create(image=layout, root=root) as sandbox:
            await sandbox.commands.run("echo x >x")
            return await sandbox.commit("other:1")

    assert asyncio.run(main()).startswith("sha256:")


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """docs/images.md, where a layout and the `make` in it are yours."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    tool = LayerTar().add(
        "bin/make", b"#!/bin/sh\necho kept >/cache/object && echo made >/home/app/made\n", mode=0o755
    )
    Maker(tmp_path / "layout").image([busybox_layer(), tool.bytes()], {"Env": ["PATH=/bin"]})
    text = (Path(__file__).parents[2] / "docs" / "images.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    given: dict[str, object] = {}
    exec(compile(code, "images.md", "exec"), given)
    assert str(given["digest"]).startswith("sha256:")
    with Sandbox.create(image="built:1", mounts=["cache:/cache"], root=root) as sandbox:
        assert sandbox.commands.run("cat /home/app/made /cache/object").stdout == "made\nkept\n"
