"""Removes secrets from a server's answers: a program that makes the server repeat a request would otherwise see them.

A secret is replaced by stars of the same length, so that lengths stay correct. It is recognized verbatim, with
percent-escapes, in JSON's notation, and in the credentials of Basic in which it was sent. Bytes that could be the
beginning of a secret are held back until more arrive.
"""

import urllib.parse

__all__ = ["Blotter", "forms_of"]


def forms_of(value: str) -> list[bytes]:
    """The notations of a secret."""
    found: list[str] = [value, urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value)]
    found += [value.replace("\\", "\\\\").replace('"', '\\"'), value.replace("/", "\\/")]
    found.append(value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;"))
    return sorted({each.encode("ascii") for each in found}, key=len, reverse=True)


class Blotter:
    """Blots one message, or one direction of a connection."""

    def __init__(self, needles: list[bytes]) -> None:
        self.needles: list[bytes] = needles  # the longest first
        self.kept: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes; returns those that may be passed on now."""
        data = self.text(self.kept + data)
        keep = 0
        for needle in self.needles:
            for length in range(min(len(needle) - 1, len(data)), keep, -1):
                if data.endswith(needle[:length]):
                    keep = length
                    break
        self.kept = data[len(data) - keep :]
        return data[: len(data) - keep]

    def end(self) -> bytes:
        """The bytes that were held back, at the end."""
        rest, self.kept = self.kept, b""
        return rest

    def text(self, data: bytes) -> bytes:
        """Blot a whole text."""
        for needle in self.needles:
            if needle in data:
                data = data.replace(needle, b"*" * len(needle))
        return data
