"""Control groups of a container at `linux.cgroupsPath`, by the file system (the driver "cgroupfs").  With the other
driver (`systemd.py`) the groups are a scope's, and what is here enters, limits and measures them, too.

A container's anchor, its monitor and every part of its sandbox are in them, so the figures that engines read there
are the container's. The sentry keeps the limits of the bundle exactly, for what the programs use; the host's limits
here are those plus what the parts take themselves (`OVERHEAD_BYTES`, `host_tasks`).
"""

import os
import time
from errno import EACCES, EINVAL, EPERM, EROFS
from typing import Any, Final

from cloche.oci.errors import OciError
from cloche.runtime.cgroups import own_groups
from cloche.runtime.cgroups import read as read
from cloche.runtime.cgroups import write as write

MOUNT: Final = "/sys/fs/cgroup"
OVERHEAD_BYTES: Final = 256 << 20
OVERHEAD_TASKS: Final = 128
_V1: Final = (
    *("freezer", "memory", "cpu", "cpuacct", "cpuset", "pids", "blkio", "devices", "hugetlb", "net_cls"),
    *("net_prio", "perf_event", "systemd"),
)
_END_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.001  # mostly enough for a process that has just been waited for
_LAST_PAUSE_S: Final = 0.01
_TASKS: Final = "tasks"
_PERIOD: Final = "cpu.cfs_period_us"
_QUOTA: Final = "cpu.cfs_quota_us"
_RT_PERIOD: Final = "cpu.rt_period_us"
_RT_RUNTIME: Final = "cpu.rt_runtime_us"
_PARTS: Final = {_PERIOD: _QUOTA, _RT_PERIOD: _RT_RUNTIME}  # a period, and what is a part of it
# Rates of devices: the name in a bundle, the file of version 1, the key in `io.max` of version 2.
THROTTLES: Final = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)

Place = tuple[str, str]  # a group that is there, and what is to be made below it


def is_unified(mount: str = MOUNT) -> bool:
    """Whether the host has version 2 alone."""
    return os.path.exists(os.path.join(mount, "cgroup.controllers"))


