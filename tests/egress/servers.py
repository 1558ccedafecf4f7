"""The outside world of the egress tests: servers, a resolver and a witness, in a network namespace of their own.

Run as a program: it obeys commands on standard input (JSON lines) and answers on standard output. The witness sees
every packet that arrives, for any address, so an attempt that "failed" inside but left the sandbox is found.
"""

import json
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from typing import Any

PUBLIC = "93.184.216.34"  # good.test and its kin
OTHER = "93.184.216.35"  # evil.test
RESOLVER = "93.184.216.53"
PRIVATE = "10.1.2.3"
METADATA = "169.254.169.254"
LINK_INSIDE, LINK_OUTSIDE = "10.213.0.2", "10.213.0.1"
ADDRESSES = (
    PUBLIC,
    OTHER,
    RESOLVER,
    PRIVATE,
    METADATA,
    "8.8.8.8",
    "1.1.1.1",
    "100.100.100.200",
    "192.168.7.7",
)

ZONE: dict[str, list[str]] = {
    "good.test": [PUBLIC],
    "www.good.test": [PUBLIC],
    "deep.www.good.test": [PUBLIC],
    "other.test": [PUBLIC],
    "evil.test": [OTHER],
    "shared.test": [PUBLIC],
    "private.test": [PRIVATE],
    "metadata.test": [METADATA],
    "loopback.test": ["127.0.0.1"],
    "zero.test": ["0.0.0.0"],
    "own.test": [LINK_INSIDE],
    "link.test": ["169.254.7.7"],
    "mixed.test": [PRIVATE, PUBLIC],
    "bench.test": ["198.18.1.0"],
    "broadcast.test": ["255.255.255.255"],
    "multicast.test": ["224.0.0.1"],
    "xn--bcher-kva.test": [PUBLIC],
}
ZONE6: dict[str, list[str]] = {
    "mapped.test": ["::ffff:10.1.2.3"],
    "nat64.test": ["64:ff9b::a01:203"],
    "sixtofour.test": ["2002:a01:203::1"],
    "local6.test": ["::1"],
    "ula.test": ["fd00:ec2::254"],
    "compatible.test": ["::10.1.2.3"],
}
ALIASES = {"alias.test": "private.test", "alias-good.test": "good.test", "loop.test": "loop.test"}


