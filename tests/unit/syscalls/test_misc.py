"""getrlimit(2), uname(2), getrandom(2), prctl(2), arch_prctl(2), kcmp(2), process_vm_readv(2) and the
refused calls.
"""

import struct

import pytest

from cloche.abi import prctl as pr
from cloche.abi.errno import EBADF, EFAULT, EINVAL, ENODEV, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from cloche.kernel import uts
from cloche.kernel.rlimits import default_rlimits
from cloche.mm.area import Area
from cloche.syscalls import sys_inspect, sys_misc, sys_prctl, sys_refused, sys_resource
from cloche.vfs.credentials import Credentials
from tests.unit.fs.harness import Guest

INFINITY = (1 << 64) - 1
NOWHERE = 0xFFFF_FFFF_0000


@pytest.fixture
def guest() -> Guest:
    return Guest()


def unprivileged(guest: Guest) -> None:
    guest.task.creds = Credentials(1000, 1000)


# -- limits ----------------------------------------------------------------------------------------------


def limit(guest: Guest, soft: int, hard: int) -> int:
    return guest.put(struct.pack("<QQ", soft, hard))


def test_rlimits(guest: Guest) -> None:
    guest.task.group.rlimits = default_rlimits(nofile=(100, 200))
    out = guest.put(bytes(16))
    assert guest.call(sys_resource.sys_getrlimit, 7, out) == 0
    assert struct.unpack("<QQ", guest.get(out, 16)) == (100, 200)
    assert guest.call(sys_resource.sys_getrlimit, 3, out) == 0
    assert struct.unpack("<QQ", guest.get(out, 16)) == (8 << 20, INFINITY)
    assert guest.call(sys_resource.sys_getrlimit, 16, out) == -EINVAL
    assert guest.call(sys_resource.sys_setrlimit, 7, limit(guest, 201, 200)) == -EINVAL
    assert guest.call(sys_resource.sys_setrlimit, 7, limit(guest, 1, 1 << 21)) == -EPERM
    assert guest.call(sys_resource.sys_setrlimit, 7, limit(guest, 300, 300)) == 0
    unprivileged(guest)
    assert guest.call(sys_resource.sys_setrlimit, 7, limit(guest, 300, 301)) == -EPERM
    assert guest.call(sys_resource.sys_setrlimit, 7, limit(guest, 10, 20)) == 0
    assert guest.call(sys_resource.sys_setrlimit, 7, NOWHERE) == -EFAULT


def test_file_size_limit_reaches_the_tasks(guest: Guest) -> None:
    assert guest.call(sys_resource.sys_setrlimit, 1, limit(guest, 4096, INFINITY)) == 0
    assert guest.task.file_size_limit == 4096
    assert guest.call(sys_resource.sys_setrlimit, 1, limit(guest, INFINITY, INFINITY)) == 0
    assert guest.task.file_size_limit == -1


def test_prlimit(guest: Guest) -> None:
    other = guest.add_task(7)
    other.group.rlimits[7] = (5, 6)
    out = guest.put(bytes(16))
    assert guest.call(sys_resource.sys_prlimit64, 7, 7, limit(guest, 1, 2), out) == 0
    assert struct.unpack("<QQ", guest.get(out, 16)) == (5, 6)
    assert other.group.rlimits[7] == (1, 2)
    assert guest.call(sys_resource.sys_prlimit64, 99, 7, 0, out) == -ESRCH
    unprivileged(guest)
    assert guest.call(sys_resource.sys_prlimit64, 7, 7, 0, out) == -EPERM
    assert guest.call(sys_resource.sys_prlimit64, 0, 7, 0, 0) == 0


def test_usage(guest: Guest) -> None:
    guest.task.mm.process.user_ns = 1_500_000_000  # type: ignore[attr-defined]
    guest.task.group.spent.children_system_ns = 2_000_000_000
    out = guest.put(bytes(144))
    assert guest.call(sys_resource.sys_getrusage, 0, out) == 0
    assert struct.unpack("<4q", guest.get(out, 32)) == (1, 500_000, 0, 0)
    assert guest.call(sys_resource.sys_getrusage, -1, out) == 0
    assert struct.unpack("<4q", guest.get(out, 32)) == (0, 0, 2, 0)
    assert guest.call(sys_resource.sys_getrusage, 1, out) == 0
    assert guest.call(sys_resource.sys_getrusage, 2, out) == -EINVAL


def test_sysinfo(guest: Guest) -> None:
    guest.container.memory_limit = 1 << 26
    out = guest.put(bytes(112))
    assert guest.call(sys_resource.sys_sysinfo, out) == 0
    fields = struct.unpack("<q3Q6QHHxxxxQQI", guest.get(out, 108))
    assert fields[4] == 1 << 26 and fields[10] == 1 and fields[-1] == 1


# -- names, randomness -----------------------------------------------------------------------------------


