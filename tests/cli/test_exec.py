"""Sandboxes with a name: `run -d`, exec, ps, kill, list, wait, logs, stop, rm."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.runtime.records import Store
from cloche.wire import protocol, requests
from cloche.wire.control_client import ControlClient, ControlError
from cloche.wire.requests import ExecRequest
from tests.cli.harness import (
    CLOCHE,
    TIMEOUT_S,
    Outcome,
    alive,
    descendants,
    environment,
    is_one_line,
    parent_of,
    run_words,
    wait_until,
)


class Box:
    """A root directory for records, and the command with it."""

    def __init__(self, root: Path, prefix: list[str]) -> None:
        self.root = root
        self.words = [*prefix, *CLOCHE, "--root", str(root)]

    def __call__(self, *words: str, stdin: bytes | None = b"", timeout: float = TIMEOUT_S) -> Outcome:
        return run_words([*self.words, *words], stdin=stdin, timeout=timeout, cwd=Path("/"))

    def start(self, *command: str, options: tuple[str, ...] = (), name: str = "box") -> None:
        done = self("run", "-d", "--name", name, *options, "--", *command)
        assert done.status == 0 and done.out == name + "\n" and not done.err, done

    def popen(self, *words: str, **more: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*self.words, *words], env=environment(), cwd="/", **more)  # type: ignore[call-overload,no-any-return]

    def state(self, name: str = "box") -> dict[str, object]:
        found = [each for each in json.loads(self("list", "--json").out) if each["name"] == name]
        assert len(found) == 1, found
        state: dict[str, object] = found[0]
        return state

    def pid(self, name: str = "box") -> int:
        pid = self.state(name)["pid"]
        assert isinstance(pid, int)
        return pid

    def end(self) -> None:
        names = self("list", "-q").out.split()
        if names:
            self("rm", "-f", *names)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "root", [])
    yield made
    made.end()


@pytest.fixture
def user_box(tmp_path: Path, as_user: list[str]) -> Iterator[Box]:
    folder = tmp_path / "records"
    folder.mkdir()
    folder.chmod(0o777)
    made = Box(folder / "root", as_user)
    yield made
    made.end()


# -- the life of a sandbox -------------------------------------------------------------------------------------
def test_from_start_to_end(box: Box) -> None:
    box.start("sh", "-c", "echo out; echo err >&2; read x; exit 7", options=("-i",))
    state = box.state()
    assert state["status"] == "running" and state["command"] == [
        "sh",
        "-c",
        "echo out; echo err >&2; read x; exit 7",
    ]
    wait_until(lambda: box("logs", "box").out == "out\n", "output")
    assert box("logs", "box").err == "err\n"
    waiting = box.popen("wait", "box")
    assert box("kill", "-s", "USR1", "box").status == 0
    assert waiting.wait(20) == 128 + signal.SIGUSR1
    assert box.state()["status"] == "exited" and box.state()["exit_status"] == 138
    assert box("wait", "box").status == 138
    done = box("exec", "box", "--", "true")
    assert done.status == 125 and is_one_line(done.err), done
    assert box("rm", "box").status == 0 and box("list", "-q").out == ""
    assert box("logs", "box").status == 125


def test_a_name_is_made(box: Box) -> None:
    first = box("run", "-d", "--", "sleep", "100").out.strip()
    second = box("run", "-d", "--", "sleep", "100").out.strip()
    assert first != second and set(box("list", "-q").out.split()) == {first, second}


def test_two_of_a_name(box: Box) -> None:
    box.start("sleep", "100")
    done = box("run", "-d", "--name", "box", "--", "true")
    assert done.status == 125 and is_one_line(done.err) and "running" in done.err, done
    box("stop", "-t", "5", "box")
    done = box("run", "--name", "box", "--", "true")
    assert done.status == 125 and "cloche rm box" in done.err, done
    assert box("rm", "box").status == 0
    box.start("sleep", "100")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a b", "x" * 65, "a\nb", ".lock"])
def test_names_are_checked(box: Box, name: str) -> None:
    for words in (
        ("run", "-d", f"--name={name}", "--", "true"),
        ("wait", "--", name),
        ("rm", "-f", "--", name),
    ):
        done = box(*words)
        assert done.status == 125 and is_one_line(done.err), (words, done)


def test_what_cannot_start_leaves_nothing(box: Box) -> None:
    done = box("run", "-d", "--name", "box", "--", "nosuch")
    assert done.status == 127 and is_one_line(done.err) and "nosuch" in done.err, done
    assert os.listdir(box.root) == [".lock"]


def test_rm(box: Box) -> None:
    box.start("sleep", "100")
    done = box("rm", "box")
    assert done.status == 125 and is_one_line(done.err), done
    everyone = descendants(box.pid()) | {box.pid()}
    assert box("rm", "-f", "box").status == 0
    wait_until(lambda: not alive(everyone), "every process is gone")
    box.start("true", options=("--rm",), name="short")
    wait_until(lambda: box("list", "-q").out == "", "the record is gone")


def test_stop(box: Box) -> None:
    box.start("sh", "-c", "trap 'exit 9' TERM; echo; while :; do sleep 0.05; done")
    wait_until(lambda: box("logs", "box").out, "ready")
    assert box("stop", "box").status == 0
    assert box.state()["exit_status"] == 9
    box.start("sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done", name="deaf")
    wait_until(lambda: box("logs", "deaf").out, "ready")
    assert box("stop", "-t", "0.2", "deaf").status == 0
    assert box.state("deaf")["exit_status"] == 137


def test_timeout(box: Box) -> None:
    box.start("sleep", "100", options=("--timeout", "3"))
    assert box("wait", "box").status == 124
    assert box.state()["error"] and "longer than 3 s" in box("logs", "box").err


def test_kill(box: Box) -> None:
    script = "trap 'echo got' USR1; sleep 1000 & echo; while :; do sleep 0.02; done"
    box.start("bash", "-c", script)
    wait_until(lambda: box("logs", "box").out, "ready")
    assert box("kill", "-s", "USR1", "box").status == 0
    wait_until(lambda: "got" in box("logs", "box").out, "the signal")
    assert box("kill", "box", "SIGUSR1").status == 0
    done = box("kill", "-s", "NOSUCH", "box")
    assert done.status == 125 and is_one_line(done.err), done
    assert box("kill", "--all", "-s", "9", "box").status == 0
    assert box("wait", "box").status == 137


def test_ps(box: Box) -> None:
    box.start("bash", "-c", "(exec -a $(printf 'e\\033[31mvil') sleep 100) & wait", options=("-u", "1234"))
    wait_until(lambda: "vil 100" in box("ps", "box").out, "started")
    shown = box("ps", "box")
    assert "\x1b" not in shown.out and "\\x1b[31mvil" in shown.out, shown
    rows = json.loads(box("ps", "--json", "box").out)
    assert [(row["pid"], row["ppid"], row["uid"]) for row in rows][:2] == [(2, 1, 1234), (3, 2, 1234)], rows
    assert rows[0]["state"] == "S" and rows[0]["command"][0] == "bash" and rows[0]["time"] >= 0


# -- exec --------------------------------------------------------------------------------------------------------
def test_exec_is_like_run(box: Box) -> None:
    box.start("sleep", "1000", options=("-e", "A=1", "-e", "B=2"))
    done = box("exec", "-e", "B=3", "-w", "/tmp", "box", "--", "sh", "-c", "cat; echo $A $B; pwd; echo e >&2; exit 3",
               stdin=b"input\n")  # fmt: skip
    assert (done.status, done.out, done.err) == (3, "input\n1 3\n/tmp\n", "e\n"), done
    done = box(
        "exec",
        "-u",
        "77:88",
        "box",
        "--",
        "sh",
        "-c",
        "id -u; id -g; id -G; cat /proc/self/status | grep CapEff",
    )
    assert done.out.split()[:3] == ["77", "88", "88"] and done.out.split()[-1].strip("0") == "", done
    assert box("exec", "box", "--", "sh", "-c", "kill -TERM $$").status == 143
    done = box("exec", "box", "--", "sh", "-c", "echo $PPID; ps -o sid= -p $$ | tr -d ' '; echo $$")
    ppid, sid, pid = done.out.split()
    assert ppid == "0" and sid == pid, done
    for words, status in ((("nosuch",), 127), (("/etc",), 126), ((), 125)):
        done = box("exec", "box", "--", *words)
        assert done.status == status and is_one_line(done.err), (words, done)
    done = box("exec", "-w", "/nowhere", "box", "--", "true")
    assert done.status == 125 and is_one_line(done.err), done
    done = box("exec", "box", "--", "sh", "-c", "seq 200000")
    assert done.out == "".join(f"{number}\n" for number in range(1, 200001))


def test_files_are_shared(box: Box) -> None:
    box.start("sleep", "1000")
    assert box("exec", "box", "--", "sh", "-c", "cat > /tmp/f", stdin=b"x" * 300000).status == 0
    assert box("exec", "box", "--", "wc", "-c", "/tmp/f").out == "300000 /tmp/f\n"


def test_many_arguments(box: Box) -> None:
    box.start("sleep", "1000")
    words = ["y" * 1000] * 1000
    done = box("exec", "box", "--", "sh", "-c", 'echo $# ${#1000}; echo "$*" | wc -c', "sh", *words)
    assert done.out.split() == ["1000", "1000", "1001000"], done


def test_descriptors_are_given_back(box: Box) -> None:
    """Background processes of exec do not keep its client's pipes: a reader would wait for their end."""
    box.start("sleep", "1000")
    script = "(sleep 1000; echo late) & (while echo x 2>/dev/null; do sleep 0.02; done; echo gone > /tmp/gone) & echo done"
    done = box("exec", "box", "--", "sh", "-c", script, timeout=TIMEOUT_S)
    assert done.status == 0 and "done" in done.out, done
    wait_until(lambda: box("exec", "box", "--", "cat", "/tmp/gone").out == "gone\n", "the other was told")
    assert "sleep 1000" in box("ps", "box").out


