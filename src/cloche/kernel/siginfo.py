"""Signals as data: siginfo, what is pending, dispositions (`kernel.signals` has the rules)."""

from cloche.abi.signal import NSIG


class SignalSource:
    """A timer that is notified when the signal that it has queued was taken."""

    def dequeued(self, info: "SigInfo") -> None:
        """`info` left its queue and is about to be seen; it may be changed."""

    def discarded(self, info: "SigInfo") -> None:
        """`info` left its queue because it is ignored now."""


class SigInfo:
    """A signal's siginfo: the fields that the kernel uses, and the 128 bytes that a handler sees."""

    def __init__(self, signo: int, code: int, raw: bytes, sender_pid: int = 0, sender_uid: int = 0) -> None:
        self.signo: int = signo
        self.code: int = code
        self.raw: bytes = raw
        self.sender_pid: int = sender_pid  # kernel ids; pid 0: no sender
        self.sender_uid: int = sender_uid
        self.is_from_guest: bool = False  # its pid was written by the sender's program
        self.timer: SignalSource | None = None  # the POSIX timer that queued it (overrun counting)
        self.charged_uid: int = -1  # the uid for whose RLIMIT_SIGPENDING it counts (kernel.signals); -1: none


class PendingSignals:
    """Pending signals of a task or a thread group: a mask, and the queue of their infos in order."""

    def __init__(self) -> None:
        self.mask: int = 0  # bit signo-1
        self.queue: list[SigInfo] = []


class SigAction:
    """A disposition (struct k_sigaction).  handler 0 is SIG_DFL, 1 SIG_IGN."""

    def __init__(self, handler: int = 0, flags: int = 0, restorer: int = 0, mask: int = 0) -> None:
        self.handler: int = handler
        self.flags: int = flags
        self.restorer: int = restorer
        self.mask: int = mask


class SignalHandlers:
    """The table of dispositions (struct sighand_struct), shared by CLONE_SIGHAND."""

    def __init__(self) -> None:
        self.actions: list[SigAction] = [SigAction() for _ in range(NSIG + 1)]

    def clone(self) -> "SignalHandlers":
        new = SignalHandlers()
        new.actions = [SigAction(a.handler, a.flags, a.restorer, a.mask) for a in self.actions]
        return new
