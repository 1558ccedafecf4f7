"""credentials(7) and capabilities(7): every transition, against the rules of the manual pages."""

import struct

import pytest

from cloche.abi import capability as cap
from cloche.abi import prctl as pr
from cloche.abi.errno import EINVAL, EPERM, ESRCH
from cloche.kernel import creds
from cloche.syscalls import sys_cred
from cloche.syscalls.sys_prctl import sys_prctl
from cloche.vfs.credentials import ALL_CAPS, Credentials
from tests.unit.fs.harness import Guest

KEEP = -1


@pytest.fixture
def guest() -> Guest:
    return Guest()


def become(guest: Guest, uid: int, caps: int = 0) -> Credentials:
    guest.task.creds = Credentials(uid, uid, caps=caps)
    return guest.task.creds


def uids(guest: Guest) -> tuple[int, int, int, int]:
    held = guest.task.creds
    return held.uid, held.euid, held.suid, held.fsuid


def gids(guest: Guest) -> tuple[int, int, int, int]:
    held = guest.task.creds
    return held.gid, held.egid, held.sgid, held.fsgid


def test_setuid_of_root_drops_everything(guest: Guest) -> None:
    old = guest.task.creds
    guest.task.group.is_dumpable = True
    assert guest.call(sys_cred.sys_setuid, 1000) == 0
    assert uids(guest) == (1000, 1000, 1000, 1000)
    held = guest.task.creds
    assert held.cap_permitted == held.cap_effective == 0
    assert guest.task.group.is_dumpable is False
    assert old.uid == 0, "open files keep the old credentials"
    assert guest.call(sys_cred.sys_setuid, 0) == -EPERM
    assert guest.call(sys_cred.sys_setuid, KEEP) == -EINVAL


def test_setuid_without_privilege(guest: Guest) -> None:
    become(guest, 1000)
    guest.task.creds.suid = 2000
    assert guest.call(sys_cred.sys_setuid, 2000) == 0
    assert uids(guest) == (1000, 2000, 2000, 2000)
    assert guest.call(sys_cred.sys_setuid, 3000) == -EPERM


def test_setreuid(guest: Guest) -> None:
    become(guest, 1000)
    guest.task.creds.suid = 2000
    assert guest.call(sys_cred.sys_setreuid, KEEP, 2000) == 0
    assert uids(guest) == (1000, 2000, 2000, 2000)
    assert guest.call(sys_cred.sys_setreuid, 2000, 1000) == 0
    assert uids(guest) == (2000, 1000, 1000, 1000)
    assert guest.call(sys_cred.sys_setreuid, 3000, KEEP) == -EPERM


def test_seteuid_keeps_permitted(guest: Guest) -> None:
    assert guest.call(sys_cred.sys_setresuid, KEEP, 1000, KEEP) == 0
    held = guest.task.creds
    assert held.cap_effective == 0 and held.cap_permitted == ALL_CAPS
    assert guest.call(sys_cred.sys_setresuid, KEEP, 0, KEEP) == 0
    assert guest.task.creds.cap_effective == ALL_CAPS


def test_setresuid_swaps_freely(guest: Guest) -> None:
    become(guest, 1)
    guest.task.creds.euid, guest.task.creds.suid = 2, 3
    assert guest.call(sys_cred.sys_setresuid, 3, 1, 2) == 0
    assert uids(guest) == (3, 1, 2, 1)
    assert guest.call(sys_cred.sys_setresuid, 3, 1, 9) == -EPERM


def test_gids(guest: Guest) -> None:
    assert guest.call(sys_cred.sys_setregid, 5, 6) == 0
    assert gids(guest) == (5, 6, 6, 6)
    assert guest.call(sys_cred.sys_setresgid, 1, 2, 3) == 0
    assert gids(guest) == (1, 2, 3, 2)
    assert guest.call(sys_cred.sys_setgid, 9) == 0
    assert gids(guest) == (9, 9, 9, 9)
    assert guest.task.creds.cap_effective == ALL_CAPS, "gids do not touch capabilities"
    guest.task.creds.cap_effective = 0
    assert guest.call(sys_cred.sys_setgid, 8) == -EPERM
    assert guest.call(sys_cred.sys_setregid, 8, KEEP) == -EPERM
    assert guest.call(sys_cred.sys_setresgid, 8, KEEP, KEEP) == -EPERM


def test_getres(guest: Guest) -> None:
    guest.call(sys_cred.sys_setresuid, 0, 7, 8)
    at = guest.put(bytes(12))
    assert guest.call(sys_cred.sys_getresuid, at, at + 4, at + 8) == 0
    assert struct.unpack("<3I", guest.get(at, 12)) == (0, 7, 8)
    guest.task.creds.gid, guest.task.creds.egid, guest.task.creds.sgid = 4, 5, 6
    assert guest.call(sys_cred.sys_getresgid, at, at + 4, at + 8) == 0
    assert struct.unpack("<3I", guest.get(at, 12)) == (4, 5, 6)
    assert guest.call(sys_cred.sys_getresuid, 0xFFFF_FFFF_0000, at, at) < 0


