"""Differences that others' suites have shown (`tests/suites/run_oci.py`), each beside runc."""

import json
import os
import shlex
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines.harness import RUNTIME, Done, need, program, run
from tests.engines.test_bundles import WAIT_S, Runtime, make_bundle, until

# A program that does not hold the streams of who calls the runtime.
QUIET = ("sh", "-c", "exec >&- 2>&-; exec sleep 1000")


@pytest.fixture
def both(tmp_path: Path) -> dict[str, Runtime]:
    """runc and cloche-oci."""
    need("runc", "busybox")
    (tmp_path / "runc").mkdir()
    (tmp_path / "cloche").mkdir()
    return {
        "runc": Runtime(program("runc"), tmp_path / "runc"),
        "cloche": Runtime(RUNTIME, tmp_path / "cloche"),
    }


def alike(both: dict[str, Runtime], make: Callable[[Path], Path], *options: str) -> Done:
    """The result of `run`, which is the same with both."""
    found = [
        runtime("run", *options, "-b", str(make(runtime.folder / "b")), "c") for runtime in both.values()
    ]
    assert (found[0].status, found[0].out) == (found[1].status, found[1].out), found
    return found[1]


def test_parameters_of_the_network(both: dict[str, Runtime], root: Path) -> None:
    """Those, too, that the kernel inside does not go by, and which programs cannot change."""
    sysctl = {
        "net.ipv4.ip_forward": "1",
        "net.ipv4.ip_unprivileged_port_start": "7",
        "net.core.somaxconn": "99",
    }
    names = " ".join("/proc/sys/" + name.replace(".", "/") for name in sysctl)
    done = alike(both, lambda at: make_bundle(at, root, "sh", "-c", f"cat {names}", linux={"sysctl": sysctl}))
    assert done.out == "1\n7\n99\n", done


