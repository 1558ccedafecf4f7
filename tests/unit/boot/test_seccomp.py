"""The allow-list compiler: against an interpreter of classic BPF, and against the host's kernel."""

import errno
import os
import resource
import signal
import socket
import stat
import struct
from collections.abc import Callable

import pytest

from cloche.abi.seccomp import (
    AUDIT_ARCH_I386,
    AUDIT_ARCH_X86_64,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
)
from cloche.arch.x86_64 import syscalls as nr
from cloche.boot import seccomp
from cloche.boot.seccomp import (
    Allow,
    ArgCheck,
    Policy,
    Refuse,
    compile_policy,
    int_has_all,
    int_has_none,
    int_is,
    int_is_not,
    is_null,
)
from cloche.boot.seccomp_analyst import analyst_policy, analyst_worker_policy
from cloche.boot.seccomp_broker import broker_policy
from cloche.boot.seccomp_connector import connector_policy
from cloche.boot.seccomp_egress import egress_policy
from cloche.boot.seccomp_gofer import gofer_policy
from cloche.boot.seccomp_netns import guarded_policy, netns_policy
from cloche.boot.seccomp_sentry import sentry_policy
from tests.unit.netns.test_process import REDIRECTING


def run(code: bytes, number: int, args: tuple[int, ...] = (), arch: int = AUDIT_ARCH_X86_64) -> int:
    """The filter's verdict for a call."""
    padded = [*args, *([0] * (6 - len(args)))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *[arg & (1 << 64) - 1 for arg in padded])
    at = 0
    a = 0
    for _step in range(5000):
        op, jt, jf, k = struct.unpack_from("<HBBI", code, at * 8)
        at += 1
        if op == 0x20:
            a = struct.unpack_from("<I", data, k)[0]
        elif op == 0x54:
            a &= k
        elif op == 0x15:
            at += jt if a == k else jf
        elif op == 0x35:
            at += jt if a >= k else jf
        elif op == 0x06:
            return int(k)
        else:
            raise AssertionError(f"opcode {op:#x}")
    raise AssertionError("no end")


def test_calls_and_architectures() -> None:
    code = compile_policy(Policy("t", [Allow(1, "a"), Allow(60, "b")], [Refuse(2, 13, "c")]))
    assert run(code, 1) == SECCOMP_RET_ALLOW
    assert run(code, 60) == SECCOMP_RET_ALLOW
    assert run(code, 2) == SECCOMP_RET_ERRNO | 13
    assert run(code, 3) == SECCOMP_RET_KILL_PROCESS
    assert run(code, 1, arch=AUDIT_ARCH_I386) == SECCOMP_RET_KILL_PROCESS
    assert run(code, 1 | 0x40000000) == SECCOMP_RET_KILL_PROCESS  # x32
    assert run(code, -1) == SECCOMP_RET_KILL_PROCESS


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (int_is_not(1, -1), [0, 1, 0xFFFFFFFE, 1 << 32], [-1, 0xFFFFFFFF]),
        (int_is(1, 7), [7, 7 | 1 << 32], [6, 8, 0, -1]),
        (int_is(1, -1), [-1, 0xFFFFFFFF], [0, 0x7FFFFFFF]),
        (int_has_none(1, 6), [0, 1, 8, 6 << 32], [2, 4, 6, 7]),
        (int_has_all(1, 6), [6, 7, -1], [0, 2, 4, 6 << 32]),
        (is_null(1), [0], [1, 1 << 32, 1 << 63, -1]),
    ],
)
def test_argument_checks(check: ArgCheck, good: list[int], bad: list[int]) -> None:
    code = compile_policy(Policy("t", [Allow(9, "", [check])], []))
    for value in good:
        assert run(code, 9, (-1, value)) == SECCOMP_RET_ALLOW, value
    for value in bad:
        assert run(code, 9, (-1, value)) == SECCOMP_RET_KILL_PROCESS, value


