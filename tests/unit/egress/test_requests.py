"""Rules about requests: matches, for every reading of a path; secrets; approvals."""

import asyncio
import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche.egress.approvals import Approvals
from cloche.egress.blot import Blotter, forms_of
from cloche.egress.fieldtypes import FieldError
from cloche.egress.flow import Flow
from cloche.egress.guard import Guard, Headers, Passage
from cloche.egress.httpcheck import BadRequest
from cloche.egress.policy import HTTPS, Policy, PolicyError, Rule, narrowed, parse_rule
from cloche.egress.requestrules import BadPath, RequestRule, Secret, path_readings
from cloche.wire.cbor import decode, encode
from cloche.wire.egress import TCP, Target
from tests.unit.egress.test_http import exchange

REAL = "s3cr3t/value+1"
PLACEHOLDER = "cloche-token-0123456789"


def request(**fields: object) -> RequestRule:
    made = RequestRule()
    for name, value in fields.items():
        setattr(made, name, value)
    made.check()
    return made


def inspected(*rules: RequestRule, secrets: tuple[Secret, ...] = ()) -> Rule:
    made = parse_rule("good.test/https")
    made.requests, made.secrets = list(rules), list(secrets)
    made.check()
    return made


def secret(**fields: str) -> Secret:
    made = Secret()
    made.name, made.value, made.placeholder = "TOKEN", REAL, PLACEHOLDER
    for name, value in fields.items():
        setattr(made, name, value)
    made.check()
    return made


def flow_of(rule: Rule) -> Flow:
    flow = Flow(1, Target(TCP, bytes(4), 443, 7, b"agent"))
    flow.name, flow.rule, flow.protocol = "good.test", rule, HTTPS
    return flow


def admit(rule: Rule, method: str, target: str, headers: Headers | None = None) -> Passage:
    guard = Guard(flow_of(rule), Approvals(), 1)
    return asyncio.run(guard.admit(method.encode(), target.encode(), headers or []))


@pytest.mark.parametrize(
    ("pattern", "target", "is_allowed"),
    [
        ("/a/*", "/a/b", True), ("/a/*", "/a/b/c", False), ("/a/*", "/a/", True), ("/a/*", "/a", False),
        ("/a/**", "/a/b/c?x=1", True), ("/a/**", "/a", True), ("/a/**", "/b", False), ("/**", "/@types%2fnode", True),
        ("/a/*/c", "/a/x/c", True), ("/a/b*d/c", "/a/bxxd/c", True), ("/**/z", "/a/b/z", True),
        ("/a/**", "/a/../b", False), ("/a/**", "/a/%2e%2e/b", False), ("/a/**", "/a/%252e%252e/b", False),
        ("/a/**", "/a/..%2fb", False), ("/a/**", "/a\\..\\b", False), ("/a/**", "/a/.;x=1/b", False),
        ("/a/*", "/a/b%2fc", False), ("/a/b", "//a/b", False), ("/a/b", "/a//b", False), ("/a/b", "/a/b;x", False),
        ("/a/b", "/%61/b", True), ("/a/b", "/%2561/b", False), ("/a", "/a%00", False), ("/A", "/a", False),
    ],
)  # fmt: skip
def test_paths_are_judged_in_every_reading(pattern: str, target: str, is_allowed: bool) -> None:
    rule = inspected(request(paths=[pattern]))
    if is_allowed:
        assert admit(rule, "GET", target).target == target.encode()
    else:
        with pytest.raises(BadRequest):
            admit(rule, "GET", target)


@pytest.mark.parametrize(
    "target",
    [
        "/admin/x",
        "/%61dmin/x",
        "//admin/x",
        "/admin;a/x",
        "/admin%2fx",
        "/%2561dmin/x",
        "/admin\\x",
        "/x/../admin/x",
    ],
)
def test_what_is_denied_is_denied_in_every_reading(target: str) -> None:
    rule = inspected(request(is_deny=True, paths=["/admin/**"]), request())
    with pytest.raises(BadRequest):
        admit(rule, "GET", target)
    assert admit(rule, "GET", "/other")


@given(st.text(alphabet="/.%2eEfF5cC;\\ab", max_size=12))
def test_no_reading_of_a_path_goes_up(text: str) -> None:
    try:
        readings = path_readings("/" + text)
    except BadPath:
        return
    for reading in readings:
        assert ".." not in reading and "." not in reading
    # One of them is split at everything that some server takes for a separator.
    assert any(not any("\\" in each or "/" in each for each in reading) for reading in readings)


