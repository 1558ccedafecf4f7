"""fcntl and flock: descriptor flags, status flags, owners, seals, and the waits of advisory locks.

Locks themselves are in `vfs.locks`; the one `LockTable` of the kernel is in `Kernel.locks`.
"""

from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    EBADF,
    EDEADLK,
    EINVAL,
    EOVERFLOW,
    EPERM,
    ESRCH,
    LinuxError,
)
from cloche.abi.fcntl import (
    F_ADD_SEALS,
    F_CREATED_QUERY,
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_DUPFD_QUERY,
    F_GET_RW_HINT,
    F_GET_SEALS,
    F_GETFD,
    F_GETFL,
    F_GETLEASE,
    F_GETLK,
    F_GETOWN,
    F_GETOWN_EX,
    F_GETPIPE_SZ,
    F_GETSIG,
    F_NOTIFY,
    F_OFD_GETLK,
    F_OFD_SETLK,
    F_OFD_SETLKW,
    F_OWNER_PGRP,
    F_OWNER_PID,
    F_OWNER_TID,
    F_RDLCK,
    F_SET_RW_HINT,
    F_SETFD,
    F_SETFL,
    F_SETLEASE,
    F_SETLK,
    F_SETLKW,
    F_SETOWN,
    F_SETOWN_EX,
    F_SETPIPE_SZ,
    F_SETSIG,
    F_UNLCK,
    F_WRLCK,
    FASYNC,
    FD_CLOEXEC,
    LOCK_EX,
    LOCK_MAND,
    LOCK_NB,
    LOCK_SH,
    LOCK_UN,
    O_APPEND,
    O_DIRECT,
    O_NOATIME,
    O_NONBLOCK,
    O_PATH,
)
from cloche.abi.signal import NSIG
from cloche.abi.stat import S_IFIFO, S_IFMT
from cloche.abi.structs import F_OWNER_EX, F_OWNER_EX_SIZE, FLOCK_SIZE, pack_flock, unpack_flock
from cloche.fs.dnotify import set_notice
from cloche.fs.memfd import add_seals, get_seals
from cloche.fs.pipe import pipe_fcntl
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, TaskBase, block_on
from cloche.kernel.fasync import set_async
from cloche.kernel.pid_namespace import pid_from, pid_in
from cloche.kernel.task import Task
from cloche.syscalls.args import can_read, can_write, data_file
from cloche.syscalls.leases import get_lease, set_lease
from cloche.syscalls.sys_rw import FileWait
from cloche.vfs.attr import owner_or_capable
from cloche.vfs.locks import (
    OFFSET_MAX,
    FileLocks,
    LockWait,
    RecordLock,
    begin_wait,
    end_lock_wait,
    locks_of,
    release_posix_locks,
    would_deadlock,
)
from cloche.vfs.objects import CREATED, UNSEEN_FLAGS, FileDescription, Holder

_SETFL_MASK: Final = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | FASYNC
_RW_HINT_MAX: Final = 5  # RWH_WRITE_LIFE_EXTREME


# -- fcntl ---------------------------------------------------------------------------------------------------
def sys_fcntl(task: Task, args: Args) -> int:
    """fcntl(2)."""
    fd = to_i32(args.a0)
    file = task.files.find(fd)
    if file is None:
        return -EBADF
    command = to_u32(args.a1)
    arg = args.a2
    if command == F_GETFL:
        return file.flags & ~UNSEEN_FLAGS
    if command == F_GETFD:
        return FD_CLOEXEC if task.files.is_cloexec(fd) else 0
    if command == F_SETFD:
        task.files.set_cloexec(fd, is_cloexec=arg & FD_CLOEXEC != 0)
        return 0
    if command == F_DUPFD or command == F_DUPFD_CLOEXEC:
        return duplicate_from(task, file, to_u32(arg), is_cloexec=command == F_DUPFD_CLOEXEC)
    if command == F_DUPFD_QUERY:
        return 1 if task.files.get(to_i32(arg)) is file else 0
    if command == F_CREATED_QUERY:
        return int(file.flags & CREATED != 0)
    if file.flags & O_PATH:
        return -EBADF
    if command == F_SETFL:
        return set_flags(task, file, fd, arg)
    if command == F_GETLK or command == F_OFD_GETLK:
        return get_lock(task, file, to_u64(arg), is_ofd=command == F_OFD_GETLK)
    if command == F_SETLK or command == F_SETLKW:
        return set_lock(task, fd, file, to_u64(arg), is_ofd=False, is_waiting=command == F_SETLKW)
    if command == F_OFD_SETLK or command == F_OFD_SETLKW:
        return set_lock(task, fd, file, to_u64(arg), is_ofd=True, is_waiting=command == F_OFD_SETLKW)
    if command in (F_SETOWN, F_GETOWN, F_SETOWN_EX, F_GETOWN_EX, F_SETSIG, F_GETSIG):
        return owner_command(task, file, command, arg)
    if command == F_GETPIPE_SZ or command == F_SETPIPE_SZ:
        return pipe_fcntl(task, file, command, arg)
    if command == F_ADD_SEALS:
        return add_seals(task, file, to_u32(arg))
    if command == F_GET_SEALS:
        return get_seals(file)
    if command == F_GETLEASE:
        return get_lease(file)
    if command == F_SETLEASE:
        return set_lease(task, fd, file, arg)
    if command == F_GET_RW_HINT or command == F_SET_RW_HINT:
        return write_hint(task, file, command, to_u64(arg))
    if command == F_NOTIFY:
        return set_notice(task, fd, file, to_u32(arg))
    return -EINVAL


