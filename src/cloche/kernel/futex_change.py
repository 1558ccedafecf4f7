"""Changes of futex words by the kernel, atomic with respect to threads that run meanwhile (futex_cmpxchg_value_locked).

Owns `WordChange`: a call that reads a word, decides on its new value, and continues once the word has that. The
change is one `lock cmpxchg` by the stub of the calling thread, which is stopped in its call. So it works on any
memory that the thread has mapped, private or shared, and a fault is the thread's own. The sentry cannot do it:
between its read and its write (process_vm_readv, process_vm_writev) a guest's unlock would be lost. Where no other
thread can run on the memory, these two calls are enough, and cheaper.

The thread's answer is its claim about its own memory. It is trusted: with a lie it could do no more than by writing
the word itself, which all who share the memory can. The sentry's own state changes as if the word had. While a change
is under way no other of the same key begins (`FutexTable.changing`; others wait, and can be interrupted), so the
decision is still valid when the change has happened. Only processes that share the memory can delay each other in
this way, and a change whose task has died, or does something else, does not count any more.
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EFAULT, ERESTARTNOINTR, ESRCH, LinuxError
from cloche.kernel.blocking import BLOCKED, TaskBase, also_wait, block_on, block_on_time
from cloche.kernel.futex import CMP_RETRIES, FutexOp, Key, compare_exchange, futex_table, read_word
from cloche.kernel.phase import WORKING
from cloche.kernel.task import Task
from cloche.vfs.waitqueue import WaitQueue

ORDER: Final = -(1 << 41)  # what `decide` returns after it has set `new`


def is_alone(task: Task) -> bool:
    """Whether no other guest thread can run on the private memory of `task`, which is stopped."""
    return task.mm.users == 1 or not task.thread.can_swap()


class WordChange(FutexOp):
    """A call that changes a word: `decide` chooses the new value, `changed` continues after the change."""

    def __init__(self, task: Task, addr: int, key: Key | None, deadline_ns: int = -1) -> None:
        super().__init__(task, deadline_ns)
        self.addr: int = addr
        self.key: Key | None = key  # None: it does not exclude other changes
        self.old: int = 0
        self.new: int = 0
        self.operation: int = 0  # SWAP_*, with `operand`: a change that does not depend on the old value
        self.operand: int = 0
        self.is_ordered: bool = False  # the thread has been told to make the change
        self.tries: int = 0
        self.queue: WaitQueue = WaitQueue()  # changes of the same key that wait for this one

    def decide(self, value: int) -> int:
        """Decide for a word of `value`.

        Returns ORDER, with `new` set, or the call's result (BLOCKED if it waits for something else). Raises LinuxError.
        """
        raise NotImplementedError

    def changed(self) -> int:
        """The word has changed from `old` to `new`. Returns the call's result."""
        raise NotImplementedError

    def undecided(self) -> None:
        """The word had another value: discard what `decide` has noted."""

    def wake(self, index: int) -> None:
        raise AssertionError("plain operations leave it alone")

    def start(self) -> int:
        """The call's result, or BLOCKED.  Raises LinuxError."""
        holder = self._holder()
        if holder is not None:
            return block_on(self.task, self, holder.queue)
        return self.look(read_word(self.task, self.addr))

    def _holder(self) -> "WordChange | None":
        """Another change of the word that is under way."""
        key = self.key
        if key is None:
            return None
        changing = futex_table(self.task.kernel).changing
        found = changing.get(key)
        if not isinstance(found, WordChange) or found is self:
            return None
        if found.is_ordered and found.task.blocked is found and not found.task.is_exited:
            return found
        del changing[key]
        return None

    def look(self, value: int) -> int:
        """Decide for a word of `value`, and order the change or make it."""
        task = self.task
        while self.tries < CMP_RETRIES:
            self.tries += 1
            result = self.decide(value)
            if result != ORDER:
                return result
            self.old = value
            if self.is_private() and is_alone(task):
                if compare_exchange(task, self.addr, value, self.new):
                    return self.changed()
                self.undecided()
                value = read_word(task, self.addr)
                continue
            if not task.thread.can_swap():
                raise LinuxError(EAGAIN)
            self.is_ordered = True
            if self.key is not None:
                futex_table(task.kernel).changing[self.key] = self
            block_on_time(task, self)
            task.enter(WORKING)
            if self.operation:
                task.thread.swap(self.addr, value, self.operand, self.operation)
            else:
                task.thread.swap(self.addr, value, self.new)
            return BLOCKED
        return -EAGAIN

    def is_private(self) -> bool:
        """Whether only this address space has the word."""
        area = self.task.mm.find(self.addr)
        return not self.task.thread.can_swap() or area is None or not area.is_shared()

    def release(self) -> None:
        """The change is over: let the next one begin."""
        if not self.is_ordered:
            return
        self.is_ordered = False
        if self.key is not None:
            changing = futex_table(self.task.kernel).changing
            if changing.get(self.key) is self:
                del changing[self.key]
            self.queue.wake()

    def again(self) -> int:
        """Try again, for a blocked call: look at the word if no other change is under way."""
        holder = self._holder()
        if holder is not None:
            if holder.queue not in self.queues:
                also_wait(self.task, self, holder.queue)
            return BLOCKED
        return self.look(read_word(self.task, self.addr))

    def unless_changed(self, result: int) -> int:
        """For `changed`, when the owner has died: if the word has changed since, the owner released the lock before
        its death, which the kernel learned of too late (handle_exit_race).
        """
        if result != -ESRCH or read_word(self.task, self.addr) == self.new:
            return result
        self.undecided()
        return self.again()

    def retry(self, task: TaskBase) -> int:
        """The thread has answered, or another change is over."""
        if not self.is_ordered:
            return self.again()
        if self.task.phase == WORKING:
            return BLOCKED
        found = self.task.thread.swapped()
        self.release()
        if found < 0:
            self.undecided()
            return -EFAULT
        if self.operation:
            self.old = found
            return self.changed()
        if found == self.old:
            return self.changed()
        self.undecided()
        return self.look(found)

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED if self.is_ordered else -ERESTARTNOINTR

    def finished(self, task: TaskBase) -> None:
        if self.is_ordered:
            self.undecided()
        self.release()
