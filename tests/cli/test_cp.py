"""`cloche cp` and `cloche export`: files and trees in both directions."""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import TIMEOUT_S, environment, is_one_line
from tests.cli.test_exec import Box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    made = Box(tmp_path_factory.mktemp("cp"), [])
    made.start("sleep", "1000")
    yield made
    made.end()


def sh(box: Box, script: str) -> str:
    done = box("exec", "box", "--", "sh", "-c", script)
    assert done.status == 0, done
    return done.out


def raw(box: Box, *words: str, stdin: bytes = b"") -> bytes:
    """Standard output as bytes; it must succeed."""
    done = subprocess.run(
        [*box.words, *words],
        input=stdin,
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


def ok(box: Box, *words: str) -> None:
    done = box(*words)
    assert done.status == 0 and not done.err and not done.out, done


def test_a_file_goes_in_and_comes_back(box: Box, tmp_path: Path) -> None:
    blob = os.urandom(5_000_000)
    (tmp_path / "blob").write_bytes(blob)
    (tmp_path / "blob").chmod(0o4741)
    os.utime(tmp_path / "blob", ns=(1, 1_234_567_890_123_456_789))
    ok(box, "cp", str(tmp_path / "blob"), "box:/tmp")
    assert sh(box, "stat -c '%a %u %Y' /tmp/blob").split() == ["741", str(os.geteuid()), "1234567890"]
    ok(box, "cp", "box:/tmp/blob", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == blob
    assert (tmp_path / "back").stat().st_mtime_ns == 1_234_567_890_123_456_789
    ok(box, "cp", str(tmp_path / "blob"), "box:/tmp/other")
    ok(box, "cp", "box:tmp/other", str(tmp_path))
    assert (tmp_path / "other").read_bytes() == blob


def make_tree(top: Path) -> None:
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "file").write_text("text\n")
    (top / "link").symlink_to("sub/none")
    os.link(top / "file", top / "sub" / "hard")
    os.mkfifo(top / "fifo")
    with open(os.fsencode(top) + b"/\xff\xfe \n", "wb") as odd:
        odd.write(b"odd")
    with open(top / "sparse", "wb") as sparse:
        sparse.truncate(5 << 30)
        sparse.seek(3 << 30)
        sparse.write(b"middle")
    (top / "sub").chmod(0o700)


def listing(top: Path) -> list[tuple[bytes, int, int, bytes]]:
    found = []
    for folder, folders, names in os.walk(os.fsencode(top)):
        for name in folders + names:
            path = os.path.join(folder, name)
            st = os.lstat(path)
            target = os.readlink(path) if stat.S_ISLNK(st.st_mode) else b""
            size = st.st_size if stat.S_ISREG(st.st_mode) else 0
            found.append((os.path.relpath(path, os.fsencode(top)), st.st_mode, size, target))
    return sorted(found)


def test_trees_keep_links_holes_and_odd_names(box: Box, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    ok(box, "cp", str(tmp_path / "tree"), "box:/tmp")
    ok(box, "cp", str(tmp_path / "tree"), "box:/tmp/new name")
    sh(box, "mkdir /tmp/dir")
    ok(box, "cp", str(tmp_path / "tree") + "/.", "box:/tmp/dir")
    assert sh(box, "cd /tmp; stat -c '%i %h' tree/file tree/sub/hard | sort -u").split()[1:] == ["2"]
    assert int(sh(box, "du -k /tmp/tree/sparse").split()[0]) < 1000
    for name, place in (("box:/tmp/tree", "a"), ("box:/tmp/new name", "b"), ("box:/tmp/dir/.", "c")):
        if place == "c":
            (tmp_path / "c").mkdir()
        ok(box, "cp", name, str(tmp_path / place))
        assert listing(tmp_path / place) == listing(tmp_path / "tree"), place
        assert (tmp_path / place / "sparse").stat().st_blocks < 2000
        assert (tmp_path / place / "file").samefile(tmp_path / place / "sub" / "hard")
    assert sh(box, "rm -r /tmp/tree /tmp/dir '/tmp/new name'") == ""


def test_tar_streams_in_both_directions(box: Box, tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(mode="w", fileobj=made) as tar:
        for name, text in (("./one", b"1"), ("d/two", b"22"), ("d/" + "long" * 60, b"3")):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid = len(text), 0o640, 4242
            tar.addfile(info, io.BytesIO(text))
        info = tarfile.TarInfo("d/link")
        info.type, info.linkname = tarfile.SYMTYPE, "two"
        tar.addfile(info)
        info = tarfile.TarInfo("d/hard")
        info.type, info.linkname = tarfile.LNKTYPE, "d/two"
        tar.addfile(info)
    sh(box, "mkdir -p /tmp/tar")
    assert raw(box, "cp", "-", "box:/tmp/tar", stdin=made.getvalue()) == b""
    assert sh(box, "cd /tmp/tar; cat one d/link d/hard; stat -c '%a %u' one") == f"12222640 {os.geteuid()}\n"
    sh(box, "cd /tmp/tar; truncate -s 100000 holes; mkdir empty; ln one three")
    out = raw(box, "cp", "box:/tmp/tar", "-")
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        found = {info.name: info for info in tar}
        assert found["tar/d/link"].linkname == "two" and found["tar/empty"].isdir()
        assert found["tar/holes"].size == 100000
        assert sum(info.islnk() for info in found.values()) == 2
        two = tar.extractfile("tar/d/two")
        assert two is not None and two.read() == b"22" and found["tar/one"].mode == 0o640
    if os.geteuid() == 0:
        raw(box, "cp", "-a", "-", "box:/tmp/tar", stdin=made.getvalue())
        assert sh(box, "stat -c %u /tmp/tar/one") == "4242\n"


def test_hostile_trees_write_nothing_elsewhere(box: Box, tmp_path: Path) -> None:
    """Targets full of links, names that steer terminals, things that are no files."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "passwd").write_text("safe\n")
    target = tmp_path / "target"
    (target / "t").mkdir(parents=True)
    (target / "t" / "dir").symlink_to(victim)
    (target / "t" / "file").symlink_to(victim / "passwd")
    (target / "t" / "loop").symlink_to("loop")
    sh(
        box,
        r"mkdir -p /tmp/t/dir /tmp/t/loop; cd /tmp/t; echo evil >dir/passwd; echo evil >loop/x; echo evil >file; "
        r"echo evil >$(printf '\033]0;x\007name'); chmod 4755 file; mkdir ok; echo fine >ok/f",
    )
    done = box("cp", "box:/tmp/t", str(target))
    assert done.status == 1 and "\x1b" not in done.err and "\x07" not in done.err, done
    assert (victim / "passwd").read_text() == "safe\n" and os.listdir(victim) == ["passwd"]
    assert (target / "t" / "ok" / "f").read_text() == "fine\n"
    copied = target / "t" / "file"
    assert (
        not copied.is_symlink() and copied.read_text() == "evil\n" and copied.stat().st_mode & 0o7777 == 0o755
    )
    assert not list(target.rglob(".cloche-new-*"))
    sh(box, "rm -r /tmp/t")


def test_devices_and_owners_only_if_asked_for(box: Box, tmp_path: Path) -> None:
    done = box("cp", "box:/dev/null", str(tmp_path / "null"))
    assert done.status == 1 and "a device" in done.err and is_one_line(done.err)
    assert not (tmp_path / "null").exists()
    done = box("cp", "box:/etc/hostname", "/dev/null")
    assert done.status == 125 and is_one_line(done.err) and stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    "words",
    [
        ("a", "b"),
        ("box:/etc", "box:/tmp"),
        ("box:", "x"),
        ("box:/none", "x"),
        ("/nothing/here", "box:/tmp"),
        ("/etc/hostname", "box:/none/x"),
        ("/etc/hostname", "box:/none/"),
        ("/etc", "box:/etc/passwd"),
        ("-", "box:/etc/passwd"),
        ("-", "box:/tmp"),
        ("other:/etc", "x"),
    ],
)
def test_mistakes_are_told_in_one_line(box: Box, words: tuple[str, str]) -> None:
    done = box("cp", *words, stdin=b"no tar stream" * 100)
    assert done.status == 125 and is_one_line(done.err), done


def test_export_is_the_root_without_volumes_and_proc(rootfs: Path, tmp_path: Path) -> None:
    box = Box(tmp_path / "root", [])
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "v").touch()
    options = ("--rootfs", str(rootfs), "-v", f"{tmp_path / 'volume'}:/vol")
    box.start(
        "sh",
        "-c",
        "echo new >/etc/new; rm /bin/script; echo up; while :; do cat /dev/zero >/dev/null; done",
        options=options,
    )
    try:
        while "up" not in box("logs", "box").out:
            pass
        with tarfile.open(fileobj=io.BytesIO(raw(box, "export", "box"))) as tar:
            found = {info.name: info for info in tar}
        assert found["./etc/new"].size == 4 and "./bin/busybox" in found and "./bin/script" not in found
        assert found["./proc"].isdir() and found["./vol"].isdir()
        assert not [name for name in found if name.startswith(("./proc/", "./vol/", "./sys/", "./dev/"))]
        ok(box, "export", "-o", str(tmp_path / "out.tar"), "box")
        assert tarfile.is_tarfile(tmp_path / "out.tar")
    finally:
        box.end()


def test_copying_stops_with_the_sandbox(tmp_path: Path) -> None:
    box = Box(tmp_path / "root", [])
    box.start("sh", "-c", "dd if=/dev/zero of=/tmp/big bs=1M count=40 2>/dev/null; echo up; sleep 1000")
    try:
        while "up" not in box("logs", "box").out:
            pass
        process = subprocess.Popen(
            [*box.words, "cp", "box:/tmp/big", "-"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        assert len(process.stdout.read(100_000)) == 100_000
        ok_done = box("exec", "box", "--", "true")  # a reader that takes nothing delays no other command
        assert ok_done.status == 0
        box("rm", "-f", "box")
        process.stdout.read()
        assert process.wait(60) != 0 and is_one_line(process.stderr.read().decode())
    finally:
        box.end()
