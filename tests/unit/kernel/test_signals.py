"""Sending, queueing, delivery, restart of calls, alternate stacks, job control."""

import pytest

from cloche.abi.errno import (
    EAGAIN,
    EINTR,
    EINVAL,
    ENOMEM,
    EPERM,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    ERESTARTSYS,
    ESRCH,
)
from cloche.abi.signal import (
    CLD_CONTINUED,
    CLD_STOPPED,
    SA_NOCLDSTOP,
    SA_NODEFER,
    SA_ONSTACK,
    SA_RESETHAND,
    SA_RESTART,
    SIG_IGN,
    SIGABRT,
    SIGALRM,
    SIGCHLD,
    SIGCONT,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGSEGV,
    SIGSTOP,
    SIGTERM,
    SIGTSTP,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
    SS_AUTODISARM,
    SS_DISABLE,
    sigbit,
)
from cloche.abi.signal_structs import pack_sigaction, pack_stack_t, siginfo_addr, siginfo_value
from cloche.abi.structs import pack_timespec
from cloche.kernel import killing, loop, signals
from cloche.kernel.args import Args
from cloche.kernel.blocking import BLOCKED
from cloche.kernel.siginfo import SigAction, SigInfo
from cloche.kernel.task import Handler, Task
from cloche.platform.fake import FakeProcess
from cloche.platform.interface import EV_PROCESS_DIED
from cloche.syscalls import sys_poll, sys_signal
from cloche.vfs.credentials import Credentials
from tests.unit.kernel.world import HANDLER, RESTORER, RIP, STACK_TOP, World

RT = 40
# Calls that look for signals before they wait, and what they give with no arguments and nothing ready
LOOKS: list[tuple[Handler, int]] = [
    (sys_poll.sys_poll, 0),
    (sys_poll.sys_select, BLOCKED),
    (sys_signal.sys_pause, BLOCKED),
]


@pytest.fixture
def world() -> World:
    return World()


def queued(task: Task, signo: int, value: int) -> SigInfo:
    from cloche.abi.signal_structs import pack_siginfo_rt

    return SigInfo(signo, -1, pack_siginfo_rt(signo, -1, task.group.tgid, 0, value), task.group.tgid, 0)


class Returns:
    """A handler of a system call that returns a fixed result."""

    def __init__(self, result: int) -> None:
        self.result = result

    def __call__(self, task: Task, args: Args) -> int:
        return self.result


