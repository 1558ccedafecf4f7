"""Attacks of tests/security with the platform kvm: those that a platform can get wrong, in one sandbox.

Patched text, and slots and a stub that a program can write to, do not exist for ring 3; test_given.py has the attacks
from ring 0.
"""

import re
from typing import Final

import pytest

from tests.cli import test_pods
from tests.kvm.machine import Machine
from tests.kvm.programs import ATTACKS, PLACE, POD

# Several times what it takes where nothing else runs.
EACH_S: Final = 150
LIMIT_S: Final = 500
OTHERS_S: Final = 700
# Command -> a line that it must say.
EXPECTED: Final = {
    "addresses": "failures 0",
    "tracers loops 2 1": "calm",
    "tracers memory 1 1": "calm",
    "tracers registers 5 1": "calm",
    "numbers 0 60 1": "children 60",
    "alive": "alive",
}
STORMS: Final = ("signals", "masked")
OTHERS: Final = {
    "peers": "^failures 0$",
    "paths": "^failures 0$",
    f"scripts 15 1 {PLACE}/attack-alive": "^failures 0$",
    "storms arguments 1": "^calm$",
    "bombs zombies 10000": r"^full (3[2-9]|[45]\d|6[0-3]) EAGAIN$",
    "bombs threads 10000": r"^full (3[2-9]|[45]\d|6[0-3]) EAGAIN$",
    "alive": "^alive$",
}
ENTRIES: Final = {"int80", "int80 exit", "sysenter", "x32", "x32 high", "negative", "high half", "uretprobe", "uprobe",
                  "vsyscall time", "vsyscall write", "compat"}  # fmt: skip


@pytest.mark.timeout(LIMIT_S + 120)
@pytest.mark.parametrize("mm", ["strict", "direct"])
def test_attacks_from_ring_3(kvm_machine: Machine, mm: str) -> None:
    script = "".join(
        f'echo "## {each}"; timeout {EACH_S} {PLACE}/attack-{each} 2>&1; ' for each in ["entries", *EXPECTED]
    )
    done = kvm_machine.run(
        ["cloche", "run", "--platform", "kvm", "-u", "0", "--mm", mm, "--", "bash", "-c", script],
        timeout_s=LIMIT_S,
        cwd=PLACE,
        env={"CLOCHE_STRICT": "5000"},
    )
    assert done.status == 0 and b"internal error" not in done.stderr, done
    said = {
        part.partition("\n")[0]: part.splitlines()[1:]
        for part in done.stdout.decode(errors="replace").split("## ")
    }
    wrong = {each: said.get(each) for each, line in EXPECTED.items() if line not in said.get(each, [])}
    assert not wrong, done
    entries = dict(line.split(": ") for line in said["entries"])
    assert set(entries) == ENTRIES and entries.pop("high half") in ("10", "12"), done
    assert set(entries.values()) <= {"10", "11", "signal"}, done


@pytest.mark.timeout(OTHERS_S + 120)
def test_storms_bombs_and_others(kvm_machine: Machine) -> None:
    """In a small sandbox: each storm is killed, each bomb is refused, others are served after that, or meanwhile."""
    alive = f"{PLACE}/attack-alive"
    script = "".join(
        f"echo '## storm {kind}'; setsid {PLACE}/attack-storms {kind} 30000 & {alive}; {alive}; kill -9 -$!; {alive}; "
        for kind in STORMS
    )
    script += "".join(f"echo '## {each}'; timeout {EACH_S} {PLACE}/attack-{each} 2>&1; " for each in OTHERS)
    done = kvm_machine.run(
        [
            "cloche",
            "run",
            "--platform",
            "kvm",
            "-u",
            "0",
            "--memory",
            "256m",
            "--pids",
            "64",
            "--",
            "bash",
            "-c",
            script,
        ],
        timeout_s=OTHERS_S,
        cwd="/opt",
        env={"CLOCHE_STRICT": "5000"},
    )
    assert done.status == 0 and b"internal error" not in done.stderr, done
    said = {part.partition("\n")[0]: part for part in done.stdout.decode(errors="replace").split("## ")}
    assert {
        each for each, line in OTHERS.items() if not re.search(line, said.get(each, ""), re.M)
    } == set(), done
    assert {
        kind for kind in STORMS if said.get(f"storm {kind}", "").split("\n").count("alive") != 3
    } == set(), done


@pytest.mark.timeout(LIMIT_S + 120)
def test_containers_of_a_pod(kvm_machine: Machine) -> None:
    """Each has a zygote of its own, whose forks make machines; one of those zygotes is killed."""
    done = kvm_machine.run(["python", str(POD), "kvm"], timeout_s=LIMIT_S)
    assert (done.status, done.stdout.decode()) == (0, test_pods.EXPECTED), done


def test_attacks_are_there() -> None:
    assert {each.split()[0] for each in ["entries", *EXPECTED, *OTHERS]} == {path.stem for path in ATTACKS}
