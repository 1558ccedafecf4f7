"""Podman with cloche beside Podman with runc, as root, without a network."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import RUNTIME, Done, make_root, need, program, run

RUNTIMES = ("runc", "cloche")


class Podman:
    """Podman with storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "containers.conf"
        names = "runc", "crun", "cloche-oci"
        self.config.write_text(f"[engine]\nruntime_supports_json = {list(names)!r}\n".replace("'", '"'))

    def __call__(self, runtime: str, *words: str, stdin: bytes = b"") -> Done:
        path = RUNTIME if runtime == "cloche" else program("runc")
        base = [
            *(
                "env",
                "PODMAN_IGNORE_CGROUPSV1_WARNING=1",
                f"CONTAINERS_CONF_OVERRIDE={self.config}",
                program("podman"),
            ),
            *("--root", str(self.folder / "root"), "--runroot", str(self.folder / "run")),
            *(
                "--storage-driver=overlay",
                "--cgroup-manager=cgroupfs",
                "--events-backend=file",
                f"--runtime={path}",
            ),
        ]
        return run([*base, *words], stdin)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    need("podman", "conmon", "runc", "busybox")
    folder = tmp_path_factory.mktemp("podman")
    root = make_root(folder / "image")
    tar = folder / "bb.tar"
    assert run([program("tar"), "-C", str(root), "-cf", str(tar), "."]).status == 0
    made = Podman(folder)
    imported = made("runc", "import", str(tar), "bb:1")
    if imported.status:
        pytest.skip(f"needs a podman that works: {imported.err.strip()[-200:]}")
    alike = made("runc", "run", "--rm", "--network=none", "bb:1", "true")
    if alike.status:
        pytest.skip(f"needs a podman that runs runc: {alike.err.strip()[-200:]}")
    try:
        yield made
    finally:
        made("runc", "rm", "-fa", "-t", "0")
        run(["umount", str(folder / "root" / "overlay")])


def test_runs_alike(podman: Podman) -> None:
    found = []
    for runtime in RUNTIMES:
        base = ["run", "--rm", "--network=none", "bb:1"]
        rows = [podman(runtime, *base, "sh", "-c", "id; grep Cap /proc/self/status; echo err >&2; exit 3")]
        rows.append(podman(runtime, *base, "nosuch"))
        rows.append(podman(runtime, *base, "/etc/passwd"))
        shown = [(row.status, row.out, row.err.replace(RUNTIME, program("runc"))) for row in rows]
        found.append(shown)
    assert found[0] == found[1]


def test_cp_never_touches_the_host(podman: Podman, tmp_path: Path) -> None:
    """`podman cp` enters the namespaces of the container's pid."""
    name = f"copied-{os.getpid()}"
    source = tmp_path / "in"
    source.write_text("copied\n")
    seen = []
    for runtime in RUNTIMES:
        assert podman(runtime, "run", "-d", "--name=x", "--network=none", "bb:1", "sleep", "1000").status == 0
        row: list[object] = [podman(runtime, "cp", str(source), f"x:/root/{name}").status]
        row.append(podman(runtime, "exec", "x", "cat", f"/root/{name}").out)
        assert not Path("/root", name).exists()
        row.append(podman(runtime, "exec", "x", "sh", "-c", f"echo made > /tmp/{name}").status)
        row.append(podman(runtime, "cp", f"x:/tmp/{name}", str(tmp_path / "out")).status)
        row.append((tmp_path / "out").read_text())
        assert not Path("/tmp", name).exists()
        assert "sleep 1000" in podman(runtime, "top", "x").out
        row.append([podman(runtime, verb, "x").status for verb in ("pause", "unpause")])
        row.append(podman(runtime, "exec", "x", "sh", "-c", "exit 4").status)
        row.append(podman(runtime, "inspect", "-f", "{{.State.Status}}", "x").out)
        row.append(podman(runtime, "rm", "-f", "-t", "0", "x").status)
        seen.append(row)
    assert seen[0] == seen[1]
