"""cloche-oci called as engines call it, without one: its output, its remains, and the refusals of a hostile bundle."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_launcher import memory_has
from tests.engines.harness import RUNTIME, Done, groups_named, mounts_below, need, program, run

WAIT_S = 120


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for something that will be."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Runtime:
    """A runtime with records of its own."""

    def __init__(self, path: str, folder: Path) -> None:
        self.path = path
        self.root = folder / "records"
        self.folder = folder

    def __call__(self, *words: str, stdin: bytes = b"") -> Done:
        return run([self.path, "--root", str(self.root), *words], stdin)

    def state(self, ident: str) -> dict[str, Any]:
        done = self("state", ident)
        assert done.status == 0, done
        found: dict[str, Any] = json.loads(done.out)
        return found

    def make(self, ident: str, bundle: Path) -> None:
        """Create it, as an engine does: output to a file that is not a pipe of ours."""
        with open(self.folder / f"{ident}.out", "wb") as out:
            done = subprocess.run(
                [self.path, "--root", str(self.root), "create", "-b", str(bundle), ident],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=WAIT_S,
                check=False,
            )
        assert done.returncode == 0, (self.folder / f"{ident}.out").read_text()

    def output(self, ident: str) -> str:
        return (self.folder / f"{ident}.out").read_text()


@pytest.fixture
def cloche(tmp_path: Path, root: Path) -> Iterator[Runtime]:
    made = Runtime(RUNTIME, tmp_path)
    try:
        yield made
    finally:
        for ident in made("list", "-q").out.split():  # the remains of a test that failed
            made("delete", "--force", ident)


def make_bundle(folder: Path, root: Path, *args: str, **changes: Any) -> Path:
    """A bundle on the shared root, which is read-only."""
    folder.mkdir()
    assert run([RUNTIME, "spec", "-b", str(folder)]).status == 0
    data = json.loads((folder / "config.json").read_text())
    data["process"]["terminal"] = False
    data["process"]["args"] = list(args)
    data["root"] = {"path": str(root), "readonly": True}
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(data.get(name), dict):
            data[name].update(value)
        else:
            data[name] = value
    (folder / "config.json").write_text(json.dumps(data))
    return folder


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_life(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    bundle = make_bundle(tmp_path / "b", root, "sh", "-c", "echo hello; exit 5", annotations={"a.b": "c"})
    cloche.make("one", bundle)
    state = cloche.state("one")
    assert (state["status"], state["bundle"], state["rootfs"]) == ("created", str(bundle), str(root))
    assert state["annotations"] == {"a.b": "c"} and state["pid"] > 0 and state["owner"] == "root"
    assert cloche.output("one") == ""
    again = cloche("create", "-b", str(bundle), "one")
    assert again.status == 1 and "already exists" in again.err
    assert cloche("start", "one").status == 0
    until(lambda: cloche.state("one")["status"] == "stopped", "it ends")
    assert cloche.output("one") == "hello\n"
    assert cloche.state("one")["pid"] == 0
    for words, text in (
        (("start", "one"), "cannot start a container that has stopped"),
        (("kill", "one", "9"), "container not running"),
        (("exec", "one", "true"), "cannot exec in a stopped container"),
        (("pause", "one"), "container not running"),
    ):
        done = cloche(*words)
        assert done.status != 0 and text in done.err, done
    assert cloche("delete", "one").status == 0
    assert "does not exist" in cloche("state", "one").err
    assert cloche("delete", "one").status == 1
    assert cloche("delete", "--force", "one").status == 0
    assert not groups_named("one")


def test_run_in_the_foreground(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    bundle = make_bundle(tmp_path / "b", root, "sh", "-c", "cat; exit 3")
    done = run([RUNTIME, "--root", str(cloche.root), "run", "-b", str(bundle), "fg"], b"input\n")
    assert (done.status, done.out) == (3, "input\n")
    assert cloche("list", "-q").out == ""


def test_lists(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    assert cloche("list", "-f", "json").out == "null\n"
    cloche.make("two", make_bundle(tmp_path / "b", root, "sleep", "1000"))
    assert cloche("list", "-q").out == "two\n"
    assert json.loads(cloche("list", "--format=json").out)[0]["id"] == "two"
    table = cloche("list").out.splitlines()
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert table[1].split()[:3] == ["two", str(cloche.state("two")["pid"]), "created"]
    refused = cloche("delete", "nothing")
    assert "container does not exist" in refused.err
    assert cloche("start", "two").status == 0
    assert "cannot delete container two that is not stopped: running" in cloche("delete", "two").err
    assert json.loads(cloche("ps", "-f", "json", "two").out) == [cloche.state("two")["pid"]]
    event = json.loads(cloche("events", "--stats", "two").out)
    assert event["type"] == "stats" and event["id"] == "two" and event["data"]["pids"]["current"] > 0
    assert cloche("update", "--memory", "200m", "two").status == 0
    assert cloche("pause", "two").status == 0
    assert cloche.state("two")["status"] == "paused"
    assert "paused" in cloche("exec", "two", "true").err
    assert cloche("resume", "two").status == 0
    assert cloche("exec", "two", "sh", "-c", "exit 4").status == 4
    assert cloche("kill", "two", "TERM").status == 0  # pid 1 without a handler: nothing happens
    assert cloche.state("two")["status"] == "running"
    assert cloche("kill", "two", "KILL").status == 0
    until(lambda: cloche.state("two")["status"] == "stopped", "it ends")
    assert cloche("delete", "two").status == 0


def test_errors_go_to_the_log(cloche: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    done = cloche("--log", str(log), "--log-format", "json", "state", "nobody")
    assert done.status == 1
    line = json.loads(log.read_text())
    assert (line["level"], line["msg"]) == ("error", "container does not exist") and line["time"]
    assert "Traceback" not in done.err


@pytest.mark.parametrize("verb", ["checkpoint", "restore"])
def test_what_is_not_there_says_so(cloche: Runtime, verb: str) -> None:
    done = cloche(verb, "x")
    assert done.status == 1 and f"{verb} is not there yet" in done.err


def test_features_and_version(cloche: Runtime) -> None:
    found = json.loads(cloche("features").out)
    assert found["ociVersionMin"] and found["ociVersionMax"] and "prestart" in found["hooks"]
    assert "spec: " in cloche("--version").out


@pytest.mark.parametrize(
    "command, text",
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("/no/such", 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_create_fails_for_a_program_that_cannot_run(
    cloche: Runtime, tmp_path: Path, root: Path, command: str, text: str
) -> None:
    done = cloche("create", "-b", str(make_bundle(tmp_path / "b", root, command)), "bad")
    assert done.status == 1 and text in done.err.replace('\\"', '"')
    assert cloche("list", "-q").out == "" and not groups_named("bad")


def test_hooks_in_order_with_state(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    trace = tmp_path / "trace"
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    hooks = {
        kind: [
            {
                "path": program("sh"),
                "args": ["sh", "-c", f"cat >> {trace}; echo ' {kind}' >> {trace}"],
                "env": ["PATH=/usr/bin:/bin"],
            }
        ]
        for kind in kinds
    }
    cloche.make("hooked", make_bundle(tmp_path / "b", root, "sleep", "1000", hooks=hooks))
    assert cloche("start", "hooked").status == 0
    pid = cloche.state("hooked")["pid"]
    assert cloche("delete", "--force", "hooked").status == 0
    rows = [line.rpartition(" ") for line in trace.read_text().splitlines()]
    assert [row[2] for row in rows] == list(kinds)
    states = [json.loads(row[0]) for row in rows]
    statuses = ["creating", "creating", "creating", "created", "running", "stopped"]
    assert [state["status"] for state in states] == statuses
    assert all(state["id"] == "hooked" for state in states)
    assert [state["pid"] for state in states] == [pid] * 5 + [0]


def test_a_hook_that_fails_undoes_create(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    hooks = {"createRuntime": [{"path": program("false")}]}
    done = cloche("create", "-b", str(make_bundle(tmp_path / "b", root, "true", hooks=hooks)), "bad")
    assert done.status == 1 and "error running createRuntime hook #0: " in done.err
    assert cloche("list", "-q").out == "" and not groups_named("bad")


def anchor_namespaces(pid: int) -> set[str]:
    names = ("net", "ipc", "uts", "pid", "mnt", "cgroup")
    return {
        name
        for name in names
        if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
    }


def test_the_anchor_stands_in_the_container(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    kinds = ("pid", "network", "ipc", "uts", "mount", "cgroup")
    linux = {"namespaces": [{"type": kind} for kind in kinds]}
    cloche.make("held", make_bundle(tmp_path / "b", root, "sleep", "1000", linux=linux))
    pid = cloche.state("held")["pid"]
    assert anchor_namespaces(pid) == {"net", "ipc", "uts", "pid", "mnt", "cgroup"}
    assert sorted(os.listdir(f"/proc/{pid}/root")) == sorted(os.listdir(root))
    assert os.listdir(f"/proc/{pid}/root/dev/mqueue") == []  # the sentry's own file systems are empty here
    assert [name for name in os.listdir(f"/proc/{pid}/root/proc") if name.isdigit()] == ["1"]
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    assert all(line.split()[4].split("/")[1] in ("", "proc", "dev", "sys") for line in mounts)
    status = Path(f"/proc/{pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert b"sleep\x001000" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert "held" in Path(f"/proc/{pid}/cgroup").read_text()
    cloche("delete", "-f", "held")
    assert is_gone(pid)


IS_SLOW = os.environ.get("CLOCHE_SLOW") == "1"
PARTS = ("anchor", "monitor", "keeper", "gofer", "sentry")


def part_of(cloche: Runtime, ident: str, name: str) -> int:
    """A process of a container, by its name."""
    record = json.loads((cloche.root / ident / "state.json").read_text())
    if name in ("anchor", "monitor"):
        return int(record["pid" if name == "anchor" else "monitor"])
    left = [int(record["monitor"])]
    while left:
        pid = left.pop()
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == f"cloche-{name}":
                return pid
            left += [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # one that ended meanwhile, as a sentry's guests do
    raise AssertionError(name)


def test_every_part_is_in_the_groups(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    """With control groups of version 2 the keeper and what it has forked are put there while it starts."""
    cloche.make("grouped", make_bundle(tmp_path / "b", root, "sleep", "1000"))
    assert cloche("start", "grouped").status == 0
    expected = Path(f"/proc/{part_of(cloche, 'grouped', 'anchor')}/cgroup").read_text()
    assert "grouped" in expected
    left = [part_of(cloche, "grouped", "monitor")]
    for pid in left:
        assert Path(f"/proc/{pid}/cgroup").read_text() == expected
        left += [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert len(left) >= len(PARTS)
    assert cloche("delete", "-f", "grouped").status == 0


def test_words_and_environment_of_create_are_not_in_the_memory_of_its_parts(
    cloche: Runtime, tmp_path: Path, root: Path
) -> None:
    """The monitor forks the keeper before it hears of the container, or the keeper is executed."""
    hidden = [f"hush-{os.urandom(8).hex()}" for _each in range(2)]
    bundle = make_bundle(tmp_path / "b", root, "sleep", "1000")
    done = subprocess.run(
        [cloche.path, "--root", str(cloche.root), "--log", f"/tmp/{hidden[0]}", "create", "-b", str(bundle), "knows"],
        env={**os.environ, "SECRET": hidden[1]},
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL),
        timeout=WAIT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0
    for name in ("keeper", "gofer", "sentry"):
        pid = part_of(cloche, "knows", name)
        assert not [text for text in hidden if memory_has(pid, text.encode())], name
        assert not [text for text in hidden if text.encode() in Path(f"/proc/{pid}/environ").read_bytes()]
        assert not [text for text in hidden if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert memory_has(part_of(cloche, "knows", "keeper"), b"cloche-keeper")  # it can be found
    assert cloche("delete", "-f", "knows").status == 0


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stay_closed(cloche: Runtime, tmp_path: Path, root: Path, closed: str) -> None:
    """Whatever create and its parts open meanwhile."""
    program_of_it = ["sh", "-c", "ls /proc/self/fd; exit 5"]
    made = [cloche.path, "--root", str(cloche.root), "run", "-b"]
    made += [str(make_bundle(tmp_path / "b", root, *program_of_it)), "shut"]
    found = [
        run(["sh", "-c", f'exec "$@" {closed}', "sh", *words])
        for words in (made, [program("busybox"), *program_of_it])
    ]
    assert found[0].status == 5, found[0]
    assert found[0].out == found[1].out


@pytest.mark.timeout(3600 if IS_SLOW else 120)
@pytest.mark.parametrize("part", PARTS)
def test_the_death_of_a_part_leaves_nothing(cloche: Runtime, tmp_path: Path, root: Path, part: str) -> None:
    bundle = make_bundle(tmp_path / "b", root, "sh", "-c", "echo up; while :; do sleep 1; done")
    for turn in range(200 if IS_SLOW else 1):
        name = f"dies{turn}"
        cloche.make(name, bundle)
        assert cloche("start", name).status == 0
        until(lambda name=name: cloche.output(name) == "up\n", "it runs")  # type: ignore[misc]
        pids = [part_of(cloche, name, each) for each in PARTS]
        os.kill(part_of(cloche, name, part), signal.SIGKILL)
        until(lambda name=name: cloche.state(name)["status"] == "stopped", "it stops")  # type: ignore[misc]
        assert cloche("delete", name).status == 0
        for pid in pids:
            until(lambda pid=pid: is_gone(pid), "every part ends")  # type: ignore[misc]
        assert not groups_named(name) and not mounts_below(tmp_path)
        assert not list(cloche.root.iterdir())


def test_create_is_killed(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    """While a hook runs: what it has made so far ends by itself."""
    script = (
        f"cat > /dev/null; echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/hook; exec sleep 100000"
    )
    hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    bundle = make_bundle(tmp_path / "b", root, "true", hooks=hooks)
    words = [cloche.path, "--root", str(cloche.root), "create", "-b", str(bundle), "killed"]
    nothing = subprocess.DEVNULL
    with subprocess.Popen(words, stdin=nothing, stdout=nothing, stderr=nothing) as making:
        until((tmp_path / "hook").exists, "the hook runs")
        making.kill()
    os.kill(int((tmp_path / "hook").read_text()), signal.SIGKILL)
    record = json.loads((cloche.root / "killed" / "state.json").read_text())
    for pid in (record["pid"], record["monitor"]):
        until(lambda pid=pid: is_gone(pid), "it ends")  # type: ignore[misc]
    assert cloche("delete", "--force", "killed").status == 0
    assert cloche("list", "-q").out == "" and not groups_named("killed")


def test_create_is_killed_while_it_makes_groups(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    """Wherever that is, `delete` finds them: the record names them before."""
    need("strace")
    bundle = make_bundle(tmp_path / "b", root, "true")
    create = [cloche.path, "--root", str(cloche.root), "create", "-b", str(bundle), "killed"]
    nothing = subprocess.DEVNULL
    most = 0
    for count in range(1, 100):
        inject = [program("strace"), "-qq", "-o", "/dev/null", "-e", f"inject=mkdir:signal=KILL:when={count}"]
        done = subprocess.run([*inject, *create], stdin=nothing, stdout=nothing, stderr=nothing, check=False)
        most = max(most, len(groups_named("killed")))
        deleted = cloche("delete", "--force", "killed")
        assert not groups_named("killed") and cloche("list", "-q").out == "", (count, deleted)
        if done.returncode == 0:
            break
    else:
        pytest.fail("it makes too many directories")
    assert count > 1 and most, "strace has killed nothing"


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"mounts": [{"destination": "/x/../../../y", "type": "tmpfs", "source": "t"}]}, "leads upwards"),
    ({"mounts": [{"destination": "/x", "type": "nofs", "source": "t"}]}, "not supported"),
    ({"linux": {"netDevices": {"eth0": {}}}}, "linux.netDevices is not supported"),
    (
        {"mounts": [{"destination": "/x", "type": "bind", "source": "/no/where", "options": ["bind"]}]},
        "No such file",
    ),
    ({"ociVersion": "9.9.9"}, "not 1.x"),
    ({"process": {"args": []}}, "args must not be empty"),
]


@pytest.mark.parametrize("changes, text", HOSTILE)
def test_hostile_bundles(
    cloche: Runtime, tmp_path: Path, root: Path, changes: dict[str, Any], text: str
) -> None:
    done = cloche("create", "-b", str(make_bundle(tmp_path / "b", root, "true", **changes)), "bad")
    assert done.status == 1 and text in done.err, done
    assert "Traceback" not in done.err and len(done.err.strip().splitlines()) == 1
    assert cloche("list", "-q").out == "" and not groups_named("bad")


def test_a_long_config(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    bundle = make_bundle(tmp_path / "b", root, "true")
    with open(bundle / "config.json", "r+b") as file:
        file.truncate(100 << 20)
    done = cloche("create", "-b", str(bundle), "bad")
    assert done.status == 1 and "longer than 16 MiB" in done.err


def test_links_in_the_image_lead_nowhere(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    """A mount point that is a link of the image: the mount is inside, and nothing of the host is touched."""
    own = tmp_path / "own"
    assert run([program("cp"), "-a", str(root), str(own)]).status == 0
    victim = tmp_path / "victim"
    victim.mkdir()
    (own / "link").symlink_to(victim)
    source = tmp_path / "source"
    source.mkdir()
    mounts = [{"destination": "/link/deep", "type": "bind", "source": str(source), "options": ["bind"]}]
    bundle = make_bundle(tmp_path / "b", own, "sh", "-c", "ls -d /link/deep", mounts=mounts)
    data = json.loads((bundle / "config.json").read_text())
    data["root"]["readonly"] = False
    (bundle / "config.json").write_text(json.dumps(data))
    cloche.make("linked", bundle)
    assert list(victim.iterdir()) == []
    assert cloche("start", "linked").status == 0
    until(lambda: cloche.output("linked") == "/link/deep\n", "it is there")
    assert cloche("delete", "-f", "linked").status == 0
    assert list(victim.iterdir()) == [] and not mounts_below(tmp_path)


def test_a_tmpfs_begins_with_what_was_there(tmp_path: Path, root: Path) -> None:
    """`tmpcopyup`, which Podman gives to its own tmpfs mounts: files, links, modes and owners, as with runc."""
    script = "cd /mnt && find . | sort | xargs stat -c '%n %f %u %g %s' | grep -v '^. '; cat a/f; readlink a/l; echo new > a/f"
    results = []
    for name, runtime in (("cloche", RUNTIME), ("runc", program("runc"))):
        tree = tmp_path / name / "tree"
        (tree / "a").mkdir(parents=True)
        (tree / "a" / "f").write_text("content\n")
        (tree / "a" / "big").write_bytes(b"x" * (3 << 20))
        os.chmod(tree / "a" / "f", 0o4640)
        os.chown(tree / "a", 12, 34)
        (tree / "a" / "l").symlink_to("../nowhere")
        bundle = make_bundle(tmp_path / f"bundle-{name}", root, "sh", "-c", script)
        config = json.loads((bundle / "config.json").read_text())
        config["mounts"] += [
            {"destination": "/mnt", "type": "bind", "source": str(tree), "options": ["bind", "ro"]},
            {
                "destination": "/mnt",
                "type": "tmpfs",
                "source": "t",
                "options": ["tmpcopyup", "nosuid", "size=8m"],
            },
        ]
        (bundle / "config.json").write_text(json.dumps(config))
        made = Runtime(runtime, tmp_path / name)
        results.append(made("run", "-b", str(bundle), f"copyup-{name}"))
        assert (tree / "a" / "f").read_text() == "content\n"
    assert results[0].status == results[1].status == 0, results
    assert results[0].out == results[1].out and "content" in results[0].out, results


def test_events_tell_of_what_memory_ended(tmp_path: Path, root: Path) -> None:
    limits = {"resources": {"memory": {"limit": 32 << 20, "swap": 32 << 20}}}
    for path in (program("runc"), RUNTIME):
        folder = tmp_path / Path(path).name
        folder.mkdir()
        runtime = Runtime(path, folder)
        bundle = make_bundle(folder / "b", root, "sh", "-c", "tail /dev/zero; exec sleep 1000", linux=limits)
        ident = f"oom-{Path(path).name}-{os.getpid()}"
        runtime.make(ident, bundle)
        words = [
            program("timeout"),
            str(WAIT_S),
            path,
            "--root",
            str(runtime.root),
            "events",
            "--interval",
            "100ms",
            ident,
        ]
        listener = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert listener.stdout is not None
        try:
            seen = [json.loads(listener.stdout.readline())]
            assert (seen[0]["type"], seen[0]["id"]) == ("stats", ident)
            assert runtime("start", ident).status == 0
            while seen[-1]["type"] != "oom":
                seen.append(json.loads(listener.stdout.readline()))
            assert seen[-1] == {"type": "oom", "id": ident}
            assert runtime.state(ident)["status"] == "running"
        finally:
            runtime("delete", "--force", ident)
            listener.terminate()
            listener.wait(WAIT_S)
            listener.stdout.close()


def test_events_tell_of_what_the_host_ended(cloche: Runtime, tmp_path: Path, root: Path) -> None:
    """Of a program that the host's kernel has ended, for the group had no more memory: cloche itself has no limit here."""
    bundle = make_bundle(tmp_path / "b", root, "sh", "-c", "tail /dev/zero; exec sleep 1000")
    ident = f"host-oom-{os.getpid()}"
    cloche.make(ident, bundle)
    group = memory_group(cloche, ident)
    is_unified = (group / "memory.max").exists()
    used = int((group / ("memory.current" if is_unified else "memory.usage_in_bytes")).read_text())
    limit = group / ("memory.max" if is_unified else "memory.limit_in_bytes")
    limit.write_text(str(used + (64 << 20)))
    words = [RUNTIME, "--root", str(cloche.root), "events", "--interval", "100ms", ident]
    listener = subprocess.Popen([program("timeout"), str(WAIT_S), *words], stdout=subprocess.PIPE)
    assert listener.stdout is not None
    try:
        kinds = [json.loads(listener.stdout.readline())["type"]]
        assert cloche("start", ident).status == 0
        while kinds[-1] != "oom":
            kinds.append(json.loads(listener.stdout.readline())["type"])
        assert cloche.state(ident)["status"] == "running"
        assert int(limit.read_text()) == used + (64 << 20) & ~4095  # nobody was to be told
    finally:
        cloche("delete", "--force", ident)
        listener.terminate()
        listener.wait(WAIT_S)
        listener.stdout.close()


