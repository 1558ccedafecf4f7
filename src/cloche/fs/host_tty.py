"""`-t`: a terminal of the host bridged to a pseudo-terminal of the sandbox.

The process that owns the host's terminal has put it into raw mode; here its bytes are written to the master as keys,
and the output of the sandbox's terminal is written back. It never blocks: reads and writes are made only when the
descriptor is ready, in pieces that it takes at once. Only `flush`, at the end, waits a little, so that no output is
lost.
"""

import errno
import os
import select
from collections.abc import Callable
from typing import Final

from cloche.abi.poll import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, POLLHUP, POLLIN, POLLOUT
from cloche.fs.tty import Terminal
from cloche.fs.tty_files import SlaveFile, open_pair
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.task import Kernel
from cloche.kernel.timers import TTY_DRAIN, TimerOwner, monotonic_ns
from cloche.vfs.objects import Context
from cloche.vfs.waitqueue import Waiter, WaitQueue

_READ_BYTES: Final = 4096
_PIECE: Final = 256  # a terminal that polls writable takes this much without waiting, short of a stuck reader
FLUSH_LIMIT_MS: Final = 5000  # how long `flush` waits without any progress


class TerminalBridge(Waiter, TimerOwner, FdWatcher):
    """Moves bytes between host descriptors and the master side of `tty`."""

    def __init__(self, kernel: Kernel, tty: Terminal, in_fd: int, out_fd: int) -> None:
        self.kernel: Kernel = kernel
        self.tty: Terminal = tty
        self.in_fd: int = in_fd
        self.out_fd: int = out_fd
        self.in_poller: select.poll = select.poll()
        self.in_poller.register(in_fd, POLLIN)
        self.in_token: int = -1
        self.out_token: int = -1
        self.is_reading: bool = False
        self.is_writing: bool = False
        self.is_closed: bool = False
        self.on_drained: Callable[[], None] | None = None
        self.left_bytes: int = 0  # bytes of output left when `_give_up` last checked

    def start(self) -> None:
        """Begin: watch the keyboard and the sandbox's output."""
        self.tty.master_queue.add(self, POLLIN | POLLOUT)
        self._watch_input()

    # -- keys ------------------------------------------------------------------------------------------
    def _watch_input(self) -> None:
        if not self.is_reading and not self.is_closed:
            self.in_token = self.kernel.fds.watch(self.in_fd, EPOLLIN, self)
            self.is_reading = True

    def _pause_input(self) -> None:
        if self.is_reading:
            self.kernel.fds.unwatch(self.in_fd, self.in_token)
            self.is_reading = False

    def fd_ready(self, token: int, events: int) -> None:
        if self.is_writing and token == self.out_token:
            self._on_writable()
        else:
            self._on_input(events)

    def _on_input(self, events: int) -> None:
        room = self.tty.input_room()
        if room <= 0:
            self._pause_input()  # until the sandbox has read
            return
        if not events & EPOLLIN:
            if events & (EPOLLHUP | EPOLLERR):
                self.hang_up()
            return
        if not self.in_poller.poll(0):
            return  # a second event for data that was read already: another read would wait for a key
        try:
            data = os.read(self.in_fd, min(room, _READ_BYTES))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                self.hang_up()
            return
        if not data:
            self.hang_up()
            return
        self.tty.receive_from_master(data)

    # -- output ----------------------------------------------------------------------------------------
    def notify(self, queue: WaitQueue, mask: int) -> bool:
        if mask & POLLOUT and self.on_drained is None:
            self._watch_input()
        if mask & POLLIN and not self.is_writing:
            self._pump()
        return True

    def _pump(self) -> None:
        """Write pending output; wait for the descriptor if it does not take everything."""
        if self.is_closed:
            self.tty.take_output(len(self.tty.out))
        elif not self._write_ready() and not self.is_writing:
            # The same descriptor cannot be watched twice: keys wait while output is stuck.
            if self.in_fd == self.out_fd:
                self._pause_input()
            self.out_token = self.kernel.fds.watch(self.out_fd, EPOLLOUT, self)
            self.is_writing = True

    def _write_ready(self) -> bool:
        """Write while the descriptor is ready; returns whether everything was written."""
        tty = self.tty
        poller = select.poll()
        poller.register(self.out_fd, POLLOUT)
        while tty.out:
            if not poller.poll(0):
                return False
            try:
                count = os.write(self.out_fd, tty.out[:_PIECE])
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EINTR):
                    return False
                self.hang_up()
                return True
            tty.take_output(count)
        return True

    def _on_writable(self) -> None:
        if self._write_ready() and self.is_writing:
            self.kernel.fds.unwatch(self.out_fd, self.out_token)
            self.is_writing = False
            if self.on_drained is None:
                self._watch_input()
            else:
                self._drained()

    # -- the end ---------------------------------------------------------------------------------------
    def hang_up(self) -> None:
        """The host's terminal is gone: hang the sandbox's up."""
        if self.is_closed:
            return
        self._close()
        self.tty.take_output(len(self.tty.out))
        if self.on_drained is not None:
            self._drained()
        else:
            self.tty.master_closed()

    def drain(self, done: Callable[[], None]) -> None:
        """The program has ended, the sandbox goes on.

        The line is hung up for processes that still have it open; `done` is called once the output is written, or the
        host's terminal has taken nothing for a while.
        """
        if self.is_closed:
            done()
            return
        self.on_drained = done
        self._pause_input()
        self.tty.master_closed()
        self._pump()
        if not self.tty.out:
            self._drained()
        else:
            self._watch_progress()

    def _watch_progress(self) -> None:
        self.left_bytes = len(self.tty.out)
        self.kernel.timers.add(monotonic_ns() + FLUSH_LIMIT_MS * 1_000_000, TTY_DRAIN, self)

    def timer_due(self, kind: int, argument: int) -> None:
        if self.on_drained is None:
            return
        if len(self.tty.out) == self.left_bytes:
            self._drained()
        else:
            self._watch_progress()

    def _drained(self) -> None:
        done = self.on_drained
        self.on_drained = None
        if not self.is_closed:
            self._close()
        if done is not None:
            done()

    def close(self) -> None:
        """Close a bridge on which no program was started."""
        if not self.is_closed:
            self._close()
            self.tty.master_closed()

    def _close(self) -> None:
        self.is_closed = True
        self._pause_input()
        if self.is_writing:
            self.kernel.fds.unwatch(self.out_fd, self.out_token)
            self.is_writing = False
        self.tty.master_queue.remove(self)

    def flush(self) -> None:
        """At the end of the sandbox.

        Write what is left, waiting for the terminal as long as it makes progress.
        """
        if self.is_closed:
            return
        self._close()
        self.is_closed = False
        poller = select.poll()
        poller.register(self.out_fd, POLLOUT)
        while self.tty.out:
            ready = poller.poll(FLUSH_LIMIT_MS)
            if not ready or ready[0][1] & POLLHUP:
                break
            before = len(self.tty.out)
            self._write_ready()
            if self.is_closed or len(self.tty.out) == before:
                break
        self.is_closed = True

    def resize(self, rows: int, columns: int) -> None:
        """The host's window has this size now."""
        self.tty.resize((rows, columns, 0, 0))


def bridge_terminal(
    ctx: Context, kernel: Kernel, in_fd: int, out_fd: int
) -> tuple[TerminalBridge, SlaveFile]:
    """Make a terminal inside for one of the host's: the running bridge, and a slave for the standard streams.

    Needs `devpts_fs`.  Boot makes it the controlling one with `bridge.tty.adopt(group)` and calls `bridge.flush()` at
    the end.
    """
    tty, slave = open_pair(ctx)
    bridge = TerminalBridge(kernel, tty, in_fd, out_fd)
    bridge.start()
    return bridge, slave
