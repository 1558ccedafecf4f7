"""fs.proc: the files of tasks and of the system in /proc, in Linux's formats."""

import re

import pytest

from cloche.abi.errno import EACCES, EAGAIN, EINVAL, ENOENT, ESRCH, LinuxError
from cloche.abi.fcntl import O_CLOEXEC, O_CREAT, O_RDWR, O_WRONLY
from cloche.fs.pipe import create_pipe
from cloche.fs.proc import proc_net, proc_root, proc_sysctl
from cloche.fs.proc_pid import PieceDescription, ProcFs
from cloche.fs.proc_text import cpu_list, cpu_mask_text
from cloche.fs.sysfs import Sysfs, sysfs
from cloche.kernel.blocking import SLICE_NS
from cloche.kernel.exit import do_exit, reap
from cloche.kernel.host_facts import HostFacts
from cloche.kernel.init import make_init
from cloche.kernel.phase import DEAD
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.credentials import Credentials
from cloche.vfs.pseudo import ConstantFile, GeneratedInode, PseudoFs

from .proc_harness import ProcGuest


@pytest.fixture
def guest() -> ProcGuest:
    made = ProcGuest()
    made.fill_memory()
    return made


def refused(guest: ProcGuest, path: bytes, flags: int = 0, task: object = None) -> int:
    with pytest.raises(LinuxError) as caught:
        guest.open(path, flags, task)  # type: ignore[arg-type]
    return caught.value.errno


def test_self_and_listing(guest: ProcGuest) -> None:
    guest.new_process(7)
    assert guest.link(b"/self") == b"2"
    assert guest.link(b"/thread-self") == b"2/task/2"
    names = guest.names(b"/")
    assert {b"self", b"cpuinfo", b"meminfo", b"sys", b"net", b"2", b"7"} <= set(names)
    assert names.index(b"2") < names.index(b"7")
    assert guest.inode(b"/self/") is guest.inode(b"/2")
    for bad in (b"/02", b"/9", b"/-1", b"/2x"):
        assert refused(guest, bad) == ENOENT


def test_listing_agrees_with_stat(guest: ProcGuest) -> None:
    from .proc_harness import Names

    for path in (b"/self", b"/", b"/self/task", b"/self/ns"):
        found = Names()
        assert guest.open(path).iterate(guest.task, found) == 0
        for name in found.names[2:]:
            assert found.inos[name] == guest.inode(path + b"/" + name).ino, (path, name)


def test_stat_has_52_fields(guest: ProcGuest) -> None:
    guest.task.comm = b"a) b("
    text = guest.text(b"/self/stat")
    head, tail = text[:-1].rsplit(b") ", 1)
    fields = [head.split(b" (", 1)[0], head.split(b" (", 1)[1], *tail.split(b" ")]
    assert len(fields) == 52
    assert fields[0] == b"2" and fields[1] == b"a) b(" and fields[2] == b"R"
    assert fields[4:6] == [b"2", b"2"]
    assert int(fields[22]) == guest.task.mm.total_bytes
    assert int(fields[47]) == 0x20000


def test_stat_hides_addresses_from_strangers(guest: ProcGuest) -> None:
    other = guest.new_process(7)
    other.creds = Credentials(1000, 1000)
    assert guest.text(b"/2/stat", other).rstrip().split(b" ")[-7:] == [b"0"] * 7


def test_status_lines(guest: ProcGuest) -> None:
    guest.task.creds.groups = [4, 27]
    guest.task.comm = b"two\nlines"
    lines = guest.text(b"/self/status").decode().split("\n")
    keys = [line.split(":")[0] for line in lines if line]
    assert keys[:9] == ["Name", "Umask", "State", "Tgid", "Ngid", "Pid", "PPid", "TracerPid", "Uid"]
    assert keys[-2:] == ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
    assert len(keys) == len(set(keys)) == 59
    assert "Name:\ttwo\\nlines" in lines
    assert "Umask:\t0022" in lines
    assert "Groups:\t4 27 " in lines
    assert "State:\tR (running)" in lines
    assert "VmSize:\t" + f"{guest.task.mm.total_bytes // 1024:8d} kB" in lines


