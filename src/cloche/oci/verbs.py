"""The verbs that look at a container or change one: state, start, kill, delete, ps, events, pause, resume, update,
list, spec, features.
"""

import os
import signal
import sys
import time
from typing import Any, Final

from cloche.oci import quickjson as json
from cloche.oci.errors import OciError
from cloche.oci.options import Options
from cloche.oci.records import CREATED, PAUSED, RUNNING, STOPPED, Record, load, names

_STATUSES: Final = {CREATED: "created", RUNNING: "running", PAUSED: "paused", STOPPED: "stopped"}

_ASKING: Final = ("start", "kill", "ps", "pause", "resume")  # the monitor, with nothing of the sentry


def one_id(words: list[str], verb: str, most: int = 1) -> str:
    """The container that is named.  Raises OciError."""
    if not words:
        raise OciError(f'cloche-oci {verb}: "{verb}" requires exactly 1 argument(s)')
    if len(words) > most:
        raise OciError(f'cloche-oci {verb}: "{verb}" requires exactly {most} argument(s)')
    return words[0]


def run_simple(verb: str, root: str, options: Options, words: list[str]) -> int:
    """Carry out a simple verb. Raises OciError."""
    if verb in _ASKING:
        from cloche.library import interpret

        interpret()
    if verb == "state":
        _print(shown_state(load(root, one_id(words, verb))))
    elif verb == "list":
        _list(root, options)
    elif verb == "kill":
        _kill(root, options, words)
    elif verb == "delete":
        _delete(root, options, words)
    elif verb == "start":
        start(load(root, one_id(words, verb)))
    elif verb == "ps":
        _ps(root, options, words)
    elif verb == "events":
        _events(load(root, one_id(words, verb)), options)
    elif verb == "pause" or verb == "resume":
        _pause(load(root, one_id(words, verb)), verb)
    elif verb == "update":
        _update(load(root, one_id(words, verb)), options)
    elif verb == "spec":
        _spec(options)
    elif verb == "features":
        from cloche.oci.features import features

        _print(features())
    return 0


def print_version() -> int:
    """`--version`, with the lines that engines look for."""
    from cloche import __version__
    from cloche.oci.spec import MAX_VERSION

    print(f"cloche-oci version {__version__}\nspec: {MAX_VERSION}")
    return 0


def _print(data: Any) -> None:
    print(json.dumps(data, "  "))


def shown_state(record: Record) -> dict[str, Any]:
    """The fields of a container that `state` and `list` print."""
    status = record.status()
    found: dict[str, Any] = {
        "ociVersion": record.version,
        "id": record.ident,
        "pid": 0 if status == STOPPED else record.pid,
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
    }
    if record.annotations:
        found["annotations"] = record.annotations
    found["owner"] = _owner(record)
    return found


def _owner(record: Record) -> str:
    try:
        uid = os.stat(record.path).st_uid
    except OSError:
        return ""
    return "root" if uid == 0 else str(uid)


def _list(root: str, options: Options) -> None:
    found: list[dict[str, Any]] = []
    for name in names(root):
        try:
            found.append(shown_state(load(root, name)))
        except OciError:
            pass  # removed meanwhile
    if options.has("quiet"):
        for row in found:
            print(row["id"])
        return
    kind = options.text("format", "table")
    if kind == "json":
        print(json.dumps(found) if found else "null")
    elif kind == "table":
        columns = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
        rows = [columns, *[tuple(str(row[name.lower()]) for name in columns) for row in found]]
        widths = [max(12, max(len(row[index]) for row in rows) + 3) for index in range(len(columns))]
        for words in rows:
            print("".join(word.ljust(width) for word, width in zip(words, widths, strict=True)).rstrip())
    else:
        raise OciError("invalid format option")


