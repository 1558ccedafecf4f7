"""How one implementation serves two fronts: it is written as generators, which yield an effect where they would wait.

There are two effects: waiting for descriptors or a moment, and calling a function of the user's.  A driver performs
them: `drive` by poll(2) in the calling thread, `drive_async` with the running asyncio loop. Between effects nothing
blocks: sockets and pipes are waited for nowhere else. An exception of a driver (KeyboardInterrupt, CancelledError) is
raised inside the generator, whose `finally` blocks then clean up.
"""

import asyncio
import inspect
import math
import os
import select
import time
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, TypeVar

from cloche.sdk.errors import InvalidArgument

T = TypeVar("T")
_MAX_WAIT_S: Final = 1_000_000.0


class Wait:
    """Until one of `readers` can be read or one of `writers` written, or `deadline_s` (CLOCK_MONOTONIC) has come.

    The answer is the set of descriptors that are ready, empty when time is up.
    """

    __slots__ = ("deadline_s", "readers", "writers")

    def __init__(self, readers: list[int], writers: list[int], deadline_s: float | None) -> None:
        self.readers: list[int] = readers
        self.writers: list[int] = writers
        self.deadline_s: float | None = deadline_s


class Call:
    """Call a function of the user's; the asyncio front awaits its result, if that can be awaited."""

    __slots__ = ("argument", "function")

    def __init__(self, function: Callable[[Any], object], argument: object) -> None:
        self.function: Callable[[Any], object] = function
        self.argument: object = argument


Effect = Wait | Call
Steps = Generator[Effect, Any, T]


class Source(Generic[T]):
    """Where events come from, for the handles of both fronts."""

    def next_event(self, deadline_s: float | None) -> Steps[T | None]:
        """The next one; None if none came in time, or no more will come.  Raises SandboxError."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the events."""
        raise NotImplementedError


def wait(
    readers: list[int], writers: list[int] | None = None, deadline_s: float | None = None
) -> Steps[set[int]]:
    """The effect, with the type of its answer."""
    ready: set[int] = yield Wait(readers, writers or [], deadline_s)
    return ready


def pause(seconds: float) -> Steps[None]:
    """Wait for some seconds."""
    yield Wait([], [], time.monotonic() + seconds)


def deadline_of(timeout: float | None) -> float | None:
    """The moment at which `timeout` seconds from now have passed.  Raises InvalidArgument."""
    if timeout is None:
        return None
    try:
        moment_s = time.monotonic() + timeout
    except TypeError:
        moment_s = math.nan
    if math.isnan(moment_s):
        raise InvalidArgument(f"timeout: {timeout!r}: a number of seconds, or None for no limit")
    return moment_s


# -- in the calling thread ---------------------------------------------------------------------------------------
def _poll(effect: Wait) -> set[int]:
    poller = select.poll()
    for fd in {*effect.readers, *effect.writers}:
        events = (select.POLLIN if fd in effect.readers else 0) | (
            select.POLLOUT if fd in effect.writers else 0
        )
        poller.register(fd, events)
    if effect.deadline_s is None:
        return {fd for fd, _events in poller.poll()}
    while True:
        left_s = min(max(effect.deadline_s - time.monotonic(), 0.0), _MAX_WAIT_S)
        ready = {fd for fd, _events in poller.poll(left_s * 1000)}
        if ready or left_s == 0.0:
            return ready


def _perform(effect: Effect) -> object:
    if isinstance(effect, Wait):
        return _poll(effect)
    return effect.function(effect.argument)


def drive(steps: Steps[T]) -> T:
    """Run the generator to its end; returns its result. Waits by poll(2)."""
    try:
        effect = next(steps)
        while True:
            try:
                answer = _perform(effect)
            except BaseException as failure:
                effect = steps.throw(failure)
            else:
                effect = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


# -- with asyncio ------------------------------------------------------------------------------------------------
async def _watch(effect: Wait) -> set[int]:
    """`_poll`, by the loop's own means."""
    left_s = None if effect.deadline_s is None else max(effect.deadline_s - time.monotonic(), 0.0)
    if not effect.readers and not effect.writers:
        await asyncio.sleep(min(left_s or 0.0, _MAX_WAIT_S))
        return set()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    ready: set[int] = set()

    def note(fd: int) -> None:
        ready.add(fd)
        if not done.done():
            done.set_result(None)

    timer = None if left_s is None else loop.call_later(min(left_s, _MAX_WAIT_S), note, -1)
    # The loop watches copies: it has one callback for a number, and others may wait for the same descriptor; and it
    # must not keep a number that was closed, and is something else by then.
    copies: list[int] = []
    try:
        for fd in {*effect.readers, *effect.writers}:
            copy = os.dup(fd)
            copies.append(copy)
            if fd in effect.readers:
                loop.add_reader(copy, note, fd)
            if fd in effect.writers:
                loop.add_writer(copy, note, fd)
        await done
    finally:
        for copy in copies:
            loop.remove_reader(copy)
            loop.remove_writer(copy)
            os.close(copy)
        if timer is not None:
            timer.cancel()
    ready.discard(-1)
    return ready


async def _perform_async(effect: Effect) -> object:
    if isinstance(effect, Wait):
        return await _watch(effect)
    answer = effect.function(effect.argument)
    return await answer if inspect.isawaitable(answer) else answer


async def drive_async(steps: Steps[T]) -> T:
    """Run the generator to its end; returns its result. When cancelled, the generator cleans up."""
    try:
        effect = next(steps)
        while True:
            try:
                answer = await _perform_async(effect)
            except BaseException as failure:
                effect = steps.throw(failure)
            else:
                effect = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
