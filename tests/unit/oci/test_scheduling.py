"""What a bundle says of scheduling and the like, as the sentry takes it, and in which words it is refused."""

import os
from pathlib import Path
from typing import Any

import pytest

from cloche.abi import mman
from cloche.oci import cgroups
from cloche.oci.errors import OciError
from cloche.oci.scheduling import (
    affinity_of,
    check_clocks,
    check_deadline,
    explain_attributes,
    inherit,
    io_priority_of,
    memory_policy_of,
    number_set,
    personality_of,
    scheduler_of,
    settle_processors,
)


def scheduler(*, is_init: bool = True, **row: Any) -> list[int]:
    return scheduler_of({"scheduler": row}, "process.", is_init=is_init)


def io_priority(*, is_init: bool = True, **row: Any) -> int:
    return io_priority_of({"ioPriority": row}, "process.", is_init=is_init)


def test_schedulers() -> None:
    assert scheduler_of({}, "", is_init=True) == []
    assert scheduler(policy="SCHED_BATCH", nice=-20) == [3, -20, 0, 0, 0, 0, 0]
    flags = ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"]
    times = {"runtime": 1, "deadline": 2, "period": (1 << 64) - 1}
    assert scheduler(policy="SCHED_DEADLINE", flags=flags, **times) == [6, 0, 0, 3, 1, 2, (1 << 64) - 1]
    for row, said in (
        ({}, "scheduler policy is required"),
        ({"policy": "SCHED_OTHER", "nice": 20}, "invalid scheduler.nice: 20"),
        ({"policy": "SCHED_IDLE", "priority": 1}, "can only be specified for SchedFIFO or SchedRR"),
        ({"policy": "SCHED_RR", "period": 1}, "can only be specified for SchedDeadline"),
        ({"policy": "sched_rr"}, "invalid scheduler policy: sched_rr"),
        ({"policy": "SCHED_RR", "flags": ["x"]}, "invalid scheduler flag: x"),
        ({"policy": "SCHED_RR", "nice": 1 << 31}, "scheduler.nice is out of range"),
        ({"policy": "SCHED_RR", "runtime": -1}, "scheduler.runtime is out of range"),
        ({"policy": 5}, "scheduler.policy is not a string"),
    ):
        with pytest.raises(OciError, match=said):
            scheduler(**row)
    # The kernel says what it thinks of these.
    assert scheduler(is_init=False, policy="SCHED_OTHER", nice=40, priority=4, runtime=4)[:3] == [0, 40, 4]
    with pytest.raises(OciError, match="^unable to start container process: invalid scheduler policy: $"):
        scheduler(is_init=False)


def test_io_priorities() -> None:
    assert io_priority_of({}, "", is_init=True) == -1
    assert io_priority(**{"class": "IOPRIO_CLASS_BE", "priority": 7}) == 0x4007
    assert io_priority(**{"class": "IOPRIO_CLASS_IDLE"}) == 0x6000
    assert io_priority(is_init=False, **{"class": "IOPRIO_CLASS_RT", "priority": 9}) == 0x2009
    for is_init, row, said in (
        (True, {"class": "IOPRIO_CLASS_NONE"}, 'invalid ioPriority.Class: "IOPRIO_CLASS_NONE"'),
        (True, {"class": "IOPRIO_CLASS_BE", "priority": -1}, "invalid ioPriority.Priority: -1"),
        (False, {"class": "x"}, "invalid io priority class: x"),
        (False, {"class": "IOPRIO_CLASS_BE", "priority": -1}, "failed to set io priority: invalid argument"),
    ):
        with pytest.raises(OciError, match=said):
            io_priority(is_init=is_init, **row)


def test_sets_of_numbers() -> None:
    assert number_set("") == []
    assert number_set(" 3 ,,0-1,1") == [0, 1, 3]
    for text, said in (
        (",", "no members found in set"),
        ("0 - 1", 'parsing "0 ": invalid syntax'),
        ("-1", 'parsing "": invalid syntax'),
        ("+1", "invalid syntax"),
        ("\u0661", "invalid syntax"),
        ("4294967296", "value out of range"),
        ("9" * 100_000, "value out of range"),
        ("0-1024", "values larger than 1023 are not supported"),
        ("2-1", "invalid range: 2-1"),
    ):
        with pytest.raises(OciError, match=said):
            number_set(text)


def test_affinities() -> None:
    assert affinity_of({}, "") == ([], [])
    assert affinity_of({"execCPUAffinity": {"initial": "1", "final": "0-1"}}, "") == ([1], [0, 1])
    with pytest.raises(OciError, match=r"bad CPUAffinity\.Final: strconv"):
        affinity_of({"execCPUAffinity": {"final": "x"}}, "")