def test_a_reading_that_was_found_early_stays_one() -> None:
    assert ["", "2", ""] in path_readings("/\\2%2F")


def test_conditions() -> None:
    rule = inspected(
        request(
            methods=["POST"],
            headers=[("x-api", "2*")],
            query=[("ref", "main")],
            content_types=["application/json"],
            max_body=10,
        )
    )
    good: Headers = [
        (b"x-api", b"22"),
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", b"9"),
    ]
    assert admit(rule, "POST", "/?ref=main&x=1", good)
    for method, target, headers, status in (
        ("GET", "/?ref=main", good, 403),
        ("POST", "/", good, 403),
        ("POST", "/?ref=main&ref=other", good, 403),
        ("POST", "/?ref=mai%6e&ref=main", good, 403),
        ("POST", "/?ref=main;ref=x", good, 403),
        ("POST", "/?ref=main", good[1:], 403),
        ("POST", "/?ref=main", [*good, (b"x-api", b"1")], 403),
        ("POST", "/?ref=main", [good[0], (b"content-type", b"text/plain"), good[2]], 403),
        ("POST", "/?ref=main", [good[0], good[2]], 403),
        ("POST", "/?ref=main", [*good[:2], (b"content-length", b"11")], 413),
    ):
        with pytest.raises(BadRequest) as refused:
            admit(rule, method, target, headers)
        assert refused.value.status == status, (method, target, headers)


def test_rates() -> None:
    rule = inspected(request(rate="2/hour"))
    admit(rule, "GET", "/")
    admit(rule, "GET", "/")
    with pytest.raises(BadRequest) as refused:
        admit(rule, "GET", "/")
    assert refused.value.status == 429


def test_mistakes_name_their_key() -> None:
    for fields, key in (
        ({"methods": ["a b"]}, "methods"),
        ({"paths": ["a"]}, "paths"),
        ({"paths": ["/a/../b"]}, "paths"),
        ({"paths": ["/a**"]}, "paths"),
        ({"paths": ["/a%2f"]}, "paths"),
        ({"content_types": ["json"]}, "content_types"),
        ({"rate": "2/day"}, "rate"),
        ({"ask": "never"}, "ask"),
        ({"is_deny": True, "ask": "path"}, "deny"),
    ):
        with pytest.raises(FieldError) as wrong:
            request(**fields)
        assert wrong.value.key == key
    for text in ("good.test:80", "good.test:443/tls", "good.test:5432"):
        rule = parse_rule(text)
        rule.secrets = [secret(header="authorization")]
        with pytest.raises(PolicyError):
            rule.check()
    plain = parse_rule("good.test:443")
    plain.requests = [request()]
    with pytest.raises(PolicyError):
        plain.check()


def test_rules_are_data() -> None:
    policy = Policy()
    policy.rules = [
        inspected(
            request(methods=["GET"], paths=["/a/**"], query=[("a", "b")], rate="1/second", ask="path"),
            secrets=(secret(header="authorization"),),
        )
    ]
    policy.authorities, policy.ask_s = "PEM", 7
    again = Policy.from_fields(decode(encode(policy.to_fields())))
    assert again.to_fields() == policy.to_fields()
    shown = Policy.from_fields(decode(encode(policy.to_fields(shows_secrets=False))))
    assert shown.rules[0].secrets[0].value == "" and shown.rules[0].is_like(policy.rules[0])
    assert REAL not in policy.rules[0].text()


# -- secrets ---------------------------------------------------------------------------------------------------
def test_secrets_go_where_the_rule_says() -> None:
    rule = inspected(secrets=(secret(header="authorization"),))
    passage = admit(
        rule,
        "GET",
        f"/?q={PLACEHOLDER}",
        [
            (b"authorization", f"Bearer {PLACEHOLDER}".encode()),
            (b"x-other", PLACEHOLDER.encode()),
            (b"range", b"x"),
        ],
    )
    assert passage.headers == [
        (b"authorization", f"Bearer {REAL}".encode()),
        (b"x-other", PLACEHOLDER.encode()),
    ]
    assert passage.target == f"/?q={PLACEHOLDER}".encode()
    packed = base64.b64encode(f"user:{PLACEHOLDER}".encode())
    passage = admit(rule, "GET", "/", [(b"authorization", b"Basic " + packed)])
    assert base64.b64decode(passage.headers[0][1][6:]) == f"user:{REAL}".encode()
    assert passage.headers[0][1][6:] in passage.needles
    in_query = inspected(secrets=(secret(query="key"),))
    passage = admit(in_query, "GET", f"/{PLACEHOLDER}?a=1&key={PLACEHOLDER}&b={PLACEHOLDER}")
    assert passage.target == f"/{PLACEHOLDER}?a=1&key=s3cr3t%2Fvalue%2B1&b={PLACEHOLDER}".encode()


