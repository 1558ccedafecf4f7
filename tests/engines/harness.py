"""Helpers of the tests with engines: the runtime, an image made here, engines of the test's own below a temporary
folder.

Everything that is started is ended by its pid.  A test whose program the machine lacks skips, and names it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TIMEOUT_S = 150
START_S = TIMEOUT_S
RUNTIME = str(Path(sys.executable).parent / "cloche-oci")
OPERATOR = """
version = 1
[[allow]]
host = "*.good.test"
ports = [80, 81]
protocol = "http"
internal = true
"""
APPLETS = (
    "sh ls cat echo sleep id ps true false env mount touch hostname head tail wc stty tty kill grep dd unshare df seq "
    "mkdir rm ln chown chmod stat tr sort test find mknod trap pwd date nc cut httpd wget nslookup ping ip ifconfig route"
).split()


def need(*programs: str) -> None:
    """Skip unless these are there, and we are root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for name in programs:
        if shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            pytest.skip(f"needs {name}")
    if not Path(RUNTIME).exists():
        pytest.skip("needs cloche-oci beside python")


def program(name: str) -> str:
    """The path of a program of the host."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert found is not None
    return found


def make_root(folder: Path) -> Path:
    """A root file system of busybox alone."""
    for name in ("bin", "etc", "tmp", "root", "proc", "dev", "sys"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copy(os.path.realpath(program("busybox")), folder / "bin" / "busybox")
    for name in APPLETS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    (folder / "etc" / "group").write_text("root:x:0:\nuser:x:1000:\n")
    return folder


class Done:
    """The output and status of a command."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"status {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def run(words: list[str], stdin: bytes = b"", timeout: float = TIMEOUT_S, cwd: Path | None = None) -> Done:
    """Run a command to its end."""
    done = subprocess.run(words, input=stdin, capture_output=True, timeout=timeout, check=False, cwd=cwd)
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def end(process: "subprocess.Popen[bytes]") -> None:
    """End what we have started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def make_image(folder: Path) -> Path:
    """A root file system of `make_root` as an archive, which engines import."""
    root = make_root(folder / "image")
    archive = folder / "bb.tar"
    assert run([program("tar"), "-C", str(root), "-cf", str(archive), "."]).status == 0
    return archive


def need_runc(podman: Callable[..., Done], folder: Path, whom: str) -> None:
    """The image bb:1 in a Podman.  Skips where it does not run runc."""
    imported = podman("runc", "import", str(make_image(folder)), "bb:1")
    if imported.status:
        pytest.skip(f"needs a podman that works{whom}: {imported.err.strip()[-200:]}")
    alike = podman("runc", "run", "--rm", "--network=none", "bb:1", "true")
    if alike.status:
        pytest.skip(f"needs a podman that runs runc{whom}: {alike.err.strip()[-200:]}")


class Docker:
    """A dockerd of the test's own."""

    def __init__(
        self,
        folder: Path,
        *,
        has_networks: bool = False,
        is_default: bool = False,
        keeps: bool = False,
        remap: str = "",
    ) -> None:
        """Skips if it does not come up.  With networks it is in a network namespace of its own, in which it may change
        what it likes.  Cloche may be its default runtime, and BuildKit's.  It may leave its containers when it ends
        (live-restore).  `remap`: a user with ranges of ids, which its containers have.
        """
        self.folder = folder
        self.socket = f"unix://{folder}/s.sock"
        config = folder / "d.json"
        rules = folder / "egress.toml"  # an operator's, for the runtime `guarded`
        rules.write_text(OPERATOR)
        guarded = {"path": RUNTIME, "runtimeArgs": ["--egress", str(rules)]}
        settings: dict[str, object] = {"runtimes": {"cloche": {"path": RUNTIME}, "guarded": guarded}}
        if remap:
            settings["userns-remap"] = remap
        config.write_text(json.dumps(settings))
        self.log = folder / "dockerd.log"
        self.env = dict(os.environ)
        words = [
            *(program("dockerd"), "--config-file", str(config), "--data-root", str(folder / "data")),
            *("--exec-root", str(folder / "exec"), "-H", self.socket, "--pidfile", str(folder / "pid")),
            *("--storage-driver=overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs"),
        ]
        if keeps:
            words += ["--live-restore"]
        if is_default:
            words += ["--default-runtime", "cloche"]
            self.env["DOCKER_BUILDKIT_RUNC_COMMAND"] = RUNTIME
        if has_networks:
            up = f'{program("ip")} link set lo up && exec "$@"'
            words = [program("unshare"), "-n", program("sh"), "-c", up, "dockerd", *words]
        else:
            # The machine's own rules, which other tests see, stay as they are.
            words += ["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false"]
        self.words = words
        self.start()

    def start(self) -> None:
        """Start the daemon."""
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen(
                self.words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.env,
            )
        deadline = time.monotonic() + START_S
        while self("version").status != 0:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                self._stop()
                last = (self.log.read_text().strip().splitlines() or ["it says nothing"])[-1]
                pytest.skip(f"needs a dockerd that starts: {last[-200:]}")
            time.sleep(0.1)

    def __call__(self, *words: str, stdin: bytes = b"") -> Done:
        return run([program("docker"), "-H", self.socket, *words], stdin)

    def beside(self, *words: str, timeout: float = TIMEOUT_S) -> Done:
        """Run a command in the daemon's network namespace."""
        return run([program("nsenter"), "-t", str(self.daemon.pid), "-n", *words], timeout=timeout)

    def close(self) -> None:
        """End every container and the daemon."""
        found = self("ps", "-aq").out.split()
        if found:
            self("rm", "-f", *found)
        self._stop()

    def _stop(self) -> None:
        end(self.daemon)
        for path in mounts_below(self.folder):  # of its own network namespace it leaves one
            run([program("umount"), path])


def mounts_below(folder: Path) -> list[str]:
    """The mounts below a folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(str(folder))]


def groups_named(name: str) -> list[Path]:
    """The control groups of that name, while those of others come and go."""
    return [Path(top, name) for top, names, _files in os.walk("/sys/fs/cgroup") if name in names]
