"""prctl(2) and arch_prctl(2): attributes of a task that have no call of their own.

Options that Linux 6.12 has on x86-64 and this kernel does not implement give EINVAL, as in a kernel built without them.
"""

from typing import Final

from cloche.abi import prctl as pr
from cloche.abi.capability import CAP_FULL_SET, CAP_SYS_RESOURCE
from cloche.abi.errno import (
    EACCES,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOMEM,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    LinuxError,
)
from cloche.abi.limits import TASK_SIZE_MAX
from cloche.abi.structs import unpack_u64
from cloche.kernel import creds
from cloche.kernel.access import find_task
from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.task import Task
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import Area, AreaChange
from cloche.syscalls.long_mm import RangeWork
from cloche.syscalls.sys_seccomp import prctl_set_seccomp

SAVED_AUXV_BYTES: Final = 416  # sizeof(mm->saved_auxv) of 6.12 on x86-64
MM_MAP_BYTES: Final = 104  # sizeof(struct prctl_mm_map)
ANON_NAME_LIMIT: Final = 80
_NAME_REFUSED: Final = b"\\`$[]"
XFEATURE_LIMIT: Final = 19
_SW_BYTES_AT: Final = 464  # struct _fpx_sw_bytes in the 512-byte legacy area
_DYNAMIC_XFEATURES: Final = 1 << 18


def sys_prctl(task: Task, args: Args) -> int:
    """prctl(2)."""
    option = to_i32(args.a0)
    a1, a2, a3, a4 = to_u64(args.a1), to_u64(args.a2), to_u64(args.a3), to_u64(args.a4)
    if option == pr.PR_SET_NAME:
        task.comm = _read_name(task, a1)
        return 0
    if option == pr.PR_GET_NAME:
        task.user_memory().write(a1, task.comm[:15].ljust(16, b"\0"))
        return 0
    if option in _CREDENTIAL_OPTIONS:
        return _credentials(task, option, a1, a2, a3, a4)
    if option in _MEMORY_OPTIONS:
        return _memory(task, option, a1, a2, a3, a4)
    return _process(task, option, a1, a2, a3, a4)


def _read_name(task: Task, address: int) -> bytes:
    """Up to 15 bytes before a NUL (strncpy_from_user)."""
    raw = task.user_memory().read_some(address, 15)
    end = raw.find(b"\0")
    if end >= 0:
        return raw[:end]
    if len(raw) < 15:
        raise LinuxError(EFAULT)
    return raw


_CREDENTIAL_OPTIONS: Final = frozenset(
    {
        pr.PR_CAPBSET_READ,
        pr.PR_CAPBSET_DROP,
        pr.PR_GET_SECUREBITS,
        pr.PR_SET_SECUREBITS,
        pr.PR_GET_KEEPCAPS,
        pr.PR_SET_KEEPCAPS,
        pr.PR_CAP_AMBIENT,
        pr.PR_SET_NO_NEW_PRIVS,
        pr.PR_GET_NO_NEW_PRIVS,
    }
)


def _credentials(task: Task, option: int, a1: int, a2: int, a3: int, a4: int) -> int:
    """Options on capabilities (cap_task_prctl)."""
    if option == pr.PR_CAPBSET_READ:
        return (task.creds.cap_bounding >> a1) & 1 if creds.cap_is_valid(a1) else -EINVAL
    if option == pr.PR_CAPBSET_DROP:
        creds.drop_bounding(task, a1)
    elif option == pr.PR_GET_SECUREBITS:
        return creds.securebits(task.creds)
    elif option == pr.PR_SET_SECUREBITS:
        creds.set_securebits(task, a1)
    elif option == pr.PR_GET_KEEPCAPS:
        return 1 if task.creds.keep_caps else 0
    elif option == pr.PR_SET_KEEPCAPS:
        creds.set_keep_caps(task, a1)
    elif option == pr.PR_CAP_AMBIENT:
        return _ambient(task, a1, a2, a3, a4)
    elif option == pr.PR_SET_NO_NEW_PRIVS:
        if a1 != 1 or a2 or a3 or a4:
            return -EINVAL
        creds.set_no_new_privs(task)
    else:
        return -EINVAL if a1 or a2 or a3 or a4 else int(task.creds.no_new_privs)
    return 0