def test_alternatives_conjunctions_and_refusals() -> None:
    rows = [
        Allow(16, "", [int_is(0, 1), is_null(2)]),
        Allow(16, "", [int_is(1, 5)]),
        Allow(17, ""),
    ]
    code = compile_policy(Policy("t", rows, [Refuse(16, 25, "")]))
    assert run(code, 16, (1, 0, 0)) == SECCOMP_RET_ALLOW
    assert run(code, 16, (1, 0, 1)) == SECCOMP_RET_ERRNO | 25
    assert run(code, 16, (2, 5, 1)) == SECCOMP_RET_ALLOW
    assert run(code, 16, (2, 4, 0)) == SECCOMP_RET_ERRNO | 25
    assert run(code, 17) == SECCOMP_RET_ALLOW


FORBIDDEN = """
execve execveat fork vfork clone socket connect bind ptrace mount umount2 chroot pivot_root setuid
setgid setresuid capset bpf io_uring_setup io_uring_enter keyctl perf_event_open init_module kexec_load
mknod unshare setns userfaultfd open_by_handle_at move_mount fsopen seccomp prctl reboot swapon
pidfd_getfd process_madvise
""".split()


@pytest.mark.parametrize(
    "policy",
    [gofer_policy(is_writable=False), gofer_policy(is_writable=True), sentry_policy(), broker_policy()],
)
def test_what_no_list_allows(policy: Policy) -> None:
    code = compile_policy(policy)
    for name in FORBIDDEN:
        assert run(code, getattr(nr, "SYS_" + name)) == SECCOMP_RET_KILL_PROCESS, name
    assert run(code, nr.SYS_mmap, (0, 4096, 7)) == SECCOMP_RET_KILL_PROCESS
    assert run(code, nr.SYS_mprotect, (0, 4096, 5)) == SECCOMP_RET_KILL_PROCESS
    assert run(code, nr.SYS_mprotect, (0, 4096, 3)) == SECCOMP_RET_ALLOW
    assert all(row.reason for row in policy.allowed) and all(row.reason for row in policy.refused)


@pytest.mark.parametrize(
    "policy",
    [
        gofer_policy(is_writable=False),
        analyst_policy(),
        analyst_worker_policy(),
        sentry_policy(),
        broker_policy(),
        egress_policy(),
        connector_policy(5, 6),
        netns_policy(),
        guarded_policy(5, 6),
    ],
    ids=lambda policy: policy.name,
)
def test_each_goes_on_after_a_stop(policy: Policy) -> None:
    """With restart_syscall the kernel continues a wait that SIGSTOP, a frozen group or a suspended machine broke off."""
    assert run(compile_policy(policy), nr.SYS_restart_syscall) == SECCOMP_RET_ALLOW


def test_the_gofer_opens_for_writing_only_with_a_writable_attach_point() -> None:
    reading = compile_policy(gofer_policy(is_writable=False))
    writing = compile_policy(gofer_policy(is_writable=True))
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE | os.O_RDWR):
        assert run(reading, nr.SYS_openat, (3, 0, flags)) == SECCOMP_RET_ERRNO | errno.EACCES
        assert run(writing, nr.SYS_openat, (3, 0, flags)) == SECCOMP_RET_ALLOW
    for flags in (os.O_RDONLY, os.O_PATH | os.O_NOFOLLOW, os.O_DIRECTORY | os.O_CLOEXEC):
        assert run(reading, nr.SYS_openat, (3, 0, flags)) == SECCOMP_RET_ALLOW
    assert run(reading, nr.SYS_unlinkat) == SECCOMP_RET_KILL_PROCESS
    assert run(reading, nr.SYS_mknodat, (3, 0, stat.S_IFIFO)) == SECCOMP_RET_KILL_PROCESS
    for kind in (stat.S_IFIFO, stat.S_IFSOCK):
        assert run(writing, nr.SYS_mknodat, (3, 0, kind | 0o777)) == SECCOMP_RET_ALLOW
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        assert run(writing, nr.SYS_mknodat, (3, 0, kind)) == SECCOMP_RET_KILL_PROCESS


