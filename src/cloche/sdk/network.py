"""Rules for the network as objects, which `Sandbox.create(network=…, secrets=…)` takes, and what waits for an approval.

They mean the same as a file of rules (docs/egress.md), and become its keys. They are checked by the code that reads
such files, so an error message names the key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cloche.sdk.effects import Call, Steps, wait
from cloche.sdk.errors import InvalidArgument, SandboxEnded, SandboxError
from cloche.sdk.link import call, connect
from cloche.wire import protocol, requests
from cloche.wire.protocol import take_int, take_text

__all__ = ["Approval", "NetRequest", "NetRule", "NetSecret", "document", "follow_approvals"]

_MAX: Final = 1 << 62


@dataclass(frozen=True, kw_only=True)
class NetRequest:
    """Which HTTP requests are allowed; a field that is not given matches everything."""

    methods: Sequence[str] = ()
    paths: Sequence[str] = ()  # "/repos/*/issues": * within a segment, ** for any number of segments
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    content_types: Sequence[str] = ()
    max_body: int | None = None
    max_response: int | None = None
    rate: str | None = None  # "10/minute"
    ask: str | None = None  # wait for an approval, remembered for "request", "path" or "host"
    deny: bool = False

    def to_document(self) -> dict[str, Any]:
        """As in a file of rules."""
        found: dict[str, Any] = {
            "methods": list(self.methods),
            "paths": list(self.paths),
            "headers": dict(self.headers),
            "query": dict(self.query),
            "content_types": list(self.content_types),
            "deny": self.deny,
        }
        for name in ("max_body", "max_response", "rate", "ask"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        return found


@dataclass(frozen=True, kw_only=True)
class NetSecret:
    """A value that the sandbox never sees: its variable `name` holds a placeholder, which becomes the value only on the
    way to `host` (or the host of the rule that it stands in), in a header, a field of the query, or a field of a body
    that is a form or JSON.
    """

    name: str
    value: str = field(repr=False)
    host: str | None = None
    header: str | None = None
    query: str | None = None
    field: str | None = None

    def to_document(self) -> dict[str, Any]:
        """As in a file of rules."""
        found = {"name": self.name, "from": f"value:{self.value}"}
        if self.field is not None:
            found["field"] = self.field
        if self.header is not None:
            found["header"] = self.header
        if self.query is not None:
            found["query"] = self.query
        return found


@dataclass(frozen=True, kw_only=True)
class NetRule:
    """A host or network that the sandbox may connect to (`deny=True`: may not)."""

    host: str | None = None
    address: str | None = None
    ports: Sequence[int | str] = ()
    protocol: str | None = None
    internal: bool = False
    inspect: bool = False
    upgrade: Sequence[str] = ()
    requests: Sequence[NetRequest] = ()
    secrets: Sequence[NetSecret] = ()
    deny: bool = False

    def to_document(self) -> dict[str, Any]:
        """As in a file of rules."""
        found: dict[str, Any] = {"ports": list(self.ports)}
        for name in ("host", "address", "protocol"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if not self.deny:
            found["internal"] = self.internal
            found["inspect"] = self.inspect or bool(self.secrets)
            found["upgrade"] = list(self.upgrade)
            found["requests"] = [each.to_document() for each in self.requests]
            found["secrets"] = [each.to_document() for each in self.secrets]
        return found


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A request that waits until `on_approval` says whether it may go out."""

    id: int
    method: str
    url: str
    scope: str  # what a yes counts for: "request", "path" or "host"
    rule: str
    pid: int
    program: str


def document(rules: Sequence[NetRule], secrets: Sequence[NetSecret]) -> dict[str, Any]:
    """A file of rules with these; empty if there are none.  Raises InvalidArgument."""
    rows = list(rules)
    for secret in secrets:
        if not isinstance(secret, NetSecret):
            raise InvalidArgument(f"secrets: {type(secret).__name__} is no NetSecret")
        if secret.host is None:
            raise InvalidArgument(f"secrets: {secret.name}: say the host that it is for, host=…")
        at = next((n for n, rule in enumerate(rows) if rule.host == secret.host and not rule.deny), None)
        if at is None:
            rows.append(NetRule(host=secret.host, inspect=True, secrets=[secret]))
        else:
            found = rows[at]
            made = {name: getattr(found, name) for name in found.__dataclass_fields__}
            rows[at] = NetRule(**{**made, "secrets": [*found.secrets, secret]})
    if not rows:
        return {}
    return {
        "version": 1,
        "allow": [row.to_document() for row in rows if not row.deny],
        "deny": [row.to_document() for row in rows if row.deny],
    }


def follow_approvals(root: str, name: str, on_approval: Callable[[Approval], object]) -> Steps[None]:
    """Ask `on_approval` about every request that waits, until the sandbox ends. If it raises, the request is refused
    and the exception is passed on.
    """
    try:
        link = connect(root, name, was_known=True)
    except SandboxEnded:
        return
    try:
        ident = link.ask(requests.NET, {"operation": "approvals", "follow": True})
        while not link.is_over:
            for message in link.take():
                if message.kind == protocol.ERROR:
                    return
                if message.kind != protocol.EVENT or message.ident != ident:
                    continue
                fields = message.fields
                wanted = Approval(
                    id=take_int(fields, "id", 0, 0, _MAX),
                    method=take_text(fields, "method"),
                    url=take_text(fields, "url"),
                    scope=take_text(fields, "scope"),
                    rule=take_text(fields, "rule"),
                    pid=take_int(fields, "pid", 0, 0, _MAX),
                    program=take_text(fields, "program"),
                )
                is_allowed = False
                try:
                    is_allowed = (yield Call(on_approval, wanted)) is True
                finally:
                    answer: protocol.Fields = {"operation": "approve", "id": wanted.id, "allow": is_allowed}
                    try:
                        yield from call(root, name, requests.NET, answer)
                    except SandboxError:
                        pass  # the request waits no longer
            if not link.is_over:
                yield from wait([link.fileno()], link.wants())
    finally:
        link.close()
