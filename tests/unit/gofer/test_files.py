"""The gofer's answers to proper requests: a real one, compared with the host's own view."""

import os
import stat
from pathlib import Path

import pytest

from cloche.abi import errno
from cloche.abi.errno import LinuxError
from cloche.abi.fcntl import RENAME_EXCHANGE, RENAME_NOREPLACE
from cloche.fs.gofer_client import AheadListing
from cloche.gofer.files import ListingCursor
from cloche.wire.gofer import (
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_SIZE,
    SET_UID,
    Attr,
    Entry,
    index_entries,
)

from .conftest import SINGLE_FILE, WITH_SUID, Rig


def same(attr: Attr, path: Path) -> bool:
    """Whether the attributes are those that lstat gives."""
    st = path.lstat()
    return (
        attr.ino == st.st_ino
        and attr.dev == st.st_dev
        and attr.mode == st.st_mode
        and attr.nlink == st.st_nlink
        and attr.uid == st.st_uid
        and attr.gid == st.st_gid
        and attr.rdev == st.st_rdev
        and attr.size == st.st_size
        and attr.blocks == st.st_blocks
        and attr.mtime_ns == st.st_mtime_ns
        and attr.ctime_ns == st.st_ctime_ns
    )


def errno_of(function: object, *args: object, **named: object) -> int:
    """The errno that a call fails with, 0 if it succeeds."""
    assert callable(function)
    try:
        function(*args, **named)
    except LinuxError as error:
        return error.errno
    return 0


def test_reads(rig: Rig) -> None:
    st = (rig.read_only / "file").stat()
    client = rig.client
    found = [st.st_dev, st.st_ino]
    assert client.read(rig.ro, b"file", *found, 3, 100, wants_data=True) == b"tent"
    assert client.read(rig.ro, b"file", *found, 0, 100, wants_data=False) == b""
    assert client.read(rig.ro, b"file", *found, 100, 100, wants_data=True) == b""
    assert errno_of(client.read, rig.ro, b"nope", 0, 0, 0, 1, wants_data=True) == errno.ENOENT
    assert errno_of(client.read, rig.ro, b"fifo", 0, 0, 0, 1, wants_data=True) == errno.EACCES
    assert errno_of(client.read, rig.ro, b"file", 1, 1, 0, 1, wants_data=True) == errno.ESTALE
    assert errno_of(client.read, rig.ro, b"file", *found, 0, 1 << 30, wants_data=True) == errno.EINVAL
    for index in range(40):  # more than stay open
        path = rig.writable / str(index)
        path.write_bytes(b"%d" % index)
        st = path.stat()
        assert (
            client.read(rig.rw, b"%d" % index, st.st_dev, st.st_ino, 0, 9, wants_data=True) == b"%d" % index
        )


def test_one_call_lists_a_directory_with_attributes(rig: Rig) -> None:
    calls = rig.client.calls
    listing = rig.client.relist(rig.ro)
    assert rig.client.calls == calls + 1
    assert listing.is_listed and same(listing.attr, rig.read_only)
    entries = {entry.name: entry for entry in listing.entries()}
    assert set(entries) == {os.fsencode(name) for name in os.listdir(rig.read_only)}
    for name, entry in entries.items():
        assert same(entry.attr, rig.read_only / os.fsdecode(name)), name
    assert entries[b"link"].target == b"file"
    assert entries[b"file"].target == b""


def test_a_large_directory_arrives_in_chunks(rig: Rig) -> None:
    names = {f"{index:05}-{'x' * 200}".encode() for index in range(3000)}
    (rig.writable / "big").mkdir()
    for name in names:
        (rig.writable / "big" / os.fsdecode(name)).touch()
    listing = rig.client.opendir(rig.rw, b"big")
    assert {entry.name for entry in listing.entries()} == names
    assert len(listing.entries()) == len(names)


