"""The audit log: the names of OCSF, the detection of missing lines, and its bounded size."""

import json
import os
from pathlib import Path
from typing import Any

from cloche.egress import audit
from cloche.egress.audit import ALLOWED, BLOCKED, Audit, broken_line

FLAGS = os.O_RDWR | os.O_CREAT


class Log:
    """A log in two files."""

    def __init__(self, folder: Path, limit: int = audit.FILE_BYTES, rate: int = audit.RATE) -> None:
        self.paths = (folder / "log", folder / "log.1")
        self.fds = [os.open(self.paths[0], FLAGS | os.O_APPEND, 0o600), os.open(self.paths[1], FLAGS, 0o600)]
        self.audit = Audit("box", self.fds[0], self.fds[1], limit, rate)

    def lines(self) -> list[str]:
        """Of both files, oldest first."""
        return [line for path in reversed(self.paths) for line in path.read_text().splitlines()]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def last(log: Log) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(log.lines()[-1])
    return found


def test_names_of_ocsf(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for activity, number in (
        ("open", 1),
        ("close", 2),
        ("cut", 3),
        ("fail", 4),
        ("refuse", 5),
        ("policy", 99),
    ):
        log.audit.record(
            activity, ALLOWED, name="good.test", addr=b"\1\2\3\4", port=443, transport="tcp", rule="r"
        )
        row = last(log)
        assert (row["class_uid"], row["category_uid"], row["activity_id"]) == (4001, 4, number)
        assert row["type_uid"] == 400100 + number
        assert row["severity_id"] == 1 and row["metadata"]["version"] and row["metadata"]["product"]["name"]
        assert row["dst_endpoint"] == {"hostname": "good.test", "ip": "1.2.3.4", "port": 443}
        assert row["firewall_rule"] == {"name": "r"} and (row["disposition"], row["disposition_id"]) == (
            ALLOWED,
            1,
        )
    log.audit.record(
        "request", ALLOWED, name="good.test", request=("GET", "/a?b=c", 200), pid=7, program=b"x\xff"
    )
    row = last(log)
    assert (row["class_uid"], row["activity_id"], row["http_response"]) == (4002, 3, {"code": 200})
    assert row["http_request"] == {"http_method": "GET", "url": {"path": "/a", "query_string": "b=c"}}
    assert row["actor"] == {"process": {"pid": 7, "name": "x\\xff"}}
    log.audit.record("request", BLOCKED, name="good.test", request=("BREW", "/", 403), message="why")
    assert (last(log)["activity_id"], last(log)["disposition_id"], last(log)["message"]) == (99, 2, "why")
    log.audit.record("name", BLOCKED, name="evil.test")
    assert (last(log)["class_uid"], last(log)["activity_id"]) == (4003, 1)
    assert last(log)["query"] == {"hostname": "evil.test"}
    log.close()


def test_it_moves_to_its_second_half_and_stays_whole(tmp_path: Path) -> None:
    log = Log(tmp_path, limit=20_000, rate=1 << 30)
    for number in range(300):
        log.audit.record("open", ALLOWED, name=f"host{number}.test", port=443)
        assert all(path.stat().st_size <= 20_000 for path in log.paths)
    lines = log.lines()
    assert 40 < len(lines) < 300 and json.loads(lines[-1])["dst_endpoint"]["hostname"] == "host299.test"
    # Earlier lines were dropped, so the chain begins at its first line here.
    chain = json.loads(lines[0])["chain"]
    assert broken_line(lines[1:], chain) == -1
    cut = len(log.paths[1].read_text().splitlines())
    assert broken_line(lines[1:cut] + lines[cut + 1 :], chain) == cut - 1  # a line at the seam taken out
    log.close()


def test_another_process_goes_on_with_a_file(tmp_path: Path) -> None:
    """A sandbox may be started again with the same file: its first line says with which chain it begins."""
    for _turn in range(2):
        log = Log(tmp_path)
        log.audit.record("open", ALLOWED, name="good.test")
        log.audit.record("close", ALLOWED, name="good.test")
        log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 4 and all("before" in json.loads(lines[at]) for at in (0, 2))
    assert broken_line(lines[:2]) == broken_line(lines[2:]) == -1


def test_a_flood_is_counted(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for number in range(5000):
        log.audit.record("refuse", BLOCKED, name=f"host{number}.test", message="no")
    log.audit.flush()
    lines = [json.loads(line) for line in log.lines()]
    left_out = sum(line["count"] for line in lines if line["activity_name"] == "suppressed")
    written = [line for line in lines if line["activity_name"] != "suppressed"]
    assert len(written) + left_out == 5000 and left_out > 0
    assert broken_line(log.lines()) == -1
    assert len(log.audit.report()) < 1 << 20
    log.close()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    fd = os.open("/dev/full", os.O_RDWR)
    made = Audit("box", fd, -1)
    made.size = 0
    made.record("open", ALLOWED, name="good.test")
    os.close(fd)
    assert "the log is not whole" in made.report()
