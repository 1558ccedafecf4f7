"""Containers of Docker beside runc and runsc: run, exec, memory, fifty at once, servers through a published port.

    python -m bench.engines [--rounds N] [--only ROW]… [--without RUNTIME]… [--json FILE]

Needs root, dockerd, busybox and, for the servers, nginx, redis-server, redis-benchmark and wrk.  A dockerd of its own,
in a network namespace of its own, has all runtimes; in a round each has one turn, in a changing order, and the first
round does not count.  Clients run in the daemon's namespace and speak to the published port.  runsc gets
`--ignore-cgroups`, without which it does not run everywhere; where it cannot use Docker's bridge it has a second form,
`runsc-host`, that uses the host's sockets (`--network=host`).  A runtime that a row does not work with is left out of
it, and named.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.machine import machine, place, raw_figures

ENGINE_S: Final = 60.0
COMMAND_S: Final = 120.0
READY_S: Final = 30.0
CROWD: Final = 50
EXECS: Final = 10
REQUESTS: Final = 20_000
ROWS: Final = ("run", "exec", "memory", "crowd", "nginx", "redis")
IMAGE: Final = "bench:1"
APPLETS: Final = ("sh", "sleep", "true")
SEARCHED: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
Figures = dict[str, float]


class Failed(Exception):
    """A runtime does not work with a row; the text says how."""


def program(name: str) -> str:
    """The path of a program of this machine.  Raises Failed."""
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise Failed(f"needs {name}")
    return found


def libraries(path: str) -> list[str]:
    """What a program is linked with, by the dynamic linker's own word."""
    listed = subprocess.run([program("ldd"), path], capture_output=True, text=True, check=False).stdout
    return [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]