def _ambient(task: Task, operation: int, cap: int, a3: int, a4: int) -> int:
    """PR_CAP_AMBIENT."""
    if operation == pr.PR_CAP_AMBIENT_CLEAR_ALL:
        if cap or a3 or a4:
            return -EINVAL
        creds.lower_ambient(task, CAP_FULL_SET)
        return 0
    if not creds.cap_is_valid(cap) or a3 or a4:
        return -EINVAL
    if operation == pr.PR_CAP_AMBIENT_IS_SET:
        return (task.creds.cap_ambient >> cap) & 1
    if operation == pr.PR_CAP_AMBIENT_RAISE:
        creds.raise_ambient(task, cap)
    elif operation == pr.PR_CAP_AMBIENT_LOWER:
        creds.lower_ambient(task, 1 << cap)
    else:
        return -EINVAL
    return 0


_MEMORY_OPTIONS: Final = frozenset(
    {
        pr.PR_SET_MM,
        pr.PR_SET_VMA,
        pr.PR_GET_AUXV,
        pr.PR_SET_THP_DISABLE,
        pr.PR_GET_THP_DISABLE,
        pr.PR_SET_MDWE,
        pr.PR_GET_MDWE,
        pr.PR_SET_MEMORY_MERGE,
        pr.PR_GET_MEMORY_MERGE,
    }
)


def _memory(task: Task, option: int, a1: int, a2: int, a3: int, a4: int) -> int:
    """Options on the address space."""
    if option == pr.PR_SET_MM:
        return _set_mm(task, a1, a2, a3, a4)
    if option == pr.PR_SET_VMA:
        return _set_vma_name(task, a2, a3, a4) if a1 == pr.PR_SET_VMA_ANON_NAME else -EINVAL
    if option == pr.PR_GET_AUXV:
        if a3 or a4:
            return -EINVAL
        saved = task.mm.auxv[:SAVED_AUXV_BYTES].ljust(SAVED_AUXV_BYTES, b"\0")
        task.user_memory().write(a1, saved[:a2])
        return SAVED_AUXV_BYTES
    if option == pr.PR_GET_MDWE:
        return -EINVAL if a1 or a2 or a3 or a4 else task.mm.mdwe
    if option == pr.PR_SET_MDWE:
        return -EINVAL if a2 or a3 or a4 else _set_mdwe(task, a1)
    if option == pr.PR_GET_MEMORY_MERGE:
        return -EINVAL if a1 or a2 or a3 or a4 else int(task.mm.is_mergeable)
    if option == pr.PR_SET_MEMORY_MERGE:
        if a2 or a3 or a4:
            return -EINVAL
        task.mm.is_mergeable = a1 != 0
        return 0
    if option == pr.PR_GET_THP_DISABLE:
        return -EINVAL if a1 or a2 or a3 or a4 else int(task.mm.is_thp_disabled)
    if a2 or a3 or a4:
        return -EINVAL
    task.mm.is_thp_disabled = a1 != 0
    return 0


def _set_mdwe(task: Task, bits: int) -> int:
    """PR_SET_MDWE: once and for all, for this program."""
    if bits & ~(pr.PR_MDWE_REFUSE_EXEC_GAIN | pr.PR_MDWE_NO_INHERIT):
        return -EINVAL
    if bits & pr.PR_MDWE_NO_INHERIT and not bits & pr.PR_MDWE_REFUSE_EXEC_GAIN:
        return -EINVAL
    mm = task.mm
    if mm.mdwe and bits != mm.mdwe:
        return -EPERM
    mm.mdwe = bits
    return 0


def _set_mce_kill(task: Task, what: int, policy: int, a3: int, a4: int) -> int:
    """PR_MCE_KILL: when a process is told of broken memory. Stored only: the host tells a guest when it accesses the
    memory.
    """
    if a3 or a4:
        return -EINVAL
    if what == pr.PR_MCE_KILL_CLEAR and not policy:
        task.sched.mce_kill = pr.PR_MCE_KILL_DEFAULT
    elif what == pr.PR_MCE_KILL_SET and policy <= pr.PR_MCE_KILL_DEFAULT:
        task.sched.mce_kill = policy
    else:
        return -EINVAL
    return 0


