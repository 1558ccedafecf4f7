"""Limits of the host's kernel for the guests of one sandbox: control groups (cgroups(7)), version 2 or 1, as root.

They add to the sentry's own accounting, which alone can tell what belongs to a guest. The guests are in a group of
their own; the sentry is never in one with a limit of memory or tasks, so it is never what the kernel ends. CPU time
is limited for both together, since the sentry works only for its guests, with most of the weight given to the sentry.

    version 2   TOP/cloche-ID (cpu.max) / guests (memory.max, pids.max, cpu.weight) and sentry (cpu.weight)
    version 1   cpu/TOP/cloche-ID (cfs quota) / guests and sentry (shares); memory/TOP/cloche-ID; pids/TOP/cloche-ID

TOP is this process's own group where the controllers can be had there, else (version 2 gives none to a group that
holds processes) the group `cloche` at the top of the hierarchy. `create` returns None where control groups cannot be
used: not root, a read-only hierarchy, no controllers. Order: `create`, start the sandbox, `place` before the first
guest code runs, and `destroy` when every process is gone.
"""

import os
import time
from typing import Final

PERIOD_US: Final = 100_000
MOUNT: Final = "/sys/fs/cgroup"
# Tasks of the platform beside those of guests: its zygote, and processes kept ready for use.
SPARE_TASKS: Final = 64
_SENTRY_WEIGHT: Final = 10_000
_SENTRY_SHARES: Final = 262_144
_SPARE_BYTES: Final = 8 << 20  # memory of the platform's own processes
_END_S: Final = 2.0


class Limits:
    """The limits; 0: none."""

    def __init__(self, memory_bytes: int = 0, cpus: float = 0.0, tasks: int = 0) -> None:
        self.memory_bytes: int = memory_bytes
        self.cpus: float = cpus
        self.tasks: int = tasks

    def controllers(self) -> list[str]:
        """The names of the controllers that these limits need."""
        wanted = (("memory", self.memory_bytes), ("cpu", self.cpus), ("pids", self.tasks))
        return [name for name, value in wanted if value > 0]


