"""The objects that containers of a pod share, by containerd's CRI, with cloche beside runc."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.harness import name_of
from tests.engines.cri import PID_CONTAINER, PID_POD
from tests.engines.harness import RUNTIME, TIMEOUT_S, groups_named, need, run
from tests.engines.node import Node
from tests.engines.websocket import STATUS, STDERR, STDIN, STDOUT

RUNTIMES = ("runc", "cloche")


def wait_until(what: Callable[[], bool]) -> None:
    """Of something that comes from outside."""
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def oci(*words: str) -> str:
    """cloche-oci with the records of the node's containers."""
    done = run([RUNTIME, "--root", "/run/containerd/runc/k8s.io", *words])
    assert done.status == 0, done
    return done.out


def of_kernel(node: Node, container: str) -> str:
    """Something that each kernel has for itself."""
    return node.kubelet.execute(container, "cat", "/proc/sys/kernel/random/boot_id")[1].decode()


def groups_of(name: str) -> list[str]:
    """The control groups that are left of a pod."""
    return [str(path) for top in groups_named(f"pods-{name}") for path in top.glob("*") if path.is_dir()]


def test_one_kernel(node: Node) -> None:
    """Containers of a pod have one kernel, those of two have not; each has its own root, processes and limits."""
    kubelet = node.kubelet
    pods = [kubelet.run_pod(f"kernel-{number}", "cloche", PID_CONTAINER) for number in range(2)]
    try:
        made = [
            kubelet.start(pod, f"kernel-{at}", name, "bb:1", "sleep", "100000", pid_mode=PID_CONTAINER)
            for pod, at, name in ((pods[0], 0, "one"), (pods[0], 0, "two"), (pods[1], 1, "one"))
        ]
        kernels = [of_kernel(node, container) for container in made]
        assert kernels[0] == kernels[1] != kernels[2]
        assert kubelet.execute(made[0], "sh", "-c", "echo mine > /tmp/file")[0] == 0
        assert kubelet.execute(made[1], "cat", "/tmp/file")[0] == 1
        seen = kubelet.execute(made[1], "ps", "-o", "args")[1].decode().splitlines()
        assert [line for line in seen if "sleep" in line] == ["sleep 100000"]
    finally:
        for pod in pods:
            kubelet.remove_pod(pod)
    assert not groups_of("kernel-0") + groups_of("kernel-1")


def test_shared_processes(node: Node) -> None:
    """shareProcessNamespace: one container sees and ends the processes of another."""
    kubelet = node.kubelet
    for runtime in RUNTIMES:
        name = f"processes-{runtime}"
        pod = kubelet.run_pod(name, runtime, PID_POD)
        try:
            one = kubelet.start(pod, name, "one", "bb:1", "sleep", "123456")
            two = kubelet.start(pod, name, "two", "bb:1", "sleep", "654321")
            seen = kubelet.execute(two, "ps", "-o", "pid,args")[1].decode().splitlines()
            rows = {line.split(None, 1)[1]: line.split()[0] for line in seen[1:]}
            assert rows["sleep 100000"] == "1", seen  # of the pod's first container
            kubelet.execute(two, "kill", "-KILL", rows["sleep 123456"])
            wait_until(lambda one=one: kubelet.exit_code(one) is not None)  # type: ignore[misc]
            assert kubelet.exit_code(one) == 137
            assert kubelet.execute(two, "true")[0] == 0
            kubelet.remove(one)
            again = kubelet.start(pod, name, "one", "bb:1", "sleep", "123456")
            assert "123456" in kubelet.execute(two, "ps", "-o", "args")[1].decode()
            kubelet.stop(again)
        finally:
            kubelet.remove_pod(pod)


def test_ends(node: Node) -> None:
    """A container whose gofer dies ends alone; with the pod's first container all end; nothing is left."""
    kubelet = node.kubelet
    name = "ends"
    pod = kubelet.run_pod(name, "cloche", PID_CONTAINER)
    try:
        made = [
            kubelet.start(pod, name, f"c{at}", "bb:1", "sleep", "100000", pid_mode=PID_CONTAINER)
            for at in range(3)
        ]
        gofers = [pid for pid in pids_of(made[0]) if "gofer" in name_of(pid)]
        assert gofers
        os.kill(gofers[0], signal.SIGKILL)
        wait_until(lambda: kubelet.exit_code(made[0]) == 137)
        assert kubelet.execute(made[1], "true")[0] == 0
        oci("kill", made[1], "9")
        wait_until(lambda: kubelet.exit_code(made[1]) == 137)
        assert kubelet.execute(made[2], "true")[0] == 0
        oci("kill", pod, "9")
        wait_until(lambda: kubelet.exit_code(made[2]) == 137)
    finally:
        kubelet.remove_pod(pod)
    assert not groups_of(name)


