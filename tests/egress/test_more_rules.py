"""Real addresses, addresses of IPv6, and no limits: by rule and by option."""

from collections.abc import Iterator

import pytest

from tests.egress.servers import METADATA, OTHER, PRIVATE, PUBLIC
from tests.egress.world import World, missing

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

PRELUDE = r"""
import socket, ssl
socket.setdefaulttimeout(30)
def ask(name):
    try: return sorted({each[4][0] for each in socket.getaddrinfo(name, 80)})
    except OSError as error: return type(error).__name__
def tcp(host, port, data=b'x'):
    try:
        with socket.create_connection((host, port)) as s: s.sendall(data); return s.recv(99)
    except OSError as error: return error.strerror or str(error)
def tls(host, name):
    c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
    try:
        with c.wrap_socket(socket.create_connection((host, 443)), server_hostname=name) as s:
            s.sendall(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n'); return s.recv(15)
    except OSError as error: return 'refused'
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("egress"))
    yield made
    made.close()


def real(host: str, ports: str, more: str = "") -> str:
    return f'[[allow]]\nhost = "{host}"\nports = [{ports}]\naddress = "real"\n{more}\n'


def test_real_addresses(world: World) -> None:
    rules = world.folder / "real.toml"
    rules.write_text(
        "version = 1\n"
        + real("good.test", "443, 7000")
        + real("www.good.test", "443")
        + real("private.test", "7000")
        + real("mixed.test", "7000")
        + real("rebind.test", "7000")
        + '[[allow]]\nhost = "other.test"\nports = [80]\n'
    )
    script = PRELUDE + (
        f"print(tcp('{PUBLIC}', 7000), tcp('{OTHER}', 7000))\n"  # no program has asked for the name yet
        "print(ask('good.test'), tcp('good.test', 7000))\n"
        f"print(tcp('{PUBLIC}', 22), tcp('{OTHER}', 7000))\n"
        "ask('www.good.test')\n"
        f"print(tls('{PUBLIC}', 'good.test'), tls('{PUBLIC}', 'www.good.test'), tls('{PUBLIC}', 'other.test'))\n"
        f"print(ask('private.test'), tcp('{PRIVATE}', 7000), ask('mixed.test'), tcp('{PRIVATE}', 7000))\n"
        "print([ask('rebind.test') for _ in range(3)])\n"
        f"print(tcp('{PRIVATE}', 7000), tcp('{METADATA}', 80))\n"
    )
    outcome = world.python(script, "--net", str(rules))
    lines = outcome.out.splitlines()
    assert lines[0] == "Permission denied Permission denied", outcome
    assert lines[1] == f"['{PUBLIC}'] b'x'", outcome
    assert lines[2] == "Permission denied Permission denied", outcome
    assert lines[3] == "b'HTTP/1.1 200 OK' b'HTTP/1.1 200 OK' refused", outcome
    assert lines[4] == f"gaierror Permission denied ['{PUBLIC}'] Permission denied", outcome
    assert PRIVATE not in lines[5] and lines[6] == "Permission denied Permission denied", outcome
    assert {each[1] for each in outcome.packets if each[2] != 53} == {PUBLIC}
    assert set(outcome.hellos) == {"good.test", "www.good.test"}


def test_addresses_of_ipv6(world: World) -> None:
    rules = world.folder / "aaaa.toml"
    rules.write_text('version = 1\naaaa = true\n[[allow]]\nhost = "good.test"\nports = [7000]\n')
    script = PRELUDE + (
        "print(len(ask('good.test')))\n"
        "for family in (socket.AF_INET, socket.AF_INET6):\n"
        "    addr = socket.getaddrinfo('good.test', 7000, family)[0][4][0]\n"
        "    print(addr.split(':')[0][:4], tcp(addr, 7000), tcp(addr, 80))\n"
        "print(tcp('fd63:6c6f:6368:6500:5379:6e74:c612:9999', 7000), tcp('fd00:77::1', 7000))\n"
    )
    outcome = world.python(script, "--net", str(rules))
    assert outcome.out.splitlines() == [
        "2",
        "198. b'x' Permission denied",
        "fd63 b'x' Permission denied",
        "Permission denied Permission denied",
    ], outcome


def test_without_limits(world: World) -> None:
    script = PRELUDE + (
        f"print(tcp('evil.test', 7000), tcp('{PRIVATE}', 7000), tcp('private.test', 7000), tls('good.test', 'evil.test'))\n"
        f"print(ask('evil.test'), tcp('{METADATA}', 7000), tcp('127.0.0.1', 7000))\n"
    )
    outcome = world.python(script, "--net-without-limits", "--deny", METADATA)
    assert outcome.out.splitlines() == [
        "b'x' b'x' b'x' b'HTTP/1.1 200 OK'",
        f"['{OTHER}'] Permission denied Connection refused",
    ], outcome
