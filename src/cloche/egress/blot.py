"""Secrets taken out of what a server answers: whoever can make it say what it was sent would have them.

A secret becomes stars of the same length, so that lengths stay true.  It is found as it is, with percent-escapes, as
JSON writes it, and in the credentials of Basic that it was sent in.  What could be the beginning of one waits for
what follows.
"""

import urllib.parse

__all__ = ["Blotter", "forms_of"]


def forms_of(value: str) -> list[bytes]:
    """How a secret may be written."""
    found: list[str] = [value, urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value)]
    found += [value.replace("\\", "\\\\").replace('"', '\\"'), value.replace("/", "\\/")]
    found.append(value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;"))
    return sorted({each.encode("ascii") for each in found}, key=len, reverse=True)


class Blotter:
    """Of one message, or one direction of a connection."""

    def __init__(self, needles: list[bytes]) -> None:
        self.needles: list[bytes] = needles  # the longest first
        self.kept: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """What may go on, of what has come so far."""
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
        """The rest."""
        rest, self.kept = self.kept, b""
        return rest

    def text(self, data: bytes) -> bytes:
        """A whole text."""
        for needle in self.needles:
            if needle in data:
                data = data.replace(needle, b"*" * len(needle))
        return data
