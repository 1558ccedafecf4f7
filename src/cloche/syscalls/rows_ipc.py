"""Rows of the table of system calls: sockets, and the messages, semaphores and shared memory of System V and POSIX.

The columns are explained in `row.py`.
"""

from typing import Final

from cloche.syscalls.row import FULL, PARTIAL, Row, array, fixed, payload, row
from cloche.syscalls.sys_mq import (
    sys_mq_getsetattr,
    sys_mq_notify,
    sys_mq_open,
    sys_mq_timedreceive,
    sys_mq_timedsend,
    sys_mq_unlink,
)
from cloche.syscalls.sys_msg import (
    sys_recvfrom,
    sys_recvmmsg,
    sys_recvmsg,
    sys_sendmmsg,
    sys_sendmsg,
    sys_sendto,
)
from cloche.syscalls.sys_msgq import sys_msgctl, sys_msgget, sys_msgrcv, sys_msgsnd
from cloche.syscalls.sys_sem import sys_semctl, sys_semget, sys_semop, sys_semtimedop
from cloche.syscalls.sys_shm import sys_shmat, sys_shmctl, sys_shmdt, sys_shmget
from cloche.syscalls.sys_socket import (
    sys_accept,
    sys_accept4,
    sys_bind,
    sys_connect,
    sys_getpeername,
    sys_getsockname,
    sys_listen,
    sys_shutdown,
    sys_socket,
    sys_socketpair,
)
from cloche.syscalls.sys_sockopt import sys_getsockopt, sys_setsockopt

_OPTIONS: Final = "no IPV6_FLOWLABEL_MGR, no IPv6 headers of options on raw and TCP sockets"

ROWS: Final[list[Row]] = [
    row(29, "shmget", sys_shmget, FULL, "xux"),
    row(30, "shmat", sys_shmat, FULL, "dpx=x"),
    row(31, "shmctl", sys_shmctl, FULL, "ddp"),
    row(41, "socket", sys_socket, FULL, "ddd"),
    row(42, "connect", sys_connect, FULL, "fpd", prefetch=[array(1, 2, 1, 128)]),
    row(43, "accept", sys_accept, FULL, "fpp", prefetch=[fixed(2, 4)]),
    row(44, "sendto", sys_sendto, FULL, "fbuxpu", prefetch=[payload(1, 2), array(4, 5, 1, 128)]),
    row(45, "recvfrom", sys_recvfrom, FULL, "fruxpp"),
    row(46, "sendmsg", sys_sendmsg, FULL, "fpx", prefetch=[fixed(1, 56)]),
    row(47, "recvmsg", sys_recvmsg, FULL, "fpx", prefetch=[fixed(1, 56)]),
    row(48, "shutdown", sys_shutdown, FULL, "fd"),
    row(49, "bind", sys_bind, FULL, "fpu", prefetch=[array(1, 2, 1, 128)]),
    row(50, "listen", sys_listen, FULL, "fd"),
    row(51, "getsockname", sys_getsockname, FULL, "fpp", prefetch=[fixed(2, 4)]),
    row(52, "getpeername", sys_getpeername, FULL, "fpp", prefetch=[fixed(2, 4)]),
    row(53, "socketpair", sys_socketpair, FULL, "dddp"),
    row(54, "setsockopt", sys_setsockopt, PARTIAL, "fddpu", _OPTIONS, prefetch=[array(3, 4, 1, 128)]),
    row(55, "getsockopt", sys_getsockopt, FULL, "fddpp", prefetch=[fixed(4, 4)]),
    row(64, "semget", sys_semget, FULL, "xdx"),
    row(65, "semop", sys_semop, FULL, "dpu"),
    row(66, "semctl", sys_semctl, FULL, "dddx"),
    row(67, "shmdt", sys_shmdt, FULL, "p"),
    row(68, "msgget", sys_msgget, FULL, "xx"),
    row(69, "msgsnd", sys_msgsnd, FULL, "dpux"),
    row(70, "msgrcv", sys_msgrcv, FULL, "dpudx"),
    row(71, "msgctl", sys_msgctl, FULL, "ddp"),
    row(220, "semtimedop", sys_semtimedop, FULL, "dpup"),
    row(240, "mq_open", sys_mq_open, FULL, "sOop"),
    row(241, "mq_unlink", sys_mq_unlink, FULL, "s"),
    row(242, "mq_timedsend", sys_mq_timedsend, FULL, "fbuup"),
    row(243, "mq_timedreceive", sys_mq_timedreceive, FULL, "frupp"),
    row(244, "mq_notify", sys_mq_notify, FULL, "fp"),
    row(245, "mq_getsetattr", sys_mq_getsetattr, FULL, "fpp"),
    row(288, "accept4", sys_accept4, FULL, "fppx", prefetch=[fixed(2, 4)]),
    row(299, "recvmmsg", sys_recvmmsg, FULL, "fpuxp"),
    row(307, "sendmmsg", sys_sendmmsg, FULL, "fpux"),
]
