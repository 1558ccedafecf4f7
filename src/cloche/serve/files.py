"""The service filesystem.Filesystem, and GET and POST /files."""

import base64
import hashlib
import hmac
import stat
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from cloche.sdk.aio import AsyncSandbox, AsyncWatchHandle
from cloche.sdk.errors import FileError, FileNotFound, SandboxError
from cloche.sdk.results import FileEvent, FileInfo
from cloche.serve.connect import RpcError
from cloche.serve.processes import as_rpc

_TYPES: Final = {"file": "FILE_TYPE_FILE", "directory": "FILE_TYPE_DIRECTORY", "symlink": "FILE_TYPE_SYMLINK"}
_FORMATS: Final = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}
_QUIET_S: Final = 30.0  # without an event, after which the client gets a keepalive
_MAX_WATCHERS: Final = 64
_LATEST_S: Final = 253_402_300_799.0  # the end of the year 9999, beyond which a Timestamp cannot go


class Users:
    """Names of the sandbox's users, as its own /etc says; read again only after a while."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self.sandbox: AsyncSandbox = sandbox
        self.names: dict[str, dict[int, str]] = {}
        self.read_s: float = -1e9

    async def load(self) -> None:
        """Never fails: a root without these files has no names."""
        if time.monotonic() - self.read_s < 10:
            return
        for kind in ("passwd", "group"):
            found: dict[int, str] = {}
            try:
                text = await self.sandbox.files.read(f"/etc/{kind}", format="bytes", max_bytes=1 << 20)
            except SandboxError:
                text = b""
            for line in text.decode(errors="replace").splitlines():
                parts = line.split(":")
                if len(parts) > 2 and len(parts[2]) <= 10 and parts[2].isdecimal():
                    found.setdefault(int(parts[2]), parts[0])
            self.names[kind] = found
        self.read_s = time.monotonic()

    def name(self, kind: str, number: int) -> str:
        """A user's ("passwd") or group's name, or the number."""
        return self.names.get(kind, {}).get(number, str(number))


_EVENT_TYPES: Final = {
    "create": "EVENT_TYPE_CREATE",
    "write": "EVENT_TYPE_WRITE",
    "chmod": "EVENT_TYPE_CHMOD",
    "remove": "EVENT_TYPE_REMOVE",
    "rename": "EVENT_TYPE_RENAME",
}


def event_of(event: FileEvent, top: str) -> dict[str, Any] | None:
    """The filesystem.FilesystemEvent for an event; None for one that has no such form (an overflow)."""
    kind = _EVENT_TYPES.get(event.type)
    name = shown(event.path.removeprefix(top.rstrip("/") + "/"))
    return None if kind is None else {"name": name, "type": kind}


class Files:
    """The files of one sandbox."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self.sandbox: AsyncSandbox = sandbox
        self.users: Users = Users(sandbox)
        self.watchers: dict[str, AsyncWatchHandle] = {}

    async def call(self, method: str, request: dict[str, Any], user: str | None) -> dict[str, Any]:
        """A unary call.  Raises RpcError."""
        try:
            return await self._call(method, request, user)
        except SandboxError as error:
            raise as_rpc(error) from None

    async def _call(self, method: str, request: dict[str, Any], user: str | None) -> dict[str, Any]:
        files = self.sandbox.files
        if method == "Stat":
            return {"entry": await self.entry(_path(request), user)}
        if method == "MakeDir":
            path = _path(request)
            if not await files.make_dir(path, user=user):
                raise RpcError("already_exists", f"{path} is there already")
            return {"entry": await self.entry(path, user)}
        if method == "Move":
            source, target = _path(request, "source"), _path(request, "destination")
            await files.rename(source, target, user=user)
            return {"entry": await self.entry(target, user)}
        if method == "ListDir":
            depth = request.get("depth", 1)
            if not isinstance(depth, int) or not 0 <= depth <= 1000:
                raise RpcError("invalid_argument", "depth: from 1 to 1000")
            path = _path(request)
            info = await files.get_info(path, follow=True, user=user)
            if not info.is_dir:
                raise RpcError("invalid_argument", f"{path} is no directory")
            found = await files.list(path, depth=max(depth, 1), user=user)
            await self.users.load()
            return {"entries": [self.fields(each) for each in found]}
        if method == "Remove":
            try:
                await files.remove(_path(request), user=user)
            except FileNotFound:
                pass  # no error, as in the original
            return {}
        if method == "CreateWatcher":
            if len(self.watchers) >= _MAX_WATCHERS:
                raise RpcError("resource_exhausted", f"at most {_MAX_WATCHERS} watchers of a sandbox")
            watcher = await self.watch(request, user)
            ident = hashlib.sha256(f"{id(watcher)}{time.monotonic_ns()}".encode()).hexdigest()[:20]
            self.watchers[ident] = watcher
            return {"watcherId": ident}
        if method in ("GetWatcherEvents", "RemoveWatcher"):
            found_watcher = self.watchers.get(str(request.get("watcherId")))
            if found_watcher is None:
                raise RpcError("not_found", "no such watcher")
            if method == "RemoveWatcher":
                del self.watchers[str(request["watcherId"])]
                await found_watcher.stop()
                return {}
            events = await found_watcher.get_new_events()
            told = [event_of(event, found_watcher.path) for event in events]
            return {"events": [event for event in told if event is not None]}
        raise RpcError("unimplemented", f"filesystem.Filesystem/{method} is not offered here")

    async def watch(self, request: dict[str, Any], user: str | None) -> AsyncWatchHandle:
        """Raises RpcError, SandboxError."""
        path = _path(request)
        info = await self.sandbox.files.get_info(path, follow=True, user=user)
        if not info.is_dir:
            raise RpcError("invalid_argument", f"{path} is no directory")
        is_recursive = request.get("recursive") is True
        return await self.sandbox.files.watch_dir(path, recursive=is_recursive, user=user)

    async def watching(self, request: dict[str, Any], user: str | None) -> AsyncIterator[dict[str, Any]]:
        """WatchDir.  Raises RpcError."""
        try:
            async with await self.watch(request, user) as watcher:
                yield {"start": {}}
                while True:
                    event = await watcher.next_event(_QUIET_S)
                    told = {} if event is None else event_of(event, watcher.path)
                    if told is not None:
                        yield {"filesystem": told} if told else {"keepalive": {}}
        except SandboxError as error:
            raise as_rpc(error) from None

    async def entry(self, path: str, user: str | None) -> dict[str, Any]:
        """Describe the file at a path. Raises SandboxError."""
        await self.users.load()
        return self.fields(await self.sandbox.files.get_info(path, user=user))

    def fields(self, info: FileInfo) -> dict[str, Any]:
        """filesystem.EntryInfo; 64-bit numbers are texts in JSON."""
        found: dict[str, Any] = {
            "name": shown(info.name),
            "type": _TYPES.get(info.kind, "FILE_TYPE_UNSPECIFIED"),
            "path": shown(info.path),
            "size": str(info.size),
            "mode": info.mode,
            "permissions": stat.filemode(info.mode | _FORMATS.get(info.kind, 0)),
            "owner": self.users.name("passwd", info.uid),
            "group": self.users.name("group", info.gid),
            "modifiedTime": when(min(max(info.modified, 0.0), _LATEST_S)),
        }
        if info.kind == "symlink":
            found["symlinkTarget"] = shown(info.target)
        return found

    def close(self) -> None:
        """Stop all watches."""
        for watcher in self.watchers.values():
            watcher.close()
        self.watchers.clear()