def memory_group(runtime: Runtime, ident: str) -> Path:
    """Where the control group of a container is."""
    rows = [
        line.split(":", 2)
        for line in Path(f"/proc/{runtime.state(ident)['pid']}/cgroup").read_text().splitlines()
    ]
    found = {name: path for _number, names, path in rows for name in names.split(",")}
    mount = Path("/sys/fs/cgroup")
    return (
        mount / "memory" / found["memory"].lstrip("/") if "memory" in found else mount / found[""].lstrip("/")
    )


def test_systemd_s_driver_where_there_is_no_systemd(tmp_path: Path, root: Path) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs here")
    bundle = make_bundle(tmp_path / "b", root, "true")
    seen = []
    for path in (program("runc"), RUNTIME):
        done = run(
            [path, "--root", str(tmp_path / "records"), "--systemd-cgroup", "create", "-b", str(bundle), "x"]
        )
        seen.append((done.status, done.err.partition("level=")[2]))
    assert seen[0][0] == 1 and seen[0] == seen[1]


@pytest.mark.parametrize("has_pids", [True, False])
def test_a_bind_mount_of_the_host_s_proc(
    cloche: Runtime, tmp_path: Path, root: Path, *, has_pids: bool
) -> None:
    """Programs get the sandbox's own; that of another place, or a part of it, is refused."""
    ident = f"proc{has_pids:d}-{os.getpid()}"
    script = "echo /proc/[0-9]*; cat /proc/self/mounts; echo up; exec sleep 100000"
    bundle = make_bundle(tmp_path / "b", root, "sh", "-c", script)
    config = bundle / "config.json"
    data = json.loads(config.read_text())
    bind = {
        "destination": "/proc",
        "type": "none",
        "source": "/proc",
        "options": ["rbind", "nosuid", "noexec"],
    }
    data["mounts"] = [bind, *[each for each in data["mounts"] if each["destination"] != "/proc"]]
    if not has_pids:
        kinds = data["linux"]["namespaces"]
        data["linux"]["namespaces"] = [each for each in kinds if each["type"] != "pid"]
    config.write_text(json.dumps(data))
    cloche.make(ident, bundle)
    assert cloche("start", ident).status == 0
    until(lambda: cloche.output(ident).endswith("\nup\n"), "it runs")
    lines = cloche.output(ident).splitlines()
    assert lines[0] == "/proc/1"
    mount = next(line for line in lines if line.split(" ")[1:2] == ["/proc"]).split(" ")
    assert mount[2] == "proc" and {"nosuid", "noexec"} <= set(mount[3].split(",")), mount
    outside = Path(f"/proc/{cloche.state(ident)['pid']}/root/proc")  # what the engine sees
    assert [each for each in os.listdir(outside) if each.isdigit()] == (["1"] if has_pids else [])
    cloche("delete", "--force", ident)
    for change in ({"destination": "/hosts"}, {"source": "/proc/sys"}):
        data["mounts"][0] = bind | change
        config.write_text(json.dumps(data))
        done = cloche("create", "-b", str(bundle), ident)
        assert done.status == 1 and "procfs cannot be attached" in done.err, done
