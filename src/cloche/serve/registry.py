"""The sandboxes that `cloche serve` has made, and their owners."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cloche.sdk.aio import AsyncSandbox
from cloche.sdk.errors import InvalidArgument, SandboxError
from cloche.serve.entry import Entry, LocalEntry, ServeError, Template

if TYPE_CHECKING:
    from cloche.serve.pods import Pods

MAX_TIMEOUT_S: Final = 86_400
DEFAULT_TIMEOUT_S: Final = 300  # for requests without a timeout (e2b.dev/docs/sandbox: five minutes)


@dataclass(frozen=True)
class Settings:
    """The settings of the endpoint's operator."""

    templates: Mapping[str, Template]
    tokens: Mapping[str, str]  # owner by token
    domain: str = ""  # sandboxes are reached at PORT-ID.DOMAIN; empty: at the endpoint itself, by headers
    allow: tuple[str, ...] = ()  # hosts that sandboxes may connect to
    memory: str = "2g"
    cpus: float = 2.0
    pids: int = 1000
    max_sandboxes: int = 100  # of one token
    root: str = ""
    # The owner of requests without a key (E2B_DEBUG); empty: they are refused
    debug_owner: str = ""
    # This endpoint is the daemon of a pod, for requests with this token; empty: it is not
    pod_token: str = ""