PROBE = r"""
#include <stdio.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
int main(int argc, char **argv)
{
    char *what = argv[1], text[64] = "";
    struct sockaddr_un name = {AF_UNIX};
    strcpy(name.sun_path, argv[2]);
    if (!strcmp(what, "listen") || !strcmp(what, "connect")) {
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        if (*what == 'c') {
            if (connect(s, (void *)&name, sizeof name))
                return perror("connect"), 1;
            read(s, text, sizeof text);
            return puts(text), 0;
        }
        if (bind(s, (void *)&name, sizeof name) || listen(s, 5))
            return perror("bind"), 1;
        int c = accept(s, 0, 0);
        return write(c, "by a socket", 11) != 11;
    }
    int fd = open(argv[2], O_RDWR | O_CREAT, 0644);
    if (!strcmp(what, "hold") || !strcmp(what, "try")) {
        if (flock(fd, LOCK_EX | LOCK_NB))
            return puts("held"), 0;
        puts("mine");
        fflush(stdout);
        return *what == 'h' ? pause() : 0;
    }
    if (ftruncate(fd, 4096))
        return 1;
    volatile char *map = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!strcmp(what, "poke"))
        return map[0] = 'x', 0;
    while (!map[0])
        usleep(10000);
    return puts("seen"), 0;
}
"""


def test_shared_volume(node: Node, tmp_path: Path) -> None:
    """An emptyDir: files, mappings, locks and sockets of one container are another's, and outlive who made them."""
    need("cc")
    kubelet = node.kubelet
    (tmp_path / "probe.c").write_text(PROBE)
    for runtime in RUNTIMES:
        name = f"volume-{runtime}"
        volume = tmp_path / name
        volume.mkdir()
        built = run(["cc", "-static", "-o", str(volume / "probe"), str(tmp_path / "probe.c")])
        assert built.status == 0, built
        pod = kubelet.run_pod(name, runtime, PID_CONTAINER)
        try:
            one, two, three = (
                kubelet.start(
                    *(pod, name, f"c{at}", "bb:1", "sleep", "100000"),
                    mounts=[("/v", str(volume), at == 2)],
                    pid_mode=PID_CONTAINER,
                )
                for at in range(3)
            )
            assert kubelet.execute(one, "sh", "-c", "echo text > /v/file")[0] == 0
            assert kubelet.execute(two, "cat", "/v/file")[1] == b"text\n"
            assert kubelet.execute(three, "sh", "-c", "cat /v/file; echo > /v/no")[:2] == (1, b"text\n")
            script = "/v/probe wait /v/map > /v/said 2>&1 & until test -s /v/map; do sleep 0.05; done"
            assert kubelet.execute(one, "sh", "-c", script)[0] == 0
            assert kubelet.execute(two, "/v/probe", "poke", "/v/map")[0] == 0
            until = "until grep -q seen /v/said; do sleep 0.05; done"
            assert kubelet.execute(three, "sh", "-c", until)[0] == 0
            script = "/v/probe hold /v/lock > /v/held 2>&1 & until grep -q mine /v/held; do sleep 0.05; done"
            assert kubelet.execute(one, "sh", "-c", script)[0] == 0
            assert kubelet.execute(two, "/v/probe", "try", "/v/lock")[1] == b"held\n"
            script = (
                "/v/probe listen /v/socket > /v/listened 2>&1 & until test -S /v/socket; do sleep 0.05; done"
            )
            assert kubelet.execute(one, "sh", "-c", script)[0] == 0
            script = "until /v/probe connect /v/socket; do sleep 0.05; done"
            assert kubelet.execute(two, "sh", "-c", script)[1] == b"by a socket\n"
            kubelet.stop(one)
            kubelet.remove(one)
            assert kubelet.execute(two, "/v/probe", "try", "/v/lock")[1] == b"mine\n"
            assert kubelet.execute(two, "sh", "-c", "cat /v/file; echo more > /v/more")[1] == b"text\n"
            assert (volume / "more").read_text() == "more\n"
        finally:
            kubelet.remove_pod(pod)


