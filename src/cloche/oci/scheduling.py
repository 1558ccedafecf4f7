"""What a process starts with beside its limits: scheduling, I/O priority, processors, personality, memory policy.

Fields of the OCI runtime specification 1.3.0 (`process.scheduler`, `process.ioPriority`, `process.execCPUAffinity`,
`linux.personality`, `linux.memoryPolicy`), checked as runc 1.4 does and in its words, which are about to be the
sentry's: it says what a Linux kernel would (`boot/attributes.py`).
"""

import os
from typing import Any, Final

from cloche.abi import mman
from cloche.abi import sched as abi
from cloche.abi.personality import PER_LINUX, PER_LINUX32
from cloche.oci import cgroups
from cloche.oci.errors import OciError
from cloche.oci.fields import take, take_int, take_objects, take_strings, take_text

MODES: Final = {
    "MPOL_DEFAULT": mman.MPOL_DEFAULT,
    "MPOL_PREFERRED": mman.MPOL_PREFERRED,
    "MPOL_BIND": mman.MPOL_BIND,
    "MPOL_INTERLEAVE": mman.MPOL_INTERLEAVE,
    "MPOL_LOCAL": mman.MPOL_LOCAL,
    "MPOL_PREFERRED_MANY": mman.MPOL_PREFERRED_MANY,
    "MPOL_WEIGHTED_INTERLEAVE": mman.MPOL_WEIGHTED_INTERLEAVE,
}
MODE_FLAGS: Final = {
    "MPOL_F_STATIC_NODES": mman.MPOL_F_STATIC_NODES,
    "MPOL_F_RELATIVE_NODES": mman.MPOL_F_RELATIVE_NODES,
    "MPOL_F_NUMA_BALANCING": mman.MPOL_F_NUMA_BALANCING,
}
ALLOWED_CPUS: Final = "process scheduler can't be used together with AllowedCPUs"
_POLICIES: Final = {
    "SCHED_OTHER": abi.SCHED_NORMAL,
    "SCHED_FIFO": abi.SCHED_FIFO,
    "SCHED_RR": abi.SCHED_RR,
    "SCHED_BATCH": abi.SCHED_BATCH,
    "SCHED_ISO": 4,  # of no kernel that has been released
    "SCHED_IDLE": abi.SCHED_IDLE,
    "SCHED_DEADLINE": abi.SCHED_DEADLINE,
}
_FLAGS: Final = {
    "SCHED_FLAG_RESET_ON_FORK": abi.SCHED_FLAG_RESET_ON_FORK,
    "SCHED_FLAG_RECLAIM": abi.SCHED_FLAG_RECLAIM,
    "SCHED_FLAG_DL_OVERRUN": abi.SCHED_FLAG_DL_OVERRUN,
    "SCHED_FLAG_KEEP_POLICY": abi.SCHED_FLAG_KEEP_POLICY,
    "SCHED_FLAG_KEEP_PARAMS": abi.SCHED_FLAG_KEEP_PARAMS,
    "SCHED_FLAG_UTIL_CLAMP_MIN": abi.SCHED_FLAG_UTIL_CLAMP_MIN,
    "SCHED_FLAG_UTIL_CLAMP_MAX": abi.SCHED_FLAG_UTIL_CLAMP_MAX,
}
_CLASSES: Final = {
    "IOPRIO_CLASS_RT": abi.IOPRIO_CLASS_RT,
    "IOPRIO_CLASS_BE": abi.IOPRIO_CLASS_BE,
    "IOPRIO_CLASS_IDLE": abi.IOPRIO_CLASS_IDLE,
}
_DOMAINS: Final = {"LINUX": PER_LINUX, "LINUX32": PER_LINUX32}
_FIELDS: Final = ("scheduler", "ioPriority", "execCPUAffinity")
_MOST_NUMBERS: Final = 1024  # of processors and nodes
_INT: Final = 1 << 31
_LONG: Final = 1 << 64
_NO_START: Final = "unable to start container process: "
_IN_INIT: Final = _NO_START + "error during container init: "
# How the sentry's answers begin that are about this
_ATTRIBUTES: Final = ("error setting ", "failed to set io priority", "set_mempolicy")


def inherit(data: dict[str, Any], container: dict[str, Any]) -> None:
    """Give the process of an `exec` what the container's first one has and its own file does not say."""
    for name in _FIELDS:
        if not data.get(name) and (name == "execCPUAffinity" or data.get(name) is None):
            data[name] = container.get(name)