def test_setfsuid(guest: Guest) -> None:
    assert guest.call(sys_cred.sys_setfsuid, 1000) == 0
    held = guest.task.creds
    assert held.fsuid == 1000 and not held.cap_effective & creds.FS_CAPS
    assert held.capable(cap.CAP_KILL)
    assert guest.call(sys_cred.sys_setfsuid, KEEP) == 1000
    assert guest.call(sys_cred.sys_setfsuid, 0) == 1000
    assert guest.task.creds.cap_effective == ALL_CAPS
    become(guest, 1000)
    assert guest.call(sys_cred.sys_setfsuid, 2000) == 1000
    assert guest.task.creds.fsuid == 1000
    assert guest.call(sys_cred.sys_setfsgid, 1000) == 1000


def test_groups(guest: Guest) -> None:
    at = guest.put(struct.pack("<3I", 30, 10, 20))
    assert guest.call(sys_cred.sys_setgroups, 3, at) == 0
    assert guest.call(sys_cred.sys_getgroups, 0, 0) == 3
    assert guest.call(sys_cred.sys_getgroups, 2, at) == -EINVAL
    assert guest.call(sys_cred.sys_getgroups, -1, at) == -EINVAL
    assert guest.call(sys_cred.sys_getgroups, 3, at) == 3
    assert struct.unpack("<3I", guest.get(at, 12)) == (10, 20, 30)
    assert guest.call(sys_cred.sys_setgroups, 65537, at) == -EINVAL
    assert guest.call(sys_cred.sys_setgroups, 0, 0) == 0
    assert guest.task.creds.groups == []
    become(guest, 1000)
    assert guest.call(sys_cred.sys_setgroups, 0, 0) == -EPERM


def header(guest: Guest, version: int, pid: int = 0) -> int:
    return guest.put(struct.pack("<Ii", version, pid))


V1, V3 = 0x19980330, 0x20080522


def test_capget(guest: Guest) -> None:
    data = guest.put(bytes(24))
    assert guest.call(sys_cred.sys_capget, header(guest, V3), data) == 0
    words = struct.unpack("<6I", guest.get(data, 24))
    assert words == (0xFFFFFFFF, 0xFFFFFFFF, 0, 0x1FF, 0x1FF, 0)
    probe = header(guest, 0)
    assert guest.call(sys_cred.sys_capget, probe, 0) == 0
    assert struct.unpack("<I", guest.get(probe, 4))[0] == V3
    assert guest.call(sys_cred.sys_capget, header(guest, 0), data) == -EINVAL
    assert guest.call(sys_cred.sys_capget, header(guest, V3, -1), data) == -EINVAL
    assert guest.call(sys_cred.sys_capget, header(guest, V3, 99), data) == -ESRCH
    data = guest.put(b"\xee" * 24)
    assert guest.call(sys_cred.sys_capget, header(guest, V1), data) == 0
    assert guest.get(data + 12, 12) == b"\xee" * 12


def capset(guest: Guest, effective: int, permitted: int, inheritable: int) -> int:
    low = struct.pack("<3I", effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF)
    high = struct.pack("<3I", effective >> 32, permitted >> 32, inheritable >> 32)
    return guest.call(sys_cred.sys_capset, header(guest, V3), guest.put(low + high))


def test_capset(guest: Guest) -> None:
    kill = 1 << cap.CAP_KILL
    become(guest, 1000, kill | 1 << cap.CAP_CHOWN)
    assert capset(guest, kill, kill, 0) == 0
    assert capset(guest, kill, kill | 1 << cap.CAP_CHOWN, 0) == -EPERM, "permitted never grows"
    assert capset(guest, 0, 0, 1 << cap.CAP_CHOWN) == -EPERM, "inheritable is capped without CAP_SETPCAP"
    assert capset(guest, 0, kill, kill) == 0
    assert capset(guest, kill, 0, 0) == -EPERM, "effective is within permitted"
    assert guest.call(sys_cred.sys_capset, header(guest, V3, 99), guest.put(bytes(24))) == -EPERM


def test_capset_with_setpcap_is_limited_by_bounding(guest: Guest) -> None:
    setpcap, kill = 1 << cap.CAP_SETPCAP, 1 << cap.CAP_KILL
    become(guest, 1000, setpcap)
    guest.task.creds.cap_bounding = kill
    assert capset(guest, setpcap, setpcap, kill) == 0
    assert capset(guest, setpcap, setpcap, kill | 1 << cap.CAP_CHOWN) == -EPERM


