"""Structs of signals: siginfo, dispositions, stacks, signalfd records (x86-64 layouts); see cloche.abi.structs."""

from struct import Struct
from typing import Final

from cloche.abi.structs import unpack_i32, unpack_u16, unpack_u32, unpack_u64

_M64: Final = 0xFFFFFFFFFFFFFFFF

SIGACTION: Final = Struct("<QQQQ")  # the kernel's: handler flags restorer mask
SIGACTION_SIZE: Final = 32
STACK_T: Final = Struct("<QixxxxQ")
STACK_T_SIZE: Final = 24
SIGEVENT: Final = Struct("<Qiii44x")
SIGEVENT_SIZE: Final = 64
SIGINFO_SIZE: Final = 128
SIGNALFD_SIGINFO: Final = Struct("<IiiIIiIIIIiiQQQQHxxiQI28x")
SIGNALFD_SIGINFO_SIZE: Final = 128
_SI_HEAD: Final = Struct("<iii")
_SI_KILL: Final = Struct("<iiixxxxiI104x")
_SI_RT: Final = Struct("<iiixxxxiIQ96x")
_SI_TIMER: Final = Struct("<iiixxxxiiQ96x")
_SI_CHLD: Final = Struct("<iiixxxxiIixxxxqq80x")
_SI_FAULT: Final = Struct("<iiixxxxQHxxxxxxQQ80x")
_SI_PKEY: Final = Struct("<iiixxxxQxxxxxxxxI92x")
_SI_POLL: Final = Struct("<iiixxxxqi100x")
_SI_SYS: Final = Struct("<iiixxxxQiI96x")


def pack_siginfo(signo: int, code: int) -> bytes:
    """A siginfo_t with nothing but its head (SI_KERNEL)."""
    return _SI_HEAD.pack(signo, 0, code) + bytes(116)


def pack_siginfo_kill(signo: int, code: int, pid: int, uid: int) -> bytes:
    """kill(2), tgkill(2): SI_USER, SI_TKILL."""
    return _SI_KILL.pack(signo, 0, code, pid, uid)


def pack_siginfo_rt(signo: int, code: int, pid: int, uid: int, value: int) -> bytes:
    """sigqueue(3), mq_notify(3): SI_QUEUE, SI_MESGQ; `value` is the sigval as an unsigned 64-bit number."""
    return _SI_RT.pack(signo, 0, code, pid, uid, value & _M64)


def pack_siginfo_timer(signo: int, timer_id: int, overrun: int, value: int) -> bytes:
    """A POSIX timer expired: SI_TIMER."""
    return _SI_TIMER.pack(signo, 0, -2, timer_id, overrun, value & _M64)


def pack_siginfo_chld(
    signo: int, code: int, pid: int, uid: int, status: int, utime_ticks: int, stime_ticks: int
) -> bytes:
    """A child changed state: `code` is CLD_*, `status` the exit code or the signal."""
    return _SI_CHLD.pack(signo, 0, code, pid, uid, status, utime_ticks, stime_ticks)


def pack_siginfo_fault(signo: int, code: int, addr: int) -> bytes:
    """SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP at `addr`."""
    return _SI_FAULT.pack(signo, 0, code, addr & _M64, 0, 0, 0)


def pack_siginfo_pkey(signo: int, code: int, addr: int, pkey: int) -> bytes:
    """SIGSEGV with SEGV_PKUERR."""
    return _SI_PKEY.pack(signo, 0, code, addr & _M64, pkey)


def pack_siginfo_poll(signo: int, code: int, band: int, fd: int) -> bytes:
    """SIGIO: `code` is POLL_*, `band` the event bits."""
    return _SI_POLL.pack(signo, 0, code, band, fd)


def pack_siginfo_sys(signo: int, code: int, call_addr: int, syscall: int, arch: int, errno: int) -> bytes:
    """SIGSYS of a seccomp filter; `errno` is its SECCOMP_RET_DATA."""
    return _SI_SYS.pack(signo, errno, code, call_addr & _M64, syscall, arch)


