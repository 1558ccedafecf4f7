"""Small calls about the system as a whole: names, randomness, the kernel log, personality, tid address."""

import os
from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN, CAP_SYSLOG
from cloche.abi.errno import EFAULT, EINVAL, ENOSYS, EPERM, LinuxError
from cloche.abi.limits import MAX_RW_COUNT
from cloche.abi.misc import GRND_INSECURE, GRND_NONBLOCK, GRND_RANDOM
from cloche.abi.personality import PER_LINUX32, PER_MASK, UNAME26
from cloche.abi.structs import pack_utsname
from cloche.arch.machine import MACHINE
from cloche.fs.proc_system import all_filesystems
from cloche.kernel import uts
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import SLICE_NS, Blocked, TaskBase, next_slice
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns

RANDOM_LIMIT: Final = MAX_RW_COUNT  # bytes of one getrandom
_RANDOM_STEP: Final = 1 << 16
_LOG: Final = b"<5>[    0.000000] " + uts.PROC_VERSION


def sys_uname(task: Task, args: Args) -> int:
    """uname(2)."""
    names = task.ns.uts
    release = uts.UNAME26_RELEASE if task.personality & UNAME26 else uts.RELEASE
    machine = b"i686" if task.personality & PER_MASK == PER_LINUX32 else MACHINE
    task.user_memory().write(
        to_u64(args.a0),
        pack_utsname(uts.SYSNAME, names.hostname, release, uts.VERSION, machine, names.domainname),
    )
    return 0


def sys_sysfs(task: Task, args: Args) -> int:
    """sysfs(2): the kinds of file systems by number."""
    option, kinds = to_i32(args.a0), all_filesystems()
    mem = task.user_memory()
    if option == 1:
        wanted = mem.read_cstring(to_u64(args.a1))
        for index, kind in enumerate(kinds):
            if kind[0] == wanted:
                return index
        return -EINVAL
    if option == 2:
        index = to_u32(args.a1)
        if index >= len(kinds):
            return -EINVAL
        mem.write(to_u64(args.a2), kinds[index][0] + b"\0")
        return 0
    return len(kinds) if option == 3 else -EINVAL


def _read_host_name(task: Task, args: Args) -> bytes:
    length = to_i32(args.a1)
    if not task.creds.capable_in(task.ns.uts.user_ns, CAP_SYS_ADMIN):
        raise LinuxError(EPERM)
    if length < 0 or length > uts.HOST_NAME_LIMIT:
        raise LinuxError(EINVAL)
    return task.user_memory().read(to_u64(args.a0), length).split(b"\0", 1)[0]


def sys_sethostname(task: Task, args: Args) -> int:
    """sethostname(2)."""
    task.ns.uts.hostname = _read_host_name(task, args)
    return 0


def sys_setdomainname(task: Task, args: Args) -> int:
    """setdomainname(2)."""
    task.ns.uts.domainname = _read_host_name(task, args)
    return 0


def sys_getrandom(task: Task, args: Args) -> int:
    """getrandom(2): the host's generator; at most RANDOM_LIMIT bytes in one call."""
    address, length, flags = to_u64(args.a0), to_u64(args.a1), to_u32(args.a2)
    if flags & ~(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE):
        return -EINVAL
    if flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE:
        return -EINVAL
    length = min(length, RANDOM_LIMIT)
    if length <= _RANDOM_STEP:
        wrote = task.user_memory().write_some(address, os.urandom(length))
        return wrote if wrote or not length else -EFAULT
    return RandomFill(address, length).retry(task)


class RandomFill(Blocked):
    """A getrandom(2), in slices; a signal ends it early."""

    def __init__(self, address: int, length: int) -> None:
        super().__init__()
        self.address: int = address
        self.length: int = length
        self.done: int = 0

    def retry(self, task: TaskBase) -> int:
        end_ns = monotonic_ns() + SLICE_NS
        mem = task.user_memory()
        while self.done < self.length:
            step = min(self.length - self.done, _RANDOM_STEP)
            wrote = mem.write_some(self.address + self.done, os.urandom(step))
            self.done += wrote
            if wrote < step:
                return self.done if self.done else -EFAULT
            if task.has_pending_signal():
                break
            if self.done < self.length and monotonic_ns() >= end_ns:
                return next_slice(task, self)
        return self.done

    def interrupted(self, task: TaskBase) -> int:
        return self.done


def sys_personality(task: Task, args: Args) -> int:
    """personality(2): kept and inherited; ADDR_NO_RANDOMIZE and UNAME26 take effect."""
    old = task.personality
    value = to_u32(args.a0)
    if value != 0xFFFFFFFF:
        task.personality = value
    return old


def sys_syslog(task: Task, args: Args) -> int:
    """syslog(2): a log of one line, for callers with CAP_SYSLOG (dmesg_restrict is 1)."""
    kind, address, length = to_i32(args.a0), to_u64(args.a1), to_i32(args.a2)
    creds = task.creds
    if not creds.capable(CAP_SYSLOG) and not creds.capable(CAP_SYS_ADMIN):
        return -EPERM
    if kind in (2, 3, 4):  # READ, READ_ALL, READ_CLEAR
        if address == 0 or length < 0:
            return -EINVAL
        if kind == 2:
            return -ENOSYS  # would wait for a line that never comes
        text = _LOG[:length]
        task.user_memory().write(address, text)
        return len(text)
    if kind == 8:  # CONSOLE_LEVEL
        return 0 if 1 <= length <= 8 else -EINVAL
    if kind == 10:  # SIZE_BUFFER
        return 1 << 17
    if kind in (0, 1, 5, 6, 7, 9):
        return 0
    return -EINVAL
