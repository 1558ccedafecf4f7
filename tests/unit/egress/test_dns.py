"""DNS messages from inside and from resolvers, compared with dnspython."""

import struct

import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.egress import dnswire
from cloche.egress.names import SyntheticNames


def query(
    name: bytes = b"\4good\4test\0",
    kind: int = 1,
    klass: int = 1,
    counts: tuple[int, ...] = (1, 0, 0, 0),
    more: bytes = b"",
) -> bytes:
    return struct.pack(">HH4H", 7, 0x100, *counts) + name + struct.pack(">HH", kind, klass) + more


OPT = b"\0\0\x29\x10\0\0\0\0\0\0\0"


def test_questions() -> None:
    found = dnswire.parse_question(query())
    assert (found.name, found.kind_text(), found.payload) == ("good.test", "A", 512)
    assert dnswire.parse_question(query(counts=(1, 0, 0, 1), more=OPT)).payload == 4096
    assert dnswire.parse_question(query(b"\4GoOD\4test\0", 28)).name == "good.test"
    assert dnswire.parse_question(query(b"\4a\0.b\4test\0")).name == ""
    assert dnswire.parse_question(query(b"\5a.b.c\4test\0")).name == "a.b.c.test"


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (b"", -1),
        (query()[:11], -1),
        (query()[:2] + b"\x81" + query()[3:], -1),
        (query()[:2] + b"\x29" + query()[3:], dns.rcode.NOTIMP),
        (query(counts=(2, 0, 0, 0)), dns.rcode.FORMERR),
        (query(counts=(0, 0, 0, 0)), dns.rcode.FORMERR),
        (query(counts=(1, 1, 0, 0)), dns.rcode.FORMERR),
        (query(counts=(1, 0, 0, 1), more=b"\0\0\x10\0\1\0\0\0\0\0\0"), dns.rcode.FORMERR),
        (query(b"\xc0\x0c"), dns.rcode.FORMERR),
        (query(b"\4good\xc0\2"), dns.rcode.FORMERR),  # a label, and the rest from the header
        (query(b"\4good\xc0\2", counts=(1, 0, 0, 1), more=OPT), dns.rcode.FORMERR),
        (query(b"\x3fa"), dns.rcode.FORMERR),
        (query(klass=3), dns.rcode.NOTIMP),
        (query(more=b"x"), dns.rcode.FORMERR),
    ],
)
def test_other_messages(data: bytes, rcode: int) -> None:
    with pytest.raises(dnswire.BadMessage) as caught:
        dnswire.parse_question(data)
    assert caught.value.rcode == rcode
    if rcode >= 0:
        reply = dnswire.failure(data, rcode)
        assert reply[:2] == data[:2] and reply[3] & 15 == rcode and len(reply) == 12


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda rest: query()[:12] + rest))
def test_anything(data: bytes) -> None:
    try:
        question = dnswire.parse_question(data)
    except dnswire.BadMessage:
        return
    reply = dns.message.from_wire(dnswire.answer(question, None, 0, rcode=dns.rcode.NXDOMAIN))
    assert reply.id == question.message.id and reply.rcode() == dns.rcode.NXDOMAIN


def test_answers() -> None:
    question = dnswire.parse_question(query(b"\4GoOD\4test\0"))
    data = dnswire.answer(question, [("A", "198.18.1.0")], 60)
    assert b"GoOD" in data
    reply = dns.message.from_wire(data)
    assert reply.answer[0].to_text() == "GoOD.test. 60 IN A 198.18.1.0"
    empty = dns.message.from_wire(dnswire.answer(question, None, 0))
    assert empty.rcode() == 0 and not empty.answer and "SOA" in empty.authority[0].to_text()
    long = [("TXT", f'"{"x" * 250}{number}"') for number in range(9)]
    asked = dnswire.parse_question(query(kind=16))
    assert dnswire.answer(asked, long, 1)[2] & 2  # TC
    assert not dnswire.answer(asked, long, 1, is_over_tcp=True)[2] & 2


def reply(
    records: list[tuple[str, str, str]], name: str = "good.test.", ident: int = 9, kind: str = "A"
) -> bytes:
    made = dns.message.make_response(dns.message.make_query(name, kind, id=ident))
    for owner, what, text in records:
        made.answer.append(dns.rrset.from_text(owner, 30, "IN", what, text))
    return made.to_wire()


def test_answers_of_resolvers() -> None:
    def read(data: bytes) -> list[str] | None:
        found = dnswire.read_answer(data, "good.test", "A", 9)
        return found.records if found is not None else None

    assert read(reply([("good.test.", "A", "192.0.2.1")])) == ["192.0.2.1"]
    assert read(reply([("good.test.", "CNAME", "b.test."), ("b.test.", "A", "192.0.2.2")])) == ["192.0.2.2"]
    assert read(reply([("evil.test.", "A", "192.0.2.3")])) == []
    loop = [("good.test.", "CNAME", "b.test."), ("b.test.", "CNAME", "good.test.")]
    assert read(reply(loop)) == []
    assert read(reply([], ident=8)) is None
    assert read(reply([], name="evil.test.")) is None
    assert read(reply([], kind="AAAA")) is None
    assert read(dns.message.make_query("good.test.", "A", id=9).to_wire()) is None
    assert read(b"") is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 60))
def test_any_answer(noise: bytes, at: int) -> None:
    good = reply([("good.test.", "A", "192.0.2.1")])
    for data in (noise, good[:at] + noise, good[:at] + noise + good[at + len(noise) :]):
        found = dnswire.read_answer(data, "good.test", "A", 9)
        assert found is None or all(text.count(".") == 3 for text in found.records)


def test_an_address_stands_for_one_name_for_ever() -> None:
    names = SyntheticNames(bytes([198, 18, 0, 0]), 15, max_wildcard_names=3)
    first = names.address_of("a.test", is_exact=True)
    assert first == bytes([198, 18, 1, 0]) and names.name_of(first) == "a.test"
    assert names.address_of("a.test", is_exact=False) == first
    made = [names.address_of(f"{number}.test", is_exact=False) for number in range(5)]
    assert made[3:] == [None, None] and len({first, *made[:3]}) == 4
    assert names.address_of("b.test", is_exact=True) is not None
    small = SyntheticNames(bytes([10, 0, 0, 0]), 22)
    found = [small.address_of(f"{number}.test", is_exact=True) for number in range(1000)]
    given_out = [each for each in found if each is not None]
    assert len(set(given_out)) == len(given_out) == 767 and all(small.is_ours(each) for each in given_out)
