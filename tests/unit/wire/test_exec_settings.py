"""The fields about the process in an engine's request to execute a command: carried whole, and checked."""

from typing import Any

import pytest

from cloche.wire.protocol import ProtocolError
from cloche.wire.requests import ExecRequest, exec_request


def request() -> ExecRequest:
    made = ExecRequest([b"ls"])
    made.is_whole = True
    made.groups = [5, 7]
    made.umask = 0o077
    made.rlimits = [(7, 10, -1)]
    made.cap_sets = [1, 1, 0, 0, 3]
    made.oom_score_adj = -5
    made.no_new_privileges = True
    made.keeps_newlines = True
    made.scheduler = [6, -20, 0, 1, 1, 2, (1 << 64) - 1]
    made.io_priority = 0x4003
    made.processors = [0, 1023]
    return made


def test_it_is_carried_whole() -> None:
    made = request()
    found = exec_request(made.to_fields(), 0)
    for name in (
        "is_whole",
        "groups",
        "umask",
        "rlimits",
        "cap_sets",
        "oom_score_adj",
        "no_new_privileges",
        "keeps_newlines",
        "scheduler",
        "io_priority",
        "processors",
    ):
        assert getattr(found, name) == getattr(made, name), name


@pytest.mark.parametrize(
    "name, value",
    [
        ("groups", [-1]),
        ("groups", ["x"]),
        ("groups", [True]),
        ("umask", 0o1000),
        ("rlimits", [[16, 0, 0]]),
        ("rlimits", [[7, -2, 0]]),
        ("rlimits", [[7, 0]]),
        ("rlimits", [7]),
        ("rlimits", [[7, 0, 1 << 63]]),
        ("cap_sets", [1, 2, 3]),
        ("cap_sets", [1 << 41] * 5),
        ("oom_score_adj", 1001),
        ("no_new_privileges", 1),
        ("keeps_newlines", 1),
        ("scheduler", [0, 0, 0]),
        ("scheduler", [0, 0, 0, 0, 0, 0, 1 << 64]),
        ("io_priority", -2),
        ("processors", [1024]),
    ],
)
def test_what_is_out_of_range_is_refused(name: str, value: Any) -> None:
    fields = request().to_fields()
    fields[name] = value
    with pytest.raises(ProtocolError):
        exec_request(fields, 0)
