"""The ASGI application: finds out which address a request is for, and hands it to the code for that.

The API's requests carry a key, a sandbox's its own token.  Which sandbox is meant is in the host name
(PORT-ID.DOMAIN) or, where all have one address, in the headers E2b-Sandbox-Id and E2b-Sandbox-Port.
"""

import asyncio
import base64
import binascii
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from secrets import compare_digest
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Final, cast

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from wsproto.utilities import ProtocolError as WebSocketError

from cloche.sdk.errors import InvalidArgument, SandboxError
from cloche.serve import CODE_PORT, ENVD_PORT, connect, ports
from cloche.serve.api import Api, body_of, error
from cloche.serve.connect import RpcError
from cloche.serve.entry import Entry, LocalEntry, ServeError
from cloche.serve.files import is_signed, shown, status_of
from cloche.serve.pods import DAEMON_HEADER, PodEntry
from cloche.serve.processes import Follower
from cloche.serve.registry import Registry

_HOST: Final = re.compile(r"([0-9]{1,5})-([A-Za-z0-9_]{1,64})\.(.+)")
_SPOOL_BYTES: Final = 4 << 20  # of an upload are held in memory; the rest in a file
MAX_UPLOAD: Final = 8 << 30
_STREAMS: Final = ("process.Process/Start", "process.Process/Connect", "filesystem.Filesystem/WatchDir")
_REST_S: Final = 10.0
_REST_BYTES: Final = 1 << 20


class Incoming:
    """What comes of a request, and how much of it."""

    def __init__(self, receive: Receive) -> None:
        self.receive: Receive = receive
        self.length: int = 0
        self.is_over: bool = False

    async def __call__(self) -> Message:
        message = await self.receive()
        self.length += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            self.is_over = True
        return message

    async def read_rest(self) -> None:
        """What nobody has asked for: an answer that comes before all has been read is the connection's last, and its
        client may just be writing to it.
        """
        limit = self.length + _REST_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_REST_S):
                while not self.is_over and self.length < limit:
                    await self()


