"""A server outside of files that package managers fetch, over HTTPS and HTTP, and of a stream of events.

Run as a program beside `servers`, with the folder of the certificate and the folder of the files.  `/events` sends one
event, and the next when `/ack/NUMBER` was asked for: a client that sees the last has received each as it came.
"""

import functools
import os
import ssl
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from tests.egress.servers import PUBLIC

SECURE = 9600
PLAIN = 9680
EVENTS = 3
_PATIENCE_S = 120

acknowledged = [threading.Event() for _number in range(EVENTS)]


class Handler(SimpleHTTPRequestHandler):
    """Files, and the events."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/events":
            self.send_events()
        elif self.path.startswith("/ack/"):
            acknowledged[int(self.path.rpartition("/")[2])].set()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()

    def send_events(self) -> None:
        for each in acknowledged:
            each.clear()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, each in enumerate(acknowledged):
            data = f"data: {number}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
            if not each.wait(_PATIENCE_S):
                return
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until standard input ends."""
    certificate, files = sys.argv[1:]
    handler = functools.partial(Handler, directory=files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(certificate, "cert.pem"), os.path.join(certificate, "key.pem"))
    for port in (SECURE, PLAIN):
        server = ThreadingHTTPServer((PUBLIC, port), handler)
        if port == SECURE:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