class World:
    """All servers."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.queries: list[tuple[str, int]] = []
        self.requests: list[str] = []  # requests to HTTP servers, raw
        self.hellos: list[str] = []  # names of TLS
        self.received: list[str] = []  # data to TCP and UDP echo servers
        self.rebinding = 0
        self.tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
        self.tap.setblocking(False)
        self.tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        for address in ADDRESSES:
            if address in (RESOLVER, "8.8.8.8", "1.1.1.1"):
                self.serve(address, 53, self.dns_tcp)
                self.serve_udp(address, 53, self.dns_udp)
            for port in (80, 8080):
                self.serve(address, port, self.http)
            for port in (443, 8443, 853):
                self.serve(address, port, self.tls)
            for port in (22, 25, 3000, 5432, 7000):
                self.serve(address, port, self.echo)
            for port in (123, 443, 7001):
                self.serve_udp(address, port, self.echo_udp)
            for port in (9100,):
                self.serve(address, port, self.source)

    # -- the machinery -----------------------------------------------------------------------------------
    def serve(self, address: str, port: int, handler: Any) -> None:
        listener = socket.create_server((address, port), backlog=128, reuse_port=False)

        def accept() -> None:
            while True:
                connection, _peer = listener.accept()
                threading.Thread(target=self.guarded, args=(handler, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    @staticmethod
    def guarded(handler: Any, connection: socket.socket) -> None:
        with connection:
            try:
                handler(connection)
            except OSError:
                pass

    def serve_udp(self, address: str, port: int, handler: Any) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, port))

        def loop() -> None:
            while True:
                data, peer = sock.recvfrom(65535)
                reply = handler(data)
                if reply is not None:
                    sock.sendto(reply, peer)

        threading.Thread(target=loop, daemon=True).start()

    def note(self, where: list[Any], what: Any) -> None:
        with self.lock:
            where.append(what)

    # -- the servers ---------------------------------------------------------------------------------------
    def echo(self, sock: socket.socket) -> None:
        while data := sock.recv(65536):
            self.note(self.received, data[:200].decode("latin-1"))
            sock.sendall(data)

    def echo_udp(self, data: bytes) -> bytes:
        self.note(self.received, data[:200].decode("latin-1"))
        return data

    def source(self, sock: socket.socket) -> None:
        """Sends 8 MiB and ends."""
        for _turn in range(128):
            sock.sendall(bytes(65536))

    def http(self, sock: socket.socket) -> None:
        """As credulous as a server can be: what it was sent it notes, and answers each request that it sees."""
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer and b"\n\n" not in buffer:
                data = sock.recv(65536)
                if not data:
                    if buffer:
                        self.note(self.requests, buffer.decode("latin-1"))
                    return
                buffer += data
            end = buffer.find(b"\r\n\r\n")
            head, buffer = (buffer[: end + 4], buffer[end + 4 :]) if end >= 0 else (buffer, b"")
            body = b""
            lines = head.lower().split(b"\r\n")
            if any(line.startswith(b"expect:") for line in lines):
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            for line in lines:
                if line.startswith(b"content-length:"):
                    wanted = int(line.partition(b":")[2])
                    while len(buffer) < wanted:
                        data = sock.recv(65536)
                        if not data:
                            return
                        buffer += data
                    body, buffer = buffer[:wanted], buffer[wanted:]
                elif line.startswith(b"transfer-encoding:"):
                    while b"0\r\n\r\n" not in buffer:
                        data = sock.recv(65536)
                        if not data:
                            return
                        buffer += data
                    at = buffer.find(b"0\r\n\r\n") + 5
                    body, buffer = buffer[:at], buffer[at:]
            self.note(self.requests, (head + body).decode("latin-1"))
            if head.startswith(b"GET /big"):
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
                for _turn in range(64):
                    sock.sendall(bytes(1 << 20))
                continue
            if head.startswith(b"GET /chunks"):
                parts = b"".join([b"%x\r\n%s\r\n" % (1000, b"c" * 1000) for _turn in range(20)])
                sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n")
                continue
            if head.startswith(b"GET /until-close"):
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
                return
            if head.startswith(b"GET /redirect"):
                sock.sendall(
                    b"HTTP/1.1 302 Found\r\nLocation: http://evil.test/stolen\r\nContent-Length: 0\r\n\r\n"
                )
                continue
            if head.startswith(b"HEAD "):
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
                continue
            answer = b"served " + (head.split(b" ")[1] if b" " in head else b"?") + b"\n"
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))

    def tls(self, sock: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(self.folder, "cert.pem"), os.path.join(self.folder, "key.pem"))
        context.set_alpn_protocols(["http/1.1"])
        if sock.getsockname()[1] == 8443:
            context.set_ecdh_curve("prime256v1")  # clients send a share of another group: HelloRetryRequest

        def on_name(_sock: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            self.note(self.hellos, name or "")

        context.sni_callback = on_name  # type: ignore[assignment]
        with context.wrap_socket(sock, server_side=True) as secure:
            while data := secure.recv(65536):
                if data.startswith((b"GET ", b"HEAD ", b"POST ")):
                    self.note(self.requests, data.decode("latin-1"))
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsecure\n")
                else:
                    self.note(self.received, data[:200].decode("latin-1"))
                    secure.sendall(data)

    # -- the resolver ----------------------------------------------------------------------------------------
    def dns_tcp(self, sock: socket.socket) -> None:
        while head := sock.recv(2):
            length = int.from_bytes(head, "big")
            data = b""
            while len(data) < length:
                more = sock.recv(length - len(data))
                if not more:
                    return
                data += more
            reply = self.dns_udp(data, is_cut=False)
            sock.sendall(len(reply).to_bytes(2, "big") + reply)

    def dns_udp(self, data: bytes, *, is_cut: bool = True) -> bytes:
        at, labels = 12, []
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode("latin-1"))
            at += data[at] + 1
        name = ".".join(labels).lower()
        kind = int.from_bytes(data[at + 1 : at + 3], "big")
        question = data[12 : at + 5]
        self.note(self.queries, (name, kind))
        records: list[tuple[bytes, int, bytes]] = []
        rcode = 0
        owner = b"\xc0\x0c"
        ttl = 60
        asked = name
        if name in ALIASES:
            asked = ALIASES[name]
            target = b"".join([bytes([len(part)]) + part.encode() for part in asked.split(".")]) + b"\0"
            records.append((owner, 5, target))
            owner = target
        if name == "rebind.test":  # each time another address
            self.rebinding += 1
            ttl = 0
            if kind == 1:
                address = PUBLIC if self.rebinding % 2 else PRIVATE
                records.append((owner, 1, socket.inet_aton(address)))
        elif kind == 1:
            records += [(owner, 1, socket.inet_aton(text)) for text in ZONE.get(asked, [])]
        elif kind == 28:
            records += [(owner, 28, socket.inet_pton(socket.AF_INET6, text)) for text in ZONE6.get(asked, [])]
        elif kind == 16 and name == "good.test":
            records.append((owner, 16, b"\x0bhello world"))
        elif kind == 33 and name == "good.test":
            records.append((owner, 33, struct.pack(">HHH", 1, 2, 7000) + b"\x04good\x04test\0"))
        if name == "big.test" and kind == 1:
            if is_cut:
                return data[:2] + b"\x86\x80" + b"\0\1\0\0\0\0\0\0" + question
            records = [(owner, 1, socket.inet_aton(PUBLIC))]
        if not records and asked not in ZONE and asked not in ZONE6 and name != "rebind.test":
            rcode = 3
        body = b"".join(
            [
                who + struct.pack(">HHIH", what, 1, ttl, len(content)) + content
                for who, what, content in records
            ]
        )
        flags = 0x8180 | rcode
        return data[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + question + body

    # -- the witness ----------------------------------------------------------------------------------------
    def packets(self) -> list[tuple[int, str, int]]:
        """(protocol, destination, port) of all that has come since the last time, by IPv4 or IPv6."""
        found = []
        while True:
            try:
                data, address = self.tap.recvfrom(65535)
            except BlockingIOError:
                return found
            if address[2] == socket.PACKET_OUTGOING or address[0] != "vs":
                continue
            if address[1] == 0x0800 and len(data) >= 20:
                header = (data[0] & 15) * 4
                kind, dest = data[9], socket.inet_ntoa(data[16:20])
            elif address[1] == 0x86DD and len(data) >= 40:
                header = 40
                kind, dest = data[6], socket.inet_ntop(socket.AF_INET6, data[24:40])
                if kind in (0, 58):
                    continue  # the link's own: neighbours, multicast listeners
            else:
                continue
            port = int.from_bytes(data[header + 2 : header + 4], "big") if kind in (6, 17) else 0
            found.append((kind, dest, port))

    def collect(self) -> dict[str, Any]:
        """The requests and packets since the last call."""
        with self.lock:
            found = {
                "queries": self.queries,
                "requests": self.requests,
                "hellos": self.hellos,
                "received": self.received,
                "packets": sorted(set(self.packets())),
            }
            self.queries, self.requests, self.hellos, self.received = [], [], [], []
        return found


def main() -> None:
    """Serve until standard input ends."""
    world = World(sys.argv[1])
    print("ready", flush=True)
    while True:
        select.select([0], [], [])
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        time.sleep(0)
        print(json.dumps(world.collect()), flush=True)


if __name__ == "__main__":
    main()
