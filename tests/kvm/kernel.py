"""The kernel of the test machine: Debian's, and the modules that give it a /dev/kvm.

Taken from the first place that has one: CLOCHE_KVM_KERNEL (a folder in which a kernel package was unpacked), the
project's cache (`python -m tests.kvm.kernel` fills it: a package is downloaded and unpacked, not installed, so none of
its scripts runs), what is installed.
"""

import lzma
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / "build" / "kvm" / "kernel"
PACKAGE: Final = "linux-image-cloud-amd64"  # depends on the newest; the cloud's is the smallest
# They are loaded without modprobe: in the order of their dependencies, those that a kernel does not have left out.
MODULES: Final = ("irqbypass", "kvm", "tee", "ccp", "kvm-amd")
# Modules that tests of the long run need in the machine's own kernel.
MORE_MODULES: Final = ("loop", "dummy", "veth", "inet_diag", "tcp_diag", "udp_diag", "unix_diag", "netlink_diag",
                       "af_packet_diag")  # fmt: skip


class Kernel:
    """A kernel image and its modules, ready to be loaded, in order."""

    def __init__(self, image: Path, modules: list[tuple[str, bytes]]) -> None:
        self.image = image
        self.modules = modules


def find() -> Kernel | None:
    """A kernel that can be booted, or None."""
    named = os.environ.get("CLOCHE_KVM_KERNEL")
    for top in (Path(named),) if named else (CACHE, Path("/")):
        images = sorted(top.glob("boot/vmlinuz-*"), key=_version)
        for image in reversed(images):
            release = image.name.removeprefix("vmlinuz-")
            folders = [top / "usr/lib/modules" / release, top / "lib/modules" / release]
            folder = next((folder for folder in folders if folder.is_dir()), None)
            if folder is not None and os.access(image, os.R_OK):
                loaded = _modules(folder)
                if any(name == "kvm-amd" for name, _ in loaded):
                    return Kernel(image, loaded)
    return None


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _modules(folder: Path) -> list[tuple[str, bytes]]:
    """(name, code) of the modules that there are."""
    found = []
    for name in (*MODULES, *MORE_MODULES):
        for path in sorted(folder.rglob(f"{name}.ko*")):
            data = path.read_bytes()
            if path.suffix == ".xz":
                data = lzma.decompress(data)
            elif path.suffix != ".ko":
                continue
            found.append((name, data))
    return found


def download() -> None:
    """Fill the cache from the distribution's archive: the package on which PACKAGE depends, unpacked."""
    shown = subprocess.run(
        ["apt-cache", "depends", "--no-recommends", "--no-suggests", PACKAGE],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    names = re.findall(r"Depends: (linux-image-\S+)", shown)
    if not names:
        raise SystemExit(f"{PACKAGE} depends on no kernel")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as folder:
        subprocess.run(["apt-get", "download", "-q", names[0]], cwd=folder, check=True)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, CACHE], check=True)


if __name__ == "__main__":
    if find() is None:
        download()
    kernel = find()
    print(f"kernel: {kernel.image}" if kernel else "no kernel with kvm-amd")
    sys.exit(kernel is None)
