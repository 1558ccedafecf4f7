"""A small FUSE file system that stops answering when it is told to, so that tests have storage that hangs.

    python fuse_volume.py MOUNTPOINT CONTROL_FD COMMAND …

In a mount namespace of its own (the caller's `unshare -m`) it mounts one flat directory of files in memory, runs the
command, serves until that ends, and exits with its status.  On the control socket (datagrams) it is told `hold OP`
(requests of that kind about a name that begins with "hold" wait from now on) and `go` (they are answered); it says
`ready`, and `held` for each request that it keeps.  Follows linux/fuse.h, protocol 7.31.
"""

import ctypes
import errno
import os
import select
import signal
import socket
import stat
import struct
import sys

IN_HEADER = struct.Struct("<IIQQIIII")
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
OPS = {
    1: "lookup", 3: "getattr", 4: "setattr", 8: "mknod", 9: "mkdir", 10: "unlink", 11: "rmdir", 12: "rename",
    14: "open", 15: "read", 16: "write", 17: "statfs", 18: "release", 20: "fsync", 25: "flush", 26: "init", 43: "fallocate",
    27: "opendir", 28: "readdir", 29: "releasedir", 30: "fsyncdir", 35: "create", 45: "rename",
}  # fmt: skip


class Node:
    def __init__(self, ino: int, mode: int, data: bytes = b"") -> None:
        self.ino = ino
        self.mode = mode
        self.data = bytearray(data)