class TestQueue:
    def test_ordinary_signals_merge(self, world: World) -> None:
        task = world.task
        signals.set_sigmask(task, sigbit(SIGUSR1))
        for _ in range(3):
            assert killing.kill(task, 2, SIGUSR1) == 0
        assert signals.dequeue_signal(task, sigbit(SIGUSR1)) is not None
        assert signals.dequeue_signal(task, sigbit(SIGUSR1)) is None

    def test_real_time_signals_queue_in_order(self, world: World) -> None:
        task = world.task
        signals.set_sigmask(task, sigbit(RT))
        for value in (7, 8, 9):
            signals.send_group_info(task.group, queued(task, RT, value))
        values = []
        while (info := signals.dequeue_signal(task, sigbit(RT))) is not None:
            values.append(siginfo_value(info.raw))
        assert values == [7, 8, 9]
        assert task.group.pending.mask == 0

    def test_lowest_number_first_and_thread_before_group(self, world: World) -> None:
        task = world.task
        signals.set_sigmask(task, ~0)
        killing.kill(task, 2, SIGUSR1)
        killing.tgkill(task, 2, 2, SIGUSR2)
        killing.tgkill(task, 2, 2, SIGSEGV)
        taken = []
        while (info := signals.dequeue_signal(task, ~0)) is not None:
            taken.append(info.signo)
        assert taken == [SIGSEGV, SIGUSR2, SIGUSR1]

    def test_limit_of_queued_signals(self, world: World) -> None:
        task = world.task
        task.group.rlimits[11] = (2, 2)
        signals.set_sigmask(task, ~0)
        assert signals.send_group_info(task.group, queued(task, RT, 1)) == 0
        assert signals.send_group_info(task.group, queued(task, RT, 2)) == 0
        assert signals.send_group_info(task.group, queued(task, RT, 3)) == -EAGAIN
        # kill of an ordinary signal always gets through, and so does a real-time one without its siginfo.
        assert killing.kill(task, 2, SIGUSR1) == 0
        assert killing.kill(task, 2, RT + 1) == 0
        signals.dequeue_signal(task, sigbit(RT))
        signals.dequeue_signal(task, sigbit(SIGUSR1))
        assert signals.send_group_info(task.group, queued(task, RT, 4)) == 0
        info = signals.dequeue_signal(task, sigbit(RT + 1))
        assert info is not None and info.sender_pid == 0

    def test_counts_return_to_nothing(self, world: World) -> None:
        task = world.task
        signals.set_sigmask(task, ~0)
        for value in range(5):
            signals.send_group_info(task.group, queued(task, RT, value))
        signals.set_action(task, RT, SigAction(SIG_IGN))
        assert task.group.pending.queue == []
        assert world.kernel.queued_signals.is_empty()

    def test_ignored_signals_are_dropped_unless_blocked(self, world: World) -> None:
        task = world.task
        killing.kill(task, 2, SIGWINCH)
        signals.set_action(task, SIGUSR1, SigAction(SIG_IGN))
        killing.kill(task, 2, SIGUSR1)
        assert task.group.pending.mask == 0
        signals.set_sigmask(task, ~0)
        killing.kill(task, 2, SIGWINCH)
        assert task.group.pending.mask == sigbit(SIGWINCH)

    def test_ignoring_discards_what_is_pending(self, world: World) -> None:
        task = world.task
        signals.set_sigmask(task, ~0)
        killing.kill(task, 2, SIGUSR1)
        killing.tgkill(task, 2, 2, SIGUSR1)
        signals.set_action(task, SIGUSR1, SigAction(SIG_IGN))
        assert task.group.pending.mask == task.pending.mask == 0

    def test_stop_and_continue_discard_each_other(self, world: World) -> None:
        task = world.task
        signals.set_sigmask(task, ~0)
        killing.kill(task, 2, SIGTSTP)
        killing.kill(task, 2, SIGCONT)
        assert task.group.pending.mask == sigbit(SIGCONT)
        killing.kill(task, 2, SIGTSTP)
        assert task.group.pending.mask == sigbit(SIGTSTP)


def kill_all(task: Task, pid: int, signo: int) -> int:
    """kill(2) of many, in as many slices as it takes: a busy machine makes some of few."""
    result = killing.kill(task, pid, signo)
    while result == BLOCKED and task in task.kernel.sliced:
        task.kernel.sliced.remove(task)
        task.is_ready_queued = False
        assert task.blocked is not None
        result = task.blocked.retry(task)
    return result


class TestPermission:
    def other(self, world: World, uid: int) -> Task:
        task = world.add_task(3)
        task.creds = Credentials(uid, uid)
        return task

    def test_by_user(self, world: World) -> None:
        target = self.other(world, 1000)
        sender = world.add_task(4)
        sender.creds = Credentials(1001, 1001)
        assert killing.kill(sender, 3, 0) == -EPERM
        sender.creds = Credentials(1000, 1000)
        assert killing.kill(sender, 3, 0) == 0
        target.creds.suid = target.creds.uid = 7
        assert killing.kill(sender, 3, 0) == -EPERM
        assert killing.kill(world.task, 3, 0) == 0  # CAP_KILL

    def test_sigcont_within_the_session(self, world: World) -> None:
        target = self.other(world, 1000)
        sender = world.add_task(4)
        sender.creds = Credentials(1001, 1001)
        assert killing.kill(sender, 3, SIGCONT) == -EPERM
        assert target.group.pgrp is not None
        world.join(sender, target.group.pgrp)
        assert killing.kill(sender, 3, SIGCONT) == 0

    def test_targets(self, world: World) -> None:
        task = world.task
        assert killing.kill(task, 999, SIGUSR1) == -ESRCH
        assert killing.kill(task, 2, 65) == -EINVAL
        assert killing.kill(task, -999, SIGUSR1) == -ESRCH
        assert world.call(sys_signal.sys_kill, -0x80000000, SIGUSR1) == -ESRCH
        assert world.call(sys_signal.sys_tgkill, 2, 0, 1) == -EINVAL
        assert world.call(sys_signal.sys_tgkill, 3, 2, 1) == -ESRCH
        assert kill_all(task, -1, 0) == -ESRCH  # there is no other process

    def test_all_but_oneself(self, world: World) -> None:
        other = world.add_task(3)
        signals.set_sigmask(other, ~0)
        signals.set_sigmask(world.task, ~0)
        assert kill_all(world.task, -1, SIGUSR1) == 0
        assert other.group.pending.mask and not world.task.group.pending.mask

    def test_process_group(self, world: World) -> None:
        a, b = world.add_child(3, world.task), world.add_child(4, world.task)
        for task in (world.task, a, b):
            signals.set_sigmask(task, ~0)
        assert kill_all(a, 0, SIGUSR1) == 0
        assert all(task.group.pending.mask for task in (world.task, a, b))


