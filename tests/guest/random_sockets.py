"""Makes random socket calls, the same for a seed, and prints the result of each and the poll events of all sockets
afterwards.

    python3 random_sockets.py unix|tcp|udp FIRST LAST

Runs natively and in a sandbox, in a fresh network namespace. Random values are not printed: ephemeral ports, amounts
that depend on timers. Left out, as Linux's answer depends on a timer or differs from kernel to kernel: connect and
listen after shutdown, listen after connect and connect after a listener's disconnect with TCP (late kernels of 6.18 refuse
them, earlier ones and 6.12 do not), going from IPv6 to mapped addresses with one socket, connecting to a broadcast
address, and datagrams held back while their socket is connected anew. TCP_CORK is left out, too: small buffers make
small segments.
"""

import array
import ctypes
import errno
import fcntl
import os
import random
import select
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable

EVENTS = (
    select.POLLIN | select.POLLPRI | select.POLLOUT | select.POLLRDHUP | select.POLLRDNORM | select.POLLWRNORM
)
FLAGS = {
    "0": 0,
    "PEEK": socket.MSG_PEEK,
    "TRUNC": socket.MSG_TRUNC,
    "PEEK|TRUNC": socket.MSG_PEEK | socket.MSG_TRUNC,
    "OOB": socket.MSG_OOB,
    "WAITALL": socket.MSG_WAITALL,
    "MORE": socket.MSG_MORE,
    "EOR": socket.MSG_EOR,
    "NOSIGNAL": socket.MSG_NOSIGNAL,
    "DONTROUTE": socket.MSG_DONTROUTE,
    "ERRQUEUE": socket.MSG_ERRQUEUE,
}
SEND_FLAGS = ["0"] * 5 + ["OOB", "MORE", "EOR", "NOSIGNAL", "DONTROUTE"]
RECV_FLAGS = ["0"] * 5 + ["PEEK", "TRUNC", "OOB", "WAITALL", "PEEK|TRUNC", "ERRQUEUE"]
WEIGHTS = {
    "make": 3, "pair": 1, "bind": 3, "listen": 2, "connect": 5, "disconnect": 1, "accept": 4, "send": 6, "sendto": 3, "sendmsg": 3,
    "recv": 6, "recvmsg": 3, "shutdown": 2, "close": 2, "set": 3, "get": 2, "names": 3, "ioctl": 2, "fill": 1, "drain": 1,
}  # fmt: skip
# Level, name, value; only for the modes named.
SETTINGS = [
    ("unix tcp udp", 1, 2, 1), ("unix tcp udp", 1, 15, 1), ("unix tcp udp", 1, 10, 1), ("unix tcp udp", 1, 18, 2),
    ("unix tcp udp", 1, 42, 0), ("unix tcp udp", 1, 42, 2), ("unix tcp udp", 1, 42, -1), ("unix tcp udp", 1, 8, 2000),
    ("unix tcp udp", 1, 7, 5000), ("unix tcp udp", 1, 6, 1), ("unix tcp udp", 1, 13, struct.pack("ii", 1, 0)),
    ("unix", 1, 16, 1), ("tcp udp", 0, 8, 1), ("tcp udp", 0, 11, 1), ("tcp udp", 0, 12, 1), ("tcp udp", 0, 13, 1),
    ("tcp udp", 41, 26, 1), ("tcp udp", 41, 26, 0), ("tcp udp", 41, 49, 1), ("tcp udp", 41, 25, 1), ("tcp", 6, 9, 0),
    ("tcp", 6, 12, 1), ("tcp", 6, 9, 1), ("tcp udp", 0, 2, 5), ("udp", 17, 1, 1), ("udp", 17, 1, 0),
    ("tcp udp", 0, 35, socket.inet_aton("224.0.0.5") + socket.inet_aton("127.0.0.1")),
]  # fmt: skip
QUESTIONS = [(1, 4), (1, 4), (1, 30), (1, 8), (1, 42), (1, 3), (1, 28), (41, 26), (0, 8)]
LIBC = ctypes.CDLL(None, use_errno=True)


