"""kernel.seccomp: checking and running filters, precedence, inheritance between threads."""

import gc
import struct

import pytest

from cloche.abi import seccomp as bpf
from cloche.abi.errno import EACCES, EINVAL, ENOMEM, ENOSYS, LinuxError
from cloche.kernel import seccomp, seccomp_filter
from cloche.kernel.args import Args
from cloche.mm.quota import KERNEL_MEMORY
from cloche.syscalls.sys_seccomp import sys_seccomp
from cloche.vfs.credentials import Credentials
from tests.unit.fs.harness import Guest

LD_NR = (0x20, 0, 0, 0)
ALLOW = (0x06, 0, 0, bpf.SECCOMP_RET_ALLOW)


def ret(value: int) -> tuple[int, int, int, int]:
    return (0x06, 0, 0, value)


def code(*insns: tuple[int, int, int, int]) -> bytes:
    return b"".join([struct.pack("<HBBI", *insn) for insn in insns])


def args(number: int, *values: int) -> Args:
    made = Args()
    made.nr = number
    made.a0, made.a1, made.a2 = (*values, 0, 0, 0)[:3]
    return made


@pytest.fixture
def guest() -> Guest:
    return Guest()


def verdict(raw: bytes, call: Args) -> int:
    return seccomp.run_filter(seccomp.Filter(seccomp.checked_program(raw), None), call, 0x1234_5678_9ABC)


def test_by_number_and_argument() -> None:
    raw = code(
        LD_NR,
        (0x15, 0, 3, 39),  # jeq 39
        (0x20, 0, 0, 16),  # ld args[0], low
        (0x35, 1, 0, 100),  # jge 100
        ret(bpf.SECCOMP_RET_ERRNO | 5),
        ALLOW,
    )
    assert verdict(raw, args(39, 99)) == bpf.SECCOMP_RET_ERRNO | 5
    assert verdict(raw, args(39, 100)) == bpf.SECCOMP_RET_ALLOW
    assert verdict(raw, args(40, 0)) == bpf.SECCOMP_RET_ALLOW
    assert verdict(raw, args(39, -1)) == bpf.SECCOMP_RET_ALLOW, "unsigned"


@pytest.mark.parametrize(
    ("insns", "result"),
    [
        ([(0x20, 0, 0, 4), (0x16, 0, 0, 0)], bpf.AUDIT_ARCH_X86_64),
        ([(0x20, 0, 0, 12), (0x16, 0, 0, 0)], 0x1234),
        ([(0x20, 0, 0, 28), (0x16, 0, 0, 0)], 0xFFFFFFFF),
        ([(0x00, 0, 0, 7), (0x04, 0, 0, 5), (0x16, 0, 0, 0)], 12),
        ([(0x00, 0, 0, 7), (0x14, 0, 0, 9), (0x16, 0, 0, 0)], 0xFFFFFFFE),
        ([(0x00, 0, 0, 7), (0x07, 0, 0, 0), (0x2C, 0, 0, 0), (0x16, 0, 0, 0)], 49),
        ([(0x00, 0, 0, 7), (0x3C, 0, 0, 0), (0x16, 0, 0, 0)], 0),
        ([(0x00, 0, 0, 7), (0x02, 0, 0, 3), (0x00, 0, 0, 0), (0x60, 0, 0, 3), (0x16, 0, 0, 0)], 7),
        ([(0x00, 0, 0, 1), (0x64, 0, 0, 31), (0x74, 0, 0, 30), (0x16, 0, 0, 0)], 2),
        ([(0x00, 0, 0, 1), (0x84, 0, 0, 0), (0x16, 0, 0, 0)], 0xFFFFFFFF),
        ([(0x05, 0, 0, 1), ret(1), ret(2)], 2),
        ([(0x80, 0, 0, 0), (0x16, 0, 0, 0)], 64),
    ],
)
def test_instructions(insns: list[tuple[int, int, int, int]], result: int) -> None:
    assert verdict(code(*insns), args(1, 0, -1)) == result


@pytest.mark.parametrize(
    "insns",
    [
        [],
        [LD_NR],
        [(0x20, 0, 0, 64), ALLOW],
        [(0x20, 0, 0, 2), ALLOW],
        [(0x28, 0, 0, 0), ALLOW],
        [(0x05, 0, 0, 1), ALLOW],
        [(0x15, 0, 1, 0), ALLOW],
        [(0x34, 0, 0, 0), ALLOW],
        [(0x64, 0, 0, 32), ALLOW],
        [(0x60, 0, 0, 16), ALLOW],
        [(0x94, 0, 0, 1), ALLOW],
        [(0xFF, 0, 0, 0), ALLOW],
    ],
)
def test_refused_programs(insns: list[tuple[int, int, int, int]]) -> None:
    with pytest.raises(LinuxError) as caught:
        seccomp.checked_program(code(*insns))
    assert caught.value.errno == EINVAL


def test_a_filter_is_one_object() -> None:
    """Thousands of instructions are neither made nor given up one by one (I8)."""
    raw = code(*[(0x04, 0, 0, 1)] * 4095, ALLOW)
    gc.collect()
    before = KERNEL_MEMORY.used
    gc.disable()
    try:
        objects = len(gc.get_objects())
        made = [seccomp.Filter(seccomp.checked_program(raw), None) for _ in range(10)]
        assert len(gc.get_objects()) - objects < 100
    finally:
        gc.enable()
    assert 10 * len(raw) <= KERNEL_MEMORY.used - before < 20 * len(raw)
    made.clear()
    assert KERNEL_MEMORY.used == before


