"""Spoilt ClientHellos, DNS questions and requests by the thousand, against slow readers of the same (`slow_readers`).

No crash, and no input is let through that the slow reader does not find to be for the granted name.  CLOCHE_SLOW=1: a
million inputs each.
"""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.egress.policy import Policy, parse_rule
from cloche.wire.egress import TCP, UDP
from tests.unit.egress.slow_readers import (
    check_decision,
    check_hello,
    check_question,
    check_request,
    slow_decision,
)
from tests.unit.egress.test_clienthello import HELLO, records
from tests.unit.egress.test_dns import OPT, query

SEEDS = 1000 if os.environ.get("CLOCHE_SLOW") == "1" else 10
EACH = 1000  # inputs of a seed
LIMIT_S = 7200 if SEEDS > 10 else 300
seeds = st.integers(0, 1 << 62)
fuzzed = settings(max_examples=SEEDS, deadline=None)


def spoil(chance: random.Random, data: bytes, words: list[bytes]) -> bytes:
    """A few changes: bytes, numbers, pieces left out, doubled, moved, or put in."""
    changed = bytearray(data)
    for _turn in range(chance.choice((1, 1, 2, 3, 6))):
        if not changed:
            break
        at = chance.randrange(len(changed))
        end = min(at + chance.choice((1, 2, 4, 16, 64)), len(changed))
        kind = chance.randrange(7)
        if kind == 0:
            changed[at] = chance.randrange(256)
        elif kind == 1:
            changed[at] = (changed[at] + chance.choice((1, -1, 128))) & 255
        elif kind == 2:
            del changed[at:end]
        elif kind == 3:
            changed[at:at] = changed[at:end]
        elif kind == 4:
            changed[at:at] = chance.choice(words)
        elif kind == 5:
            changed[at:end] = chance.choice(words)
        else:
            del changed[at:]
    return bytes(changed)


@pytest.mark.timeout(LIMIT_S)
@fuzzed
@given(seeds)
def test_hellos(seed: int) -> None:
    chance = random.Random(seed)
    starts = [HELLO, records(HELLO, 50), records(HELLO, 200)]
    words = [
        b"\0\0",
        b"\0\1",
        b"good.test",
        b"evil.test",
        b"\0",
        b".",
        b"\x16\x03\x01\0\4",
        b"\xff\xff",
        HELLO[:60],
    ]
    for _turn in range(EACH):
        data = spoil(chance, chance.choice(starts), words)
        check_hello(data)


@pytest.mark.timeout(LIMIT_S)
@fuzzed
@given(seeds)
def test_questions(seed: int) -> None:
    chance = random.Random(seed)
    starts = [query(), query(counts=(1, 0, 0, 1), more=OPT), query(b"\3www\4good\4test\0", 28)]
    words = [b"\0", b"\xc0\x0c", b"\4good", b"\4evil", b"\4test\0", b".", b"\0\1", OPT, b"\x3f", b"\4GOOD"]
    for _turn in range(EACH):
        data = spoil(chance, chance.choice(starts), words)
        check_question(data)


@pytest.mark.timeout(LIMIT_S)
@fuzzed
@given(seeds)
def test_requests(seed: int) -> None:
    chance = random.Random(seed)
    starts = [
        b"GET /a?b HTTP/1.1\r\nHost: good.test\r\nAccept: */*\r\n\r\n",
        b"POST http://good.test/x HTTP/1.1\r\nHost: good.test:80\r\nContent-Length: 5\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    ]
    words = [
        b"\r\n", b"\n", b"\r", b" ", b"\t", b"Host: evil.test\r\n", b"evil.test", b"Content-Length: 1\r\n", b":", b"\0",
        b"Transfer-Encoding: chunked\r\n", b"http://evil.test", b"//", b"@evil.test", b"#", b"%00", b"CONNECT ", b",",
    ]  # fmt: skip
    for _turn in range(EACH):
        data = spoil(chance, chance.choice(starts), words)
        check_request(data)


@pytest.mark.timeout(LIMIT_S)
@fuzzed
@given(seeds)
def test_decisions(seed: int) -> None:
    chance = random.Random(seed)
    hosts = [
        "good.test",
        "*.good.test",
        "www.good.test",
        "evil.test",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "0.0.0.0/0",
    ]
    hosts += ["169.254.169.254", "8.8.0.0/16", "127.0.0.1", "[fd00::/8]", "[2001:db8::/32]", "[::1]"]
    names = ["", "good.test", "www.good.test", "a.b.good.test", "evil.test", "test"]
    addresses = [
        "10.1.2.3",
        "10.2.3.4",
        "169.254.169.254",
        "8.8.8.8",
        "127.0.0.1",
        "fd00::1",
        "2001:db8::1",
        "::1",
    ]

    def rule() -> str:
        ports = chance.choice(("443", "80", "1-65535", "400-500"))
        return f"{chance.choice(hosts)}:{ports}{chance.choice(('', '/udp'))}"

    for _turn in range(EACH // 20):
        rules = [rule() for _each in range(chance.randrange(6))]
        denied = [rule() for _each in range(chance.choice((0, 0, 1, 2)))]
        policy = Policy()
        policy.rules = [parse_rule(text, is_deny=True) for text in denied] + [
            parse_rule(text) for text in rules
        ]
        for each in policy.rules[: len(denied)]:
            each.transport = each.transport or TCP  # as the slow reader takes it
        for _each in range(20):
            name, addr = chance.choice(names), chance.choice(addresses)
            transport, port = chance.choice((TCP, UDP)), chance.choice((443, 80, 22))
            expected = slow_decision(rules, denied, name, addr, transport, port)
            check_decision(policy, name, addr, transport, port, expected=expected)
