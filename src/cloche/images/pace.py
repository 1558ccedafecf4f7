"""How long a server may take for an answer: one that sends a byte a minute must not keep a pull for ever.

The timeouts of sockets begin anew with each byte. So a timer ends the connection of the thread's request, at the time
that is right for the size of what is asked for, wherever it is then: connecting, in a TLS handshake, in headers or in
a body.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

ANSWER_S = 120.0  # for an answer that is not large
SLOWEST_BYTES_S = 8192.0  # and for each byte of a large one

_active: dict[int, socket.socket] = {}  # the connection of each thread's request

_limits: dict[int, list["_Limit"]] = {}  # of each thread, the outermost first


class TooSlowError(Exception):
    """A server has taken too long."""


def allowed_s(size: int) -> float:
    """Seconds for an answer (or a request) of `size` bytes, with all that is repeated."""
    return ANSWER_S + size / SLOWEST_BYTES_S


class _Limit:
    """One use of `within`."""

    def __init__(self, thread: int) -> None:
        self.thread: int = thread
        self.lock: threading.Lock = threading.Lock()
        self.is_over: bool = False
        self.is_late: bool = False

    def cut(self) -> None:
        """The time is up."""
        with self.lock:
            if self.is_over:
                return
            self.is_late = True
            sock = _active.get(self.thread)
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """End the requests that this thread makes here if they are not over in time; uses may be nested.

    Raises TooSlowError, also at the beginning if an outer use is late.
    """
    limits = _limits.setdefault(threading.get_ident(), [])
    if any(each.is_late for each in limits):
        raise TooSlowError
    limit = _Limit(threading.get_ident())
    limits.append(limit)
    timer = threading.Timer(seconds, limit.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
        if limit.is_late:  # what was read ends where the connection was cut
            raise TooSlowError
    except Exception as error:
        if limit.is_late and not isinstance(error, TooSlowError):
            raise TooSlowError from error
        raise
    finally:
        with limit.lock:
            limit.is_over = True
        timer.cancel()
        limits.remove(limit)


class _Plain(HTTPConnection):
    """A connection that `within` can end. Its twin is the same socket, also while TLS is set up on it."""

    _twin: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        self._twin = sock.dup()
        _active[threading.get_ident()] = self._twin
        return sock

    def putrequest(self, *args: Any, **settings: Any) -> None:
        if self._twin is not None:
            _active[threading.get_ident()] = self._twin
        super().putrequest(*args, **settings)

    def close(self) -> None:
        twin, self._twin = self._twin, None
        if twin is not None:
            for thread, sock in list(_active.items()):
                if sock is twin:
                    _active.pop(thread, None)
            twin.close()
        super().close()


class _Secure(_Plain, HTTPSConnection):
    """The same with TLS."""


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure


def watch(pool: urllib3.PoolManager) -> None:
    """Have all connections of a pool be such that `within` can end them."""
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