def test_verdicts_are_not_remembered_without_end() -> None:
    """The number of a call is what a guest says it is."""
    made = seccomp.Filter(seccomp.checked_program(code(LD_NR, ALLOW)), None)
    for number in (*range(2000), 1 << 40, -1):
        assert seccomp.run_filter(made, args(number), 0) == bpf.SECCOMP_RET_ALLOW
    assert 500 < len(made.verdicts) <= 1024


def add(guest: Guest, raw: bytes, flags: int = 0) -> int:
    fprog = guest.put(struct.pack("<HxxxxxxQ", len(raw) // 8, guest.put(raw)))
    return guest.call(sys_seccomp, 1, flags, fprog)


def test_installing(guest: Guest) -> None:
    raw = code(ret(bpf.SECCOMP_RET_ERRNO | 7))
    guest.task.creds = Credentials(1000, 1000)
    assert add(guest, raw) == -EACCES
    guest.task.creds.no_new_privs = True
    assert add(guest, raw, 0x40) == -EINVAL
    assert add(guest, raw, bpf.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) == -EINVAL
    assert add(guest, b"") == -EINVAL
    assert add(guest, raw) == 0
    assert guest.task.seccomp.mode == 2
    guest.task.args = args(5)
    assert seccomp.check(guest.task) == -7
    assert guest.call(sys_seccomp, 0, 0, 0) == -EINVAL, "no way back to strict mode"
    # Of several filters, the most severe wins; among equals the newest.
    assert add(guest, code(ret(bpf.SECCOMP_RET_ERRNO | 9))) == 0
    guest.task.args = args(5)
    assert seccomp.check(guest.task) == -9
    assert add(guest, code(ret(bpf.SECCOMP_RET_TRACE))) == 0
    guest.task.args = args(5)
    assert seccomp.check(guest.task) == -9
    big = code(*[LD_NR] * 4095, ALLOW)
    for _time in range(7):
        assert add(guest, big) == 0
    assert add(guest, big) == -ENOMEM


def test_actions(guest: Guest) -> None:
    task = guest.task
    for action, result in (
        (bpf.SECCOMP_RET_ALLOW, seccomp.ALLOWED),
        (bpf.SECCOMP_RET_LOG, seccomp.ALLOWED),
        (bpf.SECCOMP_RET_TRACE, -ENOSYS),
        (bpf.SECCOMP_RET_USER_NOTIF, -ENOSYS),
        (bpf.SECCOMP_RET_ERRNO | 0xFFFF, -4095),
    ):
        task.seccomp.chain = None
        seccomp.install(task, seccomp.Filter(code(ret(action)), None))
        task.args = args(3)
        assert seccomp.check(task) == result
    seccomp.install(task, seccomp.Filter(code(ret(bpf.SECCOMP_RET_TRAP | 12)), None))
    assert seccomp.check(task) == 3
    info = task.pending.queue[0]
    assert (info.signo, info.code) == (31, 1)
    assert struct.unpack_from("<iii", info.raw) == (31, 12, 1)
    assert struct.unpack_from("<QiI", info.raw, 16) == (0, 3, bpf.AUDIT_ARCH_X86_64)


def test_memo_only_where_arguments_do_not_matter() -> None:
    by_number = seccomp.Filter(code(LD_NR, (0x15, 0, 1, 1), ret(bpf.SECCOMP_RET_ERRNO | 1), ALLOW), None)
    seccomp.run_filter(by_number, args(1), 0)
    assert by_number.verdicts == {1: bpf.SECCOMP_RET_ERRNO | 1}
    by_argument = seccomp.Filter(code((0x20, 0, 0, 16), (0x16, 0, 0, 0)), None)
    assert seccomp.run_filter(by_argument, args(1, 5), 0) == 5
    assert seccomp.run_filter(by_argument, args(1, 6), 0) == 6


def test_tsync(guest: Guest) -> None:
    thread = guest.add_task(3, guest.task.group)
    raw = code(ALLOW)
    assert add(guest, raw, 1) == 0
    assert thread.seccomp.chain is guest.task.seccomp.chain
    thread_only = seccomp.Filter(code(ALLOW), None)
    seccomp.install(thread, thread_only)
    assert add(guest, raw, 1) == 3
    assert add(guest, raw, 1 | 16) == -3


def test_action_available(guest: Guest) -> None:
    at = guest.put(struct.pack("<I", bpf.SECCOMP_RET_ERRNO))
    assert guest.call(sys_seccomp, 2, 0, at) == 0
    assert guest.call(sys_seccomp, 2, 1, at) == -EINVAL
    at = guest.put(struct.pack("<I", 0x12340000))
    assert guest.call(sys_seccomp, 2, 0, at) == -95


def test_users_of_a_filter_with_a_listener(guest: Guest) -> None:
    listener = seccomp_filter.Listener(1, is_killable=False)
    lower = seccomp_filter.Filter(code(ALLOW), None)
    lower.listener = listener
    task = guest.task
    seccomp.install(task, lower)
    upper = seccomp_filter.Filter(code(ALLOW), lower)
    seccomp.install(task, upper)
    assert (lower.users, upper.users) == (1, 1)
    seccomp_filter.retain(task)  # a child
    assert upper.users == 2 and upper.has_listener()
    seccomp_filter.replace(task, None)
    task.seccomp.chain = upper
    assert not listener.is_orphaned
    seccomp_filter.replace(task, None)
    assert listener.is_orphaned and (lower.users, upper.users) == (0, 0)
    listener.close()
    assert not upper.has_listener()
