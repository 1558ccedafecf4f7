"""The specification of a sandbox: plain data, made by the CLI, the SDK or the OCI runtime, read by `keeper` and
`sentry`.

`dump` and `load` carry it from the monitor to the keeper; the two share no memory and no environment.
"""

import os
from collections.abc import Callable
from typing import Any, Final

from cloche.wire.cbor import decode, encode
from cloche.wire.protocol import Fields, ProtocolError, take_list

HOST: Final = "host"  # a host directory or file through the gofer
TMPFS: Final = "tmpfs"
PROC: Final = "proc"
SYSFS: Final = "sysfs"
DEV: Final = "dev"  # a tmpfs with the usual device nodes, devpts and shm
DEVPTS: Final = "devpts"
MQUEUE: Final = "mqueue"
CGROUP: Final = "cgroup"

RO: Final = "ro"  # read-only
RW: Final = "rw"  # writes go to the host
COW: Final = "cow"  # writes go to a private layer
IMAGE_PREFIX: Final = b"image:"  # marks a source that is an image, not a directory


DEFAULT_CAPS: Final = 0x00000000A80425FB  # Docker's default set

PLATFORMS: Final = ("systrap", "kvm")  # how guest code runs (platform/choose.py); the first is the default


class MountSpec:
    """One mount, in order; parents come first."""

    def __init__(self, destination: bytes, kind: str, source: str = "", mode: str = COW) -> None:
        self.destination: bytes = destination
        self.kind: str = kind
        self.source: str = source  # host path, for HOST
        self.mode: str = mode
        self.is_shared: bool = False  # the host may change it while the sandbox runs: revalidate
        self.only: list[bytes] | None = None  # HOST: the only names of the top directory that are visible
        self.permissions: int = 0o755  # TMPFS: mode of its root
        self.uid: int = 0
        self.gid: int = 0
        self.is_file: bool = False  # HOST: a file, mounted on a file
        self.keeps_suid: bool = False  # HOST, RW: set-user-ID and set-group-ID bits may be made on the host
        # it may be on other storage than the system: a gofer worker of its own serves it
        self.has_worker: bool = False
        # HOST, RW: Unix sockets that programs bind in it can be reached from the host
        self.has_doors: bool = False
        self.shows_sockets: bool = False  # HOST: programs may connect to Unix sockets of the host in it
        self.is_volume: bool = False  # asked for with -v: --read-only leaves it alone
        self.is_public_only: bool = False  # HOST: only what every user of the host may read
        # HOST: only directories, by the rules of `gofer/skeleton.py` for "var", "run" or "srv"
        self.skeleton: str = ""
        self.people: list[bytes] = []  # with a skeleton: names that it must not show
        self.attach_index: int = -1  # filled by `launch`
        self.flags: int = -1  # MS_* flags; -1: the usual ones of its kind
        self.data: bytes = b""  # TMPFS, DEVPTS: options as mount(2) takes them
        self.copies_up: bool = False  # TMPFS: it begins with a copy of the directory below (tmpcopyup)
        self.shown_root: bytes = b""  # HOST: what /proc/PID/mountinfo says of where it is on the host
        # HOST: the name of a volume with a gofer of its own, which other containers of the pod use as well
        self.volume: bytes = b""
        # HOST, RW: the directory of the account of a volume that has a size (`wire.volume`), its attach point, which
        # `launch` fills in, and the slot there
        self.account_source: str = ""
        self.account_index: int = -1
        self.inodes_source: str = ""  # the account of its files, which only the gofer has
        self.account_slot: int = -1
        # HOST: rows of (id of the files, id on the host as which it appears, count); without rows they are not mapped
        self.uid_map: list[tuple[int, int, int]] = []
        self.gid_map: list[tuple[int, int, int]] = []
        self.maps_below: bool = False  # what is mounted below it is mapped, too
        self.is_flat: bool = False  # HOST: without what is mounted below it
        self.is_private: bool = False  # HOST: what the host mounts below it later does not appear
        # HOST: what mountinfo says of propagation: MS_* bits; its groups, where different numbers are different ones
        self.propagation: int = 0
        self.peers: int = 0
        self.master: int = 0


