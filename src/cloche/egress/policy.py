"""The rules for connections of a sandbox, and the decision.

Only connections that a rule allows are made, and a `deny` rule takes precedence over every `allow`. A rule is for a
name, for every name below one (`*.example.com`, one label as in certificates, RFC 6125), or for a network; for ports;
for TCP or UDP. `protocol` says what egress checks: with `tls` the ClientHello, with `http` every request, with
`https` every request inside TLS (inspection), with `tcp` and `udp` nothing.

Rules are data, so that they can be sent to the egress process: `to_fields`, `from_fields`.
"""

import re
from typing import Any, Final

from cloche.egress.fieldtypes import texts
from cloche.egress.hosts import BadHost, address_text, is_within, parse_address, parse_name
from cloche.egress.ranges import OWN, carried, special_purpose, special_range
from cloche.egress.requestrules import RequestRule, Secret
from cloche.wire.egress import TCP, UDP

__all__ = ["PROTOCOLS", "Policy", "PolicyError", "Rule", "narrowed", "parse_rule"]

VERSION: Final = 1
TLS: Final = "tls"
HTTP: Final = "http"
HTTPS: Final = "https"  # TLS that egress terminates, to check the requests
PLAIN_TCP: Final = "tcp"
PLAIN_UDP: Final = "udp"
PROTOCOLS: Final = (TLS, HTTP, HTTPS, PLAIN_TCP, PLAIN_UDP)
UPGRADES: Final = ("websocket",)
DNS_TYPES: Final = ("SRV", "MX", "TXT")
MAX_RULES: Final = 10000
DEFAULT_ASK_S: Final = 120
MAX_ASK_S: Final = 86400
_MAX_NARROWED: Final = 4096  # cached results for pairs of rules
MAX_WILDCARD_NAMES: Final = 4096  # names that rules with * may let in during a sandbox's life

_NET: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?\]|[0-9.]+(?:/[0-9]{1,2})?)", re.ASCII)
_AUTHORITY: Final = re.compile(r"[a-z0-9._-]{1,253}:[0-9]{1,5}", re.ASCII)
_PORTS: Final = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*", re.ASCII)


class PolicyError(ValueError):
    """An invalid rule; the text says why, in one line."""


