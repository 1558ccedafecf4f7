"""What `cloche serve` gives to those with another's key, with another's tokens, with a traffic token, and to nonsense."""

import asyncio
import json
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("hypercorn")
pytest.importorskip("e2b_code_interpreter")

from e2b_code_interpreter import Sandbox
from starlette.requests import Request

from cloche.serve.app import bounded
from cloche.serve.entry import ServeError
from tests.sdk.test_serve import KEYS, WAIT_S, Server, options

ENVD = "49983"
CODE = "49999"
DAEMON = [
    *[(ENVD, "POST", f"/process.Process/{name}") for name in ("List", "SendInput", "SendSignal", "Update")],
    *[
        (ENVD, "POST", f"/process.Process/{name}")
        for name in ("Start", "Connect", "StreamInput", "CloseStdin")
    ],
    *[(ENVD, "POST", f"/filesystem.Filesystem/{name}") for name in ("Stat", "MakeDir", "Move", "ListDir")],
    *[(ENVD, "POST", f"/filesystem.Filesystem/{name}") for name in ("Remove", "CreateWatcher", "WatchDir")],
    (ENVD, "GET", "/files?path=/etc/passwd"),
    (ENVD, "POST", "/files?path=/tmp/new"),
    (ENVD, "POST", "//process.Process/List"),
    (CODE, "POST", "/execute"),
]
CONTEXTS = [
    (CODE, "GET", "/contexts"),
    (CODE, "POST", "/contexts"),
    (CODE, "POST", "/contexts/0/restart"),
    (CODE, "DELETE", "/contexts/0"),
    (CODE, "GET", "/health"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("rights"), "--domain", "boxes.test")
    yield made
    made.close()


@pytest.fixture(scope="module")
def ann(server: Server) -> Iterator[Sandbox]:
    made = Sandbox.create(timeout=600, network={"allow_public_traffic": False}, **options(server))
    yield made
    made.kill()


@pytest.fixture(scope="module")
def bob(server: Server) -> Iterator[Sandbox]:
    made = Sandbox.create(timeout=600, **options(server, "bob"))
    yield made
    made.kill()


def test_another_s_key(server: Server, ann: Sandbox) -> None:
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/timeout"),
        ("POST", "/refreshes"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/connect"),
        ("GET", "/metrics"),
    ):
        where = f"/sandboxes/{ann.sandbox_id}{path}"
        answers = [
            server.request(method, where, b'{"timeout": 1}' if method == "POST" else b"", X_API_Key=key)
            for key in (KEYS["bob"], "", "e2b_" + "c" * 40, "\u00e9")
        ]
        assert [status for status, _text in answers] == [404, 401, 401, 401], (method, path, answers)
        assert not any(b"token" in text.lower().replace(b"key", b"") for _status, text in answers)
    assert ann.is_running()
    seen = Sandbox.list(**options(server, "bob")).next_items()
    assert ann.sandbox_id not in [each.sandbox_id for each in seen]  # bob's own may be there by now


def test_another_s_tokens(server: Server, ann: Sandbox, bob: Sandbox) -> None:
    tokens = ["", "x", KEYS["ann"], KEYS["bob"], bob._envd_access_token, bob.traffic_access_token, "\u00e9"]
    for port, method, path in DAEMON + CONTEXTS:
        for token in tokens:
            both = {"X_Access_Token": token or "", "E2b_Traffic_Access_Token": token or ""}
            for where in (
                {"Host": f"{port}-{ann.sandbox_id}.boxes.test"},
                {"E2b_Sandbox_Id": ann.sandbox_id, "E2b_Sandbox_Port": port},
            ):
                body = b"{}" if method == "POST" else b""
                status, text = server.request(method, path, body, **both, **where)
                assert status in (401, 501), (port, method, path, token, status, text)
    for token in tokens:
        host = f"8080-{ann.sandbox_id}.boxes.test"
        status, _text = server.request("GET", "/", Host=host, E2b_Traffic_Access_Token=token or "")
        assert status == 403
    status, _text = server.request("GET", f"/files?path=/etc/passwd&sandbox={ann.sandbox_id}")
    assert status == 401


def test_a_traffic_token_runs_nothing(server: Server, ann: Sandbox) -> None:
    """It is for the ports, so clients of these have it; of the packages, those of contexts have no other."""
    token = ann.traffic_access_token
    assert token is not None
    for port, method, path in DAEMON:
        status, text = server.request(
            method,
            path,
            b'{"code": "1"}' if method == "POST" else b"",
            Host=f"{port}-{ann.sandbox_id}.boxes.test",
            E2b_Traffic_Access_Token=token,
        )
        assert status in (401, 501), (port, method, path, status, text)
    host = f"{CODE}-{ann.sandbox_id}.boxes.test"
    assert server.request("GET", "/contexts", Host=host, E2b_Traffic_Access_Token=token)[0] == 200
    assert ann.run_code("6 * 7").text == "42"


ECHO = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = repr(self.headers.get_all("X-API-Key")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
http.server.HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


def test_keys_reach_no_program(server: Server, bob: Sandbox) -> None:
    bob.files.write("/tmp/echo.py", ECHO)
    bob.commands.run("python3 /tmp/echo.py", background=True)
    host = bob.get_host(8080)
    deadline = time.monotonic() + WAIT_S
    while server.request("GET", "/", Host=host)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    by_id = {"E2b_Sandbox_Id": bob.sandbox_id, "E2b_Sandbox_Port": "8080"}
    for where in ({"Host": host}, by_id):
        for key in KEYS.values():
            assert server.request("GET", "/", X_API_Key=key, **where) == (200, b"None")
        assert server.request("GET", "/", X_API_Key="the program's", **where) == (200, b'["the program\'s"]')


def test_a_form_is_bounded() -> None:
    pieces = [b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n", *[bytes(1000)] * 100]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": True}

    kind = (b"content-type", b"multipart/form-data; boundary=x")
    request = Request({"type": "http", "headers": [kind]}, bounded(receive, 50_000))

    async def read() -> None:
        await request.form()

    with pytest.raises(ServeError, match="more than"):
        asyncio.run(read())
    assert len(pieces) == 50


def test_odd_names(server: Server, ann: Sandbox) -> None:
    odd = [
        "%2e%2e",
        "..",
        "i%00",
        "%C3%A9",
        "I" + ann.sandbox_id[1:],
        "x" * 65,
        "%FF",
        "*",
    ]
    for ident in odd:
        status, _text = server.request("GET", f"/sandboxes/{ident}", X_API_Key=KEYS["ann"])
        assert status in (404, 501), (ident, status)
    for host in (
        f"0-{ann.sandbox_id}.boxes.test",
        f"99999-{ann.sandbox_id}.boxes.test",
        f"-1-{ann.sandbox_id}.boxes.test",
        f"{ENVD}-{ann.sandbox_id}.boxes.test.",
        f"{ENVD}-{ann.sandbox_id}.other.test",
        f"{ENVD}-{'i' * 64}.boxes.test",
    ):
        status, text = server.request(
            "GET", "/", Host=host, E2b_Traffic_Access_Token=ann.traffic_access_token or ""
        )
        assert status in (400, 401, 404, 502), (host, status, text)


def test_nonsense_with_the_right_tokens(server: Server, ann: Sandbox) -> None:
    """No answer is an internal error, and nothing stays that spoils later ones."""
    wrong: list[tuple[str, bytes, int, bytes]] = []
    key = {"X_API_Key": KEYS["ann"], "Content_Type": "application/json"}
    for method, path, body in (
        ("GET", "/v2/sandboxes?limit=" + "1" * 5000, b""),
        ("GET", "/v2/sandboxes?nextToken=" + "1" * 5000, b""),
        ("POST", "/sandboxes", b'{"templateID": "\\ud800"}'),
        ("POST", "/sandboxes", b'{"templateID": {"a": 1}}'),
        ("POST", "/sandboxes", b'{"metadata": {"a": "\\udcff"}}'),
        ("POST", "/sandboxes", b'{"envVars": {"A\\u0000": "1"}}'),
        ("POST", "/sandboxes", b'{"envVars": {"A": "\\ud800"}}'),
        ("POST", "/sandboxes", b'{"timeout": ' + b"9" * 5000 + b"}"),
        ("POST", "/sandboxes", b'{"timeout": NaN}'),
        ("POST", "/sandboxes", b"[" * 100_000),
        ("POST", f"/sandboxes/{ann.sandbox_id}/refreshes", b'{"duration": "x"}'),
    ):
        status, text = server.request(method, path, body, **key)
        wrong += [] if 400 <= status < 500 else [(path[:60], body[:60], status, text)]
    here = {"E2b_Sandbox_Id": ann.sandbox_id, "X_Access_Token": ann._envd_access_token or ""}
    lone = b'"\\ud800"'
    for port, path, body, kind in (
        (CODE, "/execute", b'{"code": "1", "context_id": []}', "application/json"),
        (CODE, "/execute", b'{"code": "1", "context_id": {"a": 1}}', "application/json"),
        (CODE, "/execute", b'{"code": %s}' % lone, "application/json"),
        (CODE, "/execute", b'{"code": "1", "env_vars": {"a": %s}}' % lone, "application/json"),
        (CODE, "/contexts", b'{"cwd": %s}' % lone, "application/json"),
        (CODE, "/contexts", b'{"language": "klingon"}', "application/json"),
        (ENVD, "/filesystem.Filesystem/Stat", b'{"path": %s}' % lone, "application/json"),
        (ENVD, "/filesystem.Filesystem/MakeDir", b'{"path": "/%s"}' % (b"x" * 100_000), "application/json"),
        (ENVD, "/filesystem.Filesystem/GetWatcherEvents", b'{"watcherId": []}', "application/json"),
        (ENVD, "/process.Process/SendSignal", b'{"process": {"pid": []}, "signal": []}', "application/json"),
        (ENVD, "/process.Process/SendSignal", b'{"process": {"tag": {}}, "signal": 15}', "application/json"),
        (ENVD, "/files?path=/tmp/x", b"--x\r\nno part", "multipart/form-data; boundary=x"),
        (ENVD, "/files?path=/tmp/x", b"no part", "multipart/form-data"),
        (ENVD, "/files", b"no path", "application/octet-stream"),
        (ENVD, "/files?path=/tmp/%00", b"x", "application/octet-stream"),
        (ENVD, "/files?path=/%FF%FE/x", b"x" * 10, "application/octet-stream; x"),
        (ENVD, "/files?path=/tmp/x&username=%FF%00", b"x", "application/octet-stream"),
    ):
        status, text = server.request("POST", path, body, E2b_Sandbox_Port=port, Content_Type=kind, **here)
        wrong += [] if status < 500 or text.startswith(b"{") else [(path, body[:60], status, text)]
    for start in (
        b'{"process": {"cmd": %s}}' % lone,
        b'{"process": {"cmd": "true", "args": [%s]}}' % lone,
        b'{"process": {"cmd": "true", "envs": {"a=b": "c", "d": "\\u0000"}}}',
        b'{"process": {"cmd": "true", "cwd": {"a": 1}}}',
        b'{"process": {"cmd": "true", "cwd": 7}}',
        b'{"process": {"cmd": "true"}, "pty": {"size": {"rows": 1e99, "cols": true}}}',
        b'{"process": {"cmd": "tr\\u0000ue"}}',
    ):
        status, text = server.request(
            "POST",
            "/process.Process/Start",
            struct.pack(">BI", 0, len(start)) + start,
            E2b_Sandbox_Port=ENVD,
            Content_Type="application/connect+json",
            **here,
        )
        is_right = status < 500 and (status >= 400 or b'"error"' in text)
        wrong += [] if is_right else [("Start", start, status, text)]
    status, text = server.request("GET", "/sandboxes", **key)
    assert status == 200 and len(json.loads(text)) == 1
    assert wrong == []


def test_a_signature_is_for_one_file(server: Server, ann: Sandbox) -> None:
    ann.files.write("/tmp/shown", "shown")
    url = ann.download_url("/tmp/shown")
    path = "/files?" + url.partition("?")[2]
    where = {"E2b_Sandbox_Id": ann.sandbox_id, "E2b_Sandbox_Port": ENVD}
    assert server.request("GET", path, **where) == (200, b"shown")
    assert server.request("POST", path, b"x", **where)[0] == 401
    for more in ("path=/etc/passwd", "username=root", "signature=x"):
        assert server.request("GET", f"{path}&{more}", **where)[0] == 401
        assert server.request("GET", path.replace("?", f"?{more}&"), **where)[0] == 401


def test_a_host_that_is_none(server: Server, ann: Sandbox) -> None:
    """What stands in the header Host is no part of the path."""
    for more in ("/health?", ":1/health?", "/files?sandbox=x&", "#", "@", " /health?"):
        for host in (f"{ENVD}-{ann.sandbox_id}.boxes.test{more}", f"x{more}"):
            where = {"Host": host, "E2b_Sandbox_Id": ann.sandbox_id, "E2b_Sandbox_Port": ENVD}
            status, text = server.request("POST", "/process.Process/List", b"{}", **where)
            assert 400 <= status < 500, (host, status, text)
