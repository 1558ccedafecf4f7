"""The namespaces of a task (namespaces(7), struct nsproxy), but for those that the VFS needs: the mount namespace is
in `Context`, the user namespace in `Credentials`.

Left of `kernel.task`.  A namespace lives for as long as something refers to it.
"""

from typing import Final

from cloche.kernel.ipc.ids import IpcQuota
from cloche.kernel.ipc.namespace import IpcNamespace

FIRST_UTS_INO: Final = 0xEFFFFFFE  # PROC_UTS_INIT_INO
FIRST_NET_INO: Final = 0xF0000001


class UtsNamespace:
    """Host and domain name."""

    def __init__(self, hostname: bytes = b"cloche", domainname: bytes = b"(none)") -> None:
        self.hostname: bytes = hostname
        self.domainname: bytes = domainname
        self.ino: int = FIRST_UTS_INO  # of /proc/PID/ns/uts


class NetNamespace:
    """A network; `net.inet_base` derives from it."""

    def __init__(self) -> None:
        self.is_real: bool = False  # else a kernel without the network, which can have no second one either
        self.ino: int = FIRST_NET_INO  # of /proc/PID/ns/net

    def fresh(self) -> "NetNamespace":
        """A new one, with an interface lo that is down."""
        return NetNamespace()


class Namespaces:
    """Immutable: whoever changes one of them makes a copy."""

    def __init__(self, uts: UtsNamespace, ipc: IpcNamespace, net: NetNamespace) -> None:
        self.uts: UtsNamespace = uts
        self.ipc: IpcNamespace = ipc
        self.net: NetNamespace = net

    def clone(self) -> "Namespaces":
        """A copy to change before it is installed."""
        return Namespaces(self.uts, self.ipc, self.net)


def initial_namespaces(dev: int) -> Namespaces:
    """Those of the sandbox; `dev` is the device number that System V segments show."""
    return Namespaces(UtsNamespace(), IpcNamespace(dev, IpcQuota()), NetNamespace())
