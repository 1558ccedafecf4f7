"""AF_UNIX without guests: charges, wake-ups, cycles of files in flight, quotas."""

import gc
import random

import pytest

from cloche.abi.errno import EAGAIN, ECONNRESET, EPIPE, ETOOMANYREFS, LinuxError
from cloche.abi.poll import POLLIN, POLLOUT
from cloche.abi.socket import AF_UNIX, MSG_PEEK, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM
from cloche.fs.pipe import create_pipe
from cloche.mm.quota import KERNEL_MEMORY
from cloche.net.rights import collect, flights, take_off
from cloche.net.socket import Incoming, SocketFile
from cloche.net.unix_base import UnixSocket
from cloche.net.unix_dgram import dgram_charge
from cloche.net.unix_stream import stream_charge
from cloche.vfs.objects import FileDescription
from cloche.vfs.waitqueue import Waiter, WaitQueue
from tests.unit.net.world import Net


class Counter(Waiter):
    def __init__(self) -> None:
        self.masks: list[int] = []

    def notify(self, queue: WaitQueue, mask: int) -> bool:
        self.masks.append(mask)
        return False


@pytest.fixture
def net() -> Net:
    return Net()


# Measured on Linux 6.18 with SIOCOUTQ.
@pytest.mark.parametrize(
    ("length", "stream", "dgram"),
    [
        (1, 768, 768), (64, 768, 768), (65, 768, 768), (200, 1280, 1280), (1000, 2304, 2304), (3700, 4352, 4352),
        (4096, 4864, 8448), (5000, 6400, 8448), (8192, 8960, 16640), (10000, 12544, 16640), (16384, 17152, 20736),
        (30000, 30976, 33024), (32768, 33536, 37120),
    ],
)  # fmt: skip
def test_charges_are_linux_truesizes(length: int, stream: int, dgram: int) -> None:
    assert stream_charge(length) == stream
    assert dgram_charge(length) == dgram


def test_charge_returns_to_zero(net: Net) -> None:
    choice = random.Random(7)
    for kind in (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET):
        one, two = net.pair(kind)
        sent = received = b""
        for _ in range(300):
            if choice.random() < 0.6:
                data = choice.randbytes(choice.choice((1, 60, 900, 5000, 40000)))
                result = net.send(one, data)
                if result > 0:
                    sent += data[:result]
                else:
                    assert result == -EAGAIN and one.wmem >= one.sndbuf
            else:
                got = net.recv(two, choice.choice((10, 1000, 100000)) if kind == SOCK_STREAM else 100000)
                if isinstance(got, bytes):
                    received += got
        while isinstance(got := net.recv(two, 100000), bytes):
            received += got
        assert received == sent
        assert one.wmem == 0


def test_many_small_pieces_are_received_at_once(net: Net) -> None:
    """As if they came one by one: files end a receive, a buffer's end splits a piece, a peek takes nothing."""
    one, two = net.pair()
    reader, writer = create_pipe(net.kernel, net.task, 0)
    reader.get()
    writer.get()
    data = bytes(range(1, 241)) + b"some more"
    for byte in data[:240]:
        assert net.send(one, bytes([byte])) == 1
    net.send(one, data[240:])
    assert net.recv(two, 1000, flags=MSG_PEEK) == data
    assert net.recv(two, 100) == data[:100]
    assert net.recv(two, 130, flags=MSG_PEEK) == data[100:230]
    assert net.recv(two, 144) == data[100:244]
    for _number in range(100):
        net.send(one, b"+")
    net.send(one, b"f", files=[writer])
    for _number in range(100):
        net.send(one, b"-")
    info = Incoming()
    assert net.recv(two, 1000, info=info) == data[244:] + b"+" * 100 + b"f"
    assert info.files == [writer]
    assert net.recv(two, 1000) == b"-" * 100
    assert one.wmem == 0
    info.drop()


def test_writers_wake_when_a_quarter_is_used(net: Net) -> None:
    one, two = net.pair()
    counter = Counter()
    while net.send(one, bytes(30000)) > 0:
        pass
    assert not one.poll(net.task) & POLLOUT
    one.queue.add(counter, POLLOUT)
    reads = 0
    while not counter.masks:
        assert isinstance(net.recv(two, 30000), bytes)
        reads += 1
    assert reads > 1
    assert one.wmem * 4 <= one.sndbuf
    assert one.poll(net.task) & POLLOUT


def test_close_with_unread_data_resets(net: Net) -> None:
    one, two = net.pair()
    net.send(one, b"unread")
    two.put()
    assert net.recv(one) == -ECONNRESET
    assert net.recv(one) == b""
    assert net.send(one, b"x") == -EPIPE


def test_files_arrive_and_count_back(net: Net) -> None:
    one, two = net.pair()
    reader, writer = create_pipe(net.kernel, net.task, 0)
    reader.get()
    writer.get()
    assert net.send(one, b"x", files=[reader, writer]) == 1
    table = flights(net.kernel)
    assert table.by_uid == {0: 2}
    info = Incoming()
    assert net.recv(two, info=info) == b"x"
    assert info.files == [reader, writer]
    assert table.by_uid == {}
    info.drop()
    assert reader.refs == 1


def test_closing_drops_files_in_flight(net: Net) -> None:
    one, two = net.pair()
    reader, writer = create_pipe(net.kernel, net.task, 0)
    reader.get()
    net.send(one, b"x", files=[writer])
    assert writer.refs == 1
    one.put()
    assert writer.refs == 1
    two.put()
    assert writer.refs == 0
    assert reader.pipe.writers == 0