def test_streams(node: Node) -> None:
    """Exec, Attach and PortForward, as `kubectl` has them: streams, a terminal, the exit code, a port of loopback."""
    kubelet = node.kubelet
    for runtime in RUNTIMES:
        name = f"streams-{runtime}"
        pod = kubelet.run_pod(name, runtime, PID_CONTAINER)
        try:
            echo = "while read line; do echo got $line; echo err $line >&2; done"
            one = kubelet.start(
                pod, name, "one", "bb:1", "sh", "-c", echo, pid_mode=PID_CONTAINER, has_stdin=True
            )
            with node.streams(kubelet.exec_url(one, "sh", "-c", "cat; echo no >&2; exit 7")) as streams:
                streams.send(STDIN, b"hello\n")
                assert streams.until(STDOUT, b"hello\n") == b"hello\n"
                kubelet.execute(one, "sh", "-c", "kill $(ps -o pid,args | grep ' cat$' | cut -c1-5)")
                rest = streams.rest()
            assert rest[STDERR].endswith(b"no\n")
            assert b'"message":"7"' in rest[STATUS].replace(b" ", b"")
            with node.streams(kubelet.exec_url(one, "sh", has_terminal=True)) as streams:
                streams.send(STDIN, b"tty; exit 3\n")
                rest = streams.rest()
            assert b"/dev/pts/" in rest[STDOUT] and b'"message":"3"' in rest[STATUS].replace(b" ", b"")
            with node.streams(kubelet.attach_url(one)) as streams:
                streams.send(STDIN, b"word\n")
                seen: dict[int, bytes] = {}
                while seen.get(STDOUT) != b"got word\n" or seen.get(STDERR) != b"err word\n":
                    message = streams.receive()
                    assert message is not None, seen
                    seen[message[0]] = seen.get(message[0], b"") + message[1]
            serve = "echo hello > /tmp/index.html; exec httpd -f -p 127.0.0.1:8080 -h /tmp"
            kubelet.start(pod, name, "web", "bb:1", "sh", "-c", serve, pid_mode=PID_CONTAINER)
            ready = "until wget -q -O - http://127.0.0.1:8080/; do sleep 0.1; done"
            assert kubelet.execute(one, "sh", "-c", ready)[0] == 0
            with node.streams(kubelet.forward_url(pod, 8080)) as streams:
                streams.send(0, b"GET / HTTP/1.0\r\n\r\n")
                assert streams.until(0, b"hello\n")
        finally:
            kubelet.remove_pod(pod)


def test_figures(node: Node) -> None:
    """The usage of each container is counted by itself."""
    kubelet = node.kubelet
    for runtime in RUNTIMES:
        name = f"figures-{runtime}"
        pod = kubelet.run_pod(name, runtime, PID_CONTAINER)
        try:
            fill = "exec tail -c 60000000 /dev/zero"  # of an endless file: as much stays in memory
            for _number in range(2):  # the first container of a pod differs from the others
                two = kubelet.start(pod, name, "two", "bb:1", "sleep", "100000", pid_mode=PID_CONTAINER)
                one = kubelet.start(pod, name, "one", "bb:1", "sh", "-c", fill, pid_mode=PID_CONTAINER)
                wait_until(lambda one=one: kubelet.memory_bytes(one) > 40_000_000)  # type: ignore[misc]
                assert kubelet.memory_bytes(two) < 30_000_000
                wait_until(lambda one=one: kubelet.processor_ns(one) > 500_000_000)  # type: ignore[misc]
                assert kubelet.processor_ns(two) < 500_000_000
                for container in (one, two):
                    kubelet.stop(container)
                    kubelet.remove(container)
        finally:
            kubelet.remove_pod(pod)


def test_memory(node: Node) -> None:
    """A container over its memory ends, and says why; the pod's others do not notice."""
    if not Path("/sys/fs/cgroup/memory/memory.oom_control").exists():
        pytest.skip("needs control groups of version 1")
    kubelet = node.kubelet
    for runtime in RUNTIMES:
        name = f"memory-{runtime}"
        pod = kubelet.run_pod(name, runtime, PID_CONTAINER)
        try:
            other = kubelet.start(pod, name, "other", "bb:1", "sleep", "100000", pid_mode=PID_CONTAINER)
            command = ["tail", "-c", "250000000", "/dev/zero"]
            large = kubelet.start(
                pod, name, "large", "bb:1", *command, memory=60 << 20, pid_mode=PID_CONTAINER
            )
            wait_until(lambda large=large: kubelet.exit_code(large) is not None)  # type: ignore[misc]
            # With runc containerd may see the end before it hears of the memory.
            reasons = ("OOMKilled", "Error") if runtime == "runc" else ("OOMKilled",)
            assert kubelet.exit_code(large) == 137 and kubelet.reason(large) in reasons, runtime
            assert kubelet.execute(other, "true")[0] == 0
        finally:
            kubelet.remove_pod(pod)


def test_a_hung_kernel(node: Node) -> None:
    """Containers can be ended and removed by the records alone, even if the sentry hangs."""
    kubelet = node.kubelet
    name = "hung"
    pod = kubelet.run_pod(name, "cloche", PID_CONTAINER)
    try:
        one = kubelet.start(pod, name, "one", "bb:1", "sleep", "100000", pid_mode=PID_CONTAINER)
        state = json.loads(oci("state", one))
        assert (state["status"], state["id"]) == ("running", one)
        sentries = [pid for pid in pids_of(pod) if name_of(pid) == "cloche-sentry"]
        assert len(sentries) == 1
        os.kill(sentries[0], signal.SIGSTOP)
        assert json.loads(oci("state", one))["status"] == "running"
        kubelet.stop(one)
        kubelet.remove(one)
        assert not pids_of(one)
    finally:
        kubelet.remove_pod(pod)
    assert not groups_of(name)


def pids_of(container: str) -> list[int]:
    """Every process in the control groups of a container."""
    found: set[int] = set()
    for group in groups_named(container):
        found |= {int(word) for word in (group / "cgroup.procs").read_text().split()}
    return sorted(found)
