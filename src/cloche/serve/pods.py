"""Sandboxes that are pods of Kubernetes, by its official client: `cloche serve --kubernetes`.

A pod's image has a daemon that speaks as E2B's does, at ports 49983 and 49999: that of `cloche serve --pod`, or E2B's
own.  The endpoint makes the pod, gives its daemon a token (`POST /init`), passes requests on to it, and deletes the pod
at the end.  Clients have other tokens, which never reach the pod.  What is left when the endpoint is killed ends by the
pods' deadlines, and, where CLOCHE_POD_NAME and CLOCHE_POD_UID say which pod the endpoint is, with that pod (Kubernetes
collects what it owns).
"""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import h11

from cloche.sdk.errors import PortClosed, SandboxEnded, SandboxError, StartError
from cloche.serve import CODE_PORT, ENVD_PORT
from cloche.serve.entry import Entry, Template

MANAGED: Final = {"app.kubernetes.io/managed-by": "cloche-serve"}
DAEMON_HEADER: Final = "cloche-daemon"
START_S: Final = 300.0  # an image may have to be pulled
MAX_LIFE_S: Final = 86_400
_POLL_S: Final = 0.5
_CALL_S: Final = 30.0
_GONE: Final = 404
_READ_BYTES: Final = 4096
_SHOWN_BYTES: Final = 500  # of what a daemon says

T = TypeVar("T")


def _quantity(text: str) -> float:
    """A quantity of Kubernetes ("250m", "64Mi") as a number."""
    units = {
        "n": 1e-9,
        "u": 1e-6,
        "m": 1e-3,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "Ki": 2**10,
        "Mi": 2**20,
        "Gi": 2**30,
    }
    number = text.rstrip("numkMGi" + "K")
    try:
        return float(number) * units.get(text[len(number) :], 1)
    except ValueError:
        return 0.0


class PodEntry(Entry):
    """A pod."""

    poll_s = 10.0  # each look is a request of the API server

    def __init__(self, pods: "Pods", name: str, ident: str, owner: str, template: Template) -> None:
        super().__init__(ident, owner, template)
        self.pods: Pods = pods
        self.name: str = name
        self.address: str = ""
        self.token: str = secrets.token_urlsafe(32)  # of its daemon
        self.is_ours: bool = False  # the daemon, which has a sandbox of its own in the pod

    def way(self, port: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        if port in (ENVD_PORT, CODE_PORT):
            return port, [(b"x-access-token", self.token.encode())]
        if not self.is_ours:
            return port, []
        return ENVD_PORT, [(b"x-access-token", self.token.encode()), (b"cloche-port", b"%d" % port)]

    async def dial(self, port: int) -> socket.socket:
        try:
            async with asyncio.timeout(_CALL_S):
                return await _connect(self.address, port)
        except ConnectionRefusedError:
            raise PortClosed(f"nobody listens at port {port}") from None
        except OSError as error:
            raise SandboxError(f"pod {self.name} cannot be reached: {error.strerror or error}") from None

    async def kill(self) -> None:
        await self.pods.delete(self.name)

    async def is_running(self) -> bool:
        found = await self.pods.read(self.name)
        return found is not None and found.status.phase in ("Pending", "Running")

    async def pause(self) -> None:
        raise SandboxError("a pod cannot be paused")

    async def resume(self) -> None:
        raise SandboxError("a pod cannot be paused")

    async def usage(self) -> tuple[int, float]:
        memory, cpus = await self.pods.usage(self.name)
        return int(memory), cpus


class Pods:
    """Those of a namespace that we make."""

    def __init__(self, namespace: str, runtime_class: str, memory: str, cpus: float) -> None:
        """Raises SandboxError, and ImportError without the package."""
        import kubernetes

        self.namespace: str = namespace
        self.runtime_class: str = runtime_class
        self.memory: str = memory
        self.cpus: float = cpus
        try:
            kubernetes.config.load_config()
        except (kubernetes.config.ConfigException, OSError) as error:
            raise SandboxError(f"--kubernetes: {error}; give it a KUBECONFIG, or a service account") from None
        self.refusal: Any = kubernetes.client.ApiException
        self.core: Any = kubernetes.client.CoreV1Api()
        self.custom: Any = kubernetes.client.CustomObjectsApi()

    async def _call(self, function: Callable[..., T], *words: Any) -> T | None:
        """A request of the API server; None: there is no such thing.  Raises SandboxError."""
        try:
            return await asyncio.to_thread(function, *words, _request_timeout=_CALL_S)
        except Exception as error:  # also of urllib3, as the client lets them through
            if isinstance(error, self.refusal):
                if error.status == _GONE:
                    return None
                raise SandboxError(f"Kubernetes refused it: {error.status} {_reason(error)}") from None
            raise SandboxError(f"Kubernetes is not reached: {type(error).__name__}: {error}"[:500]) from None

    async def read(self, name: str) -> Any:
        """The pod; None if it is gone."""
        return await self._call(self.core.read_namespaced_pod, name, self.namespace)

    async def delete(self, name: str) -> None:
        """At once; one that is gone is gone."""

        def delete(*words: Any, **more: Any) -> Any:
            return self.core.delete_namespaced_pod(*words, grace_period_seconds=0, **more)

        await self._call(delete, name, self.namespace)

    async def usage(self, name: str) -> tuple[float, float]:
        """Bytes of memory and processors, if there is a metrics server."""
        found = await self._call(
            self.custom.get_namespaced_custom_object,
            "metrics.k8s.io",
            "v1beta1",
            self.namespace,
            "pods",
            name,
        )
        containers = found.get("containers", []) if isinstance(found, dict) else []
        memory = sum(_quantity(each.get("usage", {}).get("memory", "0")) for each in containers)
        return memory, sum(_quantity(each.get("usage", {}).get("cpu", "0")) for each in containers)

    def _manifest(self, entry: PodEntry, metadata: Mapping[str, str]) -> dict[str, Any]:
        limits = {"memory": _memory_word(self.memory), "cpu": f"{self.cpus:g}"}
        about: dict[str, Any] = {
            "name": entry.name,
            "labels": {**MANAGED, "cloche-sandbox": entry.ident},
            "annotations": {"cloche/owner": entry.owner, "cloche/metadata": json.dumps(dict(metadata))},
        }
        mine, uid = os.environ.get("CLOCHE_POD_NAME"), os.environ.get("CLOCHE_POD_UID")
        if mine and uid:
            about["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": mine, "uid": uid}]
        container = {
            "name": "sandbox",
            "image": entry.template.image,
            "env": [{"name": "CLOCHE_POD_TOKEN", "value": entry.token}],
            "ports": [{"containerPort": ENVD_PORT}],
            "resources": {"limits": limits, "requests": limits},
            "readinessProbe": {"httpGet": {"path": "/health", "port": ENVD_PORT}, "periodSeconds": 1},
            "securityContext": {"allowPrivilegeEscalation": False},
        }
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "activeDeadlineSeconds": MAX_LIFE_S,
            "containers": [container],
        }
        if self.runtime_class:
            spec["runtimeClassName"] = self.runtime_class
        return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}

    async def create(
        self, ident: str, owner: str, template: Template, envs: Mapping[str, str], metadata: Mapping[str, str]
    ) -> PodEntry:
        """A pod that is ready.  Raises SandboxError."""
        entry = PodEntry(self, f"sandbox-{ident}", ident, owner, template)
        manifest = self._manifest(entry, metadata)
        try:
            if await self._call(self.core.create_namespaced_pod, self.namespace, manifest) is None:
                raise StartError(f"there is no namespace {self.namespace}")
            async with asyncio.timeout(START_S):
                entry.address = await self._ready(entry.name)
                entry.is_ours = await _introduce(entry.address, entry.token, dict(envs))
        except TimeoutError:
            await self.delete(entry.name)
            raise StartError(f"the pod was not ready within {START_S:g} s") from None
        except BaseException:
            await asyncio.shield(self.delete(entry.name))
            raise
        return entry

    async def _ready(self, name: str) -> str:
        """Its address, once it is ready."""
        while True:
            found = await self.read(name)
            if found is None or found.status.phase in ("Failed", "Succeeded"):
                raise SandboxEnded(f"pod {name} has ended before it was ready; kubectl describe tells why")
            conditions = found.status.conditions or []
            if found.status.pod_ip and any(
                each.type == "Ready" and each.status == "True" for each in conditions
            ):
                return str(found.status.pod_ip)
            await asyncio.sleep(_POLL_S)


