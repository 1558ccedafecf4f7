"""The descriptors of the caller that become the program's; `create` looks at them before it opens any."""

import fcntl
import os
import stat

from cloche.oci.errors import OciError

__all__ = ["fill_standard_streams", "listen_count", "passed_streams"]


def passed_streams(preserved: str, activated: int = 0) -> list[int]:
    """This process's descriptors that become the program's: the standard streams (-1: closed), and as many behind them
    as `activated` and `preserved` say together.  They must be those of the caller, so nothing was opened yet that stays
    open over execve.

    Raises OciError.
    """
    found = _standard_streams()
    if not preserved.isdecimal():
        raise OciError(f'invalid value "{preserved}" for flag -preserve-fds: parse error')
    count = activated + int(preserved)
    if count:
        from cloche.wire.requests import MAX_STREAMS

        if count > MAX_STREAMS - len(found):
            raise OciError(f"--preserve-fds: at most {MAX_STREAMS - len(found)} descriptors can be passed on")
    for fd in range(len(found), len(found) + count):
        try:
            is_given = fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC == 0
        except OSError:
            is_given = False
        if not is_given:
            raise OciError(f"please check that preserved-fd {fd} (of {count}) is present")
        problem = _why_not(fd)
        if problem:
            raise OciError(f"--preserve-fds: descriptor {fd} {problem}")
        found.append(fd)
    return found


def _why_not(fd: int) -> str:
    """Why a descriptor cannot be passed on; empty if it can. The sentry reads and writes it, and can do no more."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return ""
    can = "files, pipes, terminals, connected stream sockets and listeners of TCP can be passed on"
    if stat.S_ISDIR(mode):
        return f"is a directory; {can}"
    if not stat.S_ISSOCK(mode):
        return f"is of a kind that cannot be passed on; {can}"
    import socket

    from cloche.wire.descriptors import tcp_listener

    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
            return f"is a socket, but not of a stream; {can}"
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return ""
    listener = tcp_listener(fd)
    if listener is None:
        return f"is a socket that listens, and not of TCP; {can}"
    listener.close()
    return ""


def listen_count() -> int:
    """How many descriptors the caller passes on by socket activation (sd_listen_fds(3)), which begin with 3."""
    pid, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
    return int(count) if pid == str(os.getpid()) and count.isdecimal() else 0


def _standard_streams() -> list[int]:
    """This process's standard streams, which become the program's; -1: closed."""
    found: list[int] = []
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            found.append(-1)
        else:
            found.append(fd)
    return found


def fill_standard_streams() -> None:
    """Those that the caller has closed must not become something else."""
    for fd, found in enumerate(_standard_streams()):
        if found < 0:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so `fd`
            os.set_inheritable(fd, True)