def test_the_clients_end_is_the_commands(box: Box) -> None:
    box.start("sleep", "1000")
    client = box.popen(
        "exec", "box", "--", "sh", "-c", "echo ready; sleep 501 & sleep 502", stdout=subprocess.PIPE
    )
    assert client.stdout is not None and client.stdout.readline() == b"ready\n"
    assert "sleep 501" in box("ps", "box").out
    client.kill()
    client.communicate()
    wait_until(lambda: "sleep 50" not in box("ps", "box").out, "both are gone")
    assert box("exec", "-d", "box", "--", "sleep", "503").status == 0
    assert "sleep 503" in box("ps", "box").out


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_signals_are_passed_on(box: Box, name: str) -> None:
    box.start("sleep", "1000")
    script = f"trap 'echo got; exit 4' {name}; echo ready; while :; do sleep 0.02; done"
    client = box.popen("exec", "box", "--", "bash", "-c", script, stdout=subprocess.PIPE)
    assert client.stdout is not None and client.stdout.readline() == b"ready\n"
    client.send_signal(signal.Signals["SIG" + name])
    assert client.communicate(timeout=TIMEOUT_S)[0] == b"got\n" and client.returncode == 4


def test_the_sandbox_ends_under_exec(box: Box) -> None:
    box.start("sleep", "1000")
    client = box.popen("exec", "box", "--", "sleep", "1000", stderr=subprocess.PIPE)
    wait_until(lambda: box("ps", "box").out.count("sleep 1000") == 2, "started")
    box("kill", "box")
    _out, error = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == 137 and is_one_line(error.decode()), error


