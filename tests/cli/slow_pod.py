"""A container whose gofer does not answer, beside another: run by test_pods.py, prints its observations as lines."""

import os
import signal
import sys
import tempfile

from cloche.boot.launch import launch
from cloche.boot.spec import COW, to_fields
from cloche.gofer.launch import spawn_gofer
from cloche.gofer.nodes import AttachPoint
from cloche.wire import protocol, requests
from cloche.wire.protocol import Fields
from tests.cli.pod import Pod, spec_of

CALLS = b"while read line; do n=0; while [ $n -lt 2000 ]; do n=$((n + 1)); cd /tmp; done; echo others; done"


def main() -> None:
    asked, asking = os.pipe()
    heard, told = os.pipe()
    sandbox = launch(spec_of(b"first", CALLS), [asked, told, 2])
    pod = Pod(sandbox)
    while not sandbox.has_started:
        assert sandbox.serve(30), (sandbox.death, sandbox.failure)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("bin", "tmp", "proc", "dev"):
            os.mkdir(os.path.join(folder, name))
        gofer = spawn_gofer([AttachPoint(folder, is_writable=False)])
        os.kill(gofer.pid, signal.SIGSTOP)
        spec = spec_of(b"second", b"cat /whose")
        spec.root_source, spec.root_mode = folder, COW
        fields: Fields = {
            "container": "second", "spec": to_fields(spec), "descriptors": ["stdout", "stderr", requests.GOFER],
            "owners": [[0, 0], [0, 0], [0, 0]], "share": [], "share_with": requests.MAIN,
        }  # fmt: skip
        output, into = os.pipe()
        sandbox.ask(pod.next, requests.CREATE, fields, [into, 2, gofer.sock.fileno()])
        gofer.sock.close()
        created = pod.next
        pod.next += 1
        # Its answer comes after that of the other request, which was sent before.
        print(len(pod.ask(requests.PS, {}).fields) > 0, created in pod.answers, flush=True)
        os.write(asking, b"go\n")
        print(os.read(heard, 100), flush=True)
        os.kill(gofer.pid, signal.SIGCONT)
        while created not in pod.answers:
            assert sandbox.serve(30), "no answer"
        print("created", pod.answers.pop(created).kind == protocol.REPLY, flush=True)
        pod.ask(requests.START, {"container": "second"})
        print(os.read(output, 100), flush=True)
        pod.ask(requests.WAIT, {"container": "second"})
        pod.ask(requests.SIGNAL, {"signal": signal.SIGKILL})
        while sandbox.serve(30):
            pass
        sandbox.reap()
        print("end", sandbox.status, sandbox.death, flush=True)
        os.waitpid(gofer.pid, 0)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
