"""Files: read and written by the kernel inside, without a program of the sandbox, and without trust in its answers."""

import asyncio
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche import AsyncSandbox, Sandbox
from cloche.sdk import FileError, FileNotFound, InvalidArgument, Mount, SandboxEnded, SandboxError

CONTENTS = [b"", b"x", bytes(range(256)), os.urandom(1_000_000)]


@pytest.fixture
def place(shared: Sandbox) -> Iterator[str]:
    """A directory inside."""
    shared.files.make_dir("/tmp/place")
    yield "/tmp/place"
    shared.files.remove("/tmp/place")


@pytest.mark.parametrize("data", CONTENTS, ids=[str(len(data)) for data in CONTENTS])
def test_there_and_back(shared: Sandbox, place: str, data: bytes) -> None:
    path = f"{place}/new/directories/file"
    info = shared.files.write(path, data)
    assert (info.kind, info.size, info.mode, info.name, info.path) == ("file", len(data), 0o644, "file", path)
    assert shared.files.read(path, format="bytes") == data
    assert b"".join(shared.files.stream(path)) == data
    assert shared.commands.run(["cat", path]).stdout_bytes == data
    shared.files.write(path, io.BytesIO(data[::-1]))
    assert shared.files.read(path, format="bytes") == data[::-1]


def test_text(shared: Sandbox, place: str) -> None:
    shared.files.write(f"{place}/text", "é\r\n")
    assert shared.files.read(f"{place}/text") == "é\r\n"
    shared.files.write(f"{place}/bytes", b"\xff")
    with pytest.raises(InvalidArgument, match='format="bytes"'):
        shared.files.read(f"{place}/bytes")
    with pytest.raises(InvalidArgument, match="binary"):
        shared.files.write(f"{place}/x", io.StringIO("text"))  # type: ignore[arg-type]
    assert not shared.files.exists(f"{place}/x")


def test_an_old_file_keeps_its_mode(shared: Sandbox, place: str) -> None:
    shared.commands.run(f"echo old > {place}/script; chmod 750 {place}/script", check=True)
    assert shared.files.write(f"{place}/script", "new").mode == 0o750
    assert shared.files.write(f"{place}/script", "new", mode=0o600).mode == 0o600


def test_a_thousand_at_once(shared: Sandbox, place: str) -> None:
    files = {f"{place}/{number % 7}/{number}": str(number) for number in range(1000)}
    assert shared.files.write_files(files) == 1000
    assert shared.commands.run(f"cat {place}/*/* | wc -c").stdout.strip() == str(
        sum([len(text) for text in files.values()])
    )
    found = shared.files.list(place, depth=2)
    assert len(found) == 1007 and [each.path for each in found if each.kind == "file"] == sorted(
        files, key=lambda path: path.split("/")
    )
    with pytest.raises(SandboxError, match="max_entries"):
        shared.files.list(place, depth=2, max_entries=500)


def test_looking(shared: Sandbox, place: str) -> None:
    shared.commands.run(
        f"cd {place}; mkdir d; echo x > d/f; ln -s d l; ln -s no dangling; mkfifo p", check=True
    )
    kinds = {each.name: each.kind for each in shared.files.list(place)}
    assert kinds == {"d": "directory", "l": "symlink", "dangling": "symlink", "p": "other"}
    assert shared.files.get_info(f"{place}/l").target == "d"
    assert shared.files.get_info(f"{place}/l", follow=True).is_dir
    assert shared.files.exists(f"{place}/dangling") and not shared.files.exists(f"{place}/d/f/x")
    assert [each.path for each in shared.files.list(f"{place}/l")] == [f"{place}/l/f"]
    with pytest.raises(FileError) as caught:
        shared.files.list(f"{place}/d/f")
    assert caught.value.errno == errno.ENOTDIR


def test_names_of_any_bytes(shared: Sandbox, place: str) -> None:
    name = os.fsencode(place) + b"/\xff\n'\x01"
    shared.files.write(name, "odd")
    assert [os.fsencode(each.path) for each in shared.files.list(place)] == [name]
    assert shared.files.read(name) == "odd"


def test_changing(shared: Sandbox, place: str) -> None:
    assert shared.files.make_dir(f"{place}/a/b/c") and not shared.files.make_dir(f"{place}/a/b")
    shared.files.write(f"{place}/a/b/c/f", "x")
    shared.files.rename(f"{place}/a/b", f"{place}/moved")
    assert shared.files.read(f"{place}/moved/c/f") == "x"
    shared.files.remove(f"{place}/moved")
    assert [each.name for each in shared.files.list(place)] == ["a"]
    shared.files.write(f"{place}/f", "x")
    with pytest.raises(FileError, match="make_dir"):
        shared.files.make_dir(f"{place}/f")


def test_refusals(shared: Sandbox, place: str) -> None:
    with pytest.raises(FileNotFound, match="read /no: No such file") as caught:
        shared.files.read("/no")
    assert caught.value.path == "/no" and isinstance(caught.value, FileNotFoundError)
    for call in (shared.files.get_info, shared.files.list, shared.files.remove):
        with pytest.raises(FileNotFound):
            call("/no")  # type: ignore[operator]
    with pytest.raises(FileError) as refused:
        shared.files.write("/proc/new", "x")
    assert refused.value.errno is not None
    with pytest.raises(FileError) as refused:
        shared.files.read("/root", user=1234)
    assert refused.value.errno in (errno.EISDIR, errno.EACCES)
    with pytest.raises(FileError):
        shared.files.write("/usr/mine", "x", user="1234")
    with pytest.raises(InvalidArgument):
        shared.files.write("/tmp/", "x")
    with pytest.raises(InvalidArgument):
        shared.files.read("")


