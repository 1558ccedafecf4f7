"""What a sandbox shall be: plain data, made by the CLI, the SDK or the OCI runtime, read by `keeper` and `sentry`.

`dump` and `load` carry it from the monitor to the keeper, which shares nothing else with it: no memory, no environment.
"""

import marshal
import os
from typing import Any, Final

HOST: Final = "host"  # a host directory or file through the gofer
TMPFS: Final = "tmpfs"
PROC: Final = "proc"
SYSFS: Final = "sysfs"
DEV: Final = "dev"  # a tmpfs with the usual device nodes, devpts and shm

RO: Final = "ro"  # read-only
RW: Final = "rw"  # writes go to the host
COW: Final = "cow"  # writes go to a private layer


DEFAULT_CAPS: Final = 0x00000000A80425FB  # Docker's default set


class MountSpec:
    """One mount, in order; parents come first."""

    def __init__(self, destination: bytes, kind: str, source: str = "", mode: str = COW) -> None:
        self.destination: bytes = destination
        self.kind: str = kind
        self.source: str = source  # host path, for HOST
        self.mode: str = mode
        self.is_shared: bool = False  # the host may change it while we run: revalidate
        self.only: list[bytes] | None = None  # HOST: the only names of the top directory that are visible
        self.permissions: int = 0o755  # TMPFS: mode of its root
        self.uid: int = 0
        self.gid: int = 0
        self.is_file: bool = False  # HOST: a file, mounted on a file
        self.keeps_suid: bool = False  # HOST, RW: set-user-ID and set-group-ID bits may be made on the host
        self.is_volume: bool = False  # asked for with -v: --read-only leaves it alone
        self.is_public_only: bool = False  # HOST: only what every user of the host may read
        self.skeleton: str = (
            ""  # HOST: only directories, by the rules of `gofer/skeleton.py` for "var", "run" or "srv"
        )
        self.people: list[bytes] = []  # with a skeleton: names that it must not have
        self.attach_index: int = -1  # filled by `launch`


class PublishSpec:
    """A port of the host that leads into the sandbox (-p)."""

    def __init__(self, text: str, host_ip: str, host_port: int, port: int) -> None:
        self.text: str = text  # as it was written
        self.host_ip: str = host_ip  # numeric
        self.host_port: int = host_port  # 0: any; filled in by `launch`
        self.port: int = port
        self.is_any_port: bool = host_port == 0


class SandboxSpec:
    """Everything that `cloche run` decides before the sandbox exists."""

    def __init__(self, argv: list[bytes]) -> None:
        self.argv: list[bytes] = argv
        self.env: dict[bytes, bytes] = {}
        self.cwd: bytes = b"/"
        self.uid: int = 0
        self.gid: int = 0
        self.groups: list[int] = []
        self.root_source: str = ""  # --rootfs; empty: a tmpfs with the mounts below
        self.mounts: list[MountSpec] = []
        self.symlinks: list[tuple[bytes, bytes]] = []  # (path, target), made in the root
        self.directories: list[tuple[bytes, int, int, int]] = []  # (path, mode, uid, gid)
        self.late_directories: list[
            tuple[bytes, int, int, int]
        ] = []  # the same in mounts, unless they are there
        self.files: list[
            tuple[bytes, bytes, int]
        ] = []  # (path, content, mode), written into the private layers
        self.hostname: bytes = b"cloche"
        self.capabilities: int = DEFAULT_CAPS  # what root inside has, and nobody inside ever more
        self.memory_bytes: int = -1
        self.cpus: float = 0.0  # processors; 0: no limit
        self.max_tasks: int = 4096
        # Limits that the host's control groups enforce as well: the monitor places the guests when the sentry asks.
        self.is_placed: bool = False
        self.has_cpu_group: bool = False
        self.oom_fd: int = -1  # a file that counts the kills for want of memory
        self.timeout_s: float = 0.0  # 0: none
        self.is_read_only: bool = False
        self.has_terminal: bool = False  # -t
        self.is_interactive: bool = True  # stdin is passed on
        self.is_attached: bool = True  # to the terminal of whoever started it
        self.platform: str = "systrap"
        self.mm_mode: str = "direct"
        self.is_patching: bool = True  # system calls of known programs come without a trap
        self.strace_fd: int = -1
        self.log_level: str = "warning"
        self.nofile_limit: int = 1 << 20
        self.allows_suid: bool = False  # set-user-ID programs and file capabilities count
        self.has_init: bool = True  # pid 1 is the sandbox's own; else the program is
        self.is_confined: bool = True
        self.published: list[PublishSpec] = []


# What of the monitor's environment the parts of cloche itself read; nothing else of it reaches them.
SETTINGS: Final = ("CLOCHE_STRICT", "CLOCHE_SPIN_NS", "HOME", "XDG_CACHE_HOME")

_MOUNT_FIELDS: Final = (
    "destination", "kind", "source", "mode", "is_shared", "only", "permissions", "uid", "gid", "is_file", "is_volume",
    "is_public_only", "keeps_suid", "skeleton", "people", "attach_index",
)  # fmt: skip
_PUBLISH_FIELDS: Final = ("text", "host_ip", "host_port", "port", "is_any_port")
_PLAIN_FIELDS: Final = (
    "argv", "env", "cwd", "uid", "gid", "groups", "symlinks", "directories", "late_directories", "files", "hostname",
    "memory_bytes", "cpus", "max_tasks", "is_placed", "has_cpu_group", "oom_fd", "timeout_s", "is_read_only",
    "has_terminal", "is_interactive", "is_attached", "platform", "mm_mode", "is_patching", "strace_fd", "log_level",
    "nofile_limit", "allows_suid", "capabilities", "has_init", "is_confined",
)  # fmt: skip


def dump(spec: SandboxSpec) -> bytes:
    """The spec as bytes.  Paths of the host are encoded here: the reader's locale is another."""
    plain: dict[str, Any] = {name: getattr(spec, name) for name in _PLAIN_FIELDS}
    plain["root_source"] = os.fsencode(spec.root_source)
    mounts: list[dict[str, Any]] = []
    for mount in spec.mounts:
        row: dict[str, Any] = {name: getattr(mount, name) for name in _MOUNT_FIELDS}
        row["source"] = os.fsencode(mount.source)
        mounts.append(row)
    plain["mounts"] = mounts
    plain["published"] = [{name: getattr(each, name) for name in _PUBLISH_FIELDS} for each in spec.published]
    return marshal.dumps(plain)


def load(data: bytes) -> SandboxSpec:
    """The inverse of `dump`, for what another process of this user has dumped."""
    plain: dict[str, Any] = marshal.loads(data)
    spec = SandboxSpec(plain["argv"])
    for name in _PLAIN_FIELDS:
        setattr(spec, name, plain[name])
    spec.root_source = os.fsdecode(plain["root_source"])
    for row in plain["mounts"]:
        mount = MountSpec(row["destination"], row["kind"])
        for name in _MOUNT_FIELDS:
            setattr(mount, name, row[name] if name != "source" else "")
        mount.source = os.fsdecode(row["source"])
        spec.mounts.append(mount)
    for row in plain["published"]:
        published = PublishSpec(row["text"], row["host_ip"], row["host_port"], row["port"])
        published.is_any_port = row["is_any_port"]
        spec.published.append(published)
    return spec