class PublishSpec:
    """A port of the host that leads into the sandbox (-p)."""

    def __init__(self, text: str, host_ip: str, host_port: int, port: int) -> None:
        self.text: str = text  # as it was written
        self.host_ip: str = host_ip  # numeric
        self.host_port: int = host_port  # 0: any; filled in by `launch`
        self.port: int = port
        self.is_any_port: bool = host_port == 0


class EgressSpec:
    """Settings that only the egress process gets."""

    def __init__(self, policy: bytes) -> None:
        self.policy: bytes = policy  # CBOR of `egress.policy.Policy.to_fields`
        self.sandbox: str = ""  # its name in the log
        self.resolv_conf: str = ""  # a container's, which its engine writes; read by its monitor
        self.needs_authority: bool = False  # a container's programs are to believe it (`oci.trust`) …
        self.placeholders: dict[str, str] = {}  # … and find these in variables
        self.wants_report: bool = False
        self.log_fd: int = -1
        self.second_log_fd: int = -1  # the log's contents move there when it is full
        # Called with the certificate (PEM) of egress's authority once egress runs, to put it where programs find it.
        self.on_authority: Callable[[bytes], None] | None = None


class HealthSpec:
    """A command that the monitor executes in the sandbox at intervals (`cli.health`). Times are in seconds."""

    def __init__(self, argv: list[bytes]) -> None:
        self.argv: list[bytes] = argv
        self.interval_s: float = 30.0
        self.timeout_s: float = 30.0
        self.start_period_s: float = 0.0
        self.start_interval_s: float = 5.0
        self.retries: int = 3


