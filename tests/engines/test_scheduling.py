"""What a bundle says of scheduling, I/O priority, processors, personality and memory policy, shown by a program inside.

Beside a runc that knows these fields (1.4 or later: on PATH, or where RUNC_NEW says). Debian's knows none of them, and
takes them without effect; then what is expected stands here alone.
"""

import functools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.harness import RUNTIME, Done, make_root, need, program, run
from tests.engines.test_bundles import Runtime, make_bundle

PROBE = r"""
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

struct attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

int main(void) {
    struct attr a = {0};
    syscall(SYS_sched_getattr, 0, &a, sizeof a, 0);
    printf("policy %x %u flags %lx nice %d priority %u", sched_getscheduler(0), a.policy, a.flags, a.nice, a.priority);
    if (a.policy == 6) printf(" times %lu %lu %lu", a.runtime, a.deadline, a.period);
    printf("\nnice %d ioprio %lx\n", getpriority(PRIO_PROCESS, 0), syscall(SYS_ioprio_get, 1, 0));
    unsigned long cpus[16] = {0}, nodes[16] = {0};
    struct utsname u;
    int mode = -1;
    syscall(SYS_sched_getaffinity, 0, sizeof cpus, cpus);
    syscall(SYS_get_mempolicy, &mode, nodes, 1024, 0, 0);
    uname(&u);
    printf("cpus %lx\npersonality %x %s\nmemory %x %lx\n", cpus[0], personality(0xffffffff), u.machine, mode, nodes[0]);
    return 0;
}
"""
DEADLINE = {"policy": "SCHED_DEADLINE", "runtime": 42000, "deadline": 100000, "period": 1000000}
RESET = {"flags": ["SCHED_FLAG_RESET_ON_FORK"]}
USERS = {
    "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
    "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
}


@functools.cache
def all_cpus() -> int:
    """The mask of the machine's processors, which this process must have, too."""
    return sum(1 << each for each in range(os.cpu_count() or 1))


def shown(**changes: str) -> str:
    """The probe's output but for these lines."""
    lines = {
        "policy": "0 0 flags 0 nice 0 priority 0",
        "nice": "0 ioprio 0",
        "cpus": f"{all_cpus():x}",
        "personality": f"0 {os.uname().machine}",
        "memory": "0 0",
    }
    return "".join(f"{name} {value}\n" for name, value in {**lines, **changes}.items())


def normal(done: Done) -> tuple[int, str, str]:
    """Status, output and message, without what every runtime says in its own way."""
    text = done.err.strip().rpartition("\n")[2]
    found = re.search(r' level=(?:error|warning) msg="(.*)"$', text)
    text = re.sub(r"\\(.)", r"\1", found.group(1)) if found else text
    return done.status, done.out, re.sub(r"^runc (run|create) failed: ", "", text)


@pytest.fixture(scope="session")
def tree() -> Iterator[Path]:
    """A root file system with the probe, which other users can reach."""
    need("cc", "busybox")
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        (folder / "show.c").write_text(PROBE)
        root = make_root(folder / "root")
        built = run([program("cc"), "-static", "-w", "-o", str(root / "bin" / "show"), f"{folder}/show.c"])
        if built.status:
            pytest.skip(f"needs a cc that makes static programs: {built.err[-200:]}")
        yield root
    finally:
        shutil.rmtree(folder)


def new_runc() -> str:
    """A runc that knows these fields; empty if there is none."""
    for path in (os.environ.get("RUNC_NEW", ""), shutil.which("runc") or ""):
        if path and "memoryPolicy" in run([path, "features"]).out:
            return path
    return ""


@pytest.fixture
def runtimes(tmp_path: Path) -> Iterator[list[Runtime]]:
    """cloche-oci, and runc if there is one to compare with."""
    need("cc", "busybox")
    made = []
    for name, path in (("cloche", RUNTIME), ("runc", new_runc())):
        if path:
            (tmp_path / name).mkdir()
            made.append(Runtime(path, tmp_path / name))
    try:
        yield made
    finally:
        for runtime in made:
            for left in runtime("list", "-q").out.split():
                runtime("delete", "--force", left)


def ident(runtime: Runtime) -> str:
    """A container's name, which is also that of its control groups: of this process, and for each runtime another."""
    return f"scheduling-{os.getpid()}-{runtime.folder.name}"