def test_where_a_bind_mount_comes_from(both: dict[str, Runtime], root: Path, tmp_path: Path) -> None:
    """mountinfo tells it, and programs look there for their container's name."""
    folder = tmp_path / "containers" / "0123" / "folder"
    folder.mkdir(parents=True)
    (folder.parent / "hostname").write_text("x\n")
    (tmp_path / "link").symlink_to(folder)

    def make(at: Path) -> Path:
        bundle = make_bundle(at, root, "grep", "containers/0123", "/proc/self/mountinfo")
        data = json.loads((bundle / "config.json").read_text())
        for source, destination in ((tmp_path / "link", "/tmp/a"), (folder.parent / "hostname", "/tmp/b")):
            data["mounts"].append(
                {
                    "source": str(source),
                    "destination": destination,
                    "type": "bind",
                    "options": ["rbind", "rw"],
                }
            )
        data["mounts"].insert(0, {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
        (bundle / "config.json").write_text(json.dumps(data))
        return bundle

    found = []
    for runtime in both.values():
        done = runtime("run", "-b", str(make(runtime.folder / "b")), "c")
        assert done.status == 0, done
        rows = [line.split() for line in done.out.splitlines()]
        found.append([(row[3].rpartition("/containers/")[2], row[4]) for row in rows])
    assert found[0] == found[1] == [("0123/folder", "/tmp/a"), ("0123/hostname", "/tmp/b")]


def test_the_last_close_of_a_stream(both: dict[str, Runtime], root: Path) -> None:
    """Who reads a detached container's output sees its end when its programs have closed it, and those of an exec."""
    for name, runtime in both.items():
        script = "echo out; exec >&- 2>&-; while :; do sleep 0.1; done"
        bundle = make_bundle(runtime.folder / "b", root, "sh", "-c", script)
        try:
            done = runtime("run", "-d", "-b", str(bundle), f"c-{name}")
            assert (done.status, done.out) == (0, "out\n")
            done = runtime("exec", "-d", f"c-{name}", "sh", "-c", script)
            assert (done.status, done.out) == (0, "out\n")
            assert runtime.state(f"c-{name}")["status"] == "running"
        finally:
            runtime("delete", "-f", f"c-{name}")


@pytest.mark.parametrize("place", ["/root", "/dev", "/tmp"])
def test_a_working_directory_is_made(
    both: dict[str, Runtime], root: Path, tmp_path: Path, place: str
) -> None:
    """Below a root that programs cannot write to, in a file system of the container's own, and in a volume."""
    command = ("sh", "-c", "pwd | grep -c deep; stat -c '%a %u' . ..; touch x 2>/dev/null || echo refused")

    def make(at: Path) -> Path:
        name = at.parent.name
        bundle = make_bundle(at, root, *command, process={"cwd": f"{place}/{name}/deep"})
        data = json.loads((bundle / "config.json").read_text())
        (tmp_path / f"volume-{name}").mkdir()
        volume = {"source": str(tmp_path / f"volume-{name}"), "options": ["bind"], "type": "bind"}
        data["mounts"].append({"destination": "/tmp", **volume})
        (bundle / "config.json").write_text(json.dumps(data))
        return bundle

    assert alike(both, make).out.startswith("1\n755 0\n755 0\n")


@pytest.mark.parametrize("place", ["/closed", "/closed/inner"])
def test_a_working_directory_that_the_user_may_not_enter(
    both: dict[str, Runtime], root: Path, tmp_path: Path, place: str
) -> None:
    """It is entered before the change of the user, by `run` and by `exec`; afterwards nothing in it is found."""
    tree = tmp_path / "root"
    assert run([program("cp"), "-a", str(root), str(tree)]).status == 0
    (tree / "closed" / "inner").mkdir(parents=True)
    (tree / "closed").chmod(0o700)
    (tree / "closed" / "inner").chmod(0o700)
    script = "pwd; busybox readlink /proc/self/cwd; ls . 2>/dev/null || echo refused; cd . 2>/dev/null || echo closed"
    user = {"uid": 65534, "gid": 65534}

    def make(at: Path) -> Path:
        return make_bundle(at, tree, "sh", "-c", script, process={"cwd": place, "user": user})

    said = f"{place}\n{place}\nrefused\nclosed\n"
    assert alike(both, make).out == said
    for name, runtime in both.items():
        bundle = make_bundle(runtime.folder / "b2", tree, "sleep", "100000")
        runtime.make(f"cwd-{name}", bundle)
        try:
            assert runtime("start", f"cwd-{name}").status == 0
            done = runtime("exec", "--cwd", place, "--user", "65534:65534", f"cwd-{name}", "sh", "-c", script)
            assert (done.status, done.out) == (0, said), (name, done)
        finally:
            runtime("delete", "-f", f"cwd-{name}")


def test_devices_of_the_host_stay(both: dict[str, Runtime], root: Path, tmp_path: Path) -> None:
    """A /dev that is a bind mount, and a directory in /dev: nothing in them is removed, replaced or made."""

    def listing(folder: Path) -> list[tuple[str, int, int, int]]:
        found = [(path, path.lstat()) for path in sorted(folder.rglob("*"))]
        return [(path.name, each.st_mode, each.st_rdev, each.st_ino) for path, each in found]

    for place in ("/dev", "/dev/inner"):
        device = {"path": "/dev/inner/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}
        for name, runtime in both.items():
            outer = tmp_path / f"{name}{place.replace('/', '-')}"
            (outer / "inner").mkdir(parents=True)
            os.mknod(outer / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            for path in (outer / "zero", outer / "inner" / "x", outer / "x"):
                path.write_text("of the host")
            before = listing(outer)
            bundle = make_bundle(
                runtime.folder / outer.name, root, "cat", f"{place}/x", linux={"devices": [device]}
            )
            data = json.loads((bundle / "config.json").read_text())
            kept = [each for each in data["mounts"] if not each["destination"].startswith(place)]
            own = {"destination": place, "source": str(outer), "type": "bind", "options": ["rbind", "rw"]}
            data["mounts"] = [*kept, own]
            data["linux"]["maskedPaths"] = data["linux"]["readonlyPaths"] = []
            (bundle / "config.json").write_text(json.dumps(data))
            done = runtime("run", "-b", str(bundle), "c")
            assert (done.status, done.out) == (0, "of the host"), (name, place, done)
            assert listing(outer) == before, (name, place)


def test_what_can_be_asked_of_one_that_has_ended(both: dict[str, Runtime], root: Path) -> None:
    """Also with options after the name."""
    found = []
    for runtime in both.values():
        bundle = make_bundle(runtime.folder / "b", root, "true")
        runtime.make("c", bundle)
        assert runtime("start", "c").status == 0
        until(lambda: runtime.state("c")["status"] == "stopped", "it ends")  # noqa: B023
        # What has ended is in its group until its parent has waited for it.
        until(lambda: runtime("ps", "-f", "json", "c").out == "null\n", "it is waited for")  # noqa: B023
        shown = json.loads(runtime("list", "-f", "json").out)
        ends = (runtime("ps", "-f", "json", "c"), runtime("kill", "c", "--all"), runtime("delete", "c", "-f"))
        found.append([[(done.status, done.out) for done in ends], sorted(shown[0])])
    assert found[0] == found[1]


def test_json_is_written_as_go_writes_it(both: dict[str, Runtime], root: Path) -> None:
    """Scripts look for pieces of it."""
    for runtime in both.values():
        runtime.make("c", make_bundle(runtime.folder / "b", root, "sleep", "1000"))
        try:
            assert '{"type":"stats","id":"c","data":{' in runtime("events", "--stats", "c").out
            assert '","id":"c","pid":' in runtime("list", "-f", "json").out
        finally:
            runtime("delete", "-f", "c")


def test_a_read_only_dev(both: dict[str, Runtime], root: Path) -> None:
    def make(at: Path) -> Path:
        bundle = make_bundle(
            at, root, "sh", "-c", "ls /dev; touch /dev/x 2>&1; echo there > /dev/null; echo $?"
        )
        data = json.loads((bundle / "config.json").read_text())
        for row in data["mounts"]:
            if row["destination"] == "/dev":
                row["options"].append("ro")
        (bundle / "config.json").write_text(json.dumps(data))
        return bundle

    assert "Read-only file system\n0\n" in alike(both, make).out


def test_hooks_without_an_environment(both: dict[str, Runtime], root: Path, tmp_path: Path) -> None:
    """They have the runtime's."""
    for name, runtime in both.items():
        hook = {"path": "/bin/sh", "args": ["sh", "-c", f'echo "$WORD" > {tmp_path}/said-{name}']}
        bundle = make_bundle(runtime.folder / "b", root, "true", hooks={"prestart": [hook]})
        words = [
            "env",
            "WORD=heard",
            runtime.path,
            "--root",
            str(runtime.root),
            "run",
            "-b",
            str(bundle),
            "c",
        ]
        assert run(words).status == 0
        assert (tmp_path / f"said-{name}").read_text() == "heard\n"


def test_two_conditions_about_one_argument(both: dict[str, Runtime], root: Path) -> None:
    """Of a seccomp rule: one of them is enough, as it is for runc."""
    args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in (0o22, 0o77)]
    rule = {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": args}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]}
    script = "umask 0077; umask; umask 0033; umask; umask 0022; umask"
    alike(both, lambda at: make_bundle(at, root, "sh", "-c", script, linux={"seccomp": profile}))


def test_notifications_of_seccomp(both: dict[str, Runtime], root: Path, tmp_path: Path) -> None:
    """An agent of a profile without SCMP_ACT_NOTIFY is not asked; with it `create` fails, says why, and leaves nothing."""
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(tmp_path / "agent"))
    agent.listen()
    agent.setblocking(False)
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": str(tmp_path / "agent"),
        "listenerMetadata": "words",
    }
    done = alike(both, lambda at: make_bundle(at, root, "echo", "runs", linux={"seccomp": profile}))
    assert (done.status, done.out) == (0, "runs\n")
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
    asked = {"seccomp": {**profile, "syscalls": [rule]}}
    runc, cloche = both["runc"], both["cloche"]
    try:
        runc.make("c", make_bundle(runc.folder / "asked", root, "true", linux=asked))
        link, _name = agent.accept()
        data, fds, _flags, _from = socket.recv_fds(link, 4096, 1)
        link.close()
        os.close(fds[0])
        assert json.loads(data)["fds"] == ["seccompFd"]
    finally:
        runc("delete", "-f", "c")
    done = cloche("create", "-b", str(make_bundle(cloche.folder / "asked", root, "true", linux=asked)), "c")
    assert done.status and "SCMP_ACT_NOTIFY is not supported: the agent at listenerPath" in done.err, done
    assert "does not exist" in cloche("state", "c").err
    with pytest.raises(BlockingIOError):
        agent.accept()
    agent.close()


@pytest.mark.parametrize("has_file", [True, False])
def test_without_an_oom_killer(
    both: dict[str, Runtime], root: Path, tmp_path: Path, *, has_file: bool
) -> None:
    """It runs with both; where runc turns the group's off, cloche-oci says that it has no effect."""
    is_v1 = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
    for name, runtime in both.items():
        linux = {"resources": {"memory": {"limit": 64 << 20, "disableOOMKiller": True}}}
        bundle = make_bundle(runtime.folder / "b", root, "echo", "runs", linux=linux)
        log = tmp_path / f"log-{name}"
        words = ["--log", str(log), "--log-format", "json"] if has_file else []
        done = runtime(*words, "run", "-b", str(bundle), "c")
        assert (done.status, done.out) == (0, "runs\n"), done
        told = (log.read_text() if has_file and log.exists() else "") + done.err
        assert ("disableOOMKiller has no effect" in told) == (name == "cloche" and is_v1), told
        assert not has_file or not done.err


def test_newlines_of_a_terminal_in_the_foreground(
    both: dict[str, Runtime], root: Path, tmp_path: Path
) -> None:
    """Programs see that their terminal leaves them as they are; the caller's own makes of them what it makes of all."""
    need("script")
    # runc sets the terminal when the program runs already.
    wait = "until stty -a 2>/dev/null | grep -q -- -onlcr; do sleep 0.05; done"
    command = f"{wait}; echo a; stty -a 2>/dev/null | grep -o '.onlcr'; printf 'b\\r\\nc\\n'"
    found = []
    for name, runtime in both.items():
        bundle = make_bundle(runtime.folder / "b", root, "sh", "-c", command, process={"terminal": True})
        shown, written = tmp_path / f"shown-{name}", tmp_path / f"written-{name}"
        call = f"{runtime.path} --root {runtime.root}"
        lines = (
            f"{call} run -b {bundle} c; {call} run -b {bundle} c > {written}",
            f"{call} run -d -b {make_bundle(runtime.folder / 'd', root, 'sleep', '1000')} d",
            f"{call} exec -t d sh -c {shlex.quote(command)} >> {written}; {call} delete -f d",
        )
        script = tmp_path / f"script-{name}"
        script.write_text("\n".join(lines) + "\n")
        with subprocess.Popen(
            [program("script"), "-qec", f"sh {script}", str(shown)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        ) as terminal:
            assert terminal.wait(WAIT_S) == 0  # its input stays open meanwhile: the end of it is shown, too
        text = [line for line in shown.read_bytes().splitlines(keepends=True) if b"Script " not in line]
        found.append((b"".join(text), written.read_bytes()))
    assert found[0] == found[1]
    assert found[1][1] == 2 * b"a\n-onlcr\nb\r\nc\n", found


def test_a_group_with_others_processes(both: dict[str, Runtime], root: Path) -> None:
    """Two containers in one: a warning says so, and only then."""
    for runtime in both.values():
        place = {"cgroupsPath": f"/cloche-test-{os.getpid()}"}
        bundles = [make_bundle(runtime.folder / name, root, *QUIET, linux=place) for name in ("b1", "b2")]
        try:
            first = runtime("run", "-d", "-b", str(bundles[0]), "c1")
            again = runtime("run", "-d", "-b", str(bundles[1]), "c2")
        finally:
            for ident in ("c1", "c2"):
                runtime("delete", "-f", ident)
        assert (first.status, first.err, again.status) == (0, "", 0), (first, again)
        assert "level=warning" in again.err and "container's cgroup is not empty" in again.err, again


def test_limits_of_a_device(both: dict[str, Runtime], root: Path) -> None:
    """They stand in the groups as with runc."""
    mount = Path("/sys/fs/cgroup/blkio")
    disks = [path for path in Path("/sys/block").glob("vd*") if (path / "dev").exists()]
    if not (mount / "blkio.throttle.read_bps_device").exists() or not disks:
        pytest.skip("needs the controller blkio of version 1, and a disk")
    major, minor = (int(word) for word in (disks[0] / "dev").read_text().split(":"))
    place = f"/cloche-test-{os.getpid()}"
    rows = {
        name: [{"major": major, "minor": minor, "rate": rate << 30}]
        for rate, name in enumerate(("throttleReadBpsDevice", "throttleWriteBpsDevice"), 1)
    }
    linux = {"cgroupsPath": place, "resources": {"blockIO": rows}}
    found = []
    for runtime in both.values():
        bundle = make_bundle(runtime.folder / "b", root, *QUIET, linux=linux)
        try:
            assert runtime("run", "-d", "-b", str(bundle), "c").status == 0
            group = mount / place[1:]
            names = ("read_bps", "write_bps", "read_iops")
            found.append([(group / f"blkio.throttle.{name}_device").read_text() for name in names])
        finally:
            assert runtime("delete", "-f", "c").status == 0
    assert found[0] == found[1] == [f"{major}:{minor} {1 << 30}\n", f"{major}:{minor} {2 << 30}\n", ""]


def test_capabilities_that_cannot_be(both: dict[str, Runtime], root: Path) -> None:
    """They are left out, and warnings say so (of ambient ones not by runc 1.1)."""
    caps = {name: ["CAP_KILL", "CAP_CHOWN", "CAP_NONE"] for name in ("bounding", "permitted", "effective")}
    caps |= {"inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL", "CAP_CHOWN"]}
    found = []
    for runtime in both.values():
        command = ("grep", "^Cap", "/proc/self/status")
        bundle = make_bundle(runtime.folder / "b", root, *command, process={"capabilities": caps})
        done = runtime("run", "-b", str(bundle), "c")
        assert done.status == 0 and "ignoring unknown or unavailable capabilities" in done.err, done
        assert "CAP_NONE" in done.err
        found.append(done.out)
    assert found[0] == found[1] and "CapAmb:\t0000000000000020" in found[1]
    assert "level=warning" in done.err and "can't raise ambient capability CAP_CHOWN: " in done.err


def test_the_processors_of_the_caller(both: dict[str, Runtime], root: Path, tmp_path: Path) -> None:
    """An engine that keeps to some of them does not keep its containers to these (as by runc 1.4)."""
    need("taskset")
    cloche = both["cloche"]
    online = sorted(os.sched_getaffinity(1))
    if len(online) < 2 or not Path("/sys/fs/cgroup/cpuset/cpuset.cpus").exists():
        pytest.skip("needs two processors and the controller cpuset of version 1")
    first, second = online[:2]
    for name, cpus, count in (("all", "", len(online)), ("two", f"{first},{second}", 2)):
        resources = {"cpu": {"cpus": cpus, "mems": "0"}} if cpus else {}
        command = ("grep", "Cpus_allowed_list", "/proc/self/status")
        bundle = make_bundle(tmp_path / name, root, *command, linux={"resources": resources})
        call = [cloche.path, "--root", str(cloche.root), "run", "-b", str(bundle), name]
        done = run([program("taskset"), "-c", str(first), *call])
        # Numbers are the sandbox's own, from 0.
        assert (done.status, done.out) == (0, f"Cpus_allowed_list:\t0-{count - 1}\n"), done


@pytest.mark.parametrize("given", [["HOME="], ["HOME=/first", "HOME="], ["HOME=", "HOME=/last"]])
def test_an_empty_home(both: dict[str, Runtime], root: Path, given: list[str]) -> None:
    """Is none; of several the last counts."""
    process = {"env": ["PATH=/bin", *given]}
    done = alike(both, lambda at: make_bundle(at, root, "sh", "-c", "env | grep HOME", process=process))
    assert done.out == ("HOME=/last\n" if given[-1] != "HOME=" else "HOME=/root\n")


def test_a_script_without_its_interpreter(both: dict[str, Runtime], root: Path, tmp_path: Path) -> None:
    """The error is that of execve(2), not that of a file that is missing."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "run.sh").write_text("#!/nowhere foo\n")
    (volume / "run.sh").chmod(0o755)
    mount = {"destination": "/tmp", "source": str(volume), "type": "bind", "options": ["bind"]}
    for runtime in both.values():
        bundle = make_bundle(runtime.folder / "b", root, *QUIET)
        data = json.loads((bundle / "config.json").read_text())
        data["mounts"].append(mount)
        (bundle / "config.json").write_text(json.dumps(data))
        try:
            assert runtime("run", "-d", "-b", str(bundle), "c").status == 0
            done = runtime("exec", "c", "/tmp/run.sh")
            assert done.status and "exec /tmp/run.sh: no such file or directory" in done.err, done
        finally:
            runtime("delete", "-f", "c")


def test_an_id_mapped_mount_without_a_user_namespace(
    both: dict[str, Runtime], root: Path, tmp_path: Path
) -> None:
    """runc 1.1 does not know it; owners are shown as mount_setattr(2) says, and who has no id makes nothing."""
    runtime = both["cloche"]
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    (volume / "file").write_text("")
    rows = [{"containerID": 0, "hostID": 100000, "size": 10}]
    mount = {"destination": "/tmp", "source": str(volume), "type": "bind", "options": ["bind"]}
    bundle = make_bundle(
        runtime.folder / "b", root, "sh", "-c", "stat -c %u:%g /tmp/file; touch /tmp/x 2>&1; stat /tmp/x"
    )
    data = json.loads((bundle / "config.json").read_text())
    data["mounts"].append(mount | {"uidMappings": rows, "gidMappings": rows})
    (bundle / "config.json").write_text(json.dumps(data))
    done = runtime("run", "-b", str(bundle), "c")
    if "MOUNT_ATTR_IDMAP" in done.err and "invalid argument" in done.err:
        pytest.skip("the file system has no id-mapped mounts")
    assert done.out.splitlines()[:1] == ["100000:100000"], done
    assert "Value too large" in done.out and done.status == 1, done
