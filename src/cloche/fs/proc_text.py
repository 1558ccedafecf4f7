"""The texts of /proc/PID, byte for byte as fs/proc/array.c and task_mmu.c print them.

Plain functions of a task (and, where permissions matter, of the reader).  Guest memory is read through the
address space's process. Figures that only the host has (page faults, context switches, the resident size of a single
area) are 0, or estimates; then the docstring says so.
"""

from collections.abc import Callable
from typing import Final

from cloche.abi.mman import PROT_EXEC, PROT_READ, PROT_WRITE
from cloche.abi.stat import major, minor
from cloche.kernel.access import may_access, thread_count
from cloche.kernel.accounting import (
    MemoryFigures,
    group_cpu_ns,
    group_space,
    group_usage,
    space_of,
    space_rss_bytes,
    task_cpu_ns,
    task_state,
    task_usage,
)
from cloche.kernel.creds import securebits as securebits
from cloche.kernel.init import INIT_NAME
from cloche.kernel.mempolicy import policy_text
from cloche.kernel.pid_namespace import PidNamespace, pid_in, pids_below
from cloche.kernel.sched import policy_of, priority_of
from cloche.kernel.seccomp_filter import filters_of
from cloche.kernel.task import Session, Task, ThreadGroup
from cloche.kernel.usage import IoCounts
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import AREA_GROWSDOWN, AREA_LOCKED, AREA_ONFAULT, AREA_STACK, Area
from cloche.vfs.mapping import FileMapping
from cloche.vfs.objects import Path
from cloche.vfs.pseudo import path_text

# (reader, task, cursor) -> text, next cursor or -1
TaskPiece = Callable[[Task, Task, int], tuple[bytes, int]]

PAGE: Final = 4096
_MAPS_STEP: Final = 256  # areas in a piece of maps, which may have 65,000 (I8)
_SMAPS_STEP: Final = 32
NS_PER_TICK: Final = 10_000_000  # USER_HZ 100
ARG_LIMIT: Final = 1 << 21  # bytes of arguments or environment that one read shows at most
_PF_RANDOMIZE: Final = 0x400000
_PF_FORKNOEXEC: Final = 0x40
_STATE_NAMES: Final[dict[str, str]] = {
    "R": "R (running)",
    "S": "S (sleeping)",
    "D": "D (disk sleep)",
    "T": "T (stopped)",
    "t": "t (tracing stop)",
    "Z": "Z (zombie)",
    "X": "X (dead)",
}


def is_zombie(task: Task) -> bool:
    return task.is_exited


def _tracer_pid(task: Task) -> int:
    tracee = task.tracee
    return tracee.tracer.tid if tracee is not None else 0


def escape_name(name: bytes) -> bytes:
    """A task's name with newlines and backslashes escaped (string_escape_str ESCAPE_SPACE|ESCAPE_SPECIAL)."""
    return name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")


def pgrp_id(group: ThreadGroup) -> int:
    return group.pgrp.pgid if group.pgrp is not None else 0


def session_id(group: ThreadGroup) -> int:
    session = group.session()
    return session.sid if session is not None else 0


def _tty_of(session: Session | None) -> tuple[int, int]:
    """tty_nr and tpgid of /proc/PID/stat."""
    if session is not None:
        tty = session.tty
        if tty is not None:
            dev = tty.proc_device()
            low = minor(dev)
            number = (low & 0xFF) | major(dev) << 8 | (low & ~0xFF) << 12  # new_encode_dev
            return number, tty.proc_foreground()
    return 0, -1


def signal_masks(task: Task) -> tuple[int, int]:
    """Ignored and caught signals as masks."""
    ignored = caught = 0
    actions = task.group.handlers.actions
    for signo in range(1, 65):
        handler = actions[signo].handler
        if handler == 1:
            ignored |= 1 << (signo - 1)
        elif handler != 0:
            caught |= 1 << (signo - 1)
    return ignored, caught


# -- stat, statm, status ---------------------------------------------------------------------------------