def test_names_that_are_not_utf8(rig: Rig) -> None:
    name = b"\xff\xfe caf\xc3\xa9"
    (rig.writable / os.fsdecode(name)).write_bytes(b"x")
    assert [entry.name for entry in rig.client.relist(rig.rw).entries()] == [name]
    assert isinstance(rig.client.stat(rig.rw, name), Entry)


def test_walk_and_stat(rig: Rig) -> None:
    fid, attr = rig.client.walk(rig.ro, b"dir")
    assert same(attr, rig.read_only / "dir")
    deep = rig.client.opendir(fid, b"deep")
    assert [entry.name for entry in deep.entries()] == [b"leaf"]
    entry = rig.client.stat(deep.fid, b"leaf")
    assert isinstance(entry, Entry) and same(entry.attr, rig.read_only / "dir" / "deep" / "leaf")
    link = rig.client.stat(rig.ro, b"link")
    assert isinstance(link, Entry) and link.target == b"file" and stat.S_ISLNK(link.attr.mode)
    itself = rig.client.stat(fid, b"")
    assert isinstance(itself, Entry) and itself.attr.ino == attr.ino
    assert rig.client.stat(rig.ro, b"absent") == -errno.ENOENT
    assert errno_of(rig.client.walk, rig.ro, b"file") == errno.ENOTDIR
    assert errno_of(rig.client.walk, rig.ro, b"absent") == errno.ENOENT


def test_open_donates_a_descriptor(rig: Rig) -> None:
    entry = rig.client.stat(rig.ro, b"file")
    assert isinstance(entry, Entry)
    fd, attr = rig.client.open(rig.ro, b"file", os.O_RDONLY, entry.attr.dev, entry.attr.ino)
    try:
        assert os.pread(fd, 100, 0) == b"content"
        assert attr.ino == os.fstat(fd).st_ino
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def test_open_wants_the_inode_that_was_listed(rig: Rig) -> None:
    entry = rig.client.stat(rig.ro, b"file")
    assert isinstance(entry, Entry)
    (rig.read_only / "other").write_bytes(b"other")
    (rig.read_only / "other").replace(rig.read_only / "file")
    assert errno_of(rig.client.open, rig.ro, b"file", 0, entry.attr.dev, entry.attr.ino) == errno.ESTALE


def test_only_regular_files_are_opened(rig: Rig) -> None:
    assert errno_of(rig.client.open, rig.ro, b"fifo", 0) == errno.EACCES
    assert errno_of(rig.client.open, rig.ro, b"link", 0) == errno.ELOOP
    assert errno_of(rig.client.open, rig.ro, b"way-out", 0) == errno.ELOOP
    assert errno_of(rig.client.open, rig.ro, b"dir", 0) == errno.EISDIR


def test_a_file_can_be_attached(rig: Rig) -> None:
    root = rig.client.attach(SINGLE_FILE)
    assert same(root.attr, rig.single) and not root.is_writable
    fd, _attr = rig.client.open(root.fid, b"", 0)
    assert os.pread(fd, 10, 0) == b"single"
    os.close(fd)
    assert rig.client.stat(root.fid, b"x") == -errno.ENOTDIR
    assert errno_of(rig.client.relist, root.fid) == errno.ENOTDIR


def test_create_write_and_remove(rig: Rig) -> None:
    fd, attr = rig.client.create(rig.rw, b"new", os.O_RDWR, 0o640)
    os.write(fd, b"hello")
    os.close(fd)
    assert (rig.writable / "new").read_bytes() == b"hello"
    assert stat.S_IMODE(attr.mode) == 0o640
    assert errno_of(rig.client.create, rig.rw, b"new", os.O_RDWR, 0o640) == errno.EEXIST
    rig.client.link(rig.rw, b"new", rig.rw, b"again")
    assert (rig.writable / "again").samefile(rig.writable / "new")
    rig.client.unlink(rig.rw, b"new")
    assert os.listdir(rig.writable) == ["again"]
    rig.client.mkdir(rig.rw, b"d", 0o1755)
    assert stat.S_IMODE((rig.writable / "d").stat().st_mode) == 0o1755
    assert errno_of(rig.client.unlink, rig.rw, b"d") in (errno.EISDIR, errno.EPERM)
    rig.client.rmdir(rig.rw, b"d")
    rig.client.symlink(rig.rw, b"s", b"../outside/secret")
    assert os.readlink(rig.writable / "s") == "../outside/secret"


def test_rename_keeps_fids_of_moved_directories(rig: Rig) -> None:
    rig.client.mkdir(rig.rw, b"a", 0o755)
    rig.client.mkdir(rig.rw, b"b", 0o755)
    (rig.writable / "a" / "in-a").touch()
    a, _attr = rig.client.walk(rig.rw, b"a")
    b, _attr = rig.client.walk(rig.rw, b"b")
    assert errno_of(rig.client.rename, rig.rw, b"a", rig.rw, b"b", RENAME_NOREPLACE) == errno.EEXIST
    rig.client.rename(rig.rw, b"a", rig.rw, b"b", RENAME_EXCHANGE, a, b)
    assert (rig.writable / "b" / "in-a").exists()
    rig.client.rename(rig.rw, b"a", a, b"moved", 0, b)  # the former b goes into the former a
    assert (rig.writable / "b" / "moved").is_dir()
    assert [entry.name for entry in rig.client.relist(a).entries() if entry.name != b"in-a"] == [b"moved"]
    assert rig.client.relist(b).entries() == []


def test_setattr(rig: Rig) -> None:
    path = rig.writable / "f"
    path.write_bytes(b"0123456789")
    attr = rig.client.setattr(
        rig.rw, b"f", SET_MODE | SET_SIZE | SET_ATIME | SET_MTIME, mode=0o604, size=4, atime_ns=-5, mtime_ns=7
    )
    assert same(attr, path)
    st = path.stat()
    assert (stat.S_IMODE(st.st_mode), st.st_size) == (0o604, 4)
    assert (st.st_atime_ns, st.st_mtime_ns) == (-5, 7)
    rig.client.setattr(rig.rw, b"f", SET_MTIME, mtime_ns=9_000_000_001)
    assert path.stat().st_mtime_ns == 9_000_000_001
    assert path.stat().st_atime_ns == -5
    root = rig.client.setattr(rig.rw, b"", SET_MODE, mode=0o711)
    assert stat.S_IMODE(root.mode) == 0o711


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_CHOWN")
def test_owners(rig: Rig) -> None:
    fd, attr = rig.client.create(rig.rw, b"f", os.O_RDWR, 0o755, 1234, 5678)
    os.close(fd)
    assert (attr.uid, attr.gid, stat.S_IMODE(attr.mode)) == (1234, 5678, 0o755)
    rig.client.symlink(rig.rw, b"s", b"f", 11, 12)
    attr = rig.client.setattr(rig.rw, b"s", SET_UID | SET_GID, uid=21, gid=22)
    assert (attr.uid, attr.gid) == (21, 22)
    assert (rig.writable / "f").stat().st_uid == 1234  # the link was not followed
    assert errno_of(rig.client.setattr, rig.rw, b"s", SET_MODE, 0o600) == errno.EOPNOTSUPP
    assert stat.S_IMODE((rig.writable / "f").stat().st_mode) == 0o755


