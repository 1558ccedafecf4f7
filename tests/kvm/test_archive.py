"""cpio(1) and the kernel can read the archive."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kvm.archive import Archive


def filled(folder: Path) -> Archive:
    real = folder / "real"
    (real / "below").mkdir(parents=True)
    (real / "below" / "file").write_bytes(b"content")
    (real / "below" / "skipped.pyc").write_bytes(b"")
    os.utime(real / "below" / "file", (1_000_000_000, 1_000_000_000))
    (folder / "link").symlink_to("real")
    (folder / "link2").symlink_to("link/below/file")
    archive = Archive()
    archive.host(folder / "link2")
    archive.tree(folder / "link" / "below", ("*.pyc",))
    archive.file("/made/here", b"new", 0o755)
    archive.character_device("/dev/console", 5, 1, 0o600)
    return archive


def test_links_are_followed_and_kept(tmp_path: Path) -> None:
    names = filled(tmp_path).entries
    here = str(tmp_path)[1:]
    assert {f"{here}/{name}" for name in ("link", "link2", "real/below/file")} <= set(names)
    assert not [name for name in names if name.endswith(".pyc") or f"{here}/link/" in name]


def test_cpio_reads_it(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("needs cpio")
    (tmp_path / "in").mkdir()
    filled(tmp_path / "in").write(tmp_path / "archive")
    listed = subprocess.run(
        ["cpio", "-itv", "-F", tmp_path / "archive"], capture_output=True, text=True, check=True
    ).stdout
    assert "link2 -> link/below/file" in listed and "2001" in listed, listed
    assert "crw------- " in listed and "5,   1" in listed, listed
    (tmp_path / "out").mkdir()
    taken: list[str | Path] = [
        "cpio",
        "-id",
        "--no-absolute-filenames",
        "-F",
        tmp_path / "archive",
        "made/here",
    ]
    subprocess.run(taken, cwd=tmp_path / "out", check=True, capture_output=True)
    assert (tmp_path / "out" / "made" / "here").read_bytes() == b"new"


def test_the_same_files_give_the_same_archive(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    archive = filled(tmp_path / "in")
    archive.write(tmp_path / "a")
    archive.write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
