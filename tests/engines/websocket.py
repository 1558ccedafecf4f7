"""A client of the CRI's streams (Exec, Attach, PortForward) over a WebSocket (RFC 6455): k8s.io/apimachinery's
"v4.channel.k8s.io", in which the first byte of each message is the number of a channel.
"""

import base64
import os
import socket
import struct
from urllib.parse import urlsplit

STDIN, STDOUT, STDERR, STATUS = 0, 1, 2, 3
TIMEOUT_S = 120
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10


class Channels:
    """A connection."""

    def __init__(self, url: str) -> None:
        """Raises OSError."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.sock = socket.create_connection((parts.hostname, parts.port or 80), TIMEOUT_S)
        self.data = b""
        key = base64.b64encode(os.urandom(16)).decode()
        path = parts.path + ("?" + parts.query if parts.query else "")
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: v4.channel.k8s.io",
            f"Origin: http://{parts.netloc}",
        )
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self.data:
            self._more()
        head, _end, self.data = self.data.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == b"101", head

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the stream has ended")
        self.data += data

    def _take(self, count: int) -> bytes:
        while len(self.data) < count:
            self._more()
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def _frame(self, kind: int, data: bytes) -> None:
        mask = os.urandom(4)
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self.sock.sendall(bytes([0x80 | kind]) + size + mask + masked)

    def send(self, channel: int, data: bytes) -> None:
        self._frame(_BINARY, bytes([channel]) + data)

    def receive(self) -> tuple[int, bytes] | None:
        """Channel and data of the next message; None: it was the last."""
        while True:
            try:
                first, size = self._take(2)
            except ConnectionError:
                return None
            size &= 0x7F
            if size == 126:
                size = struct.unpack(">H", self._take(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self._take(8))[0]
            data = self._take(size)
            if first & 15 == _CLOSE:
                return None
            if first & 15 == _PING:
                self._frame(_PONG, data)
            elif data:
                return data[0], data[1:]

    def until(self, channel: int, text: bytes) -> bytes:
        """The data of a channel until it contains `text`."""
        found = b""
        while text not in found:
            message = self.receive()
            assert message is not None, found
            if message[0] == channel:
                found += message[1]
        return found

    def rest(self) -> dict[int, bytes]:
        """All that comes until the end, by channel."""
        found: dict[int, bytes] = {}
        while (message := self.receive()) is not None:
            found[message[0]] = found.get(message[0], b"") + message[1]
        return found

    def close(self) -> None:
        self.sock.close()