class TestWake:
    def test_blocked_task_becomes_ready(self, world: World) -> None:
        world.handle(SIGUSR1)
        world.run(sys_signal.sys_pause)
        assert world.task.blocked is not None
        killing.kill(world.task, 2, SIGUSR1)
        assert world.kernel.ready == [world.task]
        world.settle()
        assert world.is_in_handler()

    def test_running_task_is_interrupted(self, world: World) -> None:
        world.handle(SIGUSR1)
        killing.kill(world.task, 2, SIGUSR1)
        assert world.thread().interrupts == 1 and world.task.wants_attention

    def test_another_thread_takes_what_the_leader_blocks(self, world: World) -> None:
        second = world.add_task(3, world.task.group)
        world.handle(SIGUSR1)
        signals.set_sigmask(world.task, sigbit(SIGUSR1))
        killing.kill(world.task, 2, SIGUSR1)
        assert second.wants_attention and not world.task.wants_attention

    def test_blocking_passes_a_pending_signal_on(self, world: World) -> None:
        second = world.add_task(3, world.task.group)
        world.handle(SIGUSR1)
        killing.kill(world.task, 2, SIGUSR1)
        assert not second.wants_attention
        signals.set_sigmask(world.task, sigbit(SIGUSR1))
        assert second.wants_attention

    @pytest.mark.parametrize(("call", "result"), LOOKS, ids=[call.__name__ for call, _ in LOOKS])
    def test_a_call_does_not_end_for_another_threads_signal(
        self, world: World, call: Handler, result: int
    ) -> None:
        """The thread that was chosen is still on its way, and another makes a call that looks for signals."""
        second = world.add_task(3, world.task.group)
        world.handle(SIGUSR1)
        world.run(sys_signal.sys_pause)
        killing.kill(second, 2, SIGUSR1)
        world.run(call, task=second)
        if result == BLOCKED:
            assert second.blocked is not None
        else:
            assert (
                second.blocked is None
                and not world.is_in_handler(second)
                and world.thread(second).returned == [result]
            )
        world.settle()
        assert world.is_in_handler() and not world.is_in_handler(second)

    def test_exit_passes_a_pending_signal_on(self, world: World) -> None:
        second = world.add_task(3, world.task.group)
        world.handle(SIGUSR1)
        killing.kill(world.task, 2, SIGUSR1)
        signals.task_exits(world.task)
        assert second.wants_attention


