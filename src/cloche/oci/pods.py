"""Containers that join the sandbox of another: pods, as the annotations of Kubernetes' engines say, and whoever names
another's pid and network namespaces by their paths.

containerd's CRI and CRI-O mark the containers of a pod: one is the sandbox, and the others name it. All of them share
one kernel, that of the sandbox's container, whose monitor serves them all: each has its anchor, gofer, control groups
and limits, and shares those namespaces inside that its anchor shares on the host. Where they name something that is not
a container of this runtime (Podman names its pod) they have no effect. Without them a container has a kernel of its
own, unless its bundle names the pid namespace of a running container of these records, and the same network namespace
(`docker run --pid container:X --network container:X`).
"""

import os
from typing import Final

from cloche.boot.spec import HOST, SandboxSpec, to_fields
from cloche.oci.anchor import Anchor, namespace_file
from cloche.oci.begin import PLATFORM_ANNOTATION, POD_CONTAINER, POD_MARKS
from cloche.oci.egress import ANNOTATION as EGRESS_ANNOTATION
from cloche.oci.errors import OciError
from cloche.oci.messages import JOIN
from cloche.oci.records import CREATED, RUNNING, Record, load, names
from cloche.oci.spec import Bundle
from cloche.oci.userns import describe
from cloche.oci.uts import host_name
from cloche.wire import requests
from cloche.wire.control_client import ControlClient

__all__ = ["join", "sandbox_of"]

_SANDBOX: Final = "sandbox"
# Kinds of namespaces on the host, and their names inside; pid namespaces are looked for separately, before these.
_SHARED: Final = (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))


def sandbox_of(root: str, bundle: Bundle) -> Record | None:
    """The container whose sandbox this one is to join; None: it has its own.  Raises OciError if that has ended."""
    for kind, ident in POD_MARKS:
        if bundle.annotations.get(kind) != POD_CONTAINER:
            continue
        try:
            found = load(root, bundle.annotations.get(ident, ""))
        except OciError:
            return None
        if found.annotations.get(kind) != _SANDBOX:
            return None
        if not found.has_monitor() or not found.has_anchor():
            raise OciError(f"the sandbox {found.ident} of this container's pod is not running")
        return found
    return _sandbox_by_paths(root, bundle)


def _sandbox_by_paths(root: str, bundle: Bundle) -> Record | None:
    path = bundle.namespaces.get("pid")
    if not path:
        return None
    try:
        processes, network = _identity(path), _identity(bundle.namespaces.get("network", "/proc/self/ns/net"))
    except OSError:
        return None  # of a path that is wrong, or of a new network namespace
    for name in names(root):
        try:
            found = load(root, name)
            if found.status() != RUNNING or _identity(f"/proc/{found.pid}/ns/pid") != processes:
                continue
            sandbox = load(root, found.sandbox) if found.sandbox else found
            is_there = sandbox.has_monitor() and sandbox.has_anchor()
            for key in (EGRESS_ANNOTATION, PLATFORM_ANNOTATION):
                if bundle.annotations.get(key) not in (None, sandbox.annotations.get(key)):
                    is_there = False  # the network's rules and the platform are the sandbox's
            if is_there and _identity(f"/proc/{sandbox.pid}/ns/net") == network:
                return sandbox
        except (OSError, OciError):
            continue  # removed meanwhile
    return None


def _namespace(pid: int, kind: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{namespace_file(kind)}")
    except OSError:
        return ""


def _shared(record: Record, sandbox: Record, pid: int) -> tuple[str, list[str]]:
    """The container of the pod with which the container of anchor `pid` shares its pid namespace, and the kinds of
    namespaces that it shares. Raises OciError.
    """
    if _namespace(pid, "network") != _namespace(sandbox.pid, "network"):
        raise OciError("the containers of a pod have one network namespace, and this one has another")
    own = _namespace(pid, "pid")
    others = [each for each in _members(sandbox) if each.ident != record.ident]
    sharing = [each for each in (sandbox, *others) if _namespace(each.pid, "pid") == own]
    other = sharing[0] if sharing else sandbox
    kinds = ["pid"] if sharing else []
    if sharing and other.status() == CREATED:
        raise OciError(f"container {other.ident}, whose processes this one shares, has not been started")
    kinds += [inside for kind, inside in _SHARED if _namespace(pid, kind) == _namespace(other.pid, kind)]
    return requests.MAIN if other is sandbox else other.ident, kinds


def _members(sandbox: Record) -> list[Record]:
    """The containers that have joined."""
    found: list[Record] = []
    for name in names(sandbox.root):
        try:
            each = load(sandbox.root, name)
        except OciError:
            continue  # removed meanwhile
        if each.sandbox == sandbox.ident and each.has_anchor():
            found.append(each)
    return found


def _identity(path: str) -> bytes:
    """The identity of a directory or namespace, the same for every path to it. Raises OSError."""
    status = os.stat(path)
    return b"%d:%d" % (status.st_dev, status.st_ino)


def join(
    record: Record, sandbox: Record, anchor: Anchor, sock: int, spec: SandboxSpec, streams: list[int]
) -> None:
    """Have the sandbox's monitor make the container; `sock` is its end of the anchor's socket.

    Raises OciError, ControlError.
    """
    other, kinds = _shared(record, sandbox, anchor.pid)
    if spec.uid_map:
        describe(spec, anchor.pid)
    for mount in spec.mounts:
        # Containers in different user namespaces, and id-mapped mounts, have gofers of their own.
        if mount.kind == HOST and not mount.is_file and not mount.uid_map:
            view = (b":flat" if mount.is_flat else b"") + (b":private" if mount.is_private else b"")
            view += b":sockets" if mount.shows_sockets else b""
            mount.volume = _identity(mount.source) + spec.user_ns_name + view
    spec.hostname = spec.hostname or host_name(anchor.pid)
    client = ControlClient(record.connect())
    try:
        given = [fd for fd in streams if fd >= 0]
        fields = {
            "container": record.ident,
            "root": os.fsencode(os.path.abspath(record.root)),
            "spec": to_fields(spec),
            "groups": [os.fsencode(path) for path in record.groups],
            "share": kinds,
            "share_with": other,
            "streams": [number for number, fd in enumerate(streams) if fd >= 0],
            "pid": anchor.pid,
        }
        client.answer(client.ask(JOIN, fields, [*given, sock]))
    finally:
        client.close()