# -- ending ----------------------------------------------------------------------------------------------------
def parse_signal(text: str) -> int:
    """A number, or a name with or without SIG.  Raises OciError."""
    if text.isdigit() and 0 <= int(text) <= 64:
        return int(text)
    name = text.upper()
    name = name if name.startswith("SIG") else "SIG" + name
    base, plus, offset = name.partition("+")
    if plus and base == "SIGRTMIN" and offset.isdigit() and int(offset) <= 30:
        return 34 + int(offset)
    known = getattr(signal, name, None)
    if isinstance(known, int) and not name.startswith("SIG_"):
        return int(known)
    raise OciError(f"unknown signal {json.dumps(text)}")


def _kill(root: str, options: Options, words: list[str]) -> None:
    ident = one_id(words, "kill", 2)
    signo = parse_signal(words[1] if len(words) > 1 else "SIGTERM")
    record = load(root, ident)
    status = record.status()
    if status == STOPPED or not record.pid:
        if options.has("all"):
            return
        raise OciError("container not running")
    if signo in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT):  # for the program; an anchor must not stop
        ask(record, "signal", {"signal": signo, "scope": "all" if options.has("all") else "process"})
    elif not record.kill(signo):
        raise OciError("container not running")


def _delete(root: str, options: Options, words: list[str]) -> None:
    from cloche.oci.deletion import delete

    ident = one_id(words, "delete")
    try:
        record = load(root, ident)
    except OciError:
        if options.has("force"):
            return
        raise
    delete(record, is_forced=options.has("force"))


