"""Whether the runtime runs for an ordinary user: rootless engines call it as root of a user namespace.

The root there has capabilities over what the namespace owns; control groups, and what else is the host's, it has not.
"""

import os
from typing import Final

_ALL: Final = 4294967295  # ids that the first user namespace has


def in_user_namespace() -> bool:
    """Whether this is not the host's first user namespace (libcontainer/userns: a map other than the initial one)."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            rows = [line.split() for line in file.read(4096).splitlines()]
    except OSError:
        return False  # there are none
    return rows != [["0", "0", str(_ALL)]]


def is_rootless() -> bool:
    """Whether this process does not have the rights of the host's root."""
    return os.geteuid() != 0 or in_user_namespace()
