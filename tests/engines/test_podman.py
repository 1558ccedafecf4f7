"""Podman with cloche beside Podman with runc, as root; networks in a network namespace of the test's own."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import RUNTIME, TIMEOUT_S, Done, end, need, need_runc, program, run

RUNTIMES = ("runc", "cloche")


class Podman:
    """Podman with storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix: list[str] = []  # the start of every command
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
            f"--tmpdir={self.folder / 'tmp'}",
            *(
                "--storage-driver=overlay",
                "--cgroup-manager=cgroupfs",
                "--events-backend=file",
                f"--network-config-dir={self.folder}/nets",
                f"--runtime={path}",
            ),
        ]
        return run([*self.prefix, *base, *words], stdin)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    need("podman", "conmon", "runc", "busybox")
    folder = tmp_path_factory.mktemp("podman")
    made = Podman(folder)
    need_runc(made, folder, "")
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


@pytest.fixture
def networked(podman: Podman) -> Iterator[Podman]:
    """The same in a network namespace of its own, in which it may change what it likes."""
    need("ip", "nsenter", "unshare")
    up = f"{program('ip')} link set lo up && echo && exec cat"
    words = [program("unshare"), "-n", program("sh"), "-c", up]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"\n"
    podman.prefix = [program("nsenter"), "-t", str(holder.pid), "-n"]
    try:
        alike = podman("runc", "run", "--rm", "bb:1", "true")
        if alike.status:
            pytest.skip(f"needs a podman with networks: {alike.err.strip()[-200:]}")
        yield podman
    finally:
        podman("runc", "pod", "rm", "-fa", "-t", "0")
        podman("runc", "rm", "-fa", "-t", "0")
        podman.prefix = []
        end(holder)


def test_networks_and_pods(networked: Podman) -> None:
    """A published port; containers of a pod, which share a network namespace."""
    web = "echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp"
    for runtime in RUNTIMES:
        started = networked(
            runtime, "run", "-d", "--name=web", "-p", "127.0.0.1:8080:80", "bb:1", "sh", "-c", web
        )
        assert started.status == 0, started
        fetch = [
            *networked.prefix,
            program("busybox"),
            "wget",
            "-T",
            "20",
            "-q",
            "-O",
            "-",
            "http://127.0.0.1:8080/",
        ]
        deadline = time.monotonic() + TIMEOUT_S
        while (done := run(fetch)).status and time.monotonic() < deadline:
            time.sleep(0.1)
        assert done.out == "hello\n", done
        networked(runtime, "rm", "-f", "-t", "0", "web")
        made = networked(runtime, "pod", "create", "--name=pod")
        if made.status:
            pytest.skip(f"needs a podman that makes pods: {made.err.strip()[-200:]}")
        assert networked(runtime, "run", "-d", "--pod=pod", "bb:1", "sh", "-c", web).status == 0
        script = "until wget -q -O - http://127.0.0.1/; do sleep 0.1; done"
        done = networked(runtime, "run", "--rm", "--pod=pod", "bb:1", "sh", "-c", script)
        assert done.out == "hello\n", done
        assert networked(runtime, "pod", "rm", "-f", "-t", "0", "pod").status == 0
