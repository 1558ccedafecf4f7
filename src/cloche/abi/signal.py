"""Signals, their codes, actions and sets (signal(7), sigaction(2), asm/signal.h)."""

from typing import Final

# Numbers
SIGHUP: Final = 1
SIGINT: Final = 2
SIGQUIT: Final = 3
SIGILL: Final = 4
SIGTRAP: Final = 5
SIGABRT: Final = 6
SIGIOT: Final = 6
SIGBUS: Final = 7
SIGFPE: Final = 8
SIGKILL: Final = 9
SIGUSR1: Final = 10
SIGSEGV: Final = 11
SIGUSR2: Final = 12
SIGPIPE: Final = 13
SIGALRM: Final = 14
SIGTERM: Final = 15
SIGSTKFLT: Final = 16
SIGCHLD: Final = 17
SIGCONT: Final = 18
SIGSTOP: Final = 19
SIGTSTP: Final = 20
SIGTTIN: Final = 21
SIGTTOU: Final = 22
SIGURG: Final = 23
SIGXCPU: Final = 24
SIGXFSZ: Final = 25
SIGVTALRM: Final = 26
SIGPROF: Final = 27
SIGWINCH: Final = 28
SIGIO: Final = 29
SIGPOLL: Final = 29
SIGPWR: Final = 30
SIGSYS: Final = 31
SIGUNUSED: Final = 31

# sigprocmask(2)
SIG_BLOCK: Final = 0
SIG_UNBLOCK: Final = 1
SIG_SETMASK: Final = 2

# sigaction(2) and sigaltstack(2)
SA_RESTORER: Final = 0x4000000
MINSIGSTKSZ: Final = 2048
SIGSTKSZ: Final = 8192
SA_NOCLDSTOP: Final = 0x1
SA_NOCLDWAIT: Final = 0x2
SA_SIGINFO: Final = 0x4
SA_UNSUPPORTED: Final = 0x400
SA_EXPOSE_TAGBITS: Final = 0x800
SA_ONSTACK: Final = 0x8000000
SA_RESTART: Final = 0x10000000
SA_NODEFER: Final = 0x40000000
SA_RESETHAND: Final = 0x80000000
SA_NOMASK: Final = 0x40000000
SA_ONESHOT: Final = 0x80000000
SS_ONSTACK: Final = 1
SS_DISABLE: Final = 2
SS_AUTODISARM: Final = 0x80000000
SS_FLAG_BITS: Final = 0x80000000

# si_code
SI_USER: Final = 0
SI_KERNEL: Final = 0x80
SI_QUEUE: Final = -1
SI_TIMER: Final = -2
SI_MESGQ: Final = -3
SI_ASYNCIO: Final = -4
SI_SIGIO: Final = -5
SI_TKILL: Final = -6
SI_DETHREAD: Final = -7
SI_ASYNCNL: Final = -60
ILL_ILLOPC: Final = 1
ILL_ILLOPN: Final = 2
ILL_ILLADR: Final = 3
ILL_ILLTRP: Final = 4
ILL_PRVOPC: Final = 5
ILL_PRVREG: Final = 6
ILL_COPROC: Final = 7
ILL_BADSTK: Final = 8
ILL_BADIADDR: Final = 9
FPE_INTDIV: Final = 1
FPE_INTOVF: Final = 2
FPE_FLTDIV: Final = 3
FPE_FLTOVF: Final = 4
FPE_FLTUND: Final = 5
FPE_FLTRES: Final = 6
FPE_FLTINV: Final = 7
FPE_FLTSUB: Final = 8
FPE_FLTUNK: Final = 14
FPE_CONDTRAP: Final = 15
SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
SEGV_BNDERR: Final = 3
SEGV_PKUERR: Final = 4
SEGV_ACCADI: Final = 5
SEGV_ADIDERR: Final = 6
SEGV_ADIPERR: Final = 7
SEGV_MTEAERR: Final = 8
SEGV_MTESERR: Final = 9
SEGV_CPERR: Final = 10
BUS_ADRALN: Final = 1
BUS_ADRERR: Final = 2
BUS_OBJERR: Final = 3
BUS_MCEERR_AR: Final = 4
BUS_MCEERR_AO: Final = 5
TRAP_BRKPT: Final = 1
TRAP_TRACE: Final = 2
TRAP_BRANCH: Final = 3
TRAP_HWBKPT: Final = 4
TRAP_UNK: Final = 5
TRAP_PERF: Final = 6
TRAP_PERF_FLAG_ASYNC: Final = 1
CLD_EXITED: Final = 1
CLD_KILLED: Final = 2
CLD_DUMPED: Final = 3
CLD_TRAPPED: Final = 4
CLD_STOPPED: Final = 5
CLD_CONTINUED: Final = 6
POLL_IN: Final = 1
POLL_OUT: Final = 2
POLL_MSG: Final = 3
POLL_ERR: Final = 4
POLL_PRI: Final = 5
POLL_HUP: Final = 6
SYS_SECCOMP: Final = 1
SYS_USER_DISPATCH: Final = 2
EMT_TAGOVF: Final = 1
SIGEV_SIGNAL: Final = 0
SIGEV_NONE: Final = 1
SIGEV_THREAD: Final = 2
SIGEV_THREAD_ID: Final = 4
SIGEV_MAX_SIZE: Final = 64
SIGEV_PAD_SIZE: Final = 12

