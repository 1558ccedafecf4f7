"""containerd by `ctr`, with cloche as the binary of its runc shim, beside runc."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import RUNTIME, START_S, Done, end, make_root, need, program, run

BINARIES = ("runc", RUNTIME)
_CONFIG = """version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{0}/c.sock"
[ttrpc]
  address = "{0}/c.sock.ttrpc"
"""


class Containerd:
    """A containerd of the test's own, on root file systems without images."""

    def __init__(self, folder: Path) -> None:
        """Skips if it does not come up."""
        self.folder = folder
        (folder / "c.toml").write_text(_CONFIG.format(folder))
        self.log = folder / "log"
        with open(self.log, "wb") as log:
            self.daemon = subprocess.Popen(
                [program("containerd"), "-c", str(folder / "c.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while self("version").status:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                end(self.daemon)
                pytest.skip(f"needs a containerd that starts: {self.log.read_text()[-200:]}")
            time.sleep(0.1)

    def __call__(self, *words: str) -> Done:
        return run([program("ctr"), "-a", f"{self.folder}/c.sock", *words])

    def run(self, binary: str, *words: str) -> Done:
        """`ctr run`."""
        return self("run", "--runtime", "io.containerd.runc.v2", "--runc-binary", binary, "--rootfs", *words)


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    need("containerd", "ctr", "runc", "busybox")
    made = Containerd(tmp_path_factory.mktemp("ctrd"))
    try:
        yield made
    finally:
        for name in made("containers", "ls", "-q").out.split():  # the remains of a test that failed
            made("tasks", "rm", "-f", name)
            made("containers", "rm", name)
        end(made.daemon)


def test_a_task(containerd: Containerd, tmp_path: Path) -> None:
    root = str(make_root(tmp_path / "root"))
    seen = []
    for index, binary in enumerate(BINARIES):
        done = containerd.run(binary, "--rm", root, f"a{index}", "/bin/sh", "-c", "id; echo err >&2; exit 3")
        row: list[object] = [done.status, done.out, done.err]
        name = f"b{index}"
        row.append(containerd.run(binary, "-d", root, name, "/bin/sleep", "1000").status)
        done = containerd("tasks", "exec", "--exec-id", "e", name, "/bin/sh", "-c", "id; exit 4")
        row += [done.status, done.out]
        row += [containerd("tasks", verb, name).status for verb in ("pause", "resume", "metrics", "ps")]
        row.append(containerd("tasks", "kill", "-s", "KILL", name).status)
        deadline = time.monotonic() + START_S
        while "STOPPED" not in containerd("tasks", "ls").out and time.monotonic() < deadline:
            time.sleep(0.1)
        row.append("137" in containerd("tasks", "delete", name).err)
        row.append(containerd("containers", "rm", name).status)
        seen.append(row)
    assert seen[0] == seen[1]