def test_exec_into_the_foreground(box: Box) -> None:
    words = [
        *box.words,
        "run",
        "--name",
        "front",
        "--",
        "sh",
        "-c",
        "echo ready; until [ -e /tmp/stop ]; do sleep 0.05; done; exit 6",
    ]
    process = subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd="/"
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    assert box("exec", "front", "--", "touch", "/tmp/stop").status == 0
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 6 and box("list", "-q").out == ""


def test_exec_counts_towards_pids(box: Box) -> None:
    box.start("sleep", "1000", options=("--pids", "1"))
    done = box("exec", "box", "--", "true")
    assert done.status == 125 and is_one_line(done.err), done


def has_a_socket(pid: int) -> bool:
    """Whether a client of one sandbox has begun to speak to it."""
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{each}").startswith("socket:") for each in os.listdir(folder))
    except OSError:  # one has just been closed
        return False


# -- robustness ------------------------------------------------------------------------------------------------------
def test_a_killed_monitor(box: Box) -> None:
    box.start("sleep", "1000")
    pid = box.pid()
    everyone = descendants(pid)
    waiting = box.popen("wait", "box", stderr=subprocess.PIPE)
    wait_until(lambda: has_a_socket(waiting.pid), "it is connected")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(everyone), "every process is gone")
    _out, error = waiting.communicate(timeout=TIMEOUT_S)
    assert waiting.returncode == 125 and is_one_line(error.decode()), error
    assert box.state()["status"] == "dead"
    for words in (
        ("exec", "box", "--", "true"),
        ("ps", "box"),
        ("kill", "box"),
        ("wait", "box"),
        ("stop", "box"),
    ):
        done = box(*words)
        assert done.status == 125 and is_one_line(done.err), (words, done)
    assert box("rm", "box").status == 0 and box("list", "-q").out == ""


