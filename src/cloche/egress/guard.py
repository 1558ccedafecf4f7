"""The decision about one request: rules about requests, approvals, and secrets that are inserted.

A request that is allowed results in a `Passage`: the request to send, and the limits for its body and answer.
"""

import base64
import binascii
import time
import urllib.parse
from typing import Final

from cloche.egress.approvals import Approvals
from cloche.egress.blot import Blotter, forms_of
from cloche.egress.bodysecrets import Holding, is_searched, put_in_body
from cloche.egress.flow import Flow
from cloche.egress.httpcheck import LENGTH, BadRequest
from cloche.egress.policy import HTTPS, Rule
from cloche.egress.requestrules import SCOPES, BadPath, Facts, RequestRule, Secret, path_readings

__all__ = ["Guard", "Passage"]

# Headers that are dropped from requests with secrets: a part of an answer, or a compressed one, could hide a secret
# from the blotter.
_SHOWS_PIECES: Final = frozenset((b"range", b"if-range", b"accept-encoding", b"sec-websocket-extensions"))

Headers = list[tuple[bytes, bytes]]


class Passage:
    """A request that may go out."""

    def __init__(self, target: bytes, headers: Headers) -> None:
        self.target: bytes = target
        self.headers: Headers = headers
        self.max_body: int = -1
        self.max_response: int = -1
        self.needles: list[bytes] = []  # notations of secrets that are blotted out of the answer
        # Those that are inserted into the body, which is kept until it is whole
        self.body_secrets: list[Secret] = []

    def count_body(self, so_far: int) -> None:
        """Raises BadRequest."""
        if 0 <= self.max_body < so_far:
            raise BadRequest(413, f"a body of more than the {self.max_body} bytes that the rule allows")

    def is_too_long(self, so_far: int) -> bool:
        """Whether an answer is longer than it may be."""
        return 0 <= self.max_response < so_far

    def fill_body(self, body: bytes) -> bytes:
        """The whole body as it goes out; says its length in the headers, if they have one."""
        made = put_in_body(self.body_secrets, self.headers, body)
        length = str(len(made)).encode()
        self.headers = [
            (name, length if name == b"content-length" else value) for name, value in self.headers
        ]
        return made

    def blotter(self) -> Blotter | None:
        """A blotter for one body; None: there are no secrets."""
        return Blotter(self.needles) if self.needles else None

    def blotted(self, headers: Headers) -> Headers:
        """The headers of an answer."""
        if not self.needles:
            return headers
        blotter = Blotter(self.needles)
        return [(name, blotter.text(value)) for name, value in headers]

    def check_answer(self, headers: Headers) -> None:
        """Check the headers of an answer. Raises BadRequest if it must not be passed on."""
        for name, value in headers:
            lower = name.lower()
            if lower == b"content-length":
                if not LENGTH.fullmatch(value):
                    raise BadRequest(502, "an answer with a Content-Length that is no number")
                if self.is_too_long(int(value)):
                    raise BadRequest(
                        502, f"an answer of more than the {self.max_response} bytes that the rule allows"
                    )
            if (
                self.needles
                and lower == b"content-encoding"
                and value.strip().lower() not in (b"", b"identity")
            ):
                raise BadRequest(502, "a packed answer, which cannot be searched for secrets")