def test_set_id_files_are_made_only_where_it_was_asked_for(rig: Rig) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    root = rig.client.attach(WITH_SUID).fid
    for fid, base, kept in ((rig.rw, rig.writable, 0), (root, rig.with_suid, 0o6000)):
        fd, attr = rig.client.create(fid, b"new", os.O_RDWR, 0o6755)
        os.close(fd)
        assert mode(base / "new") == stat.S_IMODE(attr.mode) == 0o755 | kept
        rig.client.setattr(fid, b"new", SET_MODE, mode=0o700)
        assert stat.S_IMODE(rig.client.setattr(fid, b"new", SET_MODE, mode=0o6711).mode) == 0o711 | kept
        # A file that had the bits loses them before it can be written through a mapping.
        (base / "old").touch()
        (base / "old").chmod(0o6755)
        os.close(rig.client.open(fid, b"old", os.O_RDONLY)[0])
        assert mode(base / "old") == 0o6755
        fd, attr = rig.client.open(fid, b"old", os.O_RDWR)
        os.close(fd)
        assert mode(base / "old") == stat.S_IMODE(attr.mode) == 0o755 | kept
        rig.client.mkdir(fid, b"dir", 0o3755)  # in a directory the bit only sets the group of new files
        assert mode(base / "dir") == 0o3755
        rig.client.mknod(fid, b"fifo", stat.S_IFIFO | 0o6640)
        assert mode(base / "fifo") == 0o6640 and (base / "fifo").is_fifo()


def test_an_open_file_is_reached_whatever_its_name(rig: Rig) -> None:
    path = rig.writable / "f"
    path.write_bytes(b"content")
    attr = rig.client.stat(rig.rw, b"f")
    assert isinstance(attr, Entry)
    opened = rig.client.open_file(rig.rw, b"f", os.O_RDWR, attr.attr.dev, attr.attr.ino, wants_pin=True)
    fd, pin = opened.fd, opened.pin
    path.unlink()
    path.write_bytes(b"another")
    rig.client.setattr(pin, b"", SET_MODE | SET_MTIME, mode=0o600, mtime_ns=7)
    assert (stat.S_IMODE(os.fstat(fd).st_mode), os.fstat(fd).st_mtime_ns) == (0o600, 7)
    found = rig.client.stat(pin, b"")
    assert isinstance(found, Entry) and found.attr.nlink == 0 and found.attr.ino == os.fstat(fd).st_ino
    again, _attr = rig.client.open(pin, b"", os.O_RDONLY)
    assert os.pread(again, 10, 0) == b"content"
    assert errno_of(rig.client.setattr, rig.rw, b"f", SET_MODE, 0o600, 0, 0, 0, 0, 0, 1, 1) == errno.ESTALE
    for wrong in (rig.client.walk, rig.client.create, rig.client.unlink):
        arguments = (pin, b"x", os.O_RDWR, 0o600) if wrong == rig.client.create else (pin, b"x")
        assert errno_of(wrong, *arguments) == errno.ENOTDIR
    rig.client.forget([pin])
    assert rig.client.stat(pin, b"") == -errno.EBADF
    os.close(fd)
    os.close(again)
    opened = rig.client.open_file(rig.ro, b"file", os.O_RDONLY, 0, 0, wants_pin=True)
    os.close(opened.fd)
    assert opened.pin == 0  # there is nothing to change


def test_xattrs(rig: Rig) -> None:
    (rig.writable / "f").touch()
    try:
        os.setxattr(rig.writable / "f", "user.probe", b"")
    except OSError:
        pytest.skip("the file system has no user attributes")
    rig.client.setxattr(rig.rw, b"f", b"user.a", b"value", 0)
    assert os.getxattr(rig.writable / "f", "user.a") == b"value"
    assert rig.client.getxattr(rig.rw, b"f", b"user.a") == b"value"
    assert set(rig.client.listxattr(rig.rw, b"f")) == {b"user.a", b"user.probe"}
    assert errno_of(rig.client.setxattr, rig.rw, b"f", b"user.a", b"", 1) == errno.EEXIST
    rig.client.removexattr(rig.rw, b"f", b"user.a")
    assert errno_of(rig.client.getxattr, rig.rw, b"f", b"user.a") == errno.ENODATA
    for name in (b"security.capability", b"trusted.overlay.opaque", b"security.selinux"):
        assert errno_of(rig.client.setxattr, rig.rw, b"f", name, b"x", 0) == errno.EOPNOTSUPP


def test_statfs_and_fsync(rig: Rig) -> None:
    figures = rig.client.statfs(rig.ro)
    host = os.statvfs(rig.read_only)
    assert figures[2] == host.f_blocks and figures[7] == host.f_namemax
    rig.client.fsync(rig.rw, b"")
    assert errno_of(rig.client.fsync, rig.ro, b"fifo") == errno.EINVAL


