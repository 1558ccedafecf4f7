"""Sandboxes: making, finding, looking, ending; nothing is left, however the program that made one ends."""

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import cloche
from cloche import AsyncSandbox, Sandbox
from cloche.sdk import (
    InvalidArgument,
    Mount,
    NotFound,
    PortClosed,
    SandboxEnded,
    SandboxError,
    StartError,
    aio,
    sync,
)
from cloche.sdk.effects import drive
from cloche.wire import requests
from tests.cli.harness import alive, descendants, environment, name_of, wait_until


def everyone(sandbox: Sandbox) -> set[int]:
    """The processes of a sandbox on the host."""
    pid = sandbox.get_info().pid
    return {pid, *descendants(pid)}


def test_the_package_is_light() -> None:
    """The processes of a sandbox import it, too."""
    script = "import sys, cloche; print(*(name for name in sys.modules if name.startswith('cloche')))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        env=environment(),
        timeout=150,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == {"cloche", "cloche.library"}  # which finds compiled modules


def test_what_it_is(shared: Sandbox) -> None:
    info = shared.get_info()
    assert (info.name, info.state, info.metadata) == ("shared", "running", {"for": "tests"})
    assert info.seconds_left is None and info.command == [] and list(info.ports) == [8000]
    assert abs(info.created - time.time()) < 600
    assert shared.is_running() and repr(shared) == "<Sandbox shared>" and shared.sandbox_id == "shared"
    metrics = shared.get_metrics()
    assert metrics.memory_limit_bytes is None and metrics.tasks_limit == 4096 and metrics.oom_kills == 0


def test_a_port(shared: Sandbox) -> None:
    server = (
        "import socket; s = socket.create_server(('', 8000)); print('up', flush=True)\n"
        "c, _ = s.accept(); c.sendall(b'hello'); c.close()"
    )
    with shared.commands.run(["python3", "-c", server], background=True) as handle:
        assert next(iter(handle)).data == b"up\n"
        address, _colon, port = shared.get_host(8000).rpartition(":")
        import socket

        with socket.create_connection((address, int(port)), timeout=150) as connection:
            assert connection.recv(100) == b"hello"
    with pytest.raises(InvalidArgument, match=r"ports=\[9000\]"):
        shared.get_host(9000)


def test_connecting_and_listing(shared: Sandbox, root: str) -> None:
    where = shared._core.root
    other = Sandbox.connect("shared", root=where)
    assert other.commands.run("echo hi").stdout == "hi\n"
    del other  # it was not the maker
    assert shared.is_running()
    assert [info.name for info in Sandbox.list(root=where)] == ["shared"]
    assert [info.name for info in Sandbox.list(root=where, metadata={"for": "tests"})] == ["shared"]
    assert Sandbox.list(root=where, metadata={"for": "others"}) == []
    with pytest.raises(NotFound, match="Sandbox.list"):
        Sandbox.connect("nobody", root=root)


def test_pausing(shared: Sandbox) -> None:
    shared.pause()
    try:
        assert shared.get_info().state == "paused"
        with pytest.raises(SandboxError):
            shared.pause()
    finally:
        shared.resume()
    assert shared.get_info().state == "running"
    assert shared.commands.run(["true"]).ok


