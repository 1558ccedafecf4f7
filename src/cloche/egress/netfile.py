"""Files of rules (`cloche run --net FILE`): TOML, validated by msgspec; every error names file, line and key.

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
    address = "real"                    # programs see the name's own addresses
    inspect = true                      # TLS is ended in egress, and every request looked at

    [[allow.requests]]                  # which; without any: all
    methods = ["GET"]
    paths = ["/repos/**"]

    [[allow.secrets]]
    name = "TOKEN"                      # a variable inside, with a placeholder
    from = "env:TOKEN"                  # or file:PATH
    header = "authorization"

    [[deny]]
    host = "bad.example.com"

Presets are such files beside this module.  Read by the command only, never by the egress process.
"""

import os
import re
import tomllib
from typing import Annotated, Any, Final

import msgspec

from cloche.egress.fieldtypes import FieldError
from cloche.egress.hosts import BadHost, parse_address
from cloche.egress.policy import DEFAULT_ASK_S, MAX_ASK_S, Policy, PolicyError, Rule, parse_rule
from cloche.egress.requestrules import RequestRule, Secret

__all__ = ["PRESETS", "add_document", "read_annotation", "read_file", "resolver"]

PRESETS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "presets")
MAX_ANNOTATION_RULES: Final = 1000
_MAX_BYTES: Final = 1 << 20
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Size = Annotated[int, msgspec.Meta(ge=-1, le=1 << 50)]
_STEP: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[([0-9]+)\]")


class _Deny(msgspec.Struct, forbid_unknown_fields=True):
    host: str = ""
    address: str = ""  # of an `allow` with a host: "real"
    ports: list[_Port | str] = []
    protocol: str = ""
    reason: str = ""  # for readers


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    deny: bool = False
    methods: list[str] = []
    paths: list[str] = []
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    content_types: list[str] = []
    max_body: _Size = -1
    max_response: _Size = -1
    rate: str = ""
    ask: str = ""
    reason: str = ""  # for readers