class TestFatal:
    def test_default_kills(self, world: World) -> None:
        victim = world.add_child(3, world.task)
        killing.kill(world.task, 3, SIGTERM)
        world.settle()
        assert victim.group.end.is_zombie and victim.group.end.status == SIGTERM

    def test_the_first_fatal_signal_counts(self, world: World) -> None:
        victim = world.add_child(3, world.task)
        killing.kill(world.task, 3, SIGTERM)
        killing.kill(world.task, 3, SIGKILL)
        world.settle()
        assert victim.group.end.status == SIGTERM

    def test_kill_reaches_a_stopped_process(self, world: World) -> None:
        victim = world.add_child(3, world.task)
        killing.kill(world.task, 3, SIGSTOP)
        world.interrupted(victim)
        assert victim.group.job.is_stopped
        killing.kill(world.task, 3, SIGKILL)
        world.settle()
        assert victim.group.end.status == SIGKILL

    def test_own_death_is_at_the_end_of_the_call(self, world: World) -> None:
        victim = world.add_child(3, world.task)
        world.run(sys_signal.sys_kill, 3, SIGINT, task=victim)
        assert victim.is_exited and world.thread(victim).resumed == 0 == len(world.thread(victim).returned)

    def test_core_bit_by_limit(self, world: World) -> None:
        for pid, limit, status in ((3, 0, SIGABRT), (4, -1, SIGABRT | 0x80)):
            victim = world.add_child(pid, world.task)
            victim.group.rlimits[4] = (limit, limit)
            killing.kill(world.task, pid, SIGABRT)
            world.interrupted(victim)
            assert victim.group.end.status == status

    def test_parent_hears(self, world: World) -> None:
        world.handle(SIGCHLD)
        world.add_child(3, world.task)
        killing.kill(world.task, 3, SIGTERM)
        world.settle()
        assert world.task.group.pending.mask == sigbit(SIGCHLD)

    def test_init_survives_default_actions(self, world: World) -> None:
        world.task.group.container.init = world.task.group
        killing.kill(world.task, 2, SIGTERM)
        killing.kill(world.task, 2, SIGKILL)
        world.interrupted()
        assert not world.task.is_exited
        signals.send_group_signal(world.kernel, world.task.group, SIGKILL)
        world.settle()
        assert world.task.is_exited


class TestDelivery:
    def test_frame_and_return(self, world: World) -> None:
        world.handle(SIGUSR1, mask=sigbit(SIGUSR2))
        state = bytearray(world.thread().fpstate())
        initial = bytes(state)
        state[160] = 42  # the first vector register
        assert world.thread().set_fpstate(bytes(state))
        regs = world.thread().regs()
        regs.rbx, regs.rax = 0x1234, 0x55
        world.thread().set_regs(regs)
        killing.kill(world.task, 2, SIGUSR1)
        world.interrupted()
        now = world.thread().regs()
        assert (now.rip, now.rdi) == (HANDLER, SIGUSR1)
        assert now.rsp % 16 == 8 and now.rsp < STACK_TOP - 128
        assert world.get(now.rsp, 8) == RESTORER.to_bytes(8, "little")
        assert world.get(now.rsi, 4) == SIGUSR1.to_bytes(4, "little")
        assert world.thread().fpstate() == initial
        assert world.task.sigmask.now == sigbit(SIGUSR1) | sigbit(SIGUSR2)
        assert world.thread().resumed == 1
        world.leave_handler()
        after = world.thread().regs()
        assert (after.rip, after.rsp, after.rbx, after.rax) == (RIP, STACK_TOP, 0x1234, 0x55)
        assert world.task.sigmask.now == 0 and world.thread().fpstate() == state

    def test_nodefer_and_resethand(self, world: World) -> None:
        world.handle(SIGUSR1, SA_NODEFER | SA_RESETHAND)
        killing.kill(world.task, 2, SIGUSR1)
        world.interrupted()
        assert world.task.sigmask.now == 0
        assert world.task.group.handlers.actions[SIGUSR1].handler == 0

    def test_nested_frames(self, world: World) -> None:
        world.handle(SIGUSR1)
        world.handle(SIGUSR2)
        killing.kill(world.task, 2, SIGUSR1)
        killing.kill(world.task, 2, SIGUSR2)
        world.interrupted()
        regs = world.thread().regs()
        assert regs.rdi == SIGUSR2  # set up last, so it runs first
        assert world.frame().regs.rdi == SIGUSR1
        world.leave_handler()
        assert world.thread().regs().rdi == SIGUSR1
        world.leave_handler()
        assert world.thread().regs().rip == RIP and world.task.sigmask.now == 0

    def test_bad_stack_is_fatal(self, world: World) -> None:
        victim = world.add_child(3, world.task)
        world.handle(SIGUSR1, task=victim)
        regs = world.thread(victim).regs()
        regs.rsp = 0x7000_0000_0000
        world.thread(victim).set_regs(regs)
        killing.kill(world.task, 3, SIGUSR1)
        world.interrupted(victim)
        assert victim.group.end.status & 0x7F == SIGSEGV

    def test_missing_restorer_is_fatal(self, world: World) -> None:
        victim = world.add_child(3, world.task)
        signals.set_action(victim, SIGUSR1, SigAction(HANDLER))
        killing.kill(world.task, 3, SIGUSR1)
        world.interrupted(victim)
        assert victim.group.end.status & 0x7F == SIGSEGV

    def test_fault(self, world: World) -> None:
        world.handle(SIGSEGV)
        signals.force_fault_signal(world.task, SIGSEGV, 1, 0xDEAD000)
        world.interrupted()
        regs = world.thread().regs()
        assert regs.rdi == SIGSEGV
        info = world.get(regs.rsi, 128)
        assert siginfo_addr(info) == 0xDEAD000 and info[8] == 1

    def test_blocked_fault_is_fatal(self, world: World) -> None:
        victim = world.add_child(3, world.task)
        world.handle(SIGSEGV, task=victim)
        signals.set_sigmask(victim, sigbit(SIGSEGV))
        signals.force_fault_signal(victim, SIGSEGV, 1, 0)
        world.interrupted(victim)
        assert victim.group.end.status & 0x7F == SIGSEGV

    def test_bad_sigreturn_is_fatal(self, world: World) -> None:
        victim = world.add_child(3, world.task)
        regs = world.thread(victim).regs()
        regs.rsp = 0x7000_0000_0000
        world.thread(victim).set_regs(regs)
        world.run(sys_signal.sys_rt_sigreturn, task=victim)
        assert victim.group.end.status & 0x7F == SIGSEGV


