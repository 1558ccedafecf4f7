"""Moves the bytes of a body from one plain socket to another, without looking at them.

They go through a pipe (splice(2)) and are never in egress's memory; if no pipe is to be had, through a buffer. There
are no tasks and futures for each piece: the pipe is filled and emptied as the loop reports that the sockets are ready.
"""

import asyncio
import fcntl
import os
import socket
from collections.abc import Callable
from typing import Final

from cloche.abi.fcntl import F_SETPIPE_SZ

__all__ = ["LEAST", "pour"]

LEAST: Final = 65536  # bytes for which a pipe is worth it
_HELD: Final = 262144  # bytes in a pipe
_MAX_PIPES: Final = 128
_TURNS: Final = 16  # pieces before other connections have a turn
_MOVE: Final = 1 | 2  # SPLICE_F_MOVE, SPLICE_F_NONBLOCK; Python 3.11 has no names for them

_pipes: int = 0  # that exist now


async def pour(
    source: socket.socket, sink: socket.socket, count: int, on_moved: Callable[[int], None]
) -> None:
    """Move `count` bytes; `on_moved` gets the size of each piece that has reached `sink`.

    Raises OSError, also if `source` ends before.
    """
    global _pipes
    pipe: tuple[int, int] | None = None
    if _pipes < _MAX_PIPES:
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            pass  # too many descriptors: as if there were too many pipes
    if pipe is None:
        await _copy(source, sink, count, on_moved)
        return
    _pipes += 1
    try:
        await _Pouring(source.fileno(), sink.fileno(), pipe, count, on_moved).run()
    finally:
        _pipes -= 1
        for each in pipe:
            os.close(each)


async def _copy(
    source: socket.socket, sink: socket.socket, count: int, on_moved: Callable[[int], None]
) -> None:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(min(count, _HELD)))
    while count:
        taken = await loop.sock_recv_into(source, buffer[: min(count, _HELD)])
        if not taken:
            raise ConnectionError("a body ends early")
        await loop.sock_sendall(sink, buffer[:taken])
        count -= taken
        on_moved(taken)


class _Pouring:
    """One body on its way through a pipe."""

    def __init__(
        self, source: int, sink: int, pipe: tuple[int, int], count: int, on_moved: Callable[[int], None]
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.source: int = source
        self.sink: int = sink
        self.exit: int = pipe[0]
        self.entry: int = pipe[1]
        self.left: int = count  # bytes that are still to be taken from `source`
        self.held: int = 0  # bytes in the pipe
        self.on_moved: Callable[[int], None] = on_moved
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.is_reading: bool = False  # the loop watches `source`
        self.is_writing: bool = False  # the loop watches `sink`
        try:
            fcntl.fcntl(self.entry, F_SETPIPE_SZ, _HELD)
        except OSError:
            pass  # the user has large pipes enough; a small one works as well

    async def run(self) -> None:
        """Until all has been moved.  Raises OSError."""
        self._step()
        try:
            await self.done
        finally:
            self.done.cancel()
            self._watch(reads=False, writes=False)

    def _step(self) -> None:
        if self.done.done():
            return
        try:
            self._move()
        except OSError as failure:
            self.done.set_exception(failure)

    def _move(self) -> None:
        """Raises OSError."""
        for _turn in range(_TURNS):
            if self.left and self.held < _HELD:
                try:
                    taken = os.splice(self.source, self.entry, min(self.left, _HELD - self.held), flags=_MOVE)
                except BlockingIOError:  # the source has nothing, or the pipe no room
                    if not self.held:
                        self._watch(reads=True, writes=False)
                        return
                else:
                    if not taken:
                        raise ConnectionError("a body ends early")
                    self.left -= taken
                    self.held += taken
            try:
                given = os.splice(self.exit, self.sink, self.held, flags=_MOVE)
            except BlockingIOError:
                self._watch(reads=False, writes=True)
                return
            self.held -= given
            self.on_moved(given)
            if not self.left and not self.held:
                self.done.set_result(None)
                return
        self._watch(reads=False, writes=False)
        self.loop.call_soon(self._step)

    def _watch(self, *, reads: bool, writes: bool) -> None:
        if reads != self.is_reading:
            self.is_reading = reads
            if reads:
                self.loop.add_reader(self.source, self._step)
            else:
                self.loop.remove_reader(self.source)
        if writes != self.is_writing:
            self.is_writing = writes
            if writes:
                self.loop.add_writer(self.sink, self._step)
            else:
                self.loop.remove_writer(self.sink)
