"""A sentry that was taken over: it gets nothing beyond the attach points, and the gofer stays consistent."""

import os
import random
import socket
import struct
from pathlib import Path

import pytest

from cloche.abi import errno
from cloche.abi.errno import LinuxError
from cloche.boot.part import PartError
from cloche.fs.gofer_client import GoferClient
from cloche.gofer.launch import spawn_gofer
from cloche.gofer.nodes import AttachPoint, NodeTable
from cloche.gofer.server import EXIT_PROTOCOL
from cloche.wire import gofer as wire
from cloche.wire.frame import FLAG_MORE, FrameChannel
from cloche.wire.gofer import check_name, pack_string, pack_target, pack_u32, pack_u64

from .conftest import Rig
from .test_files import errno_of

BAD_NAMES = [
    b".",
    b"..",
    b"/",
    b"a/b",
    b"../outside/secret",
    b"/etc/passwd",
    b"dir/../../outside",
    b"nul\0byte",
    b"\0",
    b"x" * 256,
    b"way-out/secret",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_leave_are_refused(rig: Rig, name: bytes) -> None:
    client = rig.client
    assert not check_name(name)
    assert client.stat(rig.ro, name) == -errno.EINVAL
    calls: list[tuple[object, ...]] = [
        (client.walk, rig.ro, name),
        (client.opendir, rig.ro, name),
        (client.open, rig.ro, name, 0),
        (client.create, rig.rw, name, os.O_RDWR, 0o600),
        (client.mkdir, rig.rw, name, 0o700),
        (client.symlink, rig.rw, name, b"x"),
        (client.link, rig.rw, name, rig.rw, b"new"),
        (client.link, rig.rw, b"new", rig.rw, name),
        (client.unlink, rig.rw, name),
        (client.rmdir, rig.rw, name),
        (client.rename, rig.rw, name, rig.rw, b"new"),
        (client.setattr, rig.rw, name, 1, 0o777),
        (client.getxattr, rig.ro, name, b"user.a"),
        (client.fsync, rig.ro, name),
    ]
    for function, *args in calls:
        assert errno_of(function, *args) == errno.EINVAL, function
    assert os.listdir(rig.outside) == ["secret"]


def test_the_empty_name_changes_no_tree(rig: Rig) -> None:
    client = rig.client
    for function, *args in [
        (client.create, rig.rw, b"", os.O_RDWR, 0o600),
        (client.mkdir, rig.rw, b"", 0o700),
        (client.unlink, rig.rw, b""),
        (client.rmdir, rig.rw, b""),
        (client.rename, rig.rw, b"", rig.rw, b"x"),
        (client.opendir, rig.rw, b""),
    ]:
        assert errno_of(function, *args) == errno.EINVAL, function
    assert errno_of(client.open, rig.ro, b"", 0) == errno.EISDIR


def test_read_only_means_read_only(rig: Rig) -> None:
    client = rig.client
    before = sorted(os.listdir(rig.read_only))
    for function, *args in [
        (client.create, rig.ro, b"new", os.O_RDWR, 0o600),
        (client.open, rig.ro, b"file", os.O_RDWR),
        (client.open, rig.ro, b"file", os.O_WRONLY),
        (client.open, rig.ro, b"file", os.O_RDONLY | os.O_TRUNC),
        (client.mkdir, rig.ro, b"new", 0o700),
        (client.symlink, rig.ro, b"new", b"x"),
        (client.unlink, rig.ro, b"file"),
        (client.rmdir, rig.ro, b"dir"),
        (client.rename, rig.ro, b"file", rig.ro, b"new"),
        (client.link, rig.ro, b"file", rig.ro, b"new"),
        (client.setattr, rig.ro, b"file", 1, 0o777),
        (client.setxattr, rig.ro, b"file", b"user.a", b"", 0),
        (client.removexattr, rig.ro, b"file", b"user.a"),
    ]:
        assert errno_of(function, *args) == errno.EROFS, function
    assert sorted(os.listdir(rig.read_only)) == before
    assert (rig.read_only / "file").read_bytes() == b"content"


def test_nothing_moves_between_attach_points(rig: Rig) -> None:
    # A link from the read-only tree would make its file writable.
    assert errno_of(rig.client.link, rig.ro, b"file", rig.rw, b"file") == errno.EXDEV
    assert errno_of(rig.client.rename, rig.ro, b"file", rig.rw, b"file") == errno.EXDEV
    assert errno_of(rig.client.rename, rig.rw, b"x", rig.ro, b"x") == errno.EXDEV


@pytest.mark.parametrize(
    "flags",
    [os.O_CREAT | os.O_RDWR, os.O_DIRECTORY, os.O_PATH, os.O_RDWR | os.O_WRONLY, 0x80000000, os.O_TMPFILE],
)
def test_open_flags_are_an_allow_list(rig: Rig, flags: int) -> None:
    assert errno_of(rig.client.open, rig.rw, b"x", flags) == errno.EINVAL
    assert errno_of(rig.client.create, rig.rw, b"x", flags, 0o600) in (errno.EINVAL,)
    assert os.listdir(rig.writable) == []


def test_symbolic_links_are_never_followed(rig: Rig) -> None:
    (rig.writable / "out").symlink_to(rig.outside)
    (rig.writable / "secret").symlink_to(rig.outside / "secret")
    client = rig.client
    assert errno_of(client.walk, rig.rw, b"out") == errno.ENOTDIR
    assert errno_of(client.opendir, rig.rw, b"out") == errno.ENOTDIR
    assert errno_of(client.open, rig.rw, b"secret", os.O_RDWR) == errno.ELOOP
    assert errno_of(client.create, rig.rw, b"secret", os.O_RDWR, 0o600) == errno.EEXIST
    assert errno_of(client.setattr, rig.rw, b"secret", wire.SET_SIZE) == errno.EINVAL
    assert errno_of(client.setattr, rig.rw, b"secret", wire.SET_MODE, 0o777) == errno.EOPNOTSUPP
    client.link(rig.rw, b"secret", rig.rw, b"again")
    assert (rig.writable / "again").is_symlink()
    assert (rig.outside / "secret").read_bytes() == b"secret"


def test_a_directory_swapped_for_a_link_is_stale(rig: Rig) -> None:
    """The race of every file server: what was a directory becomes a link to elsewhere."""
    (rig.writable / "d").mkdir()
    (rig.writable / "d" / "secret").write_bytes(b"harmless")
    fid, _attr = rig.client.walk(rig.rw, b"d")
    (rig.writable / "d").rename(rig.writable / "gone")
    (rig.writable / "d").symlink_to(rig.outside)
    # The descriptor stands for the directory, not for its name
    fd, _attr = rig.client.open(fid, b"secret", 0)
    assert os.pread(fd, 100, 0) == b"harmless"
    os.close(fd)


def test_racing_a_link_against_open(rig: Rig, tmp_path: Path) -> None:
    """A second process swaps a file for a link as fast as it can; the secret never comes out."""
    victim = rig.writable / "v"
    victim.write_bytes(b"harmless")
    child = os.fork()
    if child == 0:
        os.chdir(rig.writable)
        try:
            os.symlink("../outside/secret", "l")
            with open("f", "wb") as file:
                file.write(b"harmless")
            while True:
                os.link("l", "tmp1", follow_symlinks=False)
                os.rename("tmp1", "v")
                os.link("f", "tmp2")
                os.rename("tmp2", "v")
        finally:
            os._exit(0)
    try:
        outcomes = set()
        for _attempt in range(3000):
            try:
                fd, _attr = rig.client.open(rig.rw, b"v", os.O_RDWR)
            except LinuxError as error:
                outcomes.add(error.errno)
                continue
            assert os.pread(fd, 100, 0) == b"harmless"
            outcomes.add(0)
            os.close(fd)
        assert outcomes <= {0, errno.ELOOP}
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_forged_fids(rig: Rig) -> None:
    for fid in (0, rig.rw + 1, 2**32, 2**63, 2**64 - 1):
        assert rig.client.stat(fid, b"file") == -errno.EBADF
        assert errno_of(rig.client.relist, fid) == errno.EBADF
    rig.client.clunk([2**64 - 1, 0])
    assert errno_of(rig.client.attach, 4) == errno.EINVAL
    assert errno_of(rig.client.attach, 2**32 - 1) == errno.EINVAL
    fid, _attr = rig.client.walk(rig.ro, b"dir")
    rig.client.clunk([fid, fid])
    assert rig.client.stat(fid, b"") == -errno.EBADF


def test_lies_about_moved_directories(rig: Rig) -> None:
    client = rig.client
    client.mkdir(rig.rw, b"a", 0o755)
    client.mkdir(rig.rw, b"b", 0o755)
    a, _attr = client.walk(rig.rw, b"a")
    client.mkdir(a, b"inner", 0o755)
    inner, _attr = client.walk(a, b"inner")
    # "b" moves, but the sentry says it was "a", into its own child: no circle, no wrong name.
    client.rename(rig.rw, b"b", inner, b"a", 0, a)
    client.rename(inner, b"a", inner, b"c", 0, rig.rw)
    client.rename(inner, b"c", inner, b"d", 0, inner)
    assert [entry.name for entry in client.relist(a).entries()] == [b"inner"]
    assert [entry.name for entry in client.relist(inner).entries()] == [b"d"]


def test_kernel_file_systems_are_not_entered() -> None:

    process = spawn_gofer([AttachPoint("/", is_writable=False)])
    client = GoferClient(process.sock)
    root = client.attach(0).fid
    for name in (b"proc", b"sys"):
        if os.path.ismount(b"/" + name):
            assert errno_of(client.opendir, root, name) == errno.EACCES
            assert errno_of(client.walk, root, name) == errno.EACCES
    dev = client.opendir(root, b"dev")
    assert errno_of(client.open, dev.fid, b"null", 0) == errno.EACCES
    client.close()
    assert os.waitpid(process.pid, 0)[1] == 0


def test_procfs_cannot_be_attached() -> None:

    with pytest.raises(PartError, match="procfs"):
        spawn_gofer([AttachPoint("/proc/self", is_writable=False)])
    with pytest.raises(PartError, match="No such file"):
        spawn_gofer([AttachPoint("/does/not/exist", is_writable=False)])


FRAME = struct.Struct("<IiI")
MALFORMED = [
    FRAME.pack(2**32 - 1, wire.OP_STAT, 0),
    FRAME.pack(wire.MAX_REQUEST_BYTES + 1, wire.OP_STAT, 0),
    FRAME.pack(0, wire.OP_STAT, 0),
    FRAME.pack(3, wire.OP_ATTACH, 0) + b"abc",
    FRAME.pack(8, wire.OP_ATTACH, 0) + b"12345678",
    FRAME.pack(10, wire.OP_STAT, 0) + pack_u64(1) + b"\xff\xff",
    FRAME.pack(12, wire.OP_CLUNK, 0) + b"x" * 12,
    FRAME.pack(9, wire.OP_LIST, 0) + pack_u64(1) + b"x",
    FRAME.pack(18, wire.OP_SETXATTR, 0)
    + pack_target(1, b"")
    + pack_string(b"")
    + b"\xff\xff\xff\xff\xff\xff",
    FRAME.pack(10, wire.OP_STAT, 0) + b"1234",  # and the end of the stream
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_frame_ends_the_gofer(rig: Rig, data: bytes) -> None:
    rig.process.sock.sendall(data)
    rig.process.sock.shutdown(socket.SHUT_WR)
    status = os.waitpid(rig.process.pid, 0)[1]
    assert os.waitstatus_to_exitcode(status) == EXIT_PROTOCOL
    assert errno_of(rig.client.stat, rig.ro, b"file") == errno.EIO


def test_unknown_operations(rig: Rig) -> None:
    rig.process.sock.settimeout(60)
    channel = FrameChannel(rig.process.sock, 1 << 20, may_receive_fds=False)
    for op in (0, -1, wire.OP_LAST + 1, 9999, 2**31 - 1, -(2**31)):
        channel.send(op, 0, b"")
        frame = channel.receive()
        assert frame is not None and frame.code == -errno.ENOSYS
    for mode in (0o20666, 0o60666, 0o100666, 0o40777, 0o120777, 0o666):
        channel.send(wire.OP_MKNOD, 0, pack_target(rig.rw, b"dev") + pack_u32(mode, 0, 0))
        frame = channel.receive()
        assert frame is not None and frame.code == -errno.EPERM


def test_writes_only_through_what_was_opened_to_write(rig: Rig) -> None:
    (rig.writable / "f").write_bytes(b"x")
    client = rig.client
    opened = client.open_file(rig.rw, b"f", os.O_RDWR, 0, 0, wants_pin=True)
    pin = opened.pin
    os.close(opened.fd)
    for fid in (rig.ro, rig.rw, 12345):
        assert errno_of(lambda fid=fid: client.write(fid, 0, b"y", is_at_end=False)) == errno.EBADF
        assert errno_of(client.allocate, fid, 0, 0, 1) == errno.EBADF
    assert client.write(pin, 1, b"y", is_at_end=False)[0] == 1
    client.allocate(pin, 0, 0, 3)
    assert errno_of(lambda: client.write(pin, 2**63, b"y", is_at_end=False)) == errno.EINVAL
    assert errno_of(lambda: client.write(pin, 0, bytes(2**16 + 1), is_at_end=False)) == errno.EINVAL
    assert errno_of(client.allocate, pin, 0, 0, 2**63) == errno.EINVAL
    assert (rig.writable / "f").read_bytes() == b"xy\0"


def test_descriptors_in_requests_are_dropped(rig: Rig) -> None:
    read_end, write_end = os.pipe()
    body = pack_target(rig.ro, b"file")
    for _attempt in range(50):
        rig.process.sock.settimeout(60)
        socket.send_fds(rig.process.sock, [FRAME.pack(len(body), wire.OP_STAT, 0) + body], [write_end])
        channel = FrameChannel(rig.process.sock, 1 << 20, may_receive_fds=False)
        frame = channel.receive()
        assert frame is not None and frame.code == 0
    os.close(write_end)
    assert os.read(read_end, 1) == b""  # no other process holds the other end
    os.close(read_end)


def test_numbers_out_of_range(rig: Rig) -> None:
    (rig.writable / "f").write_bytes(b"x")
    client = rig.client
    assert errno_of(client.setattr, rig.rw, b"f", wire.SET_SIZE, 0, 0, 0, 2**63) == errno.EINVAL
    assert errno_of(client.setattr, rig.rw, b"f", wire.SET_SIZE, 0, 0, 0, 2**63 - 1) in (
        errno.EFBIG,
        errno.EINVAL,
    )
    assert errno_of(client.setattr, rig.rw, b"f", 64) == errno.EINVAL
    assert errno_of(client.setattr, rig.rw, b"f", wire.SET_MODE, 0o170777) == errno.EINVAL
    assert errno_of(client.mkdir, rig.rw, b"m", 0o40755) == errno.EINVAL
    assert errno_of(client.create, rig.rw, b"m", os.O_RDWR, 0o10000) == errno.EINVAL
    # A whiteout is a device node
    assert errno_of(client.rename, rig.rw, b"f", rig.rw, b"g", 4) == errno.EINVAL
    assert errno_of(client.setxattr, rig.rw, b"f", b"user.a", b"x" * 65537, 0) == errno.EINVAL
    assert errno_of(client.symlink, rig.rw, b"s", b"x" * 4096) == errno.EINVAL
    assert errno_of(client.symlink, rig.rw, b"s", b"") == errno.EINVAL
    client.setattr(rig.rw, b"f", wire.SET_MTIME, mtime_ns=2**63 - 1)
    client.setattr(rig.rw, b"f", wire.SET_MTIME, mtime_ns=-(2**63))
    assert os.listdir(rig.writable) == ["f"]


def test_random_requests_neither_kill_nor_escape(rig: Rig) -> None:
    """Well-formed nonsense: every operation with random arguments; the gofer answers each."""
    rng = random.Random(1)
    rig.process.sock.settimeout(60)
    channel = FrameChannel(rig.process.sock, 1 << 21, may_receive_fds=True)
    names = [b"", b"a", b"b", b"file", b"dir", b"link", b"way-out", b"..", b"fifo", b"\xff" * 255, b"secret"]
    tails = {
        wire.OP_OPEN: 24,
        wire.OP_CREATE: 20,
        wire.OP_MKDIR: 12,
        wire.OP_MKNOD: 12,
        wire.OP_SETATTR: 56,
        wire.OP_WALK: 0,
        wire.OP_OPENDIR: 0,
        wire.OP_STAT: 0,
        wire.OP_UNLINK: 0,
        wire.OP_RMDIR: 0,
        wire.OP_LISTXATTR: 0,
        wire.OP_FSYNC: 1,
        wire.OP_READ: 29,
    }
    for _attempt in range(3000):
        fid = rng.choice([0, 1, 2, 3, 4, 5, 6, rng.getrandbits(64)])
        body = pack_target(fid, rng.choice(names))
        op = rng.choice([*tails, wire.OP_RENAME, wire.OP_LINK, wire.OP_TMPFILE])
        if op in tails:
            body += bytes([rng.choice([0, 0, 1, 2, 255]) for _ in range(tails[op])])
        elif op == wire.OP_TMPFILE:
            body = pack_u64(fid) + pack_u32(
                rng.choice([0o600, 0o7777, 1 << 20]), rng.randrange(3), rng.randrange(3)
            )
        else:
            body += pack_target(rng.randrange(6), rng.choice(names))
            if op == wire.OP_RENAME:
                body += pack_u32(rng.randrange(4)) + pack_u64(rng.randrange(8), rng.randrange(8))
        channel.send(op, 0, body)
        while True:
            frame = channel.receive()
            assert frame is not None
            for fd in frame.fds:
                os.close(fd)
            if not frame.flags & FLAG_MORE:
                break
    assert os.listdir(rig.outside) == ["secret"]
    assert (rig.outside / "secret").read_bytes() == b"secret"
    assert (rig.read_only / "file").read_bytes() == b"content"


def test_evicted_directories_are_opened_again_and_checked(tmp_path: Path) -> None:
    deep = tmp_path
    for index in range(30):
        deep = deep / f"d{index}"
        deep.mkdir()
    point = AttachPoint(str(tmp_path), is_writable=False)
    point.hold()
    table = NodeTable([point], max_open=8)
    nodes = [table.attach(0)]
    for index in range(30):
        nodes.append(table.walk(nodes[-1], f"d{index}".encode()))
    assert sum(node.fd >= 0 for node in nodes) <= 9
    for node in nodes:
        status = os.fstat(table.dir_fd(node))
        assert (status.st_dev, status.st_ino) == (node.dev, node.ino)
    # Something else has taken the place of an evicted one.
    evicted = nodes[3]
    for node in nodes[10:25]:
        table.dir_fd(node)
    assert evicted.fd < 0
    path = tmp_path / "d0" / "d1" / "d2"
    path.rename(tmp_path / "aside")
    path.symlink_to(tmp_path / "aside")
    assert errno_of(table.dir_fd, evicted) == errno.ESTALE
    path.unlink()
    path.mkdir()
    assert errno_of(table.dir_fd, evicted) == errno.ESTALE
    for node in nodes:
        table.clunk(node.fid)
    assert all(node.fd < 0 for node in nodes[1:])
    os.close(point.fd)


def test_clunked_parents_live_as_long_as_their_children(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    point = AttachPoint(str(tmp_path), is_writable=False)
    point.hold()
    table = NodeTable([point], max_open=8)
    root = table.attach(0)
    a = table.walk(root, b"a")
    b = table.walk(a, b"b")
    table.clunk(a.fid)
    assert errno_of(table.get, a.fid) == errno.EBADF
    assert os.fstat(table.dir_fd(b)).st_ino == b.ino
    table.clunk(b.fid)
    assert a.fd < 0 and b.fd < 0
    os.close(point.fd)


def test_only_what_the_operator_named_is_visible(tmp_path: Path) -> None:
    for name in ("shown", "hidden"):
        (tmp_path / name / "below").mkdir(parents=True)
    process = spawn_gofer([AttachPoint(str(tmp_path), is_writable=True, only=[b"shown"])])
    client = GoferClient(process.sock)
    root = client.attach(0).fid
    assert list(client.relist(root).index) == [b"shown"]
    assert [entry.name for entry in client.opendir(root, b"shown").entries()] == [b"below"]
    assert client.stat(root, b"hidden") == -errno.ENOENT
    assert errno_of(client.walk, root, b"hidden") == errno.ENOENT
    assert errno_of(client.rename, root, b"shown", root, b"new") == errno.ENOENT
    assert errno_of(client.rename, root, b"hidden", root, b"shown") == errno.ENOENT
    client.close()
    os.waitpid(process.pid, 0)