class TestRestart:
    @pytest.mark.parametrize(
        ("code", "flags", "is_restarted"),
        [
            (ERESTARTSYS, 0, False),
            (ERESTARTSYS, SA_RESTART, True),
            (ERESTARTNOINTR, 0, True),
            (ERESTARTNOHAND, SA_RESTART, False),
            (ERESTART_RESTARTBLOCK, SA_RESTART, False),
        ],
    )
    def test_with_handler(self, world: World, code: int, flags: int, is_restarted: bool) -> None:
        world.handle(SIGUSR1, flags)
        killing.kill(world.task, 2, SIGUSR1)
        world.run(Returns(-code), nr=100)
        context = world.frame()
        if is_restarted:
            assert (context.regs.rip, context.regs.rax) == (RIP - 2, 100)
        else:
            assert (context.regs.rip, context.regs.rax) == (RIP, -EINTR & (1 << 64) - 1)

    @pytest.mark.parametrize(
        ("code", "number"),
        [(ERESTARTSYS, 100), (ERESTARTNOINTR, 100), (ERESTARTNOHAND, 100), (ERESTART_RESTARTBLOCK, 219)],
    )
    def test_without_handler(self, world: World, code: int, number: int) -> None:
        world.task.wants_attention = True
        world.run(Returns(-code), nr=100)
        regs = world.thread().regs()
        assert (regs.rip, regs.rax) == (RIP - 2, number)

    def test_result_survives_a_handler(self, world: World) -> None:
        world.handle(SIGUSR1)
        killing.kill(world.task, 2, SIGUSR1)
        world.run(Returns(-EPERM))
        world.leave_handler()
        assert world.rax() == -EPERM and world.thread().regs().rip == RIP

    def test_nothing_to_restart(self, world: World) -> None:
        assert world.call(sys_signal.sys_restart_syscall) == -EINTR


