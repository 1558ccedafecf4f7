"""Inspected TLS: real clients, the requests that rules let through, secrets, approvals, and attempts to get around."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import CLOCHE, environment
from tests.egress.test_net import Named
from tests.egress.world import RULE, InspectedWorld, missing

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

REAL = "real-s3cr3t-value"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedWorld]:
    made = InspectedWorld(tmp_path_factory.mktemp("egress"))
    yield made
    made.close()


def test_requests_are_judged_and_written_down(world: InspectedWorld) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = (
        "curl -sS https://good.test:9443/ok/a?x=1 -o /dev/null -w '%{http_version} %{http_code}\\n';"
        "curl -sS --http1.1 -d body https://good.test:9443/ok/b -o /dev/null -w '%{http_version} %{http_code}\\n';"
        "curl -sS https://good.test:9443/no -w '%{http_code}\\n';"
        "curl -sS --http1.1 -X DELETE https://good.test:9443/ok/a -w '%{http_code}\\n';"
        "curl -sS -H 'Host: evil.test' https://good.test:9443/ok/a -o /dev/null -w '%{http_code}\\n';"
        "curl -sS --http1.1 -H 'Host: evil.test' https://good.test:9443/ok/a -o /dev/null -w '%{http_code}\\n'"
    )
    more = '[[allow.requests]]\nmethods = ["GET", "POST"]\npaths = ["/ok/**"]\n'
    outcome = world.inspected(script, more)
    lines = outcome.out.splitlines()
    assert lines[:2] == ["2 200", "1.1 200"], outcome
    assert (
        lines[2].startswith("cloche: no rule about requests to good.test allows GET /no")
        and lines[3] == "403"
    )
    assert lines[5:] == ["403", "421", "421"], outcome
    seen = world.seen()
    assert [each[:3] for each in seen] == [("2", "GET", "/ok/a?x=1"), ("1.1", "POST", "/ok/b")]
    assert seen[1][4] == "body" and seen[0][3][":authority"] == "good.test:9443"
    requests = [line for line in world.log() if line.get("http_request")]
    found = {
        (
            line["http_request"]["http_method"],
            line["http_request"]["url"]["path"],
            line["http_response"]["code"],
        )  # type: ignore[index]
        for line in requests
    }
    assert {
        ("GET", "/ok/a", 200),
        ("POST", "/ok/b", 200),
        ("GET", "/no", 403),
        ("DELETE", "/ok/a", 403),
    } <= found


CLIENTS = {
    "python3": "python3 -c \"import urllib.request; print(urllib.request.urlopen('https://good.test:9443/p').status)\"",
    "node": "node -e \"fetch('https://good.test:9443/n').then(r => console.log(r.status), e => console.log(e))\"",
    "git": "git -c http.version=HTTP/1.1 ls-remote https://good.test:9443/g 2>&1 | grep -q certificate || echo 200",
    "openssl": "echo | openssl s_client -connect good.test:9443 -servername good.test -verify_return_error 2>&1 "
    "| grep -q 'Verify return code: 0' && echo 200",
    "wget": "wget -qO /dev/null https://good.test:9443/w && echo 200",
}


@pytest.mark.parametrize("client", ["python3", "node", "git", "openssl", "wget"])
def test_clients_believe_the_authority(world: InspectedWorld, client: str) -> None:
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    outcome = world.inspected(CLIENTS[client])
    assert outcome.out.strip() == "200", outcome


@pytest.mark.slow
@pytest.mark.timeout(900)  # Go compiles its own library first
@pytest.mark.parametrize("client", ["go", "java"])
def test_compiled_clients_believe_the_authority(world: InspectedWorld, client: str) -> None:
    if shutil.which("go" if client == "go" else "javac") is None:
        pytest.skip(f"{client} is not installed")
    if client == "go":
        (world.folder / "c.go").write_text(
            'package main\nimport ("fmt"; "net/http")\nfunc main() { r, e := http.Get("https://good.test:9443/go"); '
            "if e != nil { fmt.Println(e); return }; fmt.Println(r.StatusCode) }\n"
        )
        build, run = ["go", "build", "-o", "c.out", "c.go"], "./c.out"
    else:
        (world.folder / "C.java").write_text(
            "public class C { public static void main(String[] a) throws Exception { System.out.println((("
            'java.net.HttpURLConnection) new java.net.URI("https://good.test:9443/j").toURL().openConnection())'
            ".getResponseCode()); } }\n"
        )
        build, run = ["javac", "C.java"], "java -Xint C 2>/dev/null"
    done = subprocess.run(
        build,
        cwd=world.folder,
        env={
            **os.environ,
            "GOFLAGS": "-mod=mod",
            "GO111MODULE": "off",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"{client} builds nothing here: {done.stderr[-200:]}")
    outcome = world.inspected(run)
    assert outcome.out.strip() == "200", outcome


def test_servers_that_are_not_to_be_believed(world: InspectedWorld) -> None:
    outcome = world.inspected(
        "curl -sS https://good.test:9443/x; echo $?", start=RULE.replace('authorities = ["cert.pem"]\n', "")
    )
    assert "bad certificate" in outcome.err and world.seen() == [], outcome
    refused = [line for line in world.log() if line["activity_name"] == "refuse"]
    assert "not to be believed" in str(refused[-1]["message"])


def test_the_name_in_tls_is_the_name_of_the_connection(world: InspectedWorld) -> None:
    script = "openssl s_client -connect good.test:9443 -servername evil.test </dev/null 2>&1"
    outcome = world.inspected(script)
    assert "unrecognized name" in outcome.out and world.seen() == [], outcome


def test_the_authority_is_of_this_sandbox_alone(world: InspectedWorld) -> None:
    script = "cat /etc/cloche/ca.pem; cat $SSL_CERT_FILE | tail -30; grep -rl 'PRIVATE KEY' /etc/cloche; env"
    first, second = world.inspected(script), world.inspected(script)
    certificate, other = (done.out.split("-----END")[0].splitlines() for done in (first, second))
    assert len(certificate) > 3 and certificate != other
    assert certificate[-1] not in second.out  # of the signature; names and times may be the same
    assert "PRIVATE" not in first.out and not os.path.exists("/etc/cloche")
    # Programs outside do not trust it: it is in no file of the host.
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    assert not bundle.exists() or certificate[-1] not in bundle.read_text()


SECRETS = '[[allow.secrets]]\nname = "TOKEN"\nfrom = "file:token"\nheader = "authorization"\n'


def test_secrets_stay_outside(world: InspectedWorld) -> None:
    (world.folder / "token").write_text(REAL + "\n")
    script = (
        "env | grep -c real-s3cr3t; cat /proc/*/environ 2>/dev/null | grep -ac real-s3cr3t;"
        'curl -sS -H "Authorization: Bearer $TOKEN" https://good.test:9443/s;'
        'curl -sS --http1.1 -u "me:$TOKEN" https://good.test:9443/s;'
        'curl -sS -H "X-Other: $TOKEN" "https://good.test:9443/$TOKEN";'
        'curl -sS -H "Authorization: Bearer $TOKEN" http://other.test/;'
        'curl -sS -r 0-20 -H "Authorization: Bearer $TOKEN" https://good.test:9443/s;'
    )
    outcome = world.inspected(script, SECRETS + '[[allow]]\nhost = "other.test"\nports = [80]\n')
    assert outcome.out.startswith("0\n0\n") and REAL not in outcome.out, outcome
    seen = world.seen()
    assert seen[0][3]["authorization"] == f"Bearer {REAL}"
    assert seen[1][3]["authorization"].startswith("Basic ") and "cloche-token" not in str(seen[1])
    assert REAL not in str(seen[2]) and "cloche-token-" in seen[2][3]["x-other"]
    assert "range" not in seen[3][3]
    assert any("cloche-token-" in each for each in outcome.requests)
    assert not any(REAL in each for each in outcome.requests)
    assert "*" * len(REAL) in outcome.out
    packed = base64.b64encode(f"me:{REAL}".encode()).decode()
    assert packed not in outcome.out and REAL not in (world.folder / "log").read_text()


def test_websockets_by_rule(world: InspectedWorld) -> None:
    script = (
        "python3 - <<'E'\n"
        "import socket, ssl\n"
        "c = ssl.create_default_context(); c.set_alpn_protocols(['http/1.1'])\n"
        "s = c.wrap_socket(socket.create_connection(('good.test', 9443)), server_hostname='good.test')\n"
        "s.sendall(b'GET /ws HTTP/1.1\\r\\nHost: good.test:9443\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        "Sec-WebSocket-Key: AAAA\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n')\n"
        "print(s.recv(9999).split(b'\\r\\n')[0])\n"
        "try: s.sendall(b'frame'); print(s.recv(99))\n"
        "except OSError as error: print(error)\n"
        "E\n"
    )
    outcome = world.inspected(script, 'upgrade = ["websocket"]\n')
    assert "101 Switching Protocols" in outcome.out and "b'frame'" in outcome.out, outcome
    outcome = world.inspected(script)
    assert "403 Forbidden" in outcome.out and "b'frame'" not in outcome.out, outcome


def test_sizes(world: InspectedWorld) -> None:
    more = "[[allow.requests]]\nmax_body = 1000\nmax_response = 100000\n"
    script = (
        "for v in --http1.1 --http2; do curl -sS $v -o /dev/null -w '%{http_code}\\n' https://good.test:9443/big;"
        "head -c 2000 /dev/zero | curl -sS $v -o /dev/null -w '%{http_code}\\n' -T - https://good.test:9443/up;"
        "head -c 900 /dev/zero | curl -sS $v -o /dev/null -w '%{http_code} %{size_download}\\n' -T - https://good.test:9443/up;"
        "done"
    )
    outcome = world.inspected(script, more)
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("200 ")] == ["200", "200"], outcome
    assert not any(line == "200" for line in lines if len(lines) > 6), outcome
    assert all(len(each[4]) <= 1000 for each in world.seen())


def test_much_data(world: InspectedWorld) -> None:
    script = "for v in --http1.1 --http2; do curl -sS $v -o /dev/null -w '%{http_version} %{size_download}\\n' https://good.test:9443/big; done"
    outcome = world.inspected(script)
    assert outcome.out == "1.1 33554432\n2 33554432\n", outcome


def test_approvals(world: InspectedWorld) -> None:
    rules = world.rules(
        RULE
        + '[[allow.requests]]\npaths = ["/ask/**"]\nask = "path"\n[[allow.requests]]\npaths = ["/free"]\n'
    )
    sandbox = Named(world, "--net", rules)
    sandbox.tell("import threading, urllib.request; print(1)")
    get = (
        "def get(path):\\n  try: return urllib.request.urlopen('https://good.test:9443' + path).status\\n"
        "  except urllib.error.HTTPError as error: return error.read().decode().strip()\\n"
    )
    sandbox.tell(f'exec("{get}"); print(1)')
    assert sandbox.tell("print(get('/free'))") == "200"
    assert sandbox.net("approve") == ""
    approver = subprocess.Popen(
        [sys.executable, "-c", APPROVE, *CLOCHE, "--root", sandbox.root, "net", "egress-test"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert sandbox.tell("print(get('/ask/a'))") == "200"
    assert "GET https://good.test:9443/ask/a" in approver.communicate(timeout=150)[0]
    assert sandbox.tell("print(get('/ask/a'))") == "200"  # remembered
    refuser = subprocess.Popen(
        [sys.executable, "-c", APPROVE, *CLOCHE, "--root", sandbox.root, "net", "egress-test", "--refuse"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "was not approved" in sandbox.tell("print(get('/ask/b'))")
    refuser.communicate(timeout=150)
    assert "nothing waits" in sandbox.net("approve", "77")
    sandbox.end()
    assert [each[2] for each in world.seen() if "ask" in each[2]] == ["/ask/a", "/ask/a"]


# Polls until a request waits for an approval, and answers it.
APPROVE = """
import subprocess, sys
*command, name = [word for word in sys.argv[1:] if word != "--refuse"]
while True:
    waiting = subprocess.run([*command, name, "approve"], capture_output=True, text=True).stdout
    if waiting:
        print(waiting)
        refuse = ["--refuse"] if "--refuse" in sys.argv else []
        sys.exit(subprocess.run([*command, name, "approve", waiting.split()[0], *refuse]).returncode)
