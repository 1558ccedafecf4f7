"""config.json of a bundle (OCI runtime specification 1.3.0, "Configuration"), read strictly and within bounds.

Everything that is used is checked for its type here, and refused with one line that names the field.  What means
nothing to a kernel in user space is accepted and ignored: docs/compat-oci.md lists it.
"""

import os
from typing import Any, Final

from cloche.abi.capability import ALL_CAPS, CAP_NAMES
from cloche.abi.magic import PROC_SUPER_MAGIC
from cloche.boot.idmaps import Rows
from cloche.oci.cgroups import THROTTLES
from cloche.oci.config import read_json
from cloche.oci.errors import OciError
from cloche.oci.fields import take, take_int, take_objects, take_strings, take_text
from cloche.oci.scheduling import (
    affinity_of,
    check_clocks,
    io_priority_of,
    memory_policy_of,
    personality_of,
    scheduler_of,
)
from cloche.oci.userns import IdMaps, id_maps, maps_at
from cloche.platform import hostsys

MAX_VERSION: Final = "1.3.0"
_RLIMITS: Final = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS"),
    *("SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)
_PROPAGATIONS: Final = ("private", "slave", "shared", "unbindable")
_PROC_ROOT_INO: Final = 1
_IPC_PARAMETERS: Final = tuple(
    "kernel." + name
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
NAMESPACES: Final = ("mount", "network", "uts", "ipc", "pid", "cgroup", "user", "time")
CAP_SETS: Final = ("effective", "permitted", "inheritable", "ambient", "bounding")


# -- processes -------------------------------------------------------------------------------------------------
class ProcessSpec:
    """`process`, of a bundle or of `exec`."""

    def __init__(self, data: dict[str, Any], where: str = "process.", *, is_init: bool = True) -> None:
        """Raises OciError. Some fields are checked more strictly for the first program of a container."""
        self.argv: list[bytes] = [encode(word) for word in take_strings(data, "args", where)]
        if not self.argv:
            raise OciError(f"config.json: {where}args must not be empty")
        self.env: list[bytes] = []
        for item in take_strings(data, "env", where):
            if item.find("=") >= 1:  # as runc does, others are dropped
                self.env.append(encode(item))
        cwd = take_text(data, "cwd", where)
        if not cwd.startswith("/"):
            raise OciError(f"config.json: {where}cwd must be an absolute path")
        self.cwd: bytes = encode(cwd)
        self.has_terminal: bool = take(data, "terminal", bool, where, False)
        size = take(data, "consoleSize", dict, where, {})
        self.rows: int = take_int(size, "height", where + "consoleSize.", 0, 0, 0xFFFF)
        self.columns: int = take_int(size, "width", where + "consoleSize.", 0, 0, 0xFFFF)
        user = take(data, "user", dict, where, {})
        self.uid: int = take_int(user, "uid", where + "user.", 0, 0, 0xFFFFFFFE)
        self.gid: int = take_int(user, "gid", where + "user.", 0, 0, 0xFFFFFFFE)
        self.umask: int = take_int(user, "umask", where + "user.", 0o022, 0, 0o7777) & 0o777
        self.groups: list[int] = []
        for gid in take(user, "additionalGids", list, where + "user.", []):
            if not isinstance(gid, int) or isinstance(gid, bool) or not 0 <= gid <= 0xFFFFFFFE:
                raise OciError(f"config.json: {where}user.additionalGids has something that is no group")
            self.groups.append(gid)
        self.rlimits: list[tuple[int, int, int]] = _rlimits(data, where)
        self.warnings: list[str] = []  # what cannot be as it says
        capabilities = take(data, "capabilities", dict, where, {})
        self.cap_sets: list[int] = _capabilities(capabilities, where, self.warnings)
        self.no_new_privileges: bool = take(data, "noNewPrivileges", bool, where, False)
        self.oom_score_adj: int = take_int(data, "oomScoreAdj", where, 0, -1000, 1000)
        # As the sentry takes them (`SandboxSpec`)
        self.scheduler: list[int] = scheduler_of(data, where, is_init=is_init)
        self.io_priority: int = io_priority_of(data, where, is_init=is_init)
        # Processors of the host on which `exec` begins, and those of the program; empty: not said
        self.first_processors, self.processors = affinity_of(data, where)


def encode(text: str) -> bytes:
    """As the bytes that were in the file."""
    return text.encode("utf-8", "surrogateescape")


def _rlimits(data: dict[str, Any], where: str) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    for row in take_objects(data, "rlimits", where):
        name = take_text(row, "type", where + "rlimits.").upper()
        number = _RLIMITS.index(name[7:]) if name[7:] in _RLIMITS and name.startswith("RLIMIT_") else -1
        if number < 0:
            raise OciError(f"config.json: {where}rlimits: invalid rlimit type {name[:64]!r}")
        if any(each[0] == number for each in found):
            raise OciError(f"config.json: {where}rlimits: {name} is there twice")
        soft = take_int(row, "soft", where + "rlimits.", 0, 0, (1 << 64) - 1)
        hard = take_int(row, "hard", where + "rlimits.", 0, 0, (1 << 64) - 1)
        limits = [-1 if value >= 1 << 63 else value for value in (soft, hard)]
        if limits[1] >= 0 and (limits[0] < 0 or limits[0] > limits[1]):
            raise OciError(f"config.json: {where}rlimits: {name}: soft is more than hard")
        found.append((number, limits[0], limits[1]))
    return found


def _capabilities(data: dict[str, Any], where: str, warnings: list[str]) -> list[int]:
    """The sets, and in runc's words what is left out of them."""
    sets: list[int] = []
    unknown: set[str] = set()
    for name in CAP_SETS:
        mask = 0
        for text in take_strings(data, name, where + "capabilities."):
            short = text.upper().removeprefix("CAP_")
            if short in CAP_NAMES:
                mask |= 1 << CAP_NAMES.index(short)
            else:
                unknown.add(text)
        sets.append(mask & ALL_CAPS)
    effective, permitted, inheritable, ambient, bounding = sets
    if unknown:
        listed = " ".join(sorted(unknown))
        warnings.append(f"ignoring unknown or unavailable capabilities: [{listed[:1024]}]")
    kept = ambient & permitted & inheritable  # capabilities(7)
    for number, name in enumerate(CAP_NAMES):
        if (ambient & ~kept) >> number & 1:
            warnings.append(f"can't raise ambient capability CAP_{name}: operation not permitted")
    return [effective & permitted, permitted, inheritable, kept, bounding]


# -- the bundle ------------------------------------------------------------------------------------------------
class Mount:
    """A row of `mounts`."""

    def __init__(self, data: dict[str, Any], bundle: str) -> None:
        """Raises OciError."""
        where = "mounts."
        destination = take_text(data, "destination", where)
        if not destination:
            raise OciError("config.json: mounts.destination is missing")
        if ".." in destination.split("/"):
            raise OciError(f"config.json: mounts.destination {destination[:256]!r} leads upwards")
        self.destination: str = os.path.normpath("/" + destination.lstrip("/"))
        self.kind: str = take_text(data, "type", where)
        self.source: str = take_text(data, "source", where)
        self.options: list[str] = take_strings(data, "options", where)
        self.is_bind: bool = self.kind == "bind" or "bind" in self.options or "rbind" in self.options
        self.is_recursive: bool = "rbind" in self.options
        kinds = [option.lstrip("r") for option in self.options if option.lstrip("r") in _PROPAGATIONS]
        self.is_private: bool = bool(kinds) and kinds[-1] in ("private", "unbindable")
        # Ids of the files, and as which they appear on the host; see also `idmap`.
        self.uid_map: Rows = _id_rows(data, "uidMappings", where)
        self.gid_map: Rows = _id_rows(data, "gidMappings", where)
        self.maps_below: bool = "ridmap" in self.options
        self.is_id_mapped: bool = bool(self.uid_map or self.gid_map)
        for option in self.options:
            self.is_id_mapped |= option in ("idmap", "ridmap")
            if option.startswith(("idmap=", "ridmap=")):
                raise OciError(
                    f"mount {self.destination}: {option[:64]!r}: maps are in uidMappings and gidMappings"
                )
        if self.is_id_mapped and not self.is_bind:
            raise OciError(f"mount {self.destination}: only bind mounts can be id-mapped")
        if self.is_bind:
            if not self.source:
                raise OciError(f"config.json: mounts.source of {self.destination} is missing")
            if not self.source.startswith("/"):
                self.source = os.path.join(bundle, self.source)
            if self.destination == "/proc" and _is_procfs(self.source):
                # Engines bind the host's where they make no pid namespace. Programs get the sandbox's own, never that.
                self.kind, self.source, self.is_bind, self.is_recursive = "proc", "proc", False, False


def _is_procfs(path: str) -> bool:
    """Whether a path leads to the root of a procfs of the host."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return hostsys.fstatfs(fd).magic == PROC_SUPER_MAGIC and os.fstat(fd).st_ino == _PROC_ROOT_INO
    finally:
        os.close(fd)


class Bundle:
    """The parts of a config.json that are used."""

    def __init__(self, path: str, data: dict[str, Any]) -> None:
        """Raises OciError."""
        self.path: str = path
        self.version: str = take_text(data, "ociVersion", "")
        _check_version(self.version)
        root = take(data, "root", dict, "")
        if root is None:
            raise OciError("config.json: root is missing")
        self.rootfs: str = _check_root(path, take_text(root, "path", "root."))
        self.is_read_only: bool = take(root, "readonly", bool, "root.", False)
        process = take(data, "process", dict, "")
        if process is None:
            raise OciError("config.json: process is missing")
        self.process_data: dict[str, Any] = process
        self.process: ProcessSpec = ProcessSpec(process)
        self.hostname: str = take_text(data, "hostname", "")
        self.domainname: str = take_text(data, "domainname", "")
        if max(len(encode(self.hostname)), len(encode(self.domainname))) > 64:
            raise OciError("config.json: hostname and domainname have at most 64 bytes")
        self.mounts: list[Mount] = [Mount(each, path) for each in take_objects(data, "mounts", "")]
        self.annotations: dict[str, str] = {}
        for key, value in take(data, "annotations", dict, "", {}).items():
            if not isinstance(value, str):
                raise OciError("config.json: annotations has something that is not a string")
            self.annotations[key] = value
        self.hooks: dict[str, Any] = _hooks(take(data, "hooks", dict, "", {}))
        linux = take(data, "linux", dict, "", {})
        self.namespaces: dict[str, str] = _namespaces(linux)
        self.groups_path: str = take_text(linux, "cgroupsPath", "linux.")
        self.resources: dict[str, Any] = check_resources(take(linux, "resources", dict, "linux.", {}))
        # The host's mounts are copied as they are at the start, without what is mounted in them later.
        self.propagation: str = take_text(linux, "rootfsPropagation", "linux.")
        self.is_private: bool = _are_private(self.propagation, self.mounts)
        self.masked_paths: list[str] = _paths(linux, "maskedPaths")
        self.read_only_paths: list[str] = _paths(linux, "readonlyPaths")
        self.devices: list[dict[str, Any]] = [
            _device(each) for each in take_objects(linux, "devices", "linux.")
        ]
        if take(linux, "netDevices", dict, "linux.", {}):
            raise OciError(
                "linux.netDevices is not supported: the host's network devices stay where they are"
            )
        self.sysctls: dict[str, str] = {}
        for key, value in take(linux, "sysctl", dict, "linux.", {}).items():
            if not isinstance(value, str) or not key or ".." in key or "\0" in key + value:
                raise OciError("config.json: linux.sysctl has something that is no parameter")
            _check_parameter(key, self.namespaces)
            self.sysctls[key] = value
        check_clocks(linux, self.namespaces)
        self.personality: int = personality_of(linux, self.process.warnings)
        self.memory_policy: list[int] = memory_policy_of(linux)
        self.seccomp: dict[str, Any] | None = take(linux, "seccomp", dict, "linux.")
        # The maps of its user namespace; that of a path is read later (`read_namespace`).  None: the caller's
        self.maps: IdMaps | None = None
        if "user" in self.namespaces and not self.namespaces["user"]:
            self.maps = id_maps(
                _id_rows(linux, "uidMappings", "linux."), _id_rows(linux, "gidMappings", "linux.")
            )

    def read_namespace(self, fd: int) -> None:
        """Take the maps from an existing user namespace.  Raises OciError."""
        self.maps = maps_at(fd, self.namespaces["user"])
        self.maps.check_root()

    def settle_ids(self) -> None:
        """The maps are known: check the user, and give mounts that are to be id-mapped and have no map the container's.
        Raises OciError.
        """
        process, maps = self.process, self.maps
        if maps is not None:
            maps.check_user(process.uid, process.gid, process.groups)
        for mount in self.mounts:
            if not mount.is_id_mapped or mount.uid_map or mount.gid_map:
                continue
            if self.maps is None:
                raise OciError(
                    f"mount {mount.destination}: idmap needs maps, its own or those of a user namespace"
                )
            mount.uid_map, mount.gid_map = self.maps.uids, self.maps.gids


def _are_private(propagation: str, mounts: list[Mount]) -> bool:
    """What `rootfsPropagation` makes of the mounts of the host that a container sees, whatever their own options say.

    runc gives it to the container's copy of the host's "/", from which root and bind mounts are then copied: with a
    recursive one nothing that is mounted on the host later reaches them, or they cannot be bound at all. Without the
    "r" it is about the mount of "/" alone. Mounts made inside never reach the host.  Raises OciError.
    """
    if propagation and propagation.removeprefix("r") not in _PROPAGATIONS:
        raise OciError(f"rootfsPropagation={propagation[:64]} is not supported")
    bound = [mount for mount in mounts if mount.is_bind]
    if propagation == "runbindable" and bound:
        what = f"mount {bound[0].source} at {bound[0].destination}"
        raise OciError(f"{what}: with rootfsPropagation=runbindable nothing can be bound")
    is_private = propagation in ("rprivate", "runbindable")
    for mount in bound:
        mount.is_private |= is_private
    return is_private


def _check_parameter(key: str, namespaces: dict[str, str]) -> None:
    """As runc does, refuse those of a namespace that the bundle does not ask for.  Raises OciError."""
    name = key.replace("/", ".")
    if name == "kernel.hostname":
        raise OciError('sysctl "kernel.hostname" conflicts with the OCI "hostname" field')
    kind = "uts" if name == "kernel.domainname" else ""
    if name in _IPC_PARAMETERS or name.startswith("fs.mqueue."):
        kind = "ipc"
    if kind and kind not in namespaces:
        raise OciError(f'sysctl "{key[:256]}" is not allowed in the hosts {kind} namespace')


def _check_version(version: str) -> None:
    parts = version.split("-")[0].split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise OciError(f"config.json: ociVersion {version[:64]!r} is no version")
    if parts[0] != "1":
        raise OciError(f"config.json: ociVersion {version[:64]} is not 1.x")


def _check_root(bundle: str, path: str) -> str:
    if not path:
        raise OciError("config.json: root.path is missing")
    joined = os.path.normpath(os.path.join(bundle, path))
    if not os.path.isdir(joined):
        raise OciError(f"rootfs {joined}: no such directory")
    if os.path.realpath(joined) != joined:
        raise OciError(f"rootfs {joined} is a symlink, or below one")
    if joined == "/":
        raise OciError("rootfs is the host's own root")
    return joined


def _namespaces(linux: dict[str, Any]) -> dict[str, str]:
    """Kind to path; an empty path is a new one."""
    found: dict[str, str] = {}
    for row in take_objects(linux, "namespaces", "linux."):
        kind = take_text(row, "type", "linux.namespaces.")
        path = take_text(row, "path", "linux.namespaces.")
        if kind not in NAMESPACES:
            raise OciError(f"config.json: linux.namespaces: unknown type {kind[:64]!r}")
        if kind in found:
            raise OciError(f"config.json: linux.namespaces: {kind} is there twice")
        if path and not path.startswith("/"):
            raise OciError(f"config.json: linux.namespaces: {kind}: the path is relative")
        found[kind] = path
    return found


def _id_rows(data: dict[str, Any], name: str, where: str) -> Rows:
    """The rows of a map of ids.  Raises OciError."""
    found: Rows = []
    for row in take_objects(data, name, where):
        found.append(
            (
                take_int(row, "containerID", f"{where}{name}.", 0, 0, 0xFFFFFFFF),
                take_int(row, "hostID", f"{where}{name}.", 0, 0, 0xFFFFFFFF),
                take_int(row, "size", f"{where}{name}.", 0, 0, 0xFFFFFFFF),
            )
        )
    return found


def _paths(linux: dict[str, Any], name: str) -> list[str]:
    found = take_strings(linux, name, "linux.")
    for path in found:
        if not path.startswith("/"):
            raise OciError(f"config.json: linux.{name}: {path[:256]!r} is relative")
    return found


def _device(data: dict[str, Any]) -> dict[str, Any]:
    where = "linux.devices."
    path = take_text(data, "path", where)
    if not path.startswith("/") or ".." in path.split("/"):
        raise OciError(f"config.json: {where}path {path[:256]!r} is not an absolute path")
    kind = take_text(data, "type", where)
    if kind not in ("c", "u", "b", "p"):
        raise OciError(f"config.json: {where}type {kind[:64]!r} is unknown")
    return {
        "path": path,
        "type": kind,
        "major": take_int(data, "major", where, 0, 0, (1 << 32) - 1),
        "minor": take_int(data, "minor", where, 0, 0, (1 << 32) - 1),
        "mode": take_int(data, "fileMode", where, 0o666, 0, 0o7777777) & 0o7777,
        "uid": take_int(data, "uid", where, 0, 0, 0xFFFFFFFE),
        "gid": take_int(data, "gid", where, 0, 0, 0xFFFFFFFE),
    }


def check_resources(data: dict[str, Any]) -> dict[str, Any]:
    """Types and ranges of the limits that are used.  Raises OciError."""
    most = (1 << 63) - 1
    memory = take(data, "memory", dict, "linux.resources.", {})
    for name in ("limit", "reservation", "swap"):
        take_int(memory, name, "linux.resources.memory.", 0, -1, most)
    take(memory, "disableOOMKiller", bool, "linux.resources.memory.")
    take_int(take(data, "pids", dict, "linux.resources.", {}), "limit", "linux.resources.pids.", 0, -1, most)
    cpu = take(data, "cpu", dict, "linux.resources.", {})
    for name in ("shares", "quota", "period", "realtimePeriod", "realtimeRuntime"):
        take_int(cpu, name, "linux.resources.cpu.", 0, -1, most)
    if cpu.get("idle") is not None:
        take_int(cpu, "idle", "linux.resources.cpu.", 0, 0, 1)
    for name in ("cpus", "mems"):
        take_text(cpu, name, "linux.resources.cpu.")
    _check_block_io(take(data, "blockIO", dict, "linux.resources.", {}), "linux.resources.blockIO.")
    return data


def _check_block_io(data: dict[str, Any], where: str) -> None:
    for name in ("weight", "leafWeight"):
        take_int(data, name, where, 0, 0, 0xFFFF)
    weights = take_objects(data, "weightDevice", where)
    rates = [each for name, _file, _key in THROTTLES for each in take_objects(data, name, where)]
    for each in (*weights, *rates):
        for name in ("major", "minor"):
            each[name] = take_int(each, name, where, 0, 0, 0xFFFFFFFF)
    for each in weights:
        for name in ("weight", "leafWeight"):
            take_int(each, name, where + "weightDevice.", 0, 0, 0xFFFF)
    for each in rates:
        each["rate"] = take_int(each, "rate", where, 0, 0, (1 << 63) - 1)


def _hooks(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in HOOKS:
        rows: list[dict[str, Any]] = []
        for row in take_objects(data, kind, "hooks."):
            path = take_text(row, "path", f"hooks.{kind}.")
            if not path.startswith("/"):
                raise OciError(f"config.json: hooks.{kind}.path {path[:256]!r} is not an absolute path")
            timeout = row.get("timeout")
            if timeout is not None and (
                not isinstance(timeout, int) or isinstance(timeout, bool) or timeout <= 0
            ):
                raise OciError(f"config.json: hooks.{kind}.timeout is not a number greater than 0")
            args = take_strings(row, "args", f"hooks.{kind}.")
            env = take_strings(row, "env", f"hooks.{kind}.")
            rows.append({"path": path, "args": args, "env": env, "timeout": timeout})
        if rows:
            found[kind] = rows
    return found


def read_bundle(path: str) -> Bundle:
    """The bundle at a directory.  Raises OciError."""
    path = os.path.realpath(path)
    return Bundle(path, read_json(os.path.join(path, "config.json")))
