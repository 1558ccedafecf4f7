"""O_ASYNC: a signal to the owner of an open file when it becomes ready (fcntl(2), "Managing signals"; fs/fcntl.c).

Owns the notifiers, which live on the wait queue of the file from `set_async` until it is switched off or the
last reference to the file goes.
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_KILL
from cloche.abi.fcntl import F_OWNER_PGRP, F_OWNER_TID
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDNORM, POLLWRNORM
from cloche.abi.signal import POLL_ERR, POLL_HUP, POLL_IN, POLL_OUT, SIGIO
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.signals import kernel_info, send_group_info, send_task_info, target_of
from cloche.kernel.task import Kernel, Task, ThreadGroup
from cloche.vfs.credentials import Credentials
from cloche.vfs.objects import CloseListener, FileDescription
from cloche.vfs.waitqueue import Waiter, WaitQueue

_SI_POLL: Final = Struct("<iiixxxxqi")
_IN: Final = POLLIN | POLLRDNORM | POLLPRI
_OUT: Final = POLLOUT | POLLWRNORM


class AsyncNotifier(Waiter):
    """Sends SIGIO, or what F_SETSIG chose, for one open file."""

    def __init__(self, kernel: Kernel, file: FileDescription, fd: int) -> None:
        self.kernel: Kernel = kernel
        self.file: FileDescription = file
        # si_fd: the descriptor by which it was switched on, even if that is closed by now (fa_fd)
        self.fd: int = fd

    def notify(self, queue: WaitQueue, mask: int) -> bool:
        file = self.file
        # The two ends of a pipe share a queue: each hears only of its own side.
        if not file.is_readable():
            mask &= ~_IN
        if not file.is_writable():
            mask &= ~_OUT
        if mask & _IN:
            code = POLL_IN
        elif mask & _OUT:
            code = POLL_OUT
        elif mask & POLLERR:
            code = POLL_ERR
        elif mask & POLLHUP:
            code = POLL_HUP
        else:
            return False
        signal_owner(self.kernel, file, code, mask, self.fd)
        return False


class _Ender(CloseListener):
    """Takes a notifier off its queue when the file is gone."""

    def __init__(self, notifier: AsyncNotifier, queue: WaitQueue) -> None:
        self.notifier: AsyncNotifier = notifier
        self.queue: WaitQueue = queue

    def file_closed(self, file: FileDescription) -> None:
        self.queue.remove(self.notifier)


def signal_owner(kernel: Kernel, file: FileDescription, code: int, band: int, fd: int) -> None:
    """Send SIGIO, or the signal of F_SETSIG, to the owner that F_SETOWN has set (send_sigio)."""
    creds = file.owner_creds
    if file.owner_pid == 0 or creds is None:
        return
    if file.owner_type == F_OWNER_TID:
        task = kernel.tasks.get(file.owner_pid)
        if task is not None and _may_notify(creds, task):
            send_task_info(task, _info(file.owner_signal, code, band, fd))
        return
    groups: list[ThreadGroup] = []
    if file.owner_type == F_OWNER_PGRP:
        pgrp = kernel.process_groups.get(file.owner_pid)
        if pgrp is not None:
            groups = list(pgrp.members)
    else:
        found = kernel.groups.get(file.owner_pid)
        if found is not None:
            groups = [found]
    for group in groups:
        target = target_of(group)
        if target is not None and _may_notify(creds, target):
            send_group_info(group, _info(file.owner_signal, code, band, fd))


def _info(signo: int, code: int, band: int, fd: int) -> SigInfo:
    if signo == 0:
        return kernel_info(SIGIO)
    raw = _SI_POLL.pack(signo, 0, code, band, fd)
    return SigInfo(signo, code, raw + bytes(128 - len(raw)))


def _may_notify(creds: Credentials, target: Task) -> bool:
    """sigio_perm: whether the process that has set the owner may signal `target`."""
    theirs = target.creds
    return (
        creds.euid == 0
        or creds.euid in (theirs.suid, theirs.uid)
        or creds.uid in (theirs.suid, theirs.uid)
        or creds.capable(CAP_KILL)
    )


def set_async(kernel: Kernel, file: FileDescription, fd: int, *, is_on: bool) -> bool:
    """Switch notification by the descriptor `fd` on or off; False if the file never becomes ready (it has no queue)."""
    queue = file.wait_queue()
    if queue is None:
        return False
    listeners = file.epoll_items if file.epoll_items is not None else []
    kept: list[CloseListener] = []
    for listener in listeners:
        if isinstance(listener, _Ender):
            queue.remove(listener.notifier)
        else:
            kept.append(listener)
    if is_on:
        notifier = AsyncNotifier(kernel, file, fd)
        queue.add(notifier)
        kept.append(_Ender(notifier, queue))
    file.epoll_items = kept if kept else None
    return True
