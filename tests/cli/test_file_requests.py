"""Requests for the files of a sandbox that runs (`wire.files`), as clients make them."""

import errno
import os
import stat
from collections.abc import Iterator

import pytest

from cloche.runtime.records import Store
from cloche.wire import files
from cloche.wire.control_client import ControlClient, ControlError
from cloche.wire.file_client import FileClient, FileError
from cloche.wire.files import FileEntry
from tests.cli.test_exec import Box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    made = Box(tmp_path_factory.mktemp("requests"), [])
    made.start("sleep", "1000")
    yield made
    made.end()


@pytest.fixture
def client(box: Box) -> Iterator[FileClient]:
    connection = ControlClient(Store(str(box.root)).connect("box"))
    yield FileClient(connection)
    connection.close()


def file_records(path: bytes, data: bytes, *, mode: int = 0o644, size: int = -1) -> Iterator[bytes]:
    """The records of one file."""
    entry = FileEntry(path, stat.S_IFREG | mode)
    entry.uid = entry.gid = files.KEEP
    entry.mtime_ns = files.KEEP_NS
    yield files.pack(entry.to_list())
    if data:
        yield files.pack_data(0, data)
    yield files.pack_end(max(size, len(data)))


def sh(box: Box, script: str) -> str:
    done = box("exec", "box", "--", "sh", "-c", script)
    assert done.status == 0, done
    return done.out


def errno_of(function: object, *args: object, **named: object) -> int:
    with pytest.raises(FileError) as caught:
        function(*args, **named)  # type: ignore[operator]
    return caught.value.errno


def test_files_are_written_whole_and_read_back(box: Box, client: FileClient) -> None:
    blob = os.urandom(3_000_000)
    assert client.put(b"/tmp/put", file_records(b"a/b\xff\n", blob, mode=0o751), parents=True) == 1
    entry = client.stat(b"/tmp/put/a/b\xff\n")
    assert stat.S_IMODE(entry.mode) == 0o751 and entry.size == len(blob) and entry.uid == os.geteuid()
    found = list(client.get([b"/tmp/put/a/b\xff\n"]))
    assert b"".join(record.data for record in found if record.kind == files.DATA) == blob
    assert found[-1].kind == files.END and found[-1].offset == len(blob)
    # No temporary file is left; one name has a newline
    assert sh(box, "ls -a /tmp/put/a | wc -l").strip() == "4"
    client.remove(b"/tmp/put", recursive=True)
    assert errno_of(client.stat, b"/tmp/put") == errno.ENOENT


def test_a_stream_that_is_cut_off_leaves_nothing(box: Box, client: FileClient) -> None:
    def cut() -> Iterator[bytes]:
        yield from list(file_records(b"half", b"x" * 1000))[:2]
        raise KeyboardInterrupt

    sh(box, "mkdir -p /tmp/cut")
    with pytest.raises(KeyboardInterrupt):
        client.put(b"/tmp/cut", cut())
    assert client.stat(b"/tmp/cut").mode & stat.S_IFDIR  # and the sandbox serves on
    assert sh(box, 'while [ -n "$(ls -A /tmp/cut)" ]; do :; done; ls -A /tmp/cut') == ""


def test_holes_stay_holes(box: Box, client: FileClient) -> None:
    sh(
        box,
        "truncate -s 4T /tmp/sparse; printf end | dd of=/tmp/sparse bs=1 seek=5000000000 conv=notrunc 2>&1",
    )
    found = list(client.get([b"/tmp/sparse"]))
    data = [record for record in found if record.kind == files.DATA]
    assert sum(len(record.data) for record in data) <= 1 << 17 and found[-1].offset == 4 << 40
    assert data[-1].data.rstrip(b"\0").endswith(b"end")
    client.put(b"/tmp", file_records(b"sparse2", b"x", size=1 << 40))
    assert sh(box, "stat -c '%s %b' /tmp/sparse2").split() == [str(1 << 40), "8"]