def duplicate_from(task: Task, file: FileDescription, lowest: int, *, is_cloexec: bool) -> int:
    """F_DUPFD: EINVAL for a lowest number beyond the limit."""
    limit = task.nofile_limit()
    if lowest >= limit:
        return -EINVAL
    return task.files.install(file, limit, lowest=lowest, is_cloexec=is_cloexec)


def can_be_direct(file: FileDescription) -> bool:
    """Whether F_SETFL may set O_DIRECT: not for files that were not opened by a name, such as a memfd."""
    inode, path = file.inode, file.path
    if inode.mode & S_IFMT == S_IFIFO:
        return True
    return inode.can_be_direct() and path is not None and path.mount.ident != 0


def set_flags(task: Task, file: FileDescription, fd: int, arg: int) -> int:
    """F_SETFL (setfl of fs/fcntl.c)."""
    old = file.flags
    if arg & O_NOATIME and old & O_NOATIME == 0 and not owner_or_capable(task.creds, file.inode):
        return -EPERM
    if arg & O_DIRECT and not can_be_direct(file):
        return -EINVAL
    new = (old & ~_SETFL_MASK) | (arg & _SETFL_MASK)
    if (new ^ old) & FASYNC and not set_async(task.kernel, file, fd, is_on=new & FASYNC != 0):
        new &= ~FASYNC
    return file.set_status_flags(task, new) if new != old else 0


def owner_command(task: Task, file: FileDescription, command: int, arg: int) -> int:
    """F_SETOWN, F_SETSIG and their kin: the receiver of SIGIO (or another signal) for an O_ASYNC file."""
    kernel = task.kernel
    if command == F_SETSIG:
        if arg < 0 or arg > NSIG:
            return -EINVAL
        file.owner_signal = arg
        return 0
    if command == F_GETSIG:
        return file.owner_signal
    if command == F_GETOWN:
        shown = pid_in(task.pid_ns, file.owner_pid)
        return -shown if file.owner_type == F_OWNER_PGRP else shown
    mem = task.user_memory()
    if command == F_GETOWN_EX:
        mem.write(to_u64(arg), F_OWNER_EX.pack(file.owner_type, pid_in(task.pid_ns, file.owner_pid)))
        return 0
    if command == F_SETOWN:
        pid = to_i32(arg)
        if pid == -0x80000000:
            return -EINVAL
        kind = F_OWNER_PGRP if pid < 0 else F_OWNER_PID
        pid = abs(pid)
    else:
        kind, pid = F_OWNER_EX.unpack(mem.read(to_u64(arg), F_OWNER_EX_SIZE))
        if kind not in (F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP):
            return -EINVAL
    if pid > 0:
        pid = pid_from(task.pid_ns, pid)
    is_known = pid in kernel.tasks or pid in kernel.groups or pid in kernel.process_groups
    if pid != 0 and not is_known:
        return -ESRCH
    file.owner_pid = pid
    file.owner_type = kind
    file.owner_creds = task.creds if pid else None
    return 0


def write_hint(task: Task, file: FileDescription, command: int, pointer: int) -> int:
    """F_GET_RW_HINT and F_SET_RW_HINT: stored in the inode, without effect."""
    mem = task.user_memory()
    if command == F_GET_RW_HINT:
        mem.write_u64(pointer, file.inode.write_hint)
        return 0
    if not owner_or_capable(task.creds, file.inode):
        return -EPERM
    hint = mem.read_u64(pointer)
    if hint > _RW_HINT_MAX:
        return -EINVAL
    file.inode.write_hint = hint
    return 0


# -- record locks --------------------------------------------------------------------------------------------
def decode_lock(task: Task, file: FileDescription, raw: bytes, *, is_ofd: bool) -> RecordLock:
    """struct flock as a range (flock_to_posix_lock).  EINVAL, EOVERFLOW."""
    kind, whence, start, length, pid = unpack_flock(raw)
    if whence == 1:
        base = file.pos
    elif whence == 2:
        file.inode.refresh(task)
        base = file.inode.size
    elif whence == 0:
        base = 0
    else:
        raise LinuxError(EINVAL)
    if start > OFFSET_MAX - base:
        raise LinuxError(EOVERFLOW)
    start += base
    if start < 0:
        raise LinuxError(EINVAL)
    if length > 0:
        if length - 1 > OFFSET_MAX - start:
            raise LinuxError(EOVERFLOW)
        end = start + length - 1
    elif length < 0:
        if start + length < 0:
            raise LinuxError(EINVAL)
        end = start - 1
        start += length
    else:
        end = OFFSET_MAX
    if kind not in (F_RDLCK, F_WRLCK, F_UNLCK):
        raise LinuxError(EINVAL)
    if is_ofd and pid != 0:
        raise LinuxError(EINVAL)
    owner: Holder = file if is_ofd else task.files
    return RecordLock(owner, -1 if is_ofd else task.group.tgid, kind, start, end, is_ofd=is_ofd)