def test_cycles_are_collected(net: Net) -> None:
    """A ring of sockets, each in the next one's queue, with a pipe end that shows whether they died."""
    for size in (1, 2, 5, 40):
        reader, writer = create_pipe(net.kernel, net.task, 0)
        reader.get()
        ring = [net.pair() for _ in range(size)]
        for index in range(size):
            assert net.send(ring[index][0], b"x", files=list(ring[(index + 1) % size])) == 1
        net.send(ring[0][1], b"x", files=[writer])
        for one, two in ring:
            one.put()
            two.put()
        collect(net.kernel)
        assert reader.pipe.writers == 0
        assert flights(net.kernel).sockets == {}
        assert flights(net.kernel).by_uid == {}


def test_reachable_sockets_are_not_collected(net: Net) -> None:
    one, two = net.pair()
    held, other = net.pair()
    net.send(one, b"x", files=[held])
    net.send(other, b"y", files=[two])
    held.put()
    two.put()
    collect(net.kernel)
    # `two` is in the queue of `held`, `held` in that of `two`: neither can be received.
    assert flights(net.kernel).sockets == {}
    one, two = net.pair()
    held, other = net.pair()
    net.send(one, b"x", files=[held])
    held.put()
    collect(net.kernel)
    info = Incoming()
    assert net.recv(two, info=info) == b"x"
    assert info.files == [held]


def test_deep_nesting_is_released_without_recursion(net: Net) -> None:
    inner: FileDescription = net.pair()[0]
    for _ in range(5000):
        one, two = net.pair()
        assert net.send(one, b"x", files=[inner]) == 1
        inner.put()
        one.put()
        inner = two
    inner.put()
    assert flights(net.kernel).by_uid == {}


def test_files_in_flight_are_limited(net: Net) -> None:
    task = net.new_task(uid=1000)
    reader, _writer = create_pipe(net.kernel, task, 0)
    with pytest.raises(LinuxError) as error:
        for _ in range(100):
            take_off(net.kernel, task, [reader])
    assert error.value.errno == ETOOMANYREFS
    assert flights(net.kernel).by_uid[1000] == 65  # one more than RLIMIT_NOFILE


def test_a_full_datagram_queue_is_polled(net: Net) -> None:
    server: SocketFile = net.socket(AF_UNIX, SOCK_DGRAM)
    assert server.bind(net.task, b"\1\0\0srv") == 0
    client = net.socket(AF_UNIX, SOCK_DGRAM)
    assert client.connect(net.task, b"\1\0\0srv", is_nonblocking=True) == 0
    count = 0
    while net.send(client, b"x") == 1:
        count += 1
    assert count == 11
    assert not client.poll(net.task) & POLLOUT
    counter = Counter()
    client.queue.add(counter)
    assert net.recv(server) == b"x"
    assert counter.masks
    assert client.poll(net.task) & POLLOUT


def test_backlog_and_late_acceptance(net: Net) -> None:
    listener = net.socket(AF_UNIX, SOCK_STREAM)
    listener.bind(net.task, b"\1\0\0lsn")
    listener.listen(net.task, 0)
    first, second = net.socket(AF_UNIX, SOCK_STREAM), net.socket(AF_UNIX, SOCK_STREAM)
    assert first.connect(net.task, b"\1\0\0lsn", is_nonblocking=True) == 0
    assert second.connect(net.task, b"\1\0\0lsn", is_nonblocking=True) == -EAGAIN
    counter = Counter()
    second.queue.add(counter, POLLOUT)
    server = net.accept(listener)
    assert counter.masks
    assert second.connect(net.task, b"\1\0\0lsn", is_nonblocking=True) == 0
    net.send(first, b"hello")
    assert net.recv(server) == b"hello"
    listener.put()
    assert net.recv(second) == -ECONNRESET
    assert not first.poll(net.task) & POLLIN


def use_and_close(net: Net, before: int) -> None:
    for kind in (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET):
        one, two = net.pair(kind)
        net.send(one, bytes(100000))
        net.send(two, b"x", files=[one])
        one.put()
        two.put()
    listener = net.socket(AF_UNIX, SOCK_STREAM)
    listener.bind(net.task, b"\1\0\0lsn")
    listener.listen(net.task, 100)
    for _ in range(50):
        client = net.socket(AF_UNIX, SOCK_STREAM)
        client.connect(net.task, b"\1\0\0lsn", is_nonblocking=True)
        net.send(client, b"hello")
        client.put()
    assert KERNEL_MEMORY.used > before
    listener.put()


def test_nothing_stays_charged(net: Net) -> None:
    use_and_close(net, KERNEL_MEMORY.used)
    gc.collect()  # remains of other tests
    before = KERNEL_MEMORY.used
    use_and_close(net, before)
    assert KERNEL_MEMORY.used == before


def test_closed_senders_are_forgotten(net: Net) -> None:
    server = net.socket(AF_UNIX, SOCK_DGRAM)
    assert isinstance(server, UnixSocket)
    server.bind(net.task, b"\1\0\0srv")
    for _ in range(1000):
        client = net.socket(AF_UNIX, SOCK_DGRAM)
        client.connect(net.task, b"\1\0\0srv", is_nonblocking=True)
        while net.send(client, b"x") == 1:
            pass
        client.put()
    assert len(server.waiting) <= 65
