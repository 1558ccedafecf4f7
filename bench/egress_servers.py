"""The servers of `bench.egress`: as little work as can be, so that what is measured is the way to them.

Run as a program outside, as `tests.egress.servers` is, whose packets a witness sees.  A resolver, an echo on port 7000
(one thread, room for a thousand connections that wait), and HTTP on port 80: `GET /big/N` is answered by N bytes.
"""

import selectors
import socket
import sys
import threading

from tests.egress.servers import PUBLIC, RESOLVER

NAMES = (b"\4good\4test\0", b"\5other\4test\0")
PIECE = memoryview(bytes(1 << 20))
_WAITING = 4096


def resolve() -> None:
    """Answer questions for A records of `NAMES` with PUBLIC, others with nothing."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((RESOLVER, 53))
    while True:
        data, peer = sock.recvfrom(65535)
        name = next((each for each in NAMES if data[12 : 12 + len(each)] == each), b"\0")
        question = data[12 : 12 + len(name) + 4]
        record = b"\xc0\x0c\0\1\0\1\0\0\x0e\x10\0\4" + socket.inet_aton(PUBLIC)
        is_known = name in NAMES and question[-4:-2] == b"\0\1"
        head = data[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_known else b"\0\0") + bytes(4)
        sock.sendto(head + question + (record if is_known else b""), peer)


def send_bytes(sock: socket.socket) -> None:
    """Answer requests one after the other."""
    with sock:
        asked = b""
        while True:
            while b"\r\n\r\n" not in asked:
                more = sock.recv(65536)
                if not more:
                    return
                asked += more
            head, _end, asked = asked.partition(b"\r\n\r\n")
            left = int(head.split()[1].rpartition(b"/")[2])
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
            while left:
                piece = PIECE[:left]
                sock.sendall(piece)
                left -= len(piece)


def serve_bytes() -> None:
    """A thread for each connection."""
    listener = socket.create_server((PUBLIC, 80), backlog=_WAITING)
    while True:
        sock, _peer = listener.accept()
        threading.Thread(target=send_bytes, args=(sock,), daemon=True).start()


def echo() -> None:
    """All connections in one thread, until standard input ends."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server((PUBLIC, 7000), backlog=_WAITING)
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _events in selector.select():
            found = key.fileobj
            if found is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
            elif isinstance(found, socket.socket):
                try:
                    data = found.recv(65536)
                    found.sendall(data)
                except OSError:
                    data = b""
                if not data:
                    selector.unregister(found)
                    found.close()
            else:
                return


def main() -> None:
    """All of them."""
    for each in (resolve, serve_bytes):
        threading.Thread(target=each, daemon=True).start()
    echo()


if __name__ == "__main__":
    main()
