"""Tasks with real signals: the results of calls that a guest would see, through the event loop's own `complete`."""

from cloche.abi.errno import LinuxError
from cloche.abi.signal import SA_RESTORER
from cloche.arch.x86_64.sigframe import RestoredContext, parse
from cloche.kernel import itimers, loop, signals
from cloche.kernel.args import Args
from cloche.kernel.phase import KERNEL
from cloche.kernel.siginfo import SigAction
from cloche.kernel.task import Handler, Task, ThreadGroup
from cloche.mm.usermem import UserMemory
from cloche.platform.fake import FakeThread
from tests.unit.fs.harness import Guest

STACK_TOP = 0x80000
HANDLER = 0x11000
RESTORER = 0x12000
RIP = 0x20002  # just after a system call instruction
M64 = (1 << 64) - 1


class World(Guest):
    """A kernel with signals and timers; the first task is the process 2."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel.hooks.signal = None
        signals.install(self.kernel)
        itimers.install(self.kernel)
        self.kernel.table = []

    def add_task(self, pid: int, group: ThreadGroup | None = None) -> Task:
        task = super().add_task(pid, group)
        if group is not None:
            task.mm = group.tasks[0].mm
            task.mm.users += 1
            task.thread = FakeThread(group.tasks[0].thread.process())  # type: ignore[arg-type]
            task.mem = UserMemory(task.thread)
        regs = task.thread.regs()
        regs.rsp = STACK_TOP
        regs.rip = RIP
        task.thread.set_regs(regs)
        return task

    def add_child(self, pid: int, parent: Task) -> Task:
        """A child process in its parent's process group."""
        task = self.add_task(pid)
        task.group.parent = parent.group
        parent.group.children[task.group] = None
        pgrp = parent.group.pgrp
        assert pgrp is not None
        self.join(task, pgrp)
        return task

    def thread(self, task: Task | None = None) -> FakeThread:
        thread = (task or self.task).thread
        assert isinstance(thread, FakeThread)
        return thread

    def handle(self, signo: int, flags: int = 0, mask: int = 0, task: Task | None = None) -> None:
        """Install a handler."""
        action = SigAction(HANDLER, flags | SA_RESTORER, RESTORER, mask)
        signals.set_action(task or self.task, signo, action)

    def run(self, handler: Handler, *values: int, nr: int = 100, task: Task | None = None) -> None:
        """One system call, to its end or until it waits."""
        task = task or self.task
        args = Args()
        padded = list(values) + [0] * (6 - len(values))
        args.nr = nr
        args.a0, args.a1, args.a2, args.a3, args.a4, args.a5 = padded
        task.args = args
        task.args.is_under_way = True
        task.enter(KERNEL)
        try:
            result = handler(task, args)
        except LinuxError as error:
            result = -error.errno
        loop.complete(self.kernel, task, result)

    def settle(self) -> None:
        """What the event loop does before it looks for the next event."""
        for _round in range(100):
            if self.kernel.ready:
                loop.run_ready(self.kernel)
            elif self.kernel.timers.next_deadline_ns() == 0:
                self.kernel.timers.run_due(0)
            else:
                return
        raise AssertionError("never settles")

    def interrupted(self, task: Task | None = None) -> None:
        """The guest thread has answered an interrupt."""
        task = task or self.task
        loop.enter_kernel(task)
        loop.return_to_guest(self.kernel, task, 0, in_syscall=False)

    def is_in_handler(self, task: Task | None = None) -> bool:
        return self.thread(task).regs().rip == HANDLER

    def frame(self, task: Task | None = None) -> RestoredContext:
        """The innermost signal frame."""
        regs = self.thread(task).regs()
        data = self.thread(task).read(regs.rsp + 8, 304)
        return parse(data, regs)

    def leave_handler(self, task: Task | None = None) -> None:
        """The handler returns to its restorer, which calls rt_sigreturn."""
        thread = self.thread(task)
        regs = thread.regs()
        regs.rsp += 8
        thread.set_regs(regs)
        from cloche.syscalls.sys_signal import sys_rt_sigreturn

        self.run(sys_rt_sigreturn, nr=15, task=task)

    def rax(self, task: Task | None = None) -> int:
        """The result in the registers, signed."""
        value = self.thread(task).regs().rax
        return value - (1 << 64) if value >> 63 else value