def test_only_volumes_with_sockets_have_a_gofer_that_makes_some() -> None:
    dead = SECCOMP_RET_KILL_PROCESS
    doors = compile_policy(gofer_policy(is_writable=True, has_doors=True))
    shown = compile_policy(gofer_policy(is_writable=False, shows_sockets=True))
    for code in (doors, shown):
        assert run(code, nr.SYS_socket, (1, 1, 0)) == SECCOMP_RET_ALLOW
        for family in (2, 10, 16, 17, 40):
            assert run(code, nr.SYS_socket, (family, 1, 0)) == dead
    assert run(doors, nr.SYS_bind) == run(doors, nr.SYS_listen) == SECCOMP_RET_ALLOW
    assert run(shown, nr.SYS_connect) == SECCOMP_RET_ALLOW
    assert run(doors, nr.SYS_connect) == run(shown, nr.SYS_bind) == run(shown, nr.SYS_listen) == dead
    for name in set(FORBIDDEN) - {"socket", "bind", "connect"}:
        assert run(doors, getattr(nr, "SYS_" + name)) == run(shown, getattr(nr, "SYS_" + name)) == dead, name
    sentry = compile_policy(sentry_policy(5, has_ports=False, has_network=False, has_doors=True))
    assert run(sentry, nr.SYS_accept4) == run(sentry, nr.SYS_shutdown) == SECCOMP_RET_ALLOW
    assert run(sentry, nr.SYS_connect) == run(sentry, nr.SYS_listen) == dead


def test_the_sentry_has_little() -> None:
    for has_ports in (False, True):
        policy = sentry_policy(5, has_ports=has_ports)
        assert len({row.number for row in policy.allowed}) <= 60
    code = compile_policy(sentry_policy(5, has_ports=False))
    dead = SECCOMP_RET_KILL_PROCESS
    for signo in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
        assert run(code, nr.SYS_kill, (7, signo)) == run(code, nr.SYS_kill, (-7, signo)) == SECCOMP_RET_ALLOW
        assert run(code, nr.SYS_kill, (-1, signo)) == run(code, nr.SYS_kill, (0, signo)) == dead
    assert run(code, nr.SYS_kill, (7, signal.SIGTERM)) == dead
    assert run(code, nr.SYS_fcntl, (3, 1030)) == SECCOMP_RET_ALLOW
    for command in (
        0,
        2,
        4,
        8,
        10,
        1024,
        1025,
        1031,
    ):  # DUPFD SETFD SETFL SETOWN SETSIG SETLEASE NOTIFY SETPIPE_SZ
        assert run(code, nr.SYS_fcntl, (3, command)) == dead
    assert run(code, nr.SYS_setsockopt, (3, 6, 1)) == run(code, nr.SYS_shutdown) == dead
    ports = compile_policy(sentry_policy(5, has_ports=True))
    assert run(ports, nr.SYS_setsockopt, (3, 6, 1)) == SECCOMP_RET_ALLOW
    for level, option in (
        (0, 4),
        (41, 57),
        (1, 25),
        (6, 30),
    ):  # IP_OPTIONS RTHDR BINDTODEVICE TCP_FASTOPEN_CONNECT
        assert run(ports, nr.SYS_setsockopt, (3, level, option)) == dead
    assert run(code, nr.SYS_ioctl, (3, 0x5412)) == SECCOMP_RET_ERRNO | errno.ENOTTY  # TIOCSTI