def siginfo_head(data: bytes) -> tuple[int, int, int]:
    """(si_signo, si_errno, si_code)."""
    signo, errno, code = _SI_HEAD.unpack_from(data, 0)
    return signo, errno, code


def siginfo_pid_uid(data: bytes) -> tuple[int, int]:
    """(si_pid, si_uid) of the kill, rt and chld kinds."""
    return unpack_i32(data, 16), unpack_u32(data, 20)


def siginfo_value(data: bytes) -> int:
    """si_value of the rt and timer kinds, unsigned."""
    return unpack_u64(data, 24)


def siginfo_addr(data: bytes) -> int:
    """si_addr of a fault, unsigned."""
    return unpack_u64(data, 16)


def unpack_sigaction(data: bytes) -> tuple[int, int, int, int]:
    """(handler, flags, restorer, mask) of rt_sigaction(2)."""
    handler, flags, restorer, mask = SIGACTION.unpack_from(data, 0)
    return handler, flags, restorer, mask


def pack_sigaction(handler: int, flags: int, restorer: int, mask: int) -> bytes:
    """The kernel's struct sigaction, 32 bytes."""
    return SIGACTION.pack(handler, flags, restorer, mask)


def unpack_stack_t(data: bytes) -> tuple[int, int, int]:
    """(ss_sp, ss_flags, ss_size); flags signed (sigaltstack(2))."""
    sp, flags, size = STACK_T.unpack_from(data, 0)
    return sp, flags, size


def pack_stack_t(sp: int, flags: int, size: int) -> bytes:
    """stack_t, 24 bytes; `flags` may carry SS_AUTODISARM."""
    return STACK_T.pack(sp, flags - (1 << 32) if flags >> 31 & 1 and flags > 0 else flags, size)


def unpack_sigevent(data: bytes) -> tuple[int, int, int, int]:
    """(value, signo, notify, tid) (sigevent(3type))."""
    value, signo, notify, tid = SIGEVENT.unpack_from(data, 0)
    return value, signo, notify, tid


def signalfd_record(info: bytes) -> bytes:
    """A siginfo_t as signalfd(2) gives it, 128 bytes; the signal and its code say which fields count."""
    signo, errno, code = _SI_HEAD.unpack_from(info, 0)
    pid = uid = fd = tid = band = overrun = status = value_int = value = 0
    utime = stime = addr = lsb = syscall = call_addr = arch = 0
    if code == -2:
        tid, overrun = unpack_u32(info, 16), unpack_u32(info, 20)
        value, value_int = unpack_u64(info, 24), unpack_i32(info, 24)
    elif code == -5 or (signo == 29 and 0 < code <= 6):
        band, fd = unpack_u32(info, 16), unpack_i32(info, 24)
    elif signo == 17 and 0 < code <= 6:
        pid, uid, status = unpack_u32(info, 16), unpack_u32(info, 20), unpack_i32(info, 24)
        utime, stime = unpack_u64(info, 32), unpack_u64(info, 40)
    elif signo in (4, 5, 7, 8, 11) and 0 < code < 0x80:
        addr, lsb = unpack_u64(info, 16), unpack_u16(info, 24)
    elif signo == 31 and 0 < code < 0x80:
        call_addr, syscall, arch = unpack_u64(info, 16), unpack_i32(info, 24), unpack_u32(info, 28)
    elif code in (0, -6, 0x80):
        pid, uid = unpack_u32(info, 16), unpack_u32(info, 20)
    else:
        pid, uid = unpack_u32(info, 16), unpack_u32(info, 20)
        value, value_int = unpack_u64(info, 24), unpack_i32(info, 24)
    return SIGNALFD_SIGINFO.pack(
        signo,
        errno,
        code,
        pid,
        uid,
        fd,
        tid,
        band,
        overrun,
        0,
        status,
        value_int,
        value,
        utime,
        stime,
        addr,
        lsb,
        syscall,
        call_addr,
        arch,
    )
