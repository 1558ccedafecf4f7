"""The requests of `wire.protocol`: methods, their fields, and the answers.

A monitor and its sentry answer to the same names.  Containers are named by their id; without one it is MAIN.

    create   spec, descriptors (their roles), owners         -> zygote (as the sentry counts: the process of which its
             share (kinds of namespaces), share_with (a container)      programs will be forked; 0: that of the first)
    start    container                                       -> pid, timing (if its spec asks for that)
    exec     container, an ExecRequest, its descriptors      -> event "started" (pid), then status; detached: pid
             event "refused" (argument, of these), before an ERROR that is the fault of one: text is for people
    signal   container or exec (the id of that request), signal, scope   -> {}
    resize   container or exec, rows, columns                -> {}
    dial     container, port, peer_port, a descriptor: a connected socket of TCP, the end of who connects is with its
             client                                          -> {}; STATUS_REFUSED if nobody listens
    wait     container                                       -> status (wait status), oom_kills
    pause, resume   container                                -> {}
    stats    container                                       -> figures (bytes, nanoseconds, counts)
    ps       container                                       -> processes
    list                                                     -> containers (id, state, pid, status)
    delete   container, is_forced                            -> {}
    events                                                   -> events "started", "paused", "resumed", "oom",
                                                                "ended" (container), for ever
    update   container, memory_bytes, max_tasks, cpus_thousandths (each if it is there)   -> {}
    told     container, kills: so many ends by the host's kernel were caused to tell the engine of one   -> {}
    ping                                                     -> {}
    file_…   what `wire.files` describes
    shutdown                                                 -> events "writing" as long as layers are being written,
                                                                then layer_errno (0: all is kept); the sandbox ends
    stop     patience_ms (monitors only)                     -> as wait
    time     limit_ms (monitors only; from now on, 0: none, without it: only asked)   -> left_ms (0: no limit)
    net      operation (show, set, add, remove, log, approvals, approve), policy, rules, follow, id, allow
             (monitors only: egress answers)
             -> policy; cut, rules; events "line" (text), "approval" (id, method, url, scope, rule, pid, program)

Both sides check fields with these functions; each raises ProtocolError.
"""

from typing import Final

from cloche.wire.protocol import (
    Fields,
    ProtocolError,
    take_bool,
    take_bytes,
    take_int,
    take_list,
    take_strings,
    take_text,
)

MAIN: Final = "main"
MAX_STRINGS: Final = 65536
STATUS_ENDED: Final = 137  # exit status of a command whose sandbox has ended
STATUS_REFUSED: Final = 111  # as ECONNREFUSED: of a connection to a port at which nobody listens
MAX_BODY_BYTES: Final = 4 << 20  # of arguments and environment
MAX_TIMEOUT_MS: Final = 1 << 40  # 34 years

CREATE: Final = "create"
START: Final = "start"
EXEC: Final = "exec"
SIGNAL: Final = "signal"
RESIZE: Final = "resize"
DIAL: Final = "dial"
WAIT: Final = "wait"
PAUSE: Final = "pause"
RESUME: Final = "resume"
STATS: Final = "stats"
PS: Final = "ps"
LIST: Final = "list"
DELETE: Final = "delete"
EVENTS: Final = "events"
PING: Final = "ping"
SHUTDOWN: Final = "shutdown"
STOP: Final = "stop"
TIME: Final = "time"
NET: Final = "net"
UPDATE: Final = "update"
TOLD: Final = "told"

# Ids of a monitor's own requests to its sentry lie below those that it hands on.
QUIET: Final = 5  # for requests whose answers are ignored
FIRST_ID: Final = 16

STARTED: Final = "started"  # events
REFUSED: Final = "refused"
ENDED: Final = "ended"
PAUSED: Final = "paused"
RESUMED: Final = "resumed"
OOM: Final = "oom"
WRITING: Final = "writing"

CWD: Final = "cwd"  # an argument of "refused"

# Scopes of a signal.
PROCESS: Final = "process"
FOREGROUND: Final = "foreground"  # the process group that the keyboard reaches
ALL: Final = "all"  # every process of the container
SESSION: Final = "session"  # of a command: every process that is still in its session
SCOPES: Final = (PROCESS, FOREGROUND, ALL, SESSION)

# Roles of descriptors.
STREAMS: Final = ("stdin", "stdout", "stderr")
MAX_STREAMS: Final = len(STREAMS) + 16  # with those of --preserve-fds, which follow
GOFER: Final = "gofer"
VOLUME: Final = "volume:"  # + its name: a gofer for what several containers may mount (`MountSpec.volume`)
_NO_ID: Final = -1
_MAX_CONTAINER_ID: Final = 1024
_CAP_SETS: Final = 5
_RLIMITS: Final = 16  # RLIM_NLIMITS
_ATTRIBUTES: Final = 7  # policy, nice value, priority, flags, runtime, deadline, period
_PROCESSORS: Final = 1024


