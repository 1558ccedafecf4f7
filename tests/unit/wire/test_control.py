"""The control protocol: what goes out comes back, and nothing else is taken."""

import os
import random
import socket

import pytest

from cloche.wire.control import (
    EXEC_HAS_FD,
    EXEC_TERMINAL,
    MAX_BODY_BYTES,
    PIECE_BYTES,
    RE_ENDED,
    Assembly,
    ExecRequest,
    Process,
    decode_exec,
    decode_table,
    encode_exec,
    encode_table,
    pieces,
)
from cloche.wire.control_client import ControlClient, ControlError
from cloche.wire.frame import ProtocolError


def request() -> ExecRequest:
    made = ExecRequest([b"sh", b"", b"a b"])
    made.env = [b"A=1", b"B="]
    made.cwd = b"/tmp"
    made.uid, made.gid = 0, 4294967294
    made.flags = EXEC_TERMINAL | EXEC_HAS_FD[0] | EXEC_HAS_FD[1]
    made.rows, made.columns = 24, 65535
    return made


def test_exec() -> None:
    back = decode_exec(encode_exec(request()))
    assert (back.argv, back.env, back.cwd) == ([b"sh", b"", b"a b"], [b"A=1", b"B="], b"/tmp")
    assert (back.uid, back.gid, back.rows, back.columns, back.fd_count()) == (0, 4294967294, 24, 65535, 2)


def refused(made: ExecRequest) -> bool:
    try:
        decode_exec(encode_exec(made))
    except ProtocolError:
        return True
    return False


def test_what_no_client_asks() -> None:
    cases = []
    for name, value in (("argv", []), ("argv", [b"a\0b"]), ("cwd", b"tmp"), ("env", [b"=x"]), ("env", [b"x"]), ("uid", -2),
                        ("uid", 4294967295), ("gid", -1), ("flags", 64), ("flags", EXEC_TERMINAL), ("env", [b"a=\0"])):  # fmt: skip
        made = request()
        setattr(made, name, value)
        cases.append((name, value, refused(made)))
    assert all(case[2] for case in cases), cases


def test_another_version() -> None:
    body = encode_exec(request())
    with pytest.raises(ProtocolError, match="version 2"):
        decode_exec(b"\2" + body[1:])


def test_no_bytes_do_harm() -> None:
    """Cut off, changed or random: ProtocolError or a request, and quickly."""
    good = encode_exec(request())
    chance = random.Random(7)
    bodies = [good[:length] for length in range(len(good))] + [good + b"x", b""]
    for _ in range(2000):
        changed = bytearray(good)
        for _change in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        bodies.append(bytes(changed))
        bodies.append(chance.randbytes(chance.randrange(100)))
    taken = 0
    for body in bodies:
        try:
            decode_exec(body)
            taken += 1
        except ProtocolError:
            pass
        try:
            decode_table(body)
        except ProtocolError:
            pass
    assert 0 < taken < len(bodies)


def test_table() -> None:
    rows = [
        Process(2, 0, 4294967294, "S", 1 << 60, b"a\0b\0"),
        Process(4194304, 2, 0, "Z", 0, b"x" * 100_000),
    ]
    back = decode_table(encode_table(rows))
    assert [(row.pid, row.ppid, row.uid, row.state, row.cpu_ns) for row in back] == [
        (2, 0, 4294967294, "S", 1 << 60),
        (4194304, 2, 0, "Z", 0),
    ]
    assert back[0].command == b"a\0b\0" and len(back[1].command) == 65535


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES + 7])
def test_pieces(size: int) -> None:
    body = os.urandom(size)
    assembly = Assembly()
    found = [assembly.add(9, piece) for piece in pieces(body)]
    assert found[:-1] == [None] * (len(found) - 1) and found[-1] == body
    assert assembly.add(10, b"\0x") == b"x"


def test_pieces_that_do_not_fit() -> None:
    with pytest.raises(ProtocolError):
        Assembly().add(1, b"")
    with pytest.raises(ProtocolError):
        Assembly().add(1, b"\2x")
    mixed = Assembly()
    mixed.add(1, b"\1x")
    with pytest.raises(ProtocolError):
        mixed.add(2, b"\0x")
    endless = Assembly()
    with pytest.raises(ProtocolError):
        for _ in range(MAX_BODY_BYTES // PIECE_BYTES + 2):
            endless.add(1, b"\1" + bytes(PIECE_BYTES))


def test_an_answer_before_the_question() -> None:
    """The sandbox ended while its client connected: the farewell is there, and the socket is closed."""
    ours, theirs = socket.socketpair()
    theirs.sendall((7).to_bytes(4, "little") + RE_ENDED.to_bytes(4, "little") + bytes(4) + b"\5\0\0\0why")
    theirs.close()
    end = ControlClient(ours).wait()
    assert (end.exit_status, end.text) == (5, "why")
    ours.close()


def test_a_monitor_that_dies() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(ControlError, match="died"):
        ControlClient(ours).processes()
    ours.close()
