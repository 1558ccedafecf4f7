"""The processes that a caller accepts as its template."""

import os
import socket
import threading
from pathlib import Path

import pytest

from cloche.runtime import template


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    where = tmp_path / "root"
    monkeypatch.setattr(template, "default_root", lambda: str(where))
    return where


class Spawner:
    """Starts no process, but keeps the socket."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.paths: list[str] = []

    def spawn(self, listener: socket.socket, path: str) -> int:
        self.sockets.append(listener.dup())
        self.paths.append(path)
        return 17


def connect(spawner: Spawner) -> tuple[socket.socket, int]:
    found = template.connect(spawner.spawn)
    assert found is not None
    return found


def test_the_first_starts_it_and_others_find_it(root: Path) -> None:
    spawner = Spawner()
    _first, pid = connect(spawner)
    assert pid == 17
    for _ in range(3):
        assert connect(spawner)[1] == 0
    assert len(spawner.sockets) == 1
    assert Path(spawner.paths[0]).parent == root and Path(spawner.paths[0]).is_socket()


def test_one_that_has_died_is_replaced(root: Path) -> None:
    spawner = Spawner()
    connect(spawner)
    spawner.sockets[0].close()
    assert connect(spawner)[1] == 17
    assert len(list(root.glob(".template-*"))) == 2  # the socket and the lock


def test_many_at_once_start_one(root: Path) -> None:
    spawner = Spawner()
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(connect(spawner))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 and len(spawner.sockets) == 1


def test_another_umask_is_another_template(root: Path) -> None:
    spawner = Spawner()
    connect(spawner)
    old = os.umask(0o027)
    try:
        connect(spawner)
    finally:
        os.umask(old)
    assert len(set(spawner.paths)) == 2


def test_a_directory_that_others_may_write_to_is_not_used(root: Path) -> None:
    root.mkdir()
    root.chmod(0o777)
    assert template.connect(Spawner().spawn) is None


def test_what_is_no_socket_is_not_used(root: Path) -> None:
    spawner = Spawner()
    connect(spawner)
    path = Path(spawner.paths[0])
    path.unlink()
    path.write_text("")
    assert template.connect(spawner.spawn) is None
    path.unlink()
    other = root / "other"
    path.symlink_to(other)
    assert template.connect(spawner.spawn) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_socket_is_not_used(root: Path) -> None:
    spawner = Spawner()
    connect(spawner)
    spawner.sockets[0].close()
    path = Path(spawner.paths[0])
    path.unlink()
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(root)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path.name)
            os.setresuid(65534, 65534, 65534)
            listener.listen(1)
            os.write(go, b"1")
            threading.Event().wait(60)
        finally:
            os._exit(0)
    try:
        os.read(ready, 1)
        assert template.connect(spawner.spawn) is None
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_its_place_is_removed_only_while_it_is_its_own(root: Path) -> None:
    spawner = Spawner()
    connect(spawner)
    path = Path(spawner.paths[0])
    place = template.Place(str(path))
    path.unlink()
    connect(spawner)
    place.remove()
    assert path.is_socket()  # another's
    template.Place(str(path)).remove()
    assert not path.exists()