class _Secret(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    source: str = msgspec.field(name="from")
    header: str = ""
    query: str = ""
    field: str = ""


class _Allow(_Deny, forbid_unknown_fields=True):
    internal: bool = False
    ech: str = "pass"
    dns: list[str] = []
    inspect: bool = False
    upgrade: list[str] = []
    connect: list[str] = []
    requests: list[_Request] = []
    secrets: list[_Secret] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    resolvers: list[str] = []
    synthetic: str = ""
    aaaa: bool = False  # names have synthetic addresses of IPv6, too
    # files of PEM with authorities that inspected connections trust beside the host's
    authorities: list[str] = []
    ask_seconds: Annotated[int, msgspec.Meta(ge=1, le=MAX_ASK_S)] = DEFAULT_ASK_S
    allow: list[_Allow] = []
    deny: list[_Deny] = []


class _Complaint(PolicyError):
    """An error, with the key as msgspec writes it."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path: str = path


def read_file(name: str, policy: Policy, *, knows_environment: bool = True) -> None:
    """Add the rules of a file or a preset to a policy.  Raises PolicyError in one line.

    `knows_environment`: the variables belong to the author of the rules, so secrets may come from there.
    """
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
        found = _converted(fields)
        if not knows_environment:
            _refuse_variables(found)
        _add(found, policy, os.path.dirname(os.path.abspath(path)))
    except _Complaint as complaint:
        line, key = _locate(text, complaint.path)
        raise PolicyError(f"{name}: line {line}, {key}: {complaint}") from None


def _refuse_variables(found: _File) -> None:
    """Raises _Complaint."""
    for index, row in enumerate(found.allow):
        for number, secret in enumerate(row.secrets):
            if secret.source.startswith("env:"):
                raise _Complaint(
                    f".allow[{index}].secrets[{number}].from",
                    f"{secret.source}: a runtime has the variables of its engine; write file:PATH",
                )


def add_document(fields: object, policy: Policy) -> None:
    """Add rules of the SDK: the data of a file, with the values of secrets in it.  Raises PolicyError in one line."""
    try:
        _add(_converted(fields), policy, "")
    except _Complaint as complaint:
        raise PolicyError(f"network: {complaint.path.lstrip('.')}: {complaint}") from None


def read_annotation(text: str, operator: Policy) -> Policy:
    """The policy that a container asks for, within its operator's.  Raises PolicyError in one line.

    TOML as in a file, or rules as on a command line with white space between. It was written by the author of the
    pod, so it must not name a file or variable of the host, or a resolver.
    """
    made = Policy()
    if "=" not in text:
        for word in text.split():
            try:
                made.rules.append(parse_rule(word))
            except PolicyError as error:
                raise PolicyError(f"{word}: {error}") from None
    else:
        try:
            found = _converted(tomllib.loads(text))
            if found.resolvers or found.authorities or found.synthetic or found.aaaa:
                raise _Complaint("", "resolvers, authorities, synthetic and aaaa are for the operator to say")
            for index, row in enumerate(found.allow):
                if row.secrets:
                    raise _Complaint(
                        f".allow[{index}].secrets", "secrets are for the operator to give (--egress)"
                    )
            _add(found, made, "")
        except tomllib.TOMLDecodeError as unread:
            raise PolicyError(str(unread)) from None
        except _Complaint as complaint:
            line, key = _locate(text, complaint.path)
            raise PolicyError(f"line {line}, {key}: {complaint}") from None
    if len(made.rules) > MAX_ANNOTATION_RULES:
        raise PolicyError(f"more than {MAX_ANNOTATION_RULES} rules")
    made.resolvers, made.synthetic, made.has_aaaa = operator.resolvers, operator.synthetic, operator.has_aaaa
    made.authorities = operator.authorities
    if made.ask_s == DEFAULT_ASK_S:
        made.ask_s = operator.ask_s
    made.within = operator
    made.check()
    return made


def _converted(fields: object) -> _File:
    """Raises _Complaint."""
    try:
        return msgspec.convert(fields, _File)
    except msgspec.ValidationError as invalid:
        what, _at, where = str(invalid).partition(" - at `$")
        unknown = re.search(r"unknown field `([^`]*)`", what)
        raise _Complaint(where.rstrip("`") + (f".{unknown[1]}" if unknown else ""), what) from None


def _add(found: _File, policy: Policy, folder: str) -> None:
    policy.has_aaaa = policy.has_aaaa or found.aaaa
    if found.ask_seconds != DEFAULT_ASK_S:
        policy.ask_s = found.ask_seconds
    for index, text in enumerate(found.authorities):
        try:
            policy.authorities += _text_of(os.path.join(folder, text)) + "\n"
            if "-----BEGIN CERTIFICATE-----" not in policy.authorities:
                raise PolicyError(f"{text}: no certificates (PEM) in it")
        except PolicyError as error:
            raise _Complaint(f".authorities[{index}]", str(error)) from None
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
            policy.rules.append(_rule(row, f".{kind}[{index}]", folder))


def _text_of(path: str) -> str:
    """A small file of ASCII.  Raises PolicyError."""
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES).decode("ascii")
    except OSError as failure:
        raise PolicyError(f"{path}: {failure.strerror}") from None
    except UnicodeDecodeError:
        raise PolicyError(f"{path}: not ASCII") from None


def _request(row: _Request) -> RequestRule:
    """Raises FieldError."""
    made = RequestRule()
    made.is_deny = row.deny
    made.methods, made.paths = row.methods, row.paths
    made.headers = [(name.lower(), pattern) for name, pattern in row.headers.items()]
    made.query = list(row.query.items())
    made.content_types = [each.lower() for each in row.content_types]
    made.max_body, made.max_response = row.max_body, row.max_response
    made.rate, made.ask = row.rate, row.ask
    made.check()
    return made


def _secret(row: _Secret, folder: str) -> Secret:
    """Raises FieldError."""
    made = Secret()
    made.name, made.header, made.query, made.field = row.name, row.header.lower(), row.query, row.field
    kind, _colon, where = row.source.partition(":")
    if kind == "env":
        made.value = os.environ.get(where, "")
        if not made.value:
            raise FieldError("from", f"{row.source}: this variable is not set")
    elif kind == "value" and not folder:  # for the SDK only; in a file the value would be no secret
        made.value = where
    elif kind == "file":
        try:
            made.value = _text_of(os.path.join(folder, where)).strip()
        except PolicyError as error:
            raise FieldError("from", str(error)) from None
    else:
        raise FieldError("from", f"{row.source}: write env:VARIABLE or file:PATH")
    made.placeholder = new_placeholder(row.name)
    made.check()
    return made


def new_placeholder(name: str) -> str:
    """A placeholder for a secret: it cannot be guessed, and has no use elsewhere."""
    return f"cloche-{name.lower().replace('_', '-')[:32]}-{os.urandom(12).hex()}"


def _rule(row: _Deny, path: str, folder: str) -> Rule:
    is_deny = not isinstance(row, _Allow)
    is_real = isinstance(row, _Allow) and bool(row.host) and row.address == "real"
    if bool(row.host) == bool(row.address) and not is_real:
        raise _Complaint(path, "a rule has a `host` or an `address`, and not both")
    step = path
    key = ".host" if row.host else ".address"
    where = row.host or (f"[{row.address}]" if ":" in row.address else row.address)
    if row.host and any(each in row.host for each in ":/["):
        raise _Complaint(path + key, "a host is a name; write ports as `ports`, networks as `address`")
    try:
        text = where
        ports = row.ports
        if not ports and isinstance(row, _Allow) and row.inspect and not row.protocol and row.host:
            ports = [443]
        if ports:
            text += ":" + ",".join([str(port) for port in ports])
        if row.protocol:
            text += f"/{row.protocol}"
        made = parse_rule(text, is_deny=is_deny)
        if bool(made.name) != bool(row.host):
            raise PolicyError("an address is not a host" if row.host else "not an address")
        if row.protocol and not made.protocol:
            raise PolicyError("a protocol is tls, http, https, tcp or udp")
        if isinstance(row, _Allow):
            if row.ech not in ("pass", "refuse"):
                raise _Complaint(f"{path}.ech", 'write "pass" or "refuse"')
            made.is_internal, made.refuses_ech, made.dns = row.internal, row.ech == "refuse", row.dns
            made.is_inspected = made.is_inspected or row.inspect
            made.is_real = is_real
            made.upgrades, made.connects = row.upgrade, [each.lower() for each in row.connect]
            for index, each in enumerate(row.requests):
                step = f"{path}.requests[{index}]"
                made.requests.append(_request(each))
            for index, one in enumerate(row.secrets):
                step = f"{path}.secrets[{index}]"
                made.secrets.append(_secret(one, folder))
        made.check()
        return made
    except _Complaint:
        raise
    except FieldError as field:
        raise _Complaint(f"{step}.{field.key}", str(field)) from None
    except PolicyError as error:
        text = str(error)
        if "port" in text and row.ports:
            key = ".ports"
        elif "protocol" in text and row.protocol:
            key = ".protocol"
        for word in ("dns", "inspect", "requests", "secrets", "upgrade", "connect"):
            if text.startswith((f"{word} ", f"{word}:")):
                key = f".{word}"
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
    """The line of a key like `.allow[1].ports[0]`, and its name for an error message."""
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
            inner = [step for step in steps[2:] if step[1]]
            if len(names) > 1 and inner:  # of a table within it
                end = heads[wanted + 1] if wanted + 1 < len(heads) else len(lines)
                head = re.compile(r"\s*\[\[\s*" + table + r"\s*\.\s*" + names[0] + r"\s*\]\]\s*(#.*)?")
                below = [number for number in range(begin, end) if head.fullmatch(lines[number])]
                if int(inner[0][1]) < len(below):
                    begin = below[int(inner[0][1])]
                    names = names[1:]
    if names:
        for number in range(begin, len(lines)):
            if number > begin and table and re.match(r"\s*\[", lines[number]):
                break
            if re.match(r"\s*[\"']?" + re.escape(names[0]) + r"[\"']?\s*=", lines[number]):
                return number + 1, key
    return begin + 1, key