def when(seconds: float) -> str:
    """A time as a Timestamp in JSON."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def shown(text: str) -> str:
    """A name that a guest chose, as JSON can carry it: U+FFFD for each byte that is not UTF-8."""
    return "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in text)


def _path(request: dict[str, Any], name: str = "path") -> str:
    path = request.get(name)
    if not isinstance(path, str) or not path or "\0" in path:
        raise RpcError("invalid_argument", f"{name}: a path is missing")
    return path


def is_signed(query: dict[str, str], operation: str, token: str) -> bool:
    """Whether the query of a file's URL has the sandbox's signature, and has not expired."""
    expiration = query.get("signature_expiration")
    raw = f"{query.get('path', '')}:{operation}:{query.get('username', '')}:{token}"
    if expiration is not None:
        if not expiration.isdecimal() or len(expiration) > 12 or int(expiration) < time.time():
            return False
        raw += f":{expiration}"
    wanted = "v1_" + base64.b64encode(hashlib.sha256(raw.encode()).digest()).rstrip(b"=").decode()
    return hmac.compare_digest(wanted.encode(), query.get("signature", "").encode())


def status_of(error: SandboxError) -> int:
    """The HTTP status of a file request that failed."""
    if isinstance(error, FileNotFound):
        return 404
    if isinstance(error, FileError):
        return 507 if error.errno in (28, 122) else 400
    rpc = as_rpc(error)
    return {"invalid_argument": 400, "unavailable": 502, "deadline_exceeded": 504}.get(rpc.code, 500)