def test_maps(guest: ProcGuest) -> None:
    lines = guest.text(b"/self/maps").decode().split("\n")
    assert lines[0] == "00010000-00014000 r-xp 00000000 00:00 0".ljust(72) + " /bin/prog"
    assert lines[1] == "00020000-00021000 rw-p 00000000 00:00 0 "
    assert lines[2].endswith(" [stack]") and lines[3] == ""


def test_smaps(guest: ProcGuest) -> None:
    guest.task.mm.process.rss = 0x8000  # type: ignore[attr-defined]
    text = guest.text(b"/self/smaps").decode()
    assert text.count("VmFlags: ") == 3
    assert (
        "\nSize:                 16 kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\nRss: "
        in text
    )
    rollup = guest.text(b"/self/smaps_rollup").decode().split("\n")
    assert rollup[0] == "00010000-00061000 ---p 00000000 00:00 0 ".ljust(72) + " [rollup]"
    assert rollup[1] == "Rss:                  32 kB"
    assert rollup[4].startswith("Pss_Anon:") and rollup[-1] == ""


def test_cmdline_and_environ(guest: ProcGuest) -> None:
    assert guest.text(b"/self/cmdline") == b"prog\0one\0two words\0"
    assert guest.text(b"/self/environ") == b"A=1\0B=22\0"
    # setproctitle: the last byte of the arguments is overwritten, the title reaches into the environment.
    guest.task.mm.process.write(0x20000, b"a title longer than argv\0")
    assert guest.text(b"/self/cmdline") == b"a title longer than argv\0"


def test_guarded_files_need_access(guest: ProcGuest) -> None:
    stranger = guest.new_process(7)
    stranger.creds = Credentials(1000, 1000)
    for name in (b"maps", b"environ", b"mem", b"auxv"):
        assert refused(guest, b"/2/" + name, 0, stranger) == EACCES
        guest.open(b"/self/" + name, 0, stranger)
        guest.open(b"/7/" + name)
    with pytest.raises(LinuxError):
        guest.link(b"/2/cwd", stranger)
    with pytest.raises(LinuxError):
        guest.names(b"/2/fd", stranger)
    assert guest.text(b"/2/comm", stranger) == b"worker\n"


def test_undumpable_processes_belong_to_root(guest: ProcGuest) -> None:
    task = guest.new_process(7)
    task.creds = Credentials(1000, 1000)
    inode = guest.inode(b"/7/environ")
    inode.refresh(guest.task)
    assert inode.uid == 1000
    task.group.is_dumpable = False
    inode.refresh(guest.task)
    assert inode.uid == 0


def test_fds(guest: ProcGuest) -> None:
    task = guest.task
    reader, writer = create_pipe(guest.kernel, task, 0)
    task.files.install(reader, 64)
    task.files.install(writer, 64, is_cloexec=True)
    task.files.install(guest.open(b"/version"), 64)
    assert guest.names(b"/self/fd") == [b".", b"..", b"0", b"1", b"2"]
    assert re.fullmatch(rb"pipe:\[\d+\]", guest.link(b"/self/fd/0"))
    assert guest.link(b"/self/fd/2") == b"/version"
    assert guest.inode(b"/self/fd/0").mode & 0o777 == 0o500
    assert guest.inode(b"/self/fd/1").mode & 0o777 == 0o300
    directory = guest.inode(b"/self/fd")
    directory.refresh(task)
    assert directory.size == 3
    info = guest.text(b"/self/fdinfo/1").decode().split("\n")
    assert info[0] == "pos:\t0" and info[1] == f"flags:\t0{O_WRONLY | O_CLOEXEC:o}"
    assert refused(guest, b"/self/fd/9") == ENOENT
    # Opening the link of a pipe gives the same pipe anew.
    again = guest.open(b"/self/fd/1", O_WRONLY)
    assert again.write(task, KernelIovIter(b"hello")) == 5
    sink = KernelIovIter(capacity=10)
    assert reader.read(task, sink) == 5 and bytes(sink.sink) == b"hello"


