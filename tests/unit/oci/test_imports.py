"""What the short verbs import: engines call them for every container, and modules are most of what they cost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cloche.light
from cloche.oci.records import Record, start_time

_CODE = (
    "import sys; from cloche.oci.main import main; print(main(sys.argv[1:]), *sys.modules, file=sys.stderr)"
)
_SPARED = {
    "cloche.oci.create",
    "cloche.oci.spec",
    "cloche.oci.hooks",
    "cloche.oci.monitor",
    "cloche.oci.members",
}

# As csrc/launcher starts it.
_LIGHT = f"import sys; sys.path[:0] = {[*cloche.light.__path__, *filter(None, sys.path)]!r}; "


def _stopped(root: Path) -> Record:
    record = Record(str(root), "ended")
    record.make()
    record.pid, record.pid_start = 1 << 30, 1  # nobody's
    record.is_made = True
    record.save()
    return record


def _run(root: Path, verb: str) -> tuple[int, set[str]]:
    words = [sys.executable, "-c", _CODE, "--root", str(root), verb, "ended"]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stderr.splitlines()[-1].split()
    return int(output[0]), set(output[1:])


def test_state_and_delete_import_nothing_of_a_start(tmp_path: Path) -> None:
    record = _stopped(tmp_path)
    for verb in ("state", "delete"):
        status, modules = _run(tmp_path, verb)
        assert (status, modules & _SPARED) == (0, set()), verb
    assert not Path(record.path).exists()


def test_start_imports_nothing_of_a_start_that_create_has_done(tmp_path: Path) -> None:
    _stopped(tmp_path)
    status, modules = _run(tmp_path, "start")
    assert (status, modules & _SPARED) == (1, set())  # refused: it has stopped


def test_delete_runs_the_hooks_that_there_are(tmp_path: Path) -> None:
    record = _stopped(tmp_path)
    mark = tmp_path / "mark"
    record.hooks = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {mark}"]}]}
    record.save()
    status, modules = _run(tmp_path, "delete")
    assert status == 0 and "cloche.oci.hooks" in modules
    assert '"stopped"' in mark.read_text()
    assert not Path(record.path).exists()


def _run_launched(root: Path, code: str, *words: str) -> list[str]:
    words = (sys.executable, "-I", "-S", "-c", _LIGHT + code, "--root", str(root), *words)
    return subprocess.run(words, capture_output=True, text=True, check=True).stderr.splitlines()[-1].split()


def test_what_looks_at_files_alone_imports_no_sockets(tmp_path: Path) -> None:
    _stopped(tmp_path)
    status, *modules = _run_launched(tmp_path, _CODE, "state", "ended")
    assert status == "0"
    assert not {"socket", "_socket", "array", "select", "importlib", "types"} & set(modules)


@pytest.mark.parametrize("verb", ["start", "kill", "pause", "resume", "ps"])
def test_what_asks_the_monitor_imports_source_files(tmp_path: Path, verb: str) -> None:
    """A compiled build has all of the sentry in one library, which would come with the first of its modules."""
    record = Record(str(tmp_path), "alone")  # without a monitor
    record.make()
    record.pid, record.pid_start = os.getpid(), start_time(os.getpid())
    record.is_made = True
    record.save()
    record.mark("paused", is_set=verb == "resume")
    files = (
        "[m.__file__ for n, m in sys.modules.items() if n.startswith('cloche')]"  # the library would be one
    )
    code = f"from cloche.oci.main import main; print(main(sys.argv[1:]), *{files}, file=sys.stderr)"
    words = [verb, "alone"] + (["STOP"] if verb == "kill" else [])
    status, *paths = _run_launched(tmp_path, code, *words)
    assert status == "1"  # container not running
    assert any(path.endswith("/wire/control_client.py") for path in paths)
    assert [path for path in paths if not path.endswith(".py")] == []


def test_what_create_does_before_its_keeper_imports_source_files(tmp_path: Path) -> None:
    files = (
        "[m.__file__ for n, m in sys.modules.items() if n.startswith('cloche')]"  # the library would be one
    )
    paths = _run_launched(tmp_path, f"import cloche.oci.running; print(*{files}, file=sys.stderr)")
    assert any(path.endswith("/boot/spawn.py") for path in paths)
    assert [path for path in paths if not path.endswith(".py")] == []


def test_create_imports_what_few_containers_need_only_for_them() -> None:
    code = "import cloche.oci.create; print(*sys.modules, file=sys.stderr)"
    words = (sys.executable, "-I", "-S", "-c", _LIGHT + code)
    modules = subprocess.run(words, capture_output=True, text=True, check=True).stderr.split()
    assert "cloche.oci.anchor" in modules
    spared = {"termios", "cloche.wire.control_client", "json", "re"}
    spared |= {f"cloche.oci.{name}" for name in ("hooks", "pods", "seccomp", "systemd")}
    assert not spared & set(modules)


def test_exec_and_joining_import_nothing_of_the_monitor(tmp_path: Path) -> None:
    """And of a compiled build source files alone."""
    show = "print(*[m.__file__ for n, m in sys.modules.items() if n.startswith('cloche')], file=sys.stderr)"
    code = f"from cloche.oci.main import main; main(sys.argv[1:]); import cloche.oci.pods; {show}"
    paths = _run_launched(tmp_path, code, "exec", "none", "true")
    assert [path for path in paths if path.endswith(("/oci/execute.py", "/oci/pods.py"))]
    spared = ("/oci/monitor.py", "/oci/members.py", "/boot/launch.py", "/boot/control_server.py")
    # The one extension is platform/_sys.
    assert not [path for path in paths if path.endswith(spared) or "__mypyc" in path]
    assert [path for path in paths if path.endswith("/wire/control_client.py")]