def test_donated_sockets_cannot_be_redirected() -> None:
    """What a route in a header, a device, a mark or a new peer would make of a socket that the sentry was given."""
    dead = SECCOMP_RET_KILL_PROCESS
    for policy in (sentry_policy(5), netns_policy()):
        code = compile_policy(policy)
        for level, name in REDIRECTING:
            assert run(code, nr.SYS_setsockopt, (3, level, name)) == dead, (level, name)
    sentry = compile_policy(sentry_policy(5))
    assert run(sentry, nr.SYS_accept4) == SECCOMP_RET_ALLOW
    for call in (nr.SYS_connect, nr.SYS_bind, nr.SYS_listen, nr.SYS_socket, nr.SYS_sendmsg, nr.SYS_sendmmsg):
        assert run(sentry, call) == dead
    assert run(compile_policy(sentry_policy(5, has_network=False)), nr.SYS_accept4) == dead
    ours, theirs = socket.socketpair()

    def turn_around() -> None:
        ours.connect("")  # for every address, AF_UNSPEC among them

    def route() -> None:
        ours.setsockopt(41, 57, b"")

    for act in (turn_around, route, lambda: ours.setsockopt(1, 36, 1), lambda: ours.sendto(b"x", b"y")):
        assert os.WTERMSIG(in_child(sentry_policy(), act)) == signal.SIGSYS
    ours.close()
    theirs.close()


def test_the_network_process_makes_only_its_sockets() -> None:
    code = compile_policy(netns_policy())
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    for family, icmp in ((2, 1), (10, 58)):
        for kind, protocol in ((1, 0), (2, 0), (2, icmp), (3, icmp)):
            assert run(code, nr.SYS_socket, (family, kind | flags, protocol)) == SECCOMP_RET_ALLOW
        for kind, protocol in ((3, 255), (3, 17), (3, 0), (5, 0), (1, 132), (1, 262)):
            assert run(code, nr.SYS_socket, (family, kind | flags, protocol)) == SECCOMP_RET_KILL_PROCESS
    for family in (1, 16, 17, 40):
        assert run(code, nr.SYS_socket, (family, 1 | flags, 0)) == SECCOMP_RET_KILL_PROCESS
    allowed = {"socket", "connect", "bind"}
    for name in FORBIDDEN:
        if name not in allowed:
            assert run(code, getattr(nr, "SYS_" + name)) == SECCOMP_RET_KILL_PROCESS, name
    assert run(code, nr.SYS_write, (3,)) == SECCOMP_RET_KILL_PROCESS


def test_who_parses_makes_no_socket_and_who_makes_them_reads_none() -> None:
    dead = SECCOMP_RET_KILL_PROCESS
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    egress = compile_policy(egress_policy())
    for name in ("socket", "connect", "bind", "listen", "accept4", "sendmmsg", "execve", "clone", "ptrace"):
        assert run(egress, getattr(nr, "SYS_" + name)) == dead, name
    connector = compile_policy(connector_policy(7, 9))
    for family in (2, 10):
        for kind in (1, 2):
            assert run(connector, nr.SYS_socket, (family, kind | flags, 0)) == SECCOMP_RET_ALLOW
        for kind, protocol in ((3, 255), (3, 1), (2, 1), (1, 262)):
            assert run(connector, nr.SYS_socket, (family, kind | flags, protocol)) == dead
    for call in (nr.SYS_recvfrom, nr.SYS_sendmsg):
        assert run(connector, call, (7, 0, 0, 0, 0)) == SECCOMP_RET_ALLOW
        assert run(connector, call, (8, 0, 0, 0, 0)) == dead
    assert run(connector, nr.SYS_sendmsg, (9, 0, 0, 0, 0)) == SECCOMP_RET_ALLOW
    assert run(connector, nr.SYS_recvfrom, (9, 0, 0, 0, 0)) == dead
    for name in ("sendto", "read", "recvmsg", "setsockopt", "bind", "listen", "accept4", "shutdown", "setns"):
        assert run(connector, getattr(nr, "SYS_" + name)) == dead, name
    assert run(connector, nr.SYS_write, (2,)) == SECCOMP_RET_ALLOW
    assert run(connector, nr.SYS_write, (7,)) == dead


