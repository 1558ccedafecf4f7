"""Trials of Harbor in sandboxes, by the real package: its oracle solves a task, and the task's verifier judges."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("harbor", reason="the package harbor is not installed")

from harbor.models.trial.config import TrialConfig
from harbor.trial.trial import Trial

from cloche import Sandbox
from tests.cli.images import Maker, busybox_layer

PLUG = "cloche.integrations.harbor:ClocheEnvironment"
TASK = """
schema_version = "1.4"
[verifier]
timeout_sec = 300.0
[agent]
timeout_sec = 300.0
[environment]
build_timeout_sec = 300.0
cpus = 1
memory_mb = 512
workdir = "/work"
network_mode = "{network}"
{more}
[environment.env]
GREETING = "hello"
"""
SOLVE = """#!/bin/sh
echo "$GREETING from $(pwd)" > answer.txt
"""
JUDGE = """#!/bin/sh
if [ "$(cat /work/answer.txt)" = "hello from /work" ]; then echo 1; else echo 0; fi > /logs/verifier/reward.txt
ln -s /etc/passwd /logs/verifier/leads-outside
cat /sys/fs/cgroup/memory.max > /logs/verifier/memory.txt 2>/dev/null || true
"""


def make_task(folder: Path, more: str = "", solve: str = SOLVE, network: str = "no-network") -> Path:
    task = folder / "task"
    for name, text in (
        ("task.toml", TASK.format(more=more, network=network)),
        ("instruction.md", "Write a greeting.\n"),
        ("solution/solve.sh", solve),
        ("tests/test.sh", JUDGE),
    ):
        (task / name).parent.mkdir(parents=True, exist_ok=True)
        (task / name).write_text(text)
    (task / "environment").mkdir(exist_ok=True)
    return task


def trial(folder: Path, task: Path, agent: str = "oracle", **options: Any) -> Any:
    """Its result."""
    config = TrialConfig.model_validate(
        {
            "task": {"path": str(task)},
            "trials_dir": str(folder / "trials"),
            "agent": {"name": agent},
            "environment": {
                "import_path": PLUG,
                "kwargs": {"root": str(folder / "records"), **options},
            },
        }
    )

    async def main() -> Any:
        return await (await Trial.create(config)).run()

    result = asyncio.run(main())
    assert Sandbox.list(root=str(folder / "records")) == []
    return result


def test_a_task_is_solved_and_judged(tmp_path: Path) -> None:
    result = trial(tmp_path, make_task(tmp_path), rootfs="host")
    assert result.exception_info is None, result.exception_info
    assert result.verifier_result.rewards == {"reward": 1.0}
    (judged,) = (tmp_path / "trials").rglob("verifier")
    assert (judged / "reward.txt").read_text() == "1\n"
    assert not (judged / "leads-outside").is_symlink()


def test_an_agent_that_does_nothing(tmp_path: Path) -> None:
    result = trial(tmp_path, make_task(tmp_path), agent="nop", rootfs="host")
    assert result.exception_info is None, result.exception_info
    assert result.verifier_result.rewards == {"reward": 0.0}


def test_a_task_of_an_image(tmp_path: Path) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("needs busybox")
    (tmp_path / "layout").mkdir()
    Maker(tmp_path / "layout").image([busybox_layer()], {"Env": ["PATH=/bin"], "WorkingDir": "/home"})
    task = make_task(tmp_path, more=f'docker_image = "{tmp_path / "layout"}"')
    (task / "environment" / "data.txt").write_text("beside the task")
    result = trial(tmp_path, task)
    assert result.exception_info is None, result.exception_info
    assert result.verifier_result.rewards == {"reward": 1.0}


# An engine: its image is the layout that stands beside it.
ENGINE = """#!/bin/sh
echo "$@" >> CALLS
case "$1" in
build) for word; do case "$word" in --iidfile=*) echo sha256:abc > "${word#--iidfile=}";; esac; done;;
save) cp LAYOUT.tar "$3";;
esac
"""


def test_a_dockerfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built once, by the engine that there is."""
    if shutil.which("busybox") is None:
        pytest.skip("needs busybox")
    layout, calls, tools = tmp_path / "layout", tmp_path / "calls", tmp_path / "tools"
    layout.mkdir()
    Maker(layout).image([busybox_layer()], {"Env": ["PATH=/bin"]})
    shutil.make_archive(str(layout), "tar", layout)
    tools.mkdir()
    (tools / "docker").write_text(ENGINE.replace("CALLS", str(calls)).replace("LAYOUT", str(layout)))
    (tools / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("CLOCHE_TEMPLATE", "0")
    task = make_task(tmp_path)
    (task / "environment" / "Dockerfile").write_text("FROM scratch\n")
    for _time in range(2):
        result = trial(tmp_path, task)
        assert result.exception_info is None, result.exception_info
        assert result.verifier_result.rewards == {"reward": 1.0}
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["build", "save"]


def test_what_cannot_be(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    with pytest.raises(FileNotFoundError):
        trial(tmp_path, task)  # it has neither image nor Dockerfile
    with pytest.raises(FileNotFoundError):
        trial(tmp_path, task, rootfs=str(tmp_path / "none"))