class App:
    """`cloche serve`."""

    def __init__(self, registry: Registry) -> None:
        self.registry: Registry = registry
        self.api: Api = Api(registry)
        self.debug_lock: asyncio.Lock = asyncio.Lock()
        self.debug: Entry | None = None
        self.envs: dict[str, str] = {}  # of a pod's sandbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI servers call it."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await self._websocket(scope, receive, send)
            return
        incoming = Incoming(receive)
        request = Request(scope, incoming)
        try:
            response = await self._answer(request)
        except ServeError as failure:
            response = error(failure.status, failure.message)
        except RpcError as failure:
            response = JSONResponse(failure.fields(), connect.STATUSES.get(failure.code, 500))
        except SandboxError as failure:
            response = error(status_of(failure), str(failure))
        except ClientDisconnect:
            return
        if not isinstance(response, StreamingResponse):  # which may go on while more comes
            await incoming.read_rest()
        await response(scope, incoming, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.registry.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, request: Request) -> Response:
        if self.registry.settings.pod_token and request.scope["path"] in ("/init", "/health"):
            return await self._init(request)
        where = await self._target(request)
        if where is None:
            return await self.api(request)
        port, entry = where
        self._hide_keys(request)
        if port not in (ENVD_PORT, CODE_PORT):
            ports.check(request.headers, entry)
            return await ports.forward(request, entry, *entry.way(port))
        if isinstance(entry, PodEntry):
            return await self._pod(request, entry, port)
        assert isinstance(entry, LocalEntry)
        if port == ENVD_PORT:
            return await self._envd(request, entry)
        return await self._code(request, entry)

    async def _init(self, request: Request) -> Response:
        """Of the daemon of a pod: who made it tells what variables its sandbox has.  Raises ServeError."""
        if request.scope["path"] == "/init":
            if not self._is_of_pod(request):
                raise ServeError(401, "the pod's token is missing or wrong")
            envs = (await body_of(request)).get("envVars") or {}
            if not isinstance(envs, dict) or not all(isinstance(value, str) for value in envs.values()):
                raise ServeError(400, "envVars: texts by name")
            self.envs = envs
            await self._debug_entry()
        return Response(status_code=204, headers={DAEMON_HEADER: "1"})

    def _is_of_pod(self, request: HTTPConnection) -> bool:
        """Whether a request is from who has made the pod that we are the daemon of."""
        given = request.headers.get("x-access-token", "")
        return compare_digest(given.encode(), self.registry.settings.pod_token.encode())

    def _hide_keys(self, asked: HTTPConnection) -> None:
        """Let no program of a sandbox see a key of this endpoint's, which a client sends along; others are its own."""
        keys = [key.encode() for key in self.registry.settings.tokens]
        headers = asked.headers.raw
        asked.scope["headers"][:] = [  # in place: `headers` has the same list
            (name, value)
            for name, value in headers
            if name != b"x-api-key" or not any(compare_digest(key, value) for key in keys)
        ]

    async def _pod(self, request: Request, entry: PodEntry, port: int) -> Response:
        """A request for the daemon of a pod.  Raises ServeError, SandboxError."""
        path = _path_of(request)
        if path != "/health":
            operation = {"GET": "read", "POST": "write"}.get(request.method, "")
            is_file = port == ENVD_PORT and path == "/files"
            if not (is_file and _is_signed(request, operation, entry)):
                self._check(request, entry, also_traffic=port == CODE_PORT and path.startswith("/contexts"))
        return await ports.forward(request, entry, *entry.way(port))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One of a port of a sandbox's; there are no others."""
        asked = HTTPConnection(scope)
        try:
            where = await self._target(asked)
            if where is None or where[0] in (ENVD_PORT, CODE_PORT):
                raise ServeError(403, "there are no WebSockets here")
            self._hide_keys(asked)
            ports.check(asked.headers, where[1])
            await ports.websocket(scope, receive, send, where[1], *where[1].way(where[0]))
        except (ServeError, SandboxError, WebSocketError, ConnectionError, TimeoutError):
            await send({"type": "websocket.close", "code": 1008})

    async def _target(self, request: HTTPConnection) -> tuple[int, Entry] | None:
        """The port and sandbox that a request is for; None: for the API.  Raises ServeError."""
        host = request.headers.get("host", "").partition(":")[0].lower()
        found = _HOST.fullmatch(host)
        if found is not None and found[3] == self.registry.settings.domain.partition(":")[0]:
            return int(found[1]), self._running(found[2])
        ident = request.headers.get("e2b-sandbox-id", "")
        port = request.headers.get("e2b-sandbox-port", "")
        server = request.scope.get("server") or ("", 0)
        if self.registry.settings.pod_token:
            port = request.headers.get(ports.PORT_HEADER, "")
            if port.isdecimal() and len(port) <= 5 and self._is_of_pod(request):
                return int(port), await self._debug_entry()
            return int(server[1]), await self._debug_entry()
        if server[1] in (ENVD_PORT, CODE_PORT) and self.registry.settings.debug_owner:
            return int(server[1]), await self._debug_entry()
        if ident and port.isdecimal() and len(port) <= 5:
            return int(port), self._running(ident)
        query = request.query_params
        if request.scope["path"] in ("/files", "/health") and "sandbox" in query:
            return ENVD_PORT, self._running(query["sandbox"])
        return None

    def _running(self, ident: str) -> Entry:
        entry = self.registry.entries.get(ident)
        if entry is None:
            raise ServeError(502, f"The sandbox was not found: {ident[:64]}")
        return entry

    async def _debug_entry(self) -> Entry:
        """The sandbox for clients in debug mode, which name none."""
        async with self.debug_lock:
            if self.debug is None or self.registry.entries.get(self.debug.ident) is not self.debug:
                request = {"templateID": "base", "timeout": 86_400, "envVars": self.envs}
                self.debug = await self.registry.create(self.registry.settings.debug_owner, request)
            return self.debug

    def _check(self, request: Request, entry: Entry, *, also_traffic: bool = False) -> None:
        """Check the request's token for this sandbox. Raises ServeError.

        `also_traffic`: that for the ports does, which is given to others, and is all that E2B's packages send with
        some requests.
        """
        server = request.scope.get("server") or ("", 0)
        if self.registry.settings.pod_token:
            if self._is_of_pod(request):
                return
            raise ServeError(401, "the pod's token is missing or wrong")
        if entry is self.debug and server[1] in (ENVD_PORT, CODE_PORT):
            return
        if compare_digest(request.headers.get("x-access-token", "").encode(), entry.envd_token.encode()):
            return
        if also_traffic and entry.is_traffic_token(request.headers.get("e2b-traffic-access-token", "")):
            return
        raise ServeError(401, "the sandbox's access token is missing or wrong")

    # -- code ------------------------------------------------------------------------------------------------
    async def _code(self, request: Request, entry: LocalEntry) -> Response:
        path, method, interpreter = _path_of(request), request.method, entry.interpreter
        self._check(request, entry, also_traffic=path.startswith(("/contexts", "/health")))
        if (method, path) == ("GET", "/health"):
            return Response("OK")
        if (method, path) == ("GET", "/contexts"):
            return JSONResponse(interpreter.listing())
        if (method, path) == ("POST", "/contexts"):
            fields = await body_of(request)
            language, cwd = fields.get("language") or "python", fields.get("cwd")
            if not isinstance(language, str) or cwd is not None and not isinstance(cwd, str):
                raise ServeError(400, "language and cwd are texts")
            return JSONResponse(interpreter.fields(await interpreter.create(language, cwd)))
        if (method, path) == ("POST", "/execute"):
            return await self._execute(request, entry)
        found = re.fullmatch(r"/contexts/([0-9a-f-]{1,64})(/restart)?", path)
        if found is not None:
            try:
                if method == "POST" and found[2]:
                    await interpreter.restart(found[1])
                    return Response(status_code=200)
                if method == "DELETE" and not found[2]:
                    interpreter.remove(found[1])
                    return Response(status_code=200)
            except KeyError:
                raise ServeError(404, f"context {found[1]} not found") from None
        return error(501, f"{method} {path[:200]} is not offered here")

    async def _execute(self, request: Request, entry: LocalEntry) -> Response:
        fields = await body_of(request)
        code, language = fields.get("code"), fields.get("language")
        ident, envs = fields.get("context_id"), fields.get("env_vars") or {}
        if not isinstance(code, str) or not isinstance(envs, dict):
            raise ServeError(400, "code: a text; env_vars: texts by name")
        if language is not None and not isinstance(language, str):
            raise ServeError(400, "language: a text")
        if ident and (not isinstance(ident, str) or ident not in entry.interpreter.contexts):
            raise ServeError(404, f"context {str(ident)[:64]} not found")
        try:
            chosen = str(ident) if ident else await entry.interpreter.default(language or "python")
        except InvalidArgument as refusal:
            raise ServeError(400, str(refusal)) from None
        texts = {str(name): str(value) for name, value in envs.items()}
        return _until_gone(request, entry.interpreter.execute(chosen, code, texts), "application/json")

    # -- envd ------------------------------------------------------------------------------------------------
    async def _envd(self, request: Request, entry: LocalEntry) -> Response:
        path, method = _path_of(request), request.method
        if (method, path) == ("GET", "/health"):
            return Response(status_code=204)
        if path == "/files" and method in ("GET", "POST"):
            operation = "read" if method == "GET" else "write"
            if not _is_signed(request, operation, entry):
                self._check(request, entry)
            return await (self._read_file if method == "GET" else self._write_files)(request, entry)
        self._check(request, entry)
        name = path.removeprefix("/")
        service, _, call = name.partition("/")
        if method != "POST" or service not in ("process.Process", "filesystem.Filesystem"):
            return error(501, f"{method} {path[:200]} is not offered here")
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind not in ("application/json", "application/connect+json"):
            raise ServeError(415, f"{kind[:100]}: messages are JSON here (Connect protocol)")
        if name == "process.Process/StreamInput":
            return await self._stream_input(request, entry)
        if name in _STREAMS:
            return await self._stream(request, entry, name)
        fields = connect.message_of(await _limited(request))
        if service == "filesystem.Filesystem":
            return JSONResponse(await entry.files.call(call, fields, _user(request)))
        return JSONResponse(await self._process(entry, call, fields, _limit_s(request)))

    async def _process(
        self, entry: LocalEntry, call: str, fields: dict[str, Any], limit_s: float | None
    ) -> dict[str, Any]:
        processes = entry.processes
        if call == "List":
            return processes.listing()
        if call not in ("SendInput", "SendSignal", "CloseStdin", "Update"):
            raise RpcError("unimplemented", f"process.Process/{call} is not offered here")
        process = processes.find(fields)
        if call == "SendInput":
            await processes.send_input(process, fields.get("input"), limit_s)
        elif call == "SendSignal":
            processes.signal(process, fields.get("signal"))
        elif call == "CloseStdin":
            process.handle.close_stdin()
        else:
            processes.update(process, fields)
        return {}

    async def _stream_input(self, request: Request, entry: LocalEntry) -> Response:
        process = None
        try:
            async for message in connect.envelopes(request.stream()):
                if isinstance(message.get("start"), dict):
                    process = entry.processes.find(message["start"])
                elif isinstance(message.get("data"), dict):
                    if process is None:
                        raise RpcError("invalid_argument", "data before the start")
                    given = message["data"].get("input")
                    await entry.processes.send_input(process, given, _limit_s(request))
        except RpcError as failure:
            return Response(connect.end(failure), media_type="application/connect+json")
        return Response(connect.envelope({}) + connect.end(), media_type="application/connect+json")

    async def _stream(self, request: Request, entry: LocalEntry, name: str) -> Response:
        first = None
        async for message in connect.envelopes(request.stream()):
            first = message
            break
        if first is None:
            raise RpcError("invalid_argument", "the message is missing")
        limit = _limit_s(request)
        events = self._events(entry, name, first, _user(request), limit)
        return _until_gone(request, _enveloped(events, limit), "application/connect+json")

    async def _events(
        self, entry: LocalEntry, name: str, first: dict[str, Any], user: str | None, limit: float | None
    ) -> AsyncIterator[dict[str, Any]]:
        if name == "filesystem.Filesystem/WatchDir":
            async for event in entry.files.watching(first, user):
                yield event
            return
        follower = Follower()
        if name == "process.Process/Start":
            process = await entry.processes.start(first, user, limit)
            process.followers.add(follower)
            entry.processes.begin(process)
        else:
            process = entry.processes.find(first)
            process.followers.add(follower)
        async for event in entry.processes.events(process, follower):
            yield event

    async def _read_file(self, request: Request, entry: LocalEntry) -> Response:
        path, user = _file_of(request)
        info = await entry.sandbox.files.get_info(path, follow=True, user=user)
        if info.is_dir:
            raise ServeError(400, f"{path} is a directory")
        pieces = entry.sandbox.files.stream(path, user=user)
        first = await anext(pieces, b"")  # an unreadable file must be reported before the response begins

        async def contents() -> AsyncIterator[bytes]:
            yield first
            async for piece in pieces:
                yield piece

        return StreamingResponse(contents(), media_type="application/octet-stream")

    async def _write_files(self, request: Request, entry: LocalEntry) -> Response:
        user = _file_user(request)
        written = []
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind == "multipart/form-data":
            try:
                form = await Request(request.scope, bounded(request.receive, MAX_UPLOAD)).form(max_files=1000)
            except MultiPartException:
                raise ServeError(400, "the body is no form in parts") from None
            try:
                uploads = [each for each in form.getlist("file") if isinstance(each, UploadFile)]
                for upload in uploads:
                    path = request.query_params.get("path") or upload.filename or ""
                    written.append(await self._write(entry, path, upload.file, user))
            finally:
                await form.close()
        else:
            path, user = _file_of(request)
            with SpooledTemporaryFile(_SPOOL_BYTES) as spool:
                await _receive(request, cast(BinaryIO, spool))
                spool.seek(0)
                written.append(await self._write(entry, path, cast(BinaryIO, spool), user))
        if not written:
            raise ServeError(400, "no file was sent")
        return JSONResponse(written)

    async def _write(self, entry: LocalEntry, path: str, data: BinaryIO, user: str | None) -> dict[str, str]:
        if not path or "\0" in path:
            raise ServeError(400, "path: where shall it be written?")
        info = await entry.sandbox.files.write(path, data, user=user)
        return {"name": shown(info.name), "type": "file", "path": shown(info.path)}


