"""Others' clients of HTTP/2 against others' servers, through inspected rules: gRPC as it comes from PyPI, and WebSockets
within HTTP/2 (RFC 8441) of node and of Chromium."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.egress.servers import PUBLIC
from tests.egress.world import InspectedWorld, missing

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

REAL = "real-s3cr3t-value"
RULE = (
    'version = 1\nauthorities = ["cert.pem"]\n[[allow]]\nhost = "good.test"\nports = [9700]\ninspect = true\n'
)

GRPC_SERVER = """
import sys, grpc
from concurrent.futures import ThreadPoolExecutor
def say(request, context):
    told = dict(context.invocation_metadata()).get("authorization", "")
    return b"%d %s" % (len(request), told[-5:].encode())
def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
def chat(requests, context):
    for request in requests: yield request.upper()
def much(request, context):
    for number in range(int(request)): yield bytes(100000)
handlers = {"Say": grpc.unary_unary_rpc_method_handler(say), "Fail": grpc.unary_unary_rpc_method_handler(fail),
            "Secret": grpc.unary_unary_rpc_method_handler(say), "Chat": grpc.stream_stream_rpc_method_handler(chat),
            "Much": grpc.unary_stream_rpc_method_handler(much)}
server = grpc.server(ThreadPoolExecutor(8))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("demo.Greeter", handlers)])
keys = [(open("key.pem", "rb").read(), open("cert.pem", "rb").read())]
assert server.add_secure_port(sys.argv[1], grpc.ssl_server_credentials(keys))
server.start()
print("ready", flush=True)
sys.stdin.read()
"""

# It is told of no certificate.
GRPC_CLIENT = """
import os, grpc
channel = grpc.secure_channel("good.test:9700", grpc.ssl_channel_credentials())
call = lambda name: channel.unary_unary("/demo.Greeter/" + name)
told = [("authorization", "Bearer " + os.environ["TOKEN"])]
print(call("Say")(b"x" * 300000, metadata=told, timeout=100).decode())
for name in ("Fail", "Secret"):
    try: call(name)(b"", timeout=100)
    except grpc.RpcError as error: print(error.code().name, error.details()[:40])
replies = channel.stream_stream("/demo.Greeter/Chat")(iter([b"a", b"b", b"c"]), timeout=100)
print([reply.decode() for reply in replies])
def in_turn():
    for word in (b"one", b"two"):
        asked.append(word); yield word
asked = []
for reply in channel.stream_stream("/demo.Greeter/Chat")(in_turn(), timeout=100): print(reply.decode())
print(sum(len(reply) for reply in channel.unary_stream("/demo.Greeter/Much")(b"60", timeout=100)))
"""

WS_SERVER = """
const http2 = require('http2'), fs = require('fs');
const server = http2.createSecureServer({key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem'),
    settings: {enableConnectProtocol: true}});
server.on('stream', (stream, headers) => {
    stream.on('error', () => {});
    if (headers[':method'] !== 'CONNECT') { stream.respond({':status': 200}); stream.end('page'); return; }
    stream.respond({':status': 200});
    stream.write(headers[':protocol'] + ' ' + headers[':path'] + '\\n');
    stream.pipe(stream);
});
server.listen(9700, process.argv[2], () => console.log('ready'));
"""

WS_CLIENT = """
const session = require('http2').connect('https://good.test:9700');
session.on('error', error => { console.log('session', error.code); process.exit(1); });
let begun = false;
session.on('remoteSettings', settings => {
    if (!settings.enableConnectProtocol || begun) return;
    begun = true;
    const stream = session.request({':method': 'CONNECT', ':protocol': 'websocket', ':path': '/chat',
        'sec-websocket-version': '13'}, {endStream: false});
    let got = '';
    stream.setEncoding('latin1');
    stream.on('response', headers => { console.log(headers[':status']); stream.write('frames pass unread'); });
    stream.on('data', data => {
        got += data;
        if (got.endsWith('unread')) { console.log(got); stream.end(); }
    });
    stream.on('close', () => session.close());
});
// Its answer comes after the server's settings.
const page = session.request({':path': '/'});
page.resume();
page.on('end', () => { console.log('offered', begun); if (!begun) session.close(); });
"""

# The page is loaded when `/held.js` is, which comes when the page has said what became of its WebSocket.
PAGE = """<title>-</title><p id=a>-</p><script>
const say = word => { document.getElementById('a').textContent = word; fetch('/done'); };
const socket = new WebSocket('wss://good.test:9700/chat');
socket.onopen = () => socket.send('frames pass unread');
socket.onmessage = event => say(event.data);
socket.onerror = () => say('no websocket');
</script><script src=/held.js></script>"""

# Answers the first message with the way by which it came, and the message.
PAGE_SERVER = """
const http2 = require('http2'), fs = require('fs'), crypto = require('crypto');
const offers = process.argv[3] === 'true';
const server = http2.createSecureServer({key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem'),
    allowHTTP1: true, settings: {enableConnectProtocol: offers}});
