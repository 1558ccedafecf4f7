"""`exec` beside runc: into containers that share a pid namespace, and before the start."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.engines.harness import RUNTIME, groups_named, need, program, run
from tests.engines.test_bundles import Runtime, make_bundle, until

KIND, SANDBOX = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
RUNTIMES = ("cloche-oci", "runc")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    need("runc")
    made = Runtime(RUNTIME if request.param == "cloche-oci" else program("runc"), tmp_path)
    try:
        yield made
    finally:
        for ident in made("list", "-q").out.split():
            made("delete", "--force", ident)


def own(name: str) -> str:
    """A name that no other run of these tests gives, since control groups have it."""
    return f"{name}-{os.getpid()}"


def own_root(root: Path, folder: Path, name: str) -> Path:
    """A root with a file that says whose it is."""
    made = folder / f"root-{name}"
    assert run([program("cp"), "-a", str(root), str(made)]).status == 0
    (made / "whose").write_text(name)
    return made


def pod_bundle(folder: Path, root: Path, name: str, sandbox: str, pid: int, *args: str) -> Path:
    """A container of a pod with one pid namespace; the first one has `pid` 0."""
    kinds = {"mount": "", "network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
    rows: list[dict[str, str]] = []
    for kind, file in kinds.items():
        rows.append({"type": kind, **({"path": f"/proc/{pid}/ns/{file}"} if pid and file else {})})
    marks = {KIND: "container" if pid else "sandbox", SANDBOX: sandbox}
    tree = own_root(root, folder, name)
    return make_bundle(
        folder / f"b-{name}", tree, *args, annotations=marks, linux={"namespaces": rows}, hostname=""
    )


def test_the_root_is_the_container_s_own(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """Containers of a pod with one pid namespace: each command sees the root of its container, and no other."""
    names = [own(f"pod{number}") for number in range(3)]
    pid = 0
    for name in names:
        runtime.make(name, pod_bundle(tmp_path, root, name, names[0], pid, "sleep", "100000"))
        assert runtime("start", name).status == 0
        pid = pid or runtime.state(name)["pid"]
    for name in names:
        done = runtime("exec", name, "sh", "-c", "cat /whose; ps -o args | grep -c 'sleep 100000'$")
        assert (done.status, done.out) == (0, f"{name}3\n"), done
    last = own("last")
    runtime.make(last, pod_bundle(tmp_path, root, "last", names[0], pid, "sleep", "100000"))
    done = runtime("exec", last, "cat", "/whose")  # not started yet
    assert (done.status, done.out) == (0, "last"), done
    assert runtime("delete", "--force", last).status == 0
    assert runtime("kill", names[1], "KILL").status == 0
    until(lambda: runtime.state(names[1])["status"] == "stopped", "it ends")
    assert "cannot exec in a stopped container" in runtime("exec", names[1], "cat", "/whose").err
    for name in reversed(names):
        assert runtime("delete", "--force", name).status == 0


def test_the_root_after_chroot(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """A program that has changed its root: commands still see the container's."""
    outer = own_root(root, tmp_path, "outer")
    inner = own_root(root, outer / "tmp", "inner")
    script = f"exec chroot /tmp/{inner.name} sh -c 'echo up; exec sleep 100000'"
    caps = dict.fromkeys(("bounding", "effective", "permitted"), ["CAP_SYS_CHROOT"])
    bundle = make_bundle(tmp_path / "b", outer, "sh", "-c", script)
    data = json.loads((bundle / "config.json").read_text())
    data["process"]["capabilities"] = caps
    (bundle / "config.json").write_text(json.dumps(data))
    name = own("changed")
    runtime.make(name, bundle)
    assert runtime("start", name).status == 0
    until(lambda: runtime.output(name) == "up\n", "it runs")
    done = runtime("exec", name, "cat", "/whose")
    assert (done.status, done.out) == (0, "outer"), done


