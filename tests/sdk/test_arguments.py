"""Arguments that make no sense are refused by name, and are not taken for something else."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloche import Mount, Sandbox
from cloche.sdk import InvalidArgument

HALF = "\ud800"  # a character that no encoding has

CREATE: list[tuple[dict[str, Any], str]] = [
    ({"rootfs": ""}, "rootfs: is empty"),
    ({"rootfs": 5}, "rootfs"),
    ({"image": ""}, "image: is empty"),
    ({"env": ["A=1"]}, "env: list"),
    ({"env": {"A": HALF}}, "create: .*half of a pair"),
    ({"mounts": [5]}, "mounts: 5"),
    ({"mounts": None}, "mounts: None: a list"),
    ({"ports": 8000}, r"ports: 8000: a list, as \[8000\]"),
    ({"allow": 5}, "allow: 5: a list"),
    ({"network": 5}, "network: 5: a list"),
    ({"secrets": None}, "secrets"),
    ({"on_approval": 5}, "on_approval: 5"),
    ({"metadata": {"a": 1}}, "metadata: 'a'"),
    ({"metadata": {"a": HALF}}, "metadata"),
    ({"name": 5}, "name: 5"),
    *[
        ({"name": name}, "^name: .* is not a name: letters")
        for name in ("", ".", "..", "a/b", "/", "a\nb", "a\n", "a\0b", "-a", "a b", "é", HALF, "x" * 65)
    ],
    ({"template": 5}, "template: 5"),
    ({"leash": None}, "leash: None"),
    ({"root": 5}, "root: 5"),
    ({"options": "--memory=1g"}, "options: .*a list"),
    ({"options": [5]}, "options: 5"),
]

CALLS: list[tuple[str, Callable[[Any], object]]] = [
    ("command", lambda box: box.commands.run(None)),
    ("command", lambda box: box.commands.run(f"echo {HALF}")),
    ("command", lambda box: box.commands.run(["echo", HALF])),
    ("timeout", lambda box: box.commands.run("true", timeout="5")),
    ("timeout", lambda box: box.commands.run("true", timeout=math.nan)),
    ("cwd", lambda box: box.commands.run("true", cwd=5)),
    ("cwd", lambda box: box.commands.run("true", cwd=HALF)),
    ("cwd: .*/none: No such file.*make it first", lambda box: box.commands.run("true", cwd="/none")),
    ("cwd: .*/none", lambda box: box.commands.run("true", cwd="/none", background=True)),
    ("cwd: .*/none", lambda box: box.pty.create(["true"], cwd="/none")),
    ("cwd: .*/none", lambda box: box.create_code_context(cwd="/none")),
    ("cwd: .*/passwd: Not a directory", lambda box: box.commands.run("true", cwd="/etc/passwd")),
    ("env", lambda box: box.commands.run("true", env="A=1")),
    ("env", lambda box: box.commands.run("true", env={"A": HALF})),
    ("stdin", lambda box: box.commands.run("cat", stdin=5)),
    ("stdin", lambda box: box.commands.run("cat", stdin=["text"])),
    ("stdin", lambda box: box.commands.run("cat", stdin=HALF)),
    ("max_output", lambda box: box.commands.run("echo long", max_output=-1)),
    ("max_output", lambda box: box.commands.run("echo long", max_output=None)),
    ("on_stdout", lambda box: box.commands.run("true", on_stdout=5)),
    ("rows", lambda box: box.pty.create(["true"], rows="24")),
    ("rows", lambda box: box.pty.create(["cat"]).resize(0, 80)),
    *[
        ("signal", lambda box, signal=signal: box.commands.run("true", background=True).kill(signal))
        for signal in (0, -1, 65, "TERM", None)
    ],
    ("path", lambda box: box.files.read(None)),
    ("path", lambda box: box.files.read(HALF)),
    ("data", lambda box: box.files.write("/tmp/a", None)),
    ("data", lambda box: box.files.write("/tmp/a", HALF)),
    ("mode", lambda box: box.files.write("/tmp/a", "", mode="644")),
    ("files", lambda box: box.files.write_files([("/tmp/a", "")])),
    ("depth", lambda box: box.files.list("/etc", depth="1")),
    ("timeout", lambda box: box.files.watch_dir("/tmp").next_event(math.nan)),
    ("code", lambda box: box.run_code(None)),
    ("language", lambda box: box.run_code("1", 5)),
    ("timeout", lambda box: box.run_code("1", timeout=math.nan)),
    ("on_result", lambda box: box.run_code("1", on_result=5)),
    ("port", lambda box: box.dial("80")),
    ("timeout", lambda box: box.set_timeout("5")),
    ("changes", lambda box: box.commit("a:b", changes="CMD true")),
]


@pytest.mark.parametrize(("given", "text"), CREATE)
def test_of_create(root: str, given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        Sandbox.create(**{"root": root, **given})
    assert Sandbox.list(root=root) == []


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_of_calls(shared: Sandbox, number: int) -> None:
    what, call = CALLS[number]
    with pytest.raises(InvalidArgument, match=f"^{what}"):
        call(shared)


def test_a_path_where_a_list_is_meant(root: str, tmp_path: Path) -> None:
    """Its characters are paths, too: among them "/", which is everything."""
    for name in ("wanted", "other"):
        (tmp_path / name).write_text("old\n")
    with Sandbox.create(root=root, mounts=[Mount(tmp_path, "/work")], cwd="/work") as sandbox:
        sandbox.commands.run("echo new > wanted; echo new > other", check=True)
        for path in ("/work/wanted", b"/work/wanted", Path("/work/wanted")):
            with pytest.raises(InvalidArgument, match="paths: .*a list"):
                sandbox.apply(path)  # type: ignore[arg-type]
            with pytest.raises(InvalidArgument, match="paths: .*a list"):
                sandbox.diff(path)  # type: ignore[arg-type]
        assert (tmp_path / "other").read_text() == "old\n"
        sandbox.apply(["/work/wanted"])
    assert [(tmp_path / name).read_text() for name in ("wanted", "other")] == ["new\n", "old\n"]


def test_bytes_of_every_kind_are_input(shared: Sandbox) -> None:
    data = os.urandom(1000)
    for given in (data, bytearray(data), memoryview(data)):
        assert shared.commands.run("cat", stdin=given).stdout_bytes == data  # type: ignore[arg-type]
