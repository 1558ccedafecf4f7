"""`cloche import` of a directory while a sandbox, which may write there, exchanges its names."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from cloche.cli.import_ import pack
from cloche.images.errors import ImageError
from tests.unit.runtime.places import SECRET, shared_place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that becomes an image, beside one that must not."""
    return shared_place(tmp_path)


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        return {info.name: info for info in tar}


class Exchanging(io.BytesIO):
    """A stream that exchanges a directory for a link once its header was written."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place: Path = place

    def write(self, data: "bytes | memoryview", /) -> int:  # type: ignore[override]
        done = super().write(data)
        if b"./aa" in self.getvalue() and not (self.place / "sub").is_symlink():
            (self.place / "sub").rename(self.place / "moved")
            (self.place / "sub").symlink_to("../private")
        return done


def test_an_exchanged_directory_leads_nowhere(place: Path) -> None:
    (place / "aa").write_bytes(bytes(1 << 20))  # more than is written at once
    out = Exchanging(place)
    pack(str(place), out)
    assert (place / "sub").is_symlink() and SECRET not in out.getvalue()
    assert members(out.getvalue())["./sub"].issym()


@pytest.mark.parametrize("name", ["key", "sub"])
def test_a_name_that_is_exchanged_late_leads_nowhere(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a file and its open."""
    real = os.lstat, os.stat

    def exchange(path: object) -> None:
        there = place / "sub" / "key" if name == "key" else place / "sub"
        if isinstance(path, (str, bytes)) and os.path.basename(os.fsencode(path)) == name.encode():
            if not there.is_symlink():
                there.rename(place.parent / "moved")
                there.symlink_to(place.parent / "private" / ("key" if name == "key" else ""))

    def lstat(path: str | bytes, *, dir_fd: int | None = None) -> os.stat_result:
        found = real[0](path, dir_fd=dir_fd)
        exchange(path)
        return found

    def stat(path: int | str | bytes, **words: object) -> os.stat_result:
        found = real[1](path, **words)  # type: ignore[arg-type]
        exchange(path)
        return found

    out = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", lstat)
        patched.setattr(os, "stat", stat)
        with pytest.raises(OSError):
            pack(str(place), out)
    assert SECRET not in out.getvalue()


def test_all_kinds_of_files(place: Path) -> None:
    os.link(place / "zz", place / "zzz")
    (place / "to").symlink_to("/nowhere")
    os.mkfifo(place / "pipe")
    with open(place / "holes", "wb") as file:
        file.truncate(1 << 20)
        file.seek(300_000)
        file.write(b"in the middle")
    os.utime(place / "zz", ns=(1_500_000_000, 1_500_000_001))
    out = io.BytesIO()
    pack(str(place), out)
    found = members(out.getvalue())
    assert list(found) == [".", "./holes", "./pipe", "./sub", "./sub/key", "./to", "./zz", "./zzz"]
    assert found["./zzz"].islnk() and found["./zzz"].linkname == "./zz" and found["./pipe"].isfifo()
    assert found["./to"].linkname == "/nowhere" and found["./zz"].pax_headers["mtime"] == "1.500000001"
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        contents = tar.extractfile("./holes")
        assert contents is not None and contents.read() == (place / "holes").read_bytes()


@pytest.mark.parametrize("depth", [500, 1100])
def test_a_deep_tree(tmp_path: Path, depth: int) -> None:
    """As deep as an image's may be; deeper than Python may call itself, and than a path may be long."""
    at = os.open(tmp_path, os.O_RDONLY)
    for _level in range(depth):
        os.mkdir("four", dir_fd=at)
        below = os.open("four", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    out = io.BytesIO()
    try:
        if depth == 500:
            pack(str(tmp_path), out)
            assert max(len(name) for name in members(out.getvalue())) == 1 + 5 * depth
        else:
            with pytest.raises(ImageError):
                pack(str(tmp_path), out)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "four")], check=True)  # rmtree would call itself
