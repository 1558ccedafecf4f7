"""The calls that a Python interpreter itself makes, in every process of cloche, as data: memory that is never
executable, locks, clocks, exit.

Calls that it tries without needing them fail instead of killing. The lists of the processes (`seccomp_broker.py`,
`seccomp_egress.py`, ...) include these.
"""

from typing import Final

from cloche.abi.errno import EACCES, ENOSYS, EPERM
from cloche.abi.mman import PROT_EXEC
from cloche.arch.syscalls import (
    SYS_access,
    SYS_brk,
    SYS_clock_gettime,
    SYS_clone3,
    SYS_exit_group,
    SYS_fstat,
    SYS_futex,
    SYS_getcwd,
    SYS_getpid,
    SYS_getrandom,
    SYS_gettid,
    SYS_ioctl,
    SYS_madvise,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munmap,
    SYS_newfstatat,
    SYS_openat,
    SYS_readlink,
    SYS_restart_syscall,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_stat,
    SYS_statx,
)
from cloche.boot.seccomp import Allow, Refuse, int_has_none

ALLOWED: Final[list[Allow]] = [
    Allow(SYS_mmap, "the interpreter's memory; never executable", [int_has_none(2, PROT_EXEC)]),
    Allow(SYS_munmap, "the interpreter's memory"),
    Allow(SYS_mremap, "the C library's realloc"),
    Allow(SYS_mprotect, "the C library's arenas; never executable", [int_has_none(2, PROT_EXEC)]),
    Allow(SYS_madvise, "the C library's free"),
    Allow(SYS_brk, "the C library's heap"),
    Allow(SYS_futex, "the interpreter's locks"),
    Allow(SYS_getrandom, "hash seeds of new interpreter objects"),
    Allow(SYS_clock_gettime, "where the vDSO has no clock"),
    Allow(SYS_rt_sigreturn, "returning from a signal"),
    Allow(
        SYS_restart_syscall,
        "waiting on after SIGSTOP and SIGCONT, a frozen control group, a suspended machine",
    ),
    Allow(SYS_exit_group, "the end"),
]

REFUSED: Final[list[Refuse]] = [
    Refuse(SYS_openat, EACCES, "a traceback looks for source files"),
    Refuse(SYS_stat, EACCES, "a traceback looks for source files"),
    Refuse(SYS_fstat, EACCES, "a traceback looks for source files"),
    Refuse(SYS_newfstatat, EACCES, "a traceback looks for source files"),
    Refuse(SYS_statx, ENOSYS, "new C libraries fall back to newfstatat"),
    Refuse(SYS_readlink, EACCES, "the interpreter looks for itself"),
    Refuse(SYS_access, EACCES, "the interpreter looks for files"),
    Refuse(SYS_getcwd, EACCES, "a traceback makes paths absolute"),
    Refuse(SYS_ioctl, EACCES, "isatty on a new file object"),
    Refuse(SYS_rt_sigaction, EPERM, "the interpreter at its end, abort"),
    Refuse(SYS_rt_sigprocmask, EPERM, "abort"),
    Refuse(SYS_sigaltstack, EPERM, "the interpreter at its end"),
    Refuse(SYS_getpid, EPERM, "abort"),
    Refuse(SYS_gettid, EPERM, "abort"),
    Refuse(SYS_clone3, ENOSYS, "never needed; answered as an old kernel would"),
]