def make_image(folder: Path) -> Path:
    """Busybox, and of the servers those that are there, with their libraries, as an archive."""
    root = folder / "root"
    for name in ("bin", "etc", "tmp", "proc", "dev", "sys", "www", "run", "var/log/nginx", "var/lib/nginx"):
        (root / name).mkdir(parents=True)
    shutil.copy(os.path.realpath(program("busybox")), root / "bin" / "busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    (root / "www" / "index.html").write_bytes(b"x" * 612)
    (root / "etc" / "nginx.conf").write_text(
        "user root;\nworker_processes 1;\ndaemon off;\nerror_log /dev/null;\nevents {}\n"
        "http { access_log off; keepalive_requests 1000000; server { listen 80; root /www; } }\n"
    )
    for name in ("nginx", "redis-server"):
        found = shutil.which(name, path=SEARCHED)
        if found is None:
            continue
        shutil.copy(os.path.realpath(found), root / "bin" / name)
        for library in libraries(found):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    archive = folder / "image.tar"
    subprocess.run([program("tar"), "-C", str(root), "-cf", str(archive), "."], check=True)
    return archive


class Engine:
    """A dockerd with every runtime, in a network namespace of its own.  A context manager: all of it ends with it."""

    def __init__(self, folder: Path, cloche: str) -> None:
        self.folder = folder
        self.socket = f"unix://{folder}/s.sock"
        runtimes: dict[str, object] = {"cloche": {"path": cloche}}
        self.names = ["runc", "cloche"]
        runsc = shutil.which("runsc", path=SEARCHED)
        if runsc is not None:
            alike = ["--platform=systrap", "--ignore-cgroups"]
            runtimes["runsc"] = {"path": runsc, "runtimeArgs": alike}
            runtimes["runsc-host"] = {"path": runsc, "runtimeArgs": [*alike, "--network=host"]}
            self.names += ["runsc", "runsc-host"]
        config = folder / "d.json"
        config.write_text(json.dumps({"runtimes": runtimes}))
        up = f'{program("ip")} link set lo up && exec "$@"'
        words = [
            *(program("unshare"), "-n", program("sh"), "-c", up, "dockerd", program("dockerd")),
            *("--config-file", str(config), "--data-root", str(folder / "data"), "-H", self.socket),
            *("--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")),
            *("--storage-driver=overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs"),
        ]
        with open(folder / "dockerd.log", "ab") as log:
            self.daemon = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self) -> "Engine":
        deadline = time.monotonic() + ENGINE_S
        while subprocess.run(self.words("version"), capture_output=True, check=False).returncode:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                said = (self.folder / "dockerd.log").read_text().strip().splitlines()
                raise Failed(f"dockerd does not start: {said[-1] if said else 'it says nothing'}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        if self.daemon.poll() is None:
            left = subprocess.run(self.words("ps", "-aq"), capture_output=True, text=True, check=False)
            if left.stdout.split():
                subprocess.run(self.words("rm", "-f", *left.stdout.split()), capture_output=True, check=False)
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(20)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if line.split()[4].startswith(f"{self.folder}/"):  # it leaves that of its network namespace
                subprocess.run([program("umount"), line.split()[4]], check=False)

    def words(self, *words: str) -> list[str]:
        """A command line of docker's."""
        return [program("docker"), "-H", self.socket, *words]

    def __call__(self, *words: str) -> str:
        """What a command says.  Raises Failed."""
        done = subprocess.run(
            self.words(*words), capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise Failed(f"docker {words[0]}: {said[0][:400] if said else done.returncode}")
        return done.stdout.strip()

    def beside(self, *words: str) -> str:
        """What a client in the daemon's network namespace says.  Raises Failed."""
        entered = [program("nsenter"), "-t", str(self.daemon.pid), "-n", *words]
        done = subprocess.run(entered, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        if done.returncode:
            raise Failed(f"{words[0]}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def group(self, ident: str) -> list[Path]:
        """The control groups of a container: one, or with version 1 one for each controller."""
        return [Path(top, ident) for top, names, _files in os.walk("/sys/fs/cgroup") if ident in names]

    def members(self, ident: str) -> list[int]:
        """The processes of a container, and what its runtime keeps for it, but for the engine's own."""
        found = {int(pid) for group in self.group(ident) for pid in _lines(group / "cgroup.procs")}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (path / "cmdline").read_bytes()
            except OSError:
                continue
            is_engine = b"containerd-shim" in arguments.split(b"\0", 1)[0]
            if ident.encode() in arguments and not is_engine:
                found.add(int(path.name))
        return sorted(found | set(_descendants(found)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _descendants(pids: set[int]) -> list[int]:
    found = list[int]()
    todo = list(pids)
    while todo:
        at = todo.pop()
        children = [
            int(word) for task in Path(f"/proc/{at}/task").glob("*") for word in _lines(task / "children")
        ]
        found += children
        todo += children
    return found


def spent_ms(group: list[Path]) -> float:
    """Processor time of a control group so far."""
    for path in group:
        for line in (path / "cpu.stat").read_text().splitlines() if (path / "cpu.stat").exists() else []:
            if line.startswith("usage_usec"):
                return int(line.split()[1]) / 1e3
        if (path / "cpuacct.usage").exists():
            return int((path / "cpuacct.usage").read_text()) / 1e6
    return 0.0


def timed(act: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1e3


def started(engine: Engine, runtime: str, *words: str) -> str:
    """The id of a container that runs in the background."""
    return engine("run", "-d", "--runtime", runtime, *words)


def row_run(engine: Engine, runtime: str) -> Figures:
    """`docker run --rm` of `true`, without and with a network."""
    alone = ("run", "--rm", "--runtime", runtime, "--network", "none", IMAGE, "true")
    figures = {"run, no network, ms": timed(lambda: engine(*alone))}
    if runtime != "runsc-host":
        linked = ("run", "--rm", "--runtime", runtime, IMAGE, "true")
        figures["run, bridge, ms"] = timed(lambda: engine(*linked))
    return figures


def row_exec(engine: Engine, runtime: str) -> Figures:
    """`docker exec` of `true`, the mean of ten; the processor time is all that the machine has spent meanwhile, so
    docker's, the daemon's and the shim's, too.
    """
    ident = started(engine, runtime, "--network", "none", IMAGE, "sleep", "1000")
    try:
        engine("exec", ident, "true")
        before_ms = busy_ms()
        took_ms = timed(lambda: [engine("exec", ident, "true") for _ in range(EXECS)])
        spent = busy_ms() - before_ms
        return {"exec, ms": took_ms / EXECS, "exec, CPU of the machine, ms": spent / EXECS}
    finally:
        engine("rm", "-f", ident)


def busy_ms() -> float:
    """Processor time that the machine's processors were not idle, in the host's ticks."""
    user, nice, system, _idle, _wait, interrupts, soft = Path("/proc/stat").read_text().split()[1:8]
    ticks = sum(int(each) for each in (user, nice, system, interrupts, soft))
    return ticks * 1e3 / os.sysconf("SC_CLK_TCK")


def row_memory(engine: Engine, runtime: str) -> Figures:
    """An idle container with a network: proportional memory (PSS) of its processes and the runtime's, and what is
    theirs alone.
    """
    network = "none" if runtime == "runsc-host" else "bridge"
    ident = started(engine, runtime, "--network", network, IMAGE, "sleep", "1000")
    try:
        time.sleep(1.0)  # idle
        pss_kib = private_kib = 0
        members = engine.members(ident)
        if not members:
            raise Failed("no process of the container was found")
        for pid in members:
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            for line in rollup.splitlines():
                words = line.split()
                if words[0] == "Pss:":
                    pss_kib += int(words[1])
                elif words[0] in ("Private_Clean:", "Private_Dirty:"):
                    private_kib += int(words[1])
        return {"idle PSS, MiB": pss_kib / 1024, "idle private, MiB": private_kib / 1024}
    finally:
        engine("rm", "-f", ident)


def row_crowd(engine: Engine, runtime: str) -> Figures:
    """Fifty containers, asked for eight at a time, until all have ended."""
    words = engine.words("run", "--rm", "--runtime", runtime, "--network", "none", IMAGE, "true")
    began = time.perf_counter()
    running = list[subprocess.Popen[bytes]]()
    failed = 0
    for _ in range(CROWD):
        if len(running) == 8:
            failed += running.pop(0).wait(COMMAND_S) != 0
        running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    for each in running:
        failed += each.wait(COMMAND_S) != 0
    if failed:
        raise Failed(f"{failed} of {CROWD} containers have failed")
    return {f"{CROWD} containers, s": time.perf_counter() - began}


def serve(
    engine: Engine,
    runtime: str,
    port: int,
    command: list[str],
    client: list[str],
    read: Callable[[str], float],
) -> tuple[float, float]:
    """Requests a second through a published port, and the group's processor time of a request, us.  Raises Failed."""
    if runtime == "runsc-host":
        raise Failed("its sockets are the host's, not the container's: no port is published")
    ident = started(engine, runtime, "-p", f"127.0.0.1:{port}:{port}", IMAGE, *command)
    try:
        wait_for(engine, port)
        engine.beside(*client)  # warm
        before_ms = spent_ms(engine.group(ident))
        said = engine.beside(*client)
        after_ms = spent_ms(engine.group(ident))
        return read(said), (after_ms - before_ms) * 1e3
    finally:
        engine("rm", "-f", ident)


def wait_for(engine: Engine, port: int) -> None:
    """Until a server answers: Docker's proxy accepts before it does, so the connection must stay.  Raises Failed."""
    script = (
        "import socket, sys\n"
        "with socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2) as it:\n"
        "    it.sendall(b'PING\\r\\n' if sys.argv[1] == '6379' else b'GET / HTTP/1.0\\r\\n\\r\\n')\n"
        "    it.settimeout(2)\n"
        "    sys.exit(not it.recv(1))\n"
    )
    deadline = time.monotonic() + READY_S
    while True:
        try:
            engine.beside(sys.executable, "-c", script, str(port))
            break
        except Failed as failure:
            if time.monotonic() > deadline:
                raise Failed(
                    f"no server behind the published port: {str(failure).splitlines()[-1]}"
                ) from None
            time.sleep(0.1)


def row_nginx(engine: Engine, runtime: str) -> Figures:
    """nginx, one worker, a file of 612 bytes, ten connections that stay, by wrk."""
    client = [program("wrk"), "-t1", "-c10", "-d3s", "http://127.0.0.1:80/"]
    command = ["nginx", "-c", "/etc/nginx.conf"]
    rate, cpu_us = serve(engine, runtime, 80, command, client, _rate_of_wrk)
    return {"nginx, requests/s": rate, "nginx, CPU of a request, us": cpu_us / max(rate * 3, 1)}


def _rate_of_wrk(said: str) -> float:
    for line in said.splitlines():
        if line.startswith("Requests/sec:"):
            return float(line.split()[1])
    raise Failed("wrk says no rate")


def row_redis(engine: Engine, runtime: str) -> Figures:
    """redis GET, ten connections, by redis-benchmark."""
    client = [program("redis-benchmark"), "-p", "6379", "-c", "10", "-n", str(REQUESTS), "-t", "get", "--csv"]
    command = ["redis-server", "--save", "", "--protected-mode", "no"]
    rate, cpu_us = serve(engine, runtime, 6379, command, client, _rate_of_redis)
    return {"redis GET, requests/s": rate, "redis GET, CPU of a request, us": cpu_us / REQUESTS}


def _rate_of_redis(said: str) -> float:
    for line in said.splitlines():
        if line.startswith('"GET"'):
            return float(line.split(",")[1].strip('"'))
    raise Failed("redis-benchmark says no rate")


ACTS: Final[dict[str, Callable[[Engine, str], Figures]]] = {
    "run": row_run,
    "exec": row_exec,
    "memory": row_memory,
    "crowd": row_crowd,
    "nginx": row_nginx,
    "redis": row_redis,
}
ONCE: Final = ("memory", "crowd")  # in so many rounds at most: three


def measure(engine: Engine, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Row's figure -> runtime -> figures of all rounds."""
    found = dict[str, dict[str, list[float]]]()
    for row in options.only or ROWS:
        names = [name for name in engine.names if name not in (options.without or ())]
        for number in range(-1, min(options.rounds, 3) if row in ONCE else options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)] if names else []:
                try:
                    figures = ACTS[row](engine, name)
                except (Failed, subprocess.TimeoutExpired) as failure:
                    print(f"bench.engines: {row} without {name}: {failure}", file=sys.stderr)
                    names.remove(name)
                    continue
                for title, value in figures.items():
                    if number >= 0:
                        found.setdefault(title, {}).setdefault(name, []).append(value)
        show({title: found[title] for title in found if title not in _shown}, engine.names)
    return found


_shown: set[str] = set()


def show(found: dict[str, dict[str, list[float]]], names: list[str]) -> None:
    """Lines of the table: median (least)."""
    for title, by_runtime in found.items():
        _shown.add(title)
        cells = []
        for name in names:
            figures = by_runtime.get(name)
            cells.append(f"{statistics.median(figures):.1f} ({min(figures):.1f})" if figures else "-")
        print(f"{title:32}" + "".join([f"{each:>20}" for each in cells]), flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--cloche", default=str(Path(sys.executable).parent / "cloche-oci"), metavar="PROGRAM"
    )
    parser.add_argument("--only", metavar="ROW", action="append", choices=ROWS)
    parser.add_argument("--without", metavar="RUNTIME", action="append")
    parser.add_argument("--json", type=Path, help="write all figures there (a directory: one file a machine)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("bench.engines: needs root", file=sys.stderr)
        return 1
    about = machine()
    raw = raw_figures()
    print(f"{about['cpu']}, Linux {about['kernel']}, Python {about['python']}, {about['date']}")
    print(", ".join([f"{name} {value:.0f} ns" for name, value in raw.items()]))
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="cloche-bench-") as name:
        folder = Path(name)
        try:
            archive = make_image(folder)
            with Engine(folder, options.cloche) as engine:
                engine("import", str(archive), IMAGE)
                print(f"{'':32}" + "".join([f"{each:>20}" for each in engine.names]))
                found = measure(engine, options)
        except Failed as failure:
            print(f"bench.engines: {failure}", file=sys.stderr)
            return 1
    load = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"{options.rounds} rounds, median (least); {load}")
    if options.json:
        content = {"machine": about, "raw": raw, "load": load, "figures": found}
        place(options.json, "engines", about).write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
