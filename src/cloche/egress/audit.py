"""The audit log: one JSON line for each decision and each end, with the names of OCSF (schema 1.4) where it has them:
Network Activity (4001), HTTP Activity (4002) for requests, DNS Activity (4003) for names.

Lines are chained: `chain` is a SHA-256 of the line without it and of the chain before, so that a line that was changed
or cut out is found (`broken_line`). The file is bounded: when it is full its contents replace those of a second file,
and the first line after that states the chain with which it continues. A program that causes many refusals cannot
fill it: above a rate they are only counted.
"""

import hashlib
import json
import os
import time
from collections import deque
from typing import Any, Final

from cloche.egress.hosts import address_text
from cloche.wire.wording import counted

__all__ = ["Audit", "broken_line"]

ALLOWED: Final = "Allowed"
BLOCKED: Final = "Blocked"
FILE_BYTES: Final = 8 << 20
_KEPT: Final = 2048  # lines in memory, for `cloche net NAME log`
RATE: Final = 200  # lines a second
_REPORTED: Final = 1000  # kinds of refusals and of destinations in the report
_COPY_BYTES: Final = 1 << 20
# OCSF's numbers of activities; 99: others, with their name in `activity_name`.
_ACTIVITIES: Final = {"open": 1, "close": 2, "cut": 3, "fail": 4, "refuse": 5}
_METHODS: Final = {
    "CONNECT": 1,
    "DELETE": 2,
    "GET": 3,
    "HEAD": 4,
    "OPTIONS": 5,
    "POST": 6,
    "PUT": 7,
    "TRACE": 8,
}
_OTHER: Final = 99
_NETWORK: Final = 4001
_HTTP: Final = 4002
_DNS: Final = 4003
_QUERY: Final = 1
# `json.dumps` would make an encoder for each line.
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_METADATA: Final = {"version": "1.4.0", "product": {"name": "cloche egress"}}


def broken_line(lines: list[str], chain: str = "") -> int:
    """The index of the first line whose chain does not match; -1 if all match."""
    for number, line in enumerate(lines):
        try:
            fields = json.loads(line)
            given = fields.pop("chain")
        except (ValueError, KeyError, AttributeError):
            return number
        if number == 0 and not chain:
            chain = str(fields.get("before", ""))
        if given != _link(chain, _encode(fields)):
            return number
        chain = given
    return -1


def _link(chain: str, text: str) -> str:
    return hashlib.sha256(f"{chain}\n{text}".encode()).hexdigest()


class _Tally:
    """The report's figures for one destination."""

    def __init__(self) -> None:
        self.count: int = 0
        self.received: int = 0
        self.sent: int = 0


