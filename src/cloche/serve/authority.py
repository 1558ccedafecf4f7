"""A certificate authority of the endpoint's own, for `cloche serve --tls`: made once, kept in a directory.

It can vouch for the endpoint's names and addresses alone (name constraints), so that who believes it believes nothing
else.  Its key stays in the directory, for its owner only; the server's key and certificate are made at each start.
"""

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloche.egress.certificates import AUTHORITY_DAYS, DAY, LEAF_DAYS, builder, common_name, key_usage


def _write(path: Path, data: bytes, mode: int) -> None:
    """As a whole or not at all, and never readable for others meanwhile."""
    there = path.with_name(path.name + ".new")
    there.unlink(missing_ok=True)
    with open(os.open(there, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(data)
    there.replace(path)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Names:
    """What a certificate is for."""

    def __init__(self, domain: str, host: str) -> None:
        """`host`: the address that the endpoint listens at."""
        self.domain: str = domain.partition(":")[0]
        self.addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
        for text in {host.strip("[]"), "127.0.0.1", "::1"}:
            try:
                self.addresses.append(ipaddress.ip_address(text))
            except ValueError:
                pass
        self.addresses.sort(key=str)

    def permitted(self) -> list[x509.GeneralName]:
        """For the authority."""
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_network(address)) for address in self.addresses
        ]
        return [*names, *[x509.DNSName(name) for name in (self.domain, "localhost") if name]]

    def alternatives(self) -> list[x509.GeneralName]:
        """For the server."""
        names: list[x509.GeneralName] = [x509.IPAddress(address) for address in self.addresses]
        texts = ["localhost", *([self.domain, f"*.{self.domain}"] if self.domain else [])]
        return [*names, *[x509.DNSName(text) for text in texts]]


def _authority(folder: Path, names: Names) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The one that is kept, if it is good for these names; else a new one.  Raises OSError, ValueError."""
    key_path, path = folder / "ca-key.pem", folder / "ca.pem"
    wanted = x509.NameConstraints(permitted_subtrees=names.permitted(), excluded_subtrees=None)
    if key_path.exists() and path.exists():
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = load_pem_private_key(key_path.read_bytes(), None)
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        if found == wanted and left > DAY * LEAF_DAYS and isinstance(key, ec.EllipticCurvePrivateKey):
            return key, certificate
    made = ec.generate_private_key(ec.SECP256R1())
    subject = common_name(f"cloche serve {names.domain}".strip())
    certificate = (
        builder(subject, subject, made.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(wanted, critical=True)
        .sign(made, hashes.SHA256())
    )
    _write(key_path, _pem(made), 0o600)
    _write(path, certificate.public_bytes(Encoding.PEM), 0o644)
    return made, certificate


def prepare(directory: str, domain: str, host: str) -> tuple[str, str, str]:
    """Files: the server's certificate and key, and the authority's certificate.  Raises OSError, ValueError."""
    folder = Path(directory)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = Names(domain, host)
    authority_key, authority = _authority(folder, names)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        builder(common_name(names.domain or "localhost"), authority.subject, key.public_key(), LEAF_DAYS)
        .add_extension(x509.SubjectAlternativeName(names.alternatives()), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    paths = folder / "server.pem", folder / "server-key.pem"
    _write(paths[1], _pem(key), 0o600)
    _write(paths[0], certificate.public_bytes(Encoding.PEM), 0o644)
    return str(paths[0]), str(paths[1]), str(folder / "ca.pem")
