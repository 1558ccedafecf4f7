"""What bind mounts of the host say of propagation in /proc/PID/mountinfo inside, as runc makes it of the options and of
the mounts that they are copies of.

Groups of the host have their numbers there, above 0; ones that a container has for itself are numbers below 0. The
sentry shows others for both: what counts is which are equal.
"""

import os
from typing import Final

from cloche.abi.fs import MS_SHARED, MS_SLAVE, MS_UNBINDABLE
from cloche.boot.spec import HOST, MountSpec, SandboxSpec
from cloche.oci.spec import Bundle

__all__ = ["describe_mounts"]

_DEFAULT: Final = "rslave"  # rootfsPropagation
_KINDS: Final = ("private", "slave", "shared", "unbindable")


class _State:
    """The propagation of one mount."""

    def __init__(self, peers: int = 0, master: int = 0) -> None:
        self.peers: int = peers  # 0: not shared
        self.master: int = master  # 0: no slave
        self.is_unbindable: bool = False

    def change(self, kind: str, new: int) -> None:
        """As mount(2) does it; `new` is the number of a group that does not exist yet."""
        self.is_unbindable = kind == "unbindable"
        if kind == "shared":
            self.peers = self.peers or new
        elif kind == "slave":
            if self.peers > 0:  # others are left in it, and their mounts come here
                self.master = self.peers
            self.peers = 0
        else:
            self.peers = self.master = 0

    def flags(self) -> int:
        """MS_SHARED, MS_SLAVE, MS_UNBINDABLE."""
        found = MS_UNBINDABLE if self.is_unbindable else 0
        return found | (MS_SHARED if self.peers else 0) | (MS_SLAVE if self.master else 0)


class _HostMounts:
    """The mounts of the caller's namespace that take part in propagation, by their numbers."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[int, int]] = {}
        with open("/proc/self/mountinfo", "rb") as file:
            for line in file:
                if b" shared:" not in line and b" master:" not in line:
                    continue
                fields = line.split()
                groups = {b"shared": 0, b"master": 0}
                for each in fields[6 : fields.index(b"-")]:
                    name, _colon, number = each.partition(b":")
                    if name in groups:
                        groups[name] = int(number)
                self.known[int(fields[0])] = groups[b"shared"], groups[b"master"]

    @staticmethod
    def number_of(path: str) -> int:
        """The mount that a path is on; 0 if it cannot be said."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
                for line in file:
                    if line.startswith(b"mnt_id:"):
                        return int(line.split()[1])
        finally:
            os.close(fd)
        return 0


def describe_mounts(spec: SandboxSpec, bundle: Bundle) -> None:
    """Fill the fields of the spec's bind mounts. The root takes part in no propagation."""
    propagation = bundle.propagation or _DEFAULT
    host = _HostMounts()
    kind, is_recursive = propagation.removeprefix("r"), propagation.startswith("r")
    top = host.number_of("/")

    def copied(number: int) -> _State:
        """The state of a mount in the container's copy of the host's tree."""
        state = _State(*host.known.get(number, (0, 0)))
        if number == top or is_recursive:
            state.change(kind, -1 - number)
        return state

    below_root = host.number_of(bundle.rootfs)
    new = -(1 << 20)
    bound = [mount for mount in bundle.mounts if mount.is_bind]
    shown = [mount for mount in spec.mounts if mount.kind == HOST]
    for mount, each in zip(bound, shown, strict=True):
        number = host.number_of(mount.source)
        # runc makes the mount that the root's directory is on private, and then the others.
        state = _State() if number == below_root else copied(number)
        for option in mount.options:
            name = option.removeprefix("r")
            if name in _KINDS:
                new -= 1
                state.change(name, new)
        _fill(each, state)


def _fill(mount: MountSpec, state: _State) -> None:
    mount.propagation, mount.peers, mount.master = state.flags(), state.peers, state.master
