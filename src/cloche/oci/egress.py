"""Rules for what a container may connect to (docs/egress.md, "Containers of engines").

Without rules its connections leave from its network namespace, as with runc. The runtime's flag `--egress FILE` is
the operator's policy for all containers; the annotation `dev.cloche.egress` comes from the container's author. It can
only narrow the operator's policy; without that, it narrows what the namespace allows.
"""

import os
from typing import TYPE_CHECKING, Any, Final

from cloche.boot.spec import EgressSpec
from cloche.oci.errors import OciError
from cloche.wire.cbor import decode, encode

if TYPE_CHECKING:
    from cloche.oci.spec import Bundle

__all__ = ["ANNOTATION", "check_joined", "complete", "egress_of", "packed", "unpacked"]

ANNOTATION: Final = "dev.cloche.egress"
LOG: Final = "egress.log"  # in the container's directory; its second half ends in .1
_RESOLV_CONF: Final = "/etc/resolv.conf"
_MAX_RESOLVERS: Final = 3  # resolv.conf(5)
_MAX_BYTES: Final = 65536


def egress_of(bundle: "Bundle", ident: str, flag: str) -> EgressSpec | None:
    """The settings for egress; None: the container has none. Raises OciError."""
    asked = bundle.annotations.get(ANNOTATION)
    if not flag and asked is None:
        return None
    from cloche.egress.netfile import read_annotation, read_file  # most containers do without
    from cloche.egress.policy import Policy, PolicyError

    policy = Policy()
    where = "--egress"
    try:
        if flag:
            read_file(flag, policy, knows_environment=False)
            policy.check()
        else:
            policy.is_open = True
        secrets = policy.secrets()
        if asked is not None:
            where = f"annotation {ANNOTATION}"
            policy = read_annotation(asked, policy)
    except PolicyError as error:
        raise OciError(f"{where}: {error}") from None
    made = EgressSpec(encode(policy.to_fields()))
    made.sandbox = ident
    made.needs_authority = policy.needs_authority()
    made.placeholders = {secret.name: secret.placeholder for secret in secrets}
    if made.needs_authority and not any(
        mount.destination == "/dev" and not mount.is_bind for mount in bundle.mounts
    ):
        raise OciError(f"{where}: inspected TLS needs a container with a /dev of its own")
    sources = [mount.source for mount in bundle.mounts if mount.destination == _RESOLV_CONF]
    made.resolv_conf = sources[-1] if sources else ""
    return made


def packed(spec: EgressSpec) -> tuple[bytes, str, str, bool, dict[str, str]]:
    """The settings as `marshal` takes them, for the monitor."""
    return spec.policy, spec.sandbox, spec.resolv_conf, spec.needs_authority, spec.placeholders


def unpacked(row: Any) -> EgressSpec:
    """The inverse of `packed`."""
    made = EgressSpec(row[0])
    made.sandbox, made.resolv_conf, made.needs_authority, made.placeholders = row[1:]
    return made


def check_joined(asked: dict[str, str], first: dict[str, str]) -> None:
    """Refuse a container that would join a pod and asks for rules that the pod has not: its network is the pod's.

    Given the annotations of both.  Raises OciError.
    """
    if ANNOTATION in asked and asked[ANNOTATION] != first.get(ANNOTATION):
        raise OciError(
            f"annotation {ANNOTATION}: the network is that of the pod, whose rules are others; annotate the pod"
        )


def complete(spec: EgressSpec, folder: str) -> None:
    """Fill in what is known only after the engine's hooks have set the network up. Raises OSError.

    The resolvers are those that the engine has given the container, unless the operator's rules name others; egress
    asks them from the container's namespace.
    """
    fields = decode(spec.policy)
    if spec.resolv_conf and isinstance(fields, dict) and not fields["resolvers"]:
        fields["resolvers"] = _resolvers(spec.resolv_conf)
        spec.policy = encode(fields)
    _open_logs(spec, folder)


def _resolvers(path: str) -> list[list[object]]:
    """resolv.conf(5)."""
    from cloche.egress.hosts import BadHost, parse_address

    found: list[list[object]] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read(_MAX_BYTES).splitlines()
    for line in lines:
        words = line.replace(";", "#").partition("#")[0].split()
        if len(words) == 2 and words[0] == "nameserver" and len(found) < _MAX_RESOLVERS:
            try:
                found.append([parse_address(words[1]), 53])
            except BadHost:
                continue
    return found


def _open_logs(spec: EgressSpec, folder: str) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    path = os.path.join(folder, LOG)
    spec.log_fd = os.open(path, flags | os.O_APPEND, 0o600)
    spec.second_log_fd = os.open(path + ".1", flags, 0o600)