class TestMasks:
    def test_sigsuspend(self, world: World) -> None:
        world.handle(SIGUSR1)
        signals.set_sigmask(world.task, sigbit(SIGUSR1))
        mask = world.put(sigbit(SIGUSR2).to_bytes(8, "little"))
        world.run(sys_signal.sys_rt_sigsuspend, mask, 8)
        assert world.task.sigmask.now == sigbit(SIGUSR2)
        killing.kill(world.task, 2, SIGUSR2)
        world.settle()
        assert world.task.blocked is not None
        killing.kill(world.task, 2, SIGUSR1)
        world.settle()
        assert world.is_in_handler()
        assert world.frame().mask == sigbit(SIGUSR1)
        assert world.task.sigmask.now == sigbit(SIGUSR1) | sigbit(SIGUSR2)
        world.leave_handler()
        assert world.task.sigmask.now == sigbit(SIGUSR1)
        assert world.rax() == -EINTR

    def test_sigsuspend_with_a_pending_signal(self, world: World) -> None:
        world.handle(SIGUSR1)
        signals.set_sigmask(world.task, sigbit(SIGUSR1))
        killing.kill(world.task, 2, SIGUSR1)
        world.run(sys_signal.sys_rt_sigsuspend, world.put(bytes(8)), 8)
        assert world.is_in_handler() and world.task.blocked is None

    def test_own_mask_of_a_call_that_succeeds(self, world: World) -> None:
        """A signal that only the call's mask lets through stays pending if the call succeeds."""
        world.handle(SIGUSR1)
        signals.set_sigmask(world.task, sigbit(SIGUSR1))
        signals.set_temporary_sigmask(world.task, 0)
        killing.kill(world.task, 2, SIGUSR1)
        world.run(Returns(1))
        assert not world.is_in_handler() and world.task.sigmask.now == sigbit(SIGUSR1)

    def test_kill_and_stop_cannot_be_blocked(self, world: World) -> None:
        mask = world.put(b"\xff" * 8)
        old = world.put(bytes(8))
        assert world.call(sys_signal.sys_rt_sigprocmask, 2, mask, old, 8) == 0
        assert world.task.sigmask.now == ~(sigbit(SIGKILL) | sigbit(SIGSTOP)) & (1 << 64) - 1
        assert world.call(sys_signal.sys_rt_sigprocmask, 9, mask, 0, 8) == -EINVAL
        assert world.call(sys_signal.sys_rt_sigprocmask, 0, mask, 0, 4) == -EINVAL

    def test_pending(self, world: World) -> None:
        signals.set_sigmask(world.task, sigbit(SIGUSR1))
        killing.kill(world.task, 2, SIGUSR1)
        out = world.put(b"\xee" * 8)
        assert world.call(sys_signal.sys_rt_sigpending, out, 4) == 0
        assert world.get(out, 8) == sigbit(SIGUSR1).to_bytes(4, "little") + b"\xee" * 4

    def test_sigaction(self, world: World) -> None:
        new = world.put(pack_sigaction(HANDLER, 0x14000000 | 0x400, RESTORER, ~0 & (1 << 64) - 1))
        old = world.put(bytes(32))
        assert world.call(sys_signal.sys_rt_sigaction, SIGUSR1, new, old, 8) == 0
        assert world.get(old, 32) == bytes(32)
        assert world.call(sys_signal.sys_rt_sigaction, SIGUSR1, 0, old, 8) == 0
        mask = ~(sigbit(SIGKILL) | sigbit(SIGSTOP)) & (1 << 64) - 1
        assert world.get(old, 32) == pack_sigaction(HANDLER, 0x14000000, RESTORER, mask)
        assert world.call(sys_signal.sys_rt_sigaction, SIGKILL, new, 0, 8) == -EINVAL
        assert world.call(sys_signal.sys_rt_sigaction, 65, 0, old, 8) == -EINVAL


class TestTimedWait:
    def test_takes_a_pending_signal(self, world: World) -> None:
        signals.set_sigmask(world.task, sigbit(RT))
        signals.send_group_info(world.task.group, queued(world.task, RT, 77))
        mask, info = world.put(sigbit(RT).to_bytes(8, "little")), world.put(bytes(128))
        assert world.call(sys_signal.sys_rt_sigtimedwait, mask, info, 0, 8) == RT
        assert siginfo_value(world.get(info, 128)) == 77

    def test_waits(self, world: World) -> None:
        signals.set_sigmask(world.task, sigbit(SIGUSR1))
        mask = world.put(sigbit(SIGUSR1).to_bytes(8, "little"))
        assert world.call(sys_signal.sys_rt_sigtimedwait, mask, 0, 0, 8) == BLOCKED
        killing.kill(world.task, 2, SIGUSR1)
        assert world.step() == SIGUSR1
        assert world.task.group.signal_wait.is_empty()

    def test_times_out_or_is_interrupted(self, world: World) -> None:
        mask = world.put(sigbit(SIGUSR1).to_bytes(8, "little"))
        zero, second = world.put(pack_timespec(0)), world.put(pack_timespec(1_000_000_000))
        assert world.call(sys_signal.sys_rt_sigtimedwait, mask, 0, zero, 8) == -EAGAIN
        assert world.call(sys_signal.sys_rt_sigtimedwait, mask, 0, second, 8) == BLOCKED
        assert world.expire() == -EAGAIN
        assert world.call(sys_signal.sys_rt_sigtimedwait, mask, 0, second, 8) == BLOCKED
        assert world.interrupt() == -EINTR
        bad = world.put(pack_timespec(0)[:8] + (10**9).to_bytes(8, "little"))
        assert world.call(sys_signal.sys_rt_sigtimedwait, mask, 0, bad, 8) == -EINVAL


