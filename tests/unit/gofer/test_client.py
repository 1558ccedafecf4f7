"""The client against a server that answers when the test tells it to: late, out of order, two replies at once."""

import os
import socket
from collections.abc import Iterator

import pytest

from cloche.abi.errno import EIO, ENFILE, ENOENT, LinuxError
from cloche.fs.gofer_client import Found, GoferClient
from cloche.kernel.host_wait import HostRequest, HostWait
from cloche.kernel.task import Kernel
from cloche.platform.fake import FakePlatform
from cloche.wire.frame import Frame, FrameChannel
from cloche.wire.gofer import (
    ATTR,
    OP_FORGET,
    OP_RENAME,
    OP_STAT,
    OP_UNBIND,
    TEXT_COMES,
    TEXT_NONE,
    TEXT_UNKNOWN,
    pack_string,
    pack_u32,
    pack_u64,
)

STAT = ATTR.pack(1, 2, 0o100644, 1, 0, 0, 0, 5, 8, 0, 0, 0) + b"\0\0"
ANSWER = ATTR.pack(1, 2, 0o100644, 1, 0, 0, 0, 5, 8, 0, 0, 0) + pack_u64(0)  # to OPEN, but for TEXT_*
OPENED = ATTR.pack(1, 2, 0o100644, 1, 0, 0, 0, 5, 8, 0, 0, 0) + pack_u64(77)


class Rig:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.kernel = Kernel(FakePlatform(), 1)
        self.waits = self.kernel.host_waits
        self.client = GoferClient(ours, self.kernel)
        theirs.settimeout(60)
        self.sock = theirs
        self.server = FrameChannel(theirs, 1 << 20, may_receive_fds=False)

    def asked(self) -> Frame:
        """The next request."""
        frame = self.server.receive()
        assert frame is not None
        return frame

    def wake(self) -> None:
        """Call the client as the event loop does when the socket is readable."""
        for token, watcher in list(self.kernel.fds.watchers.items()):
            watcher.fd_ready(token, 1)

    def late(self, function: object, *args: object) -> HostRequest:
        """Make a call that has to wait."""
        assert callable(function)
        with pytest.raises(HostWait) as raised:
            function(*args)
        return raised.value.request

    def journal(self) -> list[HostRequest]:
        """End the run of the call, as the loop does when it waits."""
        journal, self.waits.journal = self.waits.journal, []
        return journal


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.waits.begin([])
    yield made
    made.client.close()


def test_an_answer_that_is_late_is_found_in_the_journal(rig: Rig) -> None:
    request = rig.late(rig.client.stat, 5, b"name")
    journal = rig.journal()
    assert rig.kernel.fds.watchers
    rig.server.reply(rig.asked().ident, 0, STAT)
    rig.wake()
    assert request.is_answered and not rig.kernel.fds.watchers
    for _run in range(2):
        rig.waits.begin(journal)
        calls = rig.client.calls
        found = rig.client.stat(5, b"name")
        assert not isinstance(found, int) and found.attr.size == 5
        assert rig.client.calls == calls
        rig.late(rig.client.stat, 5, b"name")  # the second time in one run is another question
        rig.server.reply(rig.asked().ident, -ENOENT, b"")
        journal = rig.journal()[:1]


def test_replies_out_of_order_and_two_at_once(rig: Rig) -> None:
    first = rig.late(rig.client.stat, 5, b"a")
    second = rig.late(rig.client.stat, 5, b"b")
    a, b = rig.asked(), rig.asked()
    rig.server.reply(b.ident, -ENOENT, b"")
    rig.server.reply(a.ident, 0, STAT)
    rig.wake()
    assert first.is_answered and second.is_answered
    third = rig.late(rig.client.stat, 5, b"c")
    waiting = rig.asked().ident
    # A call that waits on the spot reads, with the reply to its own question, the one to the other.
    rig.waits.commit()
    pid = os.fork()
    if pid == 0:
        rig.server.ident = rig.asked().ident
        frames = rig.server.pack(0, 0, STAT)
        rig.server.ident = waiting
        rig.sock.sendall(frames + rig.server.pack(0, 0, STAT))
        os._exit(0)
    assert not isinstance(rig.client.stat(5, b"d"), int)
    os.waitpid(pid, 0)
    assert third.is_answered


def test_descriptors_are_given_as_duplicates(rig: Rig) -> None:
    rig.late(rig.client.open, 5, b"f", os.O_RDONLY)
    journal = rig.journal()
    read_end, write_end = os.pipe()
    rig.server.ident = rig.asked().ident
    rig.server.send(0, 0, OPENED + bytes([TEXT_UNKNOWN]), write_end)
    os.close(write_end)
    rig.wake()
    for _run in range(2):
        rig.waits.begin(journal)
        os.close(rig.client.open(5, b"f", os.O_RDONLY)[0])
        rig.journal()
    rig.waits.begin(journal)
    rig.waits.end()
    assert os.read(read_end, 1) == b""  # no process has one any more
    os.close(read_end)


def test_a_change_keeps_others_from_its_directory(rig: Rig) -> None:
    rename = rig.late(rig.client.rename, 5, b"a", 6, b"b")
    mine = rig.journal()
    for fid in (5, 6):
        rig.waits.begin([])
        assert rig.late(rig.client.stat, fid, b"a") is rename
    rig.late(rig.client.stat, 7, b"a")  # of another directory
    rig.journal()
    renamed = rig.asked()
    assert renamed.code == OP_RENAME and rig.asked().code == OP_STAT
    rig.server.reply(renamed.ident, 0, b"")
    rig.wake()
    assert rename.is_answered and not rename.is_settled
    rig.waits.begin([])
    assert rig.late(rig.client.stat, 5, b"a") is rename  # it is not applied yet
    rig.journal()
    rig.waits.begin(mine)
    rig.client.rename(5, b"a", 6, b"b")
    assert rename.is_settled
    rig.waits.end()
    rig.waits.begin([])
    assert rig.late(rig.client.stat, 5, b"a") is not rename
    assert rig.client.lost_changes == 0


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_change_that_nobody_applies(rig: Rig, is_answered: bool) -> None:
    rename = rig.late(rig.client.rename, 5, b"a", 5, b"b")
    request = rig.asked()
    if is_answered:
        rig.server.reply(request.ident, 0, b"")
        rig.wake()
    rig.waits.end()  # the caller was killed
    if not is_answered:
        assert rig.client.lost_changes == 0 and not rename.is_settled
        rig.server.reply(request.ident, 0, b"")
        rig.wake()
    assert rig.client.lost_changes == 1 and rename.is_settled
    rig.waits.begin([])
    other = rig.late(rig.client.rename, 5, b"a", 5, b"b")
    rig.server.reply(rig.asked().ident, -ENOENT, b"")
    rig.wake()
    rig.waits.end()
    assert rig.client.lost_changes == 1 and other.is_settled  # nothing was changed


def test_what_nobody_takes_is_given_back(rig: Rig) -> None:
    rig.late(lambda: rig.client.open_file(5, b"f", os.O_RDWR, 1, 2, wants_pin=True))
    request = rig.asked()
    rig.waits.end()
    read_end, write_end = os.pipe()
    rig.server.ident = request.ident
    rig.server.send(0, 0, OPENED + bytes([TEXT_UNKNOWN]), write_end)
    os.close(write_end)
    rig.wake()
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    forgotten = rig.asked()
    assert forgotten.code == OP_FORGET and forgotten.body == pack_u64(77)


def test_the_fid_of_a_name_that_nobody_takes_is_given_back(rig: Rig) -> None:
    rig.late(lambda: rig.client.look_up(5, b"d", opens=True))
    request = rig.asked()
    rig.waits.end()
    rig.server.ident = request.ident
    rig.server.send(0, 0, STAT + pack_u64(77) + bytes([TEXT_UNKNOWN]))
    rig.wake()
    forgotten = rig.asked()
    assert forgotten.code == OP_FORGET and forgotten.body == pack_u64(77)


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_bound_socket_that_nobody_takes_is_given_back(rig: Rig, is_answered: bool) -> None:
    """A program that is killed in bind(2) leaves its gofer no socket."""
    bind = rig.late(rig.client.bind, 5, b"name", 1, 0o755)
    answer = OPENED  # attributes and a number
    asked = rig.asked().ident
    if is_answered:
        rig.server.reply(asked, 0, answer)
        rig.wake()
    bind.forget()
    if not is_answered:
        rig.server.reply(asked, 0, answer)
        rig.wake()
    given_back = rig.asked()
    assert (given_back.code, given_back.body) == (OP_UNBIND, pack_u64(77))


@pytest.mark.parametrize(
    ("told", "sent", "error", "has_text"),
    [
        (TEXT_UNKNOWN, 1, 0, False),
        (TEXT_NONE, 1, 0, True),
        (TEXT_COMES, 2, 0, True),
        (TEXT_COMES, 1, 0, False),
        (TEXT_COMES, 0, ENFILE, False),
        (TEXT_COMES, 3, ENFILE, False),
        (TEXT_NONE, 2, ENFILE, False),
        (99, 1, 0, False),
        (-1, 2, EIO, False),
    ],
)
def test_an_answer_that_lies_about_text_leaves_no_descriptor(
    rig: Rig, told: int, sent: int, error: int, has_text: bool
) -> None:
    waiting = rig.late(rig.client.open, 5, b"f", os.O_RDONLY)
    read_end, write_end = os.pipe()
    rig.server.ident = rig.asked().ident
    rig.server.send_fds(0, 0, ANSWER + (bytes([told]) if told >= 0 else b""), [write_end] * sent)
    os.close(write_end)
    rig.wake()
    journal = rig.journal()
    assert waiting in journal
    rig.waits.begin(journal)
    if error:
        with pytest.raises(LinuxError) as raised:
            rig.client.open_file(5, b"f", os.O_RDONLY, 0, 0, wants_pin=False)
        assert raised.value.errno == error
    else:
        opened = rig.client.open_file(5, b"f", os.O_RDONLY, 0, 0, wants_pin=False)
        assert (opened.text is not None) == has_text
        assert opened.text is None or opened.text.key == (5, 0, 0)
        assert opened.text is None or opened.text.take() is None  # a pipe is no text
        os.close(opened.fd)
    rig.waits.end()
    rig.waits.begin([])
    assert os.read(read_end, 1) == b""
    os.close(read_end)


@pytest.mark.parametrize("mode", [0o40755, 0o100644])
def test_only_a_file_that_is_wanted_comes_with_a_descriptor(rig: Rig, mode: int) -> None:
    for opens in (False, True):
        read_end, write_end = os.pipe()
        waiting = rig.late(lambda opens=opens: rig.client.look_up(5, b"d", opens=opens))  # type: ignore[misc]
        request = rig.asked()
        rig.server.ident = request.ident
        status = ATTR.pack(1, 2, mode, 1, 0, 0, 0, 5, 8, 0, 0, 0) + b"\0\0"
        rig.server.send(0, 0, status + pack_u64(0) + bytes([TEXT_UNKNOWN]), write_end)
        os.close(write_end)
        rig.wake()
        journal = rig.journal()
        assert waiting in journal
        rig.waits.begin(journal)
        found = rig.client.look_up(5, b"d", opens=opens)
        rig.waits.end()
        rig.waits.begin([])
        assert isinstance(found, Found)
        assert (found.fd >= 0) == (opens and mode == 0o100644)
        if found.fd >= 0:
            os.close(found.fd)
        assert os.read(read_end, 1) == b""
        os.close(read_end)


def test_a_server_that_dies_answers_everything(rig: Rig) -> None:
    request = rig.late(rig.client.stat, 5, b"name")
    journal = rig.journal()
    rig.server.close()
    rig.wake()
    assert request.is_answered and not rig.kernel.fds.watchers
    rig.waits.begin(journal)
    assert rig.client.stat(5, b"name") == -EIO
    with pytest.raises(LinuxError) as raised:
        rig.client.stat(5, b"other")
    assert raised.value.errno == EIO


def test_nobody_is_told_of_a_death_that_ends_the_sandbox(rig: Rig) -> None:
    rig.client.is_part = True
    asked = rig.late(rig.client.stat, 5, b"name")
    journal = rig.journal()
    rig.server.close()
    rig.wake()
    assert not asked.is_answered and not rig.kernel.fds.watchers
    rig.waits.begin(journal)
    assert rig.late(rig.client.stat, 5, b"name") is asked
    for _turn in range(2):
        assert not rig.late(rig.client.stat, 5, b"other").is_answered
    rig.client.forget([7])
    rig.client.close()  # now no object uses it any more
    assert asked.is_answered


def test_requests_that_the_socket_does_not_take_wait(rig: Rig) -> None:
    count = 0
    while not rig.kernel.fds.watchers:  # no task reads
        rig.client.forget(list(range(1024)))
        count += 1
    seen = 0
    while seen < count:
        frame = rig.asked()
        assert frame.code == OP_FORGET and len(frame.body) == 8192
        seen += 1
        for token, watcher in list(rig.kernel.fds.watchers.items()):
            watcher.fd_ready(token, 4)
    assert not rig.kernel.fds.watchers


def listing(parent: int, name: bytes, fid: int, entries: bytes = b"") -> bytes:
    """One directory in a reply to OPENDIR_MANY."""
    head = pack_u64(parent) + pack_string(name) + pack_u64(fid) + b"\1"
    return head + STAT[: ATTR.size] + pack_u32(len(entries)) + entries


def test_what_is_listed_ahead_is_waited_for_by_whoever_needs_it(rig: Rig) -> None:
    question = rig.client.begin_listings(5, [b"a", b"b"], 8)
    assert not rig.client.has_come(question, is_waiting=False) and not rig.kernel.fds.watchers
    for _call in range(2):
        rig.waits.begin([])
        with pytest.raises(HostWait) as raised:
            rig.client.has_come(question, is_waiting=True)
        assert raised.value.request is question and not rig.journal()
    assert rig.client.late_count() == 1 and rig.kernel.fds.watchers
    answer = pack_u32(2) + listing(5, b"a", 6) + listing(6, b"below", 7)
    rig.server.reply(rig.asked().ident, 0, answer)
    rig.wake()
    assert rig.client.has_come(question, is_waiting=True)
    assert rig.client.late_count() == 0 and not rig.kernel.fds.watchers
    found = rig.client.listings(question)
    assert [(each.parent_fid, each.name, each.listing.fid) for each in found] == [
        (5, b"a", 6),
        (6, b"below", 7),
    ]


def test_what_is_listed_ahead_comes_before_other_answers(rig: Rig) -> None:
    question = rig.client.begin_listings(5, [b"a"], 8)
    rig.server.reply(rig.asked().ident, 0, pack_u32(1) + listing(5, b"a", 6))
    rig.late(rig.client.stat, 5, b"name")
    assert question.is_answered and len(rig.client.listings(question)) == 1
    again = rig.client.begin_listings(5, [b"b"], 8)
    rig.server.reply(rig.asked().ident, -ENOENT, b"")  # of stat
    rig.server.reply(rig.asked().ident, -ENOENT, b"")
    assert rig.client.has_come(again, is_waiting=False)
    with pytest.raises(LinuxError) as raised:
        rig.client.listings(again)
    assert raised.value.errno == ENOENT


@pytest.mark.parametrize(
    "answer",
    [
        pack_u32(65) + listing(5, b"a", 6) * 65,
        pack_u32(2) + listing(5, b"a", 6),
        pack_u32(1) + listing(5, b"a", 6) + b"more",
        pack_u32(1) + listing(5, b"a", 6, b"no entry"),
        b"",
    ],
)
def test_listings_ahead_that_do_not_parse_end_the_connection(rig: Rig, answer: bytes) -> None:
    question = rig.client.begin_listings(5, [b"a"], 8)
    rig.server.reply(rig.asked().ident, 0, answer)
    assert rig.client.has_come(question, is_waiting=True)
    for _time in range(2):
        with pytest.raises(LinuxError) as raised:
            rig.client.listings(question)
        assert raised.value.errno == EIO
    with pytest.raises(LinuxError):
        rig.client.begin_listings(5, [b"a"], 8)
