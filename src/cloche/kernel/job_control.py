"""Job control of one process (signal(7), wait(2)); its rules are in `kernel.signals`."""


class JobControl:
    """A process's stop by SIGSTOP and its kin, and the news that its parent has not waited for yet (signal(7),
    wait(2)).

    Invariant: a process is stopped only while a stop is in force; of a stop and its end only the later one is news.
    """

    def __init__(self) -> None:
        self.is_stopping: bool = False  # a stop is in force: every thread shall park
        self.is_stopped: bool = False  # ... and all have
        self.signal: int = 0  # of the last stop
        self.is_stop_news: bool = False  # the parent has not waited for the last stop
        self.is_continue_news: bool = False

    def begin(self, signo: int) -> None:
        """A stop signal was taken."""
        self.is_stopping = True
        self.signal = signo

    def complete(self) -> None:
        """The last thread has parked."""
        assert self.is_stopping
        self.is_stopped = True
        self.is_stop_news = True
        self.is_continue_news = False

    def end(self) -> bool:
        """SIGCONT: the stop is over; whether it was complete."""
        was_stopped = self.is_stopped
        self.is_stopping = False
        self.is_stopped = False
        self.is_stop_news = False
        self.is_continue_news = True
        return was_stopped
