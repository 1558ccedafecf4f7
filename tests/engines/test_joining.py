"""A container that joins another's namespaces by their paths, outside of a pod, beside runc."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.harness import RUNTIME, need, program
from tests.engines.test_bundles import Runtime, make_bundle, until
from tests.engines.test_exec import own

KINDS = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}
QUIET = "exec >&- 2>&-; "


@pytest.fixture(params=["runc", "cloche"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    need("runc", "busybox")
    made = Runtime(program("runc") if request.param == "runc" else RUNTIME, tmp_path)
    try:
        yield made
    finally:
        for ident in made("list", "-q").out.split():
            made("delete", "--force", ident)


def joined(folder: Path, root: Path, pid: int, kinds: dict[str, str], *args: str, **linux: Any) -> Path:
    """A bundle with those namespaces of a process, and others of its own."""
    bundle = make_bundle(folder, root, *args)
    data = json.loads((bundle / "config.json").read_text())
    for row in data["linux"]["namespaces"]:
        if row["type"] in kinds:
            row["path"] = f"/proc/{pid}/ns/{kinds[row['type']]}"
    data["linux"].update(linux)
    (bundle / "config.json").write_text(json.dumps(data))
    return bundle


def test_processes_of_another(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """They see and signal each other, and share what belongs to the namespaces; each has its root and its end."""
    first, second = own("first"), own("second")
    bundle = make_bundle(tmp_path / "b1", root, "sh", "-c", QUIET + "sleep 4001; sleep 4002", hostname="one")
    assert runtime("run", "-d", "-b", str(bundle), first).status == 0
    try:
        script = QUIET + "exec sleep 4003"
        pid = runtime.state(first)["pid"]
        bundle = joined(tmp_path / "b2", root, pid, KINDS, "sh", "-c", script)
        data = json.loads((bundle / "config.json").read_text())
        del data["hostname"]
        (bundle / "config.json").write_text(json.dumps(data))
        assert runtime("run", "-d", "-b", str(bundle), second).status == 0
        seen = "ps -o args | grep '^sleep' | sort"
        until(
            lambda: runtime("exec", second, "sh", "-c", seen).out == "sleep 4001\nsleep 4003\n",
            "both are seen",
        )
        assert runtime("exec", first, "sh", "-c", seen).out == "sleep 4001\nsleep 4003\n"
        assert runtime("exec", second, "hostname").out == "one\n"
        assert runtime("exec", second, "sh", "-c", "echo $$ > /dev/shm/x; test -s /dev/shm/x").status == 0
        assert runtime("exec", first, "test", "-e", "/dev/shm/x").status == 1
        end = 'ps -o pid,args | while read pid args; do test "$args" != "sleep 4001" || kill $pid; done'
        assert runtime("exec", second, "sh", "-c", end).status == 0
        until(
            lambda: runtime("exec", second, "sh", "-c", seen).out == "sleep 4002\nsleep 4003\n",
            "it has got it",
        )
        assert runtime("delete", "-f", second).status == 0
        assert runtime("exec", first, "sh", "-c", seen).out == "sleep 4002\n"
    finally:
        for name in (second, first):
            runtime("delete", "-f", name)


def test_the_first_ends(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """And with its first process all those of the pid namespace."""
    first, second = own("first"), own("second")
    bundle = make_bundle(tmp_path / "b1", root, "sh", "-c", QUIET + "sleep 4001")
    assert runtime("run", "-d", "-b", str(bundle), first).status == 0
    try:
        bundle = joined(
            tmp_path / "b2", root, runtime.state(first)["pid"], KINDS, "sh", "-c", QUIET + "sleep 4003"
        )
        assert runtime("run", "-d", "-b", str(bundle), second).status == 0
        assert runtime("kill", first, "KILL").status == 0
        until(lambda: runtime.state(second)["status"] == "stopped", "it ends, too")
        assert runtime("delete", second).status == 0
    finally:
        for name in (second, first):
            runtime("delete", "-f", name)


def test_another_network(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """With a network of its own it runs, too.  (Processes are not shared then: docs/compat-oci.md.)"""
    first, second = own("first"), own("second")
    bundle = make_bundle(tmp_path / "b1", root, "sh", "-c", QUIET + "sleep 4001")
    assert runtime("run", "-d", "-b", str(bundle), first).status == 0
    try:
        pid = runtime.state(first)["pid"]
        done = runtime(
            "run", "-b", str(joined(tmp_path / "b2", root, pid, {"pid": "pid"}, "echo", "runs")), second
        )
        assert (done.status, done.out) == (0, "runs\n")
    finally:
        for name in (second, first):
            runtime("delete", "-f", name)


@pytest.mark.parametrize("runtime", ["cloche"], indirect=True)
def test_whose_kernel(runtime: Runtime, tmp_path: Path, root: Path) -> None:
    """That of the first, unless the annotations ask for something that it has not."""
    first, second = own("first"), own("second")
    bundle = make_bundle(tmp_path / "b1", root, "sh", "-c", QUIET + "sleep 4001")
    assert runtime("run", "-d", "-b", str(bundle), first).status == 0
    read = ("cat", "/proc/sys/kernel/random/boot_id")
    try:
        pid, kernel = runtime.state(first)["pid"], runtime("exec", first, *read).out
        bundle = joined(tmp_path / "b2", root, pid, KINDS, *read)
        data = json.loads((bundle / "config.json").read_text())
        del data["hostname"]
        for annotations, is_same in (({}, True), ({"dev.cloche.platform": "systrap"}, False)):
            (bundle / "config.json").write_text(json.dumps(data | {"annotations": annotations}))
            done = runtime("run", "-b", str(bundle), second)
            assert done.status == 0 and (done.out == kernel) == is_same, (done, kernel)
    finally:
        for name in (second, first):
            runtime("delete", "-f", name)
