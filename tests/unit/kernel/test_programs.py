"""What is remembered of the files that a program maps, with fakes of the platform and of mappings."""

import pytest

from cloche.kernel.programs import Program
from cloche.vfs.objects import MAY_READ

FILE_FD, TEXT_FD = 5, 6
OF_FILE, OF_TEXT = (1, 100), (2, 200)


class FakeInode:
    def __init__(self, *, is_readable: bool = True) -> None:
        self.is_readable = is_readable

    def permission(self, _ctx: object, mask: int) -> bool:
        assert mask == MAY_READ
        return self.is_readable


class FakeFile:
    def __init__(self, inode: FakeInode) -> None:
        self.inode = inode


class FakeText:
    def fd(self) -> int:
        return TEXT_FD


class FakeMapping:
    def __init__(self, inode: FakeInode, *, has_text: bool = True) -> None:
        self.file = FakeFile(inode)
        self.host_fd = FILE_FD
        self.text = FakeText() if has_text else None
        self.questions = 0

    def map_text(self) -> FakeText | None:
        self.questions += 1
        return self.text


class FakePlatform:
    """What it has to say of descriptors, and how often it was asked."""

    def __init__(self) -> None:
        self.hot: dict[int, tuple[int, int]] = {}
        self.questions = 0

    def hot_identity(self, fd: int, _family: int) -> tuple[int, int] | None:
        self.questions += 1
        return self.hot.get(fd)


@pytest.fixture
def program() -> Program:
    if type(Program.note).__name__ != "function":
        pytest.skip("compiled functions take no fakes")
    return Program()


def note(
    program: Program, platform: FakePlatform, mapping: FakeMapping, *, is_patching: bool = True
) -> list[int]:
    """One more mapping -> what a new process may have."""
    program.note(platform, mapping, 0, is_patching=is_patching)  # type: ignore[arg-type]
    return program.identities(None)  # type: ignore[arg-type]


def test_a_text_that_becomes_hot_after_its_file_is_noted_too(program: Program) -> None:
    platform, mapping = FakePlatform(), FakeMapping(FakeInode())
    assert note(program, platform, mapping) == []
    platform.hot[FILE_FD] = OF_FILE
    assert note(program, platform, mapping) == [*OF_FILE]
    platform.hot[TEXT_FD] = OF_TEXT
    assert note(program, platform, mapping) == [*OF_FILE, *OF_TEXT]


def test_what_is_known_is_not_asked_for_again(program: Program) -> None:
    platform = FakePlatform()
    platform.hot = {FILE_FD: OF_FILE, TEXT_FD: OF_TEXT}
    plain, patched = FakeMapping(FakeInode(), has_text=False), FakeMapping(FakeInode())
    note(program, platform, plain)
    assert note(program, platform, patched) == [*OF_FILE, *OF_FILE, *OF_TEXT]
    before = platform.questions
    note(program, platform, plain)
    note(program, platform, patched)
    assert platform.questions == before


def test_what_may_not_be_read_any_more_is_left_out(program: Program) -> None:
    platform, inode = FakePlatform(), FakeInode()
    platform.hot = {FILE_FD: OF_FILE, TEXT_FD: OF_TEXT}
    assert note(program, platform, FakeMapping(inode)) == [*OF_FILE, *OF_TEXT]
    inode.is_readable = False
    assert program.identities(None) == []  # type: ignore[arg-type]


def test_a_kernel_that_patches_nothing_asks_for_no_text(program: Program) -> None:
    platform, mapping = FakePlatform(), FakeMapping(FakeInode())
    platform.hot = {FILE_FD: OF_FILE, TEXT_FD: OF_TEXT}
    assert note(program, platform, mapping, is_patching=False) == [*OF_FILE]
    assert mapping.questions == 0
