"""The template: sandboxes that are forked from it, the data that it must not hold, and its death at any moment.

A caller with other limits has a template of its own, so each test's program sets a limit of its own.
"""

import json
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest

from cloche.sdk import Sandbox
from tests.cli.harness import alive, environment, wait_until

PRELUDE = """
import json, os, subprocess, random, resource, signal, socket, sys, threading, time
hard = resource.getrlimit(resource.RLIMIT_RSS)[1]
resource.setrlimit(resource.RLIMIT_RSS, (int(sys.argv[2]), hard))  # Linux makes nothing of it
from cloche import Sandbox
from cloche.runtime import template
from cloche.runtime.records import Store
from cloche.sdk import core
core._TEMPLATE_S = 200.0  # a machine that is busy does not do without the template
root = sys.argv[1]

def place():
    return os.path.join(Store().root, ".template-" + template._key())

def template_pids():
    found = []
    for entry in os.listdir("/proc"):
        try:
            words = open(f"/proc/{entry}/cmdline", "rb").read().split(b"\\0") if entry.isdigit() else []
            comm = open(f"/proc/{entry}/comm").read() if words else ""
        except OSError:
            continue
        if comm == "cloche-template\\n" and os.fsencode(place()) in words:
            found.append(int(entry))
    return found

def parent_of(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])

def the_template():
    # A fork has its name until it takes another; one that executes itself has none for a moment.
    deadline = time.monotonic() + 60
    while True:
        found = template_pids()
        try:
            found = [pid for pid in found if parent_of(pid) not in found]
        except FileNotFoundError:
            continue
        if len(found) == 1 or time.monotonic() > deadline:
            [pid] = found
            return pid
        time.sleep(0.01)

def starting(change):
    # a template with other constants
    from cloche.boot import spawn
    def start(listener, path):
        code = f"import sys; sys.path += sys.argv[3:]; from cloche.cli import template; {change}; from "
        code += "cloche.cli.template import main; main()"
        high = spawn._high(listener.dup())
        return spawn._spawn(code, {}, high, spawn.TEMPLATE_FD, is_silent=True, first=[path])
    return start

def everyone(pid):
    found, grown = {pid}, {pid}
    while grown:
        grown = {int(each) for top in grown for each in children(top)} - found
        found |= grown
    return found

def children(pid):
    try:
        return open(f"/proc/{pid}/task/{pid}/children").read().split()
    except OSError:
        return []

def name_of(pid):  # empty if it has ended: some fork once and end
    try:
        return open(f"/proc/{pid}/comm").read().strip()
    except OSError:
        return ""
"""
END = """
for pid in template_pids():
    os.kill(pid, signal.SIGKILL)
if os.path.exists(place()):
    os.unlink(place())
"""


@pytest.fixture
def number() -> str:
    """A limit of the test's own."""
    return str((1 << 40) + uuid.uuid4().int % (1 << 40))


