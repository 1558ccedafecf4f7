"""Rules that stand within others: those of a container within its operator's."""

import random

import pytest

from cloche.egress.netfile import read_annotation
from cloche.egress.policy import Policy, PolicyError, Rule, parse_rule
from cloche.wire.egress import TCP, UDP


def operator(*rules: str, deny: tuple[str, ...] = ()) -> Policy:
    made = Policy()
    made.is_open = not rules
    made.rules = [parse_rule(rule, is_deny=True) for rule in deny] + [parse_rule(rule) for rule in rules]
    return made


def allowed(policy: Policy, name: str, port: int = 443, transport: int = TCP) -> Rule | None:
    return policy.decide_name(name, transport, port).rule


def test_what_the_namespace_allows_is_narrowed() -> None:
    policy = read_annotation("good.test *.good.test:8443/tls 10.1.0.0/16:5432", operator())
    found = allowed(policy, "good.test")
    assert found is not None and found.protocol_at(TCP, 443) == "tls"
    assert allowed(policy, "a.good.test", 8443) and not allowed(policy, "a.good.test")
    assert not allowed(policy, "evil.test")
    assert policy.decide_address(bytes([10, 1, 2, 3]), TCP, 5432).is_allowed
    assert not policy.decide_address(bytes([10, 2, 2, 3]), TCP, 5432).is_allowed
    assert policy.rules_of_name("good.test") and not policy.rules_of_name("evil.test")


def test_it_cannot_widen() -> None:
    outer = operator("*.good.test:443", "db.test:5432", "10.1.2.0/24:80-90", deny=("bad.good.test",))
    policy = read_annotation("a.good.test evil.test db.test:1-65535 10.0.0.0/8:1-65535 bad.good.test", outer)
    assert allowed(policy, "a.good.test") and not allowed(policy, "a.good.test", 80)
    assert not allowed(policy, "b.good.test") and not allowed(policy, "bad.good.test")
    assert not allowed(policy, "evil.test") and not policy.rules_of_name("evil.test")
    assert allowed(policy, "db.test", 5432) and not allowed(policy, "db.test", 5433)
    for addr, port, says in (
        ((10, 1, 2, 3), 80, True),
        ((10, 1, 3, 3), 80, False),
        ((10, 1, 2, 3), 91, False),
    ):
        assert policy.decide_address(bytes(addr), TCP, port).is_allowed is says
    assert not policy.is_ancestor("test") or outer.is_ancestor("test")
    refusal = policy.decide_name("evil.test", TCP, 443)
    assert "rules of this host" in refusal.reason and "--allow evil.test:443 would" in refusal.reason


def test_the_stricter_look_counts() -> None:
    outer = operator("good.test:443/tls", "raw.test:443/tcp", "web.test:443/http", "both.test:443/https")
    policy = read_annotation("good.test:443/tcp raw.test web.test both.test", outer)
    kinds = {}
    for name in ("good.test", "raw.test", "both.test"):
        rule = allowed(policy, name)
        assert rule is not None
        kinds[name] = rule.protocol_at(TCP, 443)
    assert kinds == {"good.test": "tls", "raw.test": "tls", "both.test": "https"}
    assert allowed(policy, "web.test") is None  # TLS here, plain HTTP there
    assert "another kind" in policy.decide_name("web.test", TCP, 443).reason


def test_what_a_name_may_lead_to() -> None:
    inner = (
        'version = 1\n[[allow]]\nhost = "db.test"\nports = [5432]\ninternal = true\ndns = ["SRV", "TXT"]\n'
    )
    private = bytes([10, 0, 0, 5])
    for outer, may in ((operator(), True), (operator("db.test:5432"), False)):
        policy = read_annotation(inner, outer)
        rule = allowed(policy, "db.test", 5432)
        assert rule is not None
        assert (policy.objection(rule, private, TCP, 5432) == "") is may
        remedy = "" if may else "internal = true`, or one for the address, would"
        assert remedy in policy.objection(rule, private, TCP, 5432)
        own = policy.objection(
            rule, bytes([127, 0, 0, 1]), TCP, 5432
        )  # takes `internal`, whatever else is allowed
        assert (own == "") is may and ("internal = true` would" in own) is not may
        assert policy.rules_of_name("db.test")[0].dns == (["SRV", "TXT"] if may else [])
    denying = operator(deny=("10.0.0.0/8",))
    denying.is_open = True
    policy = read_annotation(inner, denying)
    rule = allowed(policy, "db.test", 5432)
    assert rule is not None and "denied by the rule" in policy.objection(rule, private, TCP, 5432)