def stat_text(reader: Task, task: Task, *, is_thread: bool) -> bytes:
    """/proc/PID/stat (proc_pid_stat(5)): 52 fields; addresses only for readers with ptrace access."""
    group, view = task.group, reader.proc_view
    space = space_of(task)
    may_look = may_access(reader, task, uses_real_ids=False)
    user, system = task_cpu_ns(task) if is_thread else group_cpu_ns(group)
    usage = task_usage(task) if is_thread else group_usage(group)
    ignored, caught = signal_masks(task)
    tty_number, foreground = _tty_of(group.session())
    policy = policy_of(task)
    threads = thread_count(group)
    flags = _PF_RANDOMIZE | (0 if group.exe.has_execed else _PF_FORKNOEXEC)
    vsize = rss = 0
    marks = [0] * 7
    code = (0, 0, 0)
    if space is not None:
        vsize = space.total_bytes
        rss = space_rss_bytes(space) // PAGE
        if may_look:
            code = (space.start_code, space.end_code, space.start_stack)
            marks = [
                space.start_data,
                space.end_data,
                space.start_brk,
                space.arg_start,
                space.arg_end,
                space.env_start,
                space.env_end,
            ]
        else:
            code = (1, 1, 0)
    rss_limit = group.rlimit(5)
    fields: list[int] = [
        parent_id(view, group),
        pid_in(view, pgrp_id(group)),
        pid_in(view, session_id(group)),
        tty_number,
        foreground if foreground <= 0 else pid_in(view, foreground),
        flags,
        usage.minor_faults,
        group.spent.children_usage.minor_faults,
        usage.major_faults,
        group.spent.children_usage.major_faults,
        user // NS_PER_TICK,
        system // NS_PER_TICK,
        group.spent.children_user_ns // NS_PER_TICK,
        group.spent.children_system_ns // NS_PER_TICK,
        priority_of(task) - 100,
        task.sched.nice,
        threads,
        0,
        task.start_ns // NS_PER_TICK,
        vsize,
        rss,
        rss_limit if rss_limit >= 0 else 0xFFFFFFFFFFFFFFFF,
        code[0],
        code[1],
        code[2],
        0,
        0,
        (task.pending.mask | group.pending.mask) & 0x7FFFFFFF
        if not is_thread
        else task.pending.mask & 0x7FFFFFFF,
        task.sigmask.now & 0x7FFFFFFF,
        ignored & 0x7FFFFFFF,
        caught & 0x7FFFFFFF,
        0,
        0,
        0,
        group.exit_signal if task.is_leader() else -1,
        (task.sched.affinity & -task.sched.affinity).bit_length() - 1,
        task.sched.priority,
        policy,
        0,
        0,
        0,
    ]
    fields += marks
    fields.append(group.end.status if may_look and group.end.is_zombie else 0)
    head = f"{pid_in(view, task.tid)} (".encode() + task.comm + f") {task_state(task)} ".encode()
    return head + " ".join([str(field) for field in fields]).encode() + b"\n"


class SizeFigures:
    """Bytes of an address space by use, as task_mem counts them."""

    def __init__(self, space: AddressSpace) -> None:
        self.data: int = 0  # private writable memory that is not stack
        self.stack: int = 0
        self.code: int = 0
        self.library: int = 0
        self.locked: int = 0
        self.file: int = 0
        self.shared: int = 0
        text_start = space.start_code & ~(PAGE - 1)
        text_end = (space.end_code + PAGE - 1) & ~(PAGE - 1)
        self.code = max(text_end - text_start, 0)
        executable = 0
        for area in space.areas():
            size = area.end - area.start
            if area.flags & AREA_LOCKED:
                self.locked += size
            if area.is_shared():
                self.shared += size
            elif area.backing is not None:
                self.file += size
            if _is_stack(space, area):
                self.stack += size
            elif area.prot & PROT_WRITE and not area.is_shared():
                self.data += size
            if area.prot & PROT_EXEC and not area.prot & PROT_WRITE:
                executable += size
        self.code = min(self.code, executable)
        self.library = executable - self.code


def _is_stack(space: AddressSpace, area: Area) -> bool:
    return area.flags & AREA_STACK != 0 or (
        area.backing is None and area.start <= space.start_stack < area.end
    )


