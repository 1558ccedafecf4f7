"""DNS messages (RFC 1035, 6891): questions of programs taken apart, answers put together, by dnspython.

A question from inside is one question of class IN, and nothing else but an OPT record; every other message gets
FORMERR or NOTIMP.  No byte of it is passed on: a query that leaves is built anew from the parsed name.
"""

from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from cloche.egress.hosts import BadHost, parse_name

__all__ = ["Question", "answer", "build_query", "failure", "parse_question", "preload", "read_answer"]

PLAIN_BYTES: Final = 512
OUR_BYTES: Final = 1232  # a size that fits every path; also announced in EDNS
MAX_CHAIN: Final = 16
_SOA: Final = "cloche.invalid. hostmaster.cloche.invalid. 1 3600 600 86400 5"
_SHORT_TTL: Final = 5


class BadMessage(ValueError):
    """A question that cannot be answered; `rcode` is the code of the answer."""

    def __init__(self, rcode: int) -> None:
        super().__init__(f"answered with code {rcode}")
        self.rcode: int = rcode


class Question:
    """A question from inside."""

    def __init__(self, message: dns.message.Message) -> None:
        self.message: dns.message.Message = message
        asked = message.question[0]
        self.qname: dns.name.Name = asked.name
        self.kind: int = int(asked.rdtype)
        self.payload: int = max(min(message.payload, 4096), PLAIN_BYTES) if message.edns >= 0 else PLAIN_BYTES
        self.name: str = ""  # normalized; empty: not a valid host name
        try:
            self.name = parse_name(".".join([label.decode("ascii") for label in self.qname.labels[:-1]]))
        except (BadHost, UnicodeDecodeError):
            pass

    def kind_text(self) -> str:
        """The type's name."""
        return dns.rdatatype.to_text(dns.rdatatype.RdataType(self.kind))


def preload() -> None:
    """Import what dnspython would import when it meets a type."""
    dns.rdata.load_all_types(disable_dynamic_load=True)  # type: ignore[no-untyped-call]


def parse_question(data: bytes) -> Question:
    """Raises BadMessage; a message too short to be answered gets rcode -1."""
    if len(data) < 12:
        raise BadMessage(-1)
    flags = data[2] << 8 | data[3]
    if flags & dns.flags.QR:
        raise BadMessage(-1)
    if flags >> 11 & 15:
        raise BadMessage(dns.rcode.NOTIMP)
    counts = [int.from_bytes(data[at : at + 2], "big") for at in (4, 6, 8, 10)]
    if counts[0] != 1 or counts[1] or counts[2] or counts[3] > 1:
        raise BadMessage(dns.rcode.FORMERR)
    at = _after_name(data)
    if at < 0 or (counts[3] and data[at + 4 : at + 7] != b"\0\0\x29"):
        # A compressed name, or a record other than OPT, whose type dnspython would remember.
        raise BadMessage(dns.rcode.FORMERR)
    try:
        message = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError, IndexError, KeyError):
        raise BadMessage(dns.rcode.FORMERR) from None
    if len(message.question) != 1 or message.question[0].rdclass != dns.rdataclass.IN:
        raise BadMessage(dns.rcode.NOTIMP)
    return Question(message)


def _after_name(data: bytes) -> int:
    """The end of the question's name; -1: it contains a pointer (which could only lead into the header), or does not
    end.
    """
    at = 12
    while at < len(data) and data[at]:
        if data[at] > 63:
            return -1
        at += data[at] + 1
    return at + 1 if at < len(data) else -1


def failure(data: bytes, rcode: int) -> bytes:
    """The answer to a message that was not understood: its header, and the code."""
    flags = (data[2] << 8 | data[3]) & (15 << 11 | dns.flags.RD) | dns.flags.QR | dns.flags.RA | rcode
    return data[:2] + flags.to_bytes(2, "big") + bytes(8)


def answer(
    question: Question,
    records: list[tuple[str, str]] | None,
    ttl: int,
    *,
    is_over_tcp: bool = False,
    rcode: int = dns.rcode.NOERROR,
) -> bytes:
    """An answer as bytes.

    `records`: (type, text) of the name that was asked for; none of them: the name has nothing of this type, or with
    `rcode` NXDOMAIN is not there, said with an SOA record.
    """
    reply = dns.message.make_response(question.message, recursion_available=True, our_payload=OUR_BYTES)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    if records:
        for kind, text in records:
            reply.answer.append(dns.rrset.from_text(question.qname, ttl, "IN", kind, text))
    elif rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        reply.authority.append(dns.rrset.from_text(dns.name.root, _SHORT_TTL, "IN", "SOA", _SOA))
    limit = 65535 if is_over_tcp else question.payload
    try:
        return reply.to_wire(max_size=limit)
    except dns.exception.TooBig:
        for section in (reply.answer, reply.authority):
            section.clear()
        reply.flags |= dns.flags.TC
        return reply.to_wire(max_size=65535)


def build_query(name: str, kind: str, ident: int) -> bytes:
    """Build a query to a resolver outside."""
    query = dns.message.make_query(name + ".", kind, use_edns=0, payload=OUR_BYTES)
    query.id = ident
    return query.to_wire()


class Found:
    """The answer of a resolver outside."""

    def __init__(self) -> None:
        self.rcode: int = 0
        self.is_cut: bool = False  # ask again over TCP
        self.records: list[str] = []  # of the type that was asked for
        self.ttl: int = 0


def read_answer(data: bytes, name: str, kind: str, ident: int) -> Found | None:
    """Parse an answer; None if it does not belong to this query."""
    try:
        message = dns.message.from_wire(data, ignore_trailing=False, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError, IndexError, KeyError):
        return None
    wanted = dns.name.from_text(name + ".")
    wanted_kind = dns.rdatatype.from_text(kind)
    if message.id != ident or not message.flags & dns.flags.QR or len(message.question) != 1:
        return None
    asked = message.question[0]
    if asked.name != wanted or asked.rdtype != wanted_kind or asked.rdclass != dns.rdataclass.IN:
        return None
    found = Found()
    found.rcode = int(message.rcode())
    found.is_cut = bool(message.flags & dns.flags.TC)
    at = wanted
    ttls: list[int] = []
    for _step in range(MAX_CHAIN):
        following: dns.name.Name | None = None
        for rrset in message.answer:
            if rrset.name != at or rrset.rdclass != dns.rdataclass.IN:
                continue
            if rrset.rdtype == wanted_kind:
                ttls.append(rrset.ttl)
                found.records.extend([rdata.to_text() for rdata in rrset])
            elif rrset.rdtype == dns.rdatatype.CNAME:
                ttls.append(rrset.ttl)
                following = rrset[0].target
        if found.records or following is None:
            break
        at = following
    found.ttl = min(ttls, default=0)
    return found