def test_a_temporary_record_of_a_killed_monitor_is_replaced(box: Box) -> None:
    box.start("sleep", "1000", options=("--rm",))
    os.kill(box.pid(), signal.SIGKILL)
    wait_until(lambda: not json.loads(box("list", "--json").out), "no record is left")
    box.start("sleep", "1000")


def test_rights_of_the_files(box: Box) -> None:
    box.start("sleep", "1000")
    assert stat.S_IMODE(box.root.stat().st_mode) == 0o700
    assert stat.S_IMODE((box.root / "box" / "control").stat().st_mode) == 0o600
    box.root.chmod(0o777)
    done = box("run", "-d", "--", "true")
    assert done.status == 125 and is_one_line(done.err), done
    box.root.chmod(0o700)


def test_a_long_root(tmp_path: Path) -> None:
    box = Box(tmp_path / ("d" * 150), [])
    box.start("sleep", "1000")
    assert box("exec", "box", "--", "echo", "hi").out == "hi\n"
    box.end()


def test_hostile_clients(box: Box) -> None:
    """Malformed bytes cut that client off, and no other."""
    box.start("sleep", "1000")
    path = box.root / "box" / "control"
    for data in (
        b"\xff" * 12,
        b"\0" * 12,
        b"\x04\0\0\0\0abcd",
        os.urandom(4096),
        protocol.request(1, requests.PS, {}),  # before the greeting
        protocol.frame([protocol.HELLO, 99, "newer"]),
        protocol.hello("test") + protocol.request(1, requests.EXEC, {}, 3),  # whose descriptors do not come
    ):
        sock = socket.socket(socket.AF_UNIX)
        fd = os.open(box.root / "box", os.O_PATH)
        sock.connect(f"/proc/self/fd/{fd}/control")
        os.close(fd)
        sock.sendall(data)
        sock.settimeout(60)
        answer = b""
        try:
            while more := sock.recv(4096):
                answer += more
        except ConnectionResetError:
            pass
        sock.close()
    assert path.exists() and box("exec", "box", "--", "echo", "hi").out == "hi\n"


