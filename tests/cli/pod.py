"""Two containers in one sentry, as a monitor makes them: run by test_pods.py, prints its observations as lines.

A word on its command line is the platform.
"""

import os
import shutil
import signal
import sys

from cloche.boot.launch import Sandbox, launch
from cloche.boot.spec import DEV, PROC, MountSpec, SandboxSpec, to_fields
from cloche.oci.members import children, inner_pid
from cloche.wire import protocol, requests
from cloche.wire.protocol import Fields, Message

BUSYBOX = shutil.which("busybox") or ""


def spec_of(name: bytes, script: bytes) -> SandboxSpec:
    """A root of its own in memory, with nothing but busybox and a file that says whose it is."""
    spec = SandboxSpec([b"/bin/busybox", b"sh", b"-c", script])
    spec.hostname = name
    spec.env = {b"PATH": b"/bin"}
    with open(BUSYBOX, "rb") as file:
        spec.files.append((b"/bin/busybox", file.read(), 0o755))
    spec.files.append((b"/whose", name + b"\n", 0o644))
    spec.directories = [(b"/bin", 0o755, 0, 0), (b"/tmp", 0o1777, 0, 0)]
    spec.symlinks = [
        (b"/bin/" + word, b"busybox") for word in (b"nc", b"cat", b"ps", b"sleep", b"hostname", b"ls")
    ]
    spec.mounts = [MountSpec(b"/proc", PROC), MountSpec(b"/dev", DEV)]
    return spec


class Pod:
    """The monitor's side."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.answers: dict[int, Message] = {}
        self.next = requests.FIRST_ID
        sandbox.on_message = self.heard

    def heard(self, message: Message) -> None:
        self.answers[message.ident] = message

    def ask(self, method: str, fields: Fields, fds: list[int] | None = None) -> Message:
        ident = self.next
        self.next += 1
        self.sandbox.ask(ident, method, fields, fds)
        while ident not in self.answers:
            if not self.sandbox.serve(30):
                raise SystemExit(f"no answer to {method}: {self.sandbox.death} {self.sandbox.failure}")
        return self.answers.pop(ident)

    def add(self, ident: str, spec: SandboxSpec, out: int, share: list[str]) -> int:
        """The pid of the process of which its processes are forked, as the sentry counts."""
        fields: Fields = {
            "container": ident, "spec": to_fields(spec), "descriptors": ["stdout", "stderr"],
            "owners": [[0, 0], [0, 0]], "share": share, "share_with": requests.MAIN,
        }  # fmt: skip
        made = self.ask(requests.CREATE, fields, [out, 2])
        started = self.ask(requests.START, {"container": ident})
        print(
            ident,
            "created",
            made.kind == protocol.REPLY,
            "started",
            started.kind == protocol.REPLY,
            flush=True,
        )
        zygote = made.fields["zygote"]
        assert isinstance(zygote, int)
        return zygote

    def host_pid(self, inner: int) -> int:
        """Of a process that the sentry has made, and counts as `inner`."""
        sentry = self.sandbox.sentry_pid
        return next(pid for pid in children(sentry) if inner_pid(pid) == inner)


def main() -> None:
    reader, writer = os.pipe()
    first = spec_of(b"first", b"cat /whose; nc -l -p 7000; echo heard; sleep 1000")
    if len(sys.argv) > 1:
        first.platform = sys.argv[1]
    sandbox = launch(first, [os.open(os.devnull, os.O_RDONLY), writer, 2])
    pod = Pod(sandbox)
    while not sandbox.has_started:
        assert sandbox.serve(30), (sandbox.death, sandbox.failure)
    assert os.read(reader, 100) == b"first\n"
    second_out, second_in = os.pipe()
    # (The greeting is there before nc connects: it ends when the other's input ends, with or without the greeting.)
    script = b"cat /whose; hostname; until nc 127.0.0.1 7000 <<E\nhello\nE\ndo :; done; ps; sleep 1000"
    pod.add("second", spec_of(b"second", script), second_in, ["net", "ipc"])
    text = b""
    while not text.endswith(b"heard\n"):
        text += os.read(reader, 100)
    print("first heard", text, flush=True)
    text = b""
    while b"ps" not in text:
        text += os.read(second_out, 1000)
    print(
        "second says",
        text.split()[:2],
        "sees the other:",
        b"nc -l" in text,
        flush=True,
    )
    third_out, third_in = os.pipe()
    pod.add("third", spec_of(b"third", b"cat /whose; exec sleep 1000"), third_in, ["pid", "uts"])
    assert os.read(third_out, 100) == b"third\n"
    names = pod.ask(requests.LIST, {}).fields["containers"]
    assert isinstance(names, list)
    print("list", [(each["id"], each["state"]) for each in names], flush=True)
    print(
        "processes", [pod.ask(requests.PS, {"container": name}).fields != {} for name in ("second", "third")]
    )
    refused = pod.ask(requests.DELETE, {"container": "second"})
    print("delete of a running one:", refused.name, flush=True)
    pod.ask(requests.SIGNAL, {"container": "second", "signal": signal.SIGKILL})
    print("second ended", sorted(pod.ask(requests.WAIT, {"container": "second"}).fields.items()), flush=True)
    print("deleted", pod.ask(requests.DELETE, {"container": "second"}).kind == protocol.REPLY, flush=True)
    print(
        "deleted", pod.ask(requests.DELETE, {"container": "third", "is_forced": True}).kind == protocol.REPLY
    )
    alive = pod.ask(requests.STATS, {}).fields
    print("first lives:", alive["tasks"] != 0, flush=True)
    pod.add("second", spec_of(b"second", b"exit 3"), second_in, [])
    print("second again", sorted(pod.ask(requests.WAIT, {"container": "second"}).fields.items()), flush=True)
    zygote = pod.add("fourth", spec_of(b"fourth", b"cat /whose; exec sleep 1000"), third_in, [])
    assert os.read(third_out, 100) == b"fourth\n"
    os.kill(pod.host_pid(zygote), signal.SIGKILL)
    print("fourth ended", sorted(pod.ask(requests.WAIT, {"container": "fourth"}).fields.items()), flush=True)
    pod.ask(requests.SIGNAL, {"signal": signal.SIGKILL})
    while sandbox.serve(30):
        pass
    sandbox.reap()
    print("end", sandbox.status, sandbox.death, flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