# -- asking the monitor ----------------------------------------------------------------------------------------
def ask(record: Record, method: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A request of the monitor, and its answer.  Raises OciError."""
    from cloche.wire.control_client import ControlClient, ControlError

    if record.sandbox:
        fields = {**fields, "container": record.ident}
    client = ControlClient(record.connect())
    try:
        return dict(client.call(method, fields))
    except ControlError as refusal:
        raise OciError(str(refusal), 1) from refusal
    finally:
        client.close()


def start(record: Record) -> None:
    """Start its program.  Raises OciError."""
    status = record.status()
    if status == STOPPED:
        raise OciError("cannot start a container that has stopped")
    if status != CREATED:
        raise OciError("cannot start an already running container")
    if not record.hooks:  # their module is one more to import
        ask(record, "start", {})
        return
    from cloche.oci.hooks import run_hooks

    run_hooks(record.hooks, "startContainer", record.state(CREATED))
    ask(record, "start", {})
    try:
        run_hooks(record.hooks, "poststart", record.state(RUNNING))
    except OciError:
        record.kill(signal.SIGKILL)
        raise


def _pause(record: Record, verb: str) -> None:
    status = record.status()
    if verb == "pause" and status not in (RUNNING, CREATED):
        raise OciError("container not running")
    if verb == "resume" and status != PAUSED:
        raise OciError("container not paused")
    ask(record, verb, {})


def _ps(root: str, options: Options, words: list[str]) -> None:
    if not words:
        one_id(words, "ps")
    record = load(root, words[0])
    pids = [] if record.status() == STOPPED else ask(record, "oci-pids", {}).get("pids", [])
    if options.text("format", "table") == "json":
        print(json.dumps(pids) if pids else "null")
        return
    if options.text("format", "table") != "table":
        raise OciError("invalid format option")
    import subprocess

    output = subprocess.run(["ps", *(words[1:] or ["-ef"])], capture_output=True, text=True, check=False)
    if output.returncode:
        raise OciError(output.stderr.strip() or "ps failed")
    lines = output.stdout.splitlines()
    heads = lines[0].split() if lines else []
    if "PID" not in heads:
        raise OciError("couldn't find PID field in ps output")
    index = heads.index("PID")
    print(lines[0])
    for line in lines[1:]:
        fields = line.split()
        if len(fields) > index and fields[index].isdigit() and int(fields[index]) in pids:
            print(line)


def _duration_s(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit, seconds in units.items():
        number = text.removesuffix(unit)
        if number != text:
            try:
                return float(number) * seconds
            except ValueError:
                break
    raise OciError(f"invalid duration {text!r}")


def _events(record: Record, options: Options) -> None:
    """Print statistics at intervals, and events in between, as runc's `events` does, until the container ends."""
    import select

    from cloche.oci import cgroups
    from cloche.wire import requests
    from cloche.wire.control_client import ControlError

    interval_s = _duration_s(options.text("interval", "5s"))
    if interval_s <= 0:
        raise OciError("duration interval must be greater than 0")
    if record.status() == STOPPED:
        raise OciError("container with id " + record.ident + " is not running")
    if options.has("stats"):
        _print_event("stats", record, cgroups.stats(record.groups))
        return
    client = _listener(record)
    poller = select.poll()
    poller.register(client.fileno(), select.POLLIN)
    next_s = time.monotonic() + interval_s
    while True:
        if not client.has_message():
            poller.poll(max(0, int((next_s - time.monotonic()) * 1000)))
        if client.has_message() or client.has_answer():
            try:
                news = client.take(0)
            except ControlError:
                return  # the container has ended
            if news is not None and news.name == requests.OOM and _is_about(record, news.fields):
                _print_event("oom", record, None)
                continue  # there may be more
        if time.monotonic() >= next_s:
            if record.status() == STOPPED:
                return
            _print_event("stats", record, cgroups.stats(record.groups))
            next_s = time.monotonic() + interval_s


def _listener(record: Record) -> Any:
    """A connection that has asked for the sandbox's events. Raises OciError."""
    from cloche.wire import requests
    from cloche.wire.control_client import ControlClient

    client = ControlClient(record.connect())
    client.ask(requests.EVENTS, {})
    return client


def _is_about(record: Record, fields: dict[str, Any]) -> bool:
    """Whether an event is about this container: the first one of a sandbox has another name there."""
    from cloche.wire import requests

    return bool(requests.take_container(fields) == (record.ident if record.sandbox else requests.MAIN))


def _print_event(kind: str, record: Record, data: Any) -> None:
    event = {"type": kind, "id": record.ident}
    if data is not None:
        event["data"] = data
    print(json.dumps(event), flush=True)


# -- limits ----------------------------------------------------------------------------------------------------
_UPDATE_NUMBERS: Final = {
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-share": ("cpu", "shares"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"),
    "cpu-idle": ("cpu", "idle"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
}
_UPDATE_TEXTS: Final = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_SUFFIXES: Final = {"k": 10, "m": 20, "g": 30, "t": 40}


def _size(text: str, name: str) -> int:
    number = text.lower().rstrip("b")
    shift = _SUFFIXES.get(number[-1:], 0)
    number = number[:-1] if shift else number
    if not number.lstrip("-").isdigit():
        raise OciError(f"invalid value for {name}: {text}")
    return int(number) << shift


def _update(record: Record, options: Options) -> None:
    from cloche.oci import cgroups
    from cloche.oci.config import parse_json, read_json
    from cloche.oci.spec import check_resources

    source = options.text("resources")
    resources: dict[str, Any] = {}
    if source == "-":
        resources = parse_json(sys.stdin.buffer.read(1 << 20), "resources")
    elif source:
        resources = read_json(source)
    for name, (group, key) in _UPDATE_NUMBERS.items():
        if name in options.values:
            resources.setdefault(group, {})[key] = _size(options.text(name), name)
    for name, (group, key) in _UPDATE_TEXTS.items():
        if name in options.values:
            resources.setdefault(group, {})[key] = options.text(name)
    check_resources(resources)
    if record.status() == STOPPED:
        raise OciError("container not running")
    fields: dict[str, Any] = {}
    limit = (resources.get("memory") or {}).get("limit")
    if limit:
        fields["memory_bytes"] = limit if limit > 0 else -1
    tasks = (resources.get("pids") or {}).get("limit")
    if tasks:
        fields["max_tasks"] = min(tasks, 1 << 22) if tasks > 0 else 32768
    if record.unit:
        from cloche.oci import systemd

        systemd.update(record, resources)
    cgroups.limit(record.groups, resources)
    if fields:
        ask(record, "update", fields)


def _spec(options: Options) -> None:
    from cloche.oci.features import example_spec

    folder = options.text("bundle") or "."
    path = os.path.join(folder, "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(example_spec(), file, "\t")
            file.write("\n")
    except FileExistsError:
        raise OciError("File config.json exists. Remove it first") from None
