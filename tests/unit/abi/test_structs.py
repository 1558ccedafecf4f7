"""Struct layouts: the same values packed by C with the kernel's headers and by cloche.abi.structs and its kin."""

import subprocess
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche.abi import ipc_structs as ipc
from cloche.abi import signal_structs as signals
from cloche.abi import socket_structs as sockets
from cloche.abi import structs as s
from cloche.abi.errno import EINVAL, LinuxError, name
from cloche.abi.limits import MAX_RW_COUNT
from cloche.arch.x86_64 import sigframe
from cloche.arch.x86_64.registers import Registers

SOURCE: Final = Path(__file__).with_name("layouts.c")
CC: Final = bytes([6]) + bytes(17) + bytes([7])
NS: Final = 1_000_000_000


def frame() -> bytes:
    regs = Registers()
    regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15 = (
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        15,
    )
    regs.rdi, regs.rsi, regs.rbp, regs.rbx, regs.rdx, regs.rax, regs.rcx = 16, 17, 18, 19, 20, 21, 22
    regs.rsp, regs.rip, regs.eflags = 0x10000, 24, 0x702
    return sigframe.build(
        regs=regs,
        fpstate=b"",
        signo=11,
        siginfo=signals.pack_siginfo_fault(11, 2, -2),
        mask=28,
        altstack=sigframe.AltStack(2, 3, 0x80000000),
        handler=30,
        sa_flags=0,
        restorer=1,
        trapno=27,
        err=26,
        cr2=29,
    ).data