async def _connect(address: str, port: int) -> socket.socket:
    """A connection to a pod, without a thread: the pod may let its clients wait.  Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _introduce(address: str, token: str, envs: dict[str, str]) -> bool:
    """Tell the daemon its token and variables, as E2B's endpoint does; whether it is ours.

    The daemon may be hostile: it has _CALL_S seconds for all of it, and what it says is bounded. Raises StartError.
    """
    body = json.dumps({"accessToken": token, "envVars": envs}).encode()
    headers = [
        ("Host", f"{address}:{ENVD_PORT}" if ":" not in address else f"[{address}]:{ENVD_PORT}"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("X-Access-Token", token),
        ("Connection", "close"),
    ]
    http = h11.Connection(h11.CLIENT)
    sent = http.send(h11.Request(method="POST", target="/init", headers=headers))
    data = (sent or b"") + (http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
    writer = None
    try:
        async with asyncio.timeout(_CALL_S):
            reader, writer = await asyncio.open_connection(sock=await _connect(address, ENVD_PORT))
            writer.write(data)
            await writer.drain()
            head, text = await _answer(http, reader)
    except (OSError, h11.RemoteProtocolError) as error:  # TimeoutError is an OSError
        raise StartError(
            f"the pod's daemon does not answer: {str(error)[:500] or 'its time is over'}"
        ) from None
    finally:
        if writer is not None:
            writer.close()
    if head.status_code not in (200, 204):
        raise StartError(f"the pod's daemon refused its token: {head.status_code} {text}")
    return any(bytes(name) == DAEMON_HEADER.encode() for name, _value in head.headers)


async def _answer(http: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Response, str]:
    """The head of an answer, and the beginning of its text.  Raises h11.RemoteProtocolError, OSError."""
    head, text = None, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            text += bytes(event.data)
        elif not isinstance(event, h11.InformationalResponse):
            break
        if head is not None and len(text) >= _SHOWN_BYTES:
            break
    if head is None:
        raise h11.RemoteProtocolError("no answer")
    return head, text[:_SHOWN_BYTES].decode(errors="replace")


def _memory_word(text: str) -> str:
    """A size of `--memory` as Kubernetes writes it."""
    number = text.rstrip("kKmMgGbBiI")
    unit = text[len(number) : len(number) + 1].upper()
    return f"{number}{unit}i" if unit in ("K", "M", "G") else number


def _reason(error: Any) -> str:
    """What the API server says."""
    try:
        return str(json.loads(error.body)["message"])[:500]
    except (ValueError, TypeError, KeyError):
        return str(error.reason)[:500]