def test_fd_links_follow_the_table(guest: ProcGuest) -> None:
    task = guest.task
    task.files.install(guest.open(b"/version"), 64)
    first = guest.inode(b"/self/fd/0")
    assert guest.inode(b"/self/fd/0") is first
    task.files.close(task, 0)
    assert refused(guest, b"/self/fd/0") == ENOENT
    task.files.install(guest.open(b"/uptime"), 64)
    assert guest.inode(b"/self/fd/0") is not first
    assert guest.link(b"/self/fd/0") == b"/uptime"


def test_links(guest: ProcGuest) -> None:
    assert guest.link(b"/self/cwd") == b"/" and guest.link(b"/self/root") == b"/"
    with pytest.raises(LinuxError) as caught:
        guest.link(b"/self/exe")
    assert caught.value.errno == ENOENT
    guest.task.group.exe.path = guest.open(b"/version").path
    assert guest.link(b"/self/exe") == b"/version"
    assert guest.inode(b"/self/exe", 1) is guest.inode(b"/version")


def test_namespaces(guest: ProcGuest) -> None:
    link = guest.link(b"/self/ns/pid")
    assert re.fullmatch(rb"pid:\[\d+\]", link)
    assert guest.link(b"/self/ns/pid_for_children") == link
    inode = guest.inode(b"/self/ns/pid", 1)
    assert b"%d" % inode.ino in link
    other = guest.new_process(7)
    assert guest.link(b"/7/ns/net") == guest.link(b"/self/ns/net")
    other.mount_ns.ino = guest.kernel.numbers.namespace_ino()
    assert guest.link(b"/7/ns/mnt") != guest.link(b"/self/ns/mnt")
    other.mount_ns = guest.task.mount_ns
    assert guest.link(b"/7/ns/mnt") == guest.link(b"/self/ns/mnt")
    assert guest.open(b"/self/ns/uts").ioctl(guest.task, 0xB703, 0) == 0x04000000


def test_mem(guest: ProcGuest) -> None:
    task = guest.task
    file = guest.open(b"/self/mem", O_RDWR)
    sink = KernelIovIter(capacity=4)
    assert file.pread(task, sink, 0x20000) == 4 and bytes(sink.sink) == b"prog"
    assert file.pwrite(task, KernelIovIter(b"PROG"), 0x20000) == 4
    assert guest.text(b"/self/cmdline").startswith(b"PROG\0")
    assert file.pread(task, KernelIovIter(capacity=4), 1 << 40) == -5
    assert file.lseek(task, 0x20000, 0) == 0x20000
    assert file.lseek(task, 0, 2) == -EINVAL


def test_writable_files(guest: ProcGuest) -> None:
    task = guest.task
    assert guest.write(b"/self/comm", b"a name that is too long") == 23
    assert task.comm == b"a name that is "
    assert guest.write(b"/self/oom_score_adj", b"500\n") == 4
    assert guest.text(b"/self/oom_score_adj") == b"500\n"
    with_error = guest.open(b"/self/oom_score_adj", O_WRONLY)
    assert with_error.write(task, KernelIovIter(b"1001")) == -EINVAL
    task.creds = Credentials(0, 0)
    assert with_error.write(task, KernelIovIter(b"499")) == -EACCES
    assert with_error.write(task, KernelIovIter(b"600")) == 3
    assert guest.write(b"/self/timerslack_ns", b"1234") == 4
    assert task.sched.timer_slack_ns == 1234
    other = guest.new_process(7)
    assert guest.open(b"/7/comm", O_WRONLY).write(task, KernelIovIter(b"x")) == -EINVAL
    assert other.comm == b"worker"


