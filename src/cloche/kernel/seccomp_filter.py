"""Classic BPF filters of seccomp(2), and the listeners that a filter may have (kernel/seccomp.c, net/core/filter.c).

A filter whose verdict depends on nothing but the call's number is run once per number and remembered, as Linux's
action cache does.  `Filter.users` counts the threads whose newest filter it is and the filters installed on top of it:
without any, a listener gets no more calls (`retain`, `release`).
"""

from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.bpf_program import DATA_ARCH, DATA_ARGS, DATA_NR, INSN
from cloche.abi.errno import EINVAL, ENOSYS, LinuxError
from cloche.abi.poll import POLLHUP, POLLIN, POLLOUT
from cloche.arch.machine import AUDIT_ARCH
from cloche.kernel.args import Args
from cloche.kernel.bpf import SIZE, Subject, check, run
from cloche.kernel.parts import SeccompChain
from cloche.kernel.task import Task
from cloche.mm.quota import FILTER_BYTES, KERNEL_MEMORY
from cloche.vfs.waitqueue import WaitQueue

FILTER_PENALTY: Final = 4
_REMEMBERED: Final = 1024  # numbers of calls; what guests take for such may be anything
_M32: Final = 0xFFFFFFFF

# States of a notification
WAITING: Final = 0  # not read yet
SENT: Final = 1
REPLIED: Final = 2


class Notification:
    """A call that a listener shall decide."""

    def __init__(self, ident: int, task: Task, pointer: int) -> None:
        args = task.args
        self.ident: int = ident
        self.task: Task = task
        self.number: int = args.nr
        self.pointer: int = pointer
        self.arguments: tuple[int, int, int, int, int, int] = (
            args.a0,
            args.a1,
            args.a2,
            args.a3,
            args.a4,
            args.a5,
        )
        self.state: int = WAITING
        self.value: int = 0
        self.error: int = 0
        self.flags: int = 0
        self.replied: WaitQueue = WaitQueue()

    def reply(self, value: int, error: int, flags: int) -> None:
        self.state = REPLIED
        self.value = value
        self.error = error
        self.flags = flags
        self.replied.wake()


class Listener:
    """A listener (SECCOMP_FILTER_FLAG_NEW_LISTENER): the calls that wait for an answer, in order."""

    def __init__(self, first_ident: int, *, is_killable: bool) -> None:
        self.next_ident: int = first_ident
        self.is_killable: bool = is_killable  # once read, only a fatal signal ends the wait
        self.is_orphaned: bool = False  # no thread has the filter any more
        self.is_closed: bool = False
        self.notifications: list[Notification] = []
        self.queue: WaitQueue = WaitQueue()

    def notify(self, task: Task, pointer: int) -> Notification:
        """Let the call in `task.args` wait for the listener."""
        made = Notification(self.next_ident, task, pointer)
        self.next_ident = (self.next_ident + 1) & 0xFFFFFFFFFFFFFFFF
        self.notifications.append(made)
        self.queue.wake(POLLIN)
        return made

    def forget(self, gone: Notification) -> None:
        """Its wait is over."""
        if gone in self.notifications:
            self.notifications.remove(gone)

    def first_waiting(self) -> Notification | None:
        """The next to be read."""
        for one in self.notifications:
            if one.state == WAITING:
                return one
        return None

    def find(self, ident: int) -> Notification | None:
        for one in self.notifications:
            if one.ident == ident:
                return one
        return None

    def sent(self, one: Notification) -> None:
        """The notification was read."""
        one.state = SENT
        self.queue.wake(POLLOUT)

    def orphaned(self) -> None:
        self.is_orphaned = True
        self.queue.wake(POLLHUP)

    def close(self) -> None:
        """The listener was closed: end all waits."""
        self.is_closed = True
        for one in list(self.notifications):
            if one.state != REPLIED:
                one.reply(0, -ENOSYS, 0)