"""


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ('[[allow]]\nhost = "a.test"\n[[allow.requests]]\nmethods = ["G T"]\n', 5, "allow 1.requests.methods"),
        (
            '[[allow]]\nhost = "a.test"\ninspect = true\n[[allow.requests]]\n[[allow.requests]]\npaths = ["x"]\n',
            7,
            "allow 1.requests.paths",
        ),
        ('[[allow]]\nhost = "a.test"\n[[allow.requests]]\npaths = ["/x"]\n', 2, "allow 1.requests"),
        ('[[allow]]\nhost = "a.test"\ninspect = true\n[[allow.secrets]]\nname = "A"\nfrom = "env:NOT_SET"\nheader = "x"\n', 7, "allow 1.secrets.from"),
        ('[[allow]]\nhost = "a.test"\ninspect = true\nupgrade = ["x"]\n', 5, "allow 1.upgrade"),
        ('authorities = ["nowhere.pem"]\n', 2, "authorities"),
        ('[[allow]]\nhost = "a.test"\nprotocol = "tcp"\ninspect = true\n', 5, "allow 1.inspect"),
    ],
)  # fmt: skip
def test_mistakes_in_rules(tmp_path: Path, text: str, line: int, key: str) -> None:
    rules = tmp_path / "bad.toml"
    rules.write_text("version = 1\n" + text)
    done = subprocess.run(
        [*CLOCHE, "run", "--net", str(rules), "--", "true"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 125 and f"bad.toml: line {line}, {key}: " in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
