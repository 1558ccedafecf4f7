"""Sandboxes that write to the disk, keep what they write, and begin with what others have kept."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from cloche import AsyncSandbox, Mount, Sandbox
from cloche.runtime import volumes
from cloche.sdk import InvalidArgument, SandboxError, StartError
from tests.cli.harness import descendants, run, wait_until
from tests.cli.images import Maker, busybox_layer


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they are."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data/cloche/layers"


def text(sandbox: Sandbox, command: str) -> str:
    return sandbox.commands.run(command, check=True).stdout


def test_prepared_once_used_many_times(root: str, layers: Path, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input/data").write_text("seen\n")
    with Sandbox.create(root=root, name="base", keep=True) as sandbox:
        text(
            sandbox,
            "mkdir /opt/tool && echo one >/opt/tool/version && rm -f /usr/bin/perl && echo mine >~/notes",
        )
    assert os.listdir(layers) == ["base"]
    mounts = [Mount(tmp_path / "input", "/input", "cow")]
    with (
        Sandbox.create(root=root, template="base", mounts=mounts) as first,
        Sandbox.create(root=root, template="base") as second,
    ):
        for sandbox in (first, second):
            assert text(sandbox, "cat /opt/tool/version ~/notes; ls /usr/bin/perl 2>&1 | wc -l; pwd") == (
                "one\nmine\n1\n" + text(sandbox, "echo ~")
            )
        text(first, "echo two >/opt/tool/version; echo changed >/input/data")
        assert text(first, "cat /opt/tool/version /input/data") == "two\nchanged\n"
        assert text(second, "cat /opt/tool/version; ls /input 2>&1 | wc -l") == "one\n1\n"
        assert {change.path for change in first.diff()} >= {"/opt/tool/version", "/input/data"}
    assert os.listdir(layers) == ["base"]
    with Sandbox.create(root=root, name="base", template="base", keep=True) as sandbox:
        text(sandbox, "echo three >/opt/tool/version")
    with Sandbox.create(root=root, template="base") as sandbox:
        assert text(sandbox, "cat /opt/tool/version") == "three\n"


def test_the_command_has_kept_it(root: str, layers: Path, tmp_path: Path) -> None:
    """In a directory of its own, which the sandbox was shown."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "source").write_text("a\n")
    done = run("sh", "-c", "echo built >out; echo $PWD", options=("--name", "k", "--keep"), cwd=project)
    assert done.out == f"{project}\n" and done.status == 0, done

    async def main() -> str:
        async with await AsyncSandbox.create(root=root, template="k", env={"A": "1"}) as sandbox:
            result = await sandbox.commands.run(f"cat {project}/source {project}/out; echo $A", check=True)
            return result.stdout

    assert asyncio.run(main()) == "a\nbuilt\n1\n"
    assert os.listdir(project) == ["source"]


def test_of_an_image(root: str, layers: Path, tmp_path: Path) -> None:
    made = Maker(tmp_path / "layout")
    made.image(
        [busybox_layer()], {"Env": ["PATH=/bin", "GREETING=hello"], "WorkingDir": "/home/app", "User": "app"}
    )
    with Sandbox.create(image=str(made.path), root=root, name="i", keep=True) as sandbox:
        text(sandbox, "echo x >x")
        sandbox.commit("made:1")
    for name in ("i", "made:1"):
        with Sandbox.create(template=name, root=root, user="1000" if name == "i" else "app") as sandbox:
            assert (
                text(sandbox, "cat x; echo $GREETING from $PWD as $(id -u)")
                == "x\nhello from /home/app as 1000\n"
            )
            text(sandbox, "echo y >x")
    with Sandbox.create(template="i", root=root) as sandbox:
        assert text(sandbox, "cat x; id -u") == "x\n1000\n"


def test_room_on_the_disk(root: str, layers: Path) -> None:
    with Sandbox.create(root=root, disk="20m") as sandbox:
        assert os.listdir(layers)[0].endswith("-temporary")
        result = sandbox.commands.run(
            "dd if=/dev/zero of=/opt/big bs=1M count=30 2>&1; rm /opt/big; df -m /opt"
        )
        assert "No space left" in result.stdout, result
    wait_until(lambda: not os.listdir(layers), "the layer is gone")


def test_what_a_killed_monitor_leaves_goes_with_the_next(root: str, layers: Path) -> None:
    sandbox = Sandbox.create(root=root, disk=20_000_000)
    pid = sandbox.get_info().pid
    parts = {pid, *descendants(pid)}
    left = os.listdir(layers)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{each}") for each in parts), "all is gone")
    assert os.listdir(layers) == left
    with Sandbox.create(root=root, disk="1m"), Sandbox.create(root=root, disk="1m"):
        now = os.listdir(layers)
        assert len(now) == 2 and not set(now) & set(left)


def test_mistakes(root: str, layers: Path) -> None:
    with Sandbox.create(root=root, name="k", keep=True) as sandbox:
        with pytest.raises(SandboxError, match="in use"):
            Sandbox.create(root=root, template="k")
        assert text(sandbox, "echo ok") == "ok\n"
    with pytest.raises(InvalidArgument, match="has a root already"):
        Sandbox.create(root=root, template="k", rootfs="/")
    with pytest.raises(InvalidArgument, match="under which name"):
        Sandbox.create(root=root, keep=True)
    with pytest.raises(InvalidArgument, match="no image none:1 here"):
        Sandbox.create(root=root, template="none:1")
    with pytest.raises(SandboxError, match="is kept already"):
        Sandbox.create(root=root, name="k", keep=True)
    with pytest.raises(SandboxError, match="--disk"):
        Sandbox.create(root=root, disk="much")
    assert (
        issubclass(StartError, SandboxError) and os.listdir(layers) == ["k"] and not Sandbox.list(root=root)
    )


def test_a_volume_keeps_its_size(root: str, layers: Path) -> None:
    volumes.create("small")
    volumes.set_size("small", 1 << 20)
    assert not layers.exists()
    with Sandbox.create(root=root, name="with-volume", keep=True, mounts=["small:/v:rw"]):
        pass
    with Sandbox.create(root=root, template="with-volume") as sandbox:
        done = sandbox.commands.run("dd if=/dev/zero of=/v/large bs=1M count=2")
        assert done.exit_code and "Disk quota exceeded" in done.stderr