class Filter(SeccompChain):
    """An installed program and those that were installed before it."""

    def __init__(self, program: bytes, previous: "Filter | None") -> None:
        """`program` has been checked (`checked_program`)."""
        self.program: bytes = program
        self.previous: Filter | None = previous
        self.verdicts: dict[int, int] = {}  # by call number, where nothing else matters
        self.count: int = 1 + (previous.count if previous is not None else 0)
        self.total_insns: int = (
            len(program) // SIZE + FILTER_PENALTY + (previous.total_insns if previous is not None else 0)
        )
        self.users: int = 0
        self.is_linked: bool = False  # it counts among the users of `previous`
        self.listener: Listener | None = None
        KERNEL_MEMORY.take(FILTER_BYTES + len(program))

    def __del__(self) -> None:
        KERNEL_MEMORY.give(FILTER_BYTES + len(self.program))

    def has_listener(self) -> bool:
        """Whether one of the chain has an open one."""
        one: Filter | None = self
        while one is not None:
            if one.listener is not None and not one.listener.is_closed:
                return True
            one = one.previous
        return False

    def is_ancestor_of(self, other: "Filter | None") -> bool:
        """Whether `other` is this filter or was installed on top of it."""
        while other is not None:
            if other is self:
                return True
            other = other.previous
        return False


_LD_ABS: Final = bpf.BPF_LD | bpf.BPF_W | bpf.BPF_ABS


def checked_program(raw: bytes) -> bytes:
    """Check an array of struct sock_filter (seccomp_check_filter), and give it.  Raises LinuxError(EINVAL)."""
    check(raw)
    for code, _jump_true, _jump_false, k in INSN.iter_unpack(raw):
        if not _is_allowed(code, k):
            raise LinuxError(EINVAL)
    return raw


def _is_allowed(code: int, k: int) -> bool:
    """Whether seccomp has an instruction of classic BPF."""
    group = code & 7
    if group == bpf.BPF_LD and code & 0xE0 in (bpf.BPF_ABS, bpf.BPF_IND):
        return code == _LD_ABS and k < bpf.SECCOMP_DATA_SIZE and k % 4 == 0
    if group == bpf.BPF_LDX:
        return code & 0xE0 != bpf.BPF_MSH
    return group != bpf.BPF_ALU or code & 0xF0 != bpf.BPF_MOD


class _Data(Subject):
    """struct seccomp_data of a call."""

    def __init__(self, args: Args, pointer: int) -> None:
        self.size = bpf.SECCOMP_DATA_SIZE
        self.args: Args = args
        self.pointer: int = pointer
        self.uses_arguments: bool = False

    def load(self, code: int, k: int, a: int, x: int) -> int:
        args = self.args
        if k == DATA_NR:
            return args.nr & _M32
        if k == DATA_ARCH:
            return AUDIT_ARCH
        self.uses_arguments = True
        if k < DATA_ARGS:
            value = self.pointer
        else:
            index = (k - DATA_ARGS) >> 3
            values = (args.a0, args.a1, args.a2, args.a3, args.a4, args.a5)
            value = values[index]
        return (value >> 32 if k & 4 else value) & _M32


def run_filter(one: Filter, args: Args, pointer: int) -> int:
    """The verdict of one filter: SECCOMP_RET_* with its data."""
    known = one.verdicts.get(args.nr, -1)
    if known >= 0:
        return known
    data = _Data(args, pointer)
    verdict = run(one.program, data)
    if not data.uses_arguments and 0 <= args.nr < _REMEMBERED:
        one.verdicts[args.nr] = verdict
    return verdict


def filters_of(task: Task) -> Filter | None:
    """The newest filter of a task."""
    found = task.seccomp.chain
    return found if isinstance(found, Filter) else None


def retain(task: Task) -> None:
    """A new task has the filters of its parent."""
    one = filters_of(task)
    if one is not None:
        one.users += 1


def replace(task: Task, one: Filter | None) -> None:
    """Change the newest filter of a task; None at its end."""
    old = filters_of(task)
    task.seccomp.chain = one
    if one is not None:
        one.users += 1
        if one.previous is not None and not one.is_linked:
            one.is_linked = True
            one.previous.users += 1
    while old is not None:
        old.users -= 1
        if old.users > 0:
            return
        if old.listener is not None:
            old.listener.orphaned()
        old = old.previous if old.is_linked else None