class Rule:
    """One rule."""

    def __init__(self, *, is_deny: bool = False) -> None:
        self.is_deny: bool = is_deny
        self.name: str = ""  # empty: the rule is for a network
        self.is_wildcard: bool = False
        self.base: bytes = b""
        self.prefix: int = 0
        self.ports: list[tuple[int, int]] = []  # empty: all
        self.transport: int = TCP  # 0: both
        self.protocol: str = ""  # empty: by the port
        self.is_internal: bool = False  # the name may lead to addresses that are not public
        self.refuses_ech: bool = False
        self.dns: list[str] = []
        self.is_inspected: bool = False  # where it would be TLS it is HTTPS
        self.is_real: bool = False  # programs are told the name's real addresses
        self.requests: list[RequestRule] = []  # empty: all requests
        # The operator's, which must let a request through as well. Only `narrowed` rules have some: they are not data.
        self.outer_requests: list[RequestRule] = []
        self.secrets: list[Secret] = []
        self.upgrades: list[str] = []  # protocols that HTTP may turn into
        self.connects: list[str] = []  # HOST:PORT that the name, a proxy, may be asked to connect to

    def text(self) -> str:
        """The rule in the notation of the command line."""
        if self.name:
            host = f"*.{self.name}" if self.is_wildcard else self.name
        else:
            host = f"{address_text(self.base)}/{self.prefix}"
            if len(self.base) == 16:
                host = f"[{host}]"
        parts = [f"{low}" if low == high else f"{low}-{high}" for low, high in self.ports]
        ports = ":" + ",".join(parts) if parts else ""
        kind = self.protocol or {TCP: "", UDP: PLAIN_UDP}.get(self.transport, "")
        if kind == TLS and self.is_inspected:
            kind = HTTPS
        more = [
            word
            for word, is_set in (
                ("internal", self.is_internal),
                ("ech=refuse", self.refuses_ech),
                ("inspect", self.is_inspected and kind != HTTPS),
                ("address=real", self.is_real),
            )
            if is_set
        ]
        if self.dns:
            more.append("dns=" + "+".join(self.dns))
        more += [f"upgrade={each}" for each in self.upgrades] + [f"connect={each}" for each in self.connects]
        more += [f"secret={each.name}" for each in self.secrets]
        shown = host + ports + (f"/{kind}" if kind else "") + "".join([f" {word}" for word in more])
        shown += "".join([f" [{each.text()}]" for each in self.requests])
        outer = "".join([f" [{each.text()}]" for each in self.outer_requests])
        return f"{shown}, within{outer}" if outer else shown

    def covers_name(self, name: str) -> bool:
        """Whether the rule covers this name, on any port."""
        if not self.name:
            return False
        if self.is_wildcard:
            label, dot, rest = name.partition(".")
            return bool(dot) and rest == self.name and bool(label)
        return name == self.name

    def covers_address(self, addr: bytes) -> bool:
        """Whether the rule covers this address."""
        if self.name:
            return False
        if is_within(addr, self.base, self.prefix):
            return True
        # A rule that denies an IPv4 network also denies IPv6 addresses that carry one of its addresses.
        inner = carried(addr) if self.is_deny else b""
        return bool(inner) and is_within(inner, self.base, self.prefix)

    def covers_port(self, transport: int, port: int) -> bool:
        """Whether the rule covers this port."""
        if self.transport not in (0, transport):
            return False
        return not self.ports or any(low <= port <= high for low, high in self.ports)

    def protocol_at(self, transport: int, port: int) -> str:
        """The protocol that egress checks on this port."""
        if transport == UDP:
            return PLAIN_UDP
        kind = self.protocol
        if not kind and self.name:
            kind = {443: TLS, 80: HTTP}.get(port, TLS if self.is_inspected else PLAIN_TCP)
        if kind == TLS and self.is_inspected:
            return HTTPS
        return kind or PLAIN_TCP

    def needs_authority(self) -> bool:
        """Whether egress terminates TLS for it."""
        return self.is_inspected and not self.is_deny

    def is_like(self, other: "Rule") -> bool:
        """Whether both rules are equal except for the values of secrets."""
        return self.to_fields(shows_secrets=False) == other.to_fields(shows_secrets=False)

    def to_fields(self, *, shows_secrets: bool = True) -> dict[str, Any]:
        """As data."""
        return {
            "deny": self.is_deny,
            "name": self.name,
            "wildcard": self.is_wildcard,
            "base": self.base,
            "prefix": self.prefix,
            "ports": [[low, high] for low, high in self.ports],
            "transport": self.transport,
            "protocol": self.protocol,
            "internal": self.is_internal,
            "refuse_ech": self.refuses_ech,
            "dns": list(self.dns),
            "inspect": self.is_inspected,
            "real": self.is_real,
            "requests": [each.to_fields() for each in self.requests],
            "secrets": [each.to_fields(shows_value=shows_secrets) for each in self.secrets],
            "upgrades": list(self.upgrades),
            "connects": list(self.connects),
        }

    @staticmethod
    def from_fields(fields: object) -> "Rule":
        """The inverse.  Raises PolicyError."""
        if not isinstance(fields, dict):
            raise PolicyError("not a rule")
        try:
            made = Rule(is_deny=bool(fields["deny"]))
            made.name = parse_name(fields["name"]) if fields["name"] else ""
            made.is_wildcard = bool(fields["wildcard"])
            made.base, made.prefix = bytes(fields["base"]), int(fields["prefix"])
            made.ports = [(int(low), int(high)) for low, high in fields["ports"]]
            made.transport = int(fields["transport"])
            made.protocol = str(fields["protocol"])
            made.is_internal = bool(fields["internal"])
            made.refuses_ech = bool(fields["refuse_ech"])
            made.dns = [str(each) for each in fields["dns"]]
            made.is_inspected, made.is_real = bool(fields["inspect"]), bool(fields["real"])
            made.requests = [RequestRule.from_fields(each) for each in fields["requests"]]
            made.secrets = [Secret.from_fields(each) for each in fields["secrets"]]
            made.upgrades, made.connects = texts(fields["upgrades"]), texts(fields["connects"])
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"not a rule: {error}") from None
        made.check()
        return made

    def check(self) -> None:
        """Raises PolicyError if fields contradict each other."""
        if not self.name:
            if len(self.base) not in (4, 16) or not 0 <= self.prefix <= len(self.base) * 8:
                raise PolicyError("not a network")
            if not self.is_deny and not self.ports:
                raise PolicyError(f"{self.text()}: a network needs ports, e.g. {self.text()}:443")
            if self.protocol in (TLS, HTTP) or self.is_inspected or self.requests or self.is_real:
                raise PolicyError(
                    f"{self.text()}: only names can be looked for in TLS and HTTP; write a name, or /tcp"
                )
        for low, high in self.ports:
            if not 1 <= low <= high <= 65535:
                raise PolicyError("ports are numbers from 1 to 65535")
        if self.protocol not in ("", *PROTOCOLS) or self.transport not in (0, TCP, UDP):
            raise PolicyError(f"a protocol is one of {', '.join(PROTOCOLS)}")
        if (self.protocol == PLAIN_UDP) != (self.transport == UDP) and self.protocol:
            raise PolicyError("udp is a protocol of its own")
        for kind in self.dns:
            if kind not in DNS_TYPES:
                raise PolicyError(f"dns is some of {', '.join(DNS_TYPES)}")
        self._check_requests()

    def _check_requests(self) -> None:
        """Raises PolicyError."""
        if self.protocol == HTTPS:
            raise PolicyError("https is tls with inspection")
        is_read = self.is_inspected or self.protocol == HTTP or (not self.protocol and self.name)
        if self.protocol in (PLAIN_TCP, PLAIN_UDP) and self.is_inspected:
            raise PolicyError("inspect: only TLS can be inspected")
        if self.requests or self.upgrades or self.connects:
            reads = [self.protocol_at(TCP, port) for low, high in self.ports for port in {low, high}]
            if not is_read or self.is_deny or any(each not in (HTTP, HTTPS) for each in reads):
                raise PolicyError("requests: only plain HTTP and inspected TLS have any; add inspect = true")
        if self.secrets and (not self.is_inspected or self.is_deny):
            raise PolicyError("secrets: they are put in over verified TLS only; add inspect = true")
        if self.secrets and any(
            self.protocol_at(TCP, port) != HTTPS for low, high in self.ports for port in {low, high}
        ):
            raise PolicyError(
                "secrets: they are put in over verified TLS only; leave port 80 to a rule of its own"
            )
        for word in self.upgrades:
            if word not in UPGRADES:
                raise PolicyError(f"upgrade is some of {', '.join(UPGRADES)}")
        for each in self.connects:
            if not _AUTHORITY.fullmatch(each):
                raise PolicyError(f"connect: {each}: write HOST:PORT")


