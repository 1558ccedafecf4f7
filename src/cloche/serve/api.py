"""The REST part: sandboxes are made, listed, found and ended."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cloche.sdk.errors import SandboxError
from cloche.serve import ENVD_VERSION
from cloche.serve.connect import parsed
from cloche.serve.entry import Entry, ServeError
from cloche.serve.files import when
from cloche.serve.registry import DEFAULT_TIMEOUT_S, Registry, timeout_of

TESTED: Final = "e2b 2.63, e2b-code-interpreter 2.11"
_MAX_BODY: Final = 1 << 20
_MAX_PAGE: Final = 100

Handler = Callable[["Api", Request, str, str], Awaitable[Response]]


def error(status: int, message: str) -> JSONResponse:
    """The response to a request that has failed."""
    return JSONResponse({"code": status, "message": message}, status)


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object of a request.  Raises ServeError."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > _MAX_BODY:
            raise ServeError(413, "the request is too long")
    if not data:
        return {}
    try:
        found = parsed(data)
    except (ValueError, RecursionError):
        raise ServeError(400, "the request is not JSON") from None
    if not isinstance(found, dict):
        raise ServeError(400, "the request is not an object")
    return found


class Api:
    """The handlers of the REST API."""

    def __init__(self, registry: Registry) -> None:
        self.registry: Registry = registry

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        try:
            owner = self.registry.owner_of(request.headers.get("x-api-key", ""))
            path = str(request.scope["path"]).rstrip("/")
            for method, pattern, handler in _ROUTES:
                found = pattern.fullmatch(path)
                if found is not None and method == request.method:
                    return await handler(self, request, owner, found[1] if found.groups() else "")
            return error(
                501,
                f"{request.method} {path[:200]} is not offered here; what was tried with this endpoint: {TESTED}",
            )
        except ServeError as failure:
            return error(failure.status, failure.message)

    def _sandbox(self, entry: Entry) -> dict[str, Any]:
        fields = {
            "templateID": entry.template.name,
            "sandboxID": entry.ident,
            "clientID": "cloche",
            "envdVersion": ENVD_VERSION,
            "envdAccessToken": entry.envd_token,
            "trafficAccessToken": entry.traffic_token,
        }
        if self.registry.settings.domain:
            fields["domain"] = self.registry.settings.domain
        return fields

    def _listed(self, entry: Entry) -> dict[str, Any]:
        settings = self.registry.settings
        return {
            "templateID": entry.template.name,
            "alias": entry.template.name,
            "sandboxID": entry.ident,
            "clientID": "cloche",
            "startedAt": when(entry.started_s),
            "endAt": when(entry.end_s),
            "cpuCount": max(int(settings.cpus), 1),
            "memoryMB": _mib(settings.memory),
            "diskSizeMB": _mib(settings.memory),  # files that a sandbox writes count as memory
            "metadata": entry.metadata,
            "state": "paused" if entry.is_paused else "running",
            "envdVersion": ENVD_VERSION,
        }

    async def create(self, request: Request, owner: str, _ident: str) -> Response:
        entry = await self.registry.create(owner, await body_of(request))
        return JSONResponse(self._sandbox(entry), 201)

    async def list(self, request: Request, owner: str, _ident: str) -> Response:
        query = dict(request.query_params)
        wanted = dict(parse_qsl(query.get("metadata", ""), keep_blank_values=True))
        states = {state for value in request.query_params.getlist("state") for state in value.split(",")}
        limit = query.get("limit", str(_MAX_PAGE))
        begin = query.get("nextToken", "0")
        is_number = limit.isdecimal() and begin.isdecimal() and max(len(limit), len(begin)) < 10
        if not is_number or not 0 < int(limit) <= 1000:
            return error(400, "limit: from 1 to 1000; nextToken: as it was given")
        found = [
            entry
            for entry in self.registry.entries.values()
            if entry.owner == owner
            and wanted.items() <= entry.metadata.items()
            and (not states or ("paused" if entry.is_paused else "running") in states)
        ]
        found.sort(key=lambda entry: entry.started_s, reverse=True)
        first, last = int(begin), int(begin) + min(int(limit), _MAX_PAGE)
        headers = {"x-next-token": str(last)} if last < len(found) else {}
        return JSONResponse([self._listed(entry) for entry in found[first:last]], headers=headers)

    async def get(self, _request: Request, owner: str, ident: str) -> Response:
        entry = self.registry.find(ident, owner)
        fields = {**self._listed(entry), "envdAccessToken": entry.envd_token}
        if entry.internet is not None:
            fields["allowInternetAccess"] = entry.internet
        if self.registry.settings.domain:
            fields["domain"] = self.registry.settings.domain
        return JSONResponse(fields)

    async def kill(self, _request: Request, owner: str, ident: str) -> Response:
        await self.registry.kill(self.registry.find(ident, owner))
        return Response(status_code=204)

    async def timeout(self, request: Request, owner: str, ident: str) -> Response:
        entry = self.registry.find(ident, owner)
        self.registry.set_timeout(entry, timeout_of(await body_of(request), 0))
        return Response(status_code=204)

    async def refresh(self, request: Request, owner: str, ident: str) -> Response:
        entry = self.registry.find(ident, owner)
        seconds = timeout_of({"timeout": (await body_of(request)).get("duration", 60)}, 60)
        entry.end_s = max(entry.end_s, time.time() + seconds)
        return Response(status_code=204)

    async def pause(self, _request: Request, owner: str, ident: str) -> Response:
        await self.registry.pause(self.registry.find(ident, owner))
        return Response(status_code=204)

    async def connect(self, request: Request, owner: str, ident: str) -> Response:
        entry = self.registry.find(ident, owner)
        fields = await body_of(request)
        was_paused = entry.is_paused
        seconds = timeout_of(fields, DEFAULT_TIMEOUT_S if was_paused else 0)
        if was_paused and fields.get("memory") is False:
            raise ServeError(400, "memory: a paused sandbox is in memory here, and goes on from there")
        await self.registry.resume(entry)
        # The time of a sandbox that runs is only extended.
        entry.end_s = time.time() + seconds if was_paused else max(entry.end_s, time.time() + seconds)
        return JSONResponse(self._sandbox(entry), 201 if was_paused else 200)

    async def metrics(self, _request: Request, owner: str, ident: str) -> Response:
        entry = self.registry.find(ident, owner)
        settings = self.registry.settings
        try:
            memory_bytes, cpus = await entry.usage()
        except SandboxError as failure:
            raise ServeError(500, str(failure)) from None
        percent = 100 * cpus / max(settings.cpus, 0.01)
        total = _mib(settings.memory) << 20
        return JSONResponse(
            [
                {
                    "timestamp": when(time.time()),
                    "timestampUnix": int(time.time()),
                    "cpuCount": max(int(settings.cpus), 1),
                    "cpuUsedPct": round(max(percent, 0.0), 2),
                    "memUsed": memory_bytes,
                    "memTotal": total,
                    "memCache": 0,
                    "diskUsed": 0,
                    "diskTotal": total,
                }
            ]
        )


def _mib(text: str) -> int:
    """A size of `--memory` in MiB."""
    units = {"k": 1 / 1024, "m": 1, "g": 1024}
    number = text.rstrip("kKmMgGbBiI")
    unit = text[len(number) : len(number) + 1].lower()
    return int(float(number) * units[unit]) if unit in units else int(number) >> 20


_ONE: Final = r"/sandboxes/([A-Za-z0-9_-]{1,64})"
_ROUTES: Final[list[tuple[str, re.Pattern[str], Handler]]] = [
    (method, re.compile(pattern), handler)
    for method, pattern, handler in (
        ("POST", r"(?:/v2)?/sandboxes", Api.create),
        ("GET", r"(?:/v2)?/sandboxes", Api.list),
        ("GET", _ONE, Api.get),
        ("DELETE", _ONE, Api.kill),
        ("POST", _ONE + "/timeout", Api.timeout),
        ("POST", _ONE + "/refreshes", Api.refresh),
        ("POST", _ONE + "/pause", Api.pause),
        ("POST", _ONE + "/resume", Api.connect),
        ("POST", "(?:/v2)?" + _ONE + "/connect", Api.connect),
        ("GET", _ONE + "/metrics", Api.metrics),
    )
]
