"""What a sandbox shall be: plain data, made by the CLI, the SDK or the OCI runtime, read by `launch` and `sentry`."""

from typing import Final

HOST: Final = "host"  # a host directory or file through the gofer
TMPFS: Final = "tmpfs"
PROC: Final = "proc"
SYSFS: Final = "sysfs"
DEV: Final = "dev"  # a tmpfs with the usual device nodes, devpts and shm

RO: Final = "ro"  # read-only
RW: Final = "rw"  # writes go to the host
COW: Final = "cow"  # writes go to a private layer


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