OURS: Final[dict[str, bytes]] = {
    "stat": s.pack_stat(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 * NS + 12, 13 * NS + 14, 15 * NS + 16),
    "statx": s.pack_statx(
        mask=1,
        blksize=2,
        attributes=3,
        nlink=4,
        uid=5,
        gid=6,
        mode=7,
        ino=8,
        size=9,
        blocks=10,
        attributes_mask=11,
        atime_ns=-NS + 12,
        btime_ns=13 * NS + 14,
        ctime_ns=15 * NS + 16,
        mtime_ns=17 * NS + 18,
        rdev_major=19,
        rdev_minor=20,
        dev_major=21,
        dev_minor=22,
        mnt_id=23,
    ),
    "statfs": s.pack_statfs(1, 2, 3, 4, 5, 6, 7, 9 << 32 | 0xFFFFFFF8, 10, 11, 12),
    "flock": s.pack_flock(1, 2, -3, 4, 5),
    "open_how": s.OPEN_HOW.pack(1, 2, 3),
    "f_owner_ex": s.F_OWNER_EX.pack(1, -2),
    "iovec": s.IOVEC.pack(1, 2),
    "inotify_event": s.pack_inotify_event(1, 0x80000002, 3, b"file"),
    "timespec": s.pack_timespec(NS + 2),
    "itimerspec": s.pack_itimerspec(NS + 2, 3 * NS + 4),
    "itimerval": s.pack_itimerval(NS + 2999, 3 * NS + 4999),
    "tms": s.pack_tms(1, 2, 3, 4),
    "timex": s.TIMEX.pack(*range(1, 22)),
    "rusage": s.pack_rusage(NS + 2000, 3 * NS + 4000, 5, 6, 7, 8, 9, 10, 11),
    "sysinfo": s.pack_sysinfo(1, (2, 3, 4), 5, 6, 7, 8, 9, 10, 11),
    "utsname": s.pack_utsname(b"a", b"b", b"c", b"d", b"e", b"f"),
    "rlimit": s.pack_rlimit(1, 2**64 - 1),
    "clone_args": s.CLONE_ARGS.pack(*range(1, 12)),
    "cap_data": s.pack_cap_data(4 << 32 | 1, 5 << 32 | 2, 6 << 32 | 3),
    "cap_header": s.CAP_HEADER.pack(1, -2),
    "robust_list_head": s.ROBUST_LIST_HEAD.pack(1, -2, 3),
    "sched_attr": s.SCHED_ATTR.pack(56, 2, 3, -4, 5, 6, 7, 8, 9, 10),
    "seccomp_data": s.SECCOMP_DATA.pack(-1, 2, 3, 4, 0, 0, 0, 0, 5),
    "sock_filter": s.SOCK_FILTER.pack(1, 2, 3, 4),
    "sock_fprog": s.SOCK_FPROG.pack(1, 2),
    "pollfd": s.pack_pollfd(-1, 2, 3),
    "epoll_event": s.pack_epoll_event(0x80000001, 2),
    "sigaction": signals.pack_sigaction(1, 2, 3, 4),
    "stack_t": signals.pack_stack_t(1, 0x80000002, 3),
    "sigevent": signals.SIGEVENT.pack(1, 2, 4, 3),
    "si_kill": signals.pack_siginfo_kill(9, -6, 2, 3),
    "si_rt": signals.pack_siginfo_rt(9, -1, 2, 3, -4),
    "si_timer": signals.pack_siginfo_timer(9, 2, 3, 4),
    "si_chld": signals.pack_siginfo_chld(17, 2, 2, 3, 4, 5, 6),
    "si_fault": signals.pack_siginfo_fault(11, 2, -2),
    "si_pkey": signals.pack_siginfo_pkey(11, 4, 2, 3),
    "si_poll": signals.pack_siginfo_poll(29, 1, 2, 3),
    "si_sys": signals.pack_siginfo_sys(31, 1, 2, 3, 0xC000003E, 5),
    "ssi_chld": signals.signalfd_record(signals.pack_siginfo_chld(17, 2, 2, 3, 4, 5, 6)),
    "ssi_rt": signals.signalfd_record(signals.pack_siginfo_rt(9, -1, 2, 3, -4)),
    "ssi_timer": signals.signalfd_record(signals.pack_siginfo_timer(9, 2, 3, 4)),
    "ssi_fault": signals.signalfd_record(signals.pack_siginfo_fault(11, 2, -2)),
    "ssi_poll": signals.signalfd_record(signals.pack_siginfo_poll(29, 1, 2, 3)),
    "ssi_sys": signals.signalfd_record(signals.pack_siginfo_sys(31, 1, 2, 3, 0xC000003E, 5)),
    "winsize": s.pack_winsize(1, 2, 3, 4),
    "termios": s.pack_termios(1, 2, 3, 4, 5, CC),
    "termios2": s.pack_termios2(1, 2, 3, 4, 5, CC, 8, 9),
    "termio": s.TERMIO.pack(1, 2, 3, 4, 5, bytes([6, 0, 0, 0, 0, 0, 0, 7])),
    "msghdr": sockets.MSGHDR.pack(1, 2, 3, 4, 5, 6, 7),
    "sockaddr_in": sockets.pack_sockaddr_in(bytes([1, 2, 3, 4]), 0x1234),
    "sockaddr_in6": sockets.pack_sockaddr_in6(b"abcdefghijklmnop", 0x1234, 0x01020304, 5),
    "sockaddr_nl": sockets.pack_sockaddr_nl(1, 2),
    "shmid_ds": ipc.pack_shmid_ds(ipc.pack_ipc_perm(1, 2, 3, 4, 5, 6, 7), 8, 9, 10, 11, 12, 13, 14),
    "semid_ds": ipc.pack_semid_ds(bytes(ipc.IPC_PERM_SIZE), 1, 2, 3),
    "msqid_ds": ipc.pack_msqid_ds(bytes(ipc.IPC_PERM_SIZE), 1, 2, 3, 4, 5, 6, 7, 8),
    "sembuf": ipc.SEMBUF.pack(1, -2, 3),
    "mq_attr": ipc.pack_mq_attr(1, 2, 3, 4),
    "rt_sigframe": frame(),
    "fpx_sw_bytes": sigframe._SW_BYTES.pack(sigframe.FP_XSTATE_MAGIC1, 2, 3, 4) + bytes(28),
}


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    program = tmp_path_factory.mktemp("layouts") / "layouts"
    subprocess.run(["gcc", "-w", "-o", str(program), str(SOURCE)], check=True, timeout=150)
    run = subprocess.run([str(program)], check=True, capture_output=True, text=True, timeout=60)
    return {line.split()[0]: bytes.fromhex(line.split()[1]) for line in run.stdout.splitlines()}


def test_layouts_are_those_of_the_headers(headers: dict[str, bytes]) -> None:
    assert set(headers) == set(OURS)
    wrong = {key: (OURS[key].hex(), headers[key].hex()) for key in OURS if OURS[key] != headers[key]}
    assert not wrong