def _set_mm(task: Task, what: int, address: int, a3: int, a4: int) -> int:
    """PR_SET_MM: the marks that /proc/PID shows; the executable and the vector stay."""
    is_array = what in (pr.PR_SET_MM_AUXV, pr.PR_SET_MM_MAP, pr.PR_SET_MM_MAP_SIZE)
    if a4 or (a3 and not is_array):
        return -EINVAL
    if what == pr.PR_SET_MM_MAP_SIZE:
        task.user_memory().write_u32(address, MM_MAP_BYTES)
        return 0
    if what == pr.PR_SET_MM_MAP:
        return -EINVAL
    if not task.creds.capable(CAP_SYS_RESOURCE):
        return -EPERM
    mm = task.mm
    if address >= TASK_SIZE_MAX or mm.find(address) is None:
        return -EINVAL
    if what == pr.PR_SET_MM_START_CODE:
        mm.start_code = address
    elif what == pr.PR_SET_MM_END_CODE:
        mm.end_code = address
    elif what == pr.PR_SET_MM_START_DATA:
        mm.start_data = address
    elif what == pr.PR_SET_MM_END_DATA:
        mm.end_data = address
    elif what == pr.PR_SET_MM_START_STACK:
        mm.start_stack = address
    elif what == pr.PR_SET_MM_ARG_START:
        mm.arg_start = address
    elif what == pr.PR_SET_MM_ARG_END:
        mm.arg_end = address
    elif what == pr.PR_SET_MM_ENV_START:
        mm.env_start = address
    elif what == pr.PR_SET_MM_ENV_END:
        mm.env_end = address
    else:
        return -EINVAL
    return 0


class SetName(AreaChange):
    """Sets the name of private anonymous memory in /proc/PID/maps."""

    def __init__(self, name: bytes) -> None:
        self.name: bytes = name

    def apply(self, area: Area) -> None:
        area.name = self.name


class Naming(RangeWork):
    """PR_SET_VMA_ANON_NAME: up to the first mapped file; holes are skipped, and reported at the end."""

    def __init__(self, mm: AddressSpace, start: int, end: int, name: bytes) -> None:
        super().__init__(mm, start, end)
        self.change: SetName = SetName(name)
        self.has_hole: bool = False

    def some(self, task: Task) -> None:
        stop, has_hole, error = self.mm.anonymous_some(self.at, self.end)
        if stop > self.at:
            self.mm.change_some(self.at, stop, self.change)
        if error:
            raise LinuxError(error)
        self.at = stop
        self.has_hole = self.has_hole or has_hole

    def result(self, task: Task) -> int:
        return -ENOMEM if self.has_hole else 0


def _set_vma_name(task: Task, start: int, length: int, name_at: int) -> int:
    """PR_SET_VMA_ANON_NAME."""
    label = b""
    if name_at:
        text = task.user_memory().read_cstring(name_at, 4096)
        if len(text) >= ANON_NAME_LIMIT:
            return -EINVAL
        for byte in text:
            if not 32 <= byte < 127 or byte in _NAME_REFUSED:
                return -EINVAL
        label = b"[anon:" + text + b"]"
    if start & 4095:
        return -EINVAL
    size = (length + 4095) & ~4095
    if size >= 1 << 64 or start + size >= 1 << 64:
        return -EINVAL
    return Naming(task.mm, start, start + size, label).retry(task)


def _set_ptracer(task: Task, value: int) -> int:
    """PR_SET_PTRACER (Yama): who else may attach while kernel.yama.ptrace_scope is 1."""
    chosen = to_i32(value)
    if chosen not in (0, -1):
        found = find_task(task, chosen)
        if found is None:
            return -EINVAL
        chosen = found.group.tgid
    task.group.declared_tracer = chosen
    return 0