def test_secrets_do_not_come_back() -> None:
    rule = inspected(secrets=(secret(header="authorization"),))
    data = (
        f"GET / HTTP/1.1\r\nHost: good.test\r\nAuthorization: Bearer {PLACEHOLDER}\r\n"
        "Accept-Encoding: gzip\r\nRange: bytes=0-3\r\n\r\n"
    )
    body = f"you sent {REAL} and s3cr3t%2Fvalue%2B1"
    answer = f"HTTP/1.1 200 {REAL}\r\nX-Echo: {REAL}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    out, back = exchange(data.encode(), answer.encode(), rule)
    assert (
        f"authorization: Bearer {REAL}".encode() in out and b"gzip" not in out and b"range" not in out.lower()
    )
    assert b"s3cr3t" not in back and back.endswith(b"you sent ************** and " + b"*" * 18)
    packed = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    _out, back = exchange(data.encode(), packed.encode(), rule)
    assert back.startswith(b"HTTP/1.1 502")


@given(st.lists(st.binary(max_size=12)), st.lists(st.sampled_from([0, 1, 2]), max_size=30))
def test_blotting_sees_what_is_in_pieces(noise: list[bytes], picks: list[int]) -> None:
    needles = [b"secret-one", b"secret-two!", b"secret"]
    whole = b"".join(
        [needles[at] + (noise[number % len(noise)] if noise else b"") for number, at in enumerate(picks)]
    )
    needles.sort(key=len, reverse=True)
    for size in (1, 3, 7, 1000):
        blotter = Blotter(needles)
        found = (
            b"".join([blotter.feed(whole[at : at + size]) for at in range(0, len(whole), size)])
            + blotter.end()
        )
        assert len(found) == len(whole)
        assert b"secret" not in found
    assert all(len(each) >= len(REAL) for each in forms_of(REAL))


# -- two lists: a container's rules within its operator's ------------------------------------------------------------
def within(inner: RequestRule, *outer: RequestRule) -> Rule:
    made = narrowed(inspected(inner), inspected(*outer), TCP, 443)
    assert made is not None and made.requests and made.outer_requests
    return made


def test_both_lists_have_to_let_a_request_through() -> None:
    rule = within(
        request(methods=["GET", "POST"], paths=["/a/**"]),
        request(paths=["/a/b/**", "/c/**"]),
        request(is_deny=True, paths=["/a/b/secret"]),
    )
    assert "[GET,POST /a/**], within [any method /a/b/** /c/**] [deny any method /a/b/secret]" in rule.text()
    assert admit(rule, "GET", "/a/b/c").target == b"/a/b/c"
    for method, target, says in (
        ("GET", "/a/x", "rules of this host, which those of the sandbox only narrow: no rule about"),
        ("GET", "/a/b/secret", "rules of this host, which those of the sandbox only narrow: GET /a/b/secret is denied"),
        ("GET", "/c/d", "no rule about requests to good.test allows GET /c/d"),
        ("PUT", "/a/b/c", "no rule about requests to good.test allows PUT"),
    ):  # fmt: skip
        with pytest.raises(BadRequest) as refused:
            admit(rule, method, target)
        assert refused.value.status == 403 and says in refused.value.reason
        assert ("of this host" in says) == ("of this host" in refused.value.reason)


@pytest.mark.parametrize(
    ("inner", "outer", "least"), [(10, 20, 10), (20, 10, 10), (-1, 10, 10), (10, -1, 10), (-1, -1, -1)]
)
def test_the_smaller_of_two_sizes_counts(inner: int, outer: int, least: int) -> None:
    rule = within(request(max_body=inner, max_response=outer), request(max_body=outer, max_response=inner))
    passage = admit(rule, "POST", "/")
    assert (passage.max_body, passage.max_response) == (least, least)


