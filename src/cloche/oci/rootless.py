"""Whether we are an ordinary user's: rootless engines call us as root of a user namespace of theirs.

The root there has capabilities over what the namespace owns; control groups, and what else is the host's, it has not.
"""

import os
from typing import Final

_ALL: Final = 4294967295  # ids that the first user namespace has


def in_user_namespace() -> bool:
    """Whether this is not the host's first user namespace (libcontainer/userns: a map that is not everybody's)."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            rows = [line.split() for line in file.read(4096).splitlines()]
    except OSError:
        return False  # there are none
    return rows != [["0", "0", str(_ALL)]]


def is_rootless() -> bool:
    """Whether the host's root is somebody else."""
    return os.geteuid() != 0 or in_user_namespace()
