"""Engines are started once for all tests of a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import Docker, make_image, make_root, need
from tests.engines.node import PLUGINS, Node


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A daemon with the image bb:1."""
    need("dockerd", "docker", "containerd", "runc", "busybox")
    folder = tmp_path_factory.mktemp("docker")
    image = make_image(tmp_path_factory.mktemp("image"))
    made = Docker(folder)
    try:
        imported = made("import", str(image), "bb:1")
        assert imported.status == 0, imported
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A daemon with a bridge and packet filters, in a network namespace of its own, and the image bb:1."""
    need("dockerd", "docker", "containerd", "runc", "busybox", "ip", "iptables", "nsenter", "unshare")
    folder = tmp_path_factory.mktemp("networks")
    image = make_image(tmp_path_factory.mktemp("image"))
    made = Docker(folder, has_networks=True)
    try:
        imported = made("import", str(image), "bb:1")
        assert imported.status == 0, imported
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system."""
    need("busybox", "runc")
    return make_root(tmp_path_factory.mktemp("root") / "root")


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A containerd with the CRI, and the image bb:1."""
    pytest.importorskip("grpc")
    need("containerd", "ctr", "runc", "busybox", "ip", "nsenter", "unshare", "iptables")
    if not PLUGINS:
        pytest.skip("needs CNI's plugins")
    made = Node(tmp_path_factory.mktemp("cri"))
    try:
        yield made
    finally:
        made.close()
