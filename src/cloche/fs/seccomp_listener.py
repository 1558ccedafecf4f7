"""The descriptor of a seccomp listener: reading and answering notifications (seccomp_unotify(2))."""

from struct import Struct
from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.errno import E2BIG, EBADF, EFAULT, EINPROGRESS, EINVAL, EIO, ENOENT, LinuxError
from cloche.abi.fcntl import O_CLOEXEC, O_PATH
from cloche.abi.poll import POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from cloche.arch.machine import AUDIT_ARCH
from cloche.fs.anon import AnonFile
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.seccomp_filter import SENT, WAITING, Listener, Notification
from cloche.kernel.task import Kernel, Task
from cloche.vfs.objects import Context, FileDescription
from cloche.vfs.waitqueue import WaitQueue

# id pid flags; then struct seccomp_data: nr arch instruction_pointer args[6]
_NOTIFICATION: Final = Struct("<QIIiIQQQQQQQ")
_RESPONSE: Final = Struct("<QqiI")  # id val error flags
_ADDFD: Final = Struct("<QIIII")  # id flags srcfd newfd newfd_flags
NOTIFICATION_SIZE: Final = 80
RESPONSE_SIZE: Final = 24
ADDFD_SIZE: Final = 24

_RECV: Final = 0xC0502100
_SEND: Final = 0xC0182101
_ID_VALID: Final = 0x40082102
_ID_VALID_WRONG: Final = 0x80082102  # as the first headers had it
_SET_FLAGS: Final = 0x40082104
_ADDFD_NUMBER: Final = 0x2103  # the size of the struct is the caller's
_MAX_ADDFD: Final = 4096
_MASK64: Final = 0xFFFFFFFFFFFFFFFF


class ReceiveWait(Blocked):
    """SECCOMP_IOCTL_NOTIF_RECV, which waits even with O_NONBLOCK."""

    def __init__(self, listener: Listener, address: int) -> None:
        super().__init__()
        self.listener: Listener = listener
        self.address: int = address

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        return receive(task, self.listener, self.address)


def receive(task: Task, listener: Listener, address: int) -> int:
    """Write the next notification to the caller: 0, BLOCKED or a negative errno."""
    found = listener.first_waiting()
    if found is None:
        return -ENOENT if listener.is_orphaned else BLOCKED
    raw = _NOTIFICATION.pack(
        found.ident,
        pid_in(task.pid_ns, found.task.tid),
        0,
        found.number,
        AUDIT_ARCH,
        found.pointer,
        *[argument & _MASK64 for argument in found.arguments],
    )
    if not task.user_memory().write_now(address, raw):
        return -EFAULT
    listener.sent(found)
    return 0


class ListenerFile(AnonFile):
    """An open listener; all its descriptors are equal."""

    def __init__(self, kernel: Kernel, listener: Listener) -> None:
        super().__init__(kernel, b"seccomp notify")
        self.listener: Listener = listener

    def poll(self, ctx: Context) -> int:
        mask = POLLHUP if self.listener.is_orphaned else 0
        for one in self.listener.notifications:
            if one.state == WAITING:
                mask |= POLLIN | POLLRDNORM
            elif one.state == SENT:
                mask |= POLLOUT | POLLWRNORM
        return mask

    def wait_queue(self) -> WaitQueue | None:
        return self.listener.queue

    def release(self) -> None:
        self.listener.close()

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if not isinstance(ctx, Task):
            raise LinuxError(EIO)
        if command == _RECV:
            return self._receive(ctx, arg)
        if command == _SEND:
            return self._answer(ctx, arg)
        if command == _ID_VALID or command == _ID_VALID_WRONG:
            found = self.listener.find(ctx.user_memory().read_u64(arg))
            return 0 if found is not None and found.state == SENT else -ENOENT
        if command == _SET_FLAGS:
            # The host decides where the woken thread runs, so the flag has no effect.
            return -EINVAL if arg & ~bpf.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP else 0
        if command & 0xC000FFFF == 0x40000000 | _ADDFD_NUMBER:
            return self._add_fd(ctx, arg, command >> 16 & 0x3FFF)
        return -EINVAL

    def _receive(self, task: Task, address: int) -> int:
        if any(task.user_memory().read(address, NOTIFICATION_SIZE)):
            return -EINVAL
        result = receive(task, self.listener, address)
        if result == BLOCKED:
            return block_on(task, ReceiveWait(self.listener, address), self.listener.queue, POLLIN)
        return result

    def _sent(self, ident: int) -> Notification:
        """A notification that waits for an answer. Raises LinuxError."""
        found = self.listener.find(ident)
        if found is None:
            raise LinuxError(ENOENT)
        if found.state != SENT:
            raise LinuxError(EINPROGRESS)
        return found

    def _answer(self, task: Task, address: int) -> int:
        ident, value, error, flags = _RESPONSE.unpack(task.user_memory().read(address, RESPONSE_SIZE))
        if flags & ~bpf.SECCOMP_USER_NOTIF_FLAG_CONTINUE or (flags and (error or value)):
            return -EINVAL
        self._sent(ident).reply(value, error, flags)
        return 0

    def _add_fd(self, task: Task, address: int, size: int) -> int:
        """SECCOMP_IOCTL_NOTIF_ADDFD: the number of the descriptor in the process that waits."""
        if size < ADDFD_SIZE or size >= _MAX_ADDFD:
            return -EINVAL
        raw = task.user_memory().read(address, size)
        if any(raw[ADDFD_SIZE:]):
            return -E2BIG
        ident, flags, source, number, fd_flags = _ADDFD.unpack(raw[:ADDFD_SIZE])
        places = flags & bpf.SECCOMP_ADDFD_FLAG_SETFD != 0
        if fd_flags & ~O_CLOEXEC or flags & ~(bpf.SECCOMP_ADDFD_FLAG_SETFD | bpf.SECCOMP_ADDFD_FLAG_SEND):
            return -EINVAL
        if number and not places:
            return -EINVAL
        file = task.files.find(source)
        if file is None or file.flags & O_PATH:
            return -EBADF
        found = self._sent(ident)
        given = _give(found.task, file, number if places else -1, is_cloexec=fd_flags != 0)
        if flags & bpf.SECCOMP_ADDFD_FLAG_SEND:
            found.reply(given, 0, 0)
        return given


def _give(target: Task, file: FileDescription, number: int, *, is_cloexec: bool) -> int:
    """Install a file in the table of the thread that waits.  Raises LinuxError."""
    limit = target.nofile_limit()
    if number < 0:
        return target.files.install(file, limit, is_cloexec=is_cloexec)
    if number >= limit:
        raise LinuxError(EBADF)
    target.files.install_at(target, number, file, is_cloexec=is_cloexec)
    return number
