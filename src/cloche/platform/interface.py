"""The platform: how guest code runs and how the kernel reaches its registers and memory.

Owns the vocabulary between the kernel and the code that executes guest instructions (`systrap`, later `kvm`).
Nothing to the right of this package knows which platform runs.

Order that callers keep:
- A `HostThread` is *stopped* from the moment `next_event` returns an event for it until `resume` or
  `ret` is called.  Registers and `read`/`write` through the slot are valid only while it is stopped.
- `queue_*` orders host operations that the thread executes, in order, when it is next resumed and
  before it returns to guest code. The kernel updates its own area list at the time of queueing. If one fails, the
thread stops again with an `OPS_FAILED` event and the rest is not executed.
- How a call ends: `ret` or `resume` when guest code is to go on, `leave` when the kernel has something to do before
  (a signal, a tracer).  How the platform does that is not visible to the kernel.
- While `process.has_pending_ops()` is true no *other* thread of the same process may be resumed with
  operations (the kernel retries it later): host operations of one address space are serialised.
"""

from collections.abc import Callable  # noqa: I001
from typing import Final

from mypy_extensions import trait

from cloche.abi.structs import pack_stat
from cloche.arch.registers import REG_COUNT as REG_COUNT
from cloche.arch.registers import Registers as Registers
from cloche.arch.syscalls import (
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getpid,
    SYS_getppid,
    SYS_gettid,
    SYS_getuid,
)

# Kinds of events, of prefetch descriptors (Platform.set_prefetch), and how `HostThread.swap` changes a word.
# fmt: off
from cloche.platform.layout import (
    EV_NONE as EV_NONE, EV_SYSCALL as EV_SYSCALL, EV_FAULT as EV_FAULT, EV_INTERRUPTED as EV_INTERRUPTED,
    EV_OPS_FAILED as EV_OPS_FAILED, EV_PROCESS_DIED as EV_PROCESS_DIED, EV_FD as EV_FD,
    EV_STARTED as EV_STARTED, EV_OPS_DONE as EV_OPS_DONE, EV_STALL as EV_STALL, EV_CUT as EV_CUT,
    EV_LEFT as EV_LEFT, EV_FAMILY_DIED as EV_FAMILY_DIED,
    PF_CSTRING as PF_CSTRING, PF_FIXED as PF_FIXED, PF_ARG as PF_ARG, SWAP_SET as SWAP_SET,
    SWAP_ADD as SWAP_ADD, SWAP_OR as SWAP_OR, SWAP_ANDN as SWAP_ANDN, SWAP_XOR as SWAP_XOR,
    STEADY_KEY as STEADY_KEY, SLOW_STORAGE as SLOW_STORAGE,
)
# fmt: on

# The calls of HostThread.set_answers, in order.
ANSWERED: Final = (SYS_getpid, SYS_gettid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid)

_M32: Final = 0xFFFFFFFF

Event = tuple[int, int, int, int, int, int, int, int, int]
NO_EVENT: Final[Event] = (EV_NONE, -1, 0, 0, 0, 0, 0, 0, 0)


def swap_masks(operation: int, operand: int) -> tuple[int, int, int]:
    """A SWAP_* operation (else: to set the operand) as three words (keep, add, flip): old becomes
    ((old & keep) + add) ^ flip."""
    operand &= _M32
    if operation == SWAP_ADD:
        return _M32, operand, 0
    if operation == SWAP_OR:
        return ~operand & _M32, operand, 0
    if operation == SWAP_ANDN:
        return ~operand & _M32, 0, 0
    if operation == SWAP_XOR:
        return _M32, 0, operand
    return 0, operand, 0


def swap_result(operation: int, old: int, operand: int) -> int:
    """The new value of a 32-bit word after a SWAP_* operation."""
    keep, add, flip = swap_masks(operation, operand)
    return ((old & keep) + add & _M32) ^ flip


class PlatformDied(Exception):
    """The platform cannot make processes any more; the text says why."""