class SandboxSpec:
    """The settings that `cloche run` decides before the sandbox exists."""

    def __init__(self, argv: list[bytes]) -> None:
        self.argv: list[bytes] = argv
        self.env: dict[bytes, bytes] = {}
        self.cwd: bytes = b"/"
        self.uid: int = 0
        self.gid: int = 0
        self.groups: list[int] = []
        self.root_source: str = ""  # --rootfs; empty: a tmpfs with the mounts below
        # --image: `root_source` is the store's directory of contents, of which only these names are visible, …
        self.root_only: list[bytes] = []
        self.image_tree: bytes = b""  # … and this one has the tree of names (`wire.imagetree`)
        self.image_digest: bytes = b""  # of its manifest
        self.layer_source: str = ""  # host directory where the private layers are kept; empty: in memory only
        self.layer_index: int = -1  # its attach point, filled by `launch`
        self.disk_bytes: int = -1  # --disk: of all private layers together
        self.mounts: list[MountSpec] = []
        self.symlinks: list[tuple[bytes, bytes]] = []  # (path, target), made in the root
        self.directories: list[tuple[bytes, int, int, int]] = []  # (path, mode, uid, gid)
        # The same in mounts, unless they exist
        self.late_directories: list[tuple[bytes, int, int, int]] = []
        # (path, content, mode), written into the private layers
        self.files: list[tuple[bytes, bytes, int]] = []
        self.hostname: bytes = b"cloche"
        self.stop_signal: int = 15  # the signal that `cloche stop` sends first
        self.capabilities: int = DEFAULT_CAPS  # of root inside; no process inside ever has more
        self.memory_bytes: int = -1
        self.cpus: float = 0.0  # processors; 0: no limit
        self.max_tasks: int = 4096
        # Limits are enforced by the host's control groups as well: the monitor moves the guests there when the sentry
        # asks.
        self.is_placed: bool = False
        self.has_cpu_group: bool = False
        self.oom_fd: int = -1  # a file that counts the kills for want of memory
        self.timeout_s: float = 0.0  # 0: none
        self.is_read_only: bool = False
        self.has_terminal: bool = False  # -t
        self.keeps_newlines: bool = False  # this leaves them as programs write them, until they set ONLCR
        self.is_interactive: bool = True  # stdin is passed on
        self.is_attached: bool = True  # to the terminal from which it was started
        self.platform: str = PLATFORMS[0]
        self.mm_mode: str = "direct"
        self.is_patching: bool = True  # system calls in program files are patched, and come without a trap
        self.strace_fd: int = -1
        self.device_fd: int = -1  # of the platform's device, opened by the keeper
        self.log_level: str = "warning"
        self.is_timed: bool = False  # the parts report the times of the steps of the start (--timing)
        self.nofile_limit: int = 1 << 20
        self.allows_suid: bool = False  # set-user-ID programs and file capabilities count
        self.has_init: bool = True  # pid 1 is the sandbox's own; else the program is
        self.is_idle: bool = False  # with init: no first program; it waits for commands from outside
        self.is_confined: bool = True
        self.published: list[PublishSpec] = []
        self.is_reachable: bool = False  # who controls it may connect to its ports, published or not
        # What OCI bundles ask for beyond that.
        self.root_mode: str = COW
        self.root_is_shared: bool = False  # the host may change it while the sandbox runs
        self.root_is_private: bool = False  # what the host mounts below it later does not appear
        self.umask: int = 0o022
        self.rlimits: list[tuple[int, int, int]] = []  # (RLIMIT_*, soft, hard); -1: infinity
        # Effective, permitted, inheritable, ambient, bounding; empty: by the user
        self.cap_sets: list[int] = []
        self.no_new_privileges: bool = False
        self.oom_score_adj: int = 0
        # What a program starts with (`boot.attributes`).  Policy, nice value, priority, flags, runtime, deadline,
        # period in ns; empty: the defaults
        self.scheduler: list[int] = []
        self.io_priority: int = -1  # of ioprio_set(2); -1: the default
        self.personality: int = 0
        self.memory_policy: list[int] = []  # mode with flags, and its nodes
        self.filter: bytes = b""  # a seccomp program (struct sock_filter) for every program of the container
        self.devices: list[tuple[bytes, int, int, int, int, int]] = []  # (path, mode, major, minor, uid, gid)
        self.masked_paths: list[bytes] = []  # paths that are hidden
        # Files (name, content) that are the sentry's, in a file system of their own, whose folder is made if it is
        # missing; and (path, name): the file there is covered by one of them.  Nothing is written to the root.
        self.shown_folder: bytes = b""
        self.shown_files: list[tuple[bytes, bytes]] = []
        self.covered_files: list[tuple[bytes, bytes]] = []
        self.read_only_paths: list[bytes] = []
        self.sysctls: list[tuple[bytes, bytes]] = []  # (key, value)
        self.domainname: bytes = b""
        self.checks_program: bool = False  # `create` fails if the program cannot be executed
        # With egress: the sandbox's own address, and the address of the resolver for its programs; empty: no network.
        self.net_address: bytes = b""
        self.net_address6: bytes = b""
        self.net_resolver: bytes = b""
        # A descriptor of the network namespace in which its sockets are made; it goes to the network process alone.
        # -1: none
        self.network_fd: int = -1
        self.has_network: bool = False
        # The user namespace of its programs: rows of (id inside, id outside, count); without rows there is none.
        self.uid_map: list[tuple[int, int, int]] = []
        self.gid_map: list[tuple[int, int, int]] = []
        self.may_setgroups: bool = True
        self.user_ns_name: bytes = b""  # the same for containers that share the namespace of the host
        self.owned_namespaces: list[bytes] = []  # the kinds of its other namespaces that belong to it
        # A descriptor of it, which goes to gofers and the network process; -1: none
        self.user_ns_fd: int = -1
        self.health: HealthSpec | None = None  # for the monitor
        self.egress: EgressSpec | None = None  # sent to the keeper separately, and never to the sentry


# The variables of the monitor's environment that the parts of cloche get; they get no others.
SETTINGS: Final = ("CLOCHE_STRICT", "CLOCHE_SPIN_NS", "CLOCHE_NAMES", "HOME", "XDG_CACHE_HOME")