def test_ended_by_a_signal(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """What `exec` says that waits for a program."""
    name = own("signalled")
    runtime.make(name, make_bundle(tmp_path / "b", root, "sleep", "100000"))
    assert runtime("start", name).status == 0
    for signo in (15, 9, 34):
        done = runtime("exec", name, "sh", "-c", f"kill -{signo} $$")
        assert done.status == 128 + signo, (signo, done)


def test_before_the_start(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """A command in a container that was only created; its first program is pid 1 nevertheless."""
    name = own("early")
    runtime.make(name, make_bundle(tmp_path / "b", root, "sh", "-c", "echo I am $$; exec sleep 100000"))
    # It leaves an orphan that stays.
    script = "(sleep 100000 >/dev/null 2>&1 & true &); test $$ -gt 1 && touch /dev/early && echo here; exit 3"
    done = runtime("exec", name, "sh", "-c", script)
    assert (done.status, done.out) == (3, "here\n"), done
    assert runtime.state(name)["status"] == "created" and runtime.output(name) == ""
    assert runtime("start", name).status == 0
    until(lambda: runtime.output(name) == "I am 1\n", "it runs")
    count = "ps -o args | grep -c 'sleep 100000'$; test -e /dev/early && echo there"
    done = runtime("exec", name, "sh", "-c", count)
    assert done.out == "2\nthere\n", done
    assert runtime("kill", name, "KILL").status == 0
    until(lambda: runtime.state(name)["status"] == "stopped", "it ends")


def test_never_started(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """A container that is deleted before its start ends the commands in it."""
    name = own("never")
    runtime.make(name, make_bundle(tmp_path / "b", root, "true"))
    words = ["exec", "-d", "--pid-file", str(tmp_path / "pid"), name, "sleep", "100000"]
    quietly = [program("sh"), "-c", 'exec "$@" > /dev/null 2>&1', "sh"]  # it holds no pipe of ours
    assert run([*quietly, runtime.path, "--root", str(runtime.root), *words]).status == 0
    pid = int((tmp_path / "pid").read_text())
    assert runtime("delete", "--force", name).status == 0
    until(lambda: not Path(f"/proc/{pid}").exists(), "the command ends")


def test_control_groups_below(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """`--cgroup`: the container's own; what is none of its groups is refused by both, and one below by cloche-oci."""
    name = own("groups")
    runtime.make(name, make_bundle(tmp_path / "b", root, "sleep", "100000"))
    assert runtime("start", name).status == 0
    is_v1 = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
    for fine in (["/"], [""], ["."], *[["memory:/", "cpu,pids:/"]] * is_v1):
        words = [word for each in fine for word in ("--cgroup", each)]
        done = runtime("exec", *words, name, "echo", "here")
        assert (done.status, done.out) == (0, "here\n"), (fine, done)
    wrong = [
        (["../x"], "../x is not a sub cgroup path"),
        (["none"], "/none/cgroup.procs: no such file or directory"),
        (["whatever:/"], "unknown controller whatever"),
        (["a:b:c"], "invalid --cgroup argument: a:b:c"),
        (["a", "b"], "invalid --cgroup argument: a (missing <controller>: prefix)"),
    ]
    if is_v1:
        wrong.append((["memory:none"], "/none/cgroup.procs: no such file or directory"))
        wrong.append((["memory:../x"], "../x is not a sub cgroup path"))
    for given, text in wrong:
        words = [word for each in given for word in ("--cgroup", each)]
        done = runtime("exec", *words, name, "echo", "here")
        assert done.status and text in done.err and not done.out, (given, done)
    made: list[Path] = []
    for top in groups_named(name):
        (top / "inner").mkdir()
        made.append(top / "inner")
    try:
        assert made
        # In cpuset a new group takes nobody.
        done = runtime("exec", "--cgroup", "memory:inner" if is_v1 else "inner", name, "echo", "here")
        if runtime.path == RUNTIME:
            assert done.status and "--cgroup inner is not supported: programs stay" in done.err, done
        else:
            assert (done.status, done.out) == (0, "here\n"), done
    finally:
        runtime("delete", "--force", name)
        for path in made:
            if path.exists():
                path.rmdir()


@pytest.mark.parametrize("runtime", ["cloche-oci"], indirect=True)
def test_a_socket_for_the_process(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """`--pidfd-socket`, of runc 1.2: it gets a pidfd of the process in the pid-file."""
    name, path = own("pidfd"), str(tmp_path / "socket")
    bundle = make_bundle(tmp_path / "b", root, "sleep", "100000")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def pid_of_received() -> int:
            link, _name = listener.accept()
            with link:
                _data, fds, _flags, _from = socket.recv_fds(link, 4096, 1)
            text = Path(f"/proc/self/fdinfo/{fds[0]}").read_text()
            os.close(fds[0])
            return int(text.partition("Pid:")[2].split()[0])

        bad = runtime("create", "--pidfd-socket", path + "-not", "-b", str(bundle), name)
        assert bad.status == 1 and "pidfd socket" in bad.err, bad
        files = [str(tmp_path / each) for each in ("first", "second")]
        script = 'exec "$0" "$@" >&- 2>&-'
        words = ["create", "--pidfd-socket", path, "--pid-file", files[0], "-b", str(bundle), name]
        call = [runtime.path, "--root", str(runtime.root)]
        assert run(["sh", "-c", script, *call, *words]).status == 0
        found = [pid_of_received()]
        assert runtime("start", name).status == 0
        words = ["exec", "-d", "--pidfd-socket", path, "--pid-file", files[1], name, "sleep", "100000"]
        assert run(["sh", "-c", script, *call, *words]).status == 0
        found.append(pid_of_received())
        assert found == [int(Path(each).read_text()) for each in files]
    runtime("delete", "--force", name)
