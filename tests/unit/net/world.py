"""Two tasks of a fake kernel and the calls of sockets, without guest memory: for tests of the protocols themselves."""

from cloche.abi.errno import LinuxError
from cloche.abi.socket import AF_UNIX, SOCK_STREAM
from cloche.kernel.task import Task
from cloche.mm.usermem import KernelIovIter
from cloche.net.registry import create_pair, create_socket
from cloche.net.socket import Incoming, Outgoing, SocketFile
from cloche.net.unix_base import UnixSocket
from cloche.vfs.objects import FileDescription
from tests.unit.syscalls.world import World


class Net(World):
    """Sockets of `self.task`."""

    def socket(self, family: int, kind: int, protocol: int = 0, task: Task | None = None) -> SocketFile:
        made = create_socket(task if task is not None else self.task, family, kind, protocol, 0)
        made.get()
        return made

    def pair(self, kind: int = SOCK_STREAM) -> tuple[UnixSocket, UnixSocket]:
        one, two = create_pair(self.task, AF_UNIX, kind, 0, 0)
        one.get()
        two.get()
        assert isinstance(one, UnixSocket) and isinstance(two, UnixSocket)
        return one, two

    def send(
        self, sock: SocketFile, data: bytes, flags: int = 0, files: list[FileDescription] | None = None
    ) -> int:
        out = Outgoing()
        out.files = [file.get() for file in files] if files else None
        try:
            return sock.send(self.task, KernelIovIter(data), flags, out)
        except LinuxError as error:
            return -error.errno

    def recv(
        self, sock: SocketFile, size: int = 65536, flags: int = 0, info: Incoming | None = None
    ) -> bytes | int:
        """The data, or a negative errno."""
        dst = KernelIovIter(capacity=size)
        try:
            result = sock.recv(self.task, dst, flags, info)
        except LinuxError as error:
            return -error.errno
        return bytes(dst.sink) if result >= 0 else result

    def accept(self, sock: SocketFile) -> SocketFile:
        found = sock.accept(self.task, 0)
        found.get()
        return found