def test_threads(guest: ProcGuest) -> None:
    thread = guest.add_task(3, guest.task.group)
    thread.fs = guest.task.fs
    thread.comm = b"helper"
    assert guest.names(b"/self/task") == [b".", b"..", b"2", b"3"]
    assert guest.text(b"/self/task/3/comm") == b"helper\n"
    assert guest.link(b"/thread-self", thread) == b"2/task/3"
    # A thread can be looked up by its tid, but is not listed.
    assert b"3" not in guest.names(b"/")
    assert guest.text(b"/3/comm") == b"helper\n"
    assert b"\nThreads:\t2\n" in guest.text(b"/self/status")
    child = guest.new_process(9)
    assert guest.text(b"/self/task/2/children") == b"9 "
    assert child.group.parent is guest.task.group


def test_zombies_and_the_reaped(guest: ProcGuest) -> None:
    child = guest.new_process(7)
    directory = guest.open(b"/7")
    stat = guest.open(b"/7/stat")
    child.enter(DEAD)
    child.group.tasks.clear()
    child.group.end.is_zombie = True
    del guest.kernel.tasks[7]
    assert b") Z 2 " in guest.text(b"/7/stat")
    assert b"State:\tZ (zombie)\nTgid:\t7\n" in guest.text(b"/7/status")
    assert guest.text(b"/7/cmdline") == b"" and guest.text(b"/7/maps") == b""
    child.group.end.is_reaped = True
    del guest.kernel.groups[7]
    assert refused(guest, b"/7") == ENOENT
    with pytest.raises(LinuxError) as caught:
        stat.pread(guest.task, KernelIovIter(capacity=10), 0)
    assert caught.value.errno == ESRCH
    with pytest.raises(LinuxError) as caught:
        guest.task.fs.cwd = directory.path  # type: ignore[assignment]
        guest.open(b"stat")
    assert caught.value.errno == ESRCH


def test_pid_reuse_gives_another_directory(guest: ProcGuest) -> None:
    child = guest.new_process(7)
    first = guest.inode(b"/7")
    child.group.end.is_reaped = True
    child.enter(DEAD)
    guest.new_process(7)
    assert guest.inode(b"/7") is not first


def test_init(guest: ProcGuest) -> None:
    guest.kernel.next_pid = 1
    make_init(guest.container, guest.task)
    assert b"1" in guest.names(b"/")
    assert len(guest.text(b"/1/stat").split()) == 52
    assert guest.text(b"/1/comm") == b"cloche-init\n"
    assert guest.text(b"/1/cmdline") == b"cloche-init\0"
    assert guest.text(b"/1/statm") == b"0 0 0 0 0 0 0\n"
    assert guest.names(b"/1/task") == [b".", b"..", b"1"]
    with pytest.raises(LinuxError):
        guest.link(b"/1/exe")


def test_nothing_can_be_made(guest: ProcGuest) -> None:
    assert refused(guest, b"/new", O_CREAT | O_WRONLY) == ENOENT


def test_mounts(guest: ProcGuest) -> None:
    assert guest.text(b"/mounts") == b"proc / proc rw 0 0\n"
    info = guest.text(b"/self/mountinfo")
    assert re.fullmatch(rb"2 1 0:\d+ / / rw - proc proc rw\n", info)
    guest.task.mount_ns.root.mount.fs.source = "a b"
    assert guest.text(b"/self/mounts").startswith(b"a\\040b / proc ")


def test_limits(guest: ProcGuest) -> None:
    lines = guest.text(b"/self/limits").split(b"\n")
    assert lines[8] == b"Max open files            1024                 4096                 files     "
    assert lines[14] == b"Max nice priority         unlimited            unlimited            "
    assert len(lines) == 18


CPU = b"processor\t: %d\nmodel name\t: X\nsiblings\t: 4\ncore id\t\t: %d\ncpu cores\t: 4\napicid\t\t: %d\n\n"