def test_an_exact_rule_of_the_operator_comes_before_its_star() -> None:
    """Whichever rule of the container it meets."""
    outer = operator("*.good.test:443/tcp", "api.good.test:443/tls")
    for text in ("*.good.test:443/tcp", "api.good.test:443/tcp", "api.good.test:443/tcp *.good.test:443/tcp"):
        rule = allowed(read_annotation(text, outer), "api.good.test")
        assert rule is not None and rule.protocol_at(TCP, 443) == "tls", text


def test_it_travels() -> None:
    policy = read_annotation("a.good.test", operator("*.good.test:443"))
    again = Policy.from_fields(policy.to_fields())
    assert allowed(again, "a.good.test") and not allowed(again, "b.good.test")
    nested = policy.to_fields()
    nested["within"] = policy.to_fields()
    with pytest.raises(PolicyError, match="within"):
        Policy.from_fields(nested)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("good.test:0", "good.test:0: .*ports"),
        ("version = 2\n", "version"),
        ('version = 1\nresolvers = ["10.0.0.1"]\n', "operator"),
        ('version = 1\nauthorities = ["/etc/shadow"]\n', "operator"),
        (
            'version = 1\n[[allow]]\nhost = "a.test"\n[[allow.secrets]]\nname = "A"\nfrom = "file:/etc/shadow"\n',
            "line 2, allow 1.secrets: .*operator",
        ),
        ("version = 1\nallow = 3\n", "line 2"),
        ("= =", "line 1"),
        ("198.18.5.0/24:80", "stand for names"),
    ],
)
def test_annotations_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        read_annotation(text, operator())


def test_whatever_the_rules_it_only_narrows() -> None:
    """Random rules on both sides: what passes, passes each side alone."""
    chance = random.Random(13)
    names = ["a.test", "b.a.test", "c.a.test", "d.test"]
    hosts = [*names, "*.a.test", "10.0.0.0/8", "10.1.0.0/16", "8.8.8.8"]
    kinds = ["", "/tls", "/tcp", "/udp", "/http"]

    def rules() -> list[Rule]:
        found: list[Rule] = []
        while len(found) < chance.randrange(1, 6):
            port = chance.choice(["443", "80", "53", "1-65535"])
            kind = chance.choice(kinds)
            try:
                text = f"{chance.choice(hosts)}:{port}{kind}"
                found.append(parse_rule(text, is_deny=chance.random() < 0.2))
            except PolicyError:
                continue
            found[-1].is_internal = bool(found[-1].name) and not found[-1].is_deny and chance.random() < 0.5
        return found

    for _turn in range(3000):
        inner, outer, both = Policy(), Policy(), Policy()
        inner.rules, outer.rules = rules(), rules()
        both.rules, both.within = inner.rules, outer
        transport, port = chance.choice((TCP, UDP)), chance.choice((443, 80, 53))
        name = chance.choice(names)
        addr = bytes(chance.choice(((10, 1, 0, 1), (10, 2, 0, 1), (8, 8, 8, 8), (9, 9, 9, 9))))
        rule = both.decide_name(name, transport, port).rule
        one, two = (
            inner.decide_name(name, transport, port).rule,
            outer.decide_name(name, transport, port).rule,
        )
        if rule is not None:
            assert one is not None and two is not None
            looks = {each.protocol_at(transport, port) for each in (one, two)}
            assert rule.protocol_at(transport, port) in looks
            assert rule.protocol_at(transport, port) not in ("tcp", "udp") or len(looks) == 1
            if not both.objection(rule, addr, transport, port):
                assert not outer.objection(two, addr, transport, port)
        if both.decide_address(addr, transport, port).is_allowed:
            assert inner.decide_address(addr, transport, port).is_allowed
            assert outer.decide_address(addr, transport, port).is_allowed
        if both.rules_of_name(name):
            assert inner.rules_of_name(name) and outer.rules_of_name(name)
