"""Extended attributes of files that `cloche apply` writes on the host."""

import errno
import os
from pathlib import Path

import pytest

from cloche.runtime.hosttree import set_attributes


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOTSUP])
def test_what_is_not_ours_to_give_is_left_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user may read a file's security label, but give none; a user's attribute is not lost in silence."""
    given: list[str] = []

    def refuse(_fd: int, name: str, _value: bytes) -> None:
        if name != "user.fine":
            raise OSError(number, os.strerror(number))
        given.append(name)

    monkeypatch.setattr(os, "setxattr", refuse)
    with open(tmp_path / "file", "wb") as file:
        set_attributes(file.fileno(), {"security.selinux": b"label", "trusted.x": b"", "user.fine": b"1"})
        assert given == ["user.fine"]
        with pytest.raises(OSError):
            set_attributes(file.fileno(), {"user.lost": b"1"})
