"""Netlink messages: headers, attributes and replies in several parts (netlink(7), rtnetlink(7))."""

from struct import Struct
from typing import Final

from cloche.abi.netlink import NLM_F_MULTI

HEADER: Final = Struct("<IHHII")
_ATTR: Final = Struct("<HH")
_U32: Final = Struct("<I")
_PART: Final = 16384


def message(kind: int, flags: int, seq: int, pid: int, body: bytes) -> bytes:
    """One message, padded."""
    size = 16 + len(body)
    return HEADER.pack(size, kind, flags, seq, pid) + body + bytes(-size & 3)


def attribute(kind: int, value: bytes) -> bytes:
    """struct nlattr, padded."""
    size = 4 + len(value)
    return _ATTR.pack(size, kind) + value + bytes(-size & 3)


def attribute_u32(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value & 0xFFFFFFFF))


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data`, the last of each kind; decoding ends at a malformed one."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        size, kind = _ATTR.unpack_from(data, at)
        if size < 4 or at + size > len(data):
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += size + 3 & ~3
    return found


class Dump:
    """An answer that can be long: its messages are made as the reader takes them (netlink_dump)."""

    def more(self, reply: "Reply") -> bool:
        """Add some messages, perhaps none. Returns whether more are to come."""
        raise NotImplementedError


class Reply:
    """The messages that answer one request."""

    def __init__(self, pid: int, seq: int) -> None:
        self.pid: int = pid
        self.seq: int = seq
        self.parts: list[tuple[int, bytes]] = []
        self.is_dump: bool = True
        self.complaint: str = ""  # the text of an error (NLMSGERR_ATTR_MSG)
        self.rest: Dump | None = None  # makes the messages of a long dump
        self.notices: list[tuple[int, int, bytes]] = []  # (RTNLGRP_*, kind, body) for the members of groups

    def add(self, kind: int, body: bytes) -> None:
        """A message of the answer."""
        self.parts.append((kind, body))

    def datagrams(self, *, is_dump: bool) -> list[bytes]:
        """The messages in as few datagrams as hold them."""
        flags = NLM_F_MULTI if is_dump else 0
        out: list[bytes] = []
        current = b""
        for kind, body in self.parts:
            piece = message(kind, flags, self.seq, self.pid, body)
            if current and len(current) + len(piece) > _PART:
                out.append(current)
                current = b""
            current += piece
        if current:
            out.append(current)
        return out