class Volume:
    def __init__(self, fd: int, control: socket.socket) -> None:
        self.fd = fd
        self.control = control
        self.root = Node(1, stat.S_IFDIR | 0o777)
        self.nodes = {1: self.root}
        self.names: dict[bytes, Node] = {}
        self.holding: set[str] = set()
        self.held: list[bytes] = []
        # The last name is longer than a component of a path can be, which FUSE allows (FUSE_NAME_MAX is 1024).
        for name in (b"file", b"hold-file", b"hold-a", b"hold-b", b"hold-c", b"n" * 300):
            self.add(name, stat.S_IFREG | 0o666, name + b"'s content\n")

        self.add(b"hold-program", stat.S_IFREG | 0o777, b"#!/bin/echo it runs\n")
        self.add(b"hold-large", stat.S_IFREG | 0o666, b"L" * (5 << 20) + b"L" * 10)

    def add(self, name: bytes, mode: int, data: bytes = b"") -> Node:
        node = Node(len(self.nodes) + 1, mode, data)
        self.nodes[node.ino] = self.names[name] = node
        return node

    def attr(self, node: Node) -> bytes:
        size = len(node.data)
        blocks = (size + 511) // 512
        return ATTR.pack(node.ino, size, blocks, 1, 1, 1, 0, 0, 0, node.mode, 1, 0, 0, 0, 4096, 0)

    def entry(self, node: Node) -> bytes:
        return struct.pack("<QQQQII", node.ino, 0, 0, 0, 0, 0) + self.attr(node)  # nothing may be cached

    def is_held(self, op: str, node: int, body: bytes) -> bool:
        if op not in self.holding:
            return False
        if op in ("lookup", "mkdir", "unlink", "rename", "create"):
            return b"hold" in body
        if op == "statfs":
            return True
        name = next((name for name, each in self.names.items() if each.ino == node), b"")
        return name.startswith(b"hold")

    def serve(self, request: bytes) -> None:
        _length, opcode, _unique, ino, *_rest = IN_HEADER.unpack_from(request)
        op = OPS.get(opcode, "")
        if self.is_held(op, ino, request[40:]):
            self.held.append(request)
            self.control.send(b"held")
            return
        self.answer(request)

    def answer(self, request: bytes) -> None:
        _length, opcode, unique, ino, *_rest = IN_HEADER.unpack_from(request)
        if opcode in (2, 42, 36):  # forget, batch forget, interrupt: never answered
            return
        error, body = 0, b""
        try:
            body = self.act(opcode, ino, request[40:])
        except OSError as failure:
            error = -(failure.errno or errno.EIO)
        try:
            os.write(self.fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
        except OSError:
            pass  # the process that asked has been killed

    def find(self, name: bytes) -> Node:
        node = self.names.get(name)
        if node is None:
            raise OSError(errno.ENOENT, "")
        return node

    def act(self, opcode: int, ino: int, body: bytes) -> bytes:
        op = OPS.get(opcode, "")
        if op == "init":
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 12, 10, 65536, 1, 16, 0, 0)
        if op == "lookup":
            return self.entry(self.find(body.rstrip(b"\0")))
        node = self.nodes[ino]
        if op == "getattr":
            return struct.pack("<QII", 0, 0, 0) + self.attr(node)
        if op == "setattr":
            valid, _pad, _fh, size = struct.unpack_from("<IIQQ", body)
            mode = struct.unpack_from("<I", body, 72)[0]
            if valid & 1:
                node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
            if valid & 8:
                node.data = node.data[:size].ljust(size, b"\0")
            return struct.pack("<QII", 0, 0, 0) + self.attr(node)
        if op in ("open", "opendir"):
            return struct.pack("<QII", 0, 1 if op == "open" else 0, 0)  # FOPEN_DIRECT_IO
        if op == "read":
            _fh, offset, size = struct.unpack_from("<QQI", body)
            return bytes(node.data[offset : offset + size])
        if op == "write":
            _fh, offset, size = struct.unpack_from("<QQI", body)
            data = body[40 : 40 + size]
            node.data = node.data.ljust(offset, b"\0")
            node.data[offset : offset + size] = data
            return struct.pack("<II", size, 0)
        if op == "fallocate":
            _fh, offset, length, mode = struct.unpack_from("<QQQI", body)
            if mode == 0:
                node.data = node.data.ljust(offset + length, b"\0")
            return b""
        if op == "readdir":
            return self.list(body)
        if op == "mkdir":
            mode = struct.unpack_from("<I", body)[0]
            return self.entry(self.make(body[8:].rstrip(b"\0"), stat.S_IFDIR | mode))
        if op == "create":
            mode = struct.unpack_from("<II", body)[1]
            return self.entry(self.make(body[16:].rstrip(b"\0"), mode)) + struct.pack("<QII", 0, 1, 0)
        if op in ("unlink", "rmdir"):
            self.find(body.rstrip(b"\0"))
            del self.names[body.rstrip(b"\0")]
            return b""
        if op == "rename":
            names = body[16 if opcode == 45 else 8 :].split(b"\0")
            node = self.find(names[0])
            del self.names[names[0]]
            self.names[names[1]] = node
            return b""
        if op == "statfs":
            return struct.pack("<QQQQQIIII24x", 1000, 500, 500, 100, 50, 4096, 255, 4096, 0)
        if op in ("release", "releasedir", "flush", "fsync", "fsyncdir"):
            return b""
        raise OSError(errno.ENOSYS, "")

    def make(self, name: bytes, mode: int) -> Node:
        if name in self.names:
            raise OSError(errno.EEXIST, "")
        return self.add(name, mode)

    def list(self, body: bytes) -> bytes:
        _fh, offset, size = struct.unpack_from("<QQI", body)
        out = b""
        for index, (name, node) in enumerate(list(self.names.items())[offset:], offset + 1):
            entry = struct.pack("<QQII", node.ino, index, len(name), stat.S_IFMT(node.mode) >> 12) + name
            entry = entry.ljust((len(entry) + 7) // 8 * 8, b"\0")
            if len(out) + len(entry) > size:
                break
            out += entry
        return out

    def obey(self, message: bytes) -> None:
        words = message.decode().split()
        if words[:1] == ["hold"]:
            self.holding.update(words[1:])
            self.control.send(b"ok")
        elif words == ["go"]:
            self.holding.clear()
            held, self.held = self.held, []
            for request in held:
                self.answer(request)
            self.control.send(b"ok")


def main() -> int:
    place, control_fd, *command = sys.argv[1:]
    control = socket.socket(fileno=int(control_fd))
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40777,user_id=0,group_id=0,allow_other,default_permissions".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"slow", place.encode(), b"fuse", 6, options):  # MS_NODEV | MS_NOSUID
        print(f"mount: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        return 125
    volume = Volume(fd, control)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda _signo, _frame: None)
    signal.set_wakeup_fd(wake_write)
    pid = os.spawnvp(os.P_NOWAIT, command[0], command)
    control.send(b"ready")
    poller = select.poll()
    for each in (fd, control.fileno(), wake_read):
        poller.register(each, select.POLLIN)
    while True:
        for ready, _events in poller.poll():
            if ready == fd:
                volume.serve(os.read(fd, 1 << 20))
            elif ready == wake_read:
                os.read(wake_read, 512)
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status) & 0xFF
            else:
                message = control.recv(64)
                if not message:
                    os.kill(pid, signal.SIGKILL)
                    return 124
                volume.obey(message)


if __name__ == "__main__":
    # Not sys.exit: the interpreter's exit code could access the volume.
    os._exit(main())
