"""Programs of tests/guest and the hostile ones, many to a sandbox, against the same run natively in the same machine."""

from difflib import unified_diff

import pytest

from tests.kvm import trace
from tests.kvm.machine import Machine, Result
from tests.kvm.programs import BATCH, GROUPS, HOSTILE, OTHER_KERNEL, PLACE, parse_batch

SYSTRAP, KVM = (["cloche", "run", "--platform", name] for name in ("systrap", "kvm"))
MACHINES_OWN_S = 480  # for a group, which takes some ten seconds natively; a quarter of it for a program


def differences(
    machine: Machine, names: list[str], *options: str, seconds: int = MACHINES_OWN_S
) -> list[str]:
    """Where a run in one sandbox differs from the one natively; empty if nowhere.

    What another kernel than the machine's is the model of is compared with the platform systrap.
    """
    natively = [name for name in names if name not in OTHER_KERNEL]
    otherwise = [name for name in names if name in OTHER_KERNEL]
    lines = compared(machine, [], [*KVM, *options, "--"], natively, seconds) if natively else []
    if otherwise:
        lines += compared(machine, [*SYSTRAP, *options, "--"], [*KVM, *options, "--"], otherwise, seconds)
    return lines


def compared(machine: Machine, one: list[str], other: list[str], names: list[str], seconds: int) -> list[str]:
    paths = [f"{PLACE}/{name}" for name in names]
    each = str(seconds // 4)
    model = run(machine, [*one, BATCH, each, *paths], seconds)
    trace.start(machine)
    inside = run(machine, [*other, BATCH, each, *paths], seconds)
    expected, found = parse_batch(model.stdout), parse_batch(inside.stdout)
    assert list(expected) == names, model
    lines = []
    for name in names:
        if name not in found:
            said = inside.stderr.decode(errors="replace")[-2000:]
            lines.append(f"{name}: the sandbox had ended, status {inside.status}\n{said}")
            break
        if found[name] != expected[name]:
            both = shown(expected[name]), shown(found[name])
            lines += [f"{name}:", *unified_diff(*both, "expected", "in the sandbox", "", "", 0, "")]
    return [*lines, *forbidden_calls(machine)] if lines else []


def run(machine: Machine, command: list[str], seconds: int) -> Result:
    return machine.run(command, timeout_s=seconds, env={"CLOCHE_STRICT": "5000"}, cwd="/opt/guest")


def forbidden_calls(machine: Machine) -> list[str]:
    """What the machine's kernel says of calls that ended their process: the loop's own end has a number (csrc/kvm/vm.c)."""
    said = machine.run(["busybox", "dmesg"]).stdout.decode(errors="replace").splitlines()
    return [*(line for line in said if "type=1326" in line), *trace.shutdown(machine)]


def shown(outcome: tuple[int, bytes]) -> list[str]:
    return [f"status {outcome[0]}", *outcome[1].decode(errors="replace").splitlines()]


@pytest.mark.timeout(MACHINES_OWN_S * 2 + 120)
@pytest.mark.parametrize("group", GROUPS)
def test_guest_programs(kvm_machine: Machine, group: str) -> None:
    found = differences(kvm_machine, GROUPS[group].split())
    assert not found, "\n".join(found)


@pytest.mark.timeout(MACHINES_OWN_S * 2 + 120)
def test_hostile_programs(kvm_machine: Machine) -> None:
    found = differences(kvm_machine, [source.stem for source in HOSTILE])
    assert not found, "\n".join(found)
