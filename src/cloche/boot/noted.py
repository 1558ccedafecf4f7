"""Signals as bytes on a descriptor, for loops that poll: whoever waits for descriptors waits for signals with them."""

import os
import signal
from typing import Any, Final

_NOTHING: Final[dict[int, Any]] = {}
# The handler.  Not a function of Python: that looks for signals when it is entered, so a flood of them would nest
# without end.
NOTED: Final = _NOTHING.get


def note_signals(signals: tuple[int, ...], *, keeps_ignored: bool = False) -> int:
    """From now on each of `signals` has no effect but that its number comes from the descriptor that this returns.

    `keeps_ignored`: but those that are ignored, as nohup(1) leaves them.  Once in a process.
    """
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for signo in signals:
        if not keeps_ignored or signal.getsignal(signo) != signal.SIG_IGN:
            signal.signal(signo, NOTED)
    return wake_read
