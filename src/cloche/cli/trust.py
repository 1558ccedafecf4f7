"""How programs in a sandbox come to believe the authority of their egress: files and variables of the sandbox alone.

The bundle is the one of the system that they see (of the image, or of the host) with the sandbox's authority added.  It
stands where systems keep theirs, and at a path of its own, which the variables name that programs read.
"""

import base64
import os
import re
import struct
import time
from hashlib import sha1
from typing import Final

from cloche.boot.spec import SandboxSpec

__all__ = ["prepare_trust"]

FOLDER: Final = "/etc/cloche"
BUNDLE: Final = FOLDER + "/ca-bundle.pem"
AUTHORITY: Final = FOLDER + "/ca.pem"
JAVA_STORE: Final = FOLDER + "/cacerts"
_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch, Go
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)
_SYSTEM_JAVA_STORE: Final = "/etc/ssl/certs/java/cacerts"
_JAVA_PASSWORD: Final = "changeit"  # of every such store: it keeps nothing secret
_MAX_BYTES: Final = 4 << 20
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
# Each replaces what a program would believe otherwise, so it names the whole bundle.
_VARIABLES: Final = (
    "SSL_CERT_FILE",  # OpenSSL, Python, Go, Ruby, uv
    "REQUESTS_CA_BUNDLE",  # Python's requests
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
)
# These add to it.
_MORE: Final = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")


def prepare_trust(spec: SandboxSpec) -> None:
    """Set the variables now, and put the files there when the authority is known."""
    assert spec.egress is not None
    for name in _VARIABLES:
        spec.env[name.encode()] = BUNDLE.encode()
    for name in _MORE:
        spec.env[name.encode()] = AUTHORITY.encode()
    if not _is_file(spec, _SYSTEM_JAVA_STORE):
        spec.env[b"JAVA_TOOL_OPTIONS"] = f"-Djavax.net.ssl.trustStore={JAVA_STORE}".encode()
    for folder in ("/etc", FOLDER):
        spec.late_directories.append((folder.encode(), 0o755, 0, 0))

    def put(authority: bytes) -> None:
        _put_files(spec, authority)

    spec.egress.on_authority = put


def _put_files(spec: SandboxSpec, authority: bytes) -> None:
    there = [path for path in _SYSTEM_BUNDLES if _is_file(spec, path)]
    bundle = b""
    for path in [_inside(spec, each) for each in there] + list(_SYSTEM_BUNDLES):
        if not bundle and path:
            bundle = _read(path)
    whole = bundle.rstrip(b"\n") + b"\n" + authority if bundle else authority
    for path in (BUNDLE, *there):
        spec.files.append((path.encode(), whole, 0o644))
    spec.files.append((AUTHORITY.encode(), authority, 0o644))
    store = _java_store([base64.b64decode(each) for each in _PEM.findall(whole)])
    has_java = _is_file(spec, _SYSTEM_JAVA_STORE)
    spec.files.append(((_SYSTEM_JAVA_STORE if has_java else JAVA_STORE).encode(), store, 0o644))


def _inside(spec: SandboxSpec, path: str) -> str:
    """Where the host has a file that programs see; empty if that is not below their root."""
    root = os.path.realpath(spec.root_source) if spec.root_source else "/"
    found = os.path.realpath(os.path.join(root, path.lstrip("/")))
    return found if root == "/" or found.startswith(root + "/") else ""


def _is_file(spec: SandboxSpec, path: str) -> bool:
    """Whether there is one, and not by a link: what that leads to is another of the list."""
    found = _inside(spec, path)
    root = os.path.realpath(spec.root_source) if spec.root_source else "/"
    return bool(found) and os.path.isfile(found) and found == os.path.join(root, path.lstrip("/"))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return b""


def _java_store(certificates: list[bytes]) -> bytes:
    """A key store of Java (JKS), which has certificates only."""
    when = int(time.time() * 1000)
    parts = [struct.pack(">III", 0xFEEDFEED, 2, len(certificates))]
    for index, der in enumerate(certificates):
        alias = f"authority-{index}".encode()
        parts.append(struct.pack(">IH", 2, len(alias)) + alias + struct.pack(">Q", when))
        parts.append(struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(der)) + der)
    data = b"".join(parts)
    return data + sha1(_JAVA_PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + data).digest()
