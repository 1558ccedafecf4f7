"""The certificate authority of one sandbox: made when it starts, gone when it ends, its key in egress alone.

It signs certificates for the names of inspected rules. Only programs inside get its own certificate to trust.
"""

from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from cloche.egress.certificates import AUTHORITY_DAYS, LEAF_DAYS, builder, common_name, key_usage
from cloche.platform import hostsys

__all__ = ["Authority"]

_MAX_CONTEXTS: Final = 1024


class Authority:
    """A key, its certificate, and what it has signed."""

    def __init__(self, sandbox: str) -> None:
        self.key: ec.EllipticCurvePrivateKey = ec.generate_private_key(ec.SECP256R1())
        self.leaf_key: ec.EllipticCurvePrivateKey = ec.generate_private_key(ec.SECP256R1())
        self.subject: x509.Name = common_name(f"cloche sandbox {sandbox}".strip())
        public = self.key.public_key()
        self.certificate: x509.Certificate = (
            builder(self.subject, self.subject, public, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(signs_certificates=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.contexts: dict[tuple[str, bytes], SSL.Context] = {}
        # kept alive here, because the C function keeps only their addresses
        self.protocols: dict[bytes, Any] = {}

    def pem(self) -> bytes:
        """Its certificate, which programs are to trust."""
        return self.certificate.public_bytes(Encoding.PEM)

    def context(self, name: str, protocol: bytes) -> SSL.Context:
        """A context for TLS to programs that ask for `name`. ALPN chooses `protocol`, or none if that is empty."""
        known = self.contexts.get((name, protocol))
        if known is not None:
            return known
        if len(self.contexts) >= _MAX_CONTEXTS:
            self.contexts.clear()
        public = self.leaf_key.public_key()
        # The whole name is in subjectAltName.
        leaf = (
            builder(common_name(name), self.subject, public, LEAF_DAYS)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        made = SSL.Context(SSL.TLS_SERVER_METHOD)
        made.set_min_proto_version(SSL.TLS1_2_VERSION)
        made.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
        made.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        made.use_certificate(leaf)
        made.use_privatekey(self.leaf_key)
        self._choose(made, protocol)
        self.contexts[(name, protocol)] = made
        return made

    def _choose(self, context: SSL.Context, protocol: bytes) -> None:
        """Do the work of `Context.set_alpn_select_callback` without a Python callback, which would need executable
        memory.
        """
        if not protocol:
            return
        kept = self.protocols.get(protocol)
        if kept is None:
            kept = self.protocols[protocol] = ffi.new("unsigned char[]", bytes([len(protocol)]) + protocol)
        kind = "int (*)(SSL *, const unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)"
        chooser = ffi.cast(kind, hostsys.protocol_chooser())
        lib.SSL_CTX_set_alpn_select_cb(context._context, chooser, kept)
