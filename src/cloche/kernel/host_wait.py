"""Waiting for the host's storage: a call asks another process (the gofer), and the answer does not come at once.

The client of that process waits for a millisecond, then raises `HostWait` (nothing else raises it). The exception
passes through the handler, which has changed nothing yet and releases what it holds, as for an error. The loop makes
the task `HostBlocked`. The answer joins the call's *journal*, and the handler runs again from its saved arguments:
questions that are in the journal are not asked again, so a walk over slow storage gets further each time, and a
change is requested only once. As in Linux (state D) only a fatal signal ends such a wait. The request cannot be
cancelled then; its answer goes to `HostRequest.forget`.

Rules for handlers: change nothing before the last question, unless a second run has the same effect. A handler that
cannot keep to that calls `commit`: later questions are waited for on the spot. So are all questions outside of a
handler, except by code with a `Patience` (kernel.patience).
"""

from cloche.abi.errno import ERESTARTNOHAND
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on, next_slice
from cloche.vfs.objects import FileDescription, PausedWalk, WalkKeeper
from cloche.vfs.waitqueue import WaitQueue


class HostRequest:
    """A question to another process."""

    def __init__(self) -> None:
        self.is_answered: bool = False
        # Its effect is in the caches; also true of a question that changes nothing
        self.is_settled: bool = False
        self.is_change: bool = False  # of names in directories
        self.is_once: bool = False  # it changes something: the call must not ask it again
        self.is_taken: bool = False  # by the current run
        self.queue: WaitQueue = WaitQueue()  # woken when it is answered, and when it is settled

    def forget(self) -> None:
        """Drop the answer, which is not needed any more, now or when it comes."""
        raise NotImplementedError


class HostServer:
    """The process that is asked."""

    def close(self) -> None:
        """Close the connection: there are no more questions."""
        raise NotImplementedError

    def shared(self) -> None:
        """From now on it serves several calls; before it served one, which allowed others to run meanwhile."""


class HostWait(Exception):
    """The handler is to run again when `request` is answered; with `is_turn`, from its beginning when `request` is
    settled.
    """

    def __init__(self, request: HostRequest, *, is_turn: bool = False) -> None:
        self.request: HostRequest = request
        self.is_turn: bool = is_turn
        # the operation that continues then, if the handler is not to start again
        self.inner: Blocked | None = None