def _own(controller: str) -> str:
    for line in read("/proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and controller in parts[1].replace("name=", "").split(","):
            return parts[2]
    return "/"


def places(path: str, ident: str, mount: str = MOUNT) -> list[Place]:
    """Where the groups will be, one in each hierarchy.  Nothing is made.  Raises OciError."""
    parts = [part for part in (path or ident).split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise OciError(f"invalid cgroupsPath {path!r}")
    if path.count(":") == 2 and "/" not in path:
        raise OciError(
            f"cgroupsPath {path[:255]} is of the systemd driver, and --systemd-cgroup was not given"
        )
    inner = "/".join(parts)
    if is_unified(mount):
        # Beside the caller's own group: that has processes, and so can give its children no controllers.
        beside = os.path.dirname(_own("")).lstrip("/")
        return [(mount if path.startswith("/") else os.path.normpath(os.path.join(mount, beside)), inner)]
    found: list[Place] = []
    for controller in _V1:
        root = os.path.join(mount, controller)
        if not os.path.exists(os.path.join(root, "cgroup.procs")):
            continue
        if not path.startswith("/"):
            own = os.path.join(root, _own(controller).lstrip("/"))
            root = own if os.path.isdir(own) else root
        found.append((root, inner))
    return found


def places_of_process(text: str, mount: str = MOUNT) -> list[Place]:
    """The same for the groups of a process with this /proc/PID/cgroup that systemd has placed.  In hierarchies of
    version 1 it uses those that it needs; the others are to be made.  Raises OciError.
    """
    found = own_groups(text)
    path = found.get("" if is_unified(mount) else "name=systemd", "")
    parts = [part for part in path.split("/") if part]
    if not parts or ".." in parts:
        raise OciError(f"systemd has placed the container at {path[:255]!r}")
    if is_unified(mount):
        return [(os.path.join(mount, *parts), "")]
    tops = [os.path.join(mount, controller) for controller in (*_V1, "unified")]
    return [(top, "/".join(parts)) for top in tops if os.path.exists(os.path.join(top, "cgroup.procs"))]


def paths(found: list[Place]) -> list[str]:
    """The directories of groups."""
    return [os.path.join(top, inner) if inner else top for top, inner in found]


def make(found: list[Place], mount: str = MOUNT, *, may_fail: bool = False) -> list[str]:
    """Make the groups, and return their directories.

    Raises OciError. `may_fail`: where groups may not be made (rootless containers) the result is empty, and the
    sentry alone keeps the limits.
    """
    made: list[str] = []
    is_v2 = is_unified(mount)
    try:
        for top, inner in found:
            parts = inner.split("/") if inner else []
            controller = os.path.relpath(top, mount).partition("/")[0]
            at = os.path.join(top, *parts)
            if is_v2:
                _make_v2(top, parts)
            else:
                for count in range(len(parts)):
                    _make_one(os.path.join(top, *parts[: count + 1]), controller)
            if is_v2 or controller == "freezer":
                _check_thawed(at)
            made.append(at)
    except OSError as error:
        remove(made)
        if may_fail and error.errno in (EACCES, EPERM, EROFS):
            return []
        where = found[0][1] or found[0][0]
        raise OciError(f"cannot make control groups at {where[:255]}: {error.strerror}") from None
    return made


def _make_one(path: str, controller: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    if controller == "cpuset":  # a new one, of whoever made it, has no processors, and takes no process
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not read(os.path.join(path, name)).strip():
                write(os.path.join(path, name), read(os.path.join(os.path.dirname(path), name)).strip())


def _check_thawed(path: str) -> None:
    """Whoever enters a frozen group stops there, and cannot even say so.  Raises OciError."""
    state = read(os.path.join(path, "freezer.state")).strip()
    if state.startswith("FR") or read(os.path.join(path, "cgroup.freeze")).strip() == "1":
        raise OciError("container's cgroup unexpectedly frozen")


def _make_v2(top: str, parts: list[str]) -> None:
    at = top
    for part in parts:
        for name in read(os.path.join(at, "cgroup.controllers")).split():
            try:
                write(os.path.join(at, "cgroup.subtree_control"), f"+{name}")
            except OSError:
                pass  # it has processes, or was not delegated to this user
        at = os.path.join(at, part)
        os.makedirs(at, 0o755, exist_ok=True)


def enter(groups: list[str]) -> None:
    """Put the calling process, which has a single thread, into them.  Raises OSError.

    In version 1 that thread moves itself, by `tasks`: of all the ways into a group this one alone takes no lock for
    which the kernel first waits for all its processors (10 to 20 ms; `cgroup_procs_write_start`).
    """
    for path in groups:
        try:
            write(os.path.join(path, _TASKS), "0")
        except (FileNotFoundError, PermissionError):  # version 2; only the other file was given to this user
            write(os.path.join(path, "cgroup.procs"), "0")


def ways_in(groups: list[str]) -> list[int]:
    """Descriptors by which a process may do the same: it writes "0".  None where that is slow.  Raises OSError."""
    ways: list[int] = []
    for path in groups:
        try:
            ways.append(os.open(os.path.join(path, _TASKS), os.O_WRONLY | os.O_CLOEXEC))
        except (FileNotFoundError, PermissionError):
            for fd in ways:
                os.close(fd)
            return []
    return ways


def place(groups: list[str], pid: int) -> None:
    """Put a process into them.  Raises OSError."""
    for path in groups:
        write(os.path.join(path, "cgroup.procs"), str(pid))


def place_family(groups: list[str], top: int) -> None:
    """Put a child and all its descendants into them, while these fork.  Raises OSError.

    A child of one that is there already is there from its birth, and one that was born before appears below its parent,
    or below `top`, which is a subreaper: so it is over when a second look finds the same as the first.
    """
    placed: set[int] = set()
    seen: set[int] | None = None
    while groups:
        found = _family(top)
        if found == seen and found <= placed:
            return
        for pid in found - placed:
            try:
                place(groups, pid)
            except ProcessLookupError:
                pass  # it has ended
            placed.add(pid)
        seen = found


def _family(top: int) -> set[int]:
    found: set[int] = set()
    left = [top]
    while left:
        pid = left.pop()
        found.add(pid)
        try:
            left += [int(word) for word in read(f"/proc/{pid}/task/{pid}/children").split()]
        except OSError:
            pass
    return found


def processes(groups: list[str]) -> list[int]:
    """The pids of the processes in these groups."""
    found: set[int] = set()
    for path in groups:
        found.update(int(word) for word in read(os.path.join(path, "cgroup.procs")).split())
    return sorted(found)


def remove(groups: list[str]) -> None:
    """Remove the groups, waiting for processes that are about to end."""
    deadline = time.monotonic() + _END_S
    pause_s = _FIRST_PAUSE_S
    for path in reversed(groups):
        while True:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError:
                if time.monotonic() < deadline and not _remove_below(path):
                    time.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LAST_PAUSE_S)
                    continue
            break


def _remove_below(path: str) -> bool:
    """Remove groups below this one, which a program with access to the file system may have made; returns whether
    there were any.
    """
    is_found = False
    for folder, names, _files in os.walk(path, topdown=False):
        for name in names:
            try:
                os.rmdir(os.path.join(folder, name))
                is_found = True
            except OSError:
                pass
    if is_found:
        try:
            os.rmdir(path)
        except OSError:
            return False
    return is_found


# -- limits ----------------------------------------------------------------------------------------------------
def weight(shares: int) -> int:
    """`cpu.weight` of version 2 for the shares of version 1."""
    return max(1, min(10000, 1 + (shares - 2) * 9999 // 262142))


def host_tasks(limit: int) -> int:
    """How many tasks of the host a container may take whose programs may have `limit`.

    With the platform kvm, which a later `update` does not know of, the host's kernel has a thread for each machine
    (kvm-nx-lpage-recovery), and each process has a machine.
    """
    return 2 * limit + OVERHEAD_TASKS


def _rows(resources: dict[str, Any], *, is_v2: bool) -> list[tuple[str, str, str]]:
    """(controller, file, text) of what a bundle's `linux.resources` limits."""
    rows: list[tuple[str, str, str]] = []
    memory = resources.get("memory") or {}
    limit = memory.get("limit")
    if limit:
        value = limit + OVERHEAD_BYTES if limit > 0 else -1
        if is_v2:
            rows.append(("memory", "memory.max", "max" if value < 0 else str(value)))
        else:
            rows.append(("memory", "memory.limit_in_bytes", str(value)))
    reservation = memory.get("reservation")
    if reservation:
        rows.append(("memory", "memory.low" if is_v2 else "memory.soft_limit_in_bytes", str(reservation)))
    pids = (resources.get("pids") or {}).get("limit")
    if pids:
        rows.append(("pids", "pids.max", str(host_tasks(pids)) if pids > 0 else "max"))
    cpu = resources.get("cpu") or {}
    shares, quota, period = cpu.get("shares"), cpu.get("quota"), cpu.get("period")
    if cpu.get("idle") is not None:  # while it is, the kernel takes no other weight
        rows.append(("cpu", "cpu.idle", str(cpu["idle"])))
    if is_v2:
        if shares and not cpu.get("idle"):
            rows.append(("cpu", "cpu.weight", str(weight(shares))))
        if quota or period:
            rows.append(("cpu", "cpu.max", f"{quota if quota and quota > 0 else 'max'} {period or 100000}"))
    else:
        if shares and not cpu.get("idle"):
            rows.append(("cpu", "cpu.shares", str(shares)))
        if period:
            rows.append(("cpu", _PERIOD, str(period)))
        if quota:
            rows.append(("cpu", _QUOTA, str(quota)))
        for key, name in (("realtimePeriod", _RT_PERIOD), ("realtimeRuntime", _RT_RUNTIME)):
            if cpu.get(key):
                rows.append(("cpu", name, str(cpu[key])))
    for key, name in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if cpu.get(key):
            rows.append(("cpuset", name, str(cpu[key])))
    return rows + _io_rows(resources.get("blockIO") or {}, is_v2=is_v2)


def _io_rows(block: dict[str, Any], *, is_v2: bool) -> list[tuple[str, str, str]]:
    """Weights go to the files of those schedulers that the kernel has: CFQ's and BFQ's, or iocost's."""
    rows: list[tuple[str, str, str]] = []
    share = block.get("weight")
    if share and is_v2:
        rows += [
            ("io", "io.bfq.weight", str(share)),
            ("io", "io.weight", str(1 + (share - 10) * 9999 // 990)),
        ]
    elif share:
        rows += [("blkio", f"blkio.{kind}weight", str(share)) for kind in ("", "bfq.")]
    if block.get("leafWeight") and not is_v2:
        rows.append(("blkio", "blkio.leaf_weight", str(block["leafWeight"])))
    for each in block.get("weightDevice") or []:
        device = f"{each['major']}:{each['minor']}"
        if each.get("weight"):
            names = ("io.bfq.weight",) if is_v2 else ("blkio.weight_device", "blkio.bfq.weight_device")
            rows += [("io" if is_v2 else "blkio", name, f"{device} {each['weight']}") for name in names]
        if each.get("leafWeight") and not is_v2:
            rows.append(("blkio", "blkio.leaf_weight_device", f"{device} {each['leafWeight']}"))
    for key, name, short in THROTTLES:
        for each in block.get(key) or []:
            device = f"{each['major']}:{each['minor']}"
            if is_v2:
                rows.append(("io", "io.max", f"{device} {short}={each['rate']}"))
            else:
                rows.append(("blkio", name, f"{device} {each['rate']}"))
    return rows


def check_below(groups: list[str], given: list[str], mount: str = MOUNT) -> None:
    """Check what `exec --cgroup` asks for: PATH, or in version 1 CONTROLLER[,CONTROLLER…]:PATH, below the container's.

    The container's own group, `/`, is where its commands are anyway. What lies below it is refused: programs run in
    processes of the host that the sentry changes at each execve, and which stay in the container's own group.

    Raises OciError.
    """
    wanted: list[tuple[str, str]] = []  # the container's group, and what is asked below it
    for word in given:
        if word.count(":") > 1:
            raise OciError(f"invalid --cgroup argument: {word[:256]}")
        controllers, colon, below = word.rpartition(":")
        if not colon and len(given) > 1:
            raise OciError(f"invalid --cgroup argument: {word[:256]} (missing <controller>: prefix)")
        if not colon:
            wanted += [(path, below) for path in groups or [mount]]
            continue
        for controller in controllers.split(","):
            path = "" if is_unified(mount) else group_of(groups, controller.removeprefix("name="), mount)
            if not path or "/" in controller:
                raise OciError(f"unknown controller {controller[:64]} in --cgroup")
            wanted.append((path, below))
    for path, below in wanted:
        path = os.path.normpath(path)
        asked = os.path.normpath(os.path.join(path, below.lstrip("/")))
        if asked == path:
            continue
        if not asked.startswith(path + "/"):
            raise OciError(f"{below[:256]} is not a sub cgroup path")
        if not os.path.isdir(asked):
            missing = f"{asked[:512]}/cgroup.procs: no such file or directory"
            raise OciError(f"error adding pid of the command to cgroups: open {missing}")
        raise OciError(
            f"--cgroup {below[:256]} is not supported: programs stay in the container's own control group"
        )


def are_occupied(found: list[Place]) -> bool:
    """Whether there are groups with processes in these places."""
    return any(read(os.path.join(path, "cgroup.procs")) for path in paths(found))


def limit(groups: list[str], resources: dict[str, Any], mount: str = MOUNT) -> None:
    """Put limits in force.  Raises OciError."""
    is_v2 = is_unified(mount)
    if resources.get("unified") and not is_v2:
        raise OciError("invalid configuration: linux.resources.unified needs control groups of version 2")
    rows = _rows(resources, is_v2=is_v2)
    put_off: list[str] = []
    for controller, name, text in rows:  # which may grow
        path = group_of(groups, controller, mount)
        if not path:
            continue
        try:
            write(os.path.join(path, name), text)
        except FileNotFoundError:
            continue  # a controller that was not delegated to this user
        except OSError as error:
            part = _PARTS.get(name)
            if error.errno == EINVAL and name not in put_off and any(row[1] == part for row in rows):
                # With the part that is in force it would be more than a group above has: once more after the new one.
                put_off.append(name)
                rows.append((controller, name, text))
                continue
            raise OciError(f"cannot write {text} to {name}: {error.strerror}") from None


def open_kills(groups: list[str]) -> int:
    """Open the file in which the host's kernel counts whom it has ended for want of memory; -1: there is none."""
    group = group_of(groups, "memory")
    for name in ("memory.events", "memory.oom_control"):
        try:
            return os.open(os.path.join(group, name), os.O_RDONLY | os.O_CLOEXEC) if group else -1
        except OSError:
            pass  # of the other version
    return -1


def group_of(groups: list[str], controller: str, mount: str = MOUNT) -> str:
    """The directory in a controller's hierarchy; empty if there is none."""
    if is_unified(mount):
        return groups[0] if groups else ""
    top = os.path.join(mount, controller) + "/"
    return next((path for path in groups if path.startswith(top)), "")


def processors(groups: list[str], mount: str = MOUNT) -> list[int]:
    """The host's processors that tasks in these groups may have, as the kernel says; without groups all."""
    at = group_of(groups, "cpuset", mount)
    while at.startswith(mount + "/"):
        text = read(os.path.join(at, "cpuset.effective_cpus")) or read(
            os.path.join(at, "cpuset.cpus.effective")
        )
        if text.strip():  # with version 2 a group may be without the controller, and has its parent's
            return _numbers(text)
        at = os.path.dirname(at)
    return _numbers(read("/sys/devices/system/cpu/online"))


def own_processors(mount: str = MOUNT) -> list[int]:
    """The same for the caller's own group."""
    unified = is_unified(mount)
    top = mount if unified else os.path.join(mount, "cpuset")
    return processors([os.path.join(top, _own("" if unified else "cpuset").lstrip("/"))], mount)


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.strip().split(","):
        first, _dash, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last or first) + 1)
    return found


# -- figures ---------------------------------------------------------------------------------------------------
def _number(path: str) -> int:
    text = read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else 0


def _table(path: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in read(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[1].lstrip("-").isdigit():
            found[words[0]] = int(words[1])
    return found


def stats(groups: list[str], mount: str = MOUNT) -> dict[str, Any]:
    """The data of `events --stats` (runc's types/events.go)."""
    if is_unified(mount):
        top = groups[0] if groups else ""
        cpu = _table(os.path.join(top, "cpu.stat"))
        used = _number(os.path.join(top, "memory.current"))
        usage = {
            "total": cpu.get("usage_usec", 0) * 1000,
            "kernel": cpu.get("system_usec", 0) * 1000,
            "user": cpu.get("user_usec", 0) * 1000,
        }
        limit_bytes = _number(os.path.join(top, "memory.max"))
        raw = _table(os.path.join(top, "memory.stat"))
        failures, most = 0, _number(os.path.join(top, "memory.peak"))
        pids = top
    else:
        account, memory = group_of(groups, "cpuacct", mount), group_of(groups, "memory", mount)
        pids = group_of(groups, "pids", mount)
        times = _table(os.path.join(account, "cpuacct.stat"))
        usage = {
            "total": _number(os.path.join(account, "cpuacct.usage")),
            "kernel": times.get("system", 0) * 10_000_000,
            "user": times.get("user", 0) * 10_000_000,
        }
        used = _number(os.path.join(memory, "memory.usage_in_bytes"))
        limit_bytes = _number(os.path.join(memory, "memory.limit_in_bytes"))
        raw = _table(os.path.join(memory, "memory.stat"))
        failures = _number(os.path.join(memory, "memory.failcnt"))
        most = _number(os.path.join(memory, "memory.max_usage_in_bytes"))
    return {
        "cpu": {"usage": usage, "throttling": {}},
        "memory": {
            "cache": raw.get("cache", raw.get("file", 0)),
            "usage": {"limit": limit_bytes, "usage": used, "max": most, "failcnt": failures},
            "swap": {"limit": 0, "failcnt": 0},
            "kernel": {"limit": 0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": raw,
        },
        "pids": {
            "current": _number(os.path.join(pids, "pids.current")),
            "limit": _number(os.path.join(pids, "pids.max")),
        },
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }
