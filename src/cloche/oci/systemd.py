"""Control groups of a container by systemd (`--systemd-cgroup`): a transient scope, asked of its manager by D-Bus.

`linux.cgroupsPath` is `slice:prefix:name`, the unit `prefix-name.scope` in that slice; limits are properties of the
unit, so that the manager keeps them when it is reloaded. The scope is delegated: below it systemd touches nothing, and
processes enter by the file system as with the other driver. Rootless containers' scopes are the user's manager's.

A scope ends when it has no process. So while a container is made a process stands in it that does nothing else
(`Scope`); it alone speaks with the bus then, and so none of what outlives `create` has D-Bus in its memory.
"""

import os
import signal
import socket
from typing import Any, Final

from cloche.oci import cgroups
from cloche.oci import quickjson as json
from cloche.oci.bus import Bus, BusError, candidates, connect
from cloche.oci.errors import OciError
from cloche.oci.records import Record
from cloche.oci.rootless import is_rootless
from cloche.oci.variant import Variant, parse

__all__ = ["Scope", "check_running", "properties", "stop", "unit_of", "update"]

_PREFIX: Final = "org.systemd.property."
_BOOTED: Final = "/run/systemd/system"
_EXISTS: Final = "org.freedesktop.systemd1.UnitExists"
_NO_UNIT: Final = "org.freedesktop.systemd1.NoSuchUnit"
_INFINITY: Final = (1 << 64) - 1
_PERCENT_US: Final = 10_000
_PERIOD_US: Final = 100_000
_MAX_NAME: Final = 255
_MAX_CPUS: Final = 8192
_MAX_ANSWER: Final = 65536
_OURS: Final = ("PIDs", "PIDFDs", "Slice", "Delegate", "DelegateSubgroup")


def check_running() -> None:
    """Raises OciError, in runc's words, where systemd does not manage the host."""
    if not os.path.isdir(_BOOTED):  # as sd_booted(3) looks
        raise OciError(
            "runc create failed: systemd not running on this host, cannot use systemd cgroups manager"
        )


# -- names -----------------------------------------------------------------------------------------------------
def unit_of(path: str, ident: str, *, is_user: bool) -> tuple[str, str]:
    """The slice and the unit that a `cgroupsPath` names.  Raises OciError."""
    place, prefix, name = "", "runc", ident
    if path:
        parts = path.split(":")
        if len(parts) != 3:
            raise OciError(
                'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
                f"got {json.dumps(path[:_MAX_NAME])} instead"
            )
        place, prefix, name = parts
    place = place or ("user.slice" if is_user else "system.slice")
    if not place.endswith(".slice") or "/" in place:
        raise OciError(f"invalid slice name: {place[:_MAX_NAME]}")
    if name.endswith(".slice"):
        raise OciError(f"cgroupsPath names the slice {name[:_MAX_NAME]}: a container needs a scope")
    unit = f"{prefix}-{name}.scope"
    if not name or "/" in unit or len(unit) > _MAX_NAME:
        raise OciError(f"invalid unit name: {unit[:_MAX_NAME]}")
    return place, unit


# -- properties ------------------------------------------------------------------------------------------------
def _bits(text: str) -> bytes:
    """A list of numbers, "0-2,5", as a mask.  Raises OciError."""
    mask = 0
    for part in text.replace("\n", ",").split(","):
        if not part.strip():
            continue
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not first.isdigit() or not last.isdigit() or not int(first) <= int(last) < _MAX_CPUS:
            raise OciError(f"cannot read the list of processors or nodes {text[:64]!r}")
        mask |= (1 << (int(last) + 1)) - (1 << int(first))
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _limits(resources: dict[str, Any], *, is_v2: bool) -> list[tuple[str, Variant]]:
    """What limits a unit as `cgroups.limit` limits its group."""
    rows: list[tuple[str, Variant]] = []
    memory = resources.get("memory") or {}
    limit, reservation = memory.get("limit"), memory.get("reservation")
    if limit:
        most = limit + cgroups.OVERHEAD_BYTES if limit > 0 else _INFINITY
        rows.append(("MemoryMax" if is_v2 else "MemoryLimit", ("t", most)))
    if reservation and reservation > 0 and is_v2:
        rows.append(("MemoryLow", ("t", reservation)))
    tasks = (resources.get("pids") or {}).get("limit")
    if tasks:
        rows.append(("TasksMax", ("t", cgroups.host_tasks(tasks) if tasks > 0 else _INFINITY)))
    cpu = resources.get("cpu") or {}
    shares, quota, period = cpu.get("shares"), cpu.get("quota"), cpu.get("period")
    if shares and shares > 0:
        rows.append(("CPUWeight", ("t", cgroups.weight(shares))) if is_v2 else ("CPUShares", ("t", shares)))
    if period and period > 0:
        rows.append(("CPUQuotaPeriodUSec", ("t", period)))
    if quota or period:
        per_second = _INFINITY
        if quota and quota > 0:  # systemd keeps whole percents: rounded up, as runc does
            per_second = quota * 1_000_000 // (period if period and period > 0 else _PERIOD_US)
            per_second = -(-per_second // _PERCENT_US) * _PERCENT_US
        rows.append(("CPUQuotaPerSecUSec", ("t", per_second)))
    for key, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if cpu.get(key) and is_v2:
            rows.append((name, ("ay", _bits(str(cpu[key])))))
    return rows


def _annotated(annotations: dict[str, str]) -> list[tuple[str, Variant]]:
    """Properties that annotations set, by runc's rules.  Raises OciError."""
    rows: list[tuple[str, Variant]] = []
    for key, text in annotations.items():
        if not key.startswith(_PREFIX):
            continue
        name = key[len(_PREFIX) :]
        if len(name) < 3 or not name.isascii() or not name.isalpha():
            raise OciError(f"annotation {key[:_MAX_NAME]} name incorrect")
        # The author of an annotation is not to move others' processes, or the scope elsewhere.
        if name in _OURS:
            raise OciError(f"annotation {key[:_MAX_NAME]}: that property is not a container's to set")
        try:
            value = parse(text)
            if name.endswith("Sec") and name[-4:-3].islower():  # that systemd has in microseconds
                name, value = name[:-3] + "USec", _microseconds(value)
        except ValueError as problem:
            raise OciError(f"annotation {key[:_MAX_NAME]}={text[:64]} value parse error: {problem}") from None
        rows.append((name, value))
    return rows


def _microseconds(value: Variant) -> Variant:
    signature, number = value
    if signature not in "nqiuxtd":
        raise ValueError("a number of seconds is expected")
    if not 0 <= number * 1_000_000 <= _INFINITY:
        raise ValueError("out of range")
    return "t", int(number * 1_000_000)


def properties(
    place: str, name: str, pid: int, resources: dict[str, Any], annotations: dict[str, str], *, is_v2: bool
) -> list[tuple[str, Variant]]:
    """The properties of a container's scope.  Raises OciError."""
    rows: list[tuple[str, Variant]] = [
        ("Description", ("s", f"cloche container {name}")),
        ("Slice", ("s", place)),
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),  # nothing is left, should `delete` not be called
    ]
    rows += [(each, ("b", True)) for each in ("MemoryAccounting", "CPUAccounting", "TasksAccounting")]
    rows.append(("IOAccounting" if is_v2 else "BlockIOAccounting", ("b", True)))
    rows += _limits(resources, is_v2=is_v2)
    given = _annotated(annotations)
    names = [each for each, _value in given]
    return [row for row in rows if row[0] not in names] + given


# -- the manager -----------------------------------------------------------------------------------------------
def start(bus: Bus, unit: str, rows: list[tuple[str, Variant]]) -> None:
    """Start a transient unit.  Raises BusError."""
    bus.subscribe()
    arguments: tuple[Any, ...] = (unit, "replace", rows, [])
    try:
        job = bus.ask("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)[0]
    except BusError as refusal:
        if refusal.name != _EXISTS:
            raise
        _reset(bus, unit)  # one that has failed is still known
        job = bus.ask("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)[0]
    result = bus.wait_for_job(job)
    if result != "done":
        _reset(bus, unit)
        raise BusError("", f"got `{result}`")


def _reset(bus: Bus, unit: str) -> None:
    try:
        bus.ask("ResetFailedUnit", "s", (unit,))
    except BusError:
        pass  # it has not failed, or is forgotten


def update(record: Record, resources: dict[str, Any]) -> None:
    """Change the limits of a container's scope.  Raises OciError."""
    rows = _limits(resources, is_v2=cgroups.is_unified())
    if not rows:
        return
    try:
        bus = connect([record.bus])
        try:
            bus.ask("SetUnitProperties", "sba(sv)", (record.unit, True, rows))
        finally:
            bus.close()
    except BusError as failure:
        raise OciError(f"error setting systemd properties of {record.unit}: {failure}") from None


def stop(record: Record) -> None:
    """End a container's scope, whose processes are gone; the manager may have done so."""
    try:
        bus = connect([record.bus])
    except BusError:
        return  # `delete` must work whatever hangs, and a scope without processes ends by itself
    try:
        bus.subscribe()
        bus.wait_for_job(bus.ask("StopUnit", "ss", (record.unit, "replace"))[0])
    except BusError as failure:
        if failure.name == _NO_UNIT:
            return
    finally:
        _reset(bus, record.unit)
        bus.close()


class Scope:
    """A scope that has been started, with the process that keeps it until the container's own are in it."""

    def __init__(
        self,
        path: str,
        ident: str,
        resources: dict[str, Any],
        annotations: dict[str, str],
    ) -> None:
        """Raises OciError."""
        is_user = is_rootless()
        self.bus: str = ""  # the socket at which the manager was reached
        self.groups: str = ""  # its /proc/PID/cgroup
        place, self.unit = unit_of(path, ident, is_user=is_user)
        is_v2 = cgroups.is_unified()
        properties(place, ident, 1, resources, annotations, is_v2=is_v2)  # says what is wrong
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock: socket.socket = ours
        self.pid: int = os.fork()
        if self.pid == 0:
            ours.close()
            _stand(theirs, place, self.unit, ident, resources, annotations, is_user=is_user)
        theirs.close()
        text = b""
        while not text.endswith(b"\n") and (data := ours.recv(_MAX_ANSWER)):
            text += data
        answer: dict[str, str] = json.loads(text.decode()) if text.endswith(b"\n") else {}
        problem = answer.get("problem", "" if answer else "its process died")
        if problem:
            self.release()
            raise OciError(
                f"unable to apply cgroup configuration: error creating systemd unit `{self.unit}`: {problem}"
            )
        self.bus, self.groups = answer["bus"], answer["groups"]

    def release(self) -> None:
        """End the process."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)  # children that were forked meanwhile have this end, too
        except OSError:
            pass  # it has ended
        self.sock.close()
        os.waitpid(self.pid, 0)


def _stand(
    sock: socket.socket,
    place: str,
    unit: str,
    ident: str,
    resources: dict[str, Any],
    annotations: dict[str, str],
    *,
    is_user: bool,
) -> None:
    """The process of a `Scope`; it does not return."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        rows = properties(place, ident, os.getpid(), resources, annotations, is_v2=cgroups.is_unified())
        answer: dict[str, str] = {}
        try:
            bus = connect(candidates(dict(os.environ), is_user=is_user))
            start(bus, unit, rows)
            answer = {"bus": bus.path, "groups": cgroups.read("/proc/self/cgroup")}
            bus.close()
        except BusError as refusal:
            answer = {"problem": str(refusal) or refusal.name}
        except Exception as failure:
            answer = {"problem": f"internal error: {failure!r}"}
        sock.sendall(json.dumps(answer).encode() + b"\n")
        sock.recv(1)  # until the other end is closed, by whatever
    finally:
        os._exit(0)