_MOUNT_FIELDS: Final = (
    "destination", "kind", "source", "mode", "is_shared", "only", "permissions", "uid", "gid", "is_file", "is_volume",
    "has_worker", "has_doors", "shows_sockets",
    "is_public_only", "keeps_suid", "skeleton", "people", "attach_index",
    "flags", "data", "copies_up", "volume", "account_source", "account_index", "account_slot",
    "inodes_source", "shown_root", "uid_map", "gid_map", "maps_below", "is_flat",
    "is_private", "propagation", "peers", "master",
)  # fmt: skip
_PUBLISH_FIELDS: Final = ("text", "host_ip", "host_port", "port", "is_any_port")
_PLAIN_FIELDS: Final = (
    "argv", "cwd", "uid", "gid", "groups", "root_source", "root_only", "image_tree", "image_digest",
    "symlinks", "directories", "late_directories", "files",
    "hostname", "memory_bytes", "cpus", "max_tasks", "is_placed", "has_cpu_group", "timeout_s", "is_read_only",
    "keeps_newlines",
    "has_terminal", "is_interactive", "is_attached", "platform", "mm_mode", "is_patching", "log_level", "nofile_limit",
    "allows_suid", "capabilities", "is_timed", "has_init", "is_idle", "is_confined", "is_reachable",
    "root_mode", "root_is_shared", "root_is_private", "umask", "rlimits",
    "cap_sets", "no_new_privileges", "oom_score_adj", "scheduler", "io_priority", "personality", "memory_policy",
    "filter", "devices", "masked_paths", "read_only_paths", "sysctls",
    "shown_folder", "shown_files", "covered_files",
    "domainname", "checks_program",
    "net_address", "net_address6", "net_resolver", "has_network",
    "layer_source", "layer_index", "disk_bytes", "stop_signal",
    "uid_map", "gid_map", "may_setgroups", "user_ns_name", "owned_namespaces",
)  # fmt: skip
# The types of the items of lists: of each item, or of each item's parts.
_ITEMS: Final[dict[str, tuple[type, ...]]] = {
    "argv": (bytes,),
    "groups": (int,),
    "only": (bytes,),
    "root_only": (bytes,),
    "people": (bytes,),
    "symlinks": (bytes, bytes),
    "directories": (bytes, int, int, int),
    "late_directories": (bytes, int, int, int),
    "files": (bytes, bytes, int),
    "rlimits": (int, int, int),
    "cap_sets": (int,),
    "scheduler": (int,),
    "memory_policy": (int,),
    "devices": (bytes, int, int, int, int, int),
    "masked_paths": (bytes,),
    "read_only_paths": (bytes,),
    "shown_files": (bytes, bytes),
    "covered_files": (bytes, bytes),
    "sysctls": (bytes, bytes),
    "uid_map": (int, int, int),
    "gid_map": (int, int, int),
    "owned_namespaces": (bytes,),
}
_NULLABLE: Final = ("only",)
_MAX_ITEMS: Final = 1 << 20


def _pack(source: object, names: tuple[str, ...]) -> Fields:
    found: Fields = {}
    for name in names:
        value = getattr(source, name)
        # Text, for example paths of the host, travels as bytes: the reader's locale may differ.
        found[name] = os.fsencode(value) if isinstance(value, str) else value
    return found


def _unpack(target: object, names: tuple[str, ...], fields: Fields) -> None:
    """Set the attributes that `_pack` has read; each must be of the type of its current value. Raises ProtocolError."""
    if sorted(fields) != sorted(names):
        raise ProtocolError("a spec of another version")
    for name in names:
        value = fields[name]
        kind = type(getattr(target, name))
        if kind is str:
            if not isinstance(value, bytes) or b"\0" in value:
                raise ProtocolError(f"{name} is not a string of bytes")
            setattr(target, name, os.fsdecode(value))
        elif name in _ITEMS:
            setattr(target, name, None if value is None and name in _NULLABLE else _items(name, value))
        elif type(value) is not kind:
            raise ProtocolError(f"{name} is not of type {kind.__name__}")
        else:
            setattr(target, name, value)


def _items(name: str, value: object) -> list[Any]:
    """A list whose items have the types of the field `name`. Raises ProtocolError."""
    kinds = _ITEMS[name]
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise ProtocolError(f"{name} is not a list")
    for item in value:
        parts = [item] if len(kinds) == 1 else item
        if not isinstance(parts, list) or [type(part) for part in parts] != list(kinds):
            raise ProtocolError(
                f"{name} has something that is not {' '.join([kind.__name__ for kind in kinds])}"
            )
    return value if len(kinds) == 1 else [tuple(item) for item in value]


def to_fields(spec: SandboxSpec) -> Fields:
    """The spec as data; descriptors travel separately."""
    fields = _pack(spec, _PLAIN_FIELDS)
    fields["env"] = [[key, value] for key, value in spec.env.items()]
    fields["mounts"] = [_pack(mount, _MOUNT_FIELDS) for mount in spec.mounts]
    fields["published"] = [_pack(each, _PUBLISH_FIELDS) for each in spec.published]
    return fields


