"""A node of Kubernetes without its kubelet: containerd with the CRI, and CNI's plugins."""

import contextlib
import hashlib
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.abi.sched import CLONE_NEWNET
from cloche.platform import hostsys
from tests.engines.cri import Kubelet
from tests.engines.harness import RUNTIME, START_S, end, make_root, program, run
from tests.engines.websocket import Channels

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

    @contextlib.contextmanager
    def streams(self, url: str) -> Iterator[Channels]:
        """The streams at an address, which only the node's own network namespace knows."""
        with open("/proc/self/ns/net", "rb") as own, open(f"/proc/{self.daemon.pid}/ns/net", "rb") as other:
            hostsys.setns(other.fileno(), CLONE_NEWNET)
            try:
                made = Channels(url)
            finally:
                hostsys.setns(own.fileno(), CLONE_NEWNET)
        try:
            yield made
        finally:
            made.close()

    def close(self) -> None:
        self.kubelet.close()
        end(self.daemon)