class Parking:
    """Counts parked host threads, which wait for a next task. They exist on the host, so limits of tasks have to
    include them.
    """

    def __init__(self) -> None:
        self.count: int = 0
        # processes with parked threads by ident, the longest first
        self.processes: dict[int, HostProcess] = {}

    def release(self) -> bool:
        """Let one of them exit; False if there is none."""
        for process in self.processes.values():
            process.release_parked()
            return True
        return False


@trait
class HostProcess:
    """One guest address space: on systrap a host process."""

    def ident(self) -> int:
        """A number the platform chose for it, never reused in a sandbox."""
        raise NotImplementedError

    def main_thread(self) -> "HostThread":
        """The thread that a blank process is born with (stopped), or that a fork left."""
        raise NotImplementedError

    def is_unborn(self) -> bool:
        """Whether its fork is ordered and not yet carried out: it has no memory to read or write yet."""
        return False

    def read(self, addr: int, length: int) -> bytes:
        """Copy guest memory, fresh at the time of the call.

        Returns what could be read from the start: shorter than `length` where a fault came, empty if at once.
        """
        raise NotImplementedError

    def write(self, addr: int, data: bytes) -> int:
        """Copy into guest memory now; the number of bytes written before a fault (0 if at once)."""
        raise NotImplementedError

    def page_map(self, addr: int, count: int) -> bytes:
        """The entries of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst) for `count` pages from `addr`
        on, eight bytes each and without page frame numbers; fewer, or none, when the platform does not know them.
        """
        return b""

    def touch(self, thread: int, addr: int, length: int) -> None:
        """Have mapped pages of files in memory, for the call of that thread; may take long (platform.slow).

        Pages that cannot be read are skipped.
        """

    def has_pending_ops(self) -> bool:
        """Whether a resumed thread has not yet executed all operations queued on it."""
        raise NotImplementedError

    def rss_bytes(self) -> int:
        """Resident bytes, 0 when unknown."""
        raise NotImplementedError

    def anonymous_bytes(self) -> int:
        """Resident bytes that do not belong to files, 0 when unknown; after a fork, shared pages count for both
        processes.
        """
        return self.rss_bytes()

    def footprint_bytes(self) -> tuple[int, int]:
        """(bytes that the process alone costs the host, page tables and the platform's part included; all resident
        bytes).
        """
        return self.anonymous_bytes(), self.rss_bytes()

    def cpu_times_ns(self) -> tuple[int, int]:
        """User and system CPU time consumed so far."""
        raise NotImplementedError

    def usage(self) -> tuple[int, int, int, int]:
        """The maximal resident size in bytes; minor faults, major faults; involuntary context switches of its first
        thread. 0 when unknown.
        """
        return self.peak_bytes(), 0, 0, 0

    def peak_bytes(self) -> int:
        """The maximal resident size alone, which costs half of `usage`."""
        return self.rss_bytes()

    def pause(self) -> bool:
        """Stop its threads until `proceed`, invisibly for guest code. False: the process does not exist (yet)."""
        return False

    def proceed(self) -> None:
        """Let the threads run again after `pause`."""

    def release_parked(self) -> None:
        """Let one parked host thread exit; only while `Parking.processes` has the process."""

    def kill(self) -> None:
        """End it at once.  EV_PROCESS_DIED follows unless it was reported already."""
        raise NotImplementedError


