"""The table of the files of /proc/PID: names, modes, and a function of (reader, task) for each.

`is_guarded` files need ptrace access to be opened.  Texts are made in `proc_text` and `proc_mounts`; writes
that have an effect (comm, oom_score_adj, loginuid, timerslack_ns) are checked and done here.
"""

from collections.abc import Callable
from typing import Final

from cloche.abi.capability import CAP_AUDIT_CONTROL, CAP_SYS_NICE, CAP_SYS_RESOURCE
from cloche.abi.errno import EACCES, EINVAL, EPERM, ERANGE, ESRCH, LinuxError
from cloche.fs import proc_mounts, proc_text
from cloche.kernel.io_counts import io_counts, start_counting
from cloche.kernel.phase import LENT
from cloche.kernel.task import Task
from cloche.vfs.objects import Mount, Path
from cloche.vfs.pseudo import parse_int

TaskText = Callable[[Task, Task], bytes]  # (reader, task)
TaskStore = Callable[[Task, Task, bytes], int]  # (reader, task, data): bytes taken or -errno


class FileRow:
    """One line of the table of files."""

    def __init__(
        self,
        name: bytes,
        mode: int,
        text: TaskText,
        store: "TaskStore | None" = None,
        *,
        is_guarded: bool = False,
        where: int = 3,
    ) -> None:
        self.name: bytes = name
        self.mode: int = mode
        self.text: TaskText = text
        self.store: TaskStore | None = store
        self.is_guarded: bool = is_guarded
        self.where: int = where  # bit 0: /proc/PID, bit 1: task/TID


def no_text(reader: Task, task: Task) -> bytes:
    return b""


def no_module(reader: Task, task: Task) -> bytes:
    raise LinuxError(EINVAL)


def no_module_store(reader: Task, task: Task, data: bytes) -> int:
    return -EINVAL


def _stat(reader: Task, task: Task) -> bytes:
    return proc_text.stat_text(reader, task, is_thread=False)


def _status(reader: Task, task: Task) -> bytes:
    return proc_text.status_text(reader, task)


def _statm(reader: Task, task: Task) -> bytes:
    return proc_text.statm_text(task)


def _maps(reader: Task, task: Task) -> bytes:
    return proc_text.maps_text(reader, task)


def _numa_maps(reader: Task, task: Task) -> bytes:
    return proc_text.numa_text(reader, task)


def _smaps(reader: Task, task: Task) -> bytes:
    return proc_text.smaps_text(reader, task)


def _smaps_rollup(reader: Task, task: Task) -> bytes:
    return proc_text.smaps_rollup_text(task)


def _cmdline(reader: Task, task: Task) -> bytes:
    return proc_text.cmdline_text(task)


def _environ(reader: Task, task: Task) -> bytes:
    return proc_text.environ_text(task)


def _auxv(reader: Task, task: Task) -> bytes:
    return proc_text.auxv_text(task)


def _limits(reader: Task, task: Task) -> bytes:
    return proc_text.limits_text(task)


def _io(reader: Task, task: Task) -> bytes:
    start_counting(reader.kernel)
    return proc_text.io_text(io_counts(task, is_thread=False))


def _sched(reader: Task, task: Task) -> bytes:
    return proc_text.sched_text(reader, task)


def _schedstat(reader: Task, task: Task) -> bytes:
    return proc_text.schedstat_text(task)


def _children(reader: Task, task: Task) -> bytes:
    return proc_text.children_text(reader, task)


def _mounts(reader: Task, task: Task) -> bytes:
    if task.is_exited:
        raise LinuxError(EINVAL)
    return proc_mounts.mounts_text(task.mount_ns, task.fs.root)


def _mountinfo(reader: Task, task: Task) -> bytes:
    if task.is_exited:
        raise LinuxError(EINVAL)
    return proc_mounts.mountinfo_text(task.mount_ns, task.fs.root)


