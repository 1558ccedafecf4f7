"""Signals as bytes on a descriptor, so that a loop that polls descriptors sees signals as well."""

import os
import signal
from typing import Any, Final

_NOTHING: Final[dict[int, Any]] = {}
# The handler. Not a Python function: such a function handles pending signals when it is entered, so a flood of
# signals would nest without end.
NOTED: Final = _NOTHING.get


def note_signals(signals: tuple[int, ...], *, keeps_ignored: bool = False) -> int:
    """Return a descriptor from which the numbers of arriving `signals` can be read, a byte each; they have no other
    effect.

    `keeps_ignored`: signals that are ignored, as nohup(1) leaves them, stay so. To be called once in a process.
    """
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for signo in signals:
        if not keeps_ignored or signal.getsignal(signo) != signal.SIG_IGN:
            signal.signal(signo, NOTED)
    return wake_read
