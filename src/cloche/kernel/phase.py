"""The phases of a task: what its host thread does, and which phases may follow.

    NEW ──────────▶ GUEST ◀────────────┐            guest code runs
     │               │                 │ resumed
     │  call, fault, │ interruption    │
     │               ▼                 │
     │             KERNEL ─────────────┤            the thread has stopped, and the kernel works for the task
     │              │ ▲  ▲             │
     │    it waits  │ │  │ ready    LEAVING          its call is over; the thread first carries out what the call has
     │              ▼ │  │             ▲            ordered, or makes the frame that a signal needs
     ├──▶ WAITING ────┘  └─────────────┘
     │    STOPPED                                   … for SIGCONT (job control)
     ├──▶ TRACED                                    … for its tracer (kernel.ptrace.stops)
     │    LENT                                      … for the child of its vfork, which has its host thread
     │      ▲ │
     │      │ ▼
     │    WORKING                                   as one of those four or KERNEL, while the thread carries out
     │                                              operations: the call's own, or a job for others (`HostWork`)
     └──▶ DEAD   (from every phase)

What it waits for is its `Blocked`, whose `phase` says which of the four waiting phases that is; so after WORKING a task
is where its `Blocked` belongs, or in KERNEL.  There are no other flags that say whether a task may be resumed.

Under CLOCHE_STRICT every change is compared with the table below and with the invariants of `Task.check_phase`.
"""

from typing import Final

NEW: Final = 0  # made, and its host thread has yet to begin
GUEST: Final = 1
KERNEL: Final = 2
WAITING: Final = 3
STOPPED: Final = 4
TRACED: Final = 5
LENT: Final = 6
WORKING: Final = 7
LEAVING: Final = 8
DEAD: Final = 9

NAMES: Final = (
    "new",
    "guest",
    "kernel",
    "waiting",
    "stopped",
    "traced",
    "lent",
    "working",
    "leaving",
    "dead",
)

# The phases that may follow. A phase may always be entered again: a wait may go on with another object.
NEXT: Final[dict[int, tuple[int, ...]]] = {
    NEW: (GUEST, WAITING, TRACED, DEAD),  # waiting: a container's own init, which has no guest code
    GUEST: (KERNEL, DEAD),
    KERNEL: (GUEST, WAITING, STOPPED, TRACED, LENT, WORKING, LEAVING, DEAD),
    WAITING: (KERNEL, WORKING, DEAD),
    STOPPED: (KERNEL, WORKING, DEAD),
    TRACED: (KERNEL, WORKING, DEAD),
    LENT: (WAITING, KERNEL, DEAD),
    WORKING: (KERNEL, WAITING, STOPPED, TRACED, DEAD),
    LEAVING: (KERNEL, DEAD),
    DEAD: (),
}

WAITS: Final = (WAITING, STOPPED, TRACED, LENT)


class IllegalPhase(Exception):
    """A bug of cloche: a task was to enter a phase that cannot follow."""


def check(old: int, new: int) -> None:
    """Raises IllegalPhase unless a task may go from one phase to the other."""
    if old != new and new not in NEXT[old]:
        raise IllegalPhase(f"from {NAMES[old]} to {NAMES[new]}")