SIG_DFL: Final = 0
SIG_IGN: Final = 1
SIG_ERR: Final = 0xFFFFFFFFFFFFFFFF

NSIG: Final = 64  # signals are 1 .. NSIG
SIGRTMIN: Final = 32  # the kernel's first real-time signal: the libc keeps the first few
SIGRTMAX: Final = 64
SIGSET_SIZE: Final = 8  # bytes of a signal set, the sigsetsize of every call
SIGINFO_SIZE: Final = 128

NO_SIGNALS: Final = 0
ALL_SIGNALS: Final = 0xFFFFFFFFFFFFFFFF


def sigbit(signo: int) -> int:
    """The bit of signal `signo` (1 .. NSIG) in a set."""
    return 1 << (signo - 1)


def is_member(mask: int, signo: int) -> bool:
    """sigismember(3)."""
    return (mask >> (signo - 1)) & 1 != 0


def first_signal(mask: int) -> int:
    """The lowest signal of a set, 0 if it is empty."""
    return (mask & -mask).bit_length()


# The signals that a mask can never block (signal(7)).
UNBLOCKABLE: Final = 1 << (SIGKILL - 1) | 1 << (SIGSTOP - 1)
# Signals that the processor raises: delivered first, never lost (kernel/signal.c).
SYNCHRONOUS: Final = (
    1 << (SIGSEGV - 1)
    | 1 << (SIGBUS - 1)
    | 1 << (SIGILL - 1)
    | 1 << (SIGTRAP - 1)
    | 1 << (SIGFPE - 1)
    | 1 << (SIGSYS - 1)
)
# Default actions (signal(7)): what is in none of these sets ends the process.
DEFAULT_IGNORE: Final = 1 << (SIGCONT - 1) | 1 << (SIGCHLD - 1) | 1 << (SIGWINCH - 1) | 1 << (SIGURG - 1)
DEFAULT_STOP: Final = 1 << (SIGSTOP - 1) | 1 << (SIGTSTP - 1) | 1 << (SIGTTIN - 1) | 1 << (SIGTTOU - 1)
DEFAULT_CORE: Final = (
    SYNCHRONOUS | 1 << (SIGQUIT - 1) | 1 << (SIGABRT - 1) | 1 << (SIGXCPU - 1) | 1 << (SIGXFSZ - 1)
)

_NAMES: Final[list[str]] = (
    "0 HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP"
    " TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
).split(" ")


def name(signo: int) -> str:
    """The symbol of a signal: SIGHUP, SIGRTMIN+2."""
    if 0 < signo < len(_NAMES):
        return "SIG" + _NAMES[signo]
    if signo == SIGRTMIN:
        return "SIGRTMIN"
    return f"SIGRTMIN+{signo - SIGRTMIN}" if SIGRTMIN < signo <= NSIG else f"signal {signo}"