def _mountstats(reader: Task, task: Task) -> bytes:
    if task.is_exited:
        raise LinuxError(EINVAL)
    return proc_mounts.mountstats_text(task.mount_ns, task.fs.root)


def _comm(reader: Task, task: Task) -> bytes:
    return task.comm + b"\n"


def _set_comm(reader: Task, task: Task, data: bytes) -> int:
    if reader.group is not task.group:
        return -EINVAL
    task.comm = data[:15].split(b"\0", 1)[0]
    return len(data)


def _cgroup(reader: Task, task: Task) -> bytes:
    return b"0::/\n"


def _cpuset(reader: Task, task: Task) -> bytes:
    return b"/\n"


def _wchan(reader: Task, task: Task) -> bytes:
    return b"0"


def _oom_score(reader: Task, task: Task) -> bytes:
    return b"%d\n" % proc_text.oom_score(task)


def _oom_score_adj(reader: Task, task: Task) -> bytes:
    return b"%d\n" % task.group.oom_score.adjustment


def _set_oom_score_adj(reader: Task, task: Task, data: bytes) -> int:
    value = parse_int(data)
    if not -1000 <= value <= 1000:
        return -EINVAL
    is_privileged = reader.creds.capable(CAP_SYS_RESOURCE)
    return len(data) if task.group.oom_score.set(value, is_privileged=is_privileged) else -EACCES


def _oom_adj(reader: Task, task: Task) -> bytes:
    adjust = task.group.oom_score.adjustment
    return b"%d\n" % (15 if adjust == 1000 else int(adjust * 17 / 1000))


def _loginuid(reader: Task, task: Task) -> bytes:
    return b"%d" % task.group.loginuid


def _set_loginuid(reader: Task, task: Task, data: bytes) -> int:
    if reader.group is not task.group:
        return -EPERM
    value = parse_int(data)
    if not 0 <= value <= 0xFFFFFFFF:
        return -EINVAL
    group = task.group
    if group.loginuid != 0xFFFFFFFF and not reader.creds.capable(CAP_AUDIT_CONTROL):
        return -EPERM
    group.loginuid = value
    return len(data)


def _sessionid(reader: Task, task: Task) -> bytes:
    return b"4294967295"


def _timerslack(reader: Task, task: Task) -> bytes:
    _may_slack(reader, task)
    return b"%d\n" % task.sched.timer_slack_ns


def _set_timerslack(reader: Task, task: Task, data: bytes) -> int:
    _may_slack(reader, task)
    value = parse_int(data)
    if value < 0:
        return -EINVAL
    task.sched.timer_slack_ns = value if value else task.sched.default_timer_slack_ns
    return len(data)


def _may_slack(reader: Task, task: Task) -> None:
    if reader is not task and not reader.creds.capable(CAP_SYS_NICE):
        raise LinuxError(EPERM)


def _personality(reader: Task, task: Task) -> bytes:
    return b"%08x\n" % task.personality


def _syscall(reader: Task, task: Task) -> bytes:
    """The call that a task is blocked in, as syscall_get_nr and its arguments; "running" otherwise."""
    if task.is_exited or task.blocked is None or task.phase == LENT:
        return b"running\n"
    args = task.args
    values = (args.a0, args.a1, args.a2, args.a3, args.a4, args.a5)
    shown = " ".join([f"0x{value & 0xFFFFFFFFFFFFFFFF:x}" for value in values])
    regs = task.thread.regs()
    return f"{args.nr} {shown} 0x{regs.sp:x} 0x{regs.pc:x}\n".encode()


def _coredump_filter(reader: Task, task: Task) -> bytes:
    return b"" if task.is_exited else b"%08x\n" % task.mm.coredump_filter


def _set_coredump_filter(reader: Task, task: Task, data: bytes) -> int:
    """Stored without effect: no core is ever written."""
    if task.is_exited:
        return -ESRCH
    text = data[:-1] if data[-1:] == b"\n" else data
    value = parse_int(text)
    if value < 0 or text != text.strip():
        return -EINVAL
    if value > 0xFFFFFFFF:
        return -ERANGE
    task.mm.coredump_filter = value & 0x1FF
    return len(data)