def prctl(guest: Guest, *values: int) -> int:
    return guest.call(sys_prctl, *values)


def test_keepcaps(guest: Guest) -> None:
    assert prctl(guest, pr.PR_SET_KEEPCAPS, 1) == 0
    assert prctl(guest, pr.PR_GET_KEEPCAPS) == 1
    guest.call(sys_cred.sys_setuid, 1000)
    assert guest.task.creds.cap_permitted == ALL_CAPS and guest.task.creds.cap_effective == 0
    assert prctl(guest, pr.PR_SET_KEEPCAPS, 2) == -EINVAL


def test_no_setuid_fixup(guest: Guest) -> None:
    assert prctl(guest, pr.PR_SET_SECUREBITS, creds.SECBIT_NO_SETUID_FIXUP) == 0
    guest.call(sys_cred.sys_setuid, 1000)
    assert guest.task.creds.cap_effective == ALL_CAPS


def test_securebits_locks(guest: Guest) -> None:
    assert prctl(guest, pr.PR_SET_SECUREBITS, 0x30) == 0  # KEEP_CAPS, locked
    assert prctl(guest, pr.PR_GET_SECUREBITS) == 0x30
    assert prctl(guest, pr.PR_SET_SECUREBITS, 0x20) == -EPERM
    assert prctl(guest, pr.PR_SET_SECUREBITS, 0x10) == -EPERM
    assert prctl(guest, pr.PR_SET_KEEPCAPS, 0) == -EPERM
    assert prctl(guest, pr.PR_SET_SECUREBITS, 0x100) == -EPERM


def test_bounding(guest: Guest) -> None:
    assert prctl(guest, pr.PR_CAPBSET_READ, cap.CAP_KILL) == 1
    assert prctl(guest, pr.PR_CAPBSET_DROP, cap.CAP_KILL) == 0
    assert prctl(guest, pr.PR_CAPBSET_READ, cap.CAP_KILL) == 0
    assert prctl(guest, pr.PR_CAPBSET_READ, 41) == -EINVAL
    assert prctl(guest, pr.PR_CAPBSET_DROP, 41) == -EINVAL
    become(guest, 1000)
    assert prctl(guest, pr.PR_CAPBSET_DROP, 41) == -EPERM


def test_ambient(guest: Guest) -> None:
    kill = cap.CAP_KILL
    assert prctl(guest, pr.PR_CAP_AMBIENT, pr.PR_CAP_AMBIENT_RAISE, kill, 0, 0) == -EPERM
    assert capset(guest, ALL_CAPS, ALL_CAPS, 1 << kill) == 0
    assert prctl(guest, pr.PR_CAP_AMBIENT, pr.PR_CAP_AMBIENT_RAISE, kill, 0, 0) == 0
    assert prctl(guest, pr.PR_CAP_AMBIENT, pr.PR_CAP_AMBIENT_IS_SET, kill, 0, 0) == 1
    assert prctl(guest, pr.PR_CAP_AMBIENT, pr.PR_CAP_AMBIENT_LOWER, kill, 0, 0) == 0
    assert guest.task.creds.cap_ambient == 0
    prctl(guest, pr.PR_CAP_AMBIENT, pr.PR_CAP_AMBIENT_RAISE, kill, 0, 0)
    assert capset(guest, ALL_CAPS, ALL_CAPS, 0) == 0
    assert guest.task.creds.cap_ambient == 0, "ambient stays within inheritable"
    assert prctl(guest, pr.PR_CAP_AMBIENT, pr.PR_CAP_AMBIENT_CLEAR_ALL, 1, 0, 0) == -EINVAL
    assert prctl(guest, pr.PR_CAP_AMBIENT, pr.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0
    assert prctl(guest, pr.PR_CAP_AMBIENT, 9, kill, 0, 0) == -EINVAL
    assert prctl(guest, pr.PR_CAP_AMBIENT, pr.PR_CAP_AMBIENT_IS_SET, 63, 0, 0) == -EINVAL


def test_leaving_root_clears_ambient(guest: Guest) -> None:
    capset(guest, ALL_CAPS, ALL_CAPS, 1 << cap.CAP_KILL)
    prctl(guest, pr.PR_CAP_AMBIENT, pr.PR_CAP_AMBIENT_RAISE, cap.CAP_KILL, 0, 0)
    guest.call(sys_cred.sys_setuid, 1000)
    assert guest.task.creds.cap_ambient == 0


def test_no_new_privs(guest: Guest) -> None:
    assert prctl(guest, pr.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0
    assert prctl(guest, pr.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) == -EINVAL
    assert prctl(guest, pr.PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0) == -EINVAL
    assert prctl(guest, pr.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert prctl(guest, pr.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1