async def _receive(request: Request, out: BinaryIO) -> None:
    """Write the body to a file, decompressed if it was compressed. Raises ServeError."""
    packed = request.headers.get("content-encoding", "")
    if packed not in ("", "identity", "gzip"):
        raise ServeError(415, f"content-encoding {packed[:40]!r}: gzip, or none")
    unpack = zlib.decompressobj(31) if packed == "gzip" else None
    size = 0
    async for piece in request.stream():
        try:
            data = unpack.decompress(piece) if unpack is not None else piece
        except zlib.error:
            raise ServeError(400, "the body is not gzip") from None
        size += len(data)
        if size > MAX_UPLOAD:
            raise ServeError(413, f"a file of more than {MAX_UPLOAD >> 30} GiB")
        await asyncio.to_thread(out.write, data)


def bounded(receive: Receive, limit: int) -> Receive:
    """`receive` of a request whose body has at most `limit` bytes: ServeError if it has more."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise ServeError(413, f"a body of more than {limit >> 30} GiB")
        return message

    return counted


def _path_of(request: Request) -> str:
    """The path, as its sender has it: that of `request.url` is made of the header Host, too."""
    path: str = request.scope["path"]
    return path.rstrip("/")


def _is_signed(request: Request, operation: str, entry: Entry) -> bool:
    """Whether a file's URL has the sandbox's signature."""
    fields = request.query_params.multi_items()
    query = dict(fields)
    # Of a field that comes twice a pod's daemon may take the other one.
    return len(query) == len(fields) and is_signed(query, operation, entry.envd_token)


def _limit_s(request: Request) -> float | None:
    """The time that the client gives the call, in seconds; None: no limit."""
    milliseconds = request.headers.get("connect-timeout-ms", "")
    return int(milliseconds) / 1000 if milliseconds.isdecimal() and len(milliseconds) <= 10 else None


async def _limited(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > connect.MAX_MESSAGE_BYTES:
            raise RpcError("resource_exhausted", "the message is too long")
    return bytes(data)


async def _enveloped(events: AsyncIterator[dict[str, Any]], limit: float | None) -> AsyncIterator[bytes]:
    """Yield a stream's messages in envelopes, and its end."""
    failure = None
    try:
        async with asyncio.timeout(limit + 5 if limit is not None else None):
            async for event in events:
                yield connect.envelope(event)
    except RpcError as refusal:
        failure = refusal
    except TimeoutError:
        failure = RpcError("deadline_exceeded", "the time of the call is over")
    yield connect.end(failure)


def _until_gone(request: Request, pieces: AsyncIterator[bytes], kind: str) -> StreamingResponse:
    """A response in pieces. When the client disconnects, Starlette cancels the generator of the pieces."""
    return StreamingResponse(pieces, media_type=kind)


def _user(request: Request) -> str | None:
    """The user of a call, from Basic authentication; None: the sandbox's own."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name = base64.b64decode(given).decode().partition(":")[0]
    except (binascii.Error, ValueError):
        raise RpcError("unauthenticated", "authorization: not as Basic authentication has it") from None
    return None if name in ("", "user") else name


def _file_user(request: Request) -> str | None:
    name = request.query_params.get("username", "")
    return None if name in ("", "user") else name


def _file_of(request: Request) -> tuple[str, str | None]:
    path = request.query_params.get("path", "")
    if not path or "\0" in path:
        raise ServeError(400, "path: which file?")
    return path, _file_user(request)