class TestQueueInfo:
    def test_only_oneself_may_pose_as_the_kernel(self, world: World) -> None:
        other = world.add_task(3)
        signals.set_sigmask(other, ~0)
        signals.set_sigmask(world.task, ~0)
        raw = world.put(bytes(128))
        assert world.call(sys_signal.sys_rt_sigqueueinfo, 3, SIGUSR1, raw) == -EPERM
        assert world.call(sys_signal.sys_rt_sigqueueinfo, 2, SIGUSR1, raw) == 0
        user = world.put(queued(world.task, SIGUSR1, 5).raw)
        assert world.call(sys_signal.sys_rt_sigqueueinfo, 3, SIGUSR2, user) == 0
        info = signals.dequeue_signal(other, ~0)
        assert info is not None and info.signo == SIGUSR2 and info.raw[0] == SIGUSR2


class TestAltStack:
    def test_set_and_get(self, world: World) -> None:
        new, old = world.put(pack_stack_t(0x40000, 0, 8192)), world.put(bytes(24))
        assert world.call(sys_signal.sys_sigaltstack, new, old) == 0
        assert world.get(old, 24) == pack_stack_t(0, SS_DISABLE, 0)
        assert world.call(sys_signal.sys_sigaltstack, 0, old) == 0
        assert world.get(old, 24) == pack_stack_t(0x40000, 0, 8192)
        small = world.put(pack_stack_t(0x40000, 0, 2047))
        assert world.call(sys_signal.sys_sigaltstack, small, 0) == -ENOMEM
        odd = world.put(pack_stack_t(0x40000, 4, 8192))
        assert world.call(sys_signal.sys_sigaltstack, odd, 0) == -EINVAL

    def test_handler_runs_on_it(self, world: World) -> None:
        new = world.put(pack_stack_t(0x40000, 0, 8192))
        world.call(sys_signal.sys_sigaltstack, new, 0)
        world.handle(SIGUSR1, SA_ONSTACK)
        killing.kill(world.task, 2, SIGUSR1)
        world.interrupted()
        assert 0x40000 < world.thread().regs().rsp <= 0x42000
        assert world.call(sys_signal.sys_sigaltstack, new, 0) == -EPERM
        world.leave_handler()
        assert world.thread().regs().rsp == STACK_TOP

    def test_autodisarm(self, world: World) -> None:
        new = world.put(pack_stack_t(0x40000, SS_AUTODISARM, 8192))
        world.call(sys_signal.sys_sigaltstack, new, 0)
        world.handle(SIGUSR1, SA_ONSTACK)
        killing.kill(world.task, 2, SIGUSR1)
        world.interrupted()
        assert 0x40000 < world.thread().regs().rsp <= 0x42000
        assert world.task.altstack.size == 0
        world.leave_handler()
        stack = world.task.altstack
        assert (stack.sp, stack.size, stack.flags) == (0x40000, 8192, SS_AUTODISARM)