def write(path: str, text: str) -> None:
    """Write a file of theirs.  Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """A file's content; nothing if it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def own_groups(text: str) -> dict[str, str]:
    """Controller ("" for version 2) -> this process's group, from /proc/self/cgroup."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for name in parts[1].split(","):
                found[name] = parts[2]
    return found


class Group:
    """The groups of one sandbox."""

    def __init__(self) -> None:
        self.made: list[str] = []  # directories, parents first
        self.guests: list[str] = []  # those for guests
        self.sentry: list[str] = []
        self.events: str = ""  # the file that counts kills for want of memory
        self.has_memory: bool = False
        self.has_cpu: bool = False
        self.has_tasks: bool = False

    def make(self, path: str) -> str:
        """A new directory."""
        os.mkdir(path, 0o755)
        self.made.append(path)
        return path

    def place(self, sentry_pid: int) -> None:
        """Move the sentry and its children (the platform's processes, from which every guest is forked) into their
        groups.

        Raises OSError. No guest may run yet. The platform may fork meanwhile: a child of a process that was not moved
        yet is found by looking again, and later children start in the right group.
        """
        placed: set[int] = set()
        while new := [pid for pid in descendants(sentry_pid) if pid not in placed]:
            for pid in new:
                for path in self.guests:
                    try:
                        write(os.path.join(path, "cgroup.procs"), str(pid))
                    except ProcessLookupError:
                        pass
            placed.update(new)
        for path in self.sentry:
            write(os.path.join(path, "cgroup.procs"), str(sentry_pid))

    def destroy(self) -> None:
        """Remove the groups, waiting for processes that are about to end."""
        remove_all(self.made)


def remove_all(made: list[str]) -> None:
    """Remove these groups (in the list, parents come first), waiting for processes that are about to end."""
    deadline = time.monotonic() + _END_S
    for path in reversed(made):
        while True:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(0.005)
                    continue
            break


def descendants(pid: int) -> list[int]:
    """Every process below `pid`."""
    found: list[int] = []
    left = [pid]
    while left:
        text = read(f"/proc/{left[0]}/task/{left.pop(0)}/children")
        below = [int(word) for word in text.split()]
        found += below
        left += below
    return found


def create(limits: Limits, mount: str = MOUNT, own_text: str | None = None) -> Group | None:
    """Groups for a sandbox, with every limit for which there is a controller; None if there are none at all."""
    if os.geteuid() != 0 or not limits.controllers():
        return None
    own = own_groups(read("/proc/self/cgroup") if own_text is None else own_text)
    name = f"cloche-{os.getpid()}-{os.urandom(4).hex()}"
    group = Group()
    try:
        if os.path.exists(os.path.join(mount, "cgroup.controllers")):
            _create_v2(group, limits, mount, own.get("", "/"), name)
        else:
            _create_v1(group, limits, mount, own, name)
    except OSError:
        group.destroy()
        return None
    return group if group.made else None


def sweep(top: str) -> None:
    """Remove the groups below `top` of monitors that were killed."""
    try:
        names = os.listdir(top)
    except OSError:
        return
    for name in names:
        words = name.split("-")
        if (
            len(words) != 3
            or words[0] != "cloche"
            or not words[1].isdigit()
            or os.path.exists(f"/proc/{words[1]}")
        ):
            continue
        for path in (
            os.path.join(top, name, "guests"),
            os.path.join(top, name, "sentry"),
            os.path.join(top, name),
        ):
            try:
                os.rmdir(path)
            except OSError:
                pass  # not there, or processes still run in it


# -- version 2 -------------------------------------------------------------------------------------------------
def _enable(path: str, names: list[str]) -> bool:
    """Give the children of a group these controllers, if they are not given already."""
    control = os.path.join(path, "cgroup.subtree_control")
    missing = [name for name in names if name not in read(control).split()]
    if missing:
        try:
            write(control, " ".join([f"+{name}" for name in missing]))
        except OSError:
            return False
    return True


def _create_v2(group: Group, limits: Limits, mount: str, own: str, name: str) -> None:
    available = read(os.path.join(mount, "cgroup.controllers")).split()
    names = [each for each in limits.controllers() if each in available]
    if not names:
        return
    top = os.path.join(mount, own.lstrip("/"))
    if not _enable(top, names):
        top = os.path.join(mount, "cloche")
        if not _enable(mount, names):
            return
        os.makedirs(top, 0o755, exist_ok=True)
        if not _enable(top, names):
            return
    sweep(top)
    outer = group.make(os.path.join(top, name))
    if not _enable(outer, names):
        raise OSError
    guests = group.make(os.path.join(outer, "guests"))
    sentry = group.make(os.path.join(outer, "sentry"))
    group.guests.append(guests)
    group.sentry.append(sentry)
    if "memory" in names:
        write(os.path.join(guests, "memory.max"), str(limits.memory_bytes + _SPARE_BYTES))
        group.events = os.path.join(guests, "memory.events")
        group.has_memory = True
    if "pids" in names:
        write(os.path.join(guests, "pids.max"), str(limits.tasks + SPARE_TASKS))
        group.has_tasks = True
    if "cpu" in names:
        write(os.path.join(outer, "cpu.max"), f"{int(limits.cpus * PERIOD_US)} {PERIOD_US}")
        write(os.path.join(sentry, "cpu.weight"), str(_SENTRY_WEIGHT))
        group.has_cpu = True


# -- version 1 -------------------------------------------------------------------------------------------------
def _create_v1(group: Group, limits: Limits, mount: str, own: dict[str, str], name: str) -> None:
    for controller in limits.controllers():
        root = os.path.join(mount, controller)
        if not os.path.isdir(root):
            continue
        # A container that shows only its own part of the hierarchy has it at the top.
        top = os.path.join(root, own.get(controller, "/").lstrip("/"))
        if not os.path.isdir(top):
            top = root
        sweep(top)
        outer = group.make(os.path.join(top, name))
        if controller == "memory":
            write(os.path.join(outer, "memory.limit_in_bytes"), str(limits.memory_bytes + _SPARE_BYTES))
            group.guests.append(outer)
            group.events = os.path.join(outer, "memory.oom_control")
            group.has_memory = True
        elif controller == "pids":
            write(os.path.join(outer, "pids.max"), str(limits.tasks + SPARE_TASKS))
            group.guests.append(outer)
            group.has_tasks = True
        else:
            write(os.path.join(outer, "cpu.cfs_period_us"), str(PERIOD_US))
            write(os.path.join(outer, "cpu.cfs_quota_us"), str(int(limits.cpus * PERIOD_US)))
            group.guests.append(group.make(os.path.join(outer, "guests")))
            group.sentry.append(group.make(os.path.join(outer, "sentry")))
            write(os.path.join(group.sentry[-1], "cpu.shares"), str(_SENTRY_SHARES))
            group.has_cpu = True