def test_one_connection_for_everything(box: Box) -> None:
    """Several requests at once, each with its answer; what monitors alone may ask is refused, as is nonsense."""
    box.start("sh", "-c", "sleep 1000 & sleep 1000")
    client = ControlClient(Store(str(box.root)).connect("box"))
    null = os.open(os.devnull, os.O_RDWR)
    request = ExecRequest([b"sh", b"-c", b"trap 'exit 5' USR1; echo; while :; do sleep 0.05; done"])
    reader, writer = os.pipe()
    request.streams = [0, 1, 2]
    ident = client.execute(request, [null, writer, null])
    assert client.receive().name == requests.STARTED
    assert os.read(reader, 1) == b"\n"  # it traps
    listening = client.ask(requests.EVENTS, {})
    # The command forks at some later time.
    wait_until(lambda: client.call(requests.STATS, {})["tasks"] >= 3, "the command's child is there")  # type: ignore[operator]
    assert [row.pid for row in client.processes()][:2] == [2, 3]
    assert client.call(requests.LIST, {}) == {
        "containers": [{"id": "main", "pid": 2, "state": "running", "status": -1}]
    }
    for method, fields in (
        (requests.SHUTDOWN, {}),
        (requests.CREATE, {}),
        (requests.SIGNAL, {"signal": 65}),
        (requests.SIGNAL, {"exec": 12345, "signal": 1}),
        (requests.PS, {"container": "other"}),
        ("nonsense", {}),
    ):
        with pytest.raises(ControlError):
            client.call(method, fields)  # type: ignore[arg-type]
    client.signal(ident, signal.SIGUSR1, requests.PROCESS)
    assert client.answer(ident).fields == {"status": 5 << 8}
    client.ask(requests.SIGNAL, {"signal": signal.SIGKILL})
    event = client.receive()
    while event.ident != listening:
        event = client.receive()
    assert (event.name, event.fields) == (requests.ENDED, {"container": "main"})
    client.close()
    for fd in (null, reader, writer):
        os.close(fd)


def test_events_come_before_the_answer_to_what_caused_them(box: Box) -> None:
    """Whoever has the answer may end the sandbox, and the listeners know all the same."""
    box.start("sleep", "1000")
    client = ControlClient(Store(str(box.root)).connect("box"))
    listening = client.ask(requests.EVENTS, {})
    for method, event in ((requests.PAUSE, requests.PAUSED), (requests.RESUME, requests.RESUMED)):
        asked = client.ask(method, {})
        found = [client.receive() for _each in range(2)]
        assert [(each.kind, each.ident) for each in found] == [
            (protocol.EVENT, listening),
            (protocol.REPLY, asked),
        ]
        assert found[0].name == event
    client.close()


def test_pause(box: Box) -> None:
    """No program runs meanwhile, not even one that is woken or late; then all go on; a kill works while paused."""
    box.start("sh", "-c", "while :; do echo; sleep 0.01; done")
    client = ControlClient(Store(str(box.root)).connect("box"))

    def lines() -> int:
        return box("logs", "box").out.count("\n")

    def spent() -> object:
        return client.call(requests.STATS, {})["user_ns"]

    wait_until(lambda: lines() > 3, "it runs")
    client.call(requests.PAUSE, {})
    with pytest.raises(ControlError):
        client.call(requests.PAUSE, {})
    wait_until(lambda: (spent(), lines()) == (spent(), lines()), "it stands still")
    before = lines()
    for _ in range(10):
        client.call(requests.PING, {})
    assert lines() == before
    client.call(requests.RESUME, {})
    wait_until(lambda: lines() > before, "it goes on")
    client.call(requests.PAUSE, {})
    client.kill(signal.SIGKILL, is_all=False)
    assert client.wait().exit_status == 137
    client.close()


def test_logs_are_bounded(box: Box) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; sleep 1000"
    box.start("sh", "-c", script, options=("--log-size", "64k"))
    wait_until(lambda: box("logs", "box").out.endswith("line 19999\n"), "all written")
    lines = box("logs", "box").out.splitlines()
    assert 2000 < len(lines) < 20000 and lines[-1] == "line 19999"
    size = sum(each.stat().st_size for each in (box.root / "box").iterdir() if each.name.startswith("log"))
    assert size <= 64 << 10


def test_logs_are_followed(box: Box) -> None:
    box.start("sh", "-c", "echo one; until [ -e /tmp/go ]; do sleep 0.02; done; echo two; exit 2")
    follower = box.popen("logs", "-f", "box", stdout=subprocess.PIPE)
    assert follower.stdout is not None and follower.stdout.readline() == b"one\n"
    box("exec", "box", "--", "touch", "/tmp/go")
    out, _err = follower.communicate(timeout=TIMEOUT_S)
    assert out == b"two\n" and follower.returncode == 0


def test_published_ports_are_told(box: Box) -> None:
    done = box("run", "-d", "--name", "box", "-p", ":80", "--", "sleep", "100")
    assert done.status == 0 and re.fullmatch(r"cloche: 127\.0\.0\.1:[1-9]\d* leads to port 80\n", done.err), (
        done
    )


def test_a_terminal_in_the_background(box: Box) -> None:
    box.start("sh", "-c", "tty; read x; echo $?", options=("-t",))
    wait_until(lambda: "/dev/pts/0" in box("logs", "box").out, "a terminal")
    assert "read" not in box("logs", "box").out and box.state()["status"] == "running"


def test_as_an_ordinary_user(user_box: Box) -> None:
    user_box.start("sleep", "1000")
    done = user_box("exec", "box", "--", "sh", "-c", "id -u; cat", stdin=b"x")
    assert done.status == 0 and done.out.endswith("\nx"), done
    assert user_box("ps", "box").out.count("sleep") == 1
    assert user_box("stop", "-t", "1", "box").status == 0
    assert user_box("wait", "box").status == 143


# -- nothing is left ---------------------------------------------------------------------------------------------------
def figures(monitor: int) -> dict[int, tuple[int, int]]:
    """Descriptors and resident KiB of every process of the family but guests."""
    found = {}
    for pid in sorted({monitor} | {pid for pid in descendants(monitor) if parent_of(pid) == monitor}):
        status = Path(f"/proc/{pid}/status").read_text()
        rss = re.search(r"VmRSS:\s+(\d+)", status)
        found[pid] = (len(os.listdir(f"/proc/{pid}/fd")), int(rss[1]) if rss else 0)
    return found


@pytest.mark.timeout(600)
def test_many_execs_leave_nothing(box: Box) -> None:
    """Some hundred commands in a row, as a client of the protocol: `CLOCHE_SLOW=1` for thousands."""
    box.start("sleep", "10000", options=("--pids", "50"))
    monitor = box.pid()
    null = os.open(os.devnull, os.O_RDWR)

    def execute(script: bytes) -> None:
        client = ControlClient(Store(str(box.root)).connect("box"))
        request = ExecRequest([b"sh", b"-c", script])
        request.streams = [0, 1, 2]
        client.execute(request, [null, null, null])
        client.receive()
        assert client.receive().fields == {"status": 3 << 8}
        client.close()

    def run_some(count: int) -> None:
        for index in range(count):
            execute(b"sleep 0 & exit 3" if index % 10 == 0 else b"exit 3")
        wait_until(lambda: box("ps", "box").out.count("\n") == 2, "only the first is left")

    run_some(300)  # dead tasks are collected after 256
    before = figures(monitor)
    run_some(4000 if os.environ.get("CLOCHE_SLOW") == "1" else 300)
    after = figures(monitor)
    assert before.keys() == after.keys()
    for pid, (fds, rss) in after.items():
        assert fds <= before[pid][0] and rss < before[pid][1] + 2048, (before, after)
    os.close(null)
