"""The root file system of the machine: Debian with systemd, the engines and what they need, by mmdebstrap.

It is made once, from the archive that this machine's apt uses, and kept as an image below build/; a change of this
file makes it again. `python -m tests.vm.root` makes it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.kvm import kernel

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / "build" / "vm"
IMAGE: Final = CACHE / "root.ext4"
STAMP: Final = CACHE / "root.made"
SUITE: Final = "trixie"
SIZE: Final = "3G"
TOOLS: Final = ("mmdebstrap", "mke2fs", "depmod")
USER: Final = "user"
UID: Final = 1000
# The first row boots, the second are the engines; the last is for the Python that is taken along.
PACKAGES: Final = (
    "systemd systemd-sysv dbus dbus-user-session libpam-systemd udev kmod procps login util-linux iproute2 busybox-static"
    " podman crun runc conmon netavark aardvark-dns passt uidmap fuse-overlayfs docker.io docker-cli containerd"
    " iptables nftables ca-certificates"
    " libssl3t64 libffi8 libsqlite3-0 libreadline8t64"
).split()
UNREAD: Final = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
# Services that only take time in an emulated processor, and engines, which tests start.
MASKED: Final = (
    "tmp.mount", "docker.service", "docker.socket", "containerd.service", "systemd-networkd-wait-online.service", "apt-daily.timer",
    "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_reap.service", "e2scrub_all.timer", "fstrim.timer",
    "systemd-timesyncd.service", "podman.service", "podman.socket", "podman-auto-update.timer", "podman-restart.service",
    "netavark-dhcp-proxy.socket", "netavark-firewalld-reload.service", "systemd-pcrlock-make-policy.service",
    "systemd-firstboot.service", "getty@tty1.service", "serial-getty@ttyS0.service", "ldconfig.service", "systemd-hwdb-update.service",
)  # fmt: skip
AGENT_PATH: Final = "/usr/local/lib/agent.py"
AGENT_PYTHON: Final = (
    "/usr/local/lib/agent-python"  # a link, which boot makes: the Python that is taken along
)
AGENT: Final = """[Unit]
Description=Takes the test's commands
After=dbus.service network.target systemd-user-sessions.service

[Service]
ExecStart=AGENT
KillMode=process
Delegate=yes
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


def missing() -> str:
    """Which program this machine lacks to make it; empty if none."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return next((name for name in TOOLS if shutil.which(name, path=path) is None), "")


def stamp() -> str:
    """What the image depends on."""
    found = kernel.find()
    text = Path(__file__).read_bytes() + str(found.image.name if found else "").encode()
    return hashlib.sha256(text).hexdigest()


def is_made() -> bool:
    """Whether there is an image, made by this file as it is."""
    return IMAGE.exists() and STAMP.exists() and STAMP.read_text() == stamp()


def make() -> None:
    """Make the image."""
    found = kernel.find()
    if found is None:
        raise SystemExit("no kernel: python -m tests.kvm.kernel")
    CACHE.mkdir(parents=True, exist_ok=True)
    STAMP.unlink(missing_ok=True)
    IMAGE.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        root = Path(folder) / "root"
        excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in UNREAD]
        words = ["mmdebstrap", "--variant=minbase", "--components=main", f"--include={','.join(PACKAGES)}"]
        words += ['--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io", *excluded]
        subprocess.run([*words, SUITE, str(root)], check=True)
        configure(root, found)
        size = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", str(root)]
        subprocess.run([*size, str(IMAGE), SIZE], check=True)
    STAMP.write_text(stamp())


def configure(root: Path, found: kernel.Kernel) -> None:
    """Users, services and the kernel's modules."""
    release = found.image.name.removeprefix("vmlinuz-")
    modules = found.image.parent.parent / "usr" / "lib" / "modules" / release
    if not modules.is_dir():
        modules = Path("/lib/modules") / release
    shutil.copytree(modules, root / "usr" / "lib" / "modules" / release, symlinks=True)
    subprocess.run(["depmod", "-b", str(root), release], check=True)
    (root / "root").chmod(0o755)  # an ordinary user executes the Python that may be there
    with (root / "etc/passwd").open("a") as file:
        file.write(f"{USER}:x:{UID}:{UID}::/home/{USER}:/bin/sh\n")
    with (root / "etc/group").open("a") as file:
        file.write(f"{USER}:x:{UID}:\n")
    with (root / "etc/shadow").open("a") as file:
        file.write(f"{USER}:*:20000:0:99999:7:::\n")
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text(f"{USER}:100000:65536\n")
    home = root / "home" / USER
    home.mkdir(parents=True)
    os.chown(home, UID, UID)
    lingering = root / "var/lib/systemd/linger"
    lingering.mkdir(parents=True, exist_ok=True)
    (lingering / USER).touch()  # the user's manager runs without a session
    (root / "etc/hostname").write_text("machine\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.53\n")
    (root / "etc/fstab").write_text("")
    (root / "etc/modules-load.d/engines.conf").write_text("overlay\ntun\nveth\nbridge\nnf_tables\n")
    units = root / "etc/systemd/system"
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    command = f"{AGENT_PYTHON} -I -S {AGENT_PATH}"
    (units / "agent.service").write_text(AGENT.replace("AGENT", command))
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "agent.service").symlink_to("../agent.service")
    shutil.copy(ROOT / "tests" / "kvm" / "agent.py", root / AGENT_PATH.lstrip("/"))


if __name__ == "__main__":
    if not is_made():
        lacks = missing()
        if lacks:
            raise SystemExit(f"needs {lacks}")
        make()
    print(f"image: {IMAGE}")
    sys.exit(0)
