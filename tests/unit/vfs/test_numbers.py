"""Numbers that guests write as text."""

import pytest

from cloche.abi.errno import EINVAL, LinuxError
from cloche.fs.tmpfs_options import parse_options
from cloche.vfs.pseudo import parse_digits, parse_int


@pytest.mark.parametrize(
    ("text", "base", "value"),
    [(b"0", 10, 0), (b"17", 10, 17), (b"17", 8, 15), (b"ff", 16, 255), (b"0" * 5000 + b"7", 10, 7)],
)
def test_digits(text: bytes, base: int, value: int) -> None:
    assert parse_digits(text, base) == value


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"8" * 67, b"9" * 5000, b"a", b"\xb2", b"0x1"]
)
def test_what_are_none(text: bytes) -> None:
    with pytest.raises(LinuxError) as caught:
        parse_digits(text)
    assert caught.value.errno == EINVAL


@pytest.mark.parametrize(
    "text", [b"9" * 5000, b"-" + b"9" * 5000, b"0x" + b"f" * 60000, b"0" + b"7" * 60000, b"1_0"]
)
def test_values_of_sysctls_are_bounded(text: bytes) -> None:
    with pytest.raises(LinuxError):
        parse_int(text + b"\n")


@pytest.mark.parametrize(
    "option",
    [b"size=" + b"9" * 5000, b"size=1" + b"t" * 5000, b"nr_inodes=" + b"1" * 5000 + b"k", b"mode=" + b"7" * 5000, b"uid=-1", b"uid=1_0",
     b"gid= 1"],
)  # fmt: skip
def test_options_of_tmpfs_are_bounded(option: bytes) -> None:
    with pytest.raises(LinuxError):
        parse_options(option, 1 << 30)
