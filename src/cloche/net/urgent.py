"""SIGURG: sent to the owner of a socket when urgent data arrives (sk_send_sigurg)."""

from cloche.abi.signal import SIGURG
from cloche.kernel.signals import kernel_info, send_group_info, send_task_info
from cloche.net.socket import SocketFile


def signal_owner(sock: SocketFile) -> None:
    """Send SIGURG to the thread, process or process group of F_SETOWN."""
    number = sock.owner_pid
    if not number:
        return
    kernel = sock.kernel
    if sock.owner_type == 0:
        task = kernel.tasks.get(number)
        if task is not None:
            send_task_info(task, kernel_info(SIGURG))
    elif sock.owner_type == 1:
        group = kernel.groups.get(number)
        if group is not None:
            send_group_info(group, kernel_info(SIGURG))
    else:
        pgrp = kernel.process_groups.get(number)
        if pgrp is not None:
            for member in list(pgrp.members):
                send_group_info(member, kernel_info(SIGURG))
