"""A profile and its program decide alike: the program is run, the profile is read by a slow reference."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.abi import seccomp as bpf
from cloche.abi.bpf_program import INSN
from cloche.arch.syscalls import NAMES as CALLS
from cloche.kernel.args import Args
from cloche.kernel.seccomp_filter import Filter, checked_program, run_filter
from cloche.oci.errors import OciError
from cloche.oci.seccomp import compile_profile

NAMES = ["read", "write", "clone", "socket", "personality", "unshare", "mount"]
ACTIONS = {"SCMP_ACT_ALLOW": bpf.SECCOMP_RET_ALLOW, "SCMP_ACT_ERRNO": bpf.SECCOMP_RET_ERRNO | 1}
OPERATORS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
NUMBERS = st.sampled_from(
    [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (1 << 64) - 1]
)


def holds(value: int, condition: dict[str, Any]) -> bool:
    """What seccomp_rule_add(3) says of a condition."""
    wanted, second = condition["value"], condition.get("valueTwo", 0)
    return {
        "NE": value != wanted,
        "LT": value < wanted,
        "LE": value <= wanted,
        "EQ": value == wanted,
        "GE": value >= wanted,
        "GT": value > wanted,
        "MASKED_EQ": value & wanted == second & wanted,
    }[condition["op"].removeprefix("SCMP_CMP_")]


def decide(profile: dict[str, Any], name: str, args: list[int]) -> int:
    default = ACTIONS[profile["defaultAction"]]
    rules = [
        rule for rule in profile["syscalls"] if name in rule["names"] and ACTIONS[rule["action"]] != default
    ]
    for rule in rules:
        if not rule.get("args"):
            return ACTIONS[rule["action"]]
    for rule in rules:
        found = [holds(args[each["index"]], each) for each in rule["args"]]
        are_distinct = len({each["index"] for each in rule["args"]}) == len(found)
        if all(found) if are_distinct else any(found):  # as runc takes them
            return ACTIONS[rule["action"]]
    return default


def run(program: bytes, number: int, args: list[int]) -> int:
    if not program:
        return bpf.SECCOMP_RET_ALLOW
    call = Args()
    call.nr = number
    signed = [value - (1 << 64) if value >= 1 << 63 else value for value in args]
    call.a0, call.a1, call.a2, call.a3, call.a4, call.a5 = signed
    return run_filter(Filter(checked_program(program), None), call, 0)


conditions = st.fixed_dictionaries(
    {
        "index": st.integers(0, 5),
        "op": st.sampled_from(["SCMP_CMP_" + name for name in OPERATORS]),
        "value": NUMBERS,
        "valueTwo": NUMBERS,
    }
)
rules = st.fixed_dictionaries(
    {
        "names": st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
        "action": st.sampled_from(sorted(ACTIONS)),
        "args": st.lists(conditions, max_size=3),
    }
)
profiles = st.fixed_dictionaries(
    {"defaultAction": st.sampled_from(sorted(ACTIONS)), "syscalls": st.lists(rules, max_size=6)}
)


@settings(max_examples=300, deadline=None)
@given(profiles, st.sampled_from(NAMES), st.lists(NUMBERS, min_size=6, max_size=6))
def test_program_and_profile_agree(profile: dict[str, Any], name: str, args: list[int]) -> None:
    number = CALLS.index(name)
    known = [CALLS.index(each) for rule in profile["syscalls"] for each in rule["names"]]
    expected = decide(profile, name, args)
    is_errno = profile["defaultAction"] == "SCMP_ACT_ERRNO"
    if is_errno and known and number > max(known):
        expected = bpf.SECCOMP_RET_ERRNO | 38  # newer than the profile: not there
    assert run(compile_profile(profile), number, args) == expected


def test_another_architecture_is_killed() -> None:
    program = compile_profile({"defaultAction": "SCMP_ACT_ERRNO"})
    _code, _true, _false, k = INSN.unpack_from(checked_program(program), 2 * INSN.size)
    assert k == bpf.SECCOMP_RET_KILL_PROCESS


def test_a_profile_that_lets_everything_pass_is_none() -> None:
    assert compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}) == b""


@pytest.mark.parametrize(
    "profile",
    [
        {"defaultAction": "SCMP_ACT_SOMETHING"},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 9, "op": "SCMP_CMP_EQ"}]}
            ],
        },
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "op": "X"}]}],
        },
    ],
)
def test_what_is_wrong_is_refused(profile: dict[str, Any]) -> None:
    with pytest.raises(OciError):
        compile_profile(profile)


@pytest.mark.parametrize(
    "profile",
    [
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["unheard"], "action": "SCMP_ACT_NOTIFY"}],
        },
    ],
)
def test_an_agent_is_refused_with_the_reason(profile: dict[str, Any]) -> None:
    with pytest.raises(OciError, match="SCMP_ACT_NOTIFY is not supported: .*no system calls"):
        compile_profile({**profile, "listenerPath": "/run/agent.sock"})


def test_a_profile_that_is_too_long_is_refused() -> None:
    """A filter has 4096 instructions at most; each of these conditions is a rule of its own, of five."""
    equal = {"index": 0, "op": "SCMP_CMP_EQ", "value": 7}
    profile = {"defaultAction": "SCMP_ACT_ERRNO"}
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    assert compile_profile({**profile, "syscalls": [{**rule, "args": [equal] * 500}]})
    with pytest.raises(OciError, match="seccomp"):
        compile_profile({**profile, "syscalls": [{**rule, "args": [equal] * 900}]})
