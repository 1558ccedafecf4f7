"""TLS that egress terminates.

It uses no descriptors: bytes pass through memory, and only `PlainStream` uses a socket. Towards programs it is
pyOpenSSL, which accepts certificates that are not in files; towards servers Python's `ssl`, which verifies names.
"""

import asyncio
import ssl
from typing import Final

from OpenSSL import SSL

from cloche.egress.streams import PlainStream, Stream

__all__ = ["ProgramTls", "ServerTls", "TlsFailure"]

_PIECE: Final = 65536
_RECORD: Final = 1 << 18


class TlsFailure(Exception):
    """TLS could not be agreed upon; the text says why."""


class ServerTls(Stream):
    """TLS to a server outside: egress is its client, and verifies it."""

    def __init__(self, under: PlainStream, context: ssl.SSLContext, name: str) -> None:
        self.under: PlainStream = under
        self.incoming: ssl.MemoryBIO = ssl.MemoryBIO()
        self.outgoing: ssl.MemoryBIO = ssl.MemoryBIO()
        self.tls: ssl.SSLObject = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self.order: asyncio.Lock = asyncio.Lock()  # keeps records in the order in which they were made

    async def handshake(self) -> None:
        """Raises TlsFailure, OSError."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
                continue
            except ssl.SSLError as error:  # also for a certificate that is not trusted
                await self._flush()
                reason = getattr(error, "verify_message", "") or error.reason or "no TLS"
                raise TlsFailure(str(reason)) from None
            await self._flush()
            return

    def protocol(self) -> bytes:
        """The protocol that ALPN has chosen."""
        return (self.tls.selected_alpn_protocol() or "").encode("ascii")

    async def _feed(self) -> None:
        data = await self.under.receive()
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    async def _flush(self) -> None:
        if self.outgoing.pending:
            async with self.order:
                while data := self.outgoing.read():
                    await self.under.send(data)

    async def receive(self) -> bytes:
        while True:
            try:
                data = self.tls.read(_RECORD)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
                continue
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError:
                raise ConnectionError("TLS ends where it should not") from None
            return data

    async def send(self, data: bytes) -> None:
        try:
            self.tls.write(data)
        except ssl.SSLError:
            raise ConnectionError("TLS has ended") from None
        await self._flush()

    def shut_down(self) -> None:
        self.under.shut_down()

    async def finish(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        await self._flush()
        await self.under.finish()


class ProgramTls(Stream):
    """TLS to a program inside: egress is its server."""

    def __init__(self, under: PlainStream, context: SSL.Context) -> None:
        self.under: PlainStream = under
        self.tls: SSL.Connection = SSL.Connection(context, None)
        self.tls.set_accept_state()
        self.order: asyncio.Lock = asyncio.Lock()

    async def handshake(self, begun: bytes) -> None:
        """`begun` has been read already.  Raises TlsFailure, OSError."""
        self._take(begun)
        while True:
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                data = await self.under.receive()
                if not data:
                    raise TlsFailure("the program has ended it") from None
                self._take(data)
                continue
            except SSL.Error as error:
                await self._flush()
                words = [str(each[-1]) for each in error.args[0]] if error.args else []
                raise TlsFailure(" ".join(words) or "no TLS") from None
            await self._flush()
            return

    def _take(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.bio_write(bytes(view)) :]

    async def _flush(self) -> None:
        async with self.order:
            while True:
                try:
                    data = self.tls.bio_read(_RECORD)
                except SSL.WantReadError:
                    return
                await self.under.send(data)

    async def receive(self) -> bytes:
        while True:
            try:
                return self.tls.recv(_RECORD)
            except SSL.WantReadError:
                await self._flush()
                data = await self.under.receive()
                if not data:
                    return b""
                self._take(data)
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error:
                raise ConnectionError("TLS ends where it should not") from None

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self.tls.send(bytes(view[:_PIECE])) :]
                await self._flush()
        except SSL.Error:
            raise ConnectionError("TLS has ended") from None

    def shut_down(self) -> None:
        self.under.shut_down()

    async def finish(self) -> None:
        try:
            self.tls.shutdown()
        except SSL.Error:
            pass
        await self._flush()
        await self.under.finish()
