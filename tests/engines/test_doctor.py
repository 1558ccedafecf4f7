"""`cloche install`, then `cloche doctor --engine`, with engines that run."""

import os
import signal
import time
from pathlib import Path

from tests.engines.harness import RUNTIME, TIMEOUT_S, Docker, need, program, run

CLOCHE = str(Path(RUNTIME).parent / "cloche")


def test_docker(docker: Docker, tmp_path: Path) -> None:
    """Its daemon reads the file again, as `systemctl reload docker` tells it to."""
    config = docker.folder / "d.json"
    before = config.read_text()
    words = ["env", f"DOCKER_HOST={docker.socket}", CLOCHE]
    check = [*words, "doctor", "--engine", "docker", "--config", str(config), "--name", "mine"]
    missing = run(check)
    assert missing.status == 1 and "cloche install --runtime docker" in missing.out, missing
    try:
        done = run([CLOCHE, "install", "--runtime", "docker", "--config", str(config), "--name", "mine"])
        assert done.status == 0, done
        unread = run(check)
        assert unread.status == 1 and "systemctl reload docker" in unread.out, unread
        os.kill(docker.daemon.pid, signal.SIGHUP)
        deadline = time.monotonic() + TIMEOUT_S
        while "mine" not in docker("info", "--format", "{{json .Runtimes}}").out:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        found = run(check)
        assert found.status == 0 and "ok   a container runs" in found.out, found
        assert "cloche-doctor" not in docker("images").out
    finally:
        done = run(
            [CLOCHE, "install", "--runtime", "docker", "--config", str(config), "--name", "mine", "--undo"]
        )
        os.kill(docker.daemon.pid, signal.SIGHUP)
    assert done.status == 0 and "mine" not in config.read_text() and "cloche" in before


def test_podman(tmp_path: Path) -> None:
    need("podman")
    config = tmp_path / "cloche.conf"
    assert run([CLOCHE, "install", "--runtime", "podman", "--config", str(config)]).status == 0
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    )
    # `reset` removes that, too, which is everybody's otherwise: other podmans then think that the machine has started anew.
    (tmp_path / "engine.conf").write_text(f'[engine]\ntmp_dir = "{tmp_path}/tmp"\n')
    settings = [
        f"CONTAINERS_CONF={tmp_path}/engine.conf",
        f"CONTAINERS_CONF_OVERRIDE={config}",
        f"CONTAINERS_STORAGE_CONF={tmp_path}/storage.conf",
    ]
    found = run(["env", *settings, CLOCHE, "doctor", "--engine", "podman", "--config", str(config)])
    assert found.status == 0 and "ok   a container runs" in found.out, found
    run(["env", *settings, program("podman"), "system", "reset", "--force"])