def test_cpuinfo_is_cut(guest: ProcGuest) -> None:
    guest.kernel.facts = HostFacts(b"".join([CPU % (n, n, n) for n in (0, 1, 2, 3)]))
    guest.kernel.cpu_count = 4
    assert guest.text(b"/cpuinfo") == b"".join([CPU % (n, n, n) for n in (0, 1, 2, 3)])
    guest.kernel.cpu_count = 1
    assert guest.text(b"/cpuinfo") == (CPU % (0, 0, 0)).replace(b"4", b"1")


def test_meminfo_and_stat(guest: ProcGuest) -> None:
    guest.container.memory_limit = 64 << 20
    guest.task.mm.process.rss = 0x8000  # type: ignore[attr-defined]
    lines = guest.text(b"/meminfo").split(b"\n")
    assert lines[0] == b"MemTotal:          65536 kB"
    assert lines[2] == b"MemAvailable:      65504 kB"
    guest.task.mm.process.user_ns = 2_000_000_000  # type: ignore[attr-defined]
    stat = guest.text(b"/stat").split(b"\n")
    assert stat[0].startswith(b"cpu  200 0 0 ") and stat[1].startswith(b"cpu0 200 0 0 ")
    assert re.fullmatch(rb"\d+\.\d\d \d+\.\d\d\n", guest.text(b"/uptime"))
    assert re.fullmatch(rb"\d\.\d\d \d\.\d\d \d\.\d\d 1/1 \d+\n", guest.text(b"/loadavg"))


