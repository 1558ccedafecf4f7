"""Inspected TLS: ended here on both sides, with the sandbox's own authority towards the program, and verified towards
the server.

The server is connected first; the protocol that it and the program agree upon (HTTP/1.1 or HTTP/2) is used on both
sides, so nothing is translated. Files are needed only when it is made, before the process gives up access to them.
"""

import asyncio
import os
import ssl
from typing import Final

from cloche.egress.authority import Authority
from cloche.egress.clienthello import NotTls
from cloche.egress.flow import Flow
from cloche.egress.guard import Guard
from cloche.egress.http2relay import Http2Relay
from cloche.egress.httprelay import HttpRelay, RequestLog
from cloche.egress.streams import PlainStream
from cloche.egress.tlsscreen import HELLO_S, read_hello, refuse_tls
from cloche.egress.tlsstreams import ProgramTls, ServerTls, TlsFailure

__all__ = ["Inspector"]

_HTTP1: Final = b"http/1.1"
_HTTP2: Final = b"h2"
_ALERT_BAD_CERTIFICATE: Final = b"\x15\x03\x03\x00\x02\x02\x2a"
# Bundles of trusted authorities of distributions, besides OpenSSL's default.
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class Inspector:
    """Shared by the inspected connections of a sandbox."""

    def __init__(self, sandbox: str, authorities: str) -> None:
        self.authority: Authority = Authority(sandbox)
        self.context: ssl.SSLContext = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and compares names
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.load_default_certs()
        for path in _BUNDLES:
            if not self.context.cert_store_stats()["x509_ca"] and os.path.exists(path):
                self.context.load_verify_locations(path)
        self.trusted: set[str] = set()
        self.trust(authorities)

    def trust(self, authorities: str) -> None:
        """Trust these authorities, too; authorities are never removed."""
        if authorities and authorities not in self.trusted:
            self.context.load_verify_locations(cadata=authorities)
            self.trusted.add(authorities)

    async def serve(self, flow: Flow, begun: bytes, guard: Guard, on_request: RequestLog) -> None:
        """Serve one connection, from its hello to its end. Raises NotTls (the program was told already), OSError."""
        inside, upstream = flow.inside, flow.upstream
        assert inside is not None and upstream is not None
        below = PlainStream(upstream)
        try:
            async with asyncio.timeout(HELLO_S):
                try:
                    pending, hello = await read_hello(flow, begun, is_second=False)
                except NotTls as problem:
                    await refuse_tls(inside)
                    reason = f"{problem}; this rule lets TLS for {flow.name} through, and nothing else"
                    raise NotTls(reason) from None
                if hello is None:
                    return
                # A connection copies the context's settings when it is made, so this setting applies to this one only.
                offered = [each for each in (_HTTP2, _HTTP1) if each in hello.protocols]
                self.context.set_alpn_protocols([each.decode("ascii") for each in offered])
                outer = ServerTls(below, self.context, flow.name)
                try:
                    await outer.handshake()
                except TlsFailure as failure:
                    await refuse_tls(inside, _ALERT_BAD_CERTIFICATE)
                    raise NotTls(f"the server of {flow.name} is not to be believed: {failure}") from None
                chosen = outer.protocol()
                inner = ProgramTls(PlainStream(inside), self.authority.context(flow.name, chosen))
                try:
                    await inner.handshake(pending)
                except TlsFailure as failure:
                    raise NotTls(
                        f"the program does not agree to inspected TLS ({failure}); does it believe the"
                        " authorities that SSL_CERT_FILE names?"
                    ) from None
        except TimeoutError:
            return
        if chosen == _HTTP2:
            relay2 = Http2Relay(inner, outer, guard, on_request)
            try:
                await relay2.run()
            finally:
                flow.received, flow.sent = relay2.received, relay2.sent
            return
        relay = HttpRelay(inner, outer, guard, b"https", on_request)
        try:
            await relay.run()
            await inner.finish()
        finally:
            flow.received, flow.sent = relay.received, relay.sent
