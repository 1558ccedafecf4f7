"""Ports: conflicts by address and flags, ephemeral ports, TIME_WAIT."""

import itertools

import pytest

from cloche.abi.errno import EADDRINUSE, EADDRNOTAVAIL, LinuxError
from cloche.net.inet_addr import ANY4, ANY6, LOOPBACK4, LOOPBACK6
from cloche.net.ports import MAX_TIME_WAIT, Hold, PortTable, TupleTest, overlap

OTHER4 = b"\x7f\0\0\2"


def hold(addr: bytes, port: int = 80, **flags: bool) -> Hold:
    made = Hold(addr, port, is_v6=len(addr) == 16)
    made.is_v6_only = flags.get("only", addr == LOOPBACK6)  # a specific address is for IPv6 only
    made.does_reuse = flags.get("reuse", False)
    made.does_reuse_port = flags.get("reuse_port", False)
    made.is_listening = flags.get("listening", False)
    return made


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (ANY4, LOOPBACK4, True),
        (LOOPBACK4, OTHER4, False),
        (LOOPBACK4, LOOPBACK4, True),
        (ANY6, LOOPBACK4, True),
        (LOOPBACK6, ANY4, False),
        (LOOPBACK6, ANY6, True),
        (LOOPBACK6, LOOPBACK4, False),
    ],
)
def test_overlap_is_symmetric(a: bytes, b: bytes, expected: bool) -> None:
    assert overlap(hold(a), hold(b)) is expected
    assert overlap(hold(b), hold(a)) is expected


def test_v6_only_leaves_ipv4_alone() -> None:
    assert not overlap(hold(ANY6, only=True), hold(ANY4))
    assert overlap(hold(ANY6), hold(ANY4))


def test_reuse_needs_both_and_no_listener() -> None:
    for first, second, listening in itertools.product((False, True), repeat=3):
        table = PortTable(is_tcp=True)
        table.insert(hold(LOOPBACK4, reuse=first, listening=listening))
        allowed = first and second and not listening
        assert table.conflicts(hold(LOOPBACK4, reuse=second)) is not allowed


def test_udp_shares_with_reuse_alone() -> None:
    table = PortTable(is_tcp=False)
    table.insert(hold(ANY4, reuse=True, listening=True))
    assert not table.conflicts(hold(ANY4, reuse=True))


def test_reuse_port_is_for_one_user() -> None:
    table = PortTable(is_tcp=True)
    table.insert(hold(ANY4, reuse_port=True, listening=True))
    same, other = hold(ANY4, reuse_port=True), hold(ANY4, reuse_port=True)
    other.uid = 1
    assert not table.conflicts(same)
    assert table.conflicts(other)


def test_every_udp_claim_must_agree() -> None:
    """The newest, with which it could be shared, does not decide for the others."""
    table = PortTable(is_tcp=False)
    table.insert(hold(LOOPBACK4))
    table.insert(hold(OTHER4, reuse_port=True))
    assert not table.conflicts(hold(OTHER4, reuse_port=True))
    assert table.conflicts(hold(ANY4, reuse_port=True))


def test_ephemeral_ports_run_out() -> None:
    table = PortTable(is_tcp=True)
    table.low, table.high = 40000, 40003
    seen = set()
    for _ in range(4):
        taken = hold(LOOPBACK4, 0)
        table.take(taken)
        seen.add(taken.port)
    assert seen == {40000, 40001, 40002, 40003}
    with pytest.raises(LinuxError) as error:
        table.take(hold(LOOPBACK4, 0))
    assert error.value.errno == EADDRINUSE


class Busy(TupleTest):
    def __init__(self, *ports: int) -> None:
        self.ports = ports

    def is_free(self, port: int) -> bool:
        return port not in self.ports


def test_connections_share_automatic_ports_only() -> None:
    table = PortTable(is_tcp=True)
    table.low, table.high = 40000, 40001
    for port, automatic in ((40000, True), (40001, False)):
        made = hold(LOOPBACK4, port)
        made.is_automatic = automatic
        table.insert(made)
    assert table.shared_port(Busy()) == 40000
    with pytest.raises(LinuxError) as error:
        table.shared_port(Busy(40000))
    assert error.value.errno == EADDRNOTAVAIL


def test_time_wait_holds_the_port_and_ends() -> None:
    table = PortTable(is_tcp=True)
    old = hold(LOOPBACK4)
    table.take(old)
    table.wait(old)
    with pytest.raises(LinuxError):
        table.take(hold(LOOPBACK4))
    old.ends_ns = 1
    table.take(hold(LOOPBACK4))


def test_time_wait_is_bounded() -> None:
    table = PortTable(is_tcp=True)
    for _ in range(MAX_TIME_WAIT + 10):
        made = hold(LOOPBACK4)
        table.insert(made)
        table.wait(made)
    assert len(table.waiting) == MAX_TIME_WAIT
    assert len(table.holds[80]) == MAX_TIME_WAIT