def test_uname(guest: Guest) -> None:
    out = guest.put(bytes(390))

    def names() -> list[bytes]:
        assert guest.call(sys_misc.sys_uname, out) == 0
        raw = guest.get(out, 390)
        return [raw[at : at + 65].rstrip(b"\0") for at in range(0, 390, 65)]

    assert names() == [b"Linux", b"cloche", uts.RELEASE, uts.VERSION, b"x86_64", b"(none)"]
    assert guest.call(sys_misc.sys_sethostname, guest.put(b"nameX"), 4) == 0
    assert guest.call(sys_misc.sys_setdomainname, guest.put(b"dom"), 3) == 0
    assert names()[1] == b"name" and names()[5] == b"dom"
    assert guest.call(sys_misc.sys_personality, 8 | 0x20000) == 0
    assert guest.call(sys_misc.sys_personality, 0xFFFFFFFF) == 8 | 0x20000
    assert names()[2].startswith(b"2.6.") and names()[4] == b"i686"
    assert guest.call(sys_misc.sys_sethostname, out, 65) == -EINVAL
    unprivileged(guest)
    assert guest.call(sys_misc.sys_sethostname, out, 65) == -EPERM


def test_getrandom(guest: Guest) -> None:
    out = guest.put(bytes(300))
    assert guest.call(sys_misc.sys_getrandom, out, 256, 0) == 256
    assert len(set(guest.get(out, 256))) > 50
    assert guest.get(out + 256, 44) == bytes(44)
    assert guest.call(sys_misc.sys_getrandom, out, 0, 1) == 0
    assert guest.call(sys_misc.sys_getrandom, out, 1, 8) == -EINVAL
    assert guest.call(sys_misc.sys_getrandom, out, 1, 6) == -EINVAL
    assert guest.call(sys_misc.sys_getrandom, NOWHERE, 16, 0) == -EFAULT


def test_syslog(guest: Guest) -> None:
    out = guest.put(bytes(200))
    count = guest.call(sys_misc.sys_syslog, 3, out, 200)
    assert guest.get(out, count).endswith(uts.PROC_VERSION)
    assert guest.call(sys_misc.sys_syslog, 11, 0, 0) == -EINVAL
    unprivileged(guest)
    assert guest.call(sys_misc.sys_syslog, 3, out, 200) == -EPERM


# -- prctl -----------------------------------------------------------------------------------------------


def prctl(guest: Guest, *values: int) -> int:
    return guest.call(sys_prctl.sys_prctl, *values)


def test_name(guest: Guest) -> None:
    out = guest.put(b"\xee" * 16)
    assert prctl(guest, pr.PR_SET_NAME, guest.put(b"exactly-fifteen-and-more\0")) == 0
    assert prctl(guest, pr.PR_GET_NAME, out) == 0
    assert guest.get(out, 16) == b"exactly-fifteen\0"
    assert prctl(guest, pr.PR_SET_NAME, guest.put(b"ab\0cd")) == 0
    assert guest.task.comm == b"ab"
    assert prctl(guest, pr.PR_SET_NAME, NOWHERE) == -EFAULT


def test_flags_of_the_process(guest: Guest) -> None:
    out = guest.put(bytes(8))
    assert prctl(guest, pr.PR_SET_PDEATHSIG, 9) == 0 and prctl(guest, pr.PR_GET_PDEATHSIG, out) == 0
    assert guest.get(out, 4) == b"\x09\0\0\0"
    assert prctl(guest, pr.PR_SET_PDEATHSIG, 65) == -EINVAL
    assert prctl(guest, pr.PR_SET_DUMPABLE, 0) == 0 and prctl(guest, pr.PR_GET_DUMPABLE) == 0
    assert prctl(guest, pr.PR_SET_DUMPABLE, 2) == -EINVAL
    assert prctl(guest, pr.PR_SET_CHILD_SUBREAPER, 5) == 0
    assert prctl(guest, pr.PR_GET_CHILD_SUBREAPER, out) == 0 and guest.get(out, 1) == b"\x01"
    assert prctl(guest, pr.PR_SET_TIMERSLACK, 7) == 0 and prctl(guest, pr.PR_GET_TIMERSLACK) == 7
    assert prctl(guest, pr.PR_SET_TIMERSLACK, 0) == 0 and prctl(guest, pr.PR_GET_TIMERSLACK) == 50_000
    guest.task.exit_words.clear_child_tid = 0x1234
    assert prctl(guest, pr.PR_GET_TID_ADDRESS, out) == 0
    assert struct.unpack("<Q", guest.get(out, 8))[0] == 0x1234
    for option in (0, 5, 9, 43, 50, 53, 65, 999, -1):
        assert prctl(guest, option, 0, 0, 0, 1) == -EINVAL


def test_set_vma_name(guest: Guest) -> None:
    mm = guest.task.mm
    mm._insert(Area(0x100000, 0x110000, 3, 0, None, 0, b""))
    name = guest.put(b"arena\0")
    vma = (pr.PR_SET_VMA, pr.PR_SET_VMA_ANON_NAME)
    assert prctl(guest, *vma, 0x104000, 0x2000, name) == 0
    assert [(area.start, area.name) for area in mm.areas()] == [
        (0x100000, b""),
        (0x104000, b"[anon:arena]"),
        (0x106000, b""),
    ]
    assert prctl(guest, *vma, 0x104000, 0x2000, 0) == 0
    assert len(mm.areas()) == 1
    assert prctl(guest, *vma, 0x104001, 0x2000, name) == -EINVAL
    assert prctl(guest, *vma, 0x10F000, 0x2000, name) == -ENOMEM
    assert prctl(guest, *vma, 0x104000, 0x1000, guest.put(b"a[b\0")) == -EINVAL
    assert prctl(guest, *vma, 0x104000, 0x1000, guest.put(b"x" * 80 + b"\0")) == -EINVAL


