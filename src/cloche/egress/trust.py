"""What programs of a sandbox need to believe the authority of their egress: which files, which variables.

The bundle is the one of the system that they see with the sandbox's authority added.  It is shown where systems keep
theirs, and at a path of its own, which the variables name that programs read.  How it comes there is the caller's:
`cli.trust` for `cloche run`, `oci.trust` for containers.
"""

import base64
import re
import struct
import time
from hashlib import sha1
from typing import Final

__all__ = [
    "AUTHORITY",
    "BUNDLE",
    "JAVA_STORE",
    "MAX_BYTES",
    "SYSTEM_BUNDLES",
    "SYSTEM_JAVA_STORE",
    "java_store",
    "variables",
    "with_authority",
]

# In the folder that the sandbox has for them.
BUNDLE: Final = "ca-bundle.pem"
AUTHORITY: Final = "ca.pem"
JAVA_STORE: Final = "cacerts"
SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch, Go
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)
SYSTEM_JAVA_STORE: Final = "/etc/ssl/certs/java/cacerts"
MAX_BYTES: Final = 4 << 20  # of a bundle that is read
_JAVA_PASSWORD: Final = "changeit"  # of every such store: it keeps nothing secret
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
# Each replaces what a program would believe otherwise, so it names the whole bundle.
_WHOLE: Final = (
    "SSL_CERT_FILE",  # OpenSSL, Python, Go, Ruby, uv
    "REQUESTS_CA_BUNDLE",  # Python's requests
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",  # gRPC in C, C++, Python, Ruby, PHP
)
# These add to it.
_MORE: Final = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")


def variables(folder: str, *, has_java_store: bool) -> dict[bytes, bytes]:
    """The variables of programs; `has_java_store`: the system has one, which is replaced."""
    found = {name.encode(): f"{folder}/{BUNDLE}".encode() for name in _WHOLE}
    found.update({name.encode(): f"{folder}/{AUTHORITY}".encode() for name in _MORE})
    if not has_java_store:
        found[b"JAVA_TOOL_OPTIONS"] = f"-Djavax.net.ssl.trustStore={folder}/{JAVA_STORE}".encode()
    return found


def with_authority(bundle: bytes, authority: bytes) -> bytes:
    """A system's bundle and the sandbox's authority (both PEM)."""
    return bundle.rstrip(b"\n") + b"\n" + authority if bundle else authority


def java_store(bundle: bytes) -> bytes:
    """A key store of Java (JKS) with the certificates of a bundle; what is none is left out."""
    certificates: list[bytes] = []
    for each in _PEM.findall(bundle):
        try:
            certificates.append(base64.b64decode(each))
        except ValueError:
            continue
    when = int(time.time() * 1000)
    parts = [struct.pack(">III", 0xFEEDFEED, 2, len(certificates))]
    for index, der in enumerate(certificates):
        alias = f"authority-{index}".encode()
        parts.append(struct.pack(">IH", 2, len(alias)) + alias + struct.pack(">Q", when))
        parts.append(struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(der)) + der)
    data = b"".join(parts)
    return data + sha1(_JAVA_PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + data).digest()
