"""Names and addresses as people, programs and protocols write them: the only parser of them in egress.

Decisions and connections use its results, so a program cannot get one host approved and reach another. A name has one
normal form: lower case, A-labels (RFC 5891), no trailing dot. Text that another parser could read differently is
refused: NUL and its escapes, user information, ports, zone ids, white space, and all notations of numbers but the
usual ones (WHATWG's "ends in a number" check finds them).
"""

import re
import socket
from typing import Final

import idna

__all__ = ["BadHost", "address_text", "is_within", "parse_address", "parse_host", "parse_name"]

_MAX_TEXT: Final = 1024  # before it becomes A-labels
_MAX_NAME: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)
_QUAD: Final = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})", re.ASCII)


class BadHost(ValueError):
    """Not a name or address; the text says why."""


def parse_name(text: str) -> str:
    """A host name in its normal form. Raises BadHost."""
    if not text or len(text) > _MAX_TEXT:
        raise BadHost("an empty name" if not text else "a name that is too long")
    shown = text.removesuffix(".")
    if shown.isascii():
        name = shown.lower()
    else:
        try:
            name = idna.encode(shown, uts46=True, std3_rules=True, transitional=False).decode().lower()
        except (idna.IDNAError, UnicodeError) as error:
            raise BadHost(f"not a name of IDNA: {error}") from None
    if len(name) > _MAX_NAME:
        raise BadHost("a name that is too long")
    labels = name.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise BadHost(f"not a host name: {text!r}")
        if label.startswith("xn--"):
            _check_a_label(label)
        elif label[2:4] == "--" and not label.startswith("_"):
            # RFC 5891, 4.2.3.1: reserved, but real names use it (r3---sn.example), and it has no other meaning.
            continue
    if _NUMBER.fullmatch(labels[-1]):
        raise BadHost(f"a number is no name: {text!r}; write addresses as 192.0.2.1")
    return name


def _check_a_label(label: str) -> None:
    """A label that starts like an A-label must be one, and the only one of its U-label."""
    try:
        again = idna.alabel(idna.ulabel(label)).decode()
    except (idna.IDNAError, UnicodeError) as error:
        raise BadHost(f"not a name of IDNA: {error}") from None
    if again != label:
        raise BadHost(f"not the usual form of a name of IDNA: {label}")


def parse_address(text: str) -> bytes:
    """An address in its usual notation, 4 or 16 bytes; a v4-mapped one is what it maps.  Raises BadHost."""
    if _QUAD.fullmatch(text):
        try:
            return socket.inet_pton(socket.AF_INET, text)
        except OSError:
            raise BadHost(f"not an address: {text!r}") from None
    if ":" in text and "%" not in text and text.isascii():
        try:
            return unmapped(socket.inet_pton(socket.AF_INET6, text))
        except (OSError, ValueError):
            pass
    raise BadHost(f"not an address: {text!r}")


def parse_host(text: str) -> str | bytes:
    """A name, or the address that stands in place of one (IPv6 in brackets).  Raises BadHost."""
    if text.startswith("[") and text.endswith("]"):
        address = parse_address(text[1:-1])
        if ":" not in text:
            raise BadHost(f"not an address of IPv6: {text!r}")
        return address
    if _QUAD.fullmatch(text):
        return parse_address(text)
    return parse_name(text)


def unmapped(addr: bytes) -> bytes:
    """An IPv6 address, or the IPv4 address that it maps."""
    return addr[12:] if len(addr) == 16 and addr[:12] == bytes(10) + b"\xff\xff" else addr


def address_text(addr: bytes) -> str:
    """The usual notation of an address."""
    return socket.inet_ntop(socket.AF_INET if len(addr) == 4 else socket.AF_INET6, addr)


def is_within(addr: bytes, base: bytes, prefix: int) -> bool:
    """Whether `addr` is in the network base/prefix, of its family."""
    if len(addr) != len(base):
        return False
    shift = len(addr) * 8 - prefix
    return int.from_bytes(addr, "big") >> shift == int.from_bytes(base, "big") >> shift