def get_lock(task: Task, file: FileDescription, pointer: int, *, is_ofd: bool) -> int:
    """F_GETLK: the first lock in the way, or F_UNLCK in l_type and the rest as it was."""
    mem = task.user_memory()
    raw = mem.read(pointer, FLOCK_SIZE)
    kind, whence, start, length, pid = unpack_flock(raw)
    if not is_ofd and kind != F_RDLCK and kind != F_WRLCK:
        return -EINVAL
    request = decode_lock(task, file, raw, is_ofd=is_ofd)
    locks = file.inode.locks
    blocker = locks.conflict(request) if isinstance(locks, FileLocks) else None
    if blocker is None:
        answer = pack_flock(F_UNLCK, whence, start, length, pid)
    else:
        size = 0 if blocker.end == OFFSET_MAX else blocker.end - blocker.start + 1
        holder = pid_in(task.pid_ns, blocker.pid) if blocker.pid > 0 else blocker.pid
        answer = pack_flock(blocker.kind, 0, blocker.start, size, holder)
    mem.write(pointer, answer)
    return 0


class RecordLockWait(FileWait):
    """F_SETLKW that waits for another owner's lock to be released."""

    def __init__(self, file: FileDescription, fd: int, wait: LockWait) -> None:
        super().__init__(file)
        self.fd: int = fd
        self.wait: LockWait = wait

    def retry(self, task: TaskBase) -> int:
        locks = self.wait.locks
        request = self.wait.request
        blocker = locks.conflict(request)
        if blocker is not None:
            return -EDEADLK if would_deadlock(locks.table, request, blocker) else BLOCKED
        result = locks.apply(request)
        if result == 0 and not request.is_ofd:
            assert isinstance(task, Task)
            if task.files.find(self.fd) is not self.file:
                # The descriptor was closed while it waited, and that close could not release a lock that was not held
                # yet.
                release_posix_locks(self.file.inode, request.owner)
                return -EBADF
        return result

    def interrupted(self, task: TaskBase) -> int:
        return -512

    def finished(self, task: TaskBase) -> None:
        locks = self.wait.locks
        end_lock_wait(locks.table, self.wait)
        locks.tidy()
        super().finished(task)


def set_lock(
    task: Task, fd: int, file: FileDescription, pointer: int, *, is_ofd: bool, is_waiting: bool
) -> int:
    """F_SETLK, F_SETLKW and their OFD forms."""
    request = decode_lock(task, file, task.user_memory().read(pointer, FLOCK_SIZE), is_ofd=is_ofd)
    if request.kind == F_RDLCK and not can_read(file):
        return -EBADF
    if request.kind == F_WRLCK and not can_write(file):
        return -EBADF
    if request.kind == F_UNLCK and file.inode.locks is None:
        return 0
    table = task.kernel.locks
    locks = locks_of(table, file.inode)
    if request.kind == F_UNLCK:
        return locks.apply(request)
    blocker = locks.conflict(request)
    if blocker is None:
        return locks.apply(request)
    if not is_waiting:
        return -EAGAIN
    if would_deadlock(table, request, blocker):
        return -EDEADLK
    wait = LockWait(locks, request)
    begin_wait(table, wait)
    return block_on(task, RecordLockWait(file, fd, wait), locks.queue)


# -- flock ---------------------------------------------------------------------------------------------------
class FlockWait(FileWait):
    """flock(2) that waits."""

    def __init__(self, file: FileDescription, locks: FileLocks, kind: int) -> None:
        super().__init__(file)
        self.locks: FileLocks = locks
        self.kind: int = kind

    def retry(self, task: TaskBase) -> int:
        result = self.locks.set_flock(self.file, self.kind, task.thread_group_id())
        return BLOCKED if result == -EAGAIN else result

    def interrupted(self, task: TaskBase) -> int:
        return -512

    def finished(self, task: TaskBase) -> None:
        self.locks.tidy()
        super().finished(task)


def sys_flock(task: Task, args: Args) -> int:
    """flock(2)."""
    operation = to_u32(args.a1)
    if operation & LOCK_MAND:
        return 0  # as Linux does since it removed mandatory locks
    kind = operation & ~LOCK_NB
    if kind not in (LOCK_SH, LOCK_EX, LOCK_UN):
        return -EINVAL
    file = data_file(task, args.a0)
    if kind == LOCK_UN and file.inode.locks is None:
        return 0
    if kind != LOCK_UN and not can_read(file) and not can_write(file):
        return -EBADF
    locks = locks_of(task.kernel.locks, file.inode)
    result = locks.set_flock(file, kind, task.group.tgid)
    if result != -EAGAIN or operation & LOCK_NB:
        return result
    return block_on(task, FlockWait(file, locks, kind), locks.queue)