@trait
class HostThread:
    """One guest thread: on systrap a host thread with its slot."""

    def ident(self) -> int:
        """The thread id that events carry: a small number, reused only after `discard`."""
        raise NotImplementedError

    def process(self) -> HostProcess:
        """The address space it runs in."""
        raise NotImplementedError

    def regs(self) -> Registers:
        """A snapshot of the registers of the stopped thread (after a syscall rax holds the number)."""
        raise NotImplementedError

    def set_regs(self, regs: Registers) -> None:
        """Replace every register; takes effect on resume."""
        raise NotImplementedError

    def fpstate(self) -> bytes:
        """The FP/SSE/AVX state in the layout of a signal frame's fpstate (XSAVE standard format, with
        the software-reserved bytes and FP_XSTATE_MAGIC2)."""
        raise NotImplementedError

    def set_fpstate(self, state: bytes) -> bool:
        """Load it for the next resume; False (and nothing changed) if malformed.  Empty resets to the
        initial state.
        """
        raise NotImplementedError

    def read(self, addr: int, length: int) -> bytes:
        """Like HostProcess.read, but may be served from what the stub prefetched with the request."""
        raise NotImplementedError

    def forget_prefetched(self) -> None:
        """Drop prefetched data, because the memory that the call points to may have changed; `read` then reads it
        afresh.
        """

    def read_cstring(self, addr: int, limit: int) -> bytes | None:
        """Bytes up to (without) the first NUL; None on a fault.  `limit` + 0 bytes without NUL gives
        `limit` bytes.
        """
        raise NotImplementedError

    def write(self, addr: int, data: bytes) -> int:
        """Copy into guest memory before the thread runs guest code again, behind all operations that it carries out.

        May be deferred to the stub: then len(data) is returned and a fault turns the call's result into
        -EFAULT.
        """
        raise NotImplementedError

    def write_stat(
        self,
        addr: int,
        dev: int,
        ino: int,
        nlink: int,
        mode: int,
        uid: int,
        gid: int,
        rdev: int,
        size: int,
        blksize: int,
        blocks: int,
        atime_ns: int,
        mtime_ns: int,
        ctime_ns: int,
    ) -> bool:
        """`write` of a struct stat; whether all of it was."""
        data = pack_stat(
            dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, atime_ns, mtime_ns, ctime_ns
        )
        return self.write(addr, data) == len(data)

    def read_fd_into(self, fd: int, offset: int, addr: int, length: int, flags: int, key: int) -> int:
        """pread (offset >= 0) or read (offset -1) from a host descriptor into guest memory; bytes or -errno.

        `flags` are preadv2's (RWF_NOWAIT). `key`, unless 0, identifies a file that the sandbox cannot change: the
        platform may map it beside guests that read much of it (a window). With STEADY (mm.content) the file is known
        to be long enough for the read.
        """
        raise NotImplementedError

    def write_fd_from(self, fd: int, offset: int, addr: int, length: int, flags: int) -> int:
        """pwrite or write to a host descriptor from guest memory; bytes or -errno."""
        raise NotImplementedError

    def queue_mmap(self, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> None:
        """mmap; `flags` must contain MAP_FIXED.  `fd` is a descriptor of the sentry (donated for this one
        mapping; the caller keeps it open until the pending operations are done: the platform dups it) or
        -1.
        """
        raise NotImplementedError

    def queue_munmap(self, addr: int, length: int) -> None:
        raise NotImplementedError

    def queue_mprotect(self, addr: int, length: int, prot: int) -> None:
        raise NotImplementedError

    def queue_mremap(self, old: int, old_length: int, new_length: int, flags: int, new: int) -> None:
        """mremap; `flags` contains MREMAP_FIXED whenever the area moves."""
        raise NotImplementedError

    def queue_madvise(self, addr: int, length: int, advice: int) -> None:
        raise NotImplementedError

    def queue_keep_only(self, identities: list[int]) -> None:
        """Order that no descriptors stay with the process but those of the files given (device and inode number of each
        in turn, as the host has them) and of those that the queued operations map.
        """
        raise NotImplementedError

    def queue_fork(self) -> HostProcess:
        """Order a copy-on-write fork of the process, executed on resume.

        The child's main thread starts from this thread's registers as they are now, with rax = 0; change them
        through `child.main_thread().set_regs` before resuming the parent.  EV_STARTED reports the adoption.
        """
        raise NotImplementedError

    def queue_clone_thread(self) -> "HostThread":
        """Order a new thread in this process; it starts with the registers set by set_regs on the result (all
        of this thread's, rax = 0, until then) and this thread's FP state.  Raises LinuxError(EAGAIN) when the
        process has as many as it can have."""
        raise NotImplementedError

    def cancel_clone(self, born: "HostThread") -> None:
        """Undo `queue_fork` or `queue_clone_thread`, and all other operations queued on this stopped thread, before
        its resume. `born` is the thread that is not made; it must not be used again.
        """
        raise NotImplementedError

    def wait_long(self) -> None:
        """A hint: the stopped thread will not be resumed soon."""

    def park(self, parking: "Parking") -> bool:
        """Give the stopped thread up but keep its host thread, for `queue_clone_thread` to use again. False: not
        possible; then use queue_exit, resume and discard. Like `discard`, it is the last call. `parking` counts it
        until it is used again, released, or its process is gone.
        """
        return False

    def queue_exit(self) -> None:
        """Order this host thread's own exit (the process lives on).  Call resume afterwards; no event
        follows.
        """
        raise NotImplementedError

    def ret(self, value: int) -> None:
        """Set rax, execute the queued operations and run guest code."""
        raise NotImplementedError

    def resume(self) -> None:
        """Execute the queued operations and run guest code with the registers as they are."""
        raise NotImplementedError

    def run_ops(self) -> None:
        """Execute the queued operations (and deferred writes), then stop again with EV_OPS_DONE instead of
        running guest code.

        Before it only EV_OPS_FAILED or EV_CUT can come from the thread: a guest that forges another event is killed,
        because the task may be waiting in a call.

        Used by execve: the new image's areas are mapped first, then filled with `process.write`.
        """
        raise NotImplementedError

    def can_swap(self) -> bool:
        """Whether the platform has `swap`."""
        return False

    def swap(self, addr: int, old: int, new: int, operation: int = 0) -> None:
        """As run_ops, then have the thread replace the aligned 32-bit word at `addr` by `new` if it is `old`.

        With a SWAP_* operation, `new` is its operand and `old` only a guess: the word is changed in any case. The
        change is atomic for every thread that uses that memory. EV_OPS_DONE follows.
        """
        raise NotImplementedError

    def swapped(self) -> int:
        """After EV_OPS_DONE: the unsigned value that `swap` found, -1 if it could not access the word.

        It is the guest's own claim about its own memory.
        """
        raise NotImplementedError

    def has_all_registers(self) -> bool:
        """Whether `set_regs`, `fpstate`, `set_fpstate` and the forks are possible in this stop; `regs` always is.

        They are in every stop but a system call that came by a short way (set_patched, set_patched_calls).
        """
        return True

    def has_orders(self) -> bool:
        """Whether the stopped thread has operations, or reads of files, to carry out before it goes on.

        Until it has gone on, other threads may rely on operations that were not carried out yet: do not leave it so.
        """
        return False

    def leave(self, value: int) -> bool:
        """The call is over with `value`, but the kernel has something to do before guest code runs.

        True: the thread is stopped with all registers (rax is not `value` yet), and nothing is ordered: the kernel
        can act now. False: the thread first carries out what is ordered, and stops behind the call with EV_LEFT. Its
        registers are then those behind the call, and the event has the result: `value`, or -EFAULT where deferred
        writes failed. EV_OPS_FAILED, EV_CUT or EV_FAULT may come instead.
        """
        raise NotImplementedError

    def leave_as_is(self) -> bool:
        """`leave` for a thread whose registers are already those with which the guest is to go on; EV_LEFT has 0."""
        raise NotImplementedError

    def set_patched(self, is_on: bool) -> None:
        """Whether the thread, from its next resume on, may stop in calls without `has_all_registers`."""

    def set_answers(self, is_valid: bool, values: list[int]) -> None:
        """The results of the calls ANSWERED, in order, which the platform may give without asking the kernel; not
        valid: it must ask.
        """

    def interrupt(self) -> None:
        """Make a running thread stop soon with EV_INTERRUPTED (or with another event that comes first)."""
        raise NotImplementedError

    def is_running(self) -> bool:
        """Whether it runs guest code (or was told to and has not stopped)."""
        raise NotImplementedError

    def cpu_times_ns(self) -> tuple[int, int]:
        """User and system CPU time of this thread, (-1, -1) if the platform cannot tell."""
        return -1, -1

    def usage(self) -> tuple[int, int, int]:
        """Minor faults, major faults and involuntary context switches of this host thread."""
        return 0, 0, 0

    def discard(self) -> None:
        """The kernel will not use this thread again (after queue_exit + resume, or when its process died)."""
        raise NotImplementedError


class HostNeeds:
    """The parts of the host that a prepared platform still needs; the code that confines the process leaves it."""

    def __init__(self, executables: list[int] | None = None, proc_fd: int = -1) -> None:
        self.executables: list[int] = executables or []  # descriptors of files that `start` executes
        # of a procfs below which files are read while guests run, -1 if none is needed
        self.proc_fd: int = proc_fd


class Call:
    """The number and the six arguments of a system call, as signed 64-bit integers."""

    def __init__(self) -> None:
        # Only these fields, next to each other in memory: a platform may fill them from C (systrap.py).
        self.nr: int = 0
        self.a0: int = 0
        self.a1: int = 0
        self.a2: int = 0
        self.a3: int = 0
        self.a4: int = 0
        self.a5: int = 0

    def take(self, event: Event) -> None:
        """Take the fields of an EV_SYSCALL."""
        self.nr = event[2]
        self.a0 = event[3]
        self.a1 = event[4]
        self.a2 = event[5]
        self.a3 = event[6]
        self.a4 = event[7]
        self.a5 = event[8]

    def event(self, thread: int) -> Event:
        """This call as an event of that thread."""
        return (EV_SYSCALL, thread, self.nr, self.a0, self.a1, self.a2, self.a3, self.a4, self.a5)


class Platform:
    """A platform; boot creates one per sandbox (`choose.py`).

    Order: `prepare`; then the caller may confine itself, but keeps what the result names; `start`; then it may bound
    its memory and filter its own system calls; guests; `shutdown`. Each platform decides what it does in which of the
    first two steps.
    """

    def __init__(self) -> None:
        self.call: Call = Call()  # the system call that `next_call` has returned
        self.event: Event = NO_EVENT  # any other event

    def prepare(self) -> HostNeeds:
        """Check the host, and open what `start` needs of it.  Raises OSError with a clear message."""
        return HostNeeds()

    def take_device(self, fd: int) -> None:
        """Before `prepare`: the device that it needs, opened by a process with the right to do so. The platform
        closes it.
        """
        raise NotImplementedError

    def is_patching(self) -> bool:
        """Whether programs are to be mapped with patched text, from which calls come without a trap."""
        return False

    def hot_identity(self, fd: int, family: int = 0) -> tuple[int, int] | None:
        """(device, inode number) of a host file whose descriptor new processes of the family may inherit, else None."""
        return None

    def own_bytes(self) -> int:
        """The resident bytes of this process that it does not share with guests, 0 where that is not known."""
        return 0

    def summary(self) -> list[str]:
        """Lines about how guests ran, at the end; for diagnosis."""
        return []

    def own_data_bytes(self) -> int:
        """The bytes of this process that RLIMIT_DATA counts, 0 where that is not known."""
        return 0

    def start(self) -> None:
        """Get ready to run guests; calls `prepare` if the caller has not. Raises OSError with a clear message."""
        raise NotImplementedError

    def new_process(self, family: int = 0) -> HostProcess:
        """A blank process: nothing of the guest is mapped; its main thread is stopped.

        Raises OSError, PlatformDied.
        """
        raise NotImplementedError

    def new_family(self) -> tuple[int, int]:
        """A further family of processes, for which the host can account separately. Returns its number, and the pid
        of the host process from which its processes will be forked, or 0. The first family is number 0. Raises
        OSError, PlatformDied.

        When that host process dies, EV_FAMILY_DIED says so; the first family's death is the platform's.
        """
        return 0, 0

    def drop_family(self, family: int) -> None:
        """Release everything of a family; all its processes have ended, or are about to."""

    def thread(self, ident: int) -> HostThread:
        """The thread with that id."""
        raise NotImplementedError

    def next_event(self, timeout_ns: int, deadline_ns: int = -1) -> Event:
        """The next event; waits at most `timeout_ns` (0: look only).

        -1: until CLOCK_MONOTONIC is `deadline_ns`, or for ever if that is -1, too; the clock is not looked at while
        there are events.  Raises PlatformDied.
        """
        raise NotImplementedError

    def next_call(self, timeout_ns: int, deadline_ns: int = -1) -> int:
        """`next_event` for the loop: the thread whose system call is in `call` until the next one; -1: see `event`."""
        event = self.next_event(timeout_ns, deadline_ns)
        if event[0] != EV_SYSCALL:
            self.event = event
            return -1
        self.call.take(event)
        return event[1]

    def set_meter(self, wall_ns: int, cpu_ns: int) -> None:
        """Report as EV_STALL when from a return of next_event to its next call more than `wall_ns` has passed.

        And, unless `cpu_ns` is 0, this thread has used more processor time than that.
        """

    def open_lanes(self, bell_fd: int, came_back: Callable[[int], None]) -> bool:
        """Prepare for several lanes (kernel.lanes); False if the platform cannot.

        `bell_fd`, an eventfd, is written when the host call of a lane that is away is over. `came_back` is called
        with the lane's number when it has the turn again, in the middle of that call, and may raise.
        """
        return False

    def stand_by(self, *, is_new: bool = False) -> tuple[int, int]:
        """Give the turn to a lane whose host call is over, and wait for the turn.

        Returns the lane from which the turn was then taken, and the guest thread of its call. (-1, -1): no lane was
        back, or the turn was given back at the end. `is_new`: the calling thread becomes a lane.
        """
        return -1, -1

    def leave_to_first(self) -> None:
        """At the end: give the turn to the first lane, and never return, unless that is away."""

    def lane_begins(self) -> None:
        """Another lane has the turn now: drop the measurements of the previous one."""

    def add_fd(self, fd: int, token: int, events: int) -> None:
        """Report readiness (EPOLL* bits, level-triggered) of a host descriptor as EV_FD with `token`.

        A token is below 2**40 and never used for another descriptor, because an event may still come after `remove_fd`.
        """
        raise NotImplementedError

    def modify_fd(self, fd: int, token: int, events: int) -> None:
        raise NotImplementedError

    def remove_fd(self, fd: int) -> None:
        raise NotImplementedError

    def overdue(self) -> list[HostProcess]:
        """Processes that have owed an answer (to an interrupt, an operation, a fork) for too long: kill them."""
        return []

    def set_prefetch(self, nr: int, descriptors: list[tuple[int, int, int, int, int]]) -> None:
        """A hint: which arguments to copy along with system call `nr`, so that reading them costs nothing.

        Up to three of (kind, argument, count argument, value, cap).  PF_CSTRING: a string of at most `value`
        bytes; PF_FIXED: `value` bytes; PF_ARG: argument `count argument` times `value` bytes, not at all if
        more than `cap`.
        """

    def set_patched_calls(self, numbers: list[int]) -> None:
        """Set the calls that may come without `has_all_registers`, once per sandbox; none until then."""

    def swap_shared(self, fd: int, offset: int, old: int, new: int) -> int:
        """Replace the 32-bit word at `offset` of a memfd by `new` if it is `old`, atomically for every thread that
        maps it.

        Returns the unsigned word that was found there, -1 if the platform cannot do it. Only for memory whose size
        cannot change meanwhile.
        """
        return -1

    def barrier(self) -> bool:
        """Make every guest thread that runs execute a full memory barrier, now; False if the host cannot."""
        return False

    def min_address(self) -> int:
        """The lowest address a guest may map."""
        raise NotImplementedError

    def max_address(self) -> int:
        """One past the highest address a guest may map (TASK_SIZE of the guest)."""
        raise NotImplementedError

    def vdso(self) -> tuple[int, int]:
        """Address and length of the [vdso] (with [vvar] below it mapped by the host); (0, 0) if none."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Kill every guest process and reap them."""
        raise NotImplementedError
