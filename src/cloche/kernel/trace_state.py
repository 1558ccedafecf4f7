"""A task's state of ptrace(2), seccomp(2) and faults that outlives the tracer which has set it."""

from cloche.kernel.parts import SeccompChain
from cloche.kernel.siginfo import SigInfo


class TraceState:
    """How a traced task goes on.  Invariant: there is a number, or a signal, only on the way out of a stop."""

    def __init__(self) -> None:
        self.call_nr: int = -1  # orig_rax: in a stop, the number of the call that it is in; -1: in none
        self.injected: SigInfo | None = None  # the signal with which it leaves a signal-delivery stop
        self.needs_full_frame: bool = False  # its calls must take the trap path, for all registers
        self.is_claimed: bool = False  # PTRACE_TRACEME below the sandbox's init, which lets everything pass

    def take_injected(self) -> SigInfo | None:
        """The signal, which is delivered once."""
        info = self.injected
        self.injected = None
        return info


class SeccompState:
    """The guest's own seccomp(2).  Invariant: there is a chain exactly in mode 2."""

    def __init__(self) -> None:
        self.mode: int = 0
        self.chain: SeccompChain | None = None  # its newest filter (kernel.seccomp_filter)
        self.is_answered: bool = False  # a listener lets the call go on
        self.is_traced: bool = False  # the tracer has seen the call that its filter pointed to


class Fault:
    """The last fault, for signal frames."""

    def __init__(self) -> None:
        self.trapno: int = 0
        self.err: int = 0
        self.cr2: int = 0
        self.is_forced: bool = False  # pid 1 dies of it too