def test_a_searchable_directory_need_not_be_readable(rig: Rig) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (rig.read_only / "dir").chmod(0o311)
    listing = rig.client.opendir(rig.ro, b"dir")
    assert not listing.is_listed and listing.entries() == []
    assert isinstance(rig.client.stat(listing.fid, b"deep"), Entry)


def test_it_ends_when_the_sentry_hangs_up(rig: Rig) -> None:
    assert rig.close() == 0


def test_several_files_are_opened_at_once(rig: Rig) -> None:
    names = []
    for name in (b"file", b"fifo", b"gone", b"way-out", b"dir", b"../outside/secret"):
        entry = rig.client.stat(rig.ro, name)
        names.append((name, entry.attr.dev, entry.attr.ino) if isinstance(entry, Entry) else (name, 0, 0))
    (rig.read_only / "new").write_bytes(b"new")
    names.append((b"new", 0, 0))
    names.append((b"file", 1, 1))  # another file than was listed
    fd, attr, others = rig.client.open_many(rig.ro, names)
    assert os.pread(fd, 100, 0) == b"content" and attr.ino == os.fstat(fd).st_ino
    assert [each[0] for each in others] == [6]
    assert os.pread(others[0][1], 100, 0) == b"new" and others[0][2].size == 3
    os.close(fd)
    os.close(others[0][1])
    assert errno_of(rig.client.open_many, rig.ro, [(b"gone", 0, 0), (b"file", 0, 0)]) == errno.ENOENT


def listed_ahead(rig: Rig, names: list[bytes], limit: int = 64) -> list[AheadListing]:
    request = rig.client.begin_listings(rig.ro, names, limit)
    assert rig.client.has_come(request, is_waiting=True)
    return rig.client.listings(request)


def test_several_directories_are_listed_with_those_below(rig: Rig) -> None:
    (rig.read_only / "other").mkdir()
    (rig.read_only / "other" / "x").write_bytes(b"x")
    (rig.read_only / "empty").mkdir()
    (rig.read_only / "large").mkdir()
    for number in range(1500):
        (rig.read_only / "large" / f"{number:200}").write_bytes(b"")
    expected = [(b"dir", [b"deep"]), (b"deep", [b"leaf"]), (b"other", [b"x"]), (b"empty", [])]
    found = listed_ahead(rig, [b"dir", b"file", b"other", b"gone", b"way-out", b"../outside", b"empty"])
    assert found  # how many, depends on the time that it takes
    assert [(each.name, list(each.listing.index)) for each in found] == expected[: len(found)]
    assert found[0].parent_fid == rig.ro and found[0].listing.subdirs == [b"deep"]
    if len(found) == len(expected):
        assert [each.parent_fid for each in found[1:]] == [found[0].listing.fid, rig.ro, rig.ro]
    assert rig.client.relist(found[0].listing.fid).index.keys() == {b"deep"}
    (other,) = listed_ahead(rig, [b"other"])
    entry = rig.client.stat(other.listing.fid, b"x")
    assert isinstance(entry, Entry) and entry.attr.size == 1
    assert [each.name for each in listed_ahead(rig, [b"dir", b"other"], limit=1)] == [b"dir"]
    for name in (b"large", b"gone", b"way-out", b"../outside", b"file"):
        assert listed_ahead(rig, [name]) == []
    assert errno_of(listed_ahead, rig, [b"dir"] * 65) != 0  # what no sentry asks for ends the gofer


def test_longer_names_than_a_path_can_have_are_left_out(tmp_path: Path) -> None:
    for name in ("short", "longer", "link"):
        (tmp_path / name).touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    cursor = ListingCursor(fd, name_max=5)
    index = index_entries(cursor.next_chunk(), [])
    assert cursor.is_done and sorted(index) == [b"link", b"short"]
    cursor.close()
    os.close(fd)