def statm_text(task: Task) -> bytes:
    """/proc/PID/statm: pages; the shared resident part is not known and reads as 0."""
    space = space_of(task)
    if space is None:
        return b"0 0 0 0 0 0 0\n"
    sizes = SizeFigures(space)
    rss = space_rss_bytes(space) // PAGE
    total, code, data = space.total_bytes // PAGE, sizes.code // PAGE, (sizes.data + sizes.stack) // PAGE
    return f"{total} {rss} 0 {code} 0 {data} 0\n".encode()


def cpu_list(mask: int) -> str:
    """A mask as a list of ranges, e.g. "0-3,8" (%*pbl)."""
    parts: list[str] = []
    bit = 0
    while mask >> bit:
        if not (mask >> bit) & 1:
            bit += 1
            continue
        first = bit
        while (mask >> bit) & 1:
            bit += 1
        parts.append(str(first) if bit - first == 1 else f"{first}-{bit - 1}")
    return ",".join(parts)


def cpu_mask_text(mask: int, bits: int) -> str:
    """A mask of `bits` bits in hexadecimal, in groups of 32 bits (%*pb)."""
    text = ""
    words = (bits + 31) // 32
    for index in range(words - 1, -1, -1):
        width = 8 if index < words - 1 or bits % 32 == 0 else (bits % 32 + 3) // 4
        text += ("," if text else "") + f"{(mask >> 32 * index) & 0xFFFFFFFF:0{width}x}"
    return text


def _fd_table_size(task: Task) -> int:
    size = 64
    if task.is_exited:
        return 0
    while size < task.files.size:
        size *= 2
    return size


def parent_id(view: PidNamespace | None, group: ThreadGroup) -> int:
    """The pid of the parent in a pid namespace."""
    return pid_in(view, group.parent.tgid) if group.parent is not None else 0


def _pid_line(view: PidNamespace | None, group: ThreadGroup, pid: int) -> str:
    """The numbers of one line NS*id."""
    if group.pid_ns is None:
        return str(pid)
    return "\t".join([str(number) for number in pids_below(view, group.pid_ns, pid)])


def status_text(reader: Task, task: Task) -> bytes:
    """/proc/PID/status (proc_pid_status(5)), the lines of 6.12 in their order."""
    kernel, group, creds = task.kernel, task.group, task.creds
    view, mine = reader.proc_view, reader.creds
    groups = "".join([f"{mine.show_gid(gid)} " for gid in creds.groups]) if creds.groups else " "
    uids = "\t".join([str(mine.show_uid(uid)) for uid in (creds.uid, creds.euid, creds.suid, creds.fsuid)])
    gids = "\t".join([str(mine.show_gid(gid)) for gid in (creds.gid, creds.egid, creds.sgid, creds.fsgid)])
    head = (
        f"\nUmask:\t{task.fs.umask:04o}"
        f"\nState:\t{_STATE_NAMES[task_state(task)]}"
        f"\nTgid:\t{pid_in(view, group.tgid)}\nNgid:\t0\nPid:\t{pid_in(view, task.tid)}"
        f"\nPPid:\t{parent_id(view, group)}\nTracerPid:\t{pid_in(view, _tracer_pid(task))}"
        f"\nUid:\t{uids}\nGid:\t{gids}"
        f"\nFDSize:\t{_fd_table_size(task)}\nGroups:\t{groups}"
        f"\nNStgid:\t{_pid_line(view, group, group.tgid)}\nNSpid:\t{_pid_line(view, group, task.tid)}"
        f"\nNSpgid:\t{_pid_line(view, group, pgrp_id(group))}"
        f"\nNSsid:\t{_pid_line(view, group, session_id(group))}"
        "\nKthread:\t0\n"
    )
    space = space_of(task)
    usage = task_usage(task)
    memory = _status_memory(space, usage.maxrss_kib) if space is not None else ""
    ignored, caught = signal_masks(task)
    queued = len(group.pending.queue)
    for member in group.tasks:
        queued += len(member.pending.queue)
    limit = group.rlimit(11)
    cpus = kernel.cpu_count
    nodes = ",".join(["00000000"] * 31 + ["00000001"])
    tail = (
        f"Threads:\t{thread_count(group)}\n"
        f"SigQ:\t{queued}/{limit if limit >= 0 else 0xFFFFFFFFFFFFFFFF}\n"
        f"SigPnd:\t{task.pending.mask:016x}\nShdPnd:\t{group.pending.mask:016x}\n"
        f"SigBlk:\t{task.sigmask.now:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        f"CapInh:\t{creds.cap_inheritable:016x}\nCapPrm:\t{creds.cap_permitted:016x}\n"
        f"CapEff:\t{creds.cap_effective:016x}\nCapBnd:\t{creds.cap_bounding:016x}\n"
        f"CapAmb:\t{creds.cap_ambient:016x}\n"
        f"NoNewPrivs:\t{int(creds.no_new_privs)}\n"
        f"Seccomp:\t{task.seccomp.mode}\nSeccomp_filters:\t{filter_count(task)}\n"
        "Speculation_Store_Bypass:\tvulnerable\nSpeculationIndirectBranch:\talways enabled\n"
        f"Cpus_allowed:\t{cpu_mask_text(task.sched.affinity, cpus)}\n"
        f"Cpus_allowed_list:\t{cpu_list(task.sched.affinity)}\n"
        f"Mems_allowed:\t{nodes}\nMems_allowed_list:\t0\n"
        f"voluntary_ctxt_switches:\t{task.waits}\nnonvoluntary_ctxt_switches:\t{usage.preemptions}\n"
    )
    return b"Name:\t" + escape_name(task.comm) + (head + memory + tail).encode()