def test_special_files_are_named_and_never_opened(box: Box, client: FileClient) -> None:
    sh(
        box,
        "mkdir -p /tmp/odd; cd /tmp/odd; mkfifo fifo; ln -s fifo link; ln -s nowhere dangling; echo x >f; ln f g",
    )
    found = {
        record.entry.path: record.entry
        for record in client.get([b"/tmp/odd"], depth=9)
        if record.entry is not None
    }
    assert stat.S_ISFIFO(found[b"fifo"].mode) and found[b"link"].target == b"fifo"
    links = [found[name].is_link for name in (b"f", b"g")]
    assert sorted(links) == [False, True]
    [fifo] = list(client.get([b"/tmp/odd/link"], follow=True))
    assert fifo.entry is not None and stat.S_ISFIFO(fifo.entry.mode)
    assert [record.kind for record in client.get([b"/tmp/odd/none"])] == [files.ERROR]


def test_writing_follows_a_link_only_if_asked_to(box: Box, client: FileClient) -> None:
    sh(
        box,
        "mkdir -p /tmp/l; cd /tmp/l; echo old >target; chmod 604 target; ln -s target link; mkdir d; ln -s d dl",
    )
    client.put(b"/tmp/l", file_records(b"link", b"new", mode=0), follow=True)
    assert (
        sh(box, "cd /tmp/l; cat target; stat -c %F,%a link target")
        == "newsymbolic link,777\nregular file,604\n"
    )
    client.put(b"/tmp/l", file_records(b"link", b"own"))
    assert sh(box, "cd /tmp/l; cat link target; stat -c %F link") == "ownnewregular file\n"
    assert errno_of(client.put, b"/tmp/l", file_records(b"d", b"x")) == errno.EISDIR
    assert errno_of(client.put, b"/tmp/l/target", file_records(b"d", b"x")) == errno.ENOTDIR
    with pytest.raises(ControlError):
        client.put(b"/tmp/l", file_records(b"../out", b"x"))


def test_names_are_changed_and_removed(box: Box, client: FileClient) -> None:
    client.make_directory(b"/tmp/m/n/o", 0o700, parents=True)
    assert errno_of(client.make_directory, b"/tmp/m") == errno.EEXIST
    client.rename(b"/tmp/m/n", b"/tmp/m/p")
    assert stat.S_IMODE(client.stat(b"/tmp/m/p/o").mode) == 0o700
    assert errno_of(client.remove, b"/tmp/m") == errno.ENOTEMPTY
    assert errno_of(client.rename, b"/tmp/none", b"/tmp/x") == errno.ENOENT
    client.remove(b"/tmp/m/p/o")
    client.remove(b"/tmp/m", recursive=True)
    assert errno_of(client.remove, b"/tmp/m") == errno.ENOENT
    assert errno_of(client.remove, b"/proc/self", recursive=True) in (errno.ENOENT, errno.EPERM)


def test_as_another_user_one_has_that_users_rights(box: Box, client: FileClient) -> None:
    if os.geteuid():
        pytest.skip("only root runs the command inside as root")
    sh(box, "mkdir -p /tmp/secret; echo x >/tmp/secret/f; chmod 700 /tmp/secret")
    other = FileClient(client.client, {"uid": 12345, "gid": 12345})
    assert errno_of(other.stat, b"/tmp/secret/f") == errno.EACCES
    assert errno_of(other.put, b"/tmp/secret", file_records(b"g", b"x")) == errno.EACCES
    other.put(b"/tmp", file_records(b"theirs", b"x"))
    assert (client.stat(b"/tmp/theirs").uid, client.stat(b"/tmp/secret/f").uid) == (12345, 0)


def test_very_many_names(box: Box, client: FileClient) -> None:
    sh(box, "mkdir -p /tmp/many; cd /tmp/many; seq -f 'file %06.0f' 1 20000 | xargs -d '\\n' touch")
    names = {record.entry.path for record in client.get([b"/tmp/many"], depth=1, data=False) if record.entry}
    assert len(names) == 20001
    client.remove(b"/tmp/many", recursive=True)
    assert errno_of(client.stat, b"/tmp/many") == errno.ENOENT