class Turn(HostRequest):
    """Not a question: a pause in which others run; then the call goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_answered = True

    def forget(self) -> None:
        """Nothing is held."""


class StorageTurn(HostRequest):
    """Not a question either: wait for the end of a host call of another task that takes long."""

    def come(self) -> None:
        """The wait is over."""
        self.is_answered = self.is_settled = True
        self.queue.wake()

    def forget(self) -> None:
        """Nothing is held."""


class LentWaits:
    """The part of `HostWaits` that belongs to a call whose handler is suspended while others run (kernel.lanes)."""

    def __init__(
        self,
        journal: list[HostRequest],
        walks: list[PausedWalk],
        file: FileDescription | None,
        *,
        may_wait: bool,
        is_again: bool,
        bears_others: bool,
    ) -> None:
        self.journal: list[HostRequest] = journal
        self.walks: list[PausedWalk] = walks
        self.file: FileDescription | None = file
        self.may_wait: bool = may_wait
        self.is_again: bool = is_again
        self.bears_others: bool = bears_others


class HostWaits(WalkKeeper):
    """The state of the running call that the clients use."""

    def __init__(self) -> None:
        super().__init__()
        self.may_wait: bool = False
        self.is_again: bool = False  # `journal` holds questions of an earlier run
        self.journal: list[HostRequest] = []
        self.waits: int = 0  # for metrics and tests
        # The handler allows that others run in the middle of a host call
        self.bears_others: bool = False
        self.file: FileDescription | None = None  # the open file on whose storage a host call may take long
        self.lane_turn: StorageTurn | None = None  # while all lanes but one are away: comes when one is back

    def begin(self, journal: list[HostRequest]) -> None:
        """Start a run of a handler that can be run again, with these answers."""
        for each in journal:
            each.is_taken = False
        self.journal = journal
        self.is_again = len(journal) > 0
        self.may_wait = True

    def may_pause(self) -> bool:
        return self.may_wait

    def pause(self) -> None:
        raise HostWait(Turn())

    def lend(self) -> LentWaits:
        """Save the state of the suspended handler, and reset it for others."""
        lent = LentWaits(
            self.journal,
            self.walks,
            self.file,
            may_wait=self.may_wait,
            is_again=self.is_again,
            bears_others=self.bears_others,
        )
        self.journal, self.walks, self.file = [], [], None
        self.may_wait = self.is_again = self.bears_others = False
        return lent

    def take_back(self, lent: LentWaits) -> None:
        """Restore the state of the handler, which goes on."""
        self.journal, self.walks = lent.journal, lent.walks
        self.may_wait, self.is_again, self.bears_others = lent.may_wait, lent.is_again, lent.bears_others

    def commit(self) -> None:
        """From here on the handler cannot be run again."""
        self.may_wait = False

    def rehearsed(self) -> None:
        """The rest of the handler asks only questions that are in the journal; others are waited for on the spot."""
        self.may_wait = False
        self.is_again = len(self.journal) > 0
        for each in self.journal:
            each.is_taken = False

    def progress(self) -> None:
        """The work so far will not be repeated: drop its answers."""
        if self.journal:
            journal = self.journal
            self.journal = []
            self.is_again = False
            forget_all(journal)

    def step_done(self, *, may_wait: bool) -> None:
        """A step of a call is done, and a later run continues after it: set `may_wait` to its earlier value."""
        self.progress()
        self.may_wait = may_wait

    def end(self) -> None:
        """The call has a result, or waits for something else: drop the answers."""
        self.may_wait = False
        self.is_again = False
        self.file = None  # a removed file would otherwise stay alive, with its space on disk
        if self.walks:
            self.walks = []
        if self.journal:
            journal = self.journal
            self.journal = []
            forget_all(journal)

    def keep(self, wait: HostWait) -> tuple[list[HostRequest], list[PausedWalk]]:
        """The run has raised `wait`: return the journal and walks with which the next one starts."""
        journal = self.journal
        walks = self.walks
        self.journal = []
        self.walks = []
        self.may_wait = False
        self.is_again = False
        if isinstance(wait.request, Turn):
            return journal, walks
        self.waits += 1
        if wait.is_turn:
            # The directory's contents may change meanwhile: only changes that this call has made itself are not asked
            # for again.
            stale = [each for each in journal if not each.is_once]
            journal = [each for each in journal if each.is_once]
            forget_all(stale)
            walks = []
        return journal, walks

    def block(self, task: TaskBase, wait: HostWait, inner: Blocked | None) -> int:
        """Let the task wait: its handler has raised `wait`. Returns BLOCKED."""
        journal, walks = self.keep(wait)
        blocked = HostBlocked(wait, journal, walks, inner)
        if isinstance(wait.request, Turn):
            return next_slice(task, blocked)
        return block_on(task, blocked, wait.request.queue)


def forget_all(journal: list[HostRequest]) -> None:
    """Drop these answers."""
    for each in journal:
        each.forget()


class HostBlocked(Blocked):
    """A call that waits for an answer, to be run again: its handler, or `inner` if it had waited before."""

    def __init__(
        self, wait: HostWait, journal: list[HostRequest], walks: list[PausedWalk], inner: Blocked | None
    ) -> None:
        super().__init__()
        self.request: HostRequest = wait.request
        self.is_turn: bool = wait.is_turn
        self.journal: list[HostRequest] = journal
        self.walks: list[PausedWalk] = walks
        self.inner: Blocked | None = inner

    def is_due(self) -> bool:
        """Whether what it waits for has happened."""
        return self.request.is_settled if self.is_turn else self.request.is_answered

    def take(self) -> list[HostRequest]:
        """The journal, for the run that follows; `finished` does nothing then."""
        journal = self.journal
        self.journal = []
        self.inner = None
        return journal

    def letter(self) -> str:
        return "R" if self.has_slices else "D"

    def retry(self, task: TaskBase) -> int:
        raise NotImplementedError  # the loop runs the call again

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTNOHAND if task.is_kill_pending else BLOCKED

    def finished(self, task: TaskBase) -> None:
        journal = self.journal
        self.journal = []
        forget_all(journal)
        inner = self.inner
        self.inner = None
        if inner is not None:
            inner.finished(task)