def test_what_would_wait(shared: Sandbox, place: str) -> None:
    """The FIFO has no writer, and no call waits for one."""
    shared.commands.run(["mkfifo", f"{place}/fifo"], check=True)
    with pytest.raises(FileError) as refused:
        shared.files.read(f"{place}/fifo")
    assert refused.value.errno == errno.EINVAL
    shared.files.write(f"{place}/fifo", "now a file")
    assert shared.files.read(f"{place}/fifo") == "now a file"
    with pytest.raises(FileError):
        shared.files.read("/dev/zero")


def test_a_file_that_is_too_large(shared: Sandbox, place: str) -> None:
    """A guest makes a petabyte of nothing."""
    shared.commands.run(["truncate", "-s", "1P", f"{place}/huge"], check=True)
    with pytest.raises(SandboxError, match="max_bytes"):
        shared.files.read(f"{place}/huge", max_bytes=1000)
    pieces = shared.files.stream(f"{place}/huge")
    assert not any(next(pieces))
    pieces.close()  # type: ignore[attr-defined]


def test_files_without_a_size(shared: Sandbox) -> None:
    assert "processor" in shared.files.read("/proc/cpuinfo")


def test_trees(shared: Sandbox, place: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(b"\0\xff")
    (tree / "run").write_text("#!/bin/sh\necho ran\n")
    (tree / "run").chmod(0o755)
    (tree / "link").symlink_to("sub/file")
    assert shared.files.upload(tree, f"{place}/tree") == []
    assert shared.commands.run([f"{place}/tree/run"]).stdout == "ran\n"
    assert shared.commands.run(["cat", f"{place}/tree/link"]).stdout_bytes == b"\0\xff"
    shared.commands.run(f"mkfifo {place}/tree/fifo; chmod u+s {place}/tree/run")
    shared.files.download(f"{place}/tree", tmp_path / "back")
    assert (tmp_path / "back/sub/file").read_bytes() == b"\0\xff"
    assert os.readlink(tmp_path / "back/link") == "sub/file"
    assert stat.S_IMODE((tmp_path / "back/run").stat().st_mode) == 0o755
    shared.files.download(f"{place}/tree/run", tmp_path / "one")
    assert (tmp_path / "one").read_text() == "#!/bin/sh\necho ran\n"
    shared.files.upload(tmp_path / "one", f"{place}/deep/two")
    assert shared.files.read(f"{place}/deep/two") == "#!/bin/sh\necho ran\n"


def test_a_tree_that_leads_out(shared: Sandbox, place: str, tmp_path: Path) -> None:
    """What is on the host already may be a link that a guest made the last time."""
    victim = tmp_path / "victim"
    victim.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (target / "sub").symlink_to(victim)
    shared.files.write(f"{place}/sub/file", "evil")
    left_out = shared.files.download(place, target)
    assert left_out and os.listdir(victim) == []


def test_relative_paths(root: str) -> None:
    with Sandbox.create(root=root, cwd="/tmp") as sandbox:
        sandbox.files.write("file", "here")
        assert sandbox.files.read("/tmp/file") == "here"
        again = Sandbox.connect(sandbox.name, root=root)
        with pytest.raises(InvalidArgument, match="absolute"):
            again.files.read("file")
    with pytest.raises(SandboxEnded):
        sandbox.files.read("file")


def test_what_was_changed(root: str, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "gone").write_text("gone")
    with Sandbox.create(root=root, mounts=[f"{tmp_path}:/work"]) as sandbox:
        sandbox.commands.run("cd /work; echo new > new; echo more >> old; rm gone", check=True)
        found = {change.path: change.kind for change in sandbox.diff(["/work"])}
        assert found == {"/work/new": "added", "/work/old": "changed", "/work/gone": "deleted"}
        assert {"/work/new"} <= {change.path for change in sandbox.diff()}
        with pytest.raises(SandboxError, match="max_entries"):
            sandbox.diff(["/work"], max_entries=1)


def test_without_any_program(root: str, tmp_path: Path) -> None:
    """An image may have no shell."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with Sandbox.create(root=root, rootfs=empty) as sandbox:
        sandbox.files.write("/a/b", "x")
        assert [each.path for each in sandbox.files.list("/a")] == ["/a/b"]
        assert sandbox.commands.run("true").exit_code == 127
    assert os.listdir(empty) == []


def test_with_asyncio(shared: Sandbox, place: str) -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.connect("shared", root=shared._core.root)
        await asyncio.gather(*[sandbox.files.write(f"{place}/{n}", b"x" * n * 100_000) for n in range(6)])
        assert [each.size for each in await sandbox.files.list(place)] == [n * 100_000 for n in range(6)]
        total = 0
        async for piece in sandbox.files.stream(f"{place}/5"):
            total += len(piece)
        assert total == 500_000

    asyncio.run(main())


def test_apply(root: str, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "old").write_text("old\n")
    with Sandbox.create(root=root, mounts=[Mount(tmp_path / "project", "/work")]) as sandbox:
        sandbox.commands.run("echo new > new; echo more >> old", cwd="/work", check=True)
        assert len(sandbox.apply(dry_run=True)) == 2 and not (tmp_path / "project" / "new").exists()
        assert [line.split()[0] for line in sandbox.apply(["/work/new"])] == ["A"]
        assert (tmp_path / "project" / "new").read_text() == "new\n"
        assert (tmp_path / "project" / "old").read_text() == "old\n"
        sandbox.apply(undo=True)
        assert not (tmp_path / "project" / "new").exists()
        (tmp_path / "project" / "old").write_text("changed here\n")
        with pytest.raises(SandboxError):
            sandbox.apply()