def test_rates_of_both_sides_count_what_passes_both() -> None:
    """A request that one rate refuses is not counted for the other."""
    inner, outer = request(rate="9/hour"), request(rate="2/hour")
    other = request(rate="1/hour")
    for _turn in range(2):
        admit(within(inner, outer), "GET", "/")
    for _turn in range(3):
        with pytest.raises(BadRequest, match="2/hour"):
            admit(within(inner, outer), "GET", "/")
    assert (len(inner.recent), len(outer.recent)) == (2, 2)
    admit(within(other, inner), "GET", "/")
    with pytest.raises(BadRequest, match="1/hour"):
        admit(within(inner, other), "GET", "/")
    assert len(inner.recent) == 3


@pytest.mark.parametrize(
    ("inner", "outer", "scope"),
    [
        ("path", "host", "path"),
        ("host", "request", "request"),
        ("", "host", "host"),
        ("host", "host", "host"),
    ],
)
def test_one_approval_is_for_the_smaller_scope(inner: str, outer: str, scope: str) -> None:
    async def main() -> None:
        approvals = Approvals()
        rule = within(request(ask=inner), request(ask=outer))
        guard = Guard(flow_of(rule), approvals, 60)
        shown: list[dict[str, object]] = []
        approvals.on_new = shown.append
        # Asked again: the same path for "request", another path for "path", nothing for "host".
        for count, target in enumerate((b"/one", b"/one", b"/two"), 1):
            waiting = asyncio.ensure_future(guard.admit(b"GET", target, []))
            for _turn in range(5):
                await asyncio.sleep(0)
            is_asked = {"request": True, "path": count != 2, "host": count == 1}[scope]
            assert bool(approvals.pending) is is_asked
            for ident in list(approvals.pending):
                assert approvals.answer(ident, is_allowed=True)
            await waiting
        assert {each["scope"] for each in shown} == {scope}

    asyncio.run(main())


# -- approvals ---------------------------------------------------------------------------------------------------
def test_approvals() -> None:
    async def main() -> None:
        approvals = Approvals()
        rule = inspected(request(ask="path"))
        guard = Guard(flow_of(rule), approvals, 60)
        shown: list[dict[str, object]] = []
        approvals.on_new = shown.append
        first = asyncio.ensure_future(guard.admit(b"POST", b"/pay?amount=1", []))
        second = asyncio.ensure_future(guard.admit(b"POST", b"/pay?amount=1", []))
        other = asyncio.ensure_future(guard.admit(b"POST", b"/pay?amount=2", []))
        while len(approvals.pending) < 2:
            await asyncio.sleep(0)
        assert [each["url"] for each in shown] == [f"https://good.test:443/pay?amount={n}" for n in (1, 2)]
        assert approvals.answer(1, is_allowed=True) and not approvals.answer(1, is_allowed=True)
        await first
        await second
        assert approvals.answer(2, is_allowed=False)
        with pytest.raises(BadRequest):
            await other
        await guard.admit(b"POST", b"/pay?amount=1", [])  # remembered
        assert not approvals.pending and not approvals.by_key
        approvals.forget()
        guard.ask_s = 0
        with pytest.raises(BadRequest) as late:
            await guard.admit(b"POST", b"/pay?amount=1", [])
        assert "nobody approved" in late.value.reason and not approvals.pending

    asyncio.run(main())


def test_what_a_request_waits_for_ends_with_it() -> None:
    async def main() -> None:
        approvals = Approvals()
        guard = Guard(flow_of(inspected(request(ask="request"))), approvals, 60)
        waiting = asyncio.ensure_future(guard.admit(b"GET", b"/", []))
        while not approvals.pending:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not approvals.pending

    asyncio.run(main())


@pytest.mark.parametrize(
    "value", [b"9" * 19, b"9" * 1_000_000, b"+5", b"5 5", b"5_0", b"", "\u0665".encode()]
)
def test_lengths_of_answers_that_are_none(value: bytes) -> None:
    """A server may say what it likes, of an answer to HEAD above all, which no library looks at."""
    for most in (-1, 1000):
        passage = Passage(b"/", [])
        passage.max_response = most
        passage.check_answer([(b"content-length", b"1000")])
        with pytest.raises(BadRequest) as caught:
            passage.check_answer([(b"Content-Length", value)])
        assert caught.value.status == 502
