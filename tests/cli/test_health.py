"""Health checks: `run --health-cmd` and its kin, those of images; `list` and `inspect` show their results."""

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from cloche.boot.control_server import ControlServer
from cloche.boot.spec import HealthSpec
from cloche.cli.health import Health
from tests.cli.harness import is_one_line, wait_until
from tests.cli.images import Images, LayerTar, Maker, busybox_layer

SHELL = {"Cmd": ["/bin/sh", "-c", "sleep 1000"], "Env": ["PATH=/bin"]}
QUICK = ("--health-interval", "50ms", "--health-start-interval", "20ms")


@pytest.fixture
def base(images: Images, layout: Maker) -> Images:
    check = {"Test": ["CMD-SHELL", "test -e /ok && echo fine"], "Interval": 50_000_000, "Retries": 2}
    layout.image(
        [busybox_layer(), LayerTar().folder("tmp", 0o1777).bytes()], {**SHELL, "Healthcheck": check}, "base:1"
    )
    assert images("load", "-i", "layout").status == 0
    return images


def health(images: Images, name: str = "h") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(images("inspect", name).out)[0]["health"]
    return found


def start(images: Images, *options: str) -> None:
    done = images("run", "-d", "--rm", "--name", "h", *options, "--image", "base:1")
    assert done.status == 0, done


def wait_for(images: Images, status: str) -> dict[str, Any]:
    wait_until(lambda: health(images)["status"] == status, status)
    return health(images)


def test_what_an_image_says_is_done(base: Images) -> None:
    start(base)
    found = wait_for(base, "unhealthy")
    assert found["failing_streak"] >= 2 and {row["exit_code"] for row in found["log"]} == {1}
    assert base("exec", "h", "--", "touch", "/ok").status == 0
    found = wait_for(base, "healthy")
    assert found["failing_streak"] == 0 and found["log"][-1]["output"] == "fine\n"
    assert "running (healthy)" in base("list").out
    wait_until(lambda: len(health(base)["log"]) == 5, "five rows, and never more")
    assert base("exec", "h", "--", "rm", "/ok").status == 0
    wait_for(base, "unhealthy")
    base("rm", "-f", "h")


def test_what_fails_in_the_start_period_does_not_count(base: Images) -> None:
    start(base, *QUICK, "--health-start-period", "1h", "--health-retries", "1")
    wait_until(lambda: len(health(base)["log"]) == 5, "checks")
    assert health(base)["status"] == "starting" and health(base)["failing_streak"] == 0
    assert base("exec", "h", "--", "touch", "/ok").status == 0
    wait_for(base, "healthy")
    base("rm", "-f", "h")


def test_one_that_takes_too_long_is_ended(base: Images) -> None:
    start(
        base,
        *QUICK,
        "--health-cmd",
        "echo begun; sleep 5000",
        "--health-timeout",
        "300ms",
        "--health-retries",
        "2",
    )
    found = wait_for(base, "unhealthy")
    assert found["log"][-1]["exit_code"] == -1 and "longer than 0.3 s" in found["log"][-1]["output"]
    base("rm", "-f", "h")


def test_it_takes_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are served between two, however fast a check writes."""
    health = Health(HealthSpec([b"yes"]), cast(ControlServer, None), lambda: None)
    health.pipe = 99
    monkeypatch.setattr(os, "read", lambda _fd, count: b"y" * count)
    health.read()
    assert health.output == b"y" * 4096
    health.pipe = -1


def test_one_that_writes_without_end_keeps_nobody(base: Images) -> None:
    start(base, *QUICK, "--health-cmd", "yes", "--health-timeout", "2s", "--health-retries", "1")
    assert base("exec", "h", "--", "echo", "served").out == "served\n"
    found = wait_for(base, "unhealthy")
    assert found["log"][-1]["exit_code"] == -1
    base("rm", "-f", "h")
    start(base, *QUICK, "--health-cmd", "yes & true")  # background processes of a check are not waited for
    wait_for(base, "healthy")
    base("rm", "-f", "h")


def test_a_great_deal_of_output_and_what_is_not_there(base: Images) -> None:
    start(base, *QUICK, "--health-cmd", "head -c 3000000 /dev/zero | tr '\\0' x; echo y >&2")
    found = wait_for(base, "healthy")
    assert found["log"][-1]["output"] == "x" * 4096
    base("rm", "-f", "h")
    start(base, *QUICK, "--health-cmd", "/no/such/program", "--health-retries", "1")
    found = wait_for(base, "unhealthy")
    assert found["log"][-1]["exit_code"] == 127 and "not found" in found["log"][-1]["output"]
    base("rm", "-f", "h")


def test_none_is_wanted(base: Images) -> None:
    start(base, "--no-healthcheck")
    assert health(base) == {} and "running  " in base("list").out
    base("rm", "-f", "h")


@pytest.mark.parametrize(
    "options",
    [
        ("--health-cmd", ""),
        ("--health-cmd", "true", "--health-interval", "soon"),
        ("--health-cmd", "true", "--health-timeout", "0"),
        ("--health-cmd", "true", "--health-retries", "0"),
        ("--health-retries", "3"),
        ("--no-healthcheck", "--health-cmd", "true"),
    ],
)
def test_what_makes_no_sense(images: Images, options: tuple[str, ...], tmp_path: Path) -> None:
    done = images("run", "-d", "--rm", *options, "--", "true")
    assert done.status == 125 and is_one_line(done.err), done


def test_one_without_a_record(images: Images) -> None:
    done = images("run", "--health-cmd", "true", "--", "true")
    assert done.status == 125 and is_one_line(done.err) and "--name" in done.err, done
