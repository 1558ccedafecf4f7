"""Records of sandboxes, and their logs."""

import fcntl
import json
import os
import socket
from pathlib import Path

import pytest

from cloche.runtime.logs import LogReader, LogWriter
from cloche.runtime.records import DEAD, EXITED, RUNNING, RecordError, State, Store, check_name, new_name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


def test_the_life_of_a_record(store: Store) -> None:
    record = store.create(State("a"))
    assert store.find("a").status == RUNNING
    with pytest.raises(RecordError, match="running"):
        store.create(State("a"))
    with pytest.raises(RecordError, match="running"):
        store.remove("a")
    record.finish(3, "why", 2)
    found = store.find("a")
    assert (found.status, found.exit_status, found.error, found.oom_kills) == (EXITED, 3, "why", 2)
    assert [state.name for state in store.list()] == ["a"]
    store.remove("a")
    assert store.list() == []


def test_a_monitor_that_was_killed(store: Store) -> None:
    pid = os.fork()
    if pid == 0:
        store.create(State("a"))
        os._exit(0)
    os.waitpid(pid, 0)
    assert store.find("a").status == DEAD
    with pytest.raises(RecordError):
        store.connect("a")
    store.remove("a")


def test_a_monitor_that_takes_no_connections(store: Store, tmp_path: Path) -> None:
    record = store.create(State("a"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "root" / "a" / "control"))
    listener.listen(0)
    first = store.connect("a")  # which waits to be accepted, and there is room for no other
    with pytest.raises(RecordError, match="does not answer"):
        store.connect("a")
    listener.accept()[0].close()
    assert first.recv(1) == b""
    store.connect("a").close()
    record.finish(0, "", 0)


def test_what_monitors_that_were_killed_have_left(store: Store) -> None:
    """Only of temporary ones, and of those that were not even made."""

    def dead(name: str, *, is_temporary: bool) -> None:
        pid = os.fork()
        if pid == 0:
            state = State(name)
            state.pid, state.is_temporary = os.getpid(), is_temporary
            store.create(state)
            os._exit(0)
        os.waitpid(pid, 0)  # this pid only: another test may have left a child

    dead("temporary", is_temporary=True)
    dead("kept", is_temporary=False)
    Path(store.root, "begun").mkdir(mode=0o700)
    living = State("living")
    living.is_temporary = True
    record = store.create(living)
    for name in ("temporary", "kept", "begun", "living", "unknown", "no/name"):
        store.sweep(name)
    assert {state.name for state in store.list()} == {"kept", "living"}
    record.discard()


def test_spoilt_records(store: Store) -> None:
    store.prepare()
    for name, text in (
        ("a", "{"),
        ("b", "[1]"),
        ("c", '{"command": 1, "pid": "x", "exit_status": true, "created": []}'),
    ):
        path = Path(store.root, name)
        path.mkdir()
        (path / "state.json").write_text(text)
    Path(store.root, "d").mkdir()
    Path(store.root, "not a name").mkdir()
    assert [(state.name, state.status) for state in store.list()] == [(name, DEAD) for name in "abcd"]
    assert json.dumps([state.to_json() for state in store.list()])
    for name in "abcd":
        store.remove(name)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-a", "a" * 65, "a\0", "ä"])
def test_names(store: Store, name: str) -> None:
    for use in (store.find, store.remove, store.open_record, store.connect):
        with pytest.raises(RecordError):
            use(name)
    with pytest.raises(RecordError):
        store.create(State(name))


def test_made_names() -> None:
    names = {new_name() for _ in range(200)}
    assert len(names) == 200
    check_name(names.pop())


def test_a_root_that_others_may_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(RecordError, match="only you"):
        Store(str(tmp_path)).create(State("a"))
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(RecordError, match="only you"):
        Store(str(link)).create(State("a"))


