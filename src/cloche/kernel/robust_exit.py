"""exit(2) and exit_group(2) of a task with a robust list: its own thread marks the words before it goes."""

from cloche.abi.errno import EFAULT, LinuxError
from cloche.kernel.blocking import BLOCKED, DEAD, TaskBase, end_wait
from cloche.kernel.exit import do_exit, do_group_exit
from cloche.kernel.futex import read_word
from cloche.kernel.futex_change import ORDER, WordChange
from cloche.kernel.futex_exit import RobustList, mark_of
from cloche.kernel.task import Task


class RobustExit(WordChange):
    """Marks one word after the other, then exits."""

    def __init__(self, task: Task, status: int, *, is_group: bool) -> None:
        super().__init__(task, 0, None)
        self.words: RobustList = RobustList(task)
        self.status: int = status
        self.is_group: bool = is_group

    def step(self) -> int:
        """BLOCKED, or the exit's result."""
        task = self.task
        while True:
            addr = self.words.next_word()
            if addr < 0:
                break
            if addr & 3:
                self.words.stop()
                continue
            self.addr, self.tries = addr, 0
            try:
                result = self.look(read_word(task, addr))
            except LinuxError:
                self.words.stop()
                continue
            if result == BLOCKED:
                return BLOCKED
        task.exit_words.robust_list = 0
        if task.blocked is self:
            end_wait(task, self)
        if self.is_group:
            do_group_exit(task.group, self.status)
            return DEAD
        return do_exit(task, self.status)

    def decide(self, value: int) -> int:
        if not self.words.is_mine(self.task, self.addr, value):
            return 0
        self.new = mark_of(value)
        return ORDER

    def changed(self) -> int:
        self.words.marked(self.task, self.addr, self.old)
        return 0

    def retry(self, task: TaskBase) -> int:
        try:
            result = super().retry(task)
        except LinuxError:
            result = -EFAULT
        if result == -EFAULT:
            self.words.stop()
        return BLOCKED if result == BLOCKED else self.step()

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED  # only death ends it


def exit_robustly(task: Task, status: int, *, is_group: bool) -> int:
    """End the thread, or its process, with wait status `status`."""
    return RobustExit(task, status, is_group=is_group).step()