def from_fields(fields: Fields) -> SandboxSpec:
    """The inverse of `to_fields`.  Raises ProtocolError unless every field is there and of its type."""
    spec = SandboxSpec([])
    rest = dict(fields)
    env = take_list(rest, "env", _MAX_ITEMS)
    mounts = take_list(rest, "mounts", _MAX_ITEMS)
    published = take_list(rest, "published", _MAX_ITEMS)
    for name in ("env", "mounts", "published"):
        rest.pop(name, None)
    _unpack(spec, _PLAIN_FIELDS, rest)
    if not spec.argv and not spec.is_idle:
        raise ProtocolError("no command")
    for pair in env:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ProtocolError("a variable that is none")
        key, value = pair
        if not isinstance(key, bytes) or not isinstance(value, bytes):
            raise ProtocolError("a variable that is none")
        spec.env[key] = value
    for each in mounts:
        mount = MountSpec(b"", "")
        _unpack(mount, _MOUNT_FIELDS, _row(each))
        spec.mounts.append(mount)
    for each in published:
        port = PublishSpec("", "", 0, 0)
        _unpack(port, _PUBLISH_FIELDS, _row(each))
        spec.published.append(port)
    return spec


def _row(value: object) -> Fields:
    if not isinstance(value, dict):
        raise ProtocolError("a spec of another version")
    return value


def dump(spec: SandboxSpec) -> bytes:
    """The spec as bytes, for a process that is to be started."""
    return encode(to_fields(spec))


def dump_bare(spec: SandboxSpec) -> bytes:
    """The part of the spec that is needed to open the sandbox's files again, without anything that was meant for its
    programs.
    """
    fields = to_fields(spec)
    for name in ("argv", "env", "published"):
        fields[name] = []
    for name in ("net_address", "net_address6", "net_resolver"):
        fields[name] = b""
    # its slot in a volume's account is another's by then
    no_account: Fields = {
        "account_source": b"",
        "account_index": -1,
        "account_slot": -1,
        "inodes_source": b"",
    }
    fields["mounts"] = [{**_pack(mount, _MOUNT_FIELDS), **no_account} for mount in spec.mounts]
    for name in (
        "has_terminal",
        "keeps_newlines",
        "is_interactive",
        "is_attached",
        "is_placed",
        "has_cpu_group",
        "is_timed",
        "has_network",
        "is_reachable",
    ):
        fields[name] = False
    return encode({**fields, "is_idle": True, "has_init": True, "timeout_s": 0.0, "cwd": b"/"})


def is_usual(spec: SandboxSpec, settings: dict[str, str]) -> bool:
    """Whether a sentry can confine itself and start its platform without knowing more of the sandbox than that it is
    as most are.
    """
    usual = SandboxSpec([])
    return (
        (spec.platform, spec.mm_mode) == (usual.platform, usual.mm_mode)
        and spec.is_patching == usual.is_patching
        and spec.is_confined == usual.is_confined
        and "CLOCHE_SPIN_NS" not in settings
    )


def load(data: bytes) -> SandboxSpec:
    """The inverse of `dump`.  Raises ProtocolError, CborError."""
    return from_fields(_row(decode(data)))


def host_places(spec: SandboxSpec) -> list[object]:
    """The mounts of the host's files, for the answer to `mounts` (`wire.files`): [place inside, host path, mode, is a
    file, is a volume, shows only a part]. Instead of the path an image has IMAGE_PREFIX, its digest, a colon, and the
    path of its tree.
    """
    found: list[object] = []
    if spec.root_source:
        source = os.fsencode(spec.root_source)
        if spec.image_tree:
            source = IMAGE_PREFIX + spec.image_digest + b":" + os.path.join(source, spec.image_tree)
        found.append([b"/", source, spec.root_mode, False, False, False])
    for each in spec.mounts:
        if each.kind == HOST:
            is_part = each.only is not None or each.is_public_only or bool(each.skeleton)
            source = os.fsencode(each.source)
            found.append([each.destination, source, each.mode, each.is_file, each.is_volume, is_part])
    return found