def test_size_constants() -> None:
    for key, value in vars(s).items():
        if isinstance(value, s.Struct) and hasattr(s, key + "_SIZE"):
            assert value.size == getattr(s, key + "_SIZE"), key
    assert len(OURS["stat"]) == s.STAT_SIZE
    assert len(OURS["shmid_ds"]) == ipc.SHMID_DS_SIZE
    assert len(OURS["semid_ds"]) == ipc.SEMID_DS_SIZE
    assert len(OURS["msqid_ds"]) == ipc.MSQID_DS_SIZE


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**64 - 1),
            st.integers(-(2**63), 2**63 - 1),
            st.integers(0, 15),
            st.binary(min_size=1, max_size=255).filter(lambda b: b"\0" not in b),
        )
    )
)
def test_dirents_can_be_walked(entries: list[tuple[int, int, int, bytes]]) -> None:
    data = b"".join(s.pack_dirent64(*entry) for entry in entries)
    old = b"".join(s.pack_dirent(*entry) for entry in entries)
    at = old_at = 0
    for ino, off, kind, file_name in entries:
        assert s.unpack_u64(data, at) == ino == s.unpack_u64(old, old_at)
        assert s.unpack_i64(data, at + 8) == off
        reclen, old_reclen = s.unpack_u16(data, at + 16), s.unpack_u16(old, old_at + 16)
        assert data[at + 18] == kind == old[old_at + old_reclen - 1]
        assert data[at + 19 : data.index(b"\0", at + 19)] == file_name
        assert old[old_at + 18 : old.index(b"\0", old_at + 18)] == file_name
        assert reclen % 8 == 0 == old_reclen % 8
        assert reclen == s.dirent64_size(len(file_name))
        assert old_reclen == s.dirent_size(len(file_name))
        at += reclen
        old_at += old_reclen
    assert at == len(data)
    assert old_at == len(old)


@pytest.mark.parametrize(("sec", "nsec"), [(-1, 0), (0, -1), (0, NS), (-(2**63), 0)])
def test_times_that_are_not_valid(sec: int, nsec: int) -> None:
    with pytest.raises(LinuxError) as caught:
        s.unpack_timespec(s.TIMESPEC.pack(sec, nsec))
    assert caught.value.errno == EINVAL
    with pytest.raises(LinuxError):
        s.unpack_timeval(s.TIMEVAL.pack(sec, nsec // 1000))
    with pytest.raises(LinuxError):
        s.unpack_itimerspec(s.ITIMERSPEC.pack(0, 0, sec, nsec))


def test_times_saturate() -> None:
    assert s.unpack_timespec(s.TIMESPEC.pack(2**63 - 1, 999_999_999)) == s.KTIME_MAX
    assert s.unpack_timespec(s.TIMESPEC.pack(5, 6)) == 5 * NS + 6
    assert s.unpack_timeval(s.TIMEVAL.pack(5, 6)) == 5 * NS + 6000
    assert s.pack_timespec(-1) == s.TIMESPEC.pack(-1, 999_999_999)


def test_iovecs() -> None:
    assert s.unpack_iovec(s.IOVEC.pack(1, 2) + s.IOVEC.pack(3, 4)) == [(1, 2), (3, 4)]
    assert s.unpack_iovec(s.IOVEC.pack(0, MAX_RW_COUNT) + s.IOVEC.pack(9, 1)) == [(0, MAX_RW_COUNT), (9, 0)]
    with pytest.raises(LinuxError) as caught:
        s.unpack_iovec(s.IOVEC.pack(0, 2**63))
    assert caught.value.errno == EINVAL


def test_unix_names() -> None:
    assert sockets.unpack_sockaddr_un(b"\1\0/tmp/x\0rest") == b"/tmp/x"
    assert sockets.unpack_sockaddr_un(b"\1\0\0abs\0tract") == b"\0abs\0tract"
    assert sockets.unpack_sockaddr_un(b"\1\0") == b""
    assert sockets.pack_sockaddr_un(b"/tmp/x") == b"\1\0/tmp/x\0"
    with pytest.raises(LinuxError):
        sockets.sockaddr_family(b"\1")


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=40))))
def test_control_messages_survive(messages: list[tuple[int, int, bytes]]) -> None:
    assert sockets.unpack_cmsgs(b"".join(sockets.pack_cmsg(*message) for message in messages)) == messages


@given(st.binary(max_size=200))
def test_hostile_control_messages_end(control: bytes) -> None:
    try:
        sockets.unpack_cmsgs(control)
    except LinuxError as error:
        assert error.errno == EINVAL


def test_old_clone_args_are_zero_filled() -> None:
    args = s.CloneArgs(s.CLONE_ARGS.pack(*range(1, 12))[:64])
    assert (args.flags, args.tls, args.set_tid, args.cgroup) == (1, 8, 0, 0)


def test_error_names() -> None:
    assert (name(2), name(0), name(4000), str(LinuxError(11))) == (
        "ENOENT",
        "errno 0",
        "errno 4000",
        "EAGAIN",
    )