def test_where_egress_decides_the_network_process_sends_to_the_sentry_alone() -> None:
    code = compile_policy(guarded_policy(7, 8))
    for call in (nr.SYS_sendto, nr.SYS_sendmsg):
        assert run(code, call, (7, 0, 0, 0, 0)) == SECCOMP_RET_ALLOW
        assert run(code, call, (9, 0, 0, 0, 0)) == SECCOMP_RET_KILL_PROCESS
    assert run(code, nr.SYS_sendto, (7, 0, 0, 0, 0x7000)) == SECCOMP_RET_KILL_PROCESS
    assert run(code, nr.SYS_sendmsg, (8, 0, 0, 0, 0)) == SECCOMP_RET_KILL_PROCESS
    assert run(code, nr.SYS_connect) == SECCOMP_RET_KILL_PROCESS
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    for family, icmp in ((2, 1), (10, 58)):
        assert run(code, nr.SYS_socket, (family, 1 | flags, 0)) == SECCOMP_RET_ALLOW
        for kind in (2, 3):
            assert run(code, nr.SYS_socket, (family, kind | flags, icmp)) == SECCOMP_RET_KILL_PROCESS


def test_the_broker_only_accepts_and_gives_away() -> None:
    code = compile_policy(broker_policy())
    assert run(code, nr.SYS_accept4) == run(code, nr.SYS_sendmsg) == SECCOMP_RET_ALLOW
    assert run(code, nr.SYS_write, (2,)) == SECCOMP_RET_ALLOW
    for name in (
        "bind",
        "listen",
        "read",
        "readv",
        "recvmsg",
        "sendto",
        "writev",
        "dup",
        "kill",
        "setsockopt",
    ):
        assert run(code, getattr(nr, "SYS_" + name)) == SECCOMP_RET_KILL_PROCESS, name
    assert run(code, nr.SYS_write, (3,)) == SECCOMP_RET_KILL_PROCESS
    assert run(code, nr.SYS_openat, (3, 0, 0)) == SECCOMP_RET_ERRNO | errno.EACCES


def test_the_sentry_opens_only_below_procfs() -> None:
    code = compile_policy(sentry_policy())
    assert run(code, nr.SYS_openat, (7, 0, 0)) == SECCOMP_RET_ERRNO | errno.EACCES
    code = compile_policy(sentry_policy(proc_fd=7))
    assert run(code, nr.SYS_openat, (7, 0, os.O_CLOEXEC)) == SECCOMP_RET_ALLOW
    assert run(code, nr.SYS_openat, (8, 0, 0)) == SECCOMP_RET_ERRNO | errno.EACCES
    assert run(code, nr.SYS_openat, (-100, 0, 0)) == SECCOMP_RET_ERRNO | errno.EACCES
    assert run(code, nr.SYS_openat, (7, 0, os.O_RDWR)) == SECCOMP_RET_ERRNO | errno.EACCES
    assert run(code, nr.SYS_sendto, (3, 0, 1, 0, 0)) == SECCOMP_RET_ALLOW
    assert run(code, nr.SYS_sendto, (3, 0, 1, 0, 0x7000)) == SECCOMP_RET_KILL_PROCESS


def in_child(policy: Policy, act: Callable[[], object]) -> int:
    """Confine a child and let it act; its wait status (exit 0: returned, 1: OSError EACCES)."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            seccomp.install(policy)
            act()
            status = 0
        except OSError as error:
            status = 1 if error.errno == errno.EACCES else 2
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def test_in_force() -> None:
    policy = sentry_policy()
    assert os.waitstatus_to_exitcode(in_child(policy, lambda: os.memfd_create("x"))) == 0
    assert os.waitstatus_to_exitcode(in_child(policy, lambda: open("/etc/passwd"))) == 1
    assert os.waitstatus_to_exitcode(in_child(policy, lambda: os.stat("/etc/passwd"))) == 1
    for act in (
        lambda: socket.socket(),
        os.fork,
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.unlink("/x"),
    ):
        assert os.WTERMSIG(in_child(policy, act)) == signal.SIGSYS


def test_a_traceback_does_not_kill_the_sentry() -> None:
    def act() -> None:
        import traceback

        try:
            raise ValueError
        except ValueError:
            assert "ValueError" in traceback.format_exc()

    assert os.waitstatus_to_exitcode(in_child(sentry_policy(), act)) == 0