_TABLE: Final = [
    FileRow(b"environ", 0o400, _environ, is_guarded=True),
    FileRow(b"auxv", 0o400, _auxv, is_guarded=True),
    FileRow(b"status", 0o444, _status),
    FileRow(b"personality", 0o400, _personality, is_guarded=True),
    FileRow(b"limits", 0o444, _limits),
    FileRow(b"sched", 0o444, _sched),
    FileRow(b"comm", 0o644, _comm, _set_comm),
    FileRow(b"syscall", 0o400, _syscall, is_guarded=True),
    FileRow(b"cmdline", 0o444, _cmdline),
    FileRow(b"stat", 0o444, _stat),
    FileRow(b"statm", 0o444, _statm),
    FileRow(b"maps", 0o444, _maps, is_guarded=True),
    FileRow(b"children", 0o444, _children, where=2),
    FileRow(b"numa_maps", 0o444, _numa_maps, is_guarded=True),
    FileRow(b"mounts", 0o444, _mounts),
    FileRow(b"mountinfo", 0o444, _mountinfo),
    FileRow(b"mountstats", 0o400, _mountstats, where=1),
    FileRow(b"smaps", 0o444, _smaps, is_guarded=True),
    FileRow(b"smaps_rollup", 0o444, _smaps_rollup, is_guarded=True),
    FileRow(b"wchan", 0o444, _wchan),
    FileRow(b"schedstat", 0o444, _schedstat),
    FileRow(b"cpuset", 0o444, _cpuset),
    FileRow(b"cgroup", 0o444, _cgroup),
    FileRow(b"oom_score", 0o444, _oom_score),
    FileRow(b"oom_adj", 0o444, _oom_adj),
    FileRow(b"oom_score_adj", 0o644, _oom_score_adj, _set_oom_score_adj),
    FileRow(b"loginuid", 0o644, _loginuid, _set_loginuid),
    FileRow(b"sessionid", 0o444, _sessionid),
    FileRow(b"coredump_filter", 0o644, _coredump_filter, _set_coredump_filter, where=1),
    FileRow(b"io", 0o400, _io, is_guarded=True),
    FileRow(b"uid_map", 0o644, no_text),  # these four are made by fs.proc_idmap
    FileRow(b"gid_map", 0o644, no_text),
    FileRow(b"projid_map", 0o644, no_text),
    FileRow(b"setgroups", 0o644, no_text),
    FileRow(b"timers", 0o444, no_text, where=1),
    FileRow(b"timerslack_ns", 0o666, _timerslack, _set_timerslack, where=1),
]

ROWS: Final = {row.name: row for row in _TABLE}
PROCESS_FILES: Final = [row.name for row in _TABLE if row.where & 1]
THREAD_FILES: Final = [row.name for row in _TABLE if row.where & 2]
# Files that are read as a buffer; SEEK_END works, with size 0.
PLAIN_FILES: Final = [
    row.text
    for row in _TABLE
    if row.name in (b"environ", b"auxv", b"cmdline", b"oom_score_adj", b"oom_adj", b"loginuid", b"sessionid")
    or row.name == b"coredump_filter"
]
FAR_FILES: Final = [row.text for row in _TABLE if row.name == b"oom_score_adj"]  # default_llseek
MOUNT_FILES: Final = [_mounts, _mountinfo, _mountstats]  # they have a read_iter
# Files that are made piece by piece, because they can be long.
PIECES: Final[dict[TaskText, proc_text.TaskPiece]] = {
    _maps: proc_text.maps_piece,
    _numa_maps: proc_text.numa_piece,
    _smaps: proc_text.smaps_piece,
}
MOUNT_LINES: Final[dict[TaskText, Callable[[Path, Mount], bytes]]] = {
    _mounts: proc_mounts.mounts_line,
    _mountinfo: proc_mounts.mountinfo_line,
}