def scheduler_of(data: dict[str, Any], where: str, *, is_init: bool) -> list[int]:
    """`scheduler`: policy, nice value, priority, flags, runtime, deadline, period; empty if nothing is said.

    Raises OciError.
    """
    row = take(data, "scheduler", dict, where)
    if row is None:
        return []
    where += "scheduler."
    policy = take_text(row, "policy", where)
    nice = take_int(row, "nice", where, 0, -_INT, _INT - 1)
    priority = take_int(row, "priority", where, 0, -_INT, _INT - 1)
    times = [take_int(row, name, where, 0, 0, _LONG - 1) for name in ("runtime", "deadline", "period")]
    if is_init:
        if not policy:
            raise OciError("scheduler policy is required")
        if policy in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= nice <= 19:
            raise OciError(f"invalid scheduler.nice: {nice} when scheduler.policy is {policy}")
        if priority and policy not in ("SCHED_FIFO", "SCHED_RR"):
            raise OciError("scheduler.priority can only be specified for SchedFIFO or SchedRR policy")
        if any(times) and policy != "SCHED_DEADLINE":
            raise OciError("scheduler runtime/deadline/period can only be specified for SchedDeadline policy")
    if policy not in _POLICIES:
        raise OciError(f"{_IN_INIT if is_init else _NO_START}invalid scheduler policy: {policy[:64]}")
    flags = 0
    for name in take_strings(row, "flags", where):
        if name not in _FLAGS:
            raise OciError(f"{_IN_INIT if is_init else _NO_START}invalid scheduler flag: {name[:64]}")
        flags |= _FLAGS[name]
    return [_POLICIES[policy], nice, priority, flags, *times]


def io_priority_of(data: dict[str, Any], where: str, *, is_init: bool) -> int:
    """`ioPriority` as ioprio_set(2) takes it; -1 if nothing is said.  Raises OciError."""
    row = take(data, "ioPriority", dict, where)
    if row is None:
        return -1
    where += "ioPriority."
    name = take_text(row, "class", where)
    priority = take_int(row, "priority", where, 0, -_INT, _INT - 1)
    if is_init and not 0 <= priority <= 7:
        raise OciError(f"invalid ioPriority.Priority: {priority}")
    if name not in _CLASSES:
        if is_init:
            raise OciError(f'invalid ioPriority.Class: "{name[:64]}"')
        raise OciError(f"{_NO_START}invalid io priority class: {name[:64]}")
    value = _CLASSES[name] << abi.IOPRIO_CLASS_SHIFT | priority
    if not 0 <= value < _INT:
        raise OciError(f"{_NO_START}failed to set io priority: invalid argument")
    return value


def number_set(text: str) -> list[int]:
    """The numbers of a list such as "0-3,5", sorted; empty if it is.  Raises OciError."""
    found: set[int] = set()
    for part in text.split(","):
        part = part.strip()
        if not part:
            continue
        first, dash, last = part.partition("-")
        low = _number(first)
        high = _number(last) if dash else low
        if low > high:
            raise OciError(f"invalid range: {part}")
        found.update(range(low, high + 1))
    if text and not found:
        raise OciError(f'no members found in set "{text[:64]}"')
    return sorted(found)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise OciError(f'strconv.ParseUint: parsing "{text[:64]}": invalid syntax')
    if len(text) > 64 or int(text) >> 32:
        raise OciError(f'strconv.ParseUint: parsing "{text[:64]}": value out of range')
    if int(text) >= _MOST_NUMBERS:
        raise OciError(f"values larger than {_MOST_NUMBERS - 1} are not supported")
    return int(text)


def affinity_of(data: dict[str, Any], where: str) -> tuple[list[int], list[int]]:
    """`execCPUAffinity`: the processors of the host at first, and at last.  Raises OciError."""
    row = take(data, "execCPUAffinity", dict, where, {})
    found: list[list[int]] = []
    for name in ("initial", "final"):
        try:
            found.append(number_set(take_text(row, name, where + "execCPUAffinity.")))
        except OciError as refusal:
            raise OciError(f"bad CPUAffinity.{name.capitalize()}: {refusal}") from None
    return found[0], found[1]


def personality_of(linux: dict[str, Any], warnings: list[str]) -> int:
    """`linux.personality` as personality(2) takes it.  Raises OciError."""
    row = take(linux, "personality", dict, "linux.")
    if row is None:
        return PER_LINUX
    flags = take_strings(row, "flags", "linux.personality.")
    if flags:
        listed = " ".join(flags)[:1024]
        why = "because personality flag has not supported at this time"
        warnings.append(f"ignoring unsupported personality flags: [{listed}] {why}")
    domain = take_text(row, "domain", "linux.personality.")
    if domain not in _DOMAINS:
        raise OciError(f"invalid personality domain {domain[:64]}")
    return _DOMAINS[domain]