def outcome(call: Callable[[], object]) -> object:
    """The result of a call, or the name of its error."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, error.errno)


def shown(address: object) -> object:
    """An address without what the kernel chose."""
    if isinstance(address, tuple):
        return address[0], address[1] if address[1] < 31000 else "ephemeral"
    return "autobound" if isinstance(address, bytes) and len(address) == 6 and address[0] == 0 else address


class Run:
    """The calls of one seed."""

    def __init__(self, mode: str, seed: int) -> None:
        self.mode = mode
        self.seed = seed
        self.random = random.Random(seed)
        self.sockets: list[socket.socket] = []
        self.is_mapped: dict[socket.socket, bool] = {}
        self.shut: set[socket.socket] = set()
        self.connected: set[socket.socket] = set()  # at some time
        self.listened: set[socket.socket] = set()
        self.left: set[socket.socket] = set()  # listened, and was disconnected
        self.counter = 0
        base = 20000 + seed % 1000 * 10
        four = [
            ("127.0.0.1", base + 1),
            ("127.0.0.1", base + 2),
            ("0.0.0.0", base + 1),
            ("127.0.0.2", base + 1),
        ]
        four += [("127.0.0.1", 0), ("127.0.0.1", base + 9)]
        if mode == "udp":
            four += [("224.0.0.5", base + 1), ("127.255.255.255", base + 1)]
        self.addresses: list[object] = list(four)
        if mode == "unix":
            self.addresses = [b"\0a%d" % seed, b"\0b%d" % seed, "p1", "p2", "", "none"]

    def address_for(self, sock: socket.socket) -> object:
        chosen = self.random.choice(self.addresses)
        if sock.family == socket.AF_INET6 and isinstance(chosen, tuple):
            mapped = self.is_mapped.setdefault(sock, self.random.random() < 0.6)
            if mapped:
                return "::ffff:" + chosen[0], chosen[1]
            return "::" if chosen[0] == "0.0.0.0" else "::1", chosen[1]
        return chosen

    def data(self, size: int) -> bytes:
        self.counter += size
        return bytes((self.counter + at) & 0xFF for at in range(size))

    def add(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if self.mode == "tcp":
            # Else it depends on delayed acknowledgements
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(sock)

    def events(self) -> str:
        poll = select.poll()
        for sock in self.sockets:
            poll.register(sock, EVENTS)
        found = dict(poll.poll(0))
        return " ".join(f"{found.get(sock.fileno(), 0):x}" for sock in self.sockets)

    def say(self, step: int, *words: object) -> None:
        print(self.seed, step, *words, "|", self.events(), flush=True)

    def run(self) -> None:
        names = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
        for step in range(60):
            name = self.random.choice(names) if self.sockets else "make"
            if name in ("make", "pair", "accept") and len(self.sockets) > 8:
                continue
            sock = self.random.choice(self.sockets) if self.sockets else None
            words = getattr(self, "do_" + name)(sock)
            if words is not None:
                at = self.sockets.index(sock) if sock in self.sockets else "-"
                self.say(step, name, at, *words)
        for sock in self.sockets:
            sock.close()
        for path in ("p1", "p2", "none"):
            if os.path.exists(path):
                os.unlink(path)

    # -- each returns the object to print, or None if it did nothing ----------------------------------------------
    def do_make(self, sock: socket.socket) -> tuple[object, ...]:
        families = [socket.AF_UNIX] if self.mode == "unix" else [socket.AF_INET, socket.AF_INET6]
        kinds = {
            "unix": [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET],
            "tcp": [socket.SOCK_STREAM],
            "udp": [socket.SOCK_DGRAM],
        }
        family, kind = self.random.choice(families), self.random.choice(kinds[self.mode])
        self.add(socket.socket(family, kind))
        return family.name, kind.name

    def do_pair(self, sock: socket.socket) -> tuple[object, ...] | None:
        if self.mode != "unix":
            return None
        kind = self.random.choice([socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
        for end in socket.socketpair(socket.AF_UNIX, kind):
            self.add(end)
        return (kind.name,)

    def do_bind(self, sock: socket.socket) -> tuple[object, ...] | None:
        address = self.address_for(sock)
        host = str(address[0]) if isinstance(address, tuple) else ""
        if "255" in host or ("::ffff:224" in host):
            return None
        return address, outcome(lambda: sock.bind(address))

    def do_listen(self, sock: socket.socket) -> tuple[object, ...] | None:
        if self.mode == "tcp" and (sock in self.shut or sock in self.connected):
            return None
        self.listened.add(sock)
        backlog = self.random.choice([0, 1, 5])
        return backlog, outcome(lambda: sock.listen(backlog))

    def do_connect(self, sock: socket.socket) -> tuple[object, ...] | None:
        if self.mode == "tcp" and (sock in self.shut or sock in self.left):
            return None
        self.connected.add(sock)
        address = self.address_for(sock)
        if isinstance(address, tuple) and "255" in address[0]:
            return None
        return address, outcome(lambda: sock.connect(address))

    def do_disconnect(self, sock: socket.socket) -> tuple[object, ...]:
        if sock in self.listened:
            self.left.add(sock)
        failed = LIBC.connect(sock.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16)
        return (errno.errorcode[ctypes.get_errno()] if failed else 0,)

    def do_accept(self, sock: socket.socket) -> tuple[object, ...]:
        def accept() -> object:
            made, address = sock.accept()
            self.add(made)
            self.connected.add(made)
            return shown(address)

        return (outcome(accept),)

    def do_send(self, sock: socket.socket) -> tuple[object, ...] | None:
        flags = self.random.choice(SEND_FLAGS)
        if self.mode == "udp" and flags == "MORE":
            return None
        data = self.data(self.random.choice([0, 1, 3, 10, 100]))
        return flags, len(data), self.same_error(outcome(lambda: sock.send(data, FLAGS[flags])))

    def same_error(self, found: object) -> object:
        """Kernels differ in which of two errors a datagram socket that was shut down finds first."""
        return "EPIPE" if self.mode == "unix" and found == "ENOTCONN" else found

    def do_sendto(self, sock: socket.socket) -> tuple[object, ...]:
        address, data = self.address_for(sock), self.data(self.random.choice([0, 1, 3, 10]))
        return address, len(data), self.same_error(outcome(lambda: sock.sendto(data, address)))

    def received(self, data: bytes, size: int, flags: str) -> object:
        """MSG_TRUNC copies nothing from a TCP socket."""
        return len(data) if self.mode == "tcp" and "TRUNC" in flags else data[:size].hex()[:60]

    def do_recv(self, sock: socket.socket) -> tuple[object, ...]:
        flags, size = self.random.choice(RECV_FLAGS), self.random.choice([0, 1, 2, 5, 1000])

        def recv() -> object:
            data, address = sock.recvfrom(size, FLAGS[flags])
            return self.received(data, size, flags), shown(address)

        return flags, size, outcome(recv)

    def do_recvmsg(self, sock: socket.socket) -> tuple[object, ...]:
        flags, size = self.random.choice(RECV_FLAGS), self.random.choice([0, 1, 2, 5, 1000])
        room = self.random.choice([0, 24, 50, 200, 2000])

        def recv() -> object:
            data, control, told, address = sock.recvmsg(size, room, FLAGS[flags])
            sizes = [(level, kind, len(value)) for level, kind, value in control]
            for level, kind, value in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    for fd in struct.unpack(f"{len(value) // 4}i", value):
                        os.close(fd)
            return self.received(data, size, flags), sizes, hex(told), shown(address)

        return flags, size, room, outcome(recv)

    def do_sendmsg(self, sock: socket.socket) -> tuple[object, ...] | None:
        """With files, credentials or both; of a unix socket."""
        if self.mode != "unix":
            return None
        control: list[tuple[int, int, bytes]] = []
        files = self.random.choice([0, 0, 1, 2, 254])
        if files:
            passed = [self.random.choice(self.sockets).fileno() for _ in range(files)]
            control.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{files}i", *passed)))
        who = self.random.choice(["none", "none", "own", "other"])
        if who != "none":
            pid = os.getpid() if who == "own" else 1
            control.append((socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", pid, 0, 0)))
        flags, data = self.random.choice(SEND_FLAGS), self.data(self.random.choice([0, 1, 3, 10]))
        found = outcome(lambda: sock.sendmsg([data], control, FLAGS[flags]))
        return files, who, flags, len(data), self.same_error(found)

    def do_shutdown(self, sock: socket.socket) -> tuple[object, ...]:
        how = self.random.choice([0, 1, 2])
        self.shut.add(sock)
        return how, outcome(lambda: sock.shutdown(how))

    def do_close(self, sock: socket.socket) -> tuple[object, ...]:
        self.sockets.remove(sock)
        sock.close()
        return ()

    def do_set(self, sock: socket.socket) -> tuple[object, ...] | None:
        modes, level, name, value = self.random.choice(SETTINGS)
        if self.mode not in modes.split():
            return None
        return level, name, value, outcome(lambda: sock.setsockopt(level, name, value))

    def do_get(self, sock: socket.socket) -> tuple[object, ...] | None:
        level, name = self.random.choice(QUESTIONS)
        if self.mode == "unix" and (level != 1 or name == 28):  # names may be chosen by the kernel
            return None
        return level, name, outcome(lambda: sock.getsockopt(level, name, 4).hex())

    def do_names(self, sock: socket.socket) -> tuple[object, ...]:
        return outcome(lambda: shown(sock.getsockname())), outcome(lambda: shown(sock.getpeername()))

    def do_ioctl(self, sock: socket.socket) -> tuple[object, ...]:
        # FIONREAD SIOCATMARK
        command = self.random.choice([0x541B, 0x8905] if self.mode != "udp" else [0x541B])

        def ask() -> object:
            answer = array.array("i", [0])
            fcntl.ioctl(sock, command, answer)
            return answer[0]

        return hex(command), outcome(ask)

    def do_fill(self, sock: socket.socket) -> tuple[object, ...] | None:
        """Send until it would wait."""
        if self.mode == "tcp":
            return None
        sent = 0

        def send() -> None:
            nonlocal sent
            for _ in range(20 if self.mode == "udp" else 10000):
                sent += sock.send(b"z" * 1000)

        return self.same_error(outcome(send)), sent

    def do_drain(self, sock: socket.socket) -> tuple[object, ...]:
        """Receive until it would wait."""
        count = 0

        def recv() -> object:
            nonlocal count
            for _ in range(2000):
                data = sock.recv(2000)
                count += len(data)
                if not data:
                    return "end"
            return "more"

        return outcome(recv), count


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed in range(int(sys.argv[2]), int(sys.argv[3])):
            Run(sys.argv[1], seed).run()


if __name__ == "__main__":
    main()