let held = null, done = false;
const release = () => { if (held && done) { held.end(); } };
const echo = (stream, way) => {
    stream.on('error', () => {});
    let got = Buffer.alloc(0);
    stream.on('data', data => {
        got = Buffer.concat([got, data]);
        const size = got.length < 2 ? 0 : got[1] & 127;
        if (got.length < 2 || got.length < 6 + size) return;
        const text = got.subarray(6, 6 + size).map((byte, at) => byte ^ got[2 + at % 4]);
        const said = Buffer.concat([Buffer.from(way + ': '), text]);
        stream.write(Buffer.concat([Buffer.from([0x81, said.length]), said]));
        got = Buffer.alloc(0);
    });
};
server.on('connect', (request, response) => {
    response.stream.respond({':status': 200});
    echo(response.stream, 'HTTP/2 ' + request.headers[':protocol']);
});
server.on('upgrade', (request, socket) => {
    const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
    const accept = crypto.createHash('sha1').update(key).digest('base64');
    socket.write('HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n'
        + 'Sec-WebSocket-Accept: ' + accept + '\\r\\n\\r\\n');
    echo(socket, 'HTTP/1.1');
});
server.on('request', (request, response) => {
    response.setHeader('content-type', request.url === '/' ? 'text/html' : 'text/javascript');
    if (request.url === '/held.js') { held = response; release(); return; }
    if (request.url === '/done') { done = true; release(); }
    response.end(request.url === '/' ? fs.readFileSync('page.html') : '');
});
server.listen(9700, process.argv[2], () => console.log('ready'));
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedWorld]:
    made = InspectedWorld(tmp_path_factory.mktemp("egress"))
    yield made
    made.close()


@contextmanager
def serving(world: InspectedWorld, words: list[str]) -> Iterator[None]:
    """A server outside, which says when it is ready."""
    process = subprocess.Popen(
        [*world.enter(world.outside), *words],
        cwd=world.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.timeout(300)
def test_grpc(world: InspectedWorld) -> None:
    """Calls, streams both ways, errors, a call that no rule allows, and a token that the program does not know."""
    pytest.importorskip("grpc")
    (world.folder / "server.py").write_text(GRPC_SERVER)
    (world.folder / "client.py").write_text(GRPC_CLIENT)
    (world.folder / "token").write_text(REAL)
    rules = world.rules(
        RULE
        + '[[allow.requests]]\nmethods = ["POST"]\npaths = ["/demo.Greeter/*"]\n'
        + '[[allow.requests]]\ndeny = true\npaths = ["/demo.Greeter/Secret"]\n'
        + '[[allow.secrets]]\nname = "TOKEN"\nfrom = "file:token"\nheader = "authorization"\n'
    )
    python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    seen = {sys.base_prefix, sysconfig.get_path("purelib")}
    shown = [word for path in sorted(seen) for word in ("-v", f"{path}:{path}:ro")]
    told = ["-e", f"PYTHONPATH={sysconfig.get_path('purelib')}"]
    with serving(world, [sys.executable, "server.py", f"{PUBLIC}:9700"]):
        outcome = world.run([python, "client.py"], "--net", rules, *shown, *told)
    lines = outcome.out.splitlines()
    assert lines[0] == f"300000 {'*' * 5}" or lines[0] == f"300000 {REAL[-5:]}", outcome
    assert lines[1:] == [
        "FAILED_PRECONDITION not today",
        lines[2],
        "['A', 'B', 'C']",
        "ONE",
        "TWO",
        "6000000",
    ], outcome
    assert lines[2].startswith("PERMISSION_DENIED"), outcome


@pytest.mark.parametrize("is_allowed", [True, False])
def test_websockets_within_http2(world: InspectedWorld, is_allowed: bool) -> None:
    """By node, which asks for them only if they are offered."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (world.folder / "server.js").write_text(WS_SERVER)
    (world.folder / "client.js").write_text(WS_CLIENT)
    rules = world.rules(RULE + ('upgrade = ["websocket"]\n' if is_allowed else ""))
    with serving(world, ["node", "server.js", PUBLIC]):
        outcome = world.run(["node", "client.js"], "--net", rules)
    found = ["200", "frames pass unread", "offered true", "websocket /chat"]
    assert sorted(outcome.out.splitlines()) == (found if is_allowed else ["offered false"]), outcome


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("is_allowed", "is_offered", "says"),
    [
        (True, True, "HTTP/2 websocket: frames pass unread"),
        (True, False, "HTTP/1.1: frames pass unread"),
        (False, True, "no websocket"),
    ],
)
def test_websockets_of_a_browser(
    world: InspectedWorld, *, is_allowed: bool, is_offered: bool, says: str
) -> None:
    """Chromium's go through the page's own HTTP/2 connection if that offers it, else through one of HTTP/1.1."""
    for program in ("node", "chromium"):
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/bin") is None:
            pytest.skip(f"{program} is not installed")
    (world.folder / "pages.js").write_text(PAGE_SERVER)
    (world.folder / "page.html").write_text(PAGE)
    rules = world.rules(RULE + ('upgrade = ["websocket"]\n' if is_allowed else ""))
    script = (
        "HOME=/tmp timeout 600 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage"
        " --ignore-certificate-errors --user-data-dir=/tmp/c --dump-dom https://good.test:9700/ 2>/tmp/err"
        " || tail -20 /tmp/err"
    )
    with serving(world, ["node", "pages.js", PUBLIC, str(is_offered).lower()]):
        outcome = world.run(["sh", "-c", script], "--net", rules, "--memory", "3g")
    assert f'<p id="a">{says}</p>' in outcome.out, outcome
