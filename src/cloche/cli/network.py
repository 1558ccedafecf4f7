"""The network options of `cloche run`: rules from the command line and from files become a policy for egress."""

import argparse
import os

from cloche.boot.spec import EgressSpec, SandboxSpec
from cloche.boot.view import RESOLV_CONF, resolv_conf
from cloche.cli.options import UsageError
from cloche.cli.trust import prepare_trust
from cloche.egress.names import SyntheticNames
from cloche.egress.netfile import add_document, read_file, resolver
from cloche.egress.policy import Policy, PolicyError, parse_rule
from cloche.wire.cbor import encode

_OWN6 = bytes.fromhex("fd636c6f636865000000000000000001")  # a unique local address (RFC 4193)


def policy_of(options: argparse.Namespace) -> Policy:
    """The policy that the options ask for. Raises UsageError."""
    made = Policy()
    option = ""
    document = getattr(options, "net_document", None)  # rules of the SDK
    made.is_open = bool(getattr(options, "net_without_limits", False))
    try:
        if document:
            add_document(document, made)
        for option in options.net:
            read_file(option, made)
        for option in options.deny:
            made.rules.append(parse_rule(option, is_deny=True))
        for option in options.allow:
            made.rules.append(parse_rule(option))
        for option in getattr(options, "dns", []):
            made.resolvers.append(resolver(option))
        option = ""
        made.check()
    except PolicyError as error:
        text = str(error)
        raise UsageError(text if text.startswith(option) or not option else f"{option}: {text}") from None
    return made


def network(spec: SandboxSpec, options: argparse.Namespace) -> None:
    """Give the sandbox a network through egress, if the options ask for it. Raises UsageError."""
    made = policy_of(options)
    names = SyntheticNames(made.synthetic[0], made.synthetic[1])
    spec.egress = egress = EgressSpec(encode(made.to_fields()))
    spec.net_address, spec.net_resolver = names.own(), names.resolver()
    if made.has_v6() or made.is_open:
        spec.net_address6 = _OWN6
    egress.wants_report = options.net_report
    spec.files = [row for row in spec.files if row[0] != RESOLV_CONF]
    spec.files.append((RESOLV_CONF, resolv_conf(spec), 0o644))
    if spec.root_source:
        _make_room(spec)
    if made.needs_authority():
        prepare_trust(spec)
    for secret in made.secrets():
        spec.env[secret.name.encode()] = secret.placeholder.encode()
    if options.net_log:
        try:
            egress.log_fd = _open_log(options.net_log, os.O_APPEND)
            egress.second_log_fd = _open_log(options.net_log + ".1", 0)
        except OSError as error:
            raise UsageError(f"--net-log {options.net_log}: {error.strerror}") from None


def _make_room(spec: SandboxSpec) -> None:
    """Prepare /etc/resolv.conf: an image may have no /etc, or a resolv.conf that is a link to a file that a service
    would make.
    """
    folders = ["/etc"]
    try:
        target = os.readlink(os.path.join(spec.root_source, "etc/resolv.conf"))
        folders.append(os.path.dirname(os.path.normpath(os.path.join("/etc", target))))
    except OSError:
        pass  # a file, or nothing
    for folder in folders:
        if folder != "/":
            spec.late_directories.append((os.fsencode(folder), 0o755, 0, 0))


def _open_log(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
