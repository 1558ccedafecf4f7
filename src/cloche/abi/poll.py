"""Event bits of poll(2), select(2) and epoll(7)."""

from typing import Final

# poll(2)
POLLIN: Final = 0x1
POLLPRI: Final = 0x2
POLLOUT: Final = 0x4
POLLERR: Final = 0x8
POLLHUP: Final = 0x10
POLLNVAL: Final = 0x20
POLLRDNORM: Final = 0x40
POLLRDBAND: Final = 0x80
POLLWRNORM: Final = 0x100
POLLWRBAND: Final = 0x200
POLLMSG: Final = 0x400
POLLREMOVE: Final = 0x1000
POLLRDHUP: Final = 0x2000

# epoll(7)
EPOLL_CLOEXEC: Final = 0o2000000
EPOLL_CTL_ADD: Final = 1
EPOLL_CTL_DEL: Final = 2
EPOLL_CTL_MOD: Final = 3

EPOLLIN: Final = 0x1
EPOLLPRI: Final = 0x2
EPOLLOUT: Final = 0x4
EPOLLRDNORM: Final = 0x40
EPOLLRDBAND: Final = 0x80
EPOLLWRNORM: Final = 0x100
EPOLLWRBAND: Final = 0x200
EPOLLMSG: Final = 0x400
EPOLLERR: Final = 0x8
EPOLLHUP: Final = 0x10
EPOLLRDHUP: Final = 0x2000
EPOLLEXCLUSIVE: Final = 0x10000000
EPOLLWAKEUP: Final = 0x20000000
EPOLLONESHOT: Final = 0x40000000
EPOLLET: Final = 0x80000000
EPOLL_IOC_TYPE: Final = 0x8A

# select(2): how a poll mask is read for each of the three sets (fs/select.c)
POLLIN_SET: Final = 0x0040 | 0x0080 | 0x0001 | 0x0010 | 0x0008  # RDNORM RDBAND IN HUP ERR
POLLOUT_SET: Final = 0x0200 | 0x0100 | 0x0004 | 0x0008  # WRBAND WRNORM OUT ERR
POLLEX_SET: Final = 0x0002  # PRI
FD_SETSIZE: Final = 1024
