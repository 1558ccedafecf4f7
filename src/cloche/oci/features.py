"""The output of `features` and `spec`."""

from typing import Any, Final

from cloche.abi.capability import CAP_NAMES
from cloche.arch.machine import MACHINE
from cloche.oci.cgroups import is_unified
from cloche.oci.scheduling import MODE_FLAGS, MODES
from cloche.oci.spec import HOOKS, MAX_VERSION, NAMESPACES

_SUPPORTED: Final = [kind for kind in NAMESPACES if kind != "time"]
_DEFAULT_CAPS: Final = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def features() -> dict[str, Any]:
    """The features structure of the OCI runtime specification."""
    from cloche import __version__
    from cloche.oci.mounts import _FLAGS, _IGNORED
    from cloche.oci.seccomp import _ACTIONS, _OPERATORS

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": MAX_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": sorted([*_FLAGS, *_IGNORED]),
        "linux": {
            "namespaces": sorted(_SUPPORTED),
            "capabilities": ["CAP_" + name for name in CAP_NAMES],
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": False},
            "seccomp": {
                "enabled": True,
                "actions": sorted(_ACTIONS),
                "operators": sorted(_OPERATORS),
                "archs": ["SCMP_ARCH_" + MACHINE.decode().upper()],
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "memoryPolicy": {"modes": sorted(MODES), "flags": sorted(MODE_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {
            "dev.cloche.version": __version__,
            "org.opencontainers.runc.checkpoint.enabled": "false",
        },
        "potentiallyUnsafeConfigAnnotations": [],
    }


def example_spec() -> dict[str, Any]:
    """A config.json to begin with, as `runc spec` gives."""

    def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        row: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
        if options:
            row["options"] = list(options)
        return row

    kinds = ["pid", "network", "ipc", "uts", "mount"]
    if is_unified():
        kinds.append("cgroup")
    caps = {name: list(_DEFAULT_CAPS) for name in ("bounding", "effective", "permitted")}
    return {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": caps,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "cloche",
        "mounts": [
            mount("/proc", "proc", "proc"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount(
                *(
                    "/dev/pts",
                    "devpts",
                    "devpts",
                    "nosuid",
                    "noexec",
                    "newinstance",
                    "ptmxmode=0666",
                    "mode=0620",
                ),
                "gid=5",
            ),
            mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": [
                *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
                *(
                    "/proc/timer_list",
                    "/proc/timer_stats",
                    "/proc/sched_debug",
                    "/sys/firmware",
                    "/proc/scsi",
                ),
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }
