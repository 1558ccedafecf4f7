"""A kubelet's side of containerd's CRI (k8s.io/cri-api, runtime.v1): the calls that tests make, over gRPC.

The messages are written by field number, so there is nothing to generate.
"""

from typing import Any

SERVICE = "/runtime.v1.RuntimeService/"
TIMEOUT_S = 120
PID_POD, PID_CONTAINER = 0, 1  # NamespaceMode


def _varint(value: int) -> bytes:
    out = b""
    while True:
        part, value = value & 0x7F, value >> 7
        if not value:
            return out + bytes([part])
        out += bytes([part | 0x80])


def field(number: int, value: str | bytes | int) -> bytes:
    """One field: a number, or text or a message by its length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def fields(data: bytes) -> dict[int, Any]:
    """The fields of a message, the last of each number."""
    found: dict[int, Any] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not data[at - 1] & 0x80:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            found[key >> 3] = number()
        else:
            assert key & 7 == 2
            size = number()
            found[key >> 3] = data[at : at + size]
            at += size
    return found


class Kubelet:
    """A client of containerd's socket."""

    def __init__(self, path: str) -> None:
        import grpc

        self.channel: Any = grpc.insecure_channel(f"unix://{path}")

    def call(self, method: str, request: bytes) -> dict[int, Any]:
        """One call.  Raises grpc.RpcError."""
        stub = self.channel.unary_unary(SERVICE + method)  # bytes in, bytes out
        return fields(stub(request, timeout=TIMEOUT_S, wait_for_ready=True))

    # -- pods ----------------------------------------------------------------------------------------------
    @staticmethod
    def pod_config(name: str, pid_mode: int = PID_POD) -> bytes:
        """PodSandboxConfig."""
        metadata = field(1, name) + field(2, f"uid-{name}") + field(3, "default")
        options = field(2, field(1, field(2, pid_mode)))
        return field(1, metadata) + field(2, name) + field(8, field(1, f"/pods-{name}") + options)

    def run_pod(self, name: str, handler: str, pid_mode: int = PID_POD) -> str:
        config = self.pod_config(name, pid_mode)
        found = self.call("RunPodSandbox", field(1, config) + field(2, handler))
        return bytes(found[1]).decode()

    def pod_address(self, pod: str) -> str:
        status = fields(self.call("PodSandboxStatus", field(1, pod))[1])
        return bytes(fields(status[5])[1]).decode()

    def remove_pod(self, pod: str) -> None:
        self.call("StopPodSandbox", field(1, pod))
        self.call("RemovePodSandbox", field(1, pod))

    # -- containers ----------------------------------------------------------------------------------------
    def start(
        self,
        pod: str,
        pod_name: str,
        name: str,
        image: str,
        *command: str,
        mounts: "list[tuple[str, str, bool]] | None" = None,
        memory: int = 0,
        pid_mode: int = PID_POD,
        has_stdin: bool = False,
    ) -> str:
        """Create a container and start it.  `mounts`: place, directory of the host, read-only."""
        config = field(1, field(1, name)) + field(2, field(1, image))
        config += b"".join([field(3, word) for word in command])
        for place, source, is_read_only in mounts or []:
            config += field(7, field(1, place) + field(2, source) + field(3, int(is_read_only)))
        config += field(12, int(has_stdin))
        options = field(2, field(3, field(2, pid_mode)))
        config += field(15, (field(1, field(4, memory)) if memory else b"") + options)
        request = field(1, pod) + field(2, config) + field(3, self.pod_config(pod_name, pid_mode))
        container = bytes(self.call("CreateContainer", request)[1]).decode()
        self.call("StartContainer", field(1, container))
        return container

    def execute(self, container: str, *command: str) -> tuple[int, bytes, bytes]:
        """ExecSync: exit code, output, errors."""
        request = field(1, container) + b"".join([field(2, word) for word in command]) + field(3, 60)
        found = self.call("ExecSync", request)
        return found.get(3, 0), found.get(1, b""), found.get(2, b"")

    def exec_url(self, container: str, *command: str, has_terminal: bool = False) -> str:
        """Exec: where its streams are."""
        request = field(1, container) + b"".join([field(2, word) for word in command])
        request += field(3, int(has_terminal)) + field(4, 1) + field(5, 1) + field(6, int(not has_terminal))
        return bytes(self.call("Exec", request)[1]).decode()

    def attach_url(self, container: str) -> str:
        """Attach: where its streams are."""
        request = field(1, container) + field(2, 1) + field(4, 1) + field(5, 1)
        return bytes(self.call("Attach", request)[1]).decode()

    def forward_url(self, pod: str, port: int) -> str:
        """PortForward: where the port's streams are."""
        request = field(1, pod) + field(2, _varint(port))
        return bytes(self.call("PortForward", request)[1]).decode() + f"?port={port}"

    def exit_code(self, container: str) -> int | None:
        """Of a container that has ended."""
        status = fields(self.call("ContainerStatus", field(1, container))[1])
        return status.get(7, 0) if status.get(3, 0) == 2 else None

    def reason(self, container: str) -> str:
        """Why it has ended."""
        status = fields(self.call("ContainerStatus", field(1, container))[1])
        return bytes(status.get(10, b"")).decode()

    def memory_bytes(self, container: str) -> int:
        """Of ContainerStats: the working set."""
        stats = fields(self.call("ContainerStats", field(1, container))[1])
        return int(fields(fields(stats[3])[2]).get(1, 0))

    def processor_ns(self, container: str) -> int:
        """Of ContainerStats: processor time."""
        stats = fields(self.call("ContainerStats", field(1, container))[1])
        return int(fields(fields(stats[2])[2]).get(1, 0))

    def stop(self, container: str) -> None:
        self.call("StopContainer", field(1, container) + field(2, 1))

    def remove(self, container: str) -> None:
        self.call("RemoveContainer", field(1, container))

    def close(self) -> None:
        self.channel.close()
