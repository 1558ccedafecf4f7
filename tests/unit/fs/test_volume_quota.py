"""The account of a volume: what is refused, and what is entered for a write into a file with holes."""

import os
from pathlib import Path

import pytest

from cloche.abi.errno import LinuxError
from cloche.fs.kept_disk import InFlight
from cloche.fs.volume_quota import FileCharge, VolumeQuota
from cloche.kernel.host_wait import HostWait
from cloche.wire.volume import SLOTS, Account, pack_account, unpack_account

PAGE = 4096


def account(tmp_path: Path, limit: int, *slots: int) -> int:
    path = tmp_path / "sizes"
    path.write_bytes(pack_account(Account(limit, [*slots, *([0] * (SLOTS - len(slots)))])))
    return os.open(path, os.O_RDWR)


def test_two_slots_are_one_account(tmp_path: Path) -> None:
    fd = account(tmp_path, 10 * PAGE, 2 * PAGE)
    one, two = VolumeQuota(fd, 0), VolumeQuota(fd, 1)
    assert one.room() == two.room() == 8 * PAGE
    assert one.reserve(5 * PAGE) == 5 * PAGE
    assert two.reserve(5 * PAGE) == 3 * PAGE
    assert two.reserve(1) == 0 and one.room() == 0
    one.charge(-7 * PAGE)
    assert two.room() == 7 * PAGE
    assert unpack_account(os.pread(fd, 1 << 16, 0)).slots[:2] == [0, 3 * PAGE]


def test_a_write_reaches_as_far_as_there_is_room_for_its_holes(tmp_path: Path) -> None:
    quota = VolumeQuota(account(tmp_path, 4 * PAGE), 0)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 16 * PAGE)
    for page in (0, 1, 4, 5, 6):
        os.pwrite(fd, bytes(PAGE), page * PAGE)
    charge = FileCharge()
    with quota.change(charge, fd) as change:
        assert change.st.st_blocks == 5 * PAGE // 512
        # holes: 2 3, then 7 8 of 7 to 15
        assert change.afford(100, 16 * PAGE - 100) == 9 * PAGE - 100
        assert quota.room() == 0
    assert quota.room() == 4 * PAGE
    # what is there already may be written to although nothing is left
    quota.charge(4 * PAGE)
    for offset, length, room in (
        (10, 2 * PAGE - 10, 2 * PAGE - 10),
        (PAGE, 3 * PAGE, PAGE),
        (2 * PAGE, 10, 0),
    ):
        with quota.change(charge, fd) as change:
            assert change.afford(offset, length) == room


def test_a_change_that_fails_or_waits_keeps_nothing_reserved(tmp_path: Path) -> None:
    quota = VolumeQuota(account(tmp_path, 4 * PAGE), 0)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    charge = FileCharge()
    with pytest.raises(LinuxError), quota.change(charge, fd) as change:
        change.fill(5 * PAGE)
    assert quota.room() == 4 * PAGE
    with pytest.raises(HostWait), quota.change(charge, fd) as change:
        assert change.afford(0, 2 * PAGE) == 2 * PAGE
        raise HostWait(InFlight())
    assert quota.room() == 4 * PAGE
    os.pwrite(fd, bytes(2 * PAGE), 0)  # by the gofer, before the call is run again
    with quota.change(charge, fd):
        pass
    assert quota.room() == 2 * PAGE


def test_what_another_has_removed_is_entered_once_it_is_written_to(tmp_path: Path) -> None:
    quota = VolumeQuota(account(tmp_path, 10 * PAGE, 0), 0)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, bytes(3 * PAGE), 0)
    os.unlink(tmp_path / "file")
    charge = FileCharge()
    for _ in range(2):
        with quota.change(charge, fd):
            pass
        assert quota.room() == 7 * PAGE