def test_set_mm(guest: Guest) -> None:
    mm = guest.task.mm
    mm._insert(Area(0x100000, 0x110000, 3, 0, None, 0, b""))
    assert prctl(guest, pr.PR_SET_MM, pr.PR_SET_MM_ARG_START, 0x100010, 0, 0) == 0
    assert mm.arg_start == 0x100010
    assert prctl(guest, pr.PR_SET_MM, pr.PR_SET_MM_ARG_START, 0x10, 0, 0) == -EINVAL
    unprivileged(guest)
    assert prctl(guest, pr.PR_SET_MM, pr.PR_SET_MM_ARG_START, 0x100010, 0, 0) == -EPERM


def test_arch_prctl(guest: Guest) -> None:
    call = sys_prctl.sys_arch_prctl
    out = guest.put(bytes(8))
    assert guest.call(call, pr.ARCH_SET_FS, 0x7000) == 0
    assert guest.call(call, pr.ARCH_GET_FS, out) == 0
    assert struct.unpack("<Q", guest.get(out, 8))[0] == 0x7000
    assert guest.call(call, pr.ARCH_SET_GS, 0x8000) == 0
    assert guest.call(call, pr.ARCH_GET_GS, out) == 0
    assert struct.unpack("<Q", guest.get(out, 8))[0] == 0x8000
    assert guest.call(call, pr.ARCH_SET_FS, -1) == -EPERM
    assert guest.call(call, pr.ARCH_GET_CPUID, 0) == 1
    assert guest.call(call, pr.ARCH_SET_CPUID, 0) == -ENODEV
    assert guest.call(call, 0x3001, out) == -EINVAL


# -- looks into others -----------------------------------------------------------------------------------


def test_kcmp(guest: Guest) -> None:
    other = guest.add_task(7)
    call = sys_inspect.sys_kcmp
    assert guest.call(call, 2, 2, 1, 0, 0) == 0
    assert guest.call(call, 2, 7, 1, 0, 0) in (1, 2)
    assert guest.call(call, 2, 7, 1, 0, 0) + guest.call(call, 7, 2, 1, 0, 0) == 3
    assert guest.call(call, 2, 99, 1, 0, 0) == -ESRCH
    assert guest.call(call, 2, 7, 0, 5, 5) == -EBADF
    assert guest.call(call, 2, 7, 99, 0, 0) == -EINVAL
    unprivileged(guest)
    assert guest.call(call, 2, 7, 1, 0, 0) == -EPERM
    assert other.tid == 7


def iov(guest: Guest, *pairs: tuple[int, int]) -> int:
    return guest.put(b"".join([struct.pack("<QQ", *pair) for pair in pairs]))


def test_process_vm(guest: Guest) -> None:
    other = guest.add_task(7)
    other.mm.process.write(0x30000, b"abcdefgh")
    out = guest.put(bytes(16))
    local, remote = iov(guest, (out, 3), (out + 8, 5)), iov(guest, (0x30000, 4), (0x30006, 2))
    read, write = sys_inspect.sys_process_vm_readv, sys_inspect.sys_process_vm_writev
    assert guest.call(read, 7, local, 2, remote, 2, 0) == 6
    assert guest.get(out, 3) == b"abc" and guest.get(out + 8, 5) == b"dgh\0\0"
    source = guest.put(b"XYZ")
    assert guest.call(write, 7, iov(guest, (source, 3)), 1, iov(guest, (0x30001, 3)), 1, 0) == 3
    assert other.mm.process.read(0x30000, 6) == b"aXYZef"
    assert guest.call(read, 7, local, 2, iov(guest, (NOWHERE, 8)), 1, 0) == -EFAULT
    assert guest.call(read, 7, local, 2, remote, 2, 1) == -EINVAL
    assert guest.call(read, 7, local, 1025, remote, 2, 0) == -EINVAL
    assert guest.call(read, 99, local, 2, remote, 2, 0) == -ESRCH
    assert guest.call(read, 99, local, 0, remote, 2, 0) == 0
    unprivileged(guest)
    assert guest.call(read, 7, local, 2, remote, 2, 0) == -EPERM


def test_refused(guest: Guest) -> None:
    for name in dir(sys_refused):
        if name.startswith("sys_"):
            handler = getattr(sys_refused, name)
            assert guest.call(handler, 1, 1, 1) in (-EPERM, -ENOSYS, -EOPNOTSUPP), name
    assert guest.call(sys_refused.sys_iopl, 4) == -EINVAL
    assert guest.call(sys_refused.sys_iopl, 0) == 0
    assert guest.call(sys_refused.sys_ioperm, 65536, 1, 1) == -EINVAL
