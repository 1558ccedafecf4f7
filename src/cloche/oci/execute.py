"""The verb `exec`: a further command in a running container, with an anchor of its own."""

import os
import socket
from typing import Any, Final

from cloche.oci import cgroups
from cloche.oci.anchor import Anchor, namespace_file
from cloche.oci.config import read_json
from cloche.oci.create import check_terminal, open_terminal, own_streams, send_process, write_pid_file
from cloche.oci.errors import OciError
from cloche.oci.foreground import follow
from cloche.oci.log import Log
from cloche.oci.messages import EXEC
from cloche.oci.options import Options
from cloche.oci.records import PAUSED, STOPPED, Record, load
from cloche.oci.scheduling import check_deadline, inherit, settle_processors
from cloche.oci.spec import ProcessSpec
from cloche.oci.streams import passed_streams
from cloche.oci.userns import IdMaps, maps_of
from cloche.oci.users import add_home
from cloche.wire.control_client import ControlClient, ControlError
from cloche.wire.requests import ExecRequest

_JOINED: Final = ("user", "cgroup", "uts", "ipc", "network", "pid", "mount")


def _process_data(record: Record, options: Options, words: list[str]) -> dict[str, Any]:
    """The process as data: of a file, or the container's with what the options say.  Raises OciError."""
    path = options.text("process")
    if path:
        found = read_json(path)
        inherit(found, record.process)
        if found.get("capabilities") is None:
            found["capabilities"] = record.process.get("capabilities")
        user, umask = found.get("user") or {}, (record.process.get("user") or {}).get("umask")
        if isinstance(user, dict) and user.get("umask") is None:
            found["user"] = {**user, "umask": umask}
        return found
    if not words:
        raise OciError("process args cannot be empty")
    data = dict(record.process)
    data["args"] = words
    data["terminal"] = options.has("tty")
    data["env"] = [*(data.get("env") or []), *options.all("env")]
    if options.text("cwd"):
        data["cwd"] = options.text("cwd")
    if options.text("user"):
        uid, _colon, gid = options.text("user").partition(":")
        if not uid.isdigit() or (gid and not gid.isdigit()):
            raise OciError(f"parsing {options.text('user')!r} as uid[:gid]")
        data["user"] = {"uid": int(uid), "gid": int(gid or 0)}
    gids = options.all("additional-gids")
    if gids:
        if not all(gid.isdigit() for gid in gids):
            raise OciError("additional-gids are numbers")
        data["user"] = {**(data.get("user") or {}), "additionalGids": [int(gid) for gid in gids]}
    if options.has("no-new-privs"):
        data["noNewPrivileges"] = True
    caps = options.all("cap")
    if caps:
        sets = dict(data.get("capabilities") or {})
        for name in ("bounding", "effective", "permitted", "ambient"):
            sets[name] = [*(sets.get(name) or []), *caps]
        data["capabilities"] = sets
    return data


def _request(process: ProcessSpec, streams: list[int], *, keeps_newlines: bool) -> ExecRequest:
    request = ExecRequest(process.argv)
    request.env = process.env
    request.cwd = process.cwd
    request.uid, request.gid, request.groups = process.uid, process.gid, process.groups
    request.has_terminal = process.has_terminal
    request.keeps_newlines = keeps_newlines
    request.rows, request.columns = process.rows, process.columns
    request.is_whole = True
    request.umask, request.rlimits, request.cap_sets = process.umask, process.rlimits, process.cap_sets
    request.oom_score_adj, request.no_new_privileges = process.oom_score_adj, process.no_new_privileges
    request.scheduler, request.io_priority = process.scheduler, process.io_priority
    request.streams = [number for number, fd in enumerate(streams) if fd >= 0]
    return request


