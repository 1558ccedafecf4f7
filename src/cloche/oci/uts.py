"""The host name of a namespace of the host."""

import os

from cloche.abi.sched import CLONE_NEWUTS
from cloche.platform import hostsys

__all__ = ["host_name"]


def host_name(pid: int) -> bytes:
    """That of the namespace which a process is in.  Raises OSError."""
    own = os.open("/proc/self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        hostsys.setns(other, CLONE_NEWUTS)
        return os.uname().nodename.encode()
    finally:
        hostsys.setns(own, CLONE_NEWUTS)
        os.close(own)
        os.close(other)
