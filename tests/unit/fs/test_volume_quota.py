"""The account of a volume: what is refused, and what is entered for a write into a file with holes."""

import os
from pathlib import Path

from cloche.fs.volume_quota import FileCharge, VolumeQuota
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
    st = quota.begin(charge, fd)
    assert st.st_blocks == 5 * PAGE // 512
    # holes: 2 3, then 7 8 of 7 to 15
    length, reserved = quota.affordable(fd, st, 100, 16 * PAGE - 100)
    assert (length, reserved) == (9 * PAGE - 100, 4 * PAGE)
    quota.settle(charge, fd, reserved)
    assert quota.room() == 4 * PAGE
    # what is there already may be written to although nothing is left
    quota.charge(4 * PAGE)
    st = quota.begin(charge, fd)
    assert quota.affordable(fd, st, 10, 2 * PAGE - 10) == (2 * PAGE - 10, 0)
    assert quota.affordable(fd, st, PAGE, 3 * PAGE) == (PAGE, 0)
    assert quota.affordable(fd, st, 2 * PAGE, 10) == (0, 0)
    quota.settle(charge, fd, 0)


def test_what_another_has_removed_is_entered_once_it_is_written_to(tmp_path: Path) -> None:
    quota = VolumeQuota(account(tmp_path, 10 * PAGE, 0), 0)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, bytes(3 * PAGE), 0)
    os.unlink(tmp_path / "file")
    charge = FileCharge()
    for _ in range(2):
        quota.begin(charge, fd)
        quota.settle(charge, fd, 0)
        assert quota.room() == 7 * PAGE
