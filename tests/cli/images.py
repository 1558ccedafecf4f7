"""Images made by tests: OCI layouts of busybox and the files that a test adds."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import CLOCHE, TIMEOUT_S, Outcome, run_words

APPLETS = ("sh", "cat", "ls", "id", "echo", "touch", "pwd", "rm", "env", "stat", "wc", "mkdir", "ln", "mv", "chmod",
           "find", "sort", "sha256sum", "sleep", "hostname", "chown", "setfattr", "tail", "head", "dd", "kill", "readlink",
           "cp", "sync")  # fmt: skip


class LayerTar:
    """A layer being made."""

    def __init__(self) -> None:
        self.raw = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.raw, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, data: bytes = b"", **fields: Any) -> "LayerTar":
        info = tarfile.TarInfo(name)
        info.mode, info.size, info.mtime = 0o644, len(data), 1_700_000_000
        for key, value in fields.items():
            setattr(info, key, value)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def folder(self, name: str, mode: int = 0o755, **fields: Any) -> "LayerTar":
        return self.add(name, type=tarfile.DIRTYPE, mode=mode, **fields)

    def link(self, name: str, target: str) -> "LayerTar":
        return self.add(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)

    def bytes(self) -> bytes:
        self.tar.close()
        return self.raw.getvalue()


def busybox_layer() -> bytes:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    layer = LayerTar()
    for name in ("bin", "etc", "home", "home/app"):
        layer.folder(name, uid=1000 if name == "home/app" else 0, gid=1000 if name == "home/app" else 0)
    layer.folder("tmp", 0o1777)
    layer.add("bin/busybox", Path(busybox).read_bytes(), mode=0o755)
    for applet in APPLETS:
        layer.link(f"bin/{applet}", "busybox")
    layer.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    layer.add("etc/group", b"root:x:0:\napp:x:1000:\nextra:x:44:app\n")
    return layer.bytes()


class Maker:
    """An OCI layout being made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.manifests: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def image(
        self, layers: list[bytes], config: dict[str, Any], tag: str = "test", packing: str = "gzip"
    ) -> str:
        descriptors = []
        for layer in layers:
            kind = "application/vnd.oci.image.layer.v1.tar"
            data = layer
            if packing == "gzip":
                data, kind = gzip.compress(layer, 1, mtime=0), kind + "+gzip"
            elif packing == "zstd":
                import zstandard

                data, kind = zstandard.compress(layer), kind + "+zstd"
            descriptors.append(self.blob(data, kind))
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers],
            },
            "history": [{"created_by": "a test"} for _layer in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": descriptors,
        }
        made = self.blob(json.dumps(manifest).encode(), manifest["mediaType"])
        made["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(made)
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.manifests}))
        return str(made["digest"])


class Images:
    """A store of the test's own."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.data = top / "data"
        self.words = [*CLOCHE, "--root", str(top / "root")]

    def __call__(self, *words: str, timeout: float = TIMEOUT_S, stdin: bytes = b"") -> Outcome:
        return run_words(
            [*self.words, *words], cwd=self.top, timeout=timeout, stdin=stdin, XDG_DATA_HOME=str(self.data)
        )

    def run(self, image: str, *words: str) -> str:
        done = self("run", "--image", image, *words)
        assert done.status == 0 and not done.err, done
        return done.out