def run(root: str, number: str, script: str, *words: str, timeout: float = 300, **more: str) -> Any:
    """The output of a program that uses the SDK, decoded from JSON."""
    code = PRELUDE + textwrap.dedent(script) + END
    done = subprocess.run(
        [sys.executable, "-c", code, root, number, *words],
        stdout=subprocess.PIPE,
        env=environment(**more),
        timeout=timeout,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_sandboxes_are_its_forks(root: str, number: str) -> None:
    script = """
        made = [Sandbox.create(root=root) for _ in range(3)]
        pid = the_template()
        print(json.dumps([[parent_of(each.get_info().pid) == pid for each in made],
                          [each.commands.run(["echo", "hi"]).stdout for each in made]]))
        """
    assert run(root, number, script) == [[True] * 3, ["hi\n"] * 3]


def test_without_it(root: str, number: str) -> None:
    script = """
        made = Sandbox.create(root=root)
        print(json.dumps([template_pids(), os.path.exists(place()), made.commands.run(["echo", "hi"]).stdout]))
        """
    assert run(root, number, script, CLOCHE_TEMPLATE="0") == [[], False, "hi\n"]


def test_what_a_caller_has_goes_along(root: str, number: str, tmp_path: Path) -> None:
    """Environment, directory and standard error are those of the call, not of the template's start."""
    rules = tmp_path / "rules.toml"
    rules.write_text('[[allow]]\nhost = "example.org"\n')
    script = """
        Sandbox.create(root=root).kill()
        os.environ["TEST_MARK"] = "of the call"
        os.environ["LC_TEST"] = "too"
        os.chdir(sys.argv[3])
        read, write = os.pipe()
        os.dup2(write, 2)
        made = Sandbox.create(root=root, options=["--env=TEST_MARK", "--log-level=debug", "--env-file=some.env"])
        said = os.read(read, 65536).decode()
        found = made.commands.run("echo $TEST_MARK $LC_TEST $FROM_FILE; umask").stdout
        print(json.dumps([found, "seccomp" in said, len(template_pids())]))
        """
    (tmp_path / "some.env").write_text("FROM_FILE=read\n")
    found = run(root, number, script, str(tmp_path))
    assert found == ["of the call too read\n0022\n", True, 1]


def test_it_holds_nothing_of_a_sandbox(root: str, number: str) -> None:
    """Neither in its memory, nor as a descriptor, nor in what /proc says of it."""
    mark = f"mark{uuid.uuid4().hex}"
    script = """
        import re
        Sandbox.create(root=root).kill()
        pid = the_template()
        def kinds():
            names = [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
            return sorted(name.split("[")[0] for name in names)
        def comm_of(pid):
            try:
                return open(f"/proc/{pid}/comm").read()
            except OSError:
                return ""
        def has_spare():  # (while it is forked the template has the other end of its socket, too)
            return len(kinds()) == 5 and "cloche-spare\\n" in [comm_of(each) for each in children(pid)]
        deadline = time.monotonic() + 60
        while not has_spare() and time.monotonic() < deadline:
            time.sleep(0.01)
        before = kinds()
        assert has_spare(), before
        mark = sys.argv[3]
        os.environ[mark] = mark
        path = os.path.join(os.path.dirname(root), mark)
        os.mkdir(path)
        os.chdir(path)
        made = Sandbox.create(root=root, name=mark, metadata={mark: mark}, env={mark: mark}, mounts=[f"{path}:/{mark}"])
        assert made.commands.run(["sh", "-c", f"echo ${mark}"]).stdout == mark + "\\n"
        deadline = time.monotonic() + 60
        while (after := kinds()) != before and time.monotonic() < deadline:
            time.sleep(0.01)
        where = [each for each in ("cmdline", "environ", "comm", "maps") if mark.encode()
                 in open(f"/proc/{pid}/{each}", "rb").read()]
        seen = 0
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                low, high = [int(each, 16) for each in line.split()[0].split("-")]
                if "r" in line.split()[1] and "[v" not in line:
                    memory.seek(low)
                    content = memory.read(high - low)
                    seen += len(content)
                    if mark.encode() in content:
                        where.append(line)
        assert seen > 4 << 20 and template_pids() == [pid]
        print(json.dumps([before == after or [before, after], where, os.readlink(f"/proc/{pid}/cwd")]))
        """
    assert run(root, number, script, mark) == [True, [], "/"]


NO_IMPORTS = """
import os, sys
from cloche.cli import template

class Refusing:
    def __init__(self):
        self.pid = os.getpid()
    def find_spec(self, name, path=None, target=None):
        if os.getpid() != self.pid:
            raise ImportError(f"a fork imports {name}")

make_ready = template.make_ready
def make_ready_and_refuse():
    sys.meta_path.insert(0, Refusing())
    return make_ready()
template.make_ready = make_ready_and_refuse
"""


def test_its_forks_import_nothing(root: str, number: str) -> None:
    """Each would take the time and the memory again, for each sandbox."""
    script = """
        sock, child = template.connect(starting(f"exec({sys.argv[3]!r})"))
        os.waitpid(child, 0)
        sock.close()
        found = []
        for _ in range(2):
            with Sandbox.create(root=root) as made:
                ok = parent_of(made.get_info().pid) == the_template()
                found.append([ok, made.commands.run("echo hi | cat").stdout])
        print(json.dumps(found))
        """
    assert run(root, number, script, NO_IMPORTS) == [[True, "hi\n"]] * 2


def test_a_sentry_gets_ready_ahead_unless_the_sandbox_is_unusual(root: str, number: str) -> None:
    script = """
        def named(pids, name):
            found = set()
            for pid in pids:
                try:
                    if open(f"/proc/{pid}/comm").read() == name + "\\n":
                        found.add(pid)
                except OSError:
                    pass
            return found

        def ready():  # the sentry of the spare, once it has a process to fork guests from
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                [*spares] = named({int(each) for each in children(the_template())}, "cloche-spare")
                below = everyone(spares[0]) if spares else set()
                sentries = named(below, "cloche-sentry")
                if sentries and named(below, "stub.elf"):
                    return sentries
                time.sleep(0.01)
            raise AssertionError("no spare")

        Sandbox.create(root=root).kill()
        found = []
        for spin_ns in ("", "1000"):
            ahead = ready()
            if spin_ns:
                os.environ["CLOCHE_SPIN_NS"] = spin_ns
            with Sandbox.create(root=root) as made:
                output = made.commands.run("echo hi | cat").stdout
                now = named(everyone(made.get_info().pid), "cloche-sentry")
                found.append([now == ahead, len(now), all(os.path.exists(f"/proc/{pid}") for pid in ahead), output])
        print(json.dumps(found))
        """
    assert run(root, number, script) == [[True, 1, True, "hi\n"], [False, 1, False, "hi\n"]]


def test_idle_forks_share_pages_again(root: str, number: str) -> None:
    script = """
        made = Sandbox.create(root=root)
        pids = {}
        for pid in everyone(made.get_info().pid):
            pids[open(f"/proc/{pid}/comm").read().strip()] = pid

        def own_kib(name):
            with open(f"/proc/{pids[name]}/smaps_rollup") as lines:
                return sum([int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")])

        most, saved = {}, {}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and min(saved.values(), default=0) < 150:
            for name in ("cloche-monitor", "cloche-keeper"):
                now = own_kib(name)
                most[name] = max(most.get(name, 0), now)
                saved[name] = most[name] - now
            time.sleep(0.05)
        print(json.dumps([[each >= 150 for each in saved.values()], made.commands.run(["echo", "hi"]).stdout]))
        """
    assert run(root, number, script) == [[True, True], "hi\n"]


def test_its_death_at_any_moment(root: str, number: str) -> None:
    """Every create gives a sandbox that works, even if the template dies; and nothing is left."""
    script = """
        chance = random.Random(15)
        done = threading.Event()
        killed = 0
        def hunt():
            global killed
            while not done.wait(chance.random()):
                for pid in template_pids():
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        hunter = threading.Thread(target=hunt)
        hunter.start()
        pids = set()
        outputs = []
        while len(outputs) < 6 or (killed < 2 and len(outputs) < 600):
            made = Sandbox.create(root=root)
            pids |= everyone(made.get_info().pid)
            outputs.append(made.commands.run(["echo", str(len(outputs))]).stdout)
            made.kill()
        done.set()
        hunter.join()
        print(json.dumps([outputs == [f"{each}\\n" for each in range(len(outputs))], killed, sorted(pids)]))
        """
    are_right, killed, pids = run(root, number, script)
    assert are_right and killed and len(pids) >= 24
    wait_until(lambda: not alive(set(pids)), "nothing is left")
    assert not Sandbox.list(root=root)


def test_it_is_executed_anew(root: str, number: str) -> None:
    """After so many forks it has other addresses and the same socket, and who comes meanwhile is served."""
    script = """
        sock, child = template.connect(starting("template.MAX_FORKS = 3"))
        os.waitpid(child, 0)
        sock.close()
        def stack():
            return [line.split("-")[0] for line in open(f"/proc/{the_template()}/maps") if "[stack]" in line]
        with Sandbox.create(root=root):
            pid = the_template()
            before = stack()
            for _ in range(4):
                sock, _child = template.connect(None)
                sock.setblocking(True)
                assert sock.recv(1) == template.READY
                sock.close()
            with Sandbox.create(root=root) as made:
                assert made.commands.run(["true"]).ok
            print(json.dumps([the_template() == pid, stack() == before]))
        """
    assert run(root, number, script) == [True, False]


def test_it_ends_when_idle(root: str, number: str) -> None:
    """And removes its socket; the next caller starts another."""
    script = """
        start = starting("template.IDLE_S = 0.05")
        sock, child = template.connect(start)
        os.waitpid(child, 0)
        sock.setblocking(True)
        assert sock.recv(1) == template.READY
        sock.close()
        deadline = time.monotonic() + 60
        while (template_pids() or os.path.exists(place())) and time.monotonic() < deadline:
            time.sleep(0.01)
        print(json.dumps([template_pids(), os.path.exists(place())]))
        """
    assert run(root, number, script) == [[], False]


def test_one_that_is_stopped_is_done_without(root: str, number: str) -> None:
    script = """
        Sandbox.create(root=root).kill()
        pid = the_template()
        core._TEMPLATE_S = 0.5
        os.kill(pid, signal.SIGSTOP)
        made = Sandbox.create(root=root)
        print(json.dumps(made.commands.run(["echo", "hi"]).stdout))
        """
    assert run(root, number, script) == "hi\n"


def test_a_command_that_borrows_its_keeper(root: str, number: str) -> None:
    """`cloche run --template`: output, status and error as ever; what the command started ends with it."""
    script = """
        words = [sys.executable, "-m", "cloche.cli.main", "run", "--template"]
        found = []
        for command in ("echo hi; exit 7", "exec no-such-program", "sleep 1000 & echo $0"):
            done = subprocess.run([*words, "--", "sh", "-c", command], capture_output=True, text=True)
            found.append([done.returncode, done.stdout, "no-such-program" in done.stderr])
        done = subprocess.run([*words, "--log-level=debug", "true"], capture_output=True, text=True)
        pid = the_template()
        left = [each for each in everyone(pid) if each != pid]
        print(json.dumps([found, "seccomp" in done.stderr, left]))
        """
    found, has_errors, left = run(root, number, script)
    assert found == [[7, "hi\n", False], [127, "", True], [0, "sh\n", False]]
    assert has_errors
    wait_until(lambda: not alive(set(left)), "nothing is left")


@pytest.mark.parametrize("victim", ["cloche-sentry", "cloche-keeper", "cloche-monitor", "command"])
def test_a_borrowed_keeper_whose_parts_die(root: str, number: str, victim: str) -> None:
    script = """
        words = [sys.executable, "-m", "cloche.cli.main", "run", "--template", "--", "sh", "-c", "echo up; sleep 1000"]
        command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert command.stdout.readline() == "up\\n"
        pid = the_template()
        spares = {each for each in everyone(pid) if name_of(each) == "cloche-spare"}
        parts = everyone(pid).difference({pid}, *[everyone(each) for each in spares])
        names = {name_of(each): each for each in parts}
        victim = sys.argv[3]
        os.kill(command.pid if victim == "command" else names[victim], signal.SIGKILL)
        if victim == "cloche-monitor":  # which stands by only
            command.send_signal(signal.SIGTERM)
        said = command.communicate()[1]
        print(json.dumps([command.returncode, said, sorted(parts)]))
        """
    status, said, parts = run(root, number, script, victim)
    expected = {"command": -9, "cloche-monitor": 143}.get(victim, 125)
    assert status == expected and (victim not in ("cloche-sentry", "cloche-keeper") or "died" in said), said
    assert len(parts) >= 4
    wait_until(lambda: not alive(set(parts)), "nothing is left")


def test_many_at_once_while_parts_die(root: str, number: str) -> None:
    """The template and its forks, wherever they are: each call gives a result or an error of ours; nothing is left."""
    script = """
        import asyncio
        from cloche import AsyncSandbox
        from cloche.sdk import SandboxError
        chance = random.Random(15)
        seen, outcomes = set(), []

        def forks():
            found = []
            for entry in os.listdir("/proc"):
                try:
                    words = open(f"/proc/{entry}/cmdline", "rb").read().split(b"\\0") if entry.isdigit() else []
                except OSError:
                    continue
                if os.fsencode(place()) in words:
                    found.append(int(entry))
            return found

        async def hunt(done):
            while not done.is_set():
                await asyncio.sleep(chance.random())
                for pid in chance.sample(found := forks(), min(len(found), 2)):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass

        async def one(number):
            for turn in range(3):
                try:
                    made = await AsyncSandbox.create(root=root)
                    try:
                        seen.update(everyone((await made.get_info()).pid))
                        done = await made.commands.run(["echo", f"{number}"])
                        # (What was killed may have been the command itself.)
                        outcomes.append(done.stdout == f"{number}\\n" or done.exit_code == 137 or repr(done))
                    finally:
                        await made.kill()
                except SandboxError:
                    outcomes.append(True)

        async def main():
            done = asyncio.Event()
            hunter = asyncio.create_task(hunt(done))
            await asyncio.gather(*[one(number) for number in range(8)])
            done.set()
            await hunter

        asyncio.run(main())
        seen.discard(os.getpid())
        print(json.dumps([outcomes, sorted(seen)]))
        """
    outcomes, pids = run(root, number, script)
    assert outcomes == [True] * 24
    wait_until(lambda: not alive(set(pids)), "nothing is left")
