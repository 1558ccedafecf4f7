"""Rules, and the decision against a slow and simple one."""

import ipaddress
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.egress.netfile import read_file
from cloche.egress.policy import Policy, PolicyError, Rule, parse_rule
from cloche.egress.ranges import special_purpose
from cloche.wire.cbor import decode, encode
from cloche.wire.egress import TCP, UDP


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("example.com", "example.com:80,443"),
        ("example.com:8443/tls", "example.com:8443/tls"),
        ("EXAMPLE.com:80-90,443", "example.com:80-90,443"),
        ("*.example.com:443", "*.example.com:443"),
        ("example.com/http", "example.com:80/http"),
        ("example.com:53/udp", "example.com:53/udp"),
        ("10.0.0.0/8:443", "10.0.0.0/8:443"),
        ("10.0.0.1:443/tcp", "10.0.0.1/32:443/tcp"),
        ("10.0.0.0/8:53/udp", "10.0.0.0/8:53/udp"),
        ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
        ("[2001:db8::1]:443", "[2001:db8::1/128]:443"),
    ],
)
def test_rules(text: str, again: str) -> None:
    rule = parse_rule(text)
    assert rule.text() == again
    assert parse_rule(again).to_fields() == rule.to_fields() or "/" not in again
    assert Rule.from_fields(decode(encode(rule.to_fields()))).to_fields() == rule.to_fields()