def _namespaces(record: Record) -> list[tuple[str, int]]:
    """The namespaces of the container's anchor."""
    found: list[tuple[str, int]] = []
    for kind in _JOINED:
        try:
            path = f"/proc/{record.pid}/ns/{namespace_file(kind)}"
            if os.readlink(path) == os.readlink(f"/proc/self/ns/{namespace_file(kind)}"):
                continue
            found.append((kind, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
        except OSError:
            raise OciError("cannot exec in a stopped container") from None
    return found


def exec_verb(root: str, options: Options, words: list[str], log: Log) -> int:
    """The exit status.  Raises OciError."""
    if not words:
        raise OciError('cloche-oci exec: "exec" requires a minimum of 1 argument(s)')
    streams = passed_streams(options.text("preserve-fds", "0"))
    record = load(root, words[0])
    status = record.status()
    if status == STOPPED or not record.pid:
        raise OciError("cannot exec in a stopped container")
    if status == PAUSED and not options.has("ignore-paused"):
        raise OciError("cannot exec in a paused container (use --ignore-paused to override)")
    cgroups.check_below(record.groups, options.all("cgroup"))
    data = _process_data(record, options, words[1:])
    try:
        process = ProcessSpec(data, "", is_init=False)
        sandbox = load(root, record.sandbox) if record.sandbox else record
        check_deadline(process.scheduler, record.groups, "")
        first, last = process.first_processors, process.processors
        processors = settle_processors(first, last, record.groups, sandbox.groups)
    except OciError as refusal:
        raise OciError(f"exec failed: {_without_init(str(refusal))}") from None
    for text in process.warnings:
        log.warning(text)
    namespaces = _namespaces(record)
    maps: IdMaps | None = None
    if any(kind == "user" for kind, _fd in namespaces):
        maps = maps_of(record.pid)
        try:
            maps.check_user(process.uid, process.gid, process.groups)
        except OciError as refusal:
            raise OciError(f"exec failed: {refusal}") from None
    add_home(process, record.rootfs)
    console = options.text("console-socket")
    is_detached = options.has("detach")
    check_terminal(process, console, is_detached=is_detached)
    terminal = master = -1
    if process.has_terminal:
        terminal, master = open_terminal(console, process, maps)
        streams = [terminal, terminal, -1, *streams[3:]]
    else:
        own_streams(streams[:3], process, maps)
    anchor = Anchor()
    try:
        anchor.open()
        sock = anchor.sock.dup()
        anchor.begin(namespaces, record.groups, None, process.argv, terminal)
        if options.text("pidfd-socket"):
            send_process(options.text("pidfd-socket"), anchor.pid)
        anchor.go()
        request = _request(process, streams, keeps_newlines=master >= 0)
        request.processors = processors
        _ask(record, anchor, sock, request, process, streams)
    except OciError:
        if anchor.pid:
            anchor.end()
        raise
    sock.close()
    if options.text("pid-file"):
        write_pid_file(options.text("pid-file"), anchor.pid)
    if is_detached:
        return 0
    if terminal >= 0:
        os.close(terminal)
    return follow(anchor.pid, master)


def _ask(
    record: Record,
    anchor: Anchor,
    sock: socket.socket,
    request: ExecRequest,
    process: ProcessSpec,
    streams: list[int],
) -> None:
    """Have the monitor start it.  Raises OciError."""
    if record.sandbox:
        request.container = record.ident
    fields = request.to_fields()
    fields["pid"] = anchor.pid
    client = ControlClient(record.connect())
    try:
        fds = [fd for fd in streams if fd >= 0]
        client.answer(client.ask(EXEC, fields, [*fds, sock.fileno()]))
    except ControlError as refusal:
        raise OciError("exec failed: " + explain_exec(refusal, process)) from None
    finally:
        client.close()


def explain_exec(refusal: ControlError, process: ProcessSpec) -> str:
    """In the words that engines look for."""
    from cloche.oci.create import explain_start

    text = explain_start(refusal.status, str(refusal), process.argv[0].decode(errors="replace"))
    return _without_init(text.removeprefix("runc create failed: "))


def _without_init(text: str) -> str:
    return text.replace("error during container init: ", "", 1)
