"""Memory policies as numbers, on a machine whose only node is 0 (set_mempolicy(2), mm/mempolicy.c).

Who has one keeps the number: `Scheduling.memory_policy`, and the areas of an address space.
"""

from typing import Final

from cloche.abi.errno import EINVAL, LinuxError
from cloche.abi.mman import (
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_LOCAL,
    MPOL_MODE_FLAGS,
    MPOL_PREFERRED,
    MPOL_PREFERRED_MANY,
    MPOL_WEIGHTED_INTERLEAVE,
)

NODE_SHIFT: Final = 16  # a policy is its mode, with flags, and its nodes from this bit on
_NAMES: Final = ("default", "prefer", "bind", "interleave", "local", "prefer (many)", "weighted interleave")


def policy_text(policy: int) -> str:
    """A policy as /proc/PID/numa_maps shows it (mpol_to_str)."""
    text = _NAMES[policy & 0xFF]
    flags = []
    if policy & MPOL_F_STATIC_NODES:
        flags.append("static")
    elif policy & MPOL_F_RELATIVE_NODES:
        flags.append("relative")
    if policy & MPOL_F_NUMA_BALANCING:
        flags.append("balancing")
    if flags:
        text += "=" + "|".join(flags)
    return text + (":0" if policy >> NODE_SHIFT else "")


def check_mode(mode: int) -> None:
    """sanitize_mpol_flags: before the nodes are read.  Raises LinuxError(EINVAL)."""
    flags = mode & MPOL_MODE_FLAGS
    mode &= ~MPOL_MODE_FLAGS
    if (
        not 0 <= mode <= MPOL_WEIGHTED_INTERLEAVE
        or flags & MPOL_F_STATIC_NODES
        and flags & MPOL_F_RELATIVE_NODES
    ):
        raise LinuxError(EINVAL)
    if flags & MPOL_F_NUMA_BALANCING and mode not in (MPOL_BIND, MPOL_PREFERRED_MANY):
        raise LinuxError(EINVAL)


def make_policy(mode: int, nodes: int) -> int:
    """mpol_new and mpol_set_nodemask.  Raises LinuxError(EINVAL)."""
    flags = mode & MPOL_MODE_FLAGS
    mode &= ~MPOL_MODE_FLAGS
    is_fixed = flags & (MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES) != 0
    if mode == MPOL_DEFAULT:
        if nodes:
            raise LinuxError(EINVAL)
        return 0
    if mode == MPOL_PREFERRED and not nodes:
        mode = MPOL_LOCAL
    if mode == MPOL_LOCAL:
        if nodes or is_fixed:
            raise LinuxError(EINVAL)
        return MPOL_LOCAL | flags
    allowed = 1 if nodes and flags & MPOL_F_RELATIVE_NODES else nodes & 1
    if not allowed:
        raise LinuxError(EINVAL)
    return mode | flags | (nodes if is_fixed else allowed) << NODE_SHIFT
