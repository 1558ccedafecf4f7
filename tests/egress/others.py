"""Other sandboxes for the bypass suite, run as a program: its words are one of their names and a command.

    CLOCHE_EGRESS_PREFIX="$PWD/.venv/bin/python $PWD/tests/egress/others.py docker" pytest tests/egress/test_bypass.py

`bwrap` and `runsc` give the command the network in which they were started, and ask the test's resolver.  `docker` is a
daemon of its own with its bridge, runc, and tinyproxy with the list of granted names in the variables for proxies.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.egress.attempt import GRANTS
from tests.egress.servers import RESOLVER

_START_S = 150
_BRIDGE = "172.17.0.1"
_PROXY_PORT = 8888
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def program(name: str) -> str:
    """The path of a program. Raises SystemExit."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise SystemExit(f"{name} is not installed")
    return found


def asking(folder: Path) -> list[str]:
    """The start of a command that asks the test's resolver."""
    script = f'mount --bind {folder}/resolv.conf {os.path.realpath("/etc/resolv.conf")} && exec "$@"'
    return [program("unshare"), "-m", "sh", "-c", script, "sh"]


def bwrap(command: list[str], folder: Path) -> int:
    """Bubblewrap: the host's files, all namespaces its own but the network's."""
    here = os.getcwd()
    words = [program("bwrap"), "--unshare-all", "--share-net", "--die-with-parent", "--ro-bind", "/", "/"]
    words += ["--dev", "/dev", "--proc", "/proc", "--bind", here, here, "--chdir", here]
    words += ["--ro-bind", str(folder / "resolv.conf"), os.path.realpath("/etc/resolv.conf")]
    return subprocess.run([*words, *command], check=False).returncode


def runsc(command: list[str], folder: Path) -> int:
    """gVisor with the network of the host.  `do` has a resolv.conf of its own, with another's resolver."""
    script = f'mount --bind {folder}/resolv.conf /etc/resolv.conf && exec "$@"'
    words = [
        program("runsc"),
        "--root",
        str(folder / "runsc"),
        "--network=host",
        "--ignore-cgroups",
        "do",
        "--",
    ]
    return subprocess.run([*words, "sh", "-c", script, "sh", *command], check=False).returncode


class Daemons:
    """dockerd and tinyproxy, in the network namespace in which this runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []
        (folder / "d.json").write_text("{}")
        self.client = [program("docker"), "-H", f"unix://{folder}/s.sock"]
        words = [
            program("dockerd"),
            "--config-file",
            str(folder / "d.json"),
            "--data-root",
            str(folder / "data"),
        ]
        words += ["--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid"), "-H", self.client[2]]
        words += ["--storage-driver=overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs"]
        self._start(words)
        deadline = time.monotonic() + _START_S
        while self.run("version").returncode:
            if time.monotonic() > deadline or self.running[0].poll() is not None:
                raise SystemExit((folder / "log").read_text()[-2000:])
            time.sleep(0.2)
        names = [grant.partition(":")[0] for grant in GRANTS]
        patterns = ["^" + name.replace(".", r"\.").replace("*", "[^.]+") + "$" for name in names]
        (folder / "names").write_text("\n".join(patterns) + "\n")
        (folder / "proxy.conf").write_text(
            f'Port {_PROXY_PORT}\nListen {_BRIDGE}\nTimeout 60\nMaxClients 100\nFilter "{folder}/names"\n'
            f'FilterType ere\nFilterDefaultDeny Yes\nConnectPort 443\nLogFile "{folder}/proxy.log"\n'
        )
        self._start([*asking(folder), program("tinyproxy"), "-d", "-c", str(folder / "proxy.conf")])

    def _start(self, words: list[str]) -> None:
        with (self.folder / "log").open("ab") as log:
            self.running.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def run(self, *words: str) -> "subprocess.CompletedProcess[bytes]":
        """A command of docker's."""
        return subprocess.run([*self.client, *words], capture_output=True, check=False)

    def close(self) -> None:
        """End both."""
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            process.wait()


def docker(command: list[str], folder: Path) -> int:
    """Docker: its bridge, and a proxy for who asks for it; of the host's files its programs."""
    with tarfile.open(folder / "root.tar", "w") as archive:
        for name in ("etc", "proc", "dev", "sys", "tmp", "root", "usr"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for name, target in _LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    daemons = Daemons(folder)
    try:
        made = daemons.run("import", str(folder / "root.tar"), "others:1")
        if made.returncode:
            raise SystemExit(made.stderr.decode())
        here, proxy = os.getcwd(), f"http://{_BRIDGE}:{_PROXY_PORT}"
        words = [
            "run",
            "--rm",
            "-i",
            "--dns",
            RESOLVER,
            "-w",
            here,
            "-v",
            f"{here}:{here}",
            "-v",
            "/usr:/usr:ro",
        ]
        for path in ("/etc/alternatives", "/etc/ssl"):
            words += ["-v", f"{path}:{path}:ro"]
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            words += ["-e", f"{name}={proxy}"]
        return subprocess.run([*daemons.client, *words, "others:1", *command], check=False).returncode
    finally:
        daemons.close()


RUNNERS = {"bwrap": bwrap, "runsc": runsc, "docker": docker}


def main() -> int:
    """The status of the command."""
    with tempfile.TemporaryDirectory(prefix="cloche-others-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
        return RUNNERS[sys.argv[1]](sys.argv[2:], folder)


if __name__ == "__main__":
    sys.exit(main())
