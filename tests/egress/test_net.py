"""Rules that change while programs run, the log, the report, and programs that talk as they always do."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.egress.audit import broken_line
from tests.cli.harness import CLOCHE, environment, is_one_line
from tests.egress.servers import OTHER, PUBLIC
from tests.egress.world import World, missing

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("egress"))
    yield made
    made.close()


class Named:
    """A sandbox with a name that runs a script of Python, line by line."""

    def __init__(self, world: World, *options: str) -> None:
        self.root = str(world.folder / "records")
        words = world.words(*options)
        at = words.index("run")
        words = [*words[:at], "--root", self.root, "run", "--name", "egress-test", *words[at + 1 :]]
        self.process = subprocess.Popen(
            [*words, "python3", "-u", "-i", "-c", "import socket, sys; sys.ps1 = sys.ps2 = ''"],
            cwd=world.folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.tell("print('up')") == "up"

    def tell(self, line: str) -> str:
        """Have a line executed that prints one."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def net(self, *words: str) -> str:
        """`cloche net`."""
        done = subprocess.run(
            [*CLOCHE, "--root", self.root, "net", "egress-test", *words],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        return done.stdout + done.stderr

    def end(self) -> str:
        """The rest of what it printed."""
        return self.process.communicate(timeout=150)[0]


def test_rules_change_while_programs_run(world: World) -> None:
    log = world.folder / "log"
    sandbox = Named(
        world,
        "--allow",
        "other.test:7000",
        "--allow",
        "good.test:7001/udp",
        "--net-log",
        str(log),
        "--net-report",
    )
    assert sandbox.net("show") == "allow other.test:7000\nallow good.test:7001/udp\n"
    connect = "s = socket.create_connection(('other.test', 7000)); _ = s.sendall(b'a'); print(s.recv(9))"
    assert sandbox.tell(connect) == "b'a'"
    udp = "u = socket.socket(type=socket.SOCK_DGRAM); u.connect(('good.test', 7001)); _ = u.send(b'b'); print(u.recv(9))"
    assert sandbox.tell(udp) == "b'b'"
    old = sandbox.tell("print(s.getpeername()[0])")
    assert sandbox.net("add", "--allow", "evil.test:7000", "--deny", "bad.test") == "4 rules\n"
    assert sandbox.tell("_ = s.sendall(b'c'); print(s.recv(9))") == "b'c'"
    # Removed: the connection is cut, and the address that the program kept leads nowhere, not even by another name's
    # rule.
    assert sandbox.net("remove", "--allow", "other.test:7000") == "3 rules; 1 connection was cut\n"
    cut = "\ntry: print(s.recv(9))\nexcept OSError as error: print(type(error).__name__)\n"
    assert sandbox.tell(cut) in ("ConnectionResetError", "b''")  # the latter if the sentry is slow
    assert sandbox.tell("print(socket.gethostbyname('evil.test'))") != old
    again = (
        f"\ntry: print(socket.create_connection(('{old}', 7000)))\nexcept OSError as error: print(error)\n"
    )
    assert "Permission denied" in sandbox.tell(again)
    assert sandbox.net("set", "--allow", "good.test:7001/udp") == "1 rule\n"
    assert sandbox.tell("_ = u.send(b'd'); print(u.recv(9))") == "b'd'"
    assert sandbox.net("set") == "0 rules; 1 connection was cut\n"
    assert is_one_line(sandbox.net("remove", "--allow", "nowhere.test"))
    lines = [json.loads(line) for line in sandbox.net("log").splitlines()]
    assert [line["activity_name"] for line in lines].count("cut") == 2
    assert {line.get("sandbox") for line in lines} == {"egress-test"}
    report = sandbox.end()
    assert "allowed  other.test:7000  1 connection, 2 bytes in, 2 bytes out" in report, report
    written = log.read_text().splitlines()
    assert broken_line(written) == -1
    for number in (1, len(written) // 2):
        assert broken_line(written[:number] + written[number + 1 :]) == number
        changed = written[number].replace("e", "E", 1)
        assert broken_line([*written[:number], changed, *written[number + 1 :]]) == number


def test_a_sandbox_without_a_way_out_has_no_rules(world: World) -> None:
    done = subprocess.run(
        [*CLOCHE, "--root", str(world.folder / "records"), "net", "nobody", "show"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 125 and is_one_line(done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ["--allow", "exa mple"], ["--allow", "10.0.0.0/8"], ["--net", "nowhere.toml"], ["--net-report"],
        ["--allow", "a.test", "--dns", "nobody"], ["--allow", "198.18.1.0/24:1"], ["--deny", "*"],
    ],
)  # fmt: skip
def test_mistakes_are_one_line(world: World, words: list[str]) -> None:
    done = subprocess.run(
        [*CLOCHE, "run", *words, "--", "true"], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 125 and is_one_line(done.stderr), done.stderr


def test_addresses_that_were_granted(world: World) -> None:
    script = (
        "import socket\n"
        f"s = socket.create_connection(('{PUBLIC}', 7000)); s.sendall(b'x'); print(s.recv(1), s.getpeername())\n"
        f"u = socket.socket(type=socket.SOCK_DGRAM); u.sendto(b'y', ('{OTHER}', 7001)); print(u.recvfrom(9))\n"
        "s = socket.socket(socket.AF_INET6); s.connect(('fd00:77::1', 9)) if 0 else print('no')\n"
    )
    outcome = world.python(script, "--allow", "93.184.216.0/24:7000", "--allow", f"{OTHER}:7001/udp")
    assert outcome.out == f"b'x' ('{PUBLIC}', 7000)\n(b'y', ('{OTHER}', 7001))\nno\n", outcome


def test_private_addresses_if_the_rule_says_so(world: World) -> None:
    rules = world.folder / "rules.toml"
    rules.write_text(
        'version = 1\n[[allow]]\nhost = "private.test"\nports = [7000]\ninternal = true\n'
        '[[allow]]\nhost = "good.test"\nports = [7000]\ndns = ["SRV", "TXT"]\n'
    )
    script = (
        "import socket\n"
        "s = socket.create_connection(('private.test', 7000)); s.sendall(b'x'); print(s.recv(1))\n"
        "try: socket.create_connection(('private.test', 7001))\n"
        "except OSError as error: print(error)\n"
        "def ask(kind):\n"
        "    u = socket.socket(type=socket.SOCK_DGRAM); u.connect(('9.9.9.9', 53))\n"
        "    u.send(b'ab\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4good\\4test\\0\\0' + bytes([kind]) + b'\\0\\1')\n"
        "    return u.recv(999)\n"
        "print(b'hello world' in ask(16), ask(33)[7], ask(15)[7])\n"
    )
    outcome = world.python(script, "--net", str(rules))
    assert outcome.out == "b'x'\n[Errno 13] Permission denied\nTrue 1 0\n", outcome


def test_much_data_and_its_end(world: World) -> None:
    """Both ways of moving data: given away, and relayed."""
    script = (
        "import socket, hashlib\n"
        "s = socket.create_connection(('good.test', 9100)); n = 0\n"
        "while data := s.recv(1 << 20): n += len(data)\n"
        "print(n)\n"
        "s = socket.create_connection(('good.test', 7000)); s.sendall(b'q' * 3000000) if 0 else None\n"
        "import threading\n"
        "t = threading.Thread(target=lambda: (s.sendall(b'q' * 3000000), s.shutdown(socket.SHUT_WR))); t.start()\n"
        "n = 0\n"
        "while data := s.recv(1 << 20): n += len(data)\n"
        "print(n)\n"
        "import urllib.request\n"
        "body = b'z' * 2000000\n"
        "print(urllib.request.urlopen('http://good.test/post', data=body).read())\n"
    )
    outcome = world.python(script, "--allow", "good.test:80,9100,7000")
    assert outcome.out == "8388608\n3000000\nb'served /post\\n'\n", outcome
    assert len([each for each in outcome.requests if each.endswith("z" * 2000000)]) == 1


def test_clients_of_tls(world: World) -> None:
    script = (
        "import ssl, socket, urllib.request, http.client\n"
        "c = ssl.create_default_context(cafile='cert.pem')\n"
        "print(urllib.request.urlopen('https://good.test/', context=c).read())\n"
        "c.maximum_version = ssl.TLSVersion.TLSv1_2\n"
        "h = http.client.HTTPSConnection('good.test', context=c)\n"
        "for _ in range(3): h.request('GET', '/'); print(h.getresponse().read())\n"
        "try: urllib.request.urlopen('https://other.test/', context=c)\n"
        "except OSError as error: print(error)\n"
    )
    outcome = world.python(script, "--allow", "good.test")
    assert outcome.out.count("b'secure\\n'") == 4 and "Name or service not known" in outcome.out, outcome
    # A HelloRetryRequest: the server wants a group that the client has not sent a share of.
    hello = (
        "openssl s_client -connect good.test:8443 -servername {} -groups P-521:P-256 -tls1_3 </dev/null 2>&1"
    )
    outcome = world.run(["sh", "-c", hello.format("good.test")], "--allow", "good.test:8443/tls")
    assert re.search(r"New, TLSv1.3", outcome.out), outcome
    outcome = world.run(["sh", "-c", hello.format("evil.test")], "--allow", "good.test:8443/tls")
    assert "unrecognized name" in outcome.out and outcome.hellos == [], outcome


@pytest.mark.parametrize("link", ["", "../run/nowhere/stub-resolv.conf", "/run/resolv.conf"])
def test_roots_without_a_resolver(world: World, link: str, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    (tmp_path / "bin").mkdir()
    shutil.copy(busybox, tmp_path / "bin" / "busybox")
    (tmp_path / "bin" / "sh").symlink_to("busybox")
    if link:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "resolv.conf").symlink_to(link)
    script = "busybox cat /etc/resolv.conf; busybox wget -qO- http://good.test/x"
    outcome = world.run(["sh", "-c", script], "--rootfs", str(tmp_path), "--allow", "good.test")
    assert outcome.out == "nameserver 198.18.0.2\nserved /x\n", outcome


def test_files_of_rules(world: World) -> None:
    rules = world.folder / "bad.toml"
    for text, line, key in (
        ("version = 2\n", 1, "version"),
        ('version = 1\n\n[[allow]]\nhost = "a.test"\nports = [0]\n', 5, "allow 1.ports"),
        ('version = 1\n[[allow]]\nhost = "a.test"\n[[allow]]\nhost = "b..test"\n', 5, "allow 2.host"),
        ('version = 1\n[[allow]]\nhost = "a.test"\nport = 3\n', 4, "allow 1.port"),
        ('version = 1\n[[deny]]\naddress = "10.0.0.1/8"\n', 3, "deny 1.address"),
        ('version = 1\nresolvers = ["x"]\n', 2, "resolvers"),
        ('version = 1\nsynthetic = "10.0.0.0/30"\n', 2, "synthetic"),
    ):
        rules.write_text(text)
        done = subprocess.run(
            [*CLOCHE, "run", "--net", str(rules), "--", "true"],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 125 and is_one_line(done.stderr)
        assert f"bad.toml: line {line}, {key}: " in done.stderr, done.stderr
