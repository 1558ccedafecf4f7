"""Boots the machine with systemd: `python -m tests.vm.boot -- COMMAND [ARGUMENT ...]` by hand, `Systemd` in tests.

An initramfs loads what the disk needs, copies the Python environment with cloche to it (at the same paths as here), and
gives way to systemd; there the agent of tests/kvm is a service, and takes commands.
"""

import argparse
import lzma
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.kvm import contents, kernel
from tests.kvm.archive import Archive
from tests.kvm.machine import Machine, missing
from tests.vm import root

MODULES: Final = ("virtio_blk",)
MEMORY_MIB: Final = 3072
LIFETIME_S: Final = 3000.0
LINE: Final = (
    "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on rdinit=/init"
    " systemd.show_status=0 apparmor=0"
)
UNIFIED: Final = " systemd.unified_cgroup_hierarchy=1"
# Version 1 with an own hierarchy of version 2 for systemd, which must be told twice.
HYBRID: Final = " systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
INIT: Final = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs devtmpfs /dev
for module in modules/*; do $b insmod $module; done
$b mount -t ext4 /dev/vda /newroot
$b cp -a /env/. /newroot/
$b ln -sf PYTHON /newrootLINK
exec $b switch_root /newroot /sbin/init
"""


def need() -> str:
    """What this machine lacks for it; empty if nothing."""
    lacks = missing() or ("" if kernel.find() else "a kernel: python -m tests.kvm.kernel")
    return lacks or ("" if root.is_made() else "an image: python -m tests.vm.root")


def archive(found: kernel.Kernel, python: Path, files: dict[str, Path]) -> Archive:
    """The initramfs; `files` are taken along, by their paths in the machine."""
    made = Archive()
    for folder in ("newroot", "dev", "env"):
        made.folder(f"/{folder}")
    made.file("/bin/busybox", contents.BUSYBOX, 0o755)
    made.character_device("/dev/console", 5, 1, 0o600)
    for number, (name, code) in enumerate(modules(found)):
        made.file(f"/modules/{number}-{name}.ko", code)
    taken = Archive()
    taken.folder("/tmp", 0o1777)
    contents.environment(taken, python, ("cloche",))
    for path, source in files.items():
        taken.file(path, source)
    real = python.resolve()
    shown = subprocess.run(["ldd", str(real)], check=True, capture_output=True, text=True).stdout
    for path in re.findall(r"=> (/\S+) \(0x", shown):
        if not path.startswith(("/lib", "/usr")):
            taken.host(Path(path))
    made.entries.update({f"env/{name}": entry for name, entry in taken.entries.items()})
    init = INIT.replace("PYTHON", str(real)).replace("LINK", root.AGENT_PYTHON)
    made.file("/init", init.encode(), 0o755)
    return made


def modules(found: kernel.Kernel) -> list[tuple[str, bytes]]:
    """(name, code) of the modules that the disk needs."""
    release = found.image.name.removeprefix("vmlinuz-")
    tops = (found.image.parent.parent / "usr/lib/modules", found.image.parent.parent / "lib/modules")
    rows = []
    for name in MODULES:
        for top in tops:
            for path in sorted((top / release).rglob(f"{name}.ko*")):
                data = path.read_bytes()
                rows.append((name, lzma.decompress(data) if path.suffix == ".xz" else data))
    return rows


class Systemd(Machine):
    """One boot, until systemd has started what it starts."""

    def __init__(
        self, folder: Path, python: Path, line: str = UNIFIED, files: dict[str, Path] | None = None
    ) -> None:
        found = kernel.find()
        assert found is not None
        archive(found, python, files or {}).write(folder / "initramfs")
        super().__init__(
            found, folder / "initramfs", folder, python, MEMORY_MIB, LIFETIME_S, LINE + line, root.IMAGE
        )


def main() -> int:
    """Boot, run the command, print what it writes; its status."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.boot", description=__doc__)
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="the environment (this one)"
    )
    parser.add_argument("--hybrid", action="store_true", help="control groups of both versions")
    parser.add_argument("--user", action="store_true", help=f"as user {root.UID}")
    parser.add_argument("--console", action="store_true", help="show what the kernel said")
    parser.add_argument("--shell", action="store_true", help="commands from standard input, one a line")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    lacks = need()
    if lacks:
        raise SystemExit(f"needs {lacks}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.monotonic()
        with Systemd(folder, options.python, HYBRID if options.hybrid else UNIFIED) as machine:
            print(f"booted in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
            uid = root.UID if options.user else 0
            status = 0
            lines = [["sh", "-c", line] for line in sys.stdin] if options.shell else [options.command]
            for words in lines:
                status = machine.run(words, uid=uid, echo=True, timeout_s=600).status
        if options.console:
            print((folder / "console.log").read_text(errors="replace"), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
