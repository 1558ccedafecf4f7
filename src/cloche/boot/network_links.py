"""/sys/class/net in a network that is a namespace of the host: a directory for each of its links, but lo's."""

from typing import Final

from cloche.abi.socket import IFF_LOOPBACK, IFF_RUNNING, IFF_UP
from cloche.fs.sysfs import Sysfs, sysfs
from cloche.kernel.task import Kernel
from cloche.net.joined import Joined, ViewListener
from cloche.net.view import HostLink, NetView

__all__ = ["show_links"]

_STATISTICS: Final = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors",
    "tx_dropped")  # fmt: skip
_MAX_LINKS: Final = 256


class LinkFiles(ViewListener):
    """The links that are shown."""

    def __init__(self, fs: Sysfs) -> None:
        self.fs: Sysfs = fs
        self.shown: dict[bytes, HostLink] = {}

    def saw(self, view: NetView) -> None:
        found: dict[bytes, HostLink] = {}
        for link in view.links[:_MAX_LINKS]:
            if (
                link.name
                and not link.flags & IFF_LOOPBACK
                and b"/" not in link.name
                and b"." != link.name[:1]
            ):
                found[link.name] = link
        for name in list(self.shown):
            if name not in found:
                self.fs.directory("class/net").remove(name)
                self.fs.directory("devices/virtual/net").remove(name)
                del self.shown[name]
        for name, link in found.items():
            known = self.shown.get(name)
            if known is None or known.body != link.body:
                self._show(name.decode("ascii", "replace"), link)
                self.shown[name] = link

    def _show(self, name: str, link: HostLink) -> None:
        base = f"devices/virtual/net/{name}"
        hardware = ":".join([f"{byte:02x}" for byte in link.hardware])
        is_up = link.flags & IFF_UP != 0
        rows = (
            ("address", hardware),
            ("broadcast", ":".join(["ff"] * len(link.hardware))),
            ("addr_len", str(len(link.hardware))),
            ("carrier", str(int(link.flags & IFF_RUNNING != 0))),
            ("dev_id", "0x0"),
            ("flags", hex(link.flags & 0xFFFF)),
            ("ifindex", str(link.index)),
            ("iflink", str(link.peer or link.index)),
            ("mtu", str(link.mtu)),
            ("operstate", "up" if is_up and link.flags & IFF_RUNNING else "down"),
            ("tx_queue_len", str(link.queue_length)),
            ("type", str(link.kind)),
        )
        for attribute, text in rows:
            self.fs.attribute(f"{base}/{attribute}", text)
        for item in _STATISTICS:
            self.fs.attribute(f"{base}/statistics/{item}", "0")
        self.fs.link(f"class/net/{name}", f"../../{base}")


def show_links(kernel: Kernel, joined: Joined) -> None:
    """Have sysfs show the links of the namespace from now on."""
    fs = sysfs(kernel)
    assert isinstance(fs, Sysfs)
    joined.listen(LinkFiles(fs))
