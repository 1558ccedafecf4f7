"""A real gofer, confined as far as this host allows, over a fresh directory tree."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.fs.gofer_client import GoferClient
from cloche.gofer.launch import GoferProcess, spawn_gofer
from cloche.gofer.nodes import AttachPoint

READ_ONLY = 0
WRITABLE = 1
SINGLE_FILE = 2
WITH_SUID = 3


class Rig:
    """A gofer with three attach points, and its client."""

    def __init__(self, base: Path, max_open: int = 0) -> None:
        self.read_only = base / "ro"
        self.writable = base / "rw"
        self.outside = base / "outside"
        self.single = base / "single.txt"
        for path in (self.read_only, self.writable, self.outside):
            path.mkdir()
        (self.outside / "secret").write_bytes(b"secret")
        self.single.write_bytes(b"single")
        (self.read_only / "file").write_bytes(b"content")
        (self.read_only / "dir" / "deep").mkdir(parents=True)
        (self.read_only / "dir" / "deep" / "leaf").write_bytes(b"leaf")
        (self.read_only / "link").symlink_to("file")
        (self.read_only / "way-out").symlink_to(self.outside)
        os.mkfifo(self.read_only / "fifo")
        self.with_suid = base / "suid"
        self.with_suid.mkdir()
        suid = AttachPoint(str(self.with_suid), is_writable=True)
        suid.keeps_suid = True
        self.process: GoferProcess = spawn_gofer(
            [
                AttachPoint(str(self.read_only), is_writable=False),
                AttachPoint(str(self.writable), is_writable=True),
                AttachPoint(str(self.single), is_writable=False),
                suid,
            ]
        )
        self.client = GoferClient(self.process.sock)
        self.ro = self.client.attach(READ_ONLY).fid
        self.rw = self.client.attach(WRITABLE).fid

    def close(self) -> int:
        """Hang up; the gofer's wait status."""
        self.client.close()
        return os.waitpid(self.process.pid, 0)[1]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.client.close()
    try:
        os.waitpid(made.process.pid, 0)
    except ChildProcessError:
        pass
