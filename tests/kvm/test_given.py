"""Ring 0 of the machine in the hands of an attacker: its attacks harm its own process only.

The machine runs a build of kvm.elf that gives ring 0 to programs (given/ring0_given.c), put over the installed one.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

import cloche.platform
from tests.kvm import trace
from tests.kvm.givens import PLACE
from tests.kvm.machine import Machine, Result

LIMIT_S = 420  # a minute where nothing else runs: each endless attack is ended after 10 s
PARTS = 4  # each in a sandbox of its own
INSTALLED = Path(cloche.platform.__file__).with_name("kvm.elf")
KILLED = ("137", "139", "159")  # by SIGKILL, SIGSEGV, SIGSYS

# Attacks that only affect ring 0 itself: each prints a result, "1" where it has failed.
GOES_ON = (
    "nothing", "window", "kvms_registers", "virtualisation", "counters", "control_registers", "hypercalls",
    "copies_into_the_loop", "swaps_in_the_loop",
)  # fmt: skip
ENDS = (
    "triple_fault", "halt_for_nothing", "halt_for_anything", "port_out", "port_in", "port_string", "read_only_text",
    "read_only_info", "read_only_vdso", "nowhere_read", "nowhere_write", "nowhere_execute", "nowhere_stack", "nowhere_idt",
    "local_apic", "emulate_movs", "emulate_cmpxchg", "emulate_xadd", "emulate_fxsave", "emulate_xsave",
    "emulate_vector", "emulate_far_call", "emulate_segment", "emulate_table", "emulate_split", "emulate_pop",
    "emulate_crossing", "tables_elsewhere", "spin", "spin_on_halts", "spin_on_faults", "spin_on_cpuid", "spin_without_tables",
    "order_exit",
)  # fmt: skip
# The sentry may find a lie, or the process may be of use still.
EITHER = (
    "registers", "copies_out_of_the_loop", "bells", "task_priority", "tables_in_circles", "tables_at_random", "forged_everything", "order_machine", "order_memory",
    "order_cpu", "order_kvm_run", "order_duplicate", "order_mask", "order_socket", "order_loop_unmapped",
    "order_everything_unmapped", "order_close", "order_return", "order_threads", "every_block",
)  # fmt: skip


@pytest.fixture(scope="module")
def given(kvm_machine: Machine) -> Iterator[Machine]:
    mount = ["busybox", "mount", "-o", "bind", f"{PLACE}/given.elf", str(INSTALLED)]
    assert kvm_machine.run(mount).status == 0
    yield kvm_machine
    assert kvm_machine.run(["busybox", "umount", str(INSTALLED)]).status == 0


def outcomes(done: Result) -> dict[str, tuple[str, str]]:
    """By attack its status and what it said."""
    found = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        name, _, rest = line.partition(": ")
        status, _, said = rest.partition(": ")
        if status.isdecimal():
            found[name] = status, said
    return found


def test_ring_0_is_given_in_the_test_only() -> None:
    assert b"given" not in INSTALLED.read_bytes()
    assert 0x7100.to_bytes(4, "little") not in INSTALLED.read_bytes()


@pytest.mark.timeout(LIMIT_S + 120)
@pytest.mark.parametrize("part", range(PARTS))
def test_attacks_from_ring_0(given: Machine, part: int) -> None:
    names = ["nothing", *[name for name in (*GOES_ON, *ENDS, *EITHER) if name != "nothing"][part::PARTS]]
    done = given.run(["python", f"{PLACE}/watch.py", *names], timeout_s=LIMIT_S)
    found = outcomes(done)
    assert done.status == 0 and done.stdout.endswith(b"left over: nothing\n"), done
    assert b"does not answer" not in done.stdout and b"internal error" not in done.stderr, done
    assert list(found) == names, done
    went_on = {name: said for name, (status, said) in found.items() if status == "0"}
    assert went_on.pop("nothing") == "16, goes on", done
    assert {
        name for name in GOES_ON if went_on.get(name, "1, goes on") not in ("1, goes on", "127, goes on")
    } == set(), done
    assert not set(went_on) & set(ENDS), done
    assert {name for name in names if name in ENDS and found[name][0] not in KILLED} == set(), done
    assert {name for name in names if name in EITHER and found[name][0] not in ("0", *KILLED)} == set(), done


@pytest.mark.timeout(LIMIT_S + 120)
def test_a_triple_fault_leaves_a_trace(given: Machine) -> None:
    """The machine's kernel tells what led to it: what the other tests print when one has come unasked."""
    for _ in range(2):
        trace.start(given)
        assert trace.shutdown(given) == []
    done = given.run(["python", f"{PLACE}/watch.py", "triple_fault"], timeout_s=LIMIT_S)
    own, _, every = "\n".join(trace.shutdown(given)).partition("all events:")
    assert "reason shutdown" in own.splitlines()[-1] and "kvm_entry" in own, (done, own)
    assert "reason shutdown" in every, every