class TestJobControl:
    def test_stop_and_continue(self, world: World) -> None:
        child = world.add_child(3, world.task)
        world.handle(SIGCHLD)
        killing.kill(world.task, 3, SIGSTOP)
        world.interrupted(child)
        group = child.group
        assert group.job.is_stopped and group.job.is_stop_news and group.job.signal == SIGSTOP
        assert world.thread(child).resumed == 0
        info = signals.dequeue_signal(world.task, ~0)
        assert info is not None and (info.signo, info.code) == (SIGCHLD, CLD_STOPPED)
        killing.kill(world.task, 3, SIGUSR1)  # fatal, but not while stopped
        assert group.end.fatal_status == -1 and not child.is_kill_pending
        signals.flush_group(group, ~0)
        killing.kill(world.task, 3, SIGCONT)
        world.settle()
        assert not group.job.is_stopped and group.job.is_continue_news
        assert world.thread(child).resumed == 1
        info = signals.dequeue_signal(world.task, ~0)
        assert info is not None and info.code == CLD_CONTINUED

    def test_a_stopped_call_goes_on_with_its_result(self, world: World) -> None:
        child = world.add_child(3, world.task)
        killing.kill(world.task, 3, SIGSTOP)
        world.run(Returns(17), task=child)
        assert child.is_parked()
        killing.kill(world.task, 3, SIGCONT)
        world.settle()
        assert world.rax(child) == 17

    def test_an_interrupted_call_restarts_after_the_stop(self, world: World) -> None:
        child = world.add_child(3, world.task)
        world.run(sys_signal.sys_pause, nr=34, task=child)
        killing.kill(world.task, 3, SIGSTOP)
        world.settle()
        assert child.is_parked()
        killing.kill(world.task, 3, SIGCONT)
        world.settle()
        regs = world.thread(child).regs()
        assert (regs.rax, regs.rip) == (34, RIP - 2)

    def test_all_threads_stop(self, world: World) -> None:
        first = world.add_child(3, world.task)
        second = world.add_task(4, first.group)
        killing.kill(world.task, 3, SIGSTOP)
        world.interrupted(first)
        assert first.is_parked() and not first.group.job.is_stopped and second.wants_attention
        world.interrupted(second)
        assert first.group.job.is_stopped

    def test_last_running_thread_exits(self, world: World) -> None:
        first = world.add_child(3, world.task)
        second = world.add_task(4, first.group)
        killing.kill(world.task, 3, SIGSTOP)
        world.interrupted(first)
        signals.task_exits(second)
        assert first.group.job.is_stopped

    def test_no_signal_with_nocldstop(self, world: World) -> None:
        world.handle(SIGCHLD, SA_NOCLDSTOP)
        child = world.add_child(3, world.task)
        killing.kill(world.task, 3, SIGSTOP)
        world.interrupted(child)
        assert child.group.job.is_stopped and world.task.group.pending.mask == 0

    def test_terminal_stop_spares_orphans(self, world: World) -> None:
        orphan = world.add_task(3)
        killing.kill(world.task, 3, SIGTSTP)
        world.interrupted(orphan)
        assert not orphan.is_parked()
        killing.kill(world.task, 3, SIGSTOP)
        world.interrupted(orphan)
        assert orphan.is_parked()

    def test_terminal_stop_in_a_job(self, world: World) -> None:
        child = world.add_child(3, world.task)
        world.new_group(child, 3)
        killing.kill(world.task, 3, SIGTSTP)
        world.interrupted(child)
        assert child.group.job.is_stopped and child.group.job.signal == SIGTSTP

    def test_orphaned_stopped_job_is_hung_up(self, world: World) -> None:
        child = world.add_child(3, world.task)
        world.new_group(child, 3)
        world.handle(SIGHUP, task=child)
        killing.kill(world.task, 3, SIGSTOP)
        world.interrupted(child)
        assert child.group.job.is_stopped
        signals.group_exits(world.task.group)
        world.settle()
        assert not child.group.job.is_stopped
        assert world.is_in_handler(child) and world.thread(child).regs().rdi == SIGHUP

    def test_parent_death_signal(self, world: World) -> None:
        child = world.add_child(3, world.task)
        child.pdeath_signal = SIGALRM
        world.kernel.has_pdeath_signals = True
        signals.set_sigmask(child, ~0)
        signals.task_exits(world.task)
        assert child.group.pending.mask == sigbit(SIGALRM)


@pytest.mark.parametrize("awaits_host", [False, True])
def test_a_parent_learns_of_an_end_for_want_of_memory_when_the_host_has_it_back(
    world: World, awaits_host: bool
) -> None:
    child = world.add_child(5, world.task)
    group, process = child.group, child.mm.process
    assert isinstance(process, FakeProcess)
    process.host.events.clear()
    group.end.awaits_host = awaits_host
    signals.kill_at_once(group)
    world.settle()
    assert process.is_killed and not group.tasks
    assert group.end.is_zombie is not awaits_host
    assert killing.kill(world.task, 5, SIGTERM) == 0
    [event] = process.host.events
    assert event[0] == EV_PROCESS_DIED
    loop.process_died(world.kernel, event)
    assert group.end.is_zombie and group.end.status == SIGKILL
    assert world.kernel.late_usage == {}
