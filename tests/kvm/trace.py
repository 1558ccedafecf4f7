"""What KVM did before a virtual CPU shut down: its tracepoints, in the machine's own kernel.

A triple fault ends a guest process without a word about its cause: KVM resets the virtual CPU before it says so, and ring 0
could not take the exception.  The machine's kernel remembers the last events, and stops at the first such end.
"""

import re
from typing import Final

from tests.kvm.machine import Machine

FOLDER: Final = "/sys/kernel/tracing"
RUNS: Final = ("kvm_entry", "kvm_exit", "kvm_inj_exception", "kvm_inj_virq", "kvm_page_fault")
# What changes the memory of a machine that is there, told of apart since it may be long ago
CHANGES: Final = (
    *("kvm_tdp_mmu_spte_changed", "kvm_mmu_zap_all_fast", "kvm_unmap_hva_range"),
    *("mm_collapse_huge_page", "mm_collapse_huge_page_isolate"),
)
BUFFER_KIB: Final = 6144  # for each processor
SHUTDOWN: Final = 0x7F  # SVM_EXIT_SHUTDOWN
MAX_TOLD: Final = 60  # events of the thread that it happened to, the same number of all
MAX_CHANGES: Final = 400

START: Final = f"""
[ -d {FOLDER}/events ] || busybox mount -t tracefs tracefs {FOLDER}
cd {FOLDER} || exit
if ! [[ $(<events/kvm/kvm_exit/trigger) == traceoff* ]]; then
    echo {BUFFER_KIB} >buffer_size_kb
    echo 'traceoff if exit_reason == {SHUTDOWN}' >events/kvm/kvm_exit/trigger
    for event in {" ".join((*RUNS, *CHANGES))}; do
        for file in events/*/$event/enable; do [ -e $file ] && echo 1 >$file; done
    done
fi
echo >trace
echo 1 >tracing_on
"""


def start(machine: Machine) -> None:
    """Forget what was recorded, and record."""
    done = machine.run(["bash", "-c", START])
    assert done.status == 0 and not done.stderr, done


def shutdown(machine: Machine) -> list[str]:
    """The last events before the first shutdown since `start`; empty if there was none."""
    if machine.run(["cat", f"{FOLDER}/tracing_on"]).stdout != b"0\n":
        return []
    return last_events(machine.run(["cat", f"{FOLDER}/trace"]).stdout.decode(errors="replace"))


def last_events(text: str) -> list[str]:
    """Of the thread whose virtual CPU has shut down; then of all."""
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    end = next((at for at, line in enumerate(lines) if "reason shutdown" in line), len(lines) - 1)
    lines = lines[: end + 1]
    task = re.match(r"\s*(.*?-\d+)\s", lines[-1]) if lines else None
    own = [line for line in lines if task and line.lstrip().startswith(f"{task[1]} ")]
    runs = [line for line in lines if not any(f" {name}: " in line for name in CHANGES)]
    changes = [line for line in lines if any(f" {name}: " in line for name in CHANGES)]
    told = [*own[-MAX_TOLD:], "all events:", *runs[-MAX_TOLD:], "changes of memory:", *changes[-MAX_CHANGES:]]
    return ["its events:", *told] if lines else []