class Audit:
    """Writes the log, and collects the figures of the report."""

    def __init__(
        self, sandbox: str, fd: int, second_fd: int, limit: int = FILE_BYTES, rate: int = RATE
    ) -> None:
        """`fd` and `second_fd`: the file and the second file; -1: none.  `rate`: lines a second."""
        self.rate: int = rate
        self.sandbox: str = sandbox
        self.fd: int = fd
        self.second_fd: int = second_fd
        self.limit: int = limit
        self.size: int = os.fstat(fd).st_size if fd >= 0 else 0
        self.lines: deque[tuple[int, str]] = deque(maxlen=_KEPT)
        self.count: int = 0
        self.chain: str = os.urandom(32).hex()
        self.is_first: bool = True
        self.second: int = 0
        self.in_second: int = 0
        self.suppressed: int = 0
        self.problem: str = ""  # why the file is not written any more
        self.allowed: dict[str, _Tally] = {}
        self.refused: dict[tuple[str, str], int] = {}

    def record(
        self,
        activity: str,
        verdict: str,
        *,
        name: str = "",
        addr: bytes = b"",
        port: int = 0,
        transport: str = "",
        rule: str = "",
        pid: int = 0,
        program: bytes = b"",
        message: str = "",
        traffic: tuple[int, int] | None = None,
        duration_ms: int = -1,
        request: tuple[str, str, int] | None = None,
    ) -> None:
        """Write one line."""
        where = name or (address_text(addr) if addr else "")
        if port:
            where += f":{port}{'/udp' if transport == 'udp' else ''}"
        if verdict == BLOCKED:
            key = (where, message)
            if key in self.refused or len(self.refused) < _REPORTED:
                self.refused[key] = self.refused.get(key, 0) + 1
        if activity in ("open", "close", "cut") and (where in self.allowed or len(self.allowed) < _REPORTED):
            tally = self.allowed.setdefault(where, _Tally())
            tally.count += activity == "open"
            if traffic is not None:
                tally.received += traffic[0]
                tally.sent += traffic[1]
        if not self._may_write(verdict):
            return
        endpoint: dict[str, Any] = {}
        if name:
            endpoint["hostname"] = name
        if addr:
            endpoint["ip"] = address_text(addr)
        if port:
            endpoint["port"] = port
        fields = self._head(activity, verdict, request[0] if request is not None else "")
        if activity == "name":
            fields["query"] = {"hostname": name}
        if endpoint:
            fields["dst_endpoint"] = endpoint
        if transport:
            fields["connection_info"] = {"protocol_name": transport}
        if pid:
            fields["actor"] = {"process": {"pid": pid, "name": program.decode("ascii", "backslashreplace")}}
        if rule:
            fields["firewall_rule"] = {"name": rule}
        if traffic is not None:
            fields["traffic"] = {"bytes_in": traffic[0], "bytes_out": traffic[1]}
        if duration_ms >= 0:
            fields["duration"] = duration_ms
        if request is not None:
            path, _mark, query = request[1][:1024].partition("?")
            url = {"path": path, **({"query_string": query} if query else {})}
            fields["http_request"] = {"http_method": request[0], "url": url}
            if request[2]:
                fields["http_response"] = {"code": request[2]}
        if message:
            fields["message"] = message
        self._write(fields)

    def _head(self, activity: str, verdict: str, method: str) -> dict[str, Any]:
        """The fields that every line has."""
        kind, number = _NETWORK, _ACTIVITIES.get(activity, _OTHER)
        if method:
            kind, number = _HTTP, _METHODS.get(method, _OTHER)
        elif activity == "name":
            kind, number = _DNS, _QUERY
        return {
            "time": int(time.time() * 1000),
            "category_uid": kind // 1000,
            "class_uid": kind,
            "activity_id": number,
            "type_uid": kind * 100 + number,
            "severity_id": 1,
            "activity_name": activity,
            "disposition": verdict,
            "disposition_id": 1 if verdict == ALLOWED else 2,
            "metadata": _METADATA,
            "sandbox": self.sandbox,
        }

    def _may_write(self, verdict: str) -> bool:
        now = int(time.monotonic())
        if now != self.second:
            self.second, self.in_second = now, 0
            if self.suppressed:
                count, self.suppressed = self.suppressed, 0
                self._write({**self._head("suppressed", ALLOWED, ""), "count": count})
        self.in_second += 1
        if self.in_second > self.rate:
            self.suppressed += 1
            return False
        return True

    def _write(self, fields: dict[str, Any]) -> None:
        if self.is_first:
            fields["before"] = self.chain
            self.is_first = False
        text = _encode(fields)
        self.chain = _link(self.chain, text)
        line = f'{text[:-1]},"chain":"{self.chain}"}}'
        self.count += 1
        self.lines.append((self.count, line))
        if self.fd < 0:
            return
        data = line.encode() + b"\n"
        try:
            if self.size + len(data) > self.limit:
                self._rotate()
            os.write(self.fd, data)
            self.size += len(data)
        except OSError as error:
            self.problem = error.strerror or "it cannot be written"

    def _rotate(self) -> None:
        if self.second_fd >= 0:
            os.ftruncate(self.second_fd, 0)
            at = 0
            while at < self.size:
                data = os.pread(self.fd, _COPY_BYTES, at)
                if not data:
                    break
                os.pwrite(self.second_fd, data, at)
                at += len(data)
        os.ftruncate(self.fd, 0)
        self.size = 0

    def since(self, number: int) -> list[tuple[int, str]]:
        """Lines after that number."""
        return [item for item in self.lines if item[0] > number]

    def flush(self) -> None:
        """At the end: log how many lines were left out."""
        if self.suppressed:
            count, self.suppressed = self.suppressed, 0
            self._write({**self._head("suppressed", ALLOWED, ""), "count": count})

    def report(self) -> str:
        """A summary as text."""
        lines = ["cloche: network report"]
        for where, tally in sorted(self.allowed.items()):
            traffic = f"{counted(tally.received, 'byte')} in, {counted(tally.sent, 'byte')} out"
            lines.append(f"  allowed  {where}  {counted(tally.count, 'connection')}, {traffic}")
        for (where, message), count in sorted(self.refused.items()):
            times = "" if count == 1 else f" ({count} times)"
            lines.append(f"  refused  {where}{times}: {message}")
        if len(lines) == 1:
            lines.append("  nothing was asked for")
        if self.problem:
            lines.append(f"  the log is not whole: {self.problem}")
        return "\n".join(lines) + "\n"