def _process(task: Task, option: int, a1: int, a2: int, a3: int, a4: int) -> int:
    """The other options."""
    group = task.group
    mem = task.user_memory()
    if option == pr.PR_SET_PDEATHSIG:
        if a1 > 64:
            return -EINVAL
        task.pdeath_signal = a1
        task.kernel.has_pdeath_signals = True
    elif option == pr.PR_GET_PDEATHSIG:
        mem.write_i32(a1, task.pdeath_signal)
    elif option == pr.PR_GET_DUMPABLE:
        return 1 if group.is_dumpable else 0
    elif option == pr.PR_SET_DUMPABLE:
        if a1 > 1:
            return -EINVAL
        group.is_dumpable = a1 == 1
    elif option == pr.PR_SET_PTRACER:
        return _set_ptracer(task, a1)
    elif option == pr.PR_GET_TIMING:
        return pr.PR_TIMING_STATISTICAL
    elif option == pr.PR_SET_TIMING:
        return 0 if a1 == pr.PR_TIMING_STATISTICAL else -EINVAL
    elif option == pr.PR_GET_TSC:
        mem.write_i32(a1, pr.PR_TSC_ENABLE)
    elif option == pr.PR_SET_TSC:
        # PR_TSC_SIGSEGV is refused as Linux refuses an unknown value, or on a machine without the bit in CR4. It
        # could be set for the guest's host thread, but the stub reads the counter on that thread.
        return 0 if a1 == pr.PR_TSC_ENABLE else -EINVAL
    elif option == pr.PR_TASK_PERF_EVENTS_DISABLE or option == pr.PR_TASK_PERF_EVENTS_ENABLE:
        return 0  # a task here never has any
    elif option == pr.PR_GET_TIMERSLACK:
        return task.sched.timer_slack_ns
    elif option == pr.PR_SET_TIMERSLACK:
        task.sched.timer_slack_ns = a1 if 0 < a1 < 1 << 63 else task.sched.default_timer_slack_ns
    elif option == pr.PR_MCE_KILL_GET:
        return -EINVAL if a1 or a2 or a3 or a4 else task.sched.mce_kill
    elif option == pr.PR_MCE_KILL:
        return _set_mce_kill(task, a1, a2, a3, a4)
    elif option == pr.PR_GET_TID_ADDRESS:
        mem.write_u64(a1, task.exit_words.clear_child_tid)
    elif option == pr.PR_SET_CHILD_SUBREAPER:
        group.is_subreaper = a1 != 0
    elif option == pr.PR_GET_CHILD_SUBREAPER:
        mem.write_i32(a1, int(group.is_subreaper))
    elif option == pr.PR_GET_SPECULATION_CTRL or option == pr.PR_SET_SPECULATION_CTRL:
        return _speculation(option, a1, a2, a3, a4)
    elif option == pr.PR_SET_SYSCALL_USER_DISPATCH:
        return 0 if a1 == pr.PR_SYS_DISPATCH_OFF and not (a2 or a3 or a4) else -EINVAL
    elif option == pr.PR_GET_SECCOMP:
        return task.seccomp.mode
    elif option == pr.PR_SET_SECCOMP:
        return prctl_set_seccomp(task, a1, a2)
    elif option in (pr.PR_SET_IO_FLUSHER, pr.PR_GET_IO_FLUSHER) and not task.creds.capable(CAP_SYS_RESOURCE):
        return -EPERM
    else:
        return -EINVAL
    return 0


def _speculation(option: int, which: int, a2: int, a3: int, a4: int) -> int:
    """Mitigations are the host's: reported as enabled speculation that cannot be controlled from here."""
    is_get = option == pr.PR_GET_SPECULATION_CTRL
    if a3 or a4 or (is_get and a2):
        return -EINVAL
    if which not in (pr.PR_SPEC_STORE_BYPASS, pr.PR_SPEC_INDIRECT_BRANCH):
        return -ENODEV
    if is_get:
        return pr.PR_SPEC_ENABLE
    is_known = a2 in (pr.PR_SPEC_ENABLE, pr.PR_SPEC_DISABLE, pr.PR_SPEC_FORCE_DISABLE)
    return -ERANGE if which == pr.PR_SPEC_INDIRECT_BRANCH and not is_known else -ENXIO


def sys_arch_prctl(task: Task, args: Args) -> int:
    """arch_prctl(2)."""
    code, address = to_i32(args.a0), to_u64(args.a1)
    mem = task.user_memory()
    if code == pr.ARCH_SET_FS or code == pr.ARCH_SET_GS:
        if address >= TASK_SIZE_MAX:
            return -EPERM
        regs = task.thread.regs()
        regs.set_base(code, address)
        task.thread.set_regs(regs)
    elif code == pr.ARCH_GET_FS or code == pr.ARCH_GET_GS:
        mem.write_u64(address, task.thread.regs().base(code))
    elif code == pr.ARCH_GET_CPUID:
        return 1
    elif code == pr.ARCH_SET_CPUID:
        return -ENODEV
    elif code == pr.ARCH_GET_XCOMP_SUPP or code == pr.ARCH_GET_XCOMP_PERM:
        mem.write_u64(address, _xfeatures(task))
    elif code == pr.ARCH_REQ_XCOMP_PERM:
        return -EOPNOTSUPP if address < XFEATURE_LIMIT else -EINVAL
    elif code in (pr.ARCH_GET_XCOMP_GUEST_PERM, pr.ARCH_REQ_XCOMP_GUEST_PERM):
        return -EACCES
    else:
        return -EINVAL
    return 0


def _xfeatures(task: Task) -> int:
    """The state components of the task's signal frames, without those that must be asked for."""
    state = task.thread.fpstate()
    if len(state) < 512:
        return 3
    return unpack_u64(state, _SW_BYTES_AT + 8) & ~_DYNAMIC_XFEATURES
