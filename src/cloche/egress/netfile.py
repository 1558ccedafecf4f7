"""Files of rules (`cloche run --net FILE`): TOML, validated by msgspec; every complaint names file, line and key.

    version = 1
    resolvers = ["192.0.2.53"]          # instead of the host's
    synthetic = "198.18.0.0/15"         # addresses that stand for names

    [[allow]]
    host = "*.example.com"              # or address = "10.0.0.0/8"
    ports = [443, "8000-8100"]
    protocol = "tls"                    # tls, http, tcp, udp; by default by the port
    internal = true                     # it may lead to private addresses
    ech = "refuse"
    dns = ["SRV", "MX", "TXT"]

    [[deny]]
    host = "bad.example.com"

Presets are such files beside this module.  Read by the command only, never by the egress process.
"""

import os
import re
import tomllib
from typing import Annotated, Any, Final

import msgspec

from cloche.egress.hosts import BadHost, parse_address
from cloche.egress.policy import Policy, PolicyError, Rule, parse_rule

__all__ = ["PRESETS", "read_file", "resolver"]

PRESETS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "presets")
_MAX_BYTES: Final = 1 << 20
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_STEP: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[([0-9]+)\]")


class _Deny(msgspec.Struct, forbid_unknown_fields=True):
    host: str = ""
    address: str = ""
    ports: list[_Port | str] = []
    protocol: str = ""
    reason: str = ""  # for readers


class _Allow(_Deny, forbid_unknown_fields=True):
    internal: bool = False
    ech: str = "pass"
    dns: list[str] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    resolvers: list[str] = []
    synthetic: str = ""
    allow: list[_Allow] = []
    deny: list[_Deny] = []


class _Complaint(PolicyError):
    """What is wrong, and with which key (as msgspec writes it)."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path: str = path


def read_file(name: str, policy: Policy) -> None:
    """Add what a file or a preset says to a policy.  Raises PolicyError in one line."""
    path = name
    preset = os.path.join(PRESETS, f"{name}.toml")
    if "/" not in name and not os.path.exists(name) and os.path.exists(preset):
        path = preset
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as failure:
        known = ", ".join(sorted([each[:-5] for each in os.listdir(PRESETS) if each.endswith(".toml")]))
        raise PolicyError(f"{name}: {failure.strerror}; presets are {known}") from None
    if len(raw) > _MAX_BYTES:
        raise PolicyError(f"{name}: longer than a file of rules may be")
    try:
        text = raw.decode()
        fields: dict[str, Any] = tomllib.loads(text)
    except UnicodeDecodeError as odd:
        raise PolicyError(f"{name}: not UTF-8 in line {raw[: odd.start].count(bytes([10])) + 1}") from None
    except tomllib.TOMLDecodeError as unread:
        raise PolicyError(f"{name}: {unread}") from None
    try:
        try:
            found = msgspec.convert(fields, _File)
        except msgspec.ValidationError as invalid:
            what, _at, where = str(invalid).partition(" - at `$")
            unknown = re.search(r"unknown field `([^`]*)`", what)
            raise _Complaint(where.rstrip("`") + (f".{unknown[1]}" if unknown else ""), what) from None
        _add(found, policy)
    except _Complaint as complaint:
        line, key = _locate(text, complaint.path)
        raise PolicyError(f"{name}: line {line}, {key}: {complaint}") from None


def _add(found: _File, policy: Policy) -> None:
    for index, text in enumerate(found.resolvers):
        try:
            policy.resolvers.append(resolver(text))
        except PolicyError as error:
            raise _Complaint(f".resolvers[{index}]", str(error)) from None
    if found.synthetic:
        try:
            network = parse_rule(f"{found.synthetic}:1")
            policy.synthetic = (network.base, network.prefix)
            if network.name:
                raise PolicyError("not a network")
            policy.check()
        except PolicyError as error:
            raise _Complaint(".synthetic", str(error)) from None
    for kind, rows in (("deny", found.deny), ("allow", found.allow)):
        for index, row in enumerate(rows):
            policy.rules.append(_rule(row, f".{kind}[{index}]"))


def _rule(row: _Deny, path: str) -> Rule:
    is_deny = not isinstance(row, _Allow)
    if bool(row.host) == bool(row.address):
        raise _Complaint(path, "a rule has a `host` or an `address`, and not both")
    key = ".host" if row.host else ".address"
    where = row.host or (f"[{row.address}]" if ":" in row.address else row.address)
    if row.host and any(each in row.host for each in ":/["):
        raise _Complaint(path + key, "a host is a name; write ports as `ports`, networks as `address`")
    try:
        text = where
        if row.ports:
            text += ":" + ",".join([str(port) for port in row.ports])
        if row.protocol:
            text += f"/{row.protocol}"
        made = parse_rule(text, is_deny=is_deny)
        if bool(made.name) != bool(row.host):
            raise PolicyError("an address is not a host" if row.host else "not an address")
        if row.protocol and not made.protocol:
            raise PolicyError("a protocol is tls, http, tcp or udp")
        if isinstance(row, _Allow):
            if row.ech not in ("pass", "refuse"):
                raise _Complaint(f"{path}.ech", 'write "pass" or "refuse"')
            made.is_internal, made.refuses_ech, made.dns = row.internal, row.ech == "refuse", row.dns
        made.check()
        return made
    except _Complaint:
        raise
    except PolicyError as error:
        text = str(error)
        if "port" in text and row.ports:
            key = ".ports"
        elif "protocol" in text and row.protocol:
            key = ".protocol"
        elif text.startswith("dns "):
            key = ".dns"
        raise _Complaint(path + key, text) from None


def resolver(text: str) -> tuple[bytes, int]:
    """ADDRESS or ADDRESS:PORT, IPv6 in brackets with a port.  Raises PolicyError."""
    host, port = text, "53"
    match = re.fullmatch(r"\[([^]]*)\]:([0-9]{1,5})|([0-9.]+):([0-9]{1,5})", text, re.ASCII)
    if match is not None:
        host, port = match[1] or match[3], match[2] or match[4]
    try:
        if not 1 <= int(port) <= 65535:
            raise BadHost("not a port")
        return parse_address(host), int(port)
    except BadHost as error:
        raise PolicyError(f"{text}: a resolver is an address, or ADDRESS:PORT ({error})") from None


def _locate(text: str, path: str) -> tuple[int, str]:
    """The line of a key like `.allow[1].ports[0]`, and how a person would call it."""
    steps = [(match[1], match[2]) for match in _STEP.finditer(path)]
    names = [name for name, _index in steps if name]
    key = ".".join(names) or "the file"
    lines = text.splitlines()
    begin = 0
    table = names[0] if names and len(steps) > 1 and steps[1][1] else ""
    if table in ("allow", "deny"):
        wanted = int(steps[1][1])
        heads = [
            number
            for number, line in enumerate(lines)
            if re.fullmatch(r"\s*\[\[\s*" + table + r"\s*\]\]\s*(#.*)?", line)
        ]
        if wanted < len(heads):
            begin = heads[wanted]
            key = f"{table} {wanted + 1}" + ("." + ".".join(names[1:]) if len(names) > 1 else "")
            names = names[1:]
    if names:
        for number in range(begin, len(lines)):
            if number > begin and table and re.match(r"\s*\[", lines[number]):
                break
            if re.match(r"\s*[\"']?" + re.escape(names[0]) + r"[\"']?\s*=", lines[number]):
                return number + 1, key
    return begin + 1, key