@pytest.mark.parametrize(
    "squat", ["link", "foreign", "writable", "record link", "record foreign", "socket link"]
)
def test_a_squatted_root(tmp_path: Path, squat: str) -> None:
    """What another user has made beforehand is neither believed, nor talked to, nor removed."""
    root, other = tmp_path / "root", tmp_path / "other"
    (other / "web").mkdir(parents=True)
    (other / "web" / "state.json").write_text('{"status":"running"}')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(other / "web" / "control"))
    listener.listen()
    locked = os.open(other / "web" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(locked, fcntl.LOCK_EX)
    if "foreign" in squat and os.geteuid():
        pytest.skip("needs root, to make files of others")
    if squat == "link":
        root.symlink_to(other)
    elif squat.startswith(("record", "socket")):
        root.mkdir(0o700)
        if squat == "record link":
            (root / "web").symlink_to(other / "web")
        elif squat == "record foreign":
            other.rename(root / "moved")
            (root / "moved" / "web").rename(root / "web")
            os.chown(root / "web", 12345, 12345)
        else:
            (root / "web").mkdir(0o700)
            (root / "web" / "control").symlink_to(other / "web" / "control")
    else:
        other.rename(root)
        if squat == "foreign":
            os.chown(root, 12345, 12345)
        else:
            root.chmod(0o777)
    before = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    store = Store(str(root))
    with pytest.raises(RecordError):
        store.connect("web")
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    if squat != "socket link":
        for use in (store.find, store.remove, store.open_record):
            with pytest.raises(RecordError):
                use("web")
        with pytest.raises(RecordError):
            store.create(State("web"))
        after = sorted(
            str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name != ".lock"
        )
        assert after == before
    else:
        store.remove("web")
        assert (other / "web" / "control").is_socket()


def test_logs_keep_the_latest(tmp_path: Path) -> None:
    log = LogWriter(os.open(tmp_path, os.O_PATH), 65536)
    for number in range(2000):
        log.append(1 + number % 2, b"%06d" % number * 10)
    found = list(LogReader(os.open(tmp_path, os.O_PATH)).read())
    assert 300 < len(found) < 2000 and found[-1][1:] == (2, b"001999" * 10)
    numbers = [int(data[:6]) for _when, _stream, data in found]
    assert numbers == list(range(numbers[0], 2000))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 65536


def test_logs_are_followed_over_rotations(tmp_path: Path) -> None:
    log, reader = LogWriter(os.open(tmp_path, os.O_PATH), 65536), LogReader(os.open(tmp_path, os.O_PATH))
    seen: list[int] = []
    for number in range(5000):
        log.append(1, b"%06d" % number * 10)
        if number % 50 == 0:
            seen += [int(data[:6]) for _when, _stream, data in reader.read()]
    seen += [int(data[:6]) for _when, _stream, data in reader.read()]
    assert seen == list(range(5000))
    assert list(reader.read()) == []


def test_large_entries_are_split(tmp_path: Path) -> None:
    log = LogWriter(os.open(tmp_path, os.O_PATH), 1 << 20)
    log.append(1, b"x" * 200_000)
    assert (
        b"".join(data for _when, _stream, data in LogReader(os.open(tmp_path, os.O_PATH)).read())
        == b"x" * 200_000
    )


def test_a_full_disk_is_told_of_in_the_log(tmp_path: Path) -> None:
    log = LogWriter(os.open(tmp_path, os.O_PATH), 1 << 20)
    log.append(1, b"first")
    working, log.fd = log.fd, os.open("/dev/full", os.O_WRONLY)
    log.append(1, b"lost" * 100)
    log.append(2, b"lost")
    os.close(log.fd)
    log.fd = working
    log.append(1, b"last")
    entries = [(stream, data) for _when, stream, data in LogReader(os.open(tmp_path, os.O_PATH)).read()]
    assert entries[0] == (1, b"first") and entries[2:] == [(1, b"last")], entries
    assert entries[1][0] == 2 and b"404 bytes of output are missing" in entries[1][1]