def memory_policy_of(linux: dict[str, Any]) -> list[int]:
    """`linux.memoryPolicy`: the mode with its flags, and the nodes; empty if nothing is said.  Raises OciError."""
    row = take(linux, "memoryPolicy", dict, "linux.")
    if row is None:
        return []
    name = take_text(row, "mode", "linux.memoryPolicy.")
    if name not in MODES:
        raise OciError(f'invalid memory policy mode "{name[:64]}"')
    text = take_text(row, "nodes", "linux.memoryPolicy.")
    try:
        nodes = number_set(text)
    except OciError as refusal:
        raise OciError(f'invalid memory policy nodes "{text[:64]}": {refusal}') from None
    mode = MODES[name]
    for flag in take_strings(row, "flags", "linux.memoryPolicy."):
        if flag not in MODE_FLAGS:
            raise OciError(f'invalid memory policy flag "{flag[:64]}"')
        mode |= MODE_FLAGS[flag]
    if name in ("MPOL_DEFAULT", "MPOL_LOCAL") and nodes:
        raise OciError(f"memory policy mode requires 0 nodes but got {len(nodes)}")
    if name not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED") and not nodes:
        raise OciError("memory policy mode requires at least one node but got 0")
    return [mode, *nodes]


# -- what depends on the container's control groups --------------------------------------------------------------
def check_deadline(scheduler: list[int], groups: list[str], cpus: str) -> None:
    """Refuse SCHED_DEADLINE where the group does not have all processors of the machine, as the host's kernel does:
    those that the sentry has are all that it knows.  `cpus`: what the bundle says of them.  Raises OciError.
    """
    if scheduler and scheduler[0] == abi.SCHED_DEADLINE:
        if cgroups.processors(groups) != cgroups.processors([]):
            what = ALLOWED_CPUS if cpus else "error setting scheduler: operation not permitted"
            raise OciError(_IN_INIT + what)


def settle_processors(first: list[int], last: list[int], groups: list[str], sandbox: list[str]) -> list[int]:
    """The numbers inside of the processors on which an `exec` may run; empty: all.  `groups` are the container's,
    `sandbox` those of the sandbox, which numbers them.  This process goes to the first ones.  Raises OciError.
    """
    there = cgroups.processors(groups)
    if first:
        try:
            os.sched_setaffinity(0, first)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise OciError(
                f"{_NO_START}error starting setns process: error setting initial CPU affinity: {reason}"
            ) from None
    if last:
        chosen = set(last).intersection(there)
        if not chosen:
            raise OciError(f"{_NO_START}error setting final CPU affinity: invalid argument")
    elif first:
        # Entering a group of other processors makes a task forget its own, but for version 2.
        chosen = os.sched_getaffinity(0).intersection(there)
        if not chosen or not (cgroups.is_unified() or there == cgroups.own_processors()):
            return []
    else:
        return []
    numbers = cgroups.processors(sandbox)
    return [numbers.index(each) for each in sorted(chosen) if each in numbers]


def explain_attributes(problem: str) -> str:
    """The sentry's answer as runc would give it; empty if it is about something else."""
    return _IN_INIT + problem if problem.startswith(_ATTRIBUTES) else ""


# -- clocks ------------------------------------------------------------------------------------------------------
def check_clocks(linux: dict[str, Any], namespaces: dict[str, str]) -> None:
    """Refuse what would give programs other clocks than the host's: they read those without asking the sentry.  A
    time namespace without offsets, and that of the caller, change nothing.  Raises OciError.
    """
    offsets = take(linux, "timeOffsets", dict, "linux.", {})
    path = namespaces.get("time")
    if path is None:
        if offsets:
            raise OciError("time namespace offsets specified, but time namespace isn't enabled in the config")
        return
    if path and offsets:
        raise OciError(
            "time namespace enabled, but both namespace path and time offsets specified -- "
            "you may only provide one"
        )
    for clock in offsets:
        row = take_objects({"offsets": [offsets[clock]]}, "offsets", f"linux.timeOffsets.{clock[:64]}.")[0]
        if clock not in ("monotonic", "boottime"):
            raise OciError(f"config.json: linux.timeOffsets: there is no clock {clock[:64]!r}")
        if take_int(row, "secs", "linux.timeOffsets.", 0, -(_LONG >> 1), (_LONG >> 1) - 1) or take_int(
            row, "nanosecs", "linux.timeOffsets.", 0, 0, 999_999_999
        ):
            raise OciError("linux.timeOffsets is not supported: the clocks are the host's")
    if path:
        try:
            is_own = os.path.samefile(path, "/proc/self/ns/time")
        except OSError as error:
            raise OciError(f"namespace {path}: {error.strerror}") from None
        if not is_own:
            raise OciError(f"time namespace {path[:256]} is not supported: the clocks are the host's")
