"""Pods by containerd's CRI, as a kubelet makes them, with cloche beside runc; networks by CNI's plugins."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.cri import Kubelet
from tests.engines.harness import RUNTIME, START_S, TIMEOUT_S, end, make_root, need, program, run

RUNTIMES = ("runc", "cloche")
PLUGINS = next((path for path in ("/usr/lib/cni", "/opt/cni/bin") if Path(path, "bridge").exists()), "")
_CONFIG = """version = 2
root = "{0}/root"
state = "{0}/state"
[grpc]
  address = "{0}/c.sock"
[ttrpc]
  address = "{0}/c.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "bb:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{1}"
    conf_dir = "{0}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cloche]
    runtime_type = "io.containerd.runc.v2"
    pod_annotations = ["dev.cloche.*"]
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cloche.options]
      BinaryName = "{2}"
"""


def _image(root: Path, path: Path) -> None:
    """An archive as `docker save` makes it; without a command it only waits, as a pod's first container does."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, ".")
    data = layer.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sleep", "100000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()]},
    }
    manifest = [{"Config": "config.json", "RepoTags": ["bb:1"], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("layer.tar", data),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


class Node:
    """A containerd with the CRI, in a network namespace of its own."""

    def __init__(self, folder: Path) -> None:
        """Skips if it does not come up."""
        self.folder = folder
        (folder / "cni").mkdir()
        ipam = {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]], "dataDir": f"{folder}/ipam"}
        plugins = [
            {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        network = {"cniVersion": "0.4.0", "name": "test", "plugins": plugins}
        (folder / "cni" / "10-test.conflist").write_text(json.dumps(network))
        (folder / "c.toml").write_text(_CONFIG.format(folder, PLUGINS, RUNTIME))
        up = f'{program("ip")} link set lo up && exec "$@"'
        words = [program("unshare"), "-n", program("sh"), "-c", up, "containerd"]
        with open(folder / "log", "wb") as log:
            self.daemon = subprocess.Popen(
                [*words, program("containerd"), "-c", str(folder / "c.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _image(make_root(folder / "image"), folder / "bb.tar")
        ctr = [program("ctr"), "-a", f"{folder}/c.sock", "-n", "k8s.io"]
        deadline = time.monotonic() + START_S
        while run([*ctr, "version"]).status:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                end(self.daemon)
                pytest.skip(f"needs a containerd that starts: {(folder / 'log').read_text()[-200:]}")
            time.sleep(0.1)
        imported = run([*ctr, "images", "import", "--base-name", "bb", str(folder / "bb.tar")])
        assert imported.status == 0, imported
        self.kubelet = Kubelet(f"{folder}/c.sock")

    def close(self) -> None:
        self.kubelet.close()
        end(self.daemon)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    pytest.importorskip("grpc")
    need("containerd", "ctr", "runc", "busybox", "ip", "nsenter", "unshare", "iptables")
    if not PLUGINS:
        pytest.skip("needs CNI's plugins")
    made = Node(tmp_path_factory.mktemp("cri"))
    try:
        yield made
    finally:
        made.close()


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