def filter_count(task: Task) -> int:
    """How many seccomp filters a task has."""
    newest = filters_of(task)
    return newest.count if newest is not None else 0


def _kib(label: str, value: int) -> str:
    return f"{label}:\t{value // 1024:8d} kB\n"


def _status_memory(space: AddressSpace, peak_kib: int) -> str:
    """The Vm lines of status (task_mem): resident sizes are split in proportion to the areas."""
    sizes = SizeFigures(space)
    rss = space_rss_bytes(space)
    from_file = min(sizes.file, rss // 2) & ~(PAGE - 1)
    return (
        _kib("VmPeak", max(space.peak_total_bytes, space.total_bytes))
        + _kib("VmSize", space.total_bytes)
        + _kib("VmLck", sizes.locked)
        + _kib("VmPin", 0)
        + _kib("VmHWM", max(peak_kib * 1024, rss))
        + _kib("VmRSS", rss)
        + _kib("RssAnon", rss - from_file)
        + _kib("RssFile", from_file)
        + _kib("RssShmem", 0)
        + _kib("VmData", sizes.data)
        + _kib("VmStk", sizes.stack)
        + _kib("VmExe", sizes.code)
        + _kib("VmLib", sizes.library)
        + _kib("VmPTE", (len(space.areas()) + 4) * PAGE)
        + _kib("VmSwap", 0)
        + _kib("HugetlbPages", 0)
        + f"CoreDumping:\t0\nTHP_enabled:\t{int(not space.is_thp_disabled)}\nuntag_mask:\t0xffffffffffffffff\n"
    )


# -- memory maps -----------------------------------------------------------------------------------------


def area_name(space: AddressSpace, area: Area, root: Path) -> bytes:
    """The last column of maps; a file's path as it is now, seen from `root`."""
    backing = area.backing
    if isinstance(backing, FileMapping):
        file = backing.file
        text = file.link_text()
        if text is not None:
            return text
        if file.path is not None:
            return path_text(root, file.path)
    if area.name:
        return area.name
    if area.backing is not None:
        return area.backing.map_name()
    if area.start <= space.brk and area.end >= space.start_brk and space.brk > space.start_brk:
        return b"[heap]"
    if _is_stack(space, area):
        return b"[stack]"
    return b""


def _map_line(space: AddressSpace, area: Area, root: Path) -> bytes:
    dev, ino = area.identity()
    prot = area.prot
    modes = (
        ("r" if prot & PROT_READ else "-")
        + ("w" if prot & PROT_WRITE else "-")
        + ("x" if prot & PROT_EXEC else "-")
        + ("s" if area.is_shared() else "p")
    )
    offset = area.offset if area.backing is not None else 0
    line = (
        f"{area.start:08x}-{area.end:08x} {modes} {offset:08x} {major(dev):02x}:{minor(dev):02x} {ino} "
    ).encode()
    name = area_name(space, area, root)
    if name:
        line = line.ljust(72) + b" " + name.replace(b"\n", b"\\012")
    return line + b"\n"


def shown_areas(space: AddressSpace) -> list[Area]:
    """The areas as maps shows them: the vDSO, which the host maps, included."""
    areas = space.areas()
    if space.vdso_end > space.vdso_start and space.find(space.vdso_start) is None:
        areas.append(Area(space.vdso_start, space.vdso_end, PROT_READ | PROT_EXEC, 0, None, 0, b"[vdso]"))
        areas.sort(key=_start_of)
    return areas


def _start_of(area: Area) -> int:
    return area.start


def _areas_from(space: AddressSpace, cursor: int, count: int) -> tuple[list[Area], int]:
    """The next areas as maps shows them, and the cursor behind them, -1 at the end."""
    areas = space.areas_from(cursor, count)
    following = areas[-1].end if len(areas) == count else -1
    vdso = space.vdso_start
    if space.vdso_end > vdso >= cursor and (following < 0 or vdso < following) and space.find(vdso) is None:
        areas.append(Area(vdso, space.vdso_end, PROT_READ | PROT_EXEC, 0, None, 0, b"[vdso]"))
        areas.sort(key=_start_of)
    return areas, following


def maps_piece(reader: Task, task: Task, cursor: int) -> tuple[bytes, int]:
    """/proc/PID/maps from an address on, and where the next piece begins (-1: nowhere)."""
    space = space_of(task)
    if space is None:
        return b"", -1
    areas, following = _areas_from(space, cursor, _MAPS_STEP)
    return b"".join([_map_line(space, area, reader.fs.root) for area in areas]), following


def maps_text(reader: Task, task: Task) -> bytes:
    """/proc/PID/maps."""
    return _whole(maps_piece, reader, task)


def _mangled(name: bytes) -> bytes:
    """A path in a line of words (seq_file_path with these characters)."""
    for each in b"\n\t= ":
        name = name.replace(bytes([each]), b"\\%03o" % each)
    return name


def numa_piece(reader: Task, task: Task, cursor: int) -> tuple[bytes, int]:
    """/proc/PID/numa_maps, as `maps_piece`; the resident pages are those of smaps, all on node 0."""
    space = space_of(task)
    if space is None:
        return b"", -1
    rss, total = space_rss_bytes(space), max(space.total_bytes, 1)
    parts: list[bytes] = []
    areas, following = _areas_from(space, cursor, _MAPS_STEP)
    for area in areas:
        line = f"{area.start:08x} {policy_text(area.policy or task.sched.memory_policy)}".encode()
        name = area_name(space, area, reader.fs.root)
        if area.backing is not None:
            line += b" file=" + _mangled(name)
        elif name in (b"[heap]", b"[stack]"):
            line += b" " + name[1:-1]
        pages = (area.end - area.start) * rss // total // PAGE if area.prot else 0
        if pages:
            kind = f"mapped={pages}" if area.backing is not None else f"anon={pages} dirty={pages}"
            line += f" {kind} N0={pages} kernelpagesize_kB=4".encode()
        parts.append(line + b"\n")
    return b"".join(parts), following


def numa_text(reader: Task, task: Task) -> bytes:
    """/proc/PID/numa_maps."""
    return _whole(numa_piece, reader, task)


def _whole(piece: TaskPiece, reader: Task, task: Task) -> bytes:
    parts: list[bytes] = []
    cursor = 0
    while cursor >= 0:
        text, cursor = piece(reader, task, cursor)
        parts.append(text)
    return b"".join(parts)


def _smaps_figures(
    size: int, rss: int, *, is_file: bool, is_shared: bool, is_written: bool, locked: int = 0
) -> str:
    """The block of figures below a line of smaps, `rss` bytes being resident."""
    clean = rss if is_file and not is_written else 0
    dirty = rss - clean
    labels = (
        ("Rss", rss),
        ("Pss", rss),
        ("Pss_Dirty", dirty),
        ("Shared_Clean", clean if is_shared else 0),
        ("Shared_Dirty", dirty if is_shared else 0),
        ("Private_Clean", 0 if is_shared else clean),
        ("Private_Dirty", 0 if is_shared else dirty),
        ("Referenced", rss),
        ("Anonymous", 0 if is_file else rss),
        ("KSM", 0),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", locked),
    )
    return "".join([f"{label + ':':<16}{value // 1024:8d} kB\n" for label, value in labels])


def _vm_flags(area: Area) -> str:
    prot = area.prot
    text = "VmFlags: "
    if prot & PROT_READ:
        text += "rd "
    if prot & PROT_WRITE:
        text += "wr "
    if prot & PROT_EXEC:
        text += "ex "
    if area.is_shared():
        text += "sh "
    text += "mr mw me "
    if area.flags & AREA_GROWSDOWN:
        text += "gd "
    if area.flags & AREA_LOCKED:
        text += "lo "
    if prot & PROT_WRITE:
        text += "ac "
    if area.flags & AREA_ONFAULT:
        text += "lf "
    return text + "\n"


def _locked_share(area: Area, resident: int) -> int:
    """How much of an area is locked: all of it, or (MCL_ONFAULT) the part that was touched."""
    if not area.flags & AREA_LOCKED or not area.prot:
        return 0
    return resident if area.flags & AREA_ONFAULT else area.end - area.start


def smaps_piece(reader: Task, task: Task, cursor: int) -> tuple[bytes, int]:
    """/proc/PID/smaps, as `maps_piece`: each area's resident size is estimated as its share of the whole."""
    space = space_of(task)
    if space is None:
        return b"", -1
    rss = space_rss_bytes(space)
    total = max(space.total_bytes, 1)
    parts: list[bytes] = []
    areas, following = _areas_from(space, cursor, _SMAPS_STEP)
    for area in areas:
        size = area.end - area.start
        share = (size * rss // total) & ~(PAGE - 1) if area.prot else 0
        head = (
            f"{'Size:':<16}{size // 1024:8d} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n"
        )
        block = _smaps_figures(
            size,
            share,
            is_file=area.backing is not None,
            is_shared=area.is_shared(),
            is_written=area.prot & PROT_WRITE != 0,
            locked=_locked_share(area, share),
        )
        parts.append(
            _map_line(space, area, reader.fs.root)
            + (head + block + "THPeligible:           0\n" + _vm_flags(area)).encode()
        )
    return b"".join(parts), following


def smaps_text(reader: Task, task: Task) -> bytes:
    """/proc/PID/smaps."""
    return _whole(smaps_piece, reader, task)


def smaps_rollup_text(task: Task) -> bytes:
    """/proc/PID/smaps_rollup."""
    space = space_of(task)
    areas = shown_areas(space) if space is not None else []
    if space is None or not areas:
        return b""
    rss = space_rss_bytes(space)
    head = (
        f"{areas[0].start:08x}-{areas[-1].end:08x} ---p 00000000 00:00 0 ".encode().ljust(72) + b" [rollup]\n"
    )
    locked = 0
    for area in areas:
        locked += _locked_share(area, 0)
    block = _smaps_figures(rss, rss, is_file=False, is_shared=False, is_written=True, locked=locked)
    lines = block.split("\n")
    split = [
        f"{'Pss_Anon:':<16}{rss // 1024:8d} kB",
        f"{'Pss_File:':<16}{0:8d} kB",
        f"{'Pss_Shmem:':<16}{0:8d} kB",
    ]
    return head + "\n".join(lines[:3] + split + lines[3:]).encode()


# -- arguments, environment ------------------------------------------------------------------------------


def cmdline_text(task: Task) -> bytes:
    """/proc/PID/cmdline: the arguments, or what setproctitle has made of them (get_mm_cmdline)."""
    if not task.group.has_guest_code:
        return INIT_NAME + b"\0"
    space = space_of(task)
    if space is None or space.arg_end <= space.arg_start:
        return b""
    start, end = space.arg_start, space.arg_end
    text = space.process.read(start, min(end - start, ARG_LIMIT))
    if len(text) == end - start and text[-1:] != b"\0" and space.env_start == end < space.env_end:
        # The last byte was overwritten: the title continues in the environment, up to a NUL.
        longer = space.process.read(start, min(space.env_end - start, ARG_LIMIT))
        return longer.split(b"\0", 1)[0] + b"\0" if b"\0" in longer else longer
    return text


def environ_text(task: Task) -> bytes:
    """/proc/PID/environ: the initial environment."""
    space = space_of(task)
    if space is None or space.env_end <= space.env_start:
        return b""
    return space.process.read(space.env_start, min(space.env_end - space.env_start, ARG_LIMIT))


def auxv_text(task: Task) -> bytes:
    """/proc/PID/auxv."""
    space = space_of(task)
    return space.auxv if space is not None else b""


# -- limits and the rest ---------------------------------------------------------------------------------

_LIMITS: Final = (
    (0, "Max cpu time", "seconds"),
    (1, "Max file size", "bytes"),
    (2, "Max data size", "bytes"),
    (3, "Max stack size", "bytes"),
    (4, "Max core file size", "bytes"),
    (5, "Max resident set", "bytes"),
    (6, "Max processes", "processes"),
    (7, "Max open files", "files"),
    (8, "Max locked memory", "bytes"),
    (9, "Max address space", "bytes"),
    (10, "Max file locks", "locks"),
    (11, "Max pending signals", "signals"),
    (12, "Max msgqueue size", "bytes"),
    (13, "Max nice priority", ""),
    (14, "Max realtime priority", ""),
    (15, "Max realtime timeout", "us"),
)


def _limit(value: int) -> str:
    return "unlimited" if value < 0 else str(value)


def limits_text(task: Task) -> bytes:
    """/proc/PID/limits."""
    return limit_rows(task.group.rlimits)


def limit_rows(rlimits: list[tuple[int, int]]) -> bytes:
    """The table of limits."""
    lines = ["Limit                     Soft Limit           Hard Limit           Units     \n"]
    for resource, name, unit in _LIMITS:
        soft, hard = rlimits[resource]
        line = f"{name:<25} {_limit(soft):<20} {_limit(hard):<20} "
        lines.append(line + (f"{unit:<10}\n" if unit else "\n"))
    return "".join(lines).encode()


def oom_score(task: Task) -> int:
    """/proc/PID/oom_score (oom_badness, scaled as proc_oom_score does)."""
    adjust = task.group.oom_score.adjustment
    space = group_space(task.group)
    if adjust == -1000 or space is None:
        return 0
    total = max(MemoryFigures(task.group.container).total // PAGE, 1)
    points = space_rss_bytes(space) // PAGE + adjust * total // 1000
    return max((1000 + points * 1000 // total) * 2 // 3, 0)


def sched_text(reader: Task, task: Task) -> bytes:
    """/proc/PID/sched, the lines that have a meaning here."""
    user, system = task_cpu_ns(task)
    runtime = (user + system) / 1e6
    policy = policy_of(task)
    title = task.comm.decode("utf-8", "surrogateescape")
    lines = [
        f"{title} ({pid_in(reader.proc_view, task.tid)}, #threads: {thread_count(task.group)})",
        "-" * 67,
        f"{'se.sum_exec_runtime':<45}:{runtime:21.6f}",
        f"{'nr_switches':<45}:{0:21d}",
        f"{'policy':<45}:{policy:21d}",
        f"{'prio':<45}:{priority_of(task):21d}",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def schedstat_text(task: Task) -> bytes:
    """/proc/PID/schedstat: time on the CPU; waiting time and slices are not known."""
    user, system = task_cpu_ns(task)
    return f"{user + system} 0 0\n".encode()


def io_text(counts: IoCounts) -> bytes:
    """/proc/PID/io; nothing is counted below the host's page cache."""
    return (
        f"rchar: {counts.read_bytes}\nwchar: {counts.written_bytes}\nsyscr: {counts.reads}\n"
        f"syscw: {counts.writes}\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n"
    ).encode()


def children_text(reader: Task, task: Task) -> bytes:
    """/proc/PID/task/TID/children: the process's children, all under its leader."""
    if not task.is_leader():
        return b""
    view = reader.proc_view
    return "".join([f"{pid_in(view, child.tgid)} " for child in task.group.children]).encode()