def test_sysctl(guest: ProcGuest) -> None:
    assert guest.text(b"/sys/kernel/ostype") == b"Linux\n"
    assert guest.text(b"/sys/kernel/hostname") == b"cloche\n"
    assert guest.write(b"/sys/kernel/hostname", b"other\n") == 6
    assert guest.container.hostname == b"other"
    assert guest.write(b"/sys/kernel/pid_max", b"1000") == 4
    assert guest.kernel.pid_max == 1000
    # Root's capabilities do not override a parameter's mode.
    assert refused(guest, b"/sys/kernel/osrelease", O_WRONLY) == EACCES
    guest.task.creds = Credentials(1000, 1000)
    assert refused(guest, b"/sys/kernel/hostname", O_WRONLY) == EACCES
    boot = guest.text(b"/sys/kernel/random/boot_id")
    assert boot == guest.text(b"/sys/kernel/random/boot_id")
    assert guest.text(b"/sys/kernel/random/uuid") != guest.text(b"/sys/kernel/random/uuid")
    assert re.fullmatch(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n", boot)


def test_no_name_keeps_a_process_that_is_gone(guest: ProcGuest) -> None:
    """Dead tasks that were looked up stayed until a thousand others had been."""
    root = guest.task.fs.root
    fs = root.mount.fs
    assert isinstance(fs, ProcFs)
    fs.root_dentry = root.dentry
    one, other = guest.new_process(7), guest.new_process(8)
    for path in (b"/7/task/7/stat", b"/7/status", b"/8/status"):
        guest.text(path)
    below = root.dentry.children[b"7"].children[b"task"]
    assert below.children
    held = guest.open(b"/7/status")
    root.dentry.children[b"8"].mounted = 1
    for task in (one, other):
        group = task.group
        do_exit(task, 0)
        reap(group)
        assert task.names == []
    assert b"7" not in root.dentry.children and b"8" in root.dentry.children
    assert not {7, 8} & set(fs.pid_dirs) and not below.children
    sink = KernelIovIter(capacity=10)
    with pytest.raises(LinuxError) as caught:
        held.read(guest.task, sink)
    assert caught.value.errno == ESRCH
    assert refused(guest, b"/7/status") == ENOENT


def test_others_can_add(guest: ProcGuest) -> None:
    fs = proc_root(guest.kernel).fs
    assert isinstance(fs, PseudoFs)
    proc_net(guest.kernel).add(b"dev", ConstantFile(fs, b"net"))
    assert guest.text(b"/net/dev") == b"net" == guest.text(b"/self/net/dev")
    proc_sysctl(guest.kernel).add_constant(b"net/core/somaxconn", b"4096")
    assert guest.text(b"/sys/net/core/somaxconn") == b"4096\n"


def test_parameters_are_made_when_they_are_looked_at(guest: ProcGuest) -> None:
    """An idle sandbox pays neither for /proc/sys nor for /sys."""
    tree, system = proc_sysctl(guest.kernel), sysfs(guest.kernel)
    assert isinstance(system, Sysfs)
    assert not tree.root.children and not system.root.children
    assert guest.text(b"/sys/kernel/ostype") == b"Linux\n"
    assert not system.root.children
    system.root.refresh(guest.task)
    names = {entry.name for entry in system.root.entries(guest.task, 2)}
    assert names == set(system.root.children) >= {b"class", b"devices", b"kernel"}
    assert system.root.nlink == 2 + len(names)
    tree.add_constant(b"kernel/ostype", b"other")
    assert guest.text(b"/sys/kernel/ostype") == b"other\n"


def test_masks() -> None:
    assert cpu_list(0b1011) == "0-1,3"
    assert cpu_list(1 << 70) == "70"
    assert cpu_mask_text(3, 2) == "3"
    assert cpu_mask_text(1, 64) == "00000000,00000001"
    assert cpu_mask_text(1 << 33, 36) == "2,00000000"


def test_a_text_that_begins_with_nothing_is_reached(guest: ProcGuest) -> None:
    """Each of its first pieces takes longer than a slice: a retry goes on where the one before stopped."""

    def piece(reader: Task, task: Task, cursor: int) -> tuple[bytes, int]:
        end_ns = monotonic_ns() + SLICE_NS
        while monotonic_ns() < end_ns:
            pass
        return (b"", cursor + 1) if cursor < 5 else (b"at last\n", -1)

    maps = guest.open(b"/2/maps")
    inode = maps.inode
    assert isinstance(maps, PieceDescription) and isinstance(inode, GeneratedInode)
    file = PieceDescription(maps.path, inode, 0, guest.task, piece)
    for _text in range(2):  # and is made anew for a second read
        sink = KernelIovIter(capacity=100)
        counts = [file.pread(guest.task, sink, 0) for _turn in range(6)]
        assert counts == [-EAGAIN] * 5 + [8]
        assert bytes(sink.sink) == b"at last\n"


def test_readers_who_seek_apart_do_not_restart_each_other(guest: ProcGuest) -> None:
    """Two threads read one open file at different places, each of which takes several slices."""

    def piece(reader: Task, task: Task, cursor: int) -> tuple[bytes, int]:
        end_ns = monotonic_ns() + SLICE_NS
        while monotonic_ns() < end_ns:
            pass
        return (b"%d" % cursor, cursor + 1) if cursor < 10 else (b"", -1)

    maps = guest.open(b"/2/maps")
    inode = maps.inode
    assert isinstance(inode, GeneratedInode)
    file = PieceDescription(maps.path, inode, 0, guest.task, piece)
    other = guest.add_task(3, guest.task.group)
    places = {guest.task: 8, other: 5}
    got: dict[Task, bytes] = {}
    for _turn in range(40):
        for task, offset in places.items():
            sink = KernelIovIter(capacity=1)
            if task not in got and file.pread(task, sink, offset) != -EAGAIN:
                got[task] = bytes(sink.sink)
                file.walkers.remove(task.waiter)
            elif task not in got:
                assert file.wait_queue() is file.walkers
                file.walkers.add(task.waiter)
    assert got == {guest.task: b"8", other: b"5"}
    # Whose wait a signal has ended keeps nobody.
    assert file.pread(other, KernelIovIter(capacity=1), 9) == -EAGAIN
    for _turn in range(20):
        sink = KernelIovIter(capacity=1)
        if file.pread(guest.task, sink, 7) == 1:
            break
    assert bytes(sink.sink) == b"7"
