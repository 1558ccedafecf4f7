"""Waiting for the host's storage: a call asks another process (the gofer), and the answer does not come at once.

The client of that process waits for a millisecond.  Then it raises `HostWait`, the only place where that is raised; it
goes through the handler, which has changed nothing yet and undoes what it holds, as for an error.  The loop makes the
task `HostBlocked`.  The answer joins the call's *journal*, and the handler runs again from its saved arguments: what
the journal holds is not asked again, so that a walk over slow storage gets further each time, and a change is asked for
once.  As in Linux (state D) no signal ends such a wait but a fatal one; the request cannot be called back then, and its
answer goes to `HostRequest.forget`.

Rules for handlers: nothing is changed before the last question, unless running it again comes to the same.  Whoever
cannot keep to that calls `commit`: what is asked after it is waited for on the spot, as is all that is asked outside a
handler by who has no `Patience` (kernel.patience).
"""

from cloche.abi.errno import ERESTARTNOHAND
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on, next_slice
from cloche.vfs.objects import FileDescription, PausedWalk, WalkKeeper
from cloche.vfs.waitqueue import WaitQueue


class HostRequest:
    """A question to another process."""

    def __init__(self) -> None:
        self.is_answered: bool = False
        # What it changed is known to the caches; a question that changes nothing
        self.is_settled: bool = False
        self.is_change: bool = False  # of names in directories
        self.is_once: bool = False  # it changes something: the call must not ask it again
        self.is_taken: bool = False  # by the run that is under way
        self.queue: WaitQueue = WaitQueue()  # woken when it is answered, and when it is settled

    def forget(self) -> None:
        """Nobody is interested in the answer any more, whether it has come or will come."""
        raise NotImplementedError


class HostServer:
    """The process that is asked."""

    def close(self) -> None:
        """No more questions."""
        raise NotImplementedError

    def shared(self) -> None:
        """From here on it is asked for several calls; before, for one, which bore that others ran meanwhile."""


class HostWait(Exception):
    """The handler shall run again when `request` is answered; with `is_turn` afresh, when it is settled."""

    def __init__(self, request: HostRequest, *, is_turn: bool = False) -> None:
        self.request: HostRequest = request
        self.is_turn: bool = is_turn
        self.inner: Blocked | None = None  # what goes on then, if it is not to begin anew


class Turn(HostRequest):
    """No question: others shall have their turn, and then the call goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_answered = True

    def forget(self) -> None:
        """Nothing is held."""


class StorageTurn(HostRequest):
    """No question either: something is over that others wait for, a call that takes long."""

    def come(self) -> None:
        """It is over."""
        self.is_answered = self.is_settled = True
        self.queue.wake()

    def forget(self) -> None:
        """Nothing is held."""


class LentWaits:
    """What of `HostWaits` is a call's that is in the middle of its handler while others run (kernel.lanes)."""

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
    """The call that runs now, as the clients see it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_wait: bool = False
        self.is_again: bool = False  # `journal` holds what an earlier run has asked
        self.journal: list[HostRequest] = []
        self.waits: int = 0  # for metrics and tests
        # The handler bears that others run in the middle of a call of the host
        self.bears_others: bool = False
        self.file: FileDescription | None = None  # on whose storage a call is made that may take long
        self.lane_turn: StorageTurn | None = None  # while all lanes but one are away: one is back

    def begin(self, journal: list[HostRequest]) -> None:
        """A handler that can be run again runs, now with these answers."""
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
        """Others run in the middle of the handler; what they are given is fresh."""
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
        """The handler goes on."""
        self.journal, self.walks = lent.journal, lent.walks
        self.may_wait, self.is_again, self.bears_others = lent.may_wait, lent.is_again, lent.bears_others

    def commit(self) -> None:
        """What the handler does from here on cannot be done again."""
        self.may_wait = False

    def rehearsed(self) -> None:
        """All that the rest will ask has been asked, and is in the journal; what has not is waited for on the spot."""
        self.may_wait = False
        self.is_again = len(self.journal) > 0
        for each in self.journal:
            each.is_taken = False

    def progress(self) -> None:
        """What has been done so far will not be done again: its answers have served."""
        if self.journal:
            journal = self.journal
            self.journal = []
            self.is_again = False
            forget_all(journal)

    def step_done(self, *, may_wait: bool) -> None:
        """A step of a call that goes on from here, should it wait, is done: `may_wait` as it was before that."""
        self.progress()
        self.may_wait = may_wait

    def end(self) -> None:
        """It has a result, or waits for something else: the answers have served."""
        self.may_wait = False
        self.is_again = False
        self.file = None  # a name that is gone would keep its file alive, and what that takes of the disk
        if self.walks:
            self.walks = []
        if self.journal:
            journal = self.journal
            self.journal = []
            forget_all(journal)

    def keep(self, wait: HostWait) -> tuple[list[HostRequest], list[PausedWalk]]:
        """The run has raised `wait`: what the next one begins with."""
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
            # The directory will be another: only what this call has changed itself is not to be asked again.
            stale = [each for each in journal if not each.is_once]
            journal = [each for each in journal if each.is_once]
            forget_all(stale)
            walks = []
        return journal, walks

    def block(self, task: TaskBase, wait: HostWait, inner: Blocked | None) -> int:
        """The handler has raised `wait`; BLOCKED."""
        journal, walks = self.keep(wait)
        blocked = HostBlocked(wait, journal, walks, inner)
        if isinstance(wait.request, Turn):
            return next_slice(task, blocked)
        return block_on(task, blocked, wait.request.queue)


def forget_all(journal: list[HostRequest]) -> None:
    """The answers have served."""
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
