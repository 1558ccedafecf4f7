"""Pods by containerd's CRI, as a kubelet makes them, with cloche beside runc; networks by CNI's plugins."""

import os
import time

from tests.engines.harness import TIMEOUT_S, program, run
from tests.engines.node import Node

RUNTIMES = ("runc", "cloche")


def test_a_pod(node: Node) -> None:
    """Two containers of a pod at one loopback, the pod's address from outside, one restarted while the other runs."""
    kubelet = node.kubelet
    web = "echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp"
    for runtime in RUNTIMES:
        name = f"pod-{runtime}"
        pod = kubelet.run_pod(name, runtime)
        try:
            server = kubelet.start(pod, name, "server", "bb:1", "sh", "-c", web)
            client = kubelet.start(pod, name, "client", "bb:1", "sleep", "100000")
            script = "until wget -q -O - http://127.0.0.1/; do sleep 0.1; done; hostname"
            done = kubelet.execute(client, "sh", "-c", script)
            assert done == (0, f"hello\n{name}\n".encode(), done[2])
            words = [
                program("busybox"),
                "wget",
                "-T",
                "20",
                "-q",
                "-O",
                "-",
                f"http://{kubelet.pod_address(pod)}/",
            ]
            outside = run([program("nsenter"), "-t", str(node.daemon.pid), "-n", *words])
            assert outside.out == "hello\n", outside
            kubelet.stop(server)
            assert kubelet.exit_code(server) in (137, 143)
            kubelet.remove(server)
            kubelet.start(pod, name, "again", "bb:1", "sh", "-c", web.replace("hello", "again"))
            assert kubelet.execute(client, "sh", "-c", script)[1] == f"again\n{name}\n".encode()
            short = kubelet.start(pod, name, "short", "bb:1", "sh", "-c", "exit 7")
            deadline = time.monotonic() + TIMEOUT_S
            while (code := kubelet.exit_code(short)) is None and time.monotonic() < deadline:
                time.sleep(0.1)
            assert code == 7
        finally:
            kubelet.remove_pod(pod)
    assert not [path for path in os.listdir("/sys/fs/cgroup") if path.startswith("pods-pod-cloche")]