class ExecRequest:
    """A command to start in a running container."""

    def __init__(self, argv: list[bytes]) -> None:
        self.argv: list[bytes] = argv
        self.container: str = MAIN
        self.env: list[bytes] = []  # K=V, over the container's own
        self.cwd: bytes = b""  # empty: the container's
        self.uid: int = _NO_ID  # -1: the container's user
        self.gid: int = _NO_ID
        self.has_terminal: bool = False
        self.keeps_newlines: bool = False  # this leaves them as programs write them
        self.is_detached: bool = False  # it may outlive its client
        self.rows: int = 0
        self.columns: int = 0
        self.timeout_ms: int = 0  # after so long its session is killed; 0: never
        self.streams: list[int] = []  # the numbers of those that come along, in order
        # If it `is_whole`, the environment and the fields below replace the container's; otherwise they are ignored.
        self.is_whole: bool = False
        self.groups: list[int] = []
        self.umask: int = 0o022
        self.rlimits: list[tuple[int, int, int]] = []  # (RLIMIT_*, soft, hard); -1: infinity
        # Effective, permitted, inheritable, ambient, bounding; empty: by the user
        self.cap_sets: list[int] = []
        self.oom_score_adj: int = 0
        self.no_new_privileges: bool = False
        self.scheduler: list[int] = []  # as `SandboxSpec` has it, like the next
        self.io_priority: int = -1
        self.processors: list[int] = []  # on which it may run; empty: all

    def to_fields(self) -> Fields:
        """As data."""
        return {
            "container": self.container,
            "args": self.argv,
            "env": self.env,
            "cwd": self.cwd,
            "uid": self.uid,
            "gid": self.gid,
            "terminal": self.has_terminal,
            "keeps_newlines": self.keeps_newlines,
            "detached": self.is_detached,
            "rows": self.rows,
            "columns": self.columns,
            "timeout": self.timeout_ms,
            "streams": self.streams,
            "whole": self.is_whole,
            "groups": self.groups,
            "umask": self.umask,
            "rlimits": [list(limit) for limit in self.rlimits],
            "cap_sets": self.cap_sets,
            "oom_score_adj": self.oom_score_adj,
            "no_new_privileges": self.no_new_privileges,
            "scheduler": self.scheduler,
            "io_priority": self.io_priority,
            "processors": self.processors,
        }


def exec_request(fields: Fields, fd_count: int) -> ExecRequest:
    """The inverse of `ExecRequest.to_fields`, with as many descriptors as came."""
    request = ExecRequest(take_strings(fields, "args", MAX_STRINGS))
    request.container = take_container(fields)
    request.env = take_strings(fields, "env", MAX_STRINGS)
    request.cwd = take_bytes(fields, "cwd")
    request.uid = take_int(fields, "uid", _NO_ID, _NO_ID, 0xFFFFFFFE)
    request.gid = take_int(fields, "gid", _NO_ID, _NO_ID, 0xFFFFFFFE)
    request.has_terminal = take_bool(fields, "terminal")
    request.keeps_newlines = take_bool(fields, "keeps_newlines")
    request.is_detached = take_bool(fields, "detached")
    request.rows = take_int(fields, "rows", 0, 0, 0xFFFF)
    request.columns = take_int(fields, "columns", 0, 0, 0xFFFF)
    request.timeout_ms = take_int(fields, "timeout", 0, 0, MAX_TIMEOUT_MS)
    request.streams = take_streams(fields)
    if len(request.streams) != fd_count:
        raise ProtocolError("descriptors are missing, or too many")
    if request.has_terminal and request.streams[:2] != [0, 1]:
        raise ProtocolError("a terminal needs its two descriptors")
    if not request.argv or len(request.argv) + len(request.env) > MAX_STRINGS:
        raise ProtocolError("too many strings, or none")
    if (request.uid < 0) != (request.gid < 0):
        raise ProtocolError("ids out of range")
    if request.cwd and not request.cwd.startswith(b"/"):
        raise ProtocolError("a relative working directory")
    for item in request.env:
        if item.find(b"=") < 1:
            raise ProtocolError("a variable without a name")
    _take_settings(request, fields)
    return request


def stream_role(number: int) -> str:
    """How a request names the descriptor that becomes a program's `number`."""
    return STREAMS[number] if number < len(STREAMS) else f"fd{number}"


def take_streams(fields: Fields) -> list[int]:
    """The numbers of a program's descriptors that come along, in order.  Raises ProtocolError."""
    found = _take_numbers(fields, "streams", MAX_STREAMS, 0, MAX_STREAMS - 1)
    if found != sorted(set(found)):
        raise ProtocolError("streams are out of order, or there twice")
    return found


