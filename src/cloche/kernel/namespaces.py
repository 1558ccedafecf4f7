"""The namespaces of a task (namespaces(7), struct nsproxy), except those that the VFS needs: the mount namespace is
in `Context`, the user namespace in `Credentials`.

Left of `kernel.task`.  A namespace lives for as long as something refers to it; `NamespaceCount` bounds how many
there are.
"""

from typing import Final

from cloche.abi.errno import ENOSPC, LinuxError
from cloche.kernel.ipc.ids import IpcQuota
from cloche.kernel.ipc.namespace import IpcNamespace
from cloche.kernel.pid_namespace import PidNamespace
from cloche.mm.quota import Quota
from cloche.vfs.userns import Place, UserNamespace

FIRST_UTS_INO: Final = 0xEFFFFFFE  # PROC_UTS_INIT_INO
FIRST_NET_INO: Final = 0xF0000001
FIRST_CGROUP_INO: Final = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO
MAX_NAMESPACES: Final = 256  # of a kind, in the sandbox


class NamespaceLimits:
    """How many namespaces of each kind there are, and may be (/proc/sys/user/max_*_namespaces)."""

    def __init__(self) -> None:
        self.quotas: dict[str, Quota] = {}

    def quota(self, kind: str) -> Quota:
        found = self.quotas.get(kind)
        if found is None:
            found = Quota(MAX_NAMESPACES)
            self.quotas[kind] = found
        return found


class NamespaceCount(Place):
    """A place among the namespaces of a kind, kept by one of them for as long as it lives (ucounts)."""

    def __init__(self, limits: NamespaceLimits, kind: str) -> None:
        """Raises LinuxError(ENOSPC)."""
        self.quota: Quota | None = None
        quota = limits.quota(kind)
        if not quota.has_room(1):
            raise LinuxError(ENOSPC)
        quota.take(1)
        self.quota = quota

    def __del__(self) -> None:
        if self.quota is not None:
            self.quota.give(1)


class UtsNamespace:
    """Host and domain name."""

    def __init__(self, hostname: bytes = b"cloche", domainname: bytes = b"(none)") -> None:
        self.hostname: bytes = hostname
        self.domainname: bytes = domainname
        self.ino: int = FIRST_UTS_INO  # of /proc/PID/ns/uts
        self.user_ns: UserNamespace | None = None  # the owner
        self.place: NamespaceCount | None = None


class NetNamespace:
    """A network; `net.inet_base` derives from it."""

    def __init__(self) -> None:
        # False: a kernel without a network, which cannot make further network namespaces
        self.is_real: bool = False
        self.ino: int = FIRST_NET_INO  # of /proc/PID/ns/net
        self.user_ns: UserNamespace | None = None  # the owner
        self.place: NamespaceCount | None = None

    def fresh(self) -> "NetNamespace":
        """A new one, with an interface lo that is down."""
        return NetNamespace()


class CgroupNamespace:
    """A view of the cgroups, of which there is only the root."""

    def __init__(self) -> None:
        self.ino: int = FIRST_CGROUP_INO  # of /proc/PID/ns/cgroup
        self.user_ns: UserNamespace | None = None  # the owner
        self.place: NamespaceCount | None = None


class Namespaces:
    """The namespaces of a task. Immutable: a change makes a copy."""

    def __init__(
        self, uts: UtsNamespace, ipc: IpcNamespace, net: NetNamespace, cgroup: CgroupNamespace
    ) -> None:
        self.uts: UtsNamespace = uts
        self.ipc: IpcNamespace = ipc
        self.net: NetNamespace = net
        self.cgroup: CgroupNamespace = cgroup
        self.pid_for_children: PidNamespace | None = None  # None: the initial one

    def clone(self) -> "Namespaces":
        """A copy to change before it is installed."""
        new = Namespaces(self.uts, self.ipc, self.net, self.cgroup)
        new.pid_for_children = self.pid_for_children
        return new


def initial_namespaces(dev: int) -> Namespaces:
    """The namespaces of the sandbox; `dev` is the device number that System V segments show."""
    return Namespaces(UtsNamespace(), IpcNamespace(dev, IpcQuota()), NetNamespace(), CgroupNamespace())