def test_what_it_is_made_of(root: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host\n")
    with Sandbox.create(
        root=root,
        env={"A": "1 2"},
        envs={"B": "3"},
        cwd="/tmp",
        hostname="box",
        memory="256m",
        pids=50,
        mounts=[f"{tmp_path}:/mnt/cow", Mount(str(tmp_path), "/mnt/ro", "ro")],
    ) as sandbox:
        result = sandbox.commands.run('echo "$A-$B"; pwd; uname -n; cat /mnt/*/file; echo x > /mnt/cow/file')
        assert result.stdout == "1 2-3\n/tmp\nbox\nhost\nhost\n"
        assert not sandbox.commands.run("echo x > /mnt/ro/file").ok
        assert (tmp_path / "file").read_text() == "host\n"
        metrics = sandbox.get_metrics()
        assert (metrics.memory_limit_bytes, metrics.tasks_limit) == (256 << 20, 50)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"memory": "much"}, "--memory"),
        ({"user": "1:2:3"}, "user"),
        ({"mounts": ["/usr"]}, "mounts"),
        ({"mounts": ["/does/not/exist:/x"]}, "does not exist"),
        ({"rootfs": "/does/not/exist"}, "--rootfs"),
        ({"env": {"A=": "1"}}, "env"),
        ({"timeout": -1}, "--timeout"),
        ({"options": ["--nonsense"]}, "--nonsense"),
        ({"options": ["--no-init"]}, "--no-init"),
        ({"name": "no/name"}, "not a name"),
        ({"allow": "example.org"}, "allow: .*a list"),
        ({"allow": ["no host"]}, "no host: white space"),
        ({"network": "nonsense"}, "presets are"),
        ({"platform": "ptrace"}, "--platform"),
    ],
)
def test_what_makes_no_sense(root: str, arguments: dict[str, object], text: str) -> None:
    with pytest.raises((InvalidArgument, StartError), match=text) as caught:
        Sandbox.create(root=root, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert Sandbox.list(root=root) == []


def test_a_network_that_is_granted(root: str) -> None:
    """Whose rules are whose is tested with `cloche run`; here, that they arrive."""
    with Sandbox.create(root=root, allow=["granted.invalid:443"]) as sandbox:
        script = (
            "import socket\n"
            "for name in ('granted.invalid', 'other.invalid'):\n"
            "    try: socket.getaddrinfo(name, 443); print('has an address')\n"
            "    except OSError as error: print(type(error).__name__)\n"
        )
        result = sandbox.commands.run(["python3", "-c", script])
        assert result.stdout == "has an address\ngaierror\n", result
        assert "nameserver" in sandbox.files.read("/etc/resolv.conf")


def test_a_name_that_is_taken(shared: Sandbox) -> None:
    with pytest.raises(StartError, match="is running"):
        Sandbox.create(root=shared._core.root, name="shared")
    assert shared.is_running()


def test_killing(root: str) -> None:
    sandbox = Sandbox.create(root=root)
    pids = everyone(sandbox)
    assert len(pids) >= 4
    assert sandbox.kill() and not sandbox.kill()
    wait_until(lambda: not alive(pids), "all are gone")
    assert not sandbox.is_running() and Sandbox.list(root=root) == []
    with pytest.raises(SandboxEnded, match="make another"):
        sandbox.commands.run(["true"])


def test_time_runs_out(root: str) -> None:
    sandbox = Sandbox.create(root=root, timeout=1000)
    left = sandbox.get_info().seconds_left
    assert left is not None and 900 < left <= 1000
    sandbox.set_timeout(None)
    assert sandbox.get_info().seconds_left is None
    handle = sandbox.commands.run("sleep 1000", background=True)
    sandbox.set_timeout(0.1)
    with pytest.raises(SandboxEnded, match="time is over"):
        handle.wait(60)
    wait_until(lambda: not sandbox.is_running(), "it has ended")
    with pytest.raises(InvalidArgument, match="timeout"):
        sandbox.set_timeout(0)


def test_forgotten(root: str) -> None:
    sandbox = Sandbox.create(root=root)
    pids = everyone(sandbox)
    del sandbox
    wait_until(lambda: not alive(pids), "all are gone")


def test_no_child_is_left_to_wait_for(root: str) -> None:
    with Sandbox.create(root=root):
        mine = subprocess.run(["ps", "-o", "stat=,args=", "--ppid", str(os.getpid())], capture_output=True)
        assert b"Z" not in b"".join([line[:1] for line in mine.stdout.splitlines()])


MAKER = """
import os, sys, time
from cloche import Sandbox
sandbox = Sandbox.create(root=sys.argv[1])
sandbox.commands.run("sleep 1000", background=True)
{more}
print(sandbox.get_info().pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("more", ["", "if os.fork() == 0: time.sleep(1000)"], ids=["alone", "after a fork"])
def test_a_maker_that_is_killed(root: str, more: str) -> None:
    """Nor does a process that was forked from it keep the sandbox."""
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER.format(more=more), root],
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    assert maker.stdout is not None
    try:
        pid = int(maker.stdout.readline())
        pids = {pid, *descendants(pid)}
        assert len(pids) >= 5
        maker.kill()
        wait_until(lambda: not alive(pids), "all are gone")
    finally:
        os.killpg(maker.pid, signal.SIGKILL)
        maker.wait()
        maker.stdout.close()


def test_without_a_leash(root: str) -> None:
    script = textwrap.dedent(
        """
        import sys
        from cloche import Sandbox
        sandbox = Sandbox.create(root=sys.argv[1], name="free", leash=False, timeout=1000)
        sandbox.commands.run("echo kept > /tmp/file", check=True)
        """
    )
    # Its output ends although the sandbox goes on.
    subprocess.run(
        [sys.executable, "-c", script, root], check=True, env=environment(), timeout=150, capture_output=True
    )
    sandbox = Sandbox.connect("free", root=root)
    assert sandbox.commands.run("cat /tmp/file").stdout == "kept\n"
    pids = everyone(sandbox)
    assert sandbox.kill()
    wait_until(lambda: not alive(pids), "all are gone")


def test_a_part_that_dies(root: str) -> None:
    sandbox = Sandbox.create(root=root)
    names = {name_of(pid): pid for pid in everyone(sandbox)}
    handle = sandbox.commands.run("sleep 1000", background=True)
    os.kill(names["cloche-sentry"], signal.SIGKILL)
    with pytest.raises(SandboxEnded):
        handle.wait(60)
    with pytest.raises(SandboxEnded):
        sandbox.commands.run(["true"])


def test_many_at_once_with_asyncio(root: str) -> None:
    async def one(number: int) -> str:
        async with await AsyncSandbox.create(root=root, metadata={"n": str(number)}) as sandbox:
            return (await sandbox.commands.run(f"echo {number}", check=True)).stdout

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*[one(number) for number in range(4)])

    assert asyncio.run(all_of_them()) == ["0\n", "1\n", "2\n", "3\n"]
    wait_until(lambda: not Sandbox.list(root=root), "all are gone")


def test_both_fronts_are_alike() -> None:
    for name, one in vars(sync).items():
        if not inspect.isclass(one) or one.__module__ != sync.__name__:
            continue
        other = getattr(aio, f"Async{name}")
        for method, function in vars(one).items():
            if method.startswith("_") or isinstance(function, property):
                continue
            mine, theirs = [
                [
                    (each.name, each.kind, each.default)
                    for each in inspect.signature(owner).parameters.values()
                ]
                for owner in (getattr(one, method), getattr(other, method))
            ]
            assert mine == theirs, (name, method)


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cloche.nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize("word", ["--from=x", "-d"])
def test_options_that_have_arguments_of_their_own(word: str) -> None:
    with pytest.raises(InvalidArgument, match="say template=NAME, and leash=False"):
        Sandbox.create(options=[word])


def test_dial(root: str) -> None:
    server = "import socket; s = socket.create_server(('127.0.0.1', 7000)); print('ready', flush=True); c = s.accept()[0]; c.sendall(c.recv(9)[::-1])"
    with Sandbox.create(root=root, reachable=True) as sandbox:
        with pytest.raises(PortClosed) as closed:
            sandbox.dial(7000)
        assert isinstance(closed.value, ConnectionRefusedError)
        with sandbox.commands.run(["python3", "-c", server], background=True) as handle:
            assert next(iter(handle)).text == "ready\n"
            with sandbox.dial(7000) as connection:
                connection.settimeout(60)
                connection.sendall(b"abc")
                assert connection.recv(9) == b"cba"
        with pytest.raises(InvalidArgument):
            sandbox.dial(0)
        # What is no connection of TCP is not taken, nor one too many, or none
        one, other = socket.socketpair()
        with one, other:
            for fds in ([one], [one, other], []):
                link = sandbox._core.connect()
                try:
                    ident = link.ask(requests.DIAL, {"port": 7000}, [each.fileno() for each in fds])
                    with pytest.raises(SandboxError, match="connection of TCP|descriptors"):
                        drive(link.answer(ident, None))
                finally:
                    link.close()
        assert not sandbox.get_info().ports
    with Sandbox.create(root=root) as sandbox, pytest.raises(SandboxError, match="reachable"):
        sandbox.dial(7000)