def test_personalities() -> None:
    warnings: list[str] = []
    assert personality_of({}, warnings) == 0 and personality_of({"personality": {"domain": "LINUX"}}, []) == 0
    assert personality_of({"personality": {"domain": "LINUX32", "flags": ["A", "B"]}}, warnings) == 8
    assert warnings[0].startswith("ignoring unsupported personality flags: [A B] because")
    with pytest.raises(OciError, match="^invalid personality domain $"):
        personality_of({"personality": {}}, [])


def test_memory_policies() -> None:
    assert memory_policy_of({}) == []
    row = {"mode": "MPOL_BIND", "nodes": "0,2-3", "flags": ["MPOL_F_STATIC_NODES"]}
    assert memory_policy_of({"memoryPolicy": row}) == [mman.MPOL_BIND | mman.MPOL_F_STATIC_NODES, 0, 2, 3]
    assert memory_policy_of({"memoryPolicy": {"mode": "MPOL_PREFERRED"}}) == [mman.MPOL_PREFERRED]
    for row, said in (
        ({}, 'invalid memory policy mode ""'),
        ({"mode": "MPOL_BIND", "nodes": "x"}, 'invalid memory policy nodes "x": strconv'),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["x"]}, 'invalid memory policy flag "x"'),
        ({"mode": "MPOL_LOCAL", "nodes": "0"}, "requires 0 nodes but got 1"),
        ({"mode": "MPOL_INTERLEAVE"}, "requires at least one node but got 0"),
    ):
        with pytest.raises(OciError, match=said):
            memory_policy_of({"memoryPolicy": row})


def test_what_an_exec_inherits() -> None:
    container = {"scheduler": {"policy": "SCHED_RR"}, "ioPriority": {"class": "x"}, "cwd": "/"}
    container["execCPUAffinity"] = {"final": "1"}
    data: dict[str, Any] = {"ioPriority": {}, "execCPUAffinity": {}}
    inherit(data, container)
    assert data == {
        "scheduler": {"policy": "SCHED_RR"},
        "ioPriority": {},
        "execCPUAffinity": {"final": "1"},
    }


def test_processors_of_a_group(tmp_path: Path) -> None:
    """Of version 2: a group without the controller has its parent's."""
    (tmp_path / "cgroup.controllers").touch()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "cpuset.cpus.effective").write_text("0-1,5\n")
    assert cgroups.processors([str(inner)], str(tmp_path)) == [0, 1, 5]
    assert cgroups.processors([str(tmp_path)], str(tmp_path)) == cgroups.processors([])


def test_processors_of_an_exec() -> None:
    everywhere = cgroups.processors([])
    assert settle_processors([], [], [], []) == []
    assert settle_processors([], everywhere, [], []) == list(range(len(everywhere)))
    assert settle_processors([], [everywhere[-1], 1000], [], []) == [len(everywhere) - 1]
    with pytest.raises(OciError, match="error setting final CPU affinity: invalid argument"):
        settle_processors([], [1000], [], [])
    before = os.sched_getaffinity(0)
    with pytest.raises(OciError, match="error setting initial CPU affinity: invalid argument"):
        settle_processors([1000], [], [], [])
    assert os.sched_getaffinity(0) == before
    check_deadline([6, 0, 0, 0, 1, 1, 1], [], "0")


def test_answers_of_the_sentry() -> None:
    said = "error setting scheduler: operation not permitted"
    assert explain_attributes(said).endswith("error during container init: " + said)
    assert explain_attributes("its limits: …") == ""


def test_clocks() -> None:
    check_clocks({}, {})
    check_clocks({"timeOffsets": {"monotonic": {"secs": 0}}}, {"time": ""})
    check_clocks({}, {"time": "/proc/self/ns/time"})
    for linux, kinds, said in (
        ({"timeOffsets": {"monotonic": {}}}, {}, "time namespace isn't enabled in the config"),
        ({"timeOffsets": {"monotonic": {}}}, {"time": "/x"}, "you may only provide one"),
        (
            {"timeOffsets": {"boottime": {"secs": -1}}},
            {"time": ""},
            "not supported: the clocks are the host's",
        ),
        ({"timeOffsets": {"realtime": {}}}, {"time": ""}, "there is no clock 'realtime'"),
        ({"timeOffsets": {"monotonic": 5}}, {"time": ""}, "not an object"),
        ({"timeOffsets": {"monotonic": {"nanosecs": -1}}}, {"time": ""}, "out of range"),
        ({}, {"time": "/proc/self/ns/pid"}, "not supported: the clocks are the host's"),
        ({}, {"time": "/none"}, "No such file or directory"),
    ):
        with pytest.raises(OciError, match=said):
            check_clocks(linux, kinds)
