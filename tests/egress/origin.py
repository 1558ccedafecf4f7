"""A server of HTTPS outside, HTTP/1.1 and HTTP/2, that reports the requests that it has received. Run as a program
beside `servers`.

On standard input "collect" asks for all requests since the last time, one JSON line.
"""

import base64
import hashlib
import json
import os
import socket
import ssl
import sys
import threading
from typing import Any

import h2.config
import h2.connection
import h2.events

from tests.egress.servers import PUBLIC

PORTS = (9443, 9444)
BIG = 32 << 20


class Origin:
    """All of it."""

    def __init__(self, folder: str) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem"))
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.lock = threading.Lock()
        self.seen: list[list[Any]] = []
        for port in PORTS:
            listener = socket.create_server((PUBLIC, port), backlog=128)
            threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            sock, _peer = listener.accept()
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        try:
            with self.context.wrap_socket(sock, server_side=True) as secure:
                if secure.selected_alpn_protocol() == "h2":
                    self.serve_h2(secure)
                else:
                    self.serve_h1(secure)
        except OSError:
            pass

    def note(
        self, version: str, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> bytes:
        """Write it down; what is answered."""
        with self.lock:
            self.seen.append([version, method, target, headers, body.decode("latin-1")])
        if target.startswith("/big"):
            return bytes(BIG)
        return (
            "\n".join([f"{method} {target}", *[f"{name}: {value}" for name, value in headers], ""]).encode()
            + body
        )

    def serve_h1(self, sock: ssl.SSLSocket) -> None:
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = sock.recv(65536)
                if not data:
                    return
                buffer += data
            raw, _end, buffer = buffer.partition(b"\r\n\r\n")
            first, *lines = raw.decode("latin-1").split("\r\n")
            method, target, _version = first.split(" ")
            headers = [(line.partition(":")[0].lower(), line.partition(":")[2].strip()) for line in lines]
            known = dict(headers)
            length = int(known.get("content-length", "0"))
            while len(buffer) < length:
                buffer += sock.recv(65536)
            body, buffer = buffer[:length], buffer[length:]
            if known.get("upgrade") == "websocket":
                self.note("1.1", method, target, headers, body)
                magic = known["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
                accept = base64.b64encode(hashlib.sha1(magic.encode()).digest()).decode()
                sock.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
                )
                while data := sock.recv(65536):
                    sock.sendall(data)
                return
            answer = self.note("1.1", method, target, headers, body)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
            if method != "HEAD":
                sock.sendall(answer)

    def serve_h2(self, sock: ssl.SSLSocket) -> None:
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        conn.initiate_connection()
        heads: dict[int, list[tuple[str, str]]] = {}
        bodies: dict[int, bytes] = {}
        unsent: dict[int, bytes] = {}
        sock.sendall(conn.data_to_send())
        while data := sock.recv(65536):
            for event in conn.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id] = [
                        (str(name), str(value)) for name, value in _texts(event.headers)
                    ]
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                    conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    head = dict(heads[event.stream_id])
                    method, target = head[":method"], head[":path"]
                    body = bodies.get(event.stream_id, b"")
                    unsent[event.stream_id] = self.note("2", method, target, heads[event.stream_id], body)
                    conn.send_headers(event.stream_id, [(":status", "200")])
                elif isinstance(event, h2.events.StreamReset):
                    unsent.pop(event.stream_id, None)
            for stream, left in list(unsent.items()):
                room = min(conn.local_flow_control_window(stream), len(left))
                for at in range(0, room, 16384):
                    conn.send_data(stream, left[at : min(at + 16384, room)])
                unsent[stream] = left[room:]
                if not unsent[stream]:
                    del unsent[stream]
                    conn.end_stream(stream)
            sock.sendall(conn.data_to_send())


def _texts(headers: Any) -> list[tuple[str, str]]:
    return [
        tuple(each.decode("latin-1") if isinstance(each, bytes) else each for each in pair)  # type: ignore[misc]
        for pair in headers
    ]


def main() -> None:
    """Serve until standard input ends."""
    origin = Origin(sys.argv[1])
    print("ready", flush=True)
    for _line in sys.stdin:
        with origin.lock:
            seen, origin.seen = origin.seen, []
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
