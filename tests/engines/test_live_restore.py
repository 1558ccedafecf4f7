"""Docker's live-restore: containers outlive the daemon, and the next one takes them over.  With cloche as with runc."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import TIMEOUT_S, Docker, end, make_image, need

RUNTIMES = ("runc", "cloche")


@pytest.fixture
def restored(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A daemon with live-restore, and the image bb:1."""
    need("dockerd", "docker", "containerd", "runc", "busybox")
    image = make_image(tmp_path / "image")
    made = Docker(tmp_path_factory.mktemp("live"), keeps=True)  # the name of a socket is not to be long
    try:
        assert made("import", str(image), "bb:1").status == 0
        yield made
    finally:
        made.close()


def test_containers_outlive_the_daemon(restored: Docker, tmp_path: Path) -> None:
    """One that goes on, one that ends meanwhile, and one that ends in time, after the daemon was killed, then ended."""
    volume = tmp_path / "volume"
    volume.mkdir()
    for runtime in RUNTIMES:
        base = ["run", "-d", f"--runtime={runtime}", "--network=none", "-v", f"{volume}:/v"]
        stays = "trap 'exit 6' TERM; echo one; until test -e /v/go; do sleep 0.1; done; echo two;"
        stays += f"touch /v/seen-{runtime}; while :; do sleep 0.1; done"
        assert restored(*base, "--name", f"stays-{runtime}", "bb:1", "sh", "-c", stays).status == 0
        ends = f"until test -e /v/go; do sleep 0.1; done; touch /v/ended-{runtime}; exit 5"
        assert restored(*base, "--name", f"ends-{runtime}", "bb:1", "sh", "-c", ends).status == 0
    restored.daemon.kill()
    restored.daemon.wait()
    (volume / "go").touch()
    wanted = [volume / f"{what}-{runtime}" for what in ("seen", "ended") for runtime in RUNTIMES]
    deadline = time.monotonic() + TIMEOUT_S
    while not all(path.exists() for path in wanted):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    restored.start()
    found: list[list[object]] = []
    for runtime in RUNTIMES:
        name = f"stays-{runtime}"
        steps: list[object] = []
        assert (
            restored("wait", f"ends-{runtime}").status == 0
        )  # Docker has lost its status, with runc as well
        steps.append(restored("inspect", "-f", "{{.State.Status}}", name).out)
        steps.append(restored("exec", name, "sh", "-c", "echo inside; exit 4").out)
        steps.append(restored("logs", name).out)
        found.append(steps)
    assert found[0] == found[1]
    assert found[1] == ["running\n", "inside\n", "one\ntwo\n"]
    end(restored.daemon)  # an orderly end leaves them running, too
    restored.start()
    for runtime in RUNTIMES:
        name = f"stays-{runtime}"
        assert restored("exec", name, "echo", "still").out == "still\n"
        assert restored("pause", name).status == 0
        assert restored("unpause", name).status == 0
        assert restored("stop", name).status == 0
        assert restored("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name).out == "exited 6\n"