@pytest.mark.parametrize(
    "text",
    [
        "", ":443", "example.com:", "example.com:0", "example.com:65536", "example.com:9-8", "example.com:a",
        "example.com:443/quic", "https://example.com", "example.com/path", "user@example.com", "*", "*.com",
        "a.*.example.com", "*example.com", "10.0.0.0/8", "10.0.0.1/8:443", "10.0.0.0/33:443", "10.0.0.1:443/tls",
        "2001:db8::1:443", "[2001:db8::1]", "[2001:db8::1/129]:443", "[::ffff:10.0.0.1]:443", "[example.com]:443",
        "0x7f.1:443", "127.1:443", "2130706433:443", "example.com%00:443", "exam ple.com", "example.com\n",
        "198.18.4.0/24:443", "fe80::1%eth0:443", "example.com/udp", "１.2.3.4:443",
    ],
)  # fmt: skip
def test_no_rules(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy = Policy()
        policy.rules.append(parse_rule(text))
        policy.check()
    assert "\n" not in str(caught.value)


def policy(*texts: str, deny: tuple[str, ...] = ()) -> Policy:
    made = Policy()
    made.rules = [parse_rule(text) for text in texts] + [parse_rule(text, is_deny=True) for text in deny]
    made.check()
    return made


def addr(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def test_a_star_is_one_label() -> None:
    found = policy("*.example.com")
    assert found.decide_name("www.example.com", TCP, 443).is_allowed
    for name in ("example.com", "a.b.example.com", "wwwexample.com", "www.example.com.evil"):
        assert not found.decide_name(name, TCP, 443).is_allowed


def test_protocols_by_port() -> None:
    rule = parse_rule("example.com:80,443,5432")
    assert [rule.protocol_at(TCP, port) for port in (80, 443, 5432)] == ["http", "tls", "tcp"]
    assert parse_rule("10.0.0.0/8:443").protocol_at(TCP, 443) == "tcp"
    assert not policy("example.com").decide_name("example.com", UDP, 443).is_allowed
    assert policy("example.com:443/udp").decide_name("example.com", UDP, 443).is_allowed
    assert not policy("example.com:443/udp").decide_name("example.com", TCP, 443).is_allowed


def test_deny_counts_before_allow() -> None:
    found = policy("*.example.com", "0.0.0.0/0:443", deny=("bad.example.com", "93.184.216.0/24"))
    assert not found.decide_name("bad.example.com", TCP, 443).is_allowed
    assert found.rules_of_name("bad.example.com") == []
    assert not found.decide_address(addr("93.184.216.34"), TCP, 443).is_allowed
    assert found.decide_address(addr("93.184.217.34"), TCP, 443).is_allowed
    assert "denied" in found.objection(found.rules[0], addr("93.184.216.34"), TCP, 443)
    assert found.denies_address(addr("64:ff9b::5db8:d822"), TCP, 443) is not None


def test_a_wide_network_grants_no_special_address() -> None:
    wide = policy("0.0.0.0/0:80", "[::/0]:80", "169.254.0.0/16:80")
    for text in (
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "fe80::1",
        "64:ff9b::a00:1",
        "::ffff:10.0.0.1",
    ):
        assert not wide.decide_address(addr(text), TCP, 80).is_allowed, text
    assert wide.decide_address(addr("169.254.7.7"), TCP, 80).is_allowed
    assert wide.decide_address(addr("2600::1"), TCP, 80).is_allowed
    assert policy("127.0.0.0/8:80").decide_address(addr("127.0.0.1"), TCP, 80).is_allowed
    assert policy("169.254.169.254:80").decide_address(addr("169.254.169.254"), TCP, 80).is_allowed


def test_names_may_lead_inside_only_if_the_rule_says_so() -> None:
    found = policy("db.example.com:5432", "10.0.0.0/8:6379")
    rule = found.rules[0]
    assert "private" in found.objection(rule, addr("10.0.0.1"), TCP, 5432)
    assert not found.objection(rule, addr("10.0.0.1"), TCP, 6379)
    assert not found.objection(rule, addr("93.184.216.34"), TCP, 5432)
    rule.is_internal = True
    assert not found.objection(rule, addr("10.0.0.1"), TCP, 5432)


def test_ancestors() -> None:
    found = policy("a.b.example.com", "*.wild.test")
    for name in ("b.example.com", "example.com", "com", "wild.test", "test"):
        assert found.is_ancestor(name)
    for name in ("a.b.example.com", "x.example.com", "xample.com", "ample.com"):
        assert not found.is_ancestor(name)


def test_another_policy_over_the_wire() -> None:
    found = policy("example.com", "10.0.0.0/8:53/udp", deny=("bad.example.com",))
    found.resolvers = [(addr("192.0.2.1"), 53)]
    again = Policy.from_fields(decode(encode(found.to_fields())))
    assert again.to_fields() == found.to_fields()
    for odd in ({}, [], None, {"version": 2}, {"version": 1, "rules": [{}]}, {"version": 1, "rules": 3}):
        with pytest.raises(PolicyError):
            Policy.from_fields(odd)


# -- against a slow and simple decision --------------------------------------------------------------------------
LABELS = st.sampled_from(["a", "b", "test", "com", "www"])
NAMES = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
PORTS = st.sampled_from([53, 80, 443, 8000])
NETS = st.sampled_from(
    ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "127.0.0.0/8", "93.184.216.0/24", "169.254.169.254/32"]
)
TRANSPORTS = st.sampled_from([TCP, UDP])
RULES = st.tuples(
    st.booleans(),
    st.one_of(NAMES, NAMES.map(lambda name: f"*.{name}"), NETS),
    PORTS,
    TRANSPORTS,
)


def slow_name(rules: list[tuple[bool, str, int, int]], name: str, transport: int, port: int) -> bool:
    """Whether a name is allowed, by expanding everything."""

    def about(host: str) -> bool:
        if host.startswith("*."):
            return name.split(".")[1:] == host.split(".")[1:]
        return name == host

    hits = [
        is_deny
        for is_deny, host, rule_port, kind in rules
        if "/" not in host and about(host) and rule_port == port and kind == transport
    ]
    return bool(hits) and not any(hits)


def slow_address(rules: list[tuple[bool, str, int, int]], text: str, transport: int, port: int) -> bool:
    """The same for an address."""
    where = ipaddress.ip_address(text)
    allowed = False
    for is_deny, host, rule_port, kind in rules:
        if "/" not in host or rule_port != port or kind != transport:
            continue
        network = ipaddress.ip_network(host)
        if where in network:
            if is_deny:
                return False
            allowed = (
                allowed
                or not special_purpose(where.packed)
                or bool(special_purpose(network[0].packed))
                and host != "0.0.0.0/0"
            )
    return allowed


@settings(max_examples=300, deadline=None)
@given(st.lists(RULES, max_size=6), NAMES, TRANSPORTS, PORTS)
def test_names_against_the_slow_decision(
    rules: list[tuple[bool, str, int, int]], name: str, transport: int, port: int
) -> None:
    made = Policy()
    for is_deny, host, rule_port, kind in rules:
        if host.count(".") < 2 and host.startswith("*."):
            continue
        suffix = "/udp" if kind == UDP else "/tcp"
        made.rules.append(parse_rule(f"{host}:{rule_port}{suffix}", is_deny=is_deny))
    assert made.decide_name(name, transport, port).is_allowed == slow_name(rules, name, transport, port)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(RULES, max_size=6),
    st.sampled_from(
        ["10.1.2.3", "10.2.2.3", "127.0.0.1", "93.184.216.34", "8.8.8.8", "169.254.169.254", "169.254.1.1"]
    ),
    TRANSPORTS,
    PORTS,
)
def test_addresses_against_the_slow_decision(
    rules: list[tuple[bool, str, int, int]], text: str, transport: int, port: int
) -> None:
    made = Policy()
    for is_deny, host, rule_port, kind in rules:
        suffix = "/udp" if kind == UDP else "/tcp"
        made.rules.append(parse_rule(f"{host}:{rule_port}{suffix}", is_deny=is_deny))
    decided = made.decide_address(addr(text), transport, port).is_allowed
    assert decided == slow_address(rules, text, transport, port)


def test_the_files_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that docs/egress.md shows are read as they stand."""
    text = (Path(__file__).parents[3] / "docs" / "egress.md").read_text(encoding="utf-8")
    found = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(found) == 2
    monkeypatch.setenv("API_TOKEN", "a-token-of-a-test")
    (tmp_path / "company.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    policies = []
    for number, each in enumerate(found):
        path = tmp_path / f"{number}.toml"
        path.write_text(each)
        policies.append(Policy())
        read_file(str(path), policies[-1])
    assert policies[0].decide_name("a.example.com", TCP, 443).is_allowed
    assert not policies[0].decide_name("bad.example.com", TCP, 443).is_allowed
    assert policies[1].decide_name("api.example.com", TCP, 443).is_allowed