class Registry:
    """All of them."""

    def __init__(self, settings: Settings, pods: "Pods | None" = None) -> None:
        self.settings: Settings = settings
        self.pods: Pods | None = pods  # where sandboxes are made instead
        self.watchdogs: dict[str, asyncio.Task[None]] = {}
        self.entries: dict[str, Entry] = {}
        self.starting: dict[str, int] = {}  # by owner

    def owner_of(self, token: str) -> str:
        """Raises ServeError."""
        for known, owner in self.settings.tokens.items():
            if secrets.compare_digest(known.encode(), token.encode()):
                return owner
        if self.settings.debug_owner and not token:
            return self.settings.debug_owner
        raise ServeError(
            401, "the API key is not known here; write one of `cloche serve --keys` into E2B_API_KEY"
        )

    async def create(self, owner: str, request: Mapping[str, Any]) -> Entry:
        """POST /sandboxes.  Raises ServeError."""
        settings = self.settings
        name = request.get("templateID") or "base"
        template = settings.templates.get(name) if isinstance(name, str) else None
        if template is None:
            known = ", ".join(sorted(settings.templates))
            raise ServeError(404, f"template {str(name)[:100]!r} is not known here; there are: {known}")
        for key in ("mcp", "iam", "volumeMounts"):
            if request.get(key):
                raise ServeError(400, f"{key} is not offered here")
        envs, metadata = _texts(request, "envVars"), _texts(request, "metadata")
        timeout_s = timeout_of(request, DEFAULT_TIMEOUT_S)
        if self.pods is not None and request.get("allow_internet_access") is False:
            raise ServeError(
                400, "allow_internet_access: where pods may connect to is said by the cluster's NetworkPolicy"
            )
        allow = self._allowed(request)
        mine = len([1 for entry in self.entries.values() if entry.owner == owner]) + self.starting.get(
            owner, 0
        )
        if mine >= settings.max_sandboxes:
            raise ServeError(429, f"{mine} sandboxes run; end some, or raise `cloche serve --max-sandboxes`")
        self.starting[owner] = self.starting.get(owner, 0) + 1
        ident = "i" + secrets.token_hex(10)
        try:
            entry = await self._made(ident, owner, template, envs, metadata, allow)
        except InvalidArgument as error:
            raise ServeError(400, str(error)) from None
        except SandboxError as error:
            raise ServeError(500, f"the sandbox did not start: {error}") from None
        finally:
            self.starting[owner] -= 1
        entry.metadata, entry.internet = metadata, request.get("allow_internet_access")
        network = request.get("network")
        entry.is_public = not isinstance(network, dict) or network.get("allowPublicTraffic") is not False
        entry.pauses_at_end = request.get("autoPause") is True
        self.entries[ident] = entry
        self.set_timeout(entry, timeout_s)
        self.watchdogs[ident] = asyncio.create_task(self._watch(entry))
        return entry

    async def _made(
        self,
        ident: str,
        owner: str,
        template: Template,
        envs: dict[str, str],
        metadata: dict[str, str],
        allow: tuple[str, ...],
    ) -> Entry:
        """A new sandbox, here or in a pod.  Raises SandboxError."""
        settings = self.settings
        if self.pods is not None:
            return await self.pods.create(ident, owner, template, envs, metadata)
        sandbox = await AsyncSandbox.create(
            rootfs=template.rootfs or None,
            image=template.image or None,
            env=envs,
            memory=settings.memory,
            cpus=settings.cpus,
            pids=settings.pids,
            allow=allow,
            name=f"serve-{ident}",
            metadata={"serve": ident},
            root=settings.root,
            reachable=True,
        )
        return LocalEntry(ident, owner, template, sandbox)

    def _allowed(self, request: Mapping[str, Any]) -> tuple[str, ...]:
        """The hosts that the sandbox may connect to: those that the operator allows, or a part of them that the
        request names.
        """
        network = request.get("network")
        wanted = network.get("allowOut") if isinstance(network, dict) else None
        denied = network.get("denyOut") if isinstance(network, dict) else None
        if request.get("allow_internet_access") is False:
            return ()
        if isinstance(wanted, list) and wanted:
            missing = [str(each) for each in wanted if str(each) not in self.settings.allow]
            if missing:
                raise ServeError(
                    400, f"network.allowOut: {missing[0][:200]!r} is not in `cloche serve --allow`"
                )
            return tuple(str(each) for each in wanted)
        if denied:
            raise ServeError(400, "network.denyOut: everything is denied here but what allowOut names")
        return self.settings.allow

    def set_timeout(self, entry: Entry, timeout_s: float) -> None:
        """Have the sandbox end so many seconds from now."""
        entry.end_s = time.time() + timeout_s

    async def _watch(self, entry: Entry) -> None:
        """Ends a sandbox whose time is over, and forgets one that has ended."""
        while self.entries.get(entry.ident) is entry:
            left_s = entry.end_s - time.time()
            if left_s <= 0 and not entry.is_paused:
                if entry.pauses_at_end:
                    await self.pause(entry)
                else:
                    await self.kill(entry)
                    return
            await asyncio.sleep(min(max(left_s, 0.05), entry.poll_s))
            try:
                if not await entry.is_running():
                    self.forget(entry)
                    return
            except SandboxError:
                continue

    def find(self, ident: str, owner: str | None) -> Entry:
        """A sandbox of this owner (None: of any owner; the caller has checked the client's right in another way).
        Raises ServeError.
        """
        entry = self.entries.get(ident)
        if entry is None or owner is not None and entry.owner != owner:
            raise ServeError(404, f"sandbox {ident[:64]!r} not found")
        return entry

    async def pause(self, entry: Entry) -> None:
        """Raises ServeError."""
        if entry.is_paused:
            raise ServeError(409, f"sandbox {entry.ident} is paused already")
        try:
            await entry.pause()
        except SandboxError as error:
            raise ServeError(500, str(error)) from None
        entry.is_paused = True

    async def resume(self, entry: Entry) -> None:
        """Raises ServeError."""
        if entry.is_paused:
            try:
                await entry.resume()
            except SandboxError as error:
                raise ServeError(500, str(error)) from None
            entry.is_paused = False

    async def kill(self, entry: Entry) -> None:
        """End the sandbox; never fails."""
        self.forget(entry)
        try:
            await entry.kill()
        except SandboxError:
            pass

    def forget(self, entry: Entry) -> None:
        """Remove a sandbox that has ended."""
        self.entries.pop(entry.ident, None)
        self.watchdogs.pop(entry.ident, None)
        entry.close()

    async def close(self) -> None:
        """End all sandboxes."""
        await asyncio.gather(*[self.kill(entry) for entry in list(self.entries.values())])


def timeout_of(request: Mapping[str, Any], default: float) -> float:
    """Seconds.  Raises ServeError."""
    found = request.get("timeout", default)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= MAX_TIMEOUT_S:
        raise ServeError(400, f"timeout: from 0 to {MAX_TIMEOUT_S} seconds")
    return float(found)


def _texts(request: Mapping[str, Any], name: str) -> dict[str, str]:
    found = request.get(name) or {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ServeError(400, f"{name}: texts by name")
    return {str(key): value for key, value in found.items()}
