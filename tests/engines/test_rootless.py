"""Podman of an ordinary user, with cloche beside runc: no control groups, ids of the user's ranges."""

import grp
import os
import pwd
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloche
from tests.engines.harness import RUNTIME, Done, need, need_runc, program, run

USER = "cloche-test"
RUNTIMES = ("runc", "cloche")


def has_range(path: str) -> bool:
    """Whether the user has ids besides the own one."""
    try:
        return any(line.startswith(USER + ":") for line in Path(path).read_text().splitlines())
    except OSError:
        return False


class Rootless:
    """Podman as an ordinary user, with storage of its own."""

    def __init__(self, folder: Path, uid: int) -> None:
        self.folder = folder
        self.config = folder / "containers.conf"
        names = '["runc", "crun", "cloche-oci"]'
        self.config.write_text(
            f"[engine]\nruntime_supports_json = {names}\nruntime_supports_nocgroup = {names}\n"
            f"runtime_supports_nocgroups = {names}\n"
        )
        gid = pwd.getpwuid(uid).pw_gid
        self.words = [
            *(program("setpriv"), f"--reuid={uid}", f"--regid={gid}", "--clear-groups", program("env"), "-i"),
            *(
                f"HOME={folder}/home",
                f"XDG_RUNTIME_DIR={folder}/home/run",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            *("PODMAN_IGNORE_CGROUPSV1_WARNING=1", f"CONTAINERS_CONF_OVERRIDE={self.config}"),
        ]
        for path in (folder / "home", folder / "home" / "run", folder / "volume"):
            path.mkdir()
            os.chown(path, uid, gid)
        (folder / "home" / "run").chmod(0o700)

    def runtime(self) -> str:
        """cloche-oci as the user may execute it.  Skips if no Python can be had for that."""
        if self.as_user(sys.executable, "-c", "import cloche").status == 0:
            return RUNTIME
        other = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        paths = [str(Path(next(iter(cloche.__path__))).parent), *site.getsitepackages()]
        there = self.folder / "bin" / "cloche-oci"
        there.parent.mkdir(exist_ok=True)
        there.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={':'.join(paths)} PYTHONDONTWRITEBYTECODE=1\n"
            f'exec {other} -m cloche.oci.main "$@"\n'
        )
        there.chmod(0o755)
        if self.as_user(str(there), "--version").status:
            pytest.skip("an ordinary user cannot use this Python, nor another of its version")
        return str(there)

    def as_user(self, *words: str) -> Done:
        return run([*self.words, *words], cwd=self.folder)

    def __call__(self, runtime: str, *words: str) -> Done:
        path = self.runtime() if runtime == "cloche" else program("runc")
        base = ["--root", f"{self.folder}/home/root", "--runroot", f"{self.folder}/home/rr"]
        base += ["--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=file"]
        return self.as_user(program("podman"), *base, f"--runtime={path}", *words)


@pytest.fixture(scope="module")
def podman() -> Iterator[Rootless]:
    need("podman", "conmon", "runc", "busybox", "setpriv", "newuidmap")
    try:
        uid = pwd.getpwnam(USER).pw_uid
    except KeyError:
        made = subprocess.run(
            [program("useradd"), "-m", "-s", "/bin/sh", USER], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("no ordinary user can be made")
        uid = pwd.getpwnam(USER).pw_uid
    if not has_range("/etc/subuid") or not has_range("/etc/subgid"):
        pytest.skip(
            f"needs ranges of ids for {grp.getgrgid(pwd.getpwuid(uid).pw_gid).gr_name} in /etc/subuid"
        )
    # Not below pytest's directory: each pytest that starts closes that to others.
    folder = Path(tempfile.mkdtemp(prefix="rootless-"))
    folder.chmod(0o755)
    podman = Rootless(folder, uid)
    try:
        need_runc(podman, folder, " for users")
        yield podman
    finally:
        podman("runc", "rm", "-fa", "-t", "0")
        podman("runc", "unshare", shutil.which("umount") or "umount", f"{folder}/home/root/overlay")
        podman("runc", "system", "migrate")  # ends the process that holds the user's namespaces
        shutil.rmtree(folder, ignore_errors=True)


def test_runs_alike(podman: Rootless) -> None:
    found = []
    for runtime in RUNTIMES:
        base = ["run", "--rm", "--network=none", f"-v={podman.folder}/volume:/vol"]
        script = "id; echo x > /vol/{0}; ls -ln /vol/{0} | cut -c1-30; echo err >&2; exit 3"
        rows = [podman(runtime, *base, "bb:1", "sh", "-c", script.format("f"))]
        rows.append(
            podman(
                runtime,
                *base,
                "bb:1",
                "sh",
                "-c",
                "chown 5:6 /vol/f /etc/passwd; ls -ln /etc/passwd | cut -c1-30",
            )
        )
        assert rows[0].status == 3, rows[0]
        owner = (podman.folder / "volume" / "f").stat()
        rows.append(
            podman(
                runtime,
                *base,
                "-u",
                "33:34",
                "bb:1",
                "sh",
                "-c",
                "id -u; id -g; echo no > /etc/x; touch /tmp/y && stat -c %u:%g /tmp/y",
            )
        )
        rows.append(podman(runtime, *base, "bb:1", "nosuch"))
        rows.append(podman(runtime, "run", "--rm", "--network=host", "bb:1", "ip", "addr", "show", "lo"))
        shown = [(row.status, row.out) for row in rows]
        found.append((shown, owner.st_uid, owner.st_gid))
        assert podman("runc", "unshare", "rm", "-f", f"{podman.folder}/volume/f").status == 0
    assert found[0][0][0][0] == 3 and found[0][0][3][0] == 127
    assert found[0] == found[1]


def test_a_life(podman: Rootless) -> None:
    found = []
    source = podman.folder / "home" / "copied"
    source.write_text("copied\n")
    source.chmod(0o644)
    for runtime in RUNTIMES:
        assert podman(runtime, "run", "-d", "--name=x", "--network=none", "bb:1", "sleep", "1000").status == 0
        rows = [podman(runtime, "exec", "x", "sh", "-c", "id -u; exit 4")]
        rows.append(podman(runtime, "exec", "-u", "5", "x", "id", "-u"))
        rows.append(podman(runtime, "cp", str(source), "x:/etc/copied"))
        rows.append(podman(runtime, "stop", "-t", "0", "x"))
        rows.append(podman(runtime, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "x"))
        rows.append(podman(runtime, "start", "x"))
        rows.append(podman(runtime, "exec", "x", "cat", "/etc/copied"))
        rows.append(podman(runtime, "rm", "-f", "-t", "0", "x"))
        found.append([(row.status, row.out) for row in rows])
    assert found[0] == found[1]


def test_without_control_groups(podman: Rootless) -> None:
    """What Podman gives to a runtime that is named in `runtime_supports_nocgroups`."""
    done = podman("cloche", "run", "--rm", "--network=none", "--cgroups=disabled", "bb:1", "id", "-u")
    assert (done.status, done.out) == (0, "0\n"), done
