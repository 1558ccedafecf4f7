"""One attempt to get out of a sandbox that may reach good.test and a few others: its script, and its expected output.

Those of each kind stand in `attempts_*.py`, all of them in `attempts`.
"""

from typing import Final

from tests.egress.servers import PUBLIC

# Names with their default ports, all of which lead to a forbidden address, or to PUBLIC.
TRICKY: Final = (
    "private.test", "metadata.test", "loopback.test", "zero.test", "own.test", "link.test", "bench.test",
    "broadcast.test", "multicast.test", "mapped.test", "nat64.test", "sixtofour.test", "local6.test", "ula.test",
    "compatible.test", "alias.test", "loop.test",
)  # fmt: skip
HARMLESS: Final = (
    "good.test",
    "*.good.test",
    "mixed.test",
    "rebind.test",
    "alias-good.test",
    "xn--bcher-kva.test",
)
GRANTS: Final = (*HARMLESS, *TRICKY, "other.test:7000", "other.test:7001/udp", f"{PUBLIC}:3000")

PRELUDE: Final = r"""
import errno, os, socket, ssl, struct, sys, json
socket.setdefaulttimeout(20)
def name(error):
    return errno.errorcode.get(error.errno, str(error)) if getattr(error, 'errno', None) else repr(error)
def tcp(host, port, data=b'LEAK', family=socket.AF_INET, say=True):
    s = socket.socket(family, socket.SOCK_STREAM)
    try:
        s.connect((host, port)); s.sendall(data); s.shutdown(socket.SHUT_WR)
        got = b''
        while True:
            more = s.recv(65536)
            if not more: break
            got += more
        if say: print('got', got)
        return got
    except OSError as error:
        if say: print('failed', name(error))
    finally:
        s.close()
def udp(host, port, data=b'LEAK', family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(3)
    try:
        s.connect((host, port))
        for _ in range(3):
            s.send(data)
            try: print('got', s.recv(4096)); return
            except TimeoutError: pass
        print('failed timeout')
    except OSError as error:
        print('failed', name(error))
def query(qname, kind=1, server=('198.18.0.2', 53), more=b'', arcount=0, flags=0x0100, klass=1, count=1, over=socket.SOCK_DGRAM):
    labels = b''.join(bytes([len(l)]) + l for l in qname.split(b'.')) + b'\0' if isinstance(qname, bytes) else qname[0]
    message = struct.pack('>HHHHHH', 0x1234, flags, count, 0, 0, arcount) + labels + struct.pack('>HH', kind, klass) + more
    s = socket.socket(socket.AF_INET, over); s.settimeout(5)
    try:
        s.connect(server)
        if over == socket.SOCK_STREAM:
            s.sendall(struct.pack('>H', len(message)) + message)
            got = s.recv(65536)[2:]
        else:
            s.send(message); got = s.recv(65536)
        print('rcode', got[3] & 15, 'answers', got[7])
        return got
    except OSError as error:
        print('failed', name(error))
def http(raw, host='good.test', port=80):
    return tcp(host, port, raw)
"""


class Attempt:
    """One attempt."""

    def __init__(self, name: str, command: list[str], says: str = "", tool: str = "") -> None:
        self.name = name
        self.command = command
        self.says = says  # a regular expression for the output that shows how cloche has answered
        self.tool = tool  # that must be installed


ATTEMPTS: Final[list[Attempt]] = []


def python(name: str, script: str, says: str = "") -> None:
    """An attempt in Python."""
    ATTEMPTS.append(Attempt(name, ["python3", "-c", PRELUDE + script], says))


def shell(name: str, script: str, says: str = "", tool: str = "curl") -> None:
    """An attempt by commands."""
    ATTEMPTS.append(Attempt(name, ["sh", "-c", script], says, tool))


def node(name: str, script: str, says: str = "") -> None:
    """An attempt in JavaScript."""
    ATTEMPTS.append(Attempt(name, ["node", "-e", script], says, "node"))