def parse_rule(text: str, *, is_deny: bool = False) -> Rule:
    """HOST[:PORTS][/PROTOCOL] or CIDR:PORTS[/PROTOCOL].  Raises PolicyError."""
    made = Rule(is_deny=is_deny)
    if any(ord(each) < 33 or ord(each) == 127 for each in text):
        raise PolicyError("white space and control characters are not part of a rule")
    body, slash, last = text.rpartition("/")
    if slash and last.lower() in PROTOCOLS:
        made.protocol = last.lower()
        if made.protocol == HTTPS:
            made.protocol, made.is_inspected = TLS, True
    elif slash and not last.isascii():
        raise PolicyError(f"{last}: a protocol is one of {', '.join(PROTOCOLS)}")
    else:
        body = text
    if made.protocol == PLAIN_UDP:
        made.transport = UDP
    if "@" in body or "//" in body:
        raise PolicyError("write a host, not an address of a page")
    host, ports = body, ""
    if body.startswith("["):
        inside, bracket, rest = body[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise PolicyError("write [ADDRESS/PREFIX]:PORT")
        host, ports = f"[{inside}]", rest[1:]
        if rest == ":":
            raise PolicyError("no port after the colon")
    elif ":" in body:
        host, _colon, ports = body.rpartition(":")
        if ":" in host:
            raise PolicyError("write addresses of IPv6 in brackets: [2001:db8::1]:443")
        if not ports:
            raise PolicyError("no port after the colon")
    if ports:
        made.ports = parse_ports(ports)
    _set_host(made, host)
    if made.name and not made.ports and not is_deny:
        if made.transport == UDP:
            raise PolicyError("udp needs ports, e.g. :53/udp")
        made.ports = {TLS: [(443, 443)], HTTP: [(80, 80)]}.get(made.protocol, [(80, 80), (443, 443)])
    if is_deny and not made.protocol:
        made.transport = 0
    made.check()
    return made


def parse_ports(text: str) -> list[tuple[int, int]]:
    """443, 8000-8100, or several with commas.  Raises PolicyError."""
    if not _PORTS.fullmatch(text):
        raise PolicyError(f"{text}: write ports as 443, 8000-8100 or 80,443")
    found: list[tuple[int, int]] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        found.append((int(low), int(high) if dash else int(low)))
        if not 1 <= found[-1][0] <= found[-1][1] <= 65535:
            raise PolicyError(f"{text}: ports are numbers from 1 to 65535")
    return found


def _set_host(rule: Rule, host: str) -> None:
    """Raises PolicyError."""
    try:
        if _NET.fullmatch(host):
            base, slash, prefix = host.strip("[]").partition("/")
            rule.base = parse_address(base)
            most = len(rule.base) * 8
            rule.prefix = int(prefix) if slash else most
            if len(rule.base) == 4 and ":" in base:
                raise PolicyError(f"{host}: write it as an address of IPv4")
            if rule.prefix > most:
                raise PolicyError(f"{host}: a prefix is at most {most}")
            if rule.base != _masked(rule.base, rule.prefix):
                lower = address_text(_masked(rule.base, rule.prefix))
                raise PolicyError(f"{host}: the network begins at {lower}")
            return
        if host.startswith("*."):
            rule.is_wildcard = True
            host = host[2:]
            if "." not in host.removesuffix("."):
                raise PolicyError(f"*.{host}: too many names; write at least two labels after the star")
        if "*" in host:
            raise PolicyError(f"{host}: a star stands for one whole label, the first: *.example.com")
        rule.name = parse_name(host)
    except BadHost as error:
        raise PolicyError(str(error)) from None


def _masked(addr: bytes, prefix: int) -> bytes:
    shift = len(addr) * 8 - prefix
    return (int.from_bytes(addr, "big") >> shift << shift).to_bytes(len(addr), "big")


def _everything() -> Rule:
    made = Rule()
    made.base, made.transport = bytes(4), 0
    made.is_internal = made.is_real = True
    made.dns = list(DNS_TYPES)
    return made


OPEN: Final = _everything()  # the rule that an open policy (`is_open`) has for every connection
_RAW: Final = (PLAIN_TCP, PLAIN_UDP)


def _named(rule: Rule, outer: Rule) -> Rule:
    """A rule for the questions about a name that both rules allow."""
    made = Rule()
    made.name, made.is_wildcard = rule.name, rule.is_wildcard or outer.is_wildcard
    made.is_internal = rule.is_internal and outer.is_internal
    made.is_real = rule.is_real and outer.is_real
    made.dns = [kind for kind in rule.dns if kind in outer.dns]
    return made


def narrowed(rule: Rule, outer: Rule, transport: int, port: int) -> Rule | None:
    """The rule for connections to a port that both rules allow; `rule` narrows `outer`. None: both allow nothing in
    common.
    """
    if outer is OPEN:
        return rule
    if rule is OPEN:
        return outer
    protocol, other = rule.protocol_at(transport, port), outer.protocol_at(transport, port)
    if {protocol, other} == {TLS, HTTPS}:
        protocol = HTTPS
    elif protocol in _RAW:
        protocol = other  # the stricter of the two protocols
    elif protocol != other and other not in _RAW:
        return None
    made = Rule()
    made.name, made.is_wildcard = rule.name, rule.is_wildcard or outer.is_wildcard
    made.base, made.prefix = min((rule.base, rule.prefix), (outer.base, outer.prefix), key=lambda net: net[1])
    made.ports, made.transport = [(port, port)], transport
    made.protocol = TLS if protocol == HTTPS else protocol
    made.is_inspected = protocol == HTTPS
    made.is_internal = rule.is_internal and outer.is_internal
    made.refuses_ech = rule.refuses_ech or outer.refuses_ech
    made.is_real = rule.is_real and outer.is_real
    made.dns = [kind for kind in rule.dns if kind in outer.dns]
    # Requests have to meet both lists; the rules in them stay the same objects, which count requests for rates.
    made.requests = rule.requests or outer.requests
    made.outer_requests = outer.requests if rule.requests else []
    made.upgrades = [each for each in rule.upgrades if each in outer.upgrades]
    made.connects = [each for each in rule.connects if each in outer.connects]
    made.secrets = outer.secrets
    return made


class Verdict:
    """A decision: the rule that allows it, or why none does."""

    def __init__(self, rule: Rule | None, reason: str) -> None:
        self.rule: Rule | None = rule
        self.reason: str = reason

    @property
    def is_allowed(self) -> bool:
        return self.rule is not None


class Policy:
    """All rules of a sandbox."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.resolvers: list[tuple[bytes, int]] = []  # empty: those of the host
        self.synthetic: tuple[bytes, int] = (bytes([198, 18, 0, 0]), 15)
        self.is_open: bool = False  # everything is allowed that is not denied, the host's own network as well
        self.has_aaaa: bool = False  # names have addresses of IPv6, too
        self.authorities: str = ""  # PEM: authorities that inspected connections trust beside the host's
        self.ask_s: int = DEFAULT_ASK_S  # seconds that a request waits for an approval
        self.within: Policy | None = None  # the operator's policy, which must allow a connection as well
        # By ids of rules, which exist as long as their policy
        self._narrowed: dict[tuple[int, int, int, int], Rule | None] = {}

    def copy(self) -> "Policy":
        """A copy that can be changed."""
        made = Policy()
        made.rules = list(self.rules)
        made.resolvers, made.synthetic = self.resolvers, self.synthetic
        made.authorities, made.ask_s, made.has_aaaa = self.authorities, self.ask_s, self.has_aaaa
        made.is_open, made.within = self.is_open, self.within
        return made

    def needs_authority(self) -> bool:
        """Whether TLS is inspected."""
        inner = any(rule.needs_authority() for rule in self.rules)
        return inner or (self.within is not None and self.within.needs_authority())

    def secrets(self) -> list[Secret]:
        """All of them."""
        return [each for rule in self.rules for each in rule.secrets]

    # -- decisions -----------------------------------------------------------------------------------------
    def decide_name(self, name: str, transport: int, port: int) -> Verdict:
        """Whether a connection to a name is allowed; its addresses are checked when they are known."""
        found = self._decide_name(name, transport, port)
        if self.within is None or found.rule is None:
            return found
        return self._narrow(found.rule, self.within.decide_name(name, transport, port), transport, port)

    def decide_address(self, addr: bytes, transport: int, port: int) -> Verdict:
        """Whether a connection to an address that a program named itself is allowed."""
        found = self._decide_address(addr, transport, port)
        if self.within is None or found.rule is None:
            return found
        return self._narrow(found.rule, self.within.decide_address(addr, transport, port), transport, port)

    def _narrow(self, rule: Rule, outer: Verdict, transport: int, port: int) -> Verdict:
        if outer.rule is None:
            return Verdict(
                None, f"by the rules of this host, which those of the sandbox only narrow: {outer.reason}"
            )
        key = (id(rule), id(outer.rule), transport, port)
        if key not in self._narrowed:
            if len(self._narrowed) >= _MAX_NARROWED:
                self._narrowed.clear()
            self._narrowed[key] = narrowed(rule, outer.rule, transport, port)
        made = self._narrowed[key]
        if made is None:
            return Verdict(
                None, f"the rule {rule.text()} is of another kind than that of this host: {outer.rule.text()}"
            )
        return Verdict(made, "")

    def _decide_name(self, name: str, transport: int, port: int) -> Verdict:
        kind = "UDP" if transport == UDP else "TCP"
        found: Rule | None = None
        for rule in self.rules:
            if rule.covers_name(name) and rule.covers_port(transport, port):
                if rule.is_deny:
                    return Verdict(
                        None, f"{kind} port {port} of {name} is denied by the rule: deny {rule.text()}"
                    )
                # The more specific rule is taken: an exact name before a star.
                if found is None or (found.is_wildcard and not rule.is_wildcard):
                    found = rule
        if found is not None or self.is_open:
            return Verdict(found or OPEN, "")
        suffix = "/udp" if transport == UDP else ""
        return Verdict(
            None, f"no rule allows {kind} port {port} of {name}; --allow {name}:{port}{suffix} would"
        )

    def _decide_address(self, addr: bytes, transport: int, port: int) -> Verdict:
        kind = "UDP" if transport == UDP else "TCP"
        shown = address_text(addr)
        denying = self.denies_address(addr, transport, port)
        if denying is not None:
            return Verdict(
                None, f"{kind} port {port} of {shown} is denied by the rule: deny {denying.text()}"
            )
        found = self.grant_of_address(addr, transport, port)
        if found is not None or self.is_open:
            return Verdict(found or OPEN, "")
        literal = f"[{shown}]" if len(addr) == 16 else shown
        suffix = "/udp" if transport == UDP else ""
        what = special_purpose(addr)
        return Verdict(
            None,
            f"no rule allows {kind} port {port} of the address {shown}{f' ({what})' if what else ''};"
            f" connect to a granted name, or --allow {literal}:{port}{suffix} would",
        )

    def denies_address(self, addr: bytes, transport: int, port: int) -> Rule | None:
        """A `deny` rule for an address, which counts for names that lead there, too."""
        for rule in self.rules:
            if rule.is_deny and rule.covers_address(addr) and rule.covers_port(transport, port):
                return rule
        return self.within.denies_address(addr, transport, port) if self.within is not None else None

    def grant_of_address(self, addr: bytes, transport: int, port: int) -> Rule | None:
        """The rule that grants an address itself.

        An address that is not of the public Internet is granted only by a network that lies within its range:
        0.0.0.0/0 does not include loopback, and 169.254.0.0/16 not the metadata service.
        """
        if self.within is not None and self.within.decide_address(addr, transport, port).rule is None:
            return None
        special = special_range(addr)
        for rule in self.rules:
            if rule.is_deny or not rule.covers_address(addr) or not rule.covers_port(transport, port):
                continue
            if special is None or (
                rule.prefix >= special.prefix and is_within(rule.base, special.base, special.prefix)
            ):
                return rule
        return None

    def objection(self, rule: Rule, addr: bytes, transport: int, port: int) -> str:
        """Why the name of `rule` may not lead to this address; empty if it may."""
        denying = self.denies_address(addr, transport, port)
        if denying is not None:
            return f"denied by the rule: deny {denying.text()}"
        what = special_purpose(addr)
        if not what or rule.is_internal or self.grant_of_address(addr, transport, port) is not None:
            return ""
        other = "" if what in OWN else ", or one for the address,"
        return f"{what}; a rule with `internal = true`{other} would allow it"

    def rules_of_name(self, name: str) -> list[Rule]:
        """The rules that grant a name; empty if there are none, or if it is denied altogether."""
        found: list[Rule] = []
        for rule in self.rules:
            if not rule.covers_name(name):
                continue
            if rule.is_deny and not rule.ports and rule.transport == 0:
                return []
            if not rule.is_deny:
                found.append(rule)
        found = found or ([OPEN] if self.is_open else [])
        if self.within is None:
            return found
        outer = self.within.rules_of_name(name)
        if OPEN in outer:
            return found
        return [_named(rule, other) for rule in found for other in outer]

    def is_ancestor(self, name: str) -> bool:
        """Whether a granted name lies below this one: it exists, but has no records."""
        end = "." + name
        if self.within is not None and not (self.within.is_open or self.within.is_ancestor(name)):
            return False
        return any(
            not rule.is_deny
            and rule.name
            and (rule.name.endswith(end) or (rule.is_wildcard and rule.name == name))
            for rule in self.rules
        )

    def has_v6(self) -> bool:
        """Whether an address of IPv6 is granted."""
        return self.has_aaaa or any(not rule.is_deny and len(rule.base) == 16 for rule in self.rules)

    # -- data ----------------------------------------------------------------------------------------------
    def to_fields(self, *, shows_secrets: bool = True) -> dict[str, Any]:
        """As data."""
        return {
            "version": VERSION,
            "rules": [rule.to_fields(shows_secrets=shows_secrets) for rule in self.rules],
            "authorities": self.authorities,
            "ask_s": self.ask_s,
            "aaaa": self.has_aaaa,
            "open": self.is_open,
            "resolvers": [[addr, port] for addr, port in self.resolvers],
            "synthetic": list(self.synthetic),
            "within": self.within.to_fields(shows_secrets=shows_secrets) if self.within is not None else None,
        }

    @staticmethod
    def from_fields(fields: object) -> "Policy":
        """The inverse.  Raises PolicyError."""
        if not isinstance(fields, dict) or fields.get("version") != VERSION:
            raise PolicyError("a policy of another version")
        made = Policy()
        try:
            rules = list(fields["rules"])
            if len(rules) > MAX_RULES:
                raise PolicyError(f"more than {MAX_RULES} rules")
            made.rules = [Rule.from_fields(each) for each in rules]
            made.resolvers = [(bytes(addr), int(port)) for addr, port in fields["resolvers"]]
            base, prefix = fields["synthetic"]
            made.synthetic = (bytes(base), int(prefix))
            made.authorities, made.ask_s = str(fields["authorities"]), int(fields["ask_s"])
            made.has_aaaa, made.is_open = bool(fields["aaaa"]), bool(fields["open"])
            if fields["within"] is not None:
                made.within = Policy.from_fields(fields["within"])
                if made.within.within is not None:
                    raise PolicyError("a policy within a policy within a policy")
        except (KeyError, TypeError) as error:
            raise PolicyError(f"not a policy: {error}") from None
        made.check()
        return made

    def check(self) -> None:
        """Raises PolicyError if rules contradict each other."""
        if not 1 <= self.ask_s <= MAX_ASK_S:
            raise PolicyError(f"ask_seconds is a number from 1 to {MAX_ASK_S}")
        base, prefix = self.synthetic
        if len(base) != 4 or not 8 <= prefix <= 22 or base != _masked(base, prefix):
            raise PolicyError("synthetic addresses are a network of IPv4, from /8 to /22")
        for rule in self.rules:
            if not rule.is_deny and not rule.name and len(rule.base) == 4:
                shorter = min(prefix, rule.prefix)
                if is_within(rule.base, _masked(base, shorter), shorter) and rule.prefix >= prefix:
                    raise PolicyError(
                        f"{rule.text()}: these addresses stand for names; choose others with `synthetic`"
                    )
