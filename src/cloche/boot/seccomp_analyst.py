"""The analyst's seccomp allow-lists, as data: one for its server, and a shorter one for the workers, which alone read
what guests may have written.

Not on either, on purpose: execve, socket, connect, ptrace, process_vm_*, mount, chroot, setuid and its kin.
"""

from typing import Final

from cloche.abi.errno import EACCES, ENOSYS
from cloche.abi.fcntl import (
    F_ADD_SEALS,
    F_DUPFD_CLOEXEC,
    F_GETFD,
    F_GETFL,
    F_RDLCK,
    F_SETFD,
    F_SETLEASE,
    F_UNLCK,
    FD_CLOEXEC,
)
from cloche.abi.prctl import PR_SET_NO_NEW_PRIVS
from cloche.abi.sched import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_VM,
)
from cloche.arch.syscalls import (
    SYS_access,
    SYS_clone,
    SYS_clone3,
    SYS_close,
    SYS_dup,
    SYS_exit,
    SYS_fcntl,
    SYS_fstat,
    SYS_fstatfs,
    SYS_getcwd,
    SYS_getdents64,
    SYS_getpid,
    SYS_gettid,
    SYS_ioctl,
    SYS_lseek,
    SYS_memfd_create,
    SYS_newfstatat,
    SYS_openat,
    SYS_poll,
    SYS_prctl,
    SYS_pread64,
    SYS_prlimit64,
    SYS_readlink,
    SYS_recvmsg,
    SYS_renameat,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_seccomp,
    SYS_sendmsg,
    SYS_sendto,
    SYS_set_robust_list,
    SYS_setitimer,
    SYS_sigaltstack,
    SYS_stat,
    SYS_statx,
    SYS_unlinkat,
    SYS_wait4,
    SYS_write,
)
from cloche.boot import seccomp_interpreter as interpreter
from cloche.boot.seccomp import Allow, Policy, Refuse, int_has_none, int_is, is_null

_NEW_KINDS: Final = (
    CLONE_VM
    | CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
)

_SET_MODE_FILTER: Final = 1

_INTERPRETER: Final[list[Allow]] = [
    *interpreter.ALLOWED,
    Allow(SYS_write, "text files, and messages on standard error"),
    Allow(SYS_close, "descriptors that were given or made"),
    Allow(SYS_fstat, "the length and identity of files"),
    Allow(SYS_fcntl, "mapping a file duplicates its descriptor", [int_is(1, F_DUPFD_CLOEXEC)]),
    Allow(SYS_fcntl, "sealing a text", [int_is(1, F_ADD_SEALS)]),
    Allow(SYS_fcntl, "who has a file open for writing", [int_is(1, F_SETLEASE), int_is(2, F_RDLCK)]),
    Allow(SYS_fcntl, "the end of that lease", [int_is(1, F_SETLEASE), int_is(2, F_UNLCK)]),
    Allow(SYS_fcntl, "listing the cache: how a descriptor was opened", [int_is(1, F_GETFL)]),
    Allow(SYS_fcntl, "listing the cache: close-on-exec", [int_is(1, F_SETFD), int_is(2, FD_CLOEXEC)]),
    Allow(SYS_fcntl, "whether a descriptor is closed by exec", [int_is(1, F_GETFD)]),
    Allow(SYS_lseek, "the length of files"),
    Allow(SYS_pread64, "reading files"),
    Allow(SYS_getpid, "the interpreter after fork"),
    Allow(SYS_gettid, "the interpreter's locks"),
    Allow(SYS_rt_sigaction, "restoring signals at exit"),
    Allow(SYS_rt_sigprocmask, "the C library's fork and abort"),
    Allow(SYS_sigaltstack, "faulthandler at exit"),
    Allow(SYS_exit, "the end"),
]

_SERVER: Final[list[Allow]] = [
    Allow(SYS_poll, "waiting for several askers"),
    Allow(SYS_recvmsg, "requests, with the descriptor of a file"),
    Allow(SYS_sendmsg, "replies, with the descriptor of a text file"),
    Allow(SYS_sendto, "replies without one; never to an address", [is_null(4)]),
    Allow(SYS_fstatfs, "what kind of file system a file is on"),
    Allow(SYS_openat, "the cache (Landlock, or an empty root, leaves nothing else)"),
    Allow(SYS_unlinkat, "old files of the cache"),
    Allow(SYS_renameat, "new files of the cache"),
    Allow(SYS_getdents64, "the size of the cache"),
    Allow(SYS_newfstatat, "the size of the cache"),
    Allow(SYS_memfd_create, "text files"),
    Allow(
        SYS_clone, "a worker for each file: a process, in the same namespaces", [int_has_none(0, _NEW_KINDS)]
    ),
    Allow(SYS_set_robust_list, "the C library's fork"),
    Allow(SYS_wait4, "how a worker ended"),
    Allow(SYS_prlimit64, "limits of a worker, by itself", [int_is(0, 0)]),
    Allow(SYS_setitimer, "limits of a worker", [int_is(0, 0)]),
    Allow(SYS_prctl, "the worker's own filter", [int_is(0, PR_SET_NO_NEW_PRIVS)]),
    Allow(SYS_seccomp, "the worker's own filter", [int_is(0, _SET_MODE_FILTER)]),
]

_REFUSED: Final[list[Refuse]] = [
    Refuse(SYS_openat, EACCES, "a traceback looks for source files"),
    Refuse(SYS_stat, EACCES, "a traceback looks for source files"),
    Refuse(SYS_newfstatat, EACCES, "a traceback looks for source files"),
    Refuse(SYS_statx, ENOSYS, "new C libraries fall back to newfstatat"),
    Refuse(SYS_readlink, EACCES, "the interpreter looks for itself"),
    Refuse(SYS_access, EACCES, "the interpreter looks for files"),
    Refuse(SYS_getcwd, EACCES, "a traceback makes paths absolute"),
    Refuse(SYS_ioctl, EACCES, "isatty on a new file object"),
    Refuse(SYS_dup, EACCES, "new file objects on old C libraries"),
    Refuse(SYS_clone3, ENOSYS, "old kernels have only clone, whose flags can be looked at"),
]


def analyst_policy() -> Policy:
    """The allow-list of the analyst's server."""
    return Policy("analyst", _SERVER + _INTERPRETER, _REFUSED)


def analyst_worker_policy() -> Policy:
    """The allow-list of the process that reads one file and writes its text."""
    return Policy("analyst worker", list(_INTERPRETER), _REFUSED)