def bundle(
    runtime: Runtime, tree: Path, process: dict[str, Any], linux: dict[str, Any], *args: str, kinds: str = ""
) -> Path:
    folder = make_bundle(runtime.folder / "b", tree, *args, process=process, linux=linux)
    data = json.loads((folder / "config.json").read_text())
    data["linux"]["namespaces"] += [{"type": kind} for kind in kinds.split()]
    data["process"].update({"args": list(args)})
    (folder / "config.json").write_text(json.dumps(data))
    return folder


STARTS = {
    "nothing": ({}, {}, {}),
    "batch": ({"scheduler": {"policy": "SCHED_BATCH", "nice": 5}}, {}, {"policy": "3 3 flags 0 nice 5 priority 0", "nice": "5 ioprio 0"}),
    "better": ({"scheduler": {"policy": "SCHED_OTHER", "nice": -5}, "user": {"uid": 1000, "gid": 1000}}, {}, {"policy": "0 0 flags 0 nice -5 priority 0", "nice": "-5 ioprio 0"}),
    "idle": ({"scheduler": {"policy": "SCHED_IDLE", "nice": 3}}, {}, {"policy": "5 5 flags 0 nice 0 priority 0"}),
    "keeps": ({"scheduler": {"policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_KEEP_PARAMS"]}}, {}, {}),
    "resets": ({"scheduler": {"policy": "SCHED_OTHER", **RESET}}, {}, {"policy": "40000000 0 flags 1 nice 0 priority 0"}),
    "deadline": ({"scheduler": {**DEADLINE, **RESET, "nice": 19}}, {}, {"policy": "40000006 6 flags 1 nice 0 priority 0 times 42000 100000 1000000"}),
    "best-effort": ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}}, {}, {"nice": "0 ioprio 4004"}),
    "real-time": ({"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 0}}, {}, {"nice": "0 ioprio 2000"}),
    "io-idle": ({"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}, {}, {"nice": "0 ioprio 6000"}),
    "processors": ({"execCPUAffinity": {"initial": "900", "final": "901"}}, {}, {}),  # of exec alone
    "linux32": ({}, {"personality": {"domain": "LINUX32"}}, {"personality": "8 i686"}),
    "interleave": ({}, {"memoryPolicy": {"mode": "MPOL_INTERLEAVE", "nodes": "0"}}, {"memory": "3 1"}),
    "static": ({}, {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0,,5-7", "flags": ["MPOL_F_STATIC_NODES"]}}, None),
    "relative": ({}, {"memoryPolicy": {"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}}, {"memory": "4001 1"}),
    "local": ({}, {"memoryPolicy": {"mode": "MPOL_PREFERRED"}}, {"memory": "4 0"}),
}  # fmt: skip


@pytest.mark.parametrize("name", STARTS)
def test_a_start(runtimes: list[Runtime], tree: Path, name: str) -> None:
    process, linux, expected = STARTS[name]
    found = [
        normal(runtime("run", "-b", str(bundle(runtime, tree, process, linux, "show")), ident(runtime)))
        for runtime in runtimes
    ]
    if expected is not None:
        assert found[0] == (0, shown(**expected), "")
    assert all(each == found[0] for each in found), found


def test_a_filter_comes_after_them(tmp_path: Path, tree: Path) -> None:
    cloche = Runtime(RUNTIME, tmp_path)
    calls = ["sched_setattr", "ioprio_set", "personality", "set_mempolicy"]
    linux = {
        "personality": {"domain": "LINUX32"},
        "memoryPolicy": {"mode": "MPOL_LOCAL"},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": calls, "action": "SCMP_ACT_KILL_PROCESS"}],
        },
    }
    process = {
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "args": ["sh", "-c", "uname -m; busybox ionice"],
    }
    made = make_bundle(tmp_path / "b", tree, process=process, linux=linux)
    done = cloche("run", "-b", str(made), ident(cloche))
    assert (done.status, done.out) == (0, "i686\nbest-effort: prio 4\n"), done


IN_INIT = "unable to start container process: error during container init: "
SETTING = IN_INIT + "error setting scheduler: "
NOT_AT_ALL = {
    "no policy": ({"scheduler": {}}, {}, "scheduler policy is required"),
    "unknown policy": ({"scheduler": {"policy": "SCHED_X"}}, {}, IN_INIT + "invalid scheduler policy: SCHED_X"),
    "no such policy": ({"scheduler": {"policy": "SCHED_ISO"}}, {}, SETTING + "invalid argument"),
    "nice": ({"scheduler": {"policy": "SCHED_BATCH", "nice": 30}}, {}, "invalid scheduler.nice: 30 when scheduler.policy is SCHED_BATCH"),
    "priority": ({"scheduler": {"policy": "SCHED_BATCH", "priority": 3}}, {}, "scheduler.priority can only be specified for SchedFIFO or SchedRR policy"),
    "no priority": ({"scheduler": {"policy": "SCHED_FIFO"}}, {}, SETTING + "invalid argument"),
    "priority too high": ({"scheduler": {"policy": "SCHED_RR", "priority": 100}}, {}, SETTING + "invalid argument"),
    "times": ({"scheduler": {"policy": "SCHED_BATCH", "runtime": 3}}, {}, "scheduler runtime/deadline/period can only be specified for SchedDeadline policy"),
    "no times": ({"scheduler": {"policy": "SCHED_DEADLINE"}}, {}, SETTING + "invalid argument"),
    "flag": ({"scheduler": {"policy": "SCHED_BATCH", "flags": ["X"]}}, {}, IN_INIT + "invalid scheduler flag: X"),
    "class": ({"ioPriority": {"class": "X"}}, {}, 'invalid ioPriority.Class: "X"'),
    "level": ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, {}, "invalid ioPriority.Priority: 8"),
    "initial": ({"execCPUAffinity": {"initial": "5-"}}, {}, 'bad CPUAffinity.Initial: strconv.ParseUint: parsing "": invalid syntax'),
    "final": ({"execCPUAffinity": {"final": "1024"}}, {}, None),  # later releases take more
    "domain": ({}, {"personality": {"domain": "X"}}, "invalid personality domain X"),
    "mode": ({}, {"memoryPolicy": {"nodes": "0"}}, 'invalid memory policy mode ""'),
    "mode flag": ({}, {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["X"]}}, 'invalid memory policy flag "X"'),
    "nodes": ({}, {"memoryPolicy": {"mode": "MPOL_DEFAULT", "nodes": "0-7"}}, "memory policy mode requires 0 nodes but got 8"),
    "no nodes": ({}, {"memoryPolicy": {"mode": "MPOL_BIND"}}, "memory policy mode requires at least one node but got 0"),
    "range": ({}, {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "3-1"}}, 'invalid memory policy nodes "3-1": invalid range: 3-1'),
    "large": ({}, {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-9876543210"}}, 'invalid memory policy nodes "0-9876543210": strconv.ParseUint: parsing "9876543210": value out of range'),
    "no such node": ({}, {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "900"}}, IN_INIT + "set_mempolicy: invalid argument"),
    "offsets": ({}, {"timeOffsets": {"monotonic": {"secs": 5}}}, "time namespace offsets specified, but time namespace isn't enabled in the config"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_AT_ALL)
def test_what_is_refused(runtimes: list[Runtime], tree: Path, name: str) -> None:
    """Before a program runs, and in runc's words."""
    process, linux, expected = NOT_AT_ALL[name]
    for runtime in runtimes:
        status, out, said = normal(
            runtime("run", "-b", str(bundle(runtime, tree, process, linux, "show")), ident(runtime))
        )
        assert (status, out) == (1, ""), (runtime.path, said)
        assert said == expected or expected is None, runtime.path
        assert runtime("list", "-q").out == ""


def test_deadlines_need_all_processors(runtimes: list[Runtime], tree: Path) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two processors")
    linux = {"resources": {"cpu": {"cpus": "0"}}}
    for runtime in runtimes:
        made = bundle(runtime, tree, {"scheduler": DEADLINE}, linux, "show")
        done = normal(runtime("run", "-b", str(made), ident(runtime)))
        assert done == (1, "", IN_INIT + "process scheduler can't be used together with AllowedCPUs")


def test_a_deadline_has_no_children(runtimes: list[Runtime], tree: Path) -> None:
    for runtime in runtimes:
        made = bundle(runtime, tree, {"scheduler": DEADLINE}, {}, "sh", "-c", "true; show; true")
        done = runtime("run", "-b", str(made), ident(runtime))
        assert done.out == "" and "can't fork: Resource temporarily unavailable" in done.err, done


@pytest.mark.parametrize(
    ("process", "said"),
    [
        ({"scheduler": {"policy": "SCHED_BATCH", "nice": 5}}, ""),
        ({"scheduler": {"policy": "SCHED_OTHER", "nice": -5}}, SETTING + "operation not permitted"),
        (
            {
                "scheduler": {"policy": "SCHED_OTHER", "nice": -5},
                "rlimits": [{"type": "RLIMIT_NICE", "soft": 30, "hard": 30}],
            },
            SETTING + "operation not permitted",
        ),
        ({"scheduler": {"policy": "SCHED_FIFO", "priority": 5}}, SETTING + "operation not permitted"),
        ({"scheduler": DEADLINE}, SETTING + "operation not permitted"),
        (
            {"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 2}},
            IN_INIT + "failed to set io priority: operation not permitted",
        ),
    ],
)
def test_in_a_user_namespace(runtimes: list[Runtime], tree: Path, process: dict[str, Any], said: str) -> None:
    """CAP_SYS_NICE there does not count, and the limits of the bundle come later."""
    found = []
    for runtime in runtimes:
        made = bundle(runtime, tree, process, USERS, "show", kinds="user")
        found.append(normal(runtime("run", "-b", str(made), ident(runtime))))
    assert found[0][2] == said
    assert all(each == found[0] for each in found), found


EXECS: list[tuple[dict[str, Any], dict[str, str] | str]] = [
    ({}, {}),
    ({"scheduler": {"policy": "SCHED_IDLE"}}, {"policy": "5 5 flags 0 nice 0 priority 0", "nice": "0 ioprio 4003"}),
    ({"scheduler": {"policy": "SCHED_OTHER", "nice": 40}}, {"policy": "0 0 flags 0 nice 19 priority 0", "nice": "19 ioprio 4003"}),
    ({"scheduler": {"policy": "SCHED_OTHER", "nice": -5}, "user": {"uid": 1000, "gid": 1000}}, {"policy": "0 0 flags 0 nice -5 priority 0", "nice": "-5 ioprio 4003"}),
    ({"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}, {"nice": "4 ioprio 6000"}),
    ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 90000}}, {"nice": "4 ioprio 5f90"}),
    ({"execCPUAffinity": {}}, {}),
    ({"execCPUAffinity": {"final": "0-70"}}, {"cpus": "all"}),
    ({"execCPUAffinity": {"final": "900"}}, "error setting final CPU affinity: invalid argument"),
    ({"execCPUAffinity": {"initial": "900"}}, "error starting setns process: error setting initial CPU affinity: invalid argument"),
    ({"scheduler": {"policy": "SCHED_X"}}, "invalid scheduler policy: SCHED_X"),
    ({"scheduler": {}}, "invalid scheduler policy: "),
    ({"scheduler": {"policy": "SCHED_OTHER", "priority": 4}}, "error setting scheduler: invalid argument"),
    ({"ioPriority": {"class": "X"}}, "invalid io priority class: X"),
    ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": -1}}, "failed to set io priority: invalid argument"),
    ({"personality": {"domain": "LINUX"}}, {}),
]  # fmt: skip


def test_execs(runtimes: list[Runtime], tree: Path) -> None:
    """Each has what the container's first program has, but for what its own file says."""
    process = {
        "scheduler": {"policy": "SCHED_BATCH", "nice": 4},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3},
        "execCPUAffinity": {"final": "0"},
    }
    linux = {"personality": {"domain": "LINUX32"}, "memoryPolicy": {"mode": "MPOL_LOCAL"}}
    usual = {
        "policy": "3 3 flags 0 nice 4 priority 0",
        "nice": "4 ioprio 4003",
        "cpus": "1",
        "personality": "8 i686",
        "memory": "4 0",
    }
    for runtime in runtimes:
        runtime.make(ident(runtime), bundle(runtime, tree, process, linux, "sleep", "100000"))
        assert runtime("start", ident(runtime)).status == 0
        assert normal(runtime("exec", ident(runtime), "show")) == (0, shown(**usual), "")
        for own, expected in EXECS:
            file = runtime.folder / "process.json"
            file.write_text(json.dumps({"args": ["/bin/show"], "cwd": "/", **own}))
            done = normal(runtime("exec", "--process", str(file), ident(runtime)))
            if isinstance(expected, str):
                what = f"exec failed: unable to start container process: {expected}"
                assert done == (255, "", what), (runtime.path, own)
            else:
                lines = {**usual, **expected}
                if lines["cpus"] == "all":
                    lines["cpus"] = f"{all_cpus():x}"
                assert done == (0, shown(**lines), ""), (runtime.path, own)


def test_the_first_processors_of_an_exec(runtimes: list[Runtime], tree: Path) -> None:
    """They stay where the group has them; a deadline needs all."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two processors")
    process = {"execCPUAffinity": {"initial": "1"}}
    for runtime in runtimes:
        runtime.make(ident(runtime), bundle(runtime, tree, process, {}, "sleep", "100000"))
        assert normal(runtime("exec", ident(runtime), "show")) == (0, shown(cpus="2"), "")
        file = runtime.folder / "process.json"
        file.write_text(json.dumps({"args": ["/bin/show"], "cwd": "/", "scheduler": DEADLINE}))
        done = normal(runtime("exec", "--process", str(file), ident(runtime)))
        assert done[2].endswith("error setting scheduler: operation not permitted"), done


def test_clocks_are_those_of_the_host(tmp_path: Path, tree: Path) -> None:
    """A time namespace with other clocks is refused, one without is as none."""
    need("cc", "busybox")
    cloche = Runtime(RUNTIME, tmp_path)
    for number, (row, offsets, status) in enumerate(
        (
            ({}, {}, 0),
            ({}, {"monotonic": {"secs": 0}, "boottime": {"nanosecs": 0}}, 0),
            ({"path": "/proc/self/ns/time"}, {}, 0),
            ({}, {"monotonic": {"secs": 5}}, 1),
            ({}, {"boottime": {"nanosecs": 5}}, 1),
        )
    ):
        made = make_bundle(tmp_path / f"b{number}", tree, "true", linux={"timeOffsets": offsets})
        data = json.loads((made / "config.json").read_text())
        data["linux"]["namespaces"].append({"type": "time", **row})
        (made / "config.json").write_text(json.dumps(data))
        done = cloche("run", "-b", str(made), ident(cloche))
        assert done.status == status, done
        assert status == 0 or "linux.timeOffsets is not supported" in done.err


def test_features(runtimes: list[Runtime]) -> None:
    found = [json.loads(runtime("features").out)["linux"]["memoryPolicy"] for runtime in runtimes]
    assert "MPOL_BIND" in found[0]["modes"] and "MPOL_F_STATIC_NODES" in found[0]["flags"]
    assert all(each == found[0] for each in found)


def test_capabilities_of_an_exec(runtimes: list[Runtime], tree: Path) -> None:
    """The container's, unless its own file says which; and so is the umask."""
    words = ["/bin/sh", "-c", "grep -E 'Cap(Prm|Bnd)' /proc/self/status; umask"]
    process = {"user": {"uid": 0, "gid": 0, "umask": 7}}
    some = {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}
    for runtime in runtimes:
        runtime.make(ident(runtime), bundle(runtime, tree, process, {}, "sleep", "100000"))
        for own, mask in (({}, 0x20000420), ({"capabilities": {}}, 0), ({"capabilities": some}, 1 << 5)):
            file = runtime.folder / "process.json"
            file.write_text(json.dumps({"args": words, "cwd": "/", **own}))
            done = normal(runtime("exec", "--process", str(file), ident(runtime)))
            assert done == (0, f"CapPrm:\t{mask:016x}\nCapBnd:\t{mask:016x}\n0007\n", ""), runtime.path


def test_numa_maps(runtimes: list[Runtime], tree: Path) -> None:
    linux = {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}}
    script = "head -n 1 /proc/self/numa_maps | busybox cut -d ' ' -f 2-3"
    for runtime in runtimes:
        made = bundle(runtime, tree, {}, linux, "sh", "-c", script)
        done = runtime("run", "-b", str(made), ident(runtime))
        assert done.out == "bind=static:0 file=/bin/busybox\n", done