def _take_settings(request: ExecRequest, fields: Fields) -> None:
    """Read the fields of a request that `is_whole`."""
    request.is_whole = take_bool(fields, "whole")
    request.groups = _take_numbers(fields, "groups", MAX_STRINGS, 0, 0xFFFFFFFE)
    request.umask = take_int(fields, "umask", 0o022, 0, 0o777)
    request.cap_sets = _take_numbers(fields, "cap_sets", _CAP_SETS, 0, (1 << 41) - 1)
    if len(request.cap_sets) not in (0, _CAP_SETS):
        raise ProtocolError("capability sets are missing")
    request.oom_score_adj = take_int(fields, "oom_score_adj", 0, -1000, 1000)
    request.no_new_privileges = take_bool(fields, "no_new_privileges")
    request.scheduler = _take_numbers(fields, "scheduler", _ATTRIBUTES, -(1 << 31), (1 << 64) - 1)
    if len(request.scheduler) not in (0, _ATTRIBUTES):
        raise ProtocolError("scheduling attributes are missing")
    request.io_priority = take_int(fields, "io_priority", -1, -1, 0x7FFFFFFF)
    request.processors = _take_numbers(fields, "processors", _PROCESSORS, 0, _PROCESSORS - 1)
    for limit in take_list(fields, "rlimits", _RLIMITS):
        if not isinstance(limit, list) or len(limit) != 3:
            raise ProtocolError("a limit that is none")
        number, soft, hard = limit
        if not isinstance(number, int) or not isinstance(soft, int) or not isinstance(hard, int):
            raise ProtocolError("a limit that is none")
        if not 0 <= number < _RLIMITS or min(soft, hard) < -1 or max(soft, hard) >= 1 << 63:
            raise ProtocolError("a limit out of range")
        request.rlimits.append((number, soft, hard))


def _take_numbers(fields: Fields, name: str, count: int, low: int, high: int) -> list[int]:
    """A list of numbers in a range."""
    found: list[int] = []
    for number in take_list(fields, name, count):
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ProtocolError(f"{name} has something that is not a number, or out of range")
        found.append(number)
    return found


class Process:
    """A row of `cloche ps`."""

    def __init__(self, pid: int, ppid: int, uid: int, state: str, cpu_ns: int, command: bytes) -> None:
        self.pid: int = pid
        self.ppid: int = ppid
        self.uid: int = uid
        self.state: str = state  # as in /proc/PID/stat
        self.cpu_ns: int = cpu_ns
        self.command: bytes = command  # arguments, a NUL after each; the guest chose them


def process_fields(rows: list[Process]) -> Fields:
    """The answer to `ps`."""
    return {"processes": [[row.pid, row.ppid, row.uid, row.state, row.cpu_ns, row.command] for row in rows]}


def processes(fields: Fields) -> list[Process]:
    """The inverse."""
    found: list[Process] = []
    for row in take_list(fields, "processes", 1 << 22):
        if not isinstance(row, list) or len(row) != 6:
            raise ProtocolError("a process that is none")
        pid, ppid, uid, state, cpu_ns, command = row
        if (
            not isinstance(pid, int)
            or not isinstance(ppid, int)
            or not isinstance(uid, int)
            or not isinstance(cpu_ns, int)
            or not isinstance(state, str)
            or not isinstance(command, bytes)
            or len(state) != 1
            or not 32 < ord(state) < 127
        ):
            raise ProtocolError("a process that is none")
        found.append(Process(pid, ppid, uid, state, cpu_ns, command))
    return found


def take_container(fields: Fields) -> str:
    """The id of a container."""
    ident = take_text(fields, "container", MAIN)
    if not ident or len(ident) > _MAX_CONTAINER_ID:
        raise ProtocolError("a container's id is too long, or empty")
    return ident


def take_signal(fields: Fields) -> int:
    """The number of a signal."""
    return take_int(fields, "signal", 0, 1, 64)


def take_scope(fields: Fields) -> str:
    """The scope of a signal: which processes get it."""
    scope = take_text(fields, "scope", PROCESS)
    if scope not in SCOPES:
        raise ProtocolError("an unknown scope")
    return scope


def take_owners(fields: Fields, count: int) -> list[tuple[int, int]]:
    """(uid, gid) of the files behind descriptors, as the sender saw them."""
    found: list[tuple[int, int]] = []
    for pair in take_list(fields, "owners", count):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ProtocolError("an owner that is none")
        uid, gid = pair
        if not isinstance(uid, int) or not isinstance(gid, int) or min(uid, gid) < 0:
            raise ProtocolError("an owner that is none")
        found.append((uid, gid))
    if len(found) != count:
        raise ProtocolError("owners are missing")
    return found
