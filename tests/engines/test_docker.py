"""Docker with cloche beside Docker with runc: the same commands, the same results."""

import os
import re
import time
from pathlib import Path

import pytest

from tests.engines.harness import TIMEOUT_S, Docker, Done, run

RUNTIMES = ("runc", "cloche")
# Text that differs between two containers of one runtime, too.
_IDS = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b")


def shown(done: Done) -> tuple[int, str, list[str]]:
    """The parts of a result that are compared."""
    error = _IDS.sub("ID", done.err)
    lines = [line for line in error.splitlines() if line and not line.startswith("Run 'docker run --help'")]
    return done.status, _IDS.sub("ID", done.out), lines


# Options of `docker run`, and the command.
PLAIN = """
echo out; echo err >&2; echo a > /dev/stdout; echo b > /dev/stderr; echo $$; kill -TERM $$; id; umask
touch /tmp/x; stat -c %a /tmp/x; grep Cap /proc/self/status; sh -c 'kill -9 $$' 2>/dev/null; echo $?
unshare -U true; echo $?; mount -t tmpfs x /tmp; echo $?; echo x > /proc/sys/kernel/hostname
stat -c '%F %a %t %T %n' /dev/null /dev/zero /dev/full /dev/tty /dev/urandom
exit 7
"""
MANY = """
id; umask; grep Cap /proc/self/status; grep NoNewPrivs /proc/self/status; ulimit -n; ulimit -Hn; echo $A $HOME; pwd
hostname; grep -c box /etc/hosts; cat /proc/self/oom_score_adj; df /dev/shm | tail -1; touch /x
touch /t/x; stat -c %a /t; df /t | tail -1; stat -c %a /root; for i in 1 2 3 4 5 6; do sleep 1 & done; wait; echo done
"""
RUNS: dict[str, tuple[list[str], list[str]]] = {
    "plain": ([], ["sh", "-c", PLAIN]),
    "missing": ([], ["nosuch"]),
    "missing-path": ([], ["/no/such"]),
    "no-program": ([], ["/etc/passwd"]),
    "many-options": (
        [
            *(
                "--user",
                "1000:5",
                "--group-add",
                "7",
                "--security-opt",
                "no-new-privileges",
                "--oom-score-adj",
                "77",
            ),
            *(
                "--ulimit",
                "nofile=123:456",
                "-e",
                "A=b",
                "-w",
                "/tmp",
                "--hostname",
                "box",
                "--shm-size",
                "3m",
            ),
            *("--read-only", "--tmpfs", "/t:size=1m", "--tmpfs", "/root", "--pids-limit", "4"),
        ],
        ["sh", "-c", MANY],
    ),
    "caps-dropped": (["--cap-drop", "ALL", "--cap-add", "CHOWN"], ["grep", "Cap", "/proc/self/status"]),
    "privileged": (["--privileged"], ["sh", "-c", "mkdir /t && mount -t tmpfs x /t && echo mounted"]),
    "working-directory": (["-w", "/made/here"], ["pwd"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs_alike(docker: Docker, name: str) -> None:
    options, command = RUNS[name]
    found = [
        shown(docker("run", "--rm", f"--runtime={runtime}", "--network=none", *options, "bb:1", *command))
        for runtime in RUNTIMES
    ]
    assert found[0] == found[1]


def test_standard_input(docker: Docker) -> None:
    for runtime in RUNTIMES:
        words = ["run", "--rm", "-i", f"--runtime={runtime}", "--network=none", "bb:1", "wc", "-c"]
        assert docker(*words, stdin=b"x" * 300_000).out.strip() == "300000"


def test_a_terminal(docker: Docker) -> None:
    for runtime in RUNTIMES:
        command = f"docker -H {docker.socket} run -it --rm --runtime={runtime} --network=none bb:1 sh -c 'tty; exit 6'"
        done = run(["script", "-qec", command, "/dev/null"])
        assert "/dev/pts/0" in done.out, done
        assert done.status == 6


def test_memory_ends_the_container(docker: Docker) -> None:
    """Docker says that it was for want of memory."""
    if not Path("/sys/fs/cgroup/memory/memory.oom_control").exists():
        pytest.skip("needs control groups of version 1")
    for runtime in RUNTIMES:
        name = f"oom-{runtime}"
        words = ["--memory=60m", "bb:1", "tail", "-c", "250m", "/dev/zero"]
        started = docker("run", "-d", "--name", name, f"--runtime={runtime}", "--network=none", *words)
        assert started.status == 0, started
        assert docker("wait", name).out.strip() == "137"
        deadline = time.monotonic() + TIMEOUT_S  # two events, of which either may be the first
        while docker("inspect", "-f", "{{.State.OOMKilled}}", name).out.strip() != "true":
            assert time.monotonic() < deadline, runtime
            time.sleep(0.1)
        docker("rm", name)


def test_memory_ends_a_process(docker: Docker) -> None:
    command = "head -c 300m /dev/zero | tail -c 250m >/dev/null; echo $?"
    for runtime in RUNTIMES:
        words = [
            "run",
            "--rm",
            f"--runtime={runtime}",
            "--network=none",
            "--memory=60m",
            "bb:1",
            "sh",
            "-c",
            command,
        ]
        done = docker(*words)
        assert "137" in done.out or done.status == 137, done


def test_volumes_are_written_through(docker: Docker, tmp_path: Path) -> None:
    seen = []
    for runtime in RUNTIMES:
        volume = tmp_path / runtime
        volume.mkdir()
        (volume / "file").write_text("before\n")
        words = [
            "run",
            "--rm",
            f"--runtime={runtime}",
            "--network=none",
            "-v",
            f"{volume}:/v",
            "bb:1",
            "sh",
            "-c",
        ]
        done = docker(
            *words, "cat /v/file; echo after > /v/made; chown 5:6 /v/made; chmod 4711 /v/made; ln -s a /v/l"
        )
        made = (volume / "made").stat()
        link = (volume / "l").readlink().name
        seen.append(
            (shown(done), made.st_uid, made.st_gid, oct(made.st_mode), (volume / "made").read_text(), link)
        )
        refused = docker(*words[:-3], "-v", f"{volume}:/r:ro", "bb:1", "touch", "/r/x")
        assert refused.status == 1 and "Read-only" in refused.err
    assert seen[0] == seen[1]


class Container:
    """A container that runs until it is told to end."""

    def __init__(self, docker: Docker, runtime: str, *options: str) -> None:
        self.docker = docker
        self.name = f"{runtime}-{len(docker('ps', '-aq').out.split())}"
        script = 'trap "echo term; exit 7" TERM; echo start; while :; do sleep 0.1; done'
        base = ["run", "-d", "--name", self.name, f"--runtime={runtime}", "--network=none", *options]
        done = docker(*base, "bb:1", "sh", "-c", script)
        assert done.status == 0, done

    def __call__(self, verb: str, *words: str, stdin: bytes = b"") -> Done:
        return self.docker(verb, self.name, *words, stdin=stdin)

    def execute(self, *words: str, options: tuple[str, ...] = (), stdin: bytes = b"") -> Done:
        return self.docker("exec", *options, self.name, *words, stdin=stdin)

    def inspect(self, what: str) -> str:
        return self.docker("inspect", "-f", what, self.name).out.strip()

    def remove(self) -> None:
        self.docker("rm", "-f", self.name)


EXECS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "status": ((), ["sh", "-c", "echo out; echo err >&2; exit 9"]),
    "environment": (("-e", "A=q", "-w", "/tmp", "-u", "1000"), ["sh", "-c", "echo $A $HOME; id; pwd"]),
    "missing": ((), ["nosuch"]),
    "missing-path": ((), ["/no/such"]),
    "no-program": ((), ["/etc/passwd"]),
    "privileged": (("--privileged",), ["sh", "-c", "mkdir -p /t && mount -t tmpfs x /t && echo mounted"]),
    "caps": ((), ["grep", "Cap", "/proc/self/status"]),
    "killed": ((), ["sh", "-c", "kill -9 $$"]),
}


def test_exec_alike(docker: Docker) -> None:
    found: list[dict[str, tuple[int, str, list[str]]]] = []
    for runtime in RUNTIMES:
        container = Container(docker, runtime)
        found.append(
            {
                name: shown(container.execute(*words, options=options))
                for name, (options, words) in EXECS.items()
            }
        )
        done = container.execute("cat", options=("-i",), stdin=b"through")
        assert done.out == "through"
        container.remove()
    assert found[0] == found[1]


def test_a_life(docker: Docker, tmp_path: Path) -> None:
    """logs, top, cp, diff, pause, stats, stop, commit, start, kill: each as with runc."""
    seen: list[list[object]] = []
    for runtime in RUNTIMES:
        container = Container(docker, runtime)
        steps: list[object] = []
        assert "trap" in container("top", "-eo", "pid,args").out
        source = tmp_path / "in"
        source.write_text("copied\n")
        steps.append(docker("cp", str(source), f"{container.name}:/root/in").status)
        steps.append(container.execute("cat", "/root/in").out)
        container.execute("sh", "-c", "echo made > /root/made; rm /etc/group; chown 3:4 /root/made")
        steps.append(docker("cp", f"{container.name}:/root/made", str(tmp_path / f"out-{runtime}")).status)
        steps.append((tmp_path / f"out-{runtime}").read_text())
        steps.append(sorted(container("diff").out.splitlines()))
        steps.append(container("pause").status)
        steps.append(container.inspect("{{.State.Status}}"))
        steps.append(container("unpause").status)
        steps.append(container.execute("echo", "again").out)
        pids = docker("stats", "--no-stream", "--format", "{{.PIDs}}", container.name).out.strip()
        assert int(pids) > 0
        steps.append(docker("update", "--memory", "300m", "--memory-swap", "-1", container.name).status)
        steps.append(container("stop").status)
        steps.append(container.inspect("{{.State.Status}} {{.State.ExitCode}}"))
        steps.append(container("logs").out)
        committed = docker("commit", container.name, f"img-{runtime}:1")
        steps.append(committed.status)
        again = ["run", "--rm", f"--runtime={runtime}", "--network=none", f"img-{runtime}:1"]
        steps.append(docker(*again, "sh", "-c", "cat /root/in; stat -c %u:%g /root/made; ls /etc/group").out)
        steps.append(container("start").status)
        steps.append(container.execute("cat", "/root/made").out)
        steps.append(container("kill").status)
        steps.append(container.inspect("{{.State.Status}} {{.State.ExitCode}}"))
        container.remove()
        seen.append(steps)
    assert seen[0] == seen[1]


def test_a_paused_container_can_be_killed(docker: Docker) -> None:
    for runtime in RUNTIMES:
        container = Container(docker, runtime)
        assert container("pause").status == 0
        assert container("kill").status == 0
        assert container.inspect("{{.State.Status}} {{.State.ExitCode}}") == "exited 137"
        container.remove()


def test_a_restart_policy(docker: Docker) -> None:
    for runtime in RUNTIMES:
        base = ["run", "-d", f"--name=again-{runtime}", f"--runtime={runtime}", "--network=none"]
        assert docker(*base, "--restart=on-failure:1", "bb:1", "sh", "-c", "echo x; exit 3").status == 0
        name, deadline = f"again-{runtime}", time.monotonic() + TIMEOUT_S
        while docker("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", name).out.strip() != "1 exited":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert docker("logs", f"again-{runtime}").out == "x\nx\n"
        docker("rm", "-f", f"again-{runtime}")


def test_nothing_is_left(docker: Docker) -> None:
    """After --rm: no control group, no process, no record."""
    name = docker("create", "--runtime=cloche", "--network=none", "bb:1", "sh", "-c", "echo hi").out.strip()
    assert docker("start", "-a", name).out == "hi\n"
    docker("rm", "-f", name)
    assert list(Path("/sys/fs/cgroup").glob(f"*/docker/{name}*")) == []
    for _top, folders, files in os.walk(Path(docker.folder, "exec")):
        assert not [each for each in folders + files if each.startswith(name)]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert name.encode() not in path.read_bytes()
        except OSError:
            pass