class Guard:
    """The decisions of one connection."""

    def __init__(self, flow: Flow, approvals: Approvals, ask_s: int, holding: Holding | None = None) -> None:
        """`holding` limits the bodies that are kept; all connections share it."""
        self.flow: Flow = flow  # its rule may be replaced
        self.holding: Holding = holding if holding is not None else Holding()
        self.approvals: Approvals = approvals
        self.ask_s: int = ask_s

    async def admit(self, method: bytes, target: bytes, headers: Headers) -> Passage:
        """Decide.  Names of headers are in lower case; a Content-Length is a number.  Raises BadRequest."""
        rule = self.flow.rule
        assert rule is not None
        passage = Passage(target, headers)
        lists = [each for each in (rule.requests, rule.outer_requests) if each]
        if lists:
            try:
                text = target.decode("ascii")
                facts = Facts(method.decode("ascii"), text, headers)
                needs_path = any(each.paths for some in lists for each in some)
                readings = path_readings(facts.path) if needs_path and text != "*" else []
            except (BadPath, UnicodeDecodeError) as bad:
                raise BadRequest(400, f"{bad}, which the rules about requests cannot judge") from None
            found = [self._decide(some, facts, readings, is_outer=at > 0) for at, some in enumerate(lists)]
            passage.max_body = _least([each.max_body for each in found])
            passage.max_response = _least([each.max_response for each in found])
            lengths = facts.values("content-length")
            if lengths:
                passage.count_body(int(lengths[0]))
            self._count(found)
            asking = [(some, each) for some, each in zip(lists, found, strict=True) if each.ask]
            if asking:
                await self._ask(rule, asking, facts)
        if rule.secrets and self.flow.protocol == HTTPS:
            self._put_in(rule.secrets, passage)
        return passage

    def _decide(
        self, rules: list[RequestRule], facts: Facts, readings: list[list[str]], *, is_outer: bool
    ) -> RequestRule:
        """The rule that lets it pass. `is_outer`: the list is the operator's, and narrows a container's.

        Raises BadRequest.
        """
        whose = "by the rules of this host, which those of the sandbox only narrow: " if is_outer else ""
        found: RequestRule | None = None
        closest = ""
        for each in rules:
            objection = each.objection(facts, readings)
            if each.is_deny:
                if not objection:
                    raise BadRequest(
                        403, f"{whose}{facts.method} {facts.path} is denied by the rule: {each.text()}"
                    )
            elif not objection and found is None:
                found = each
            elif objection and (not closest or objection != "method"):
                closest = objection
        if found is None:
            what = f'methods = ["{facts.method}"] and paths = ["{facts.path}"]'
            raise BadRequest(
                403,
                f"{whose}no rule about requests to {self.flow.name} allows {facts.method} {facts.path}"
                f" (what does not fit: {closest or 'all is denied'}); one with {what} would",
            )
        return found

    @staticmethod
    def _count(rules: list[RequestRule]) -> None:
        """Count a request for the rates of all these rules, if none is exceeded.  Raises BadRequest."""
        now = time.monotonic()
        limited = [each for each in rules if each.rate]
        for rule in limited:
            most, seconds = rule.rate_limit()
            recent = rule.recent
            while recent and recent[0] <= now - seconds:
                recent.popleft()
            if len(recent) >= most:
                raise BadRequest(429, f"more than {rule.rate}, which the rule allows")
        for rule in limited:
            rule.recent.append(now)

    async def _ask(
        self, rule: Rule, asking: list[tuple[list[RequestRule], RequestRule]], facts: Facts
    ) -> None:
        """Ask once, also if the rules of both sides want it: then for the smaller of their scopes.

        `asking`: rules that want an approval, and the lists that they are in. Raises BadRequest.
        """
        flow = self.flow
        scheme = "https" if flow.protocol == HTTPS else "http"
        scope = min([each.ask for _some, each in asking], key=SCOPES.index)
        key = ""
        if scope == "path":
            key = f"{flow.name}:{flow.target.port} {facts.method} {facts.path}?{facts.query}"
        elif scope == "host":
            numbers = [f"{int(some is rule.outer_requests)}.{some.index(each)}" for some, each in asking]
            key = f"{rule.text()} {flow.name}:{flow.target.port} {' '.join(numbers)}"
        fields: dict[str, object] = {
            "method": facts.method,
            "url": f"{scheme}://{flow.name}:{flow.target.port}{facts.path}"
            + (f"?{facts.query}" if facts.query else ""),
            "scope": scope,
            "rule": rule.text(),
            "pid": flow.target.pid,
            "program": flow.target.program.decode("ascii", "backslashreplace"),
        }
        problem = await self.approvals.ask(key, fields, self.ask_s)
        if problem:
            raise BadRequest(403, f"{facts.method} {facts.path} needs an approval: {problem}")

    @staticmethod
    def _put_in(secrets: list[Secret], passage: Passage) -> None:
        """Insert the real values where the rules say, and note what must be blotted out of the answer."""
        headers = [pair for pair in passage.headers if pair[0] not in _SHOWS_PIECES]
        if is_searched(headers):
            passage.body_secrets = [secret for secret in secrets if secret.field]
        path, mark, query = passage.target.partition(b"?")
        needles: set[bytes] = set()
        for secret in secrets:
            real, placeholder = secret.value.encode("ascii"), secret.placeholder.encode("ascii")
            if not real or not placeholder:
                continue
            needles.update(forms_of(secret.value))
            if secret.field:
                continue
            if secret.query:
                parts = query.split(b"&")
                wanted = urllib.parse.quote(secret.value, safe="").encode("ascii")
                for at, part in enumerate(parts):
                    name, equals, value = part.partition(b"=")
                    if urllib.parse.unquote_to_bytes(name) == secret.query.encode() and value == placeholder:
                        parts[at] = name + equals + wanted
                query = b"&".join(parts)
                continue
            name = secret.header.encode("ascii")
            for at, (each, value) in enumerate(headers):
                if each != name:
                    continue
                made = value.replace(placeholder, real)
                basic = _basic(value, placeholder, real)
                if basic:
                    made = basic
                    needles.add(made.partition(b" ")[2])
                headers[at] = (each, made)
        passage.target = path + mark + query
        passage.headers = headers
        passage.needles = sorted(needles, key=len, reverse=True)


def _least(sizes: list[int]) -> int:
    """The smallest limit; -1: there is none."""
    return min([each for each in sizes if each >= 0], default=-1)


def _basic(value: bytes, placeholder: bytes, real: bytes) -> bytes:
    """Credentials of Basic (RFC 7617) with the secret in them; empty: they do not contain the placeholder."""
    scheme, _space, packed = value.partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        plain = base64.b64decode(packed.strip(), validate=True)
    except binascii.Error:
        return b""
    if placeholder not in plain:
        return b""
    return scheme + b" " + base64.b64encode(plain.replace(placeholder, real))
