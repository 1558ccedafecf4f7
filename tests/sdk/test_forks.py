"""What a process that is forked from the caller must not take from it."""

import os
from collections.abc import Callable, Iterator

import pytest

from cloche import Sandbox
from cloche.sdk import SandboxError

PATIENCE_S = 60.0


def in_a_fork(work: Callable[[], None]) -> int:
    """The status of a fork that has done this: 0 if it raised nothing."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def test_events_stay_with_the_parent(shared: Sandbox) -> None:
    events, watch = shared.events(), shared.files.watch_dir("/tmp")
    shared.pause()
    shared.resume()
    shared.files.write("/tmp/of-the-parent", "x")
    calls: list[Callable[[], object]] = [
        lambda: events.next_event(0),
        lambda: list(events),
        lambda: watch.next_event(0),
        watch.get_new_events,
        lambda: list(watch),
    ]

    def steal() -> None:
        for call in calls:
            with pytest.raises(SandboxError, match="fork"):
                call()
        with shared.events() as mine:  # one of its own
            assert mine.next_event(0) is None
        events.stop()
        watch.stop()

    assert in_a_fork(steal) == 0
    assert [getattr(events.next_event(PATIENCE_S), "type", None) for _ in range(2)] == ["paused", "resumed"]
    while (event := watch.next_event(PATIENCE_S)) is not None and event.path != "/tmp/of-the-parent":
        pass  # of the temporary name
    assert event is not None
    shared.pause()  # the fork, which stopped its copies, has not stopped these
    shared.resume()
    assert [getattr(events.next_event(PATIENCE_S), "type", None) for _ in range(2)] == ["paused", "resumed"]
    events.stop()
    watch.stop()
    assert events.next_event(0) is None and watch.get_new_events() == []


def test_a_file_that_is_read_in_pieces_stays_with_the_parent(shared: Sandbox) -> None:
    data = os.urandom(3 << 20)
    shared.files.write("/tmp/long", data)
    pieces: Iterator[bytes] = shared.files.stream("/tmp/long")
    first = next(pieces)

    def steal() -> None:
        with pytest.raises(SandboxError, match="fork"):
            while next(pieces):
                pass

    assert in_a_fork(steal) == 0
    assert first + b"".join(pieces) == data
