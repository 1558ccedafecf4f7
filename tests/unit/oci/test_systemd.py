"""systemd's driver against a manager of the test's own, which speaks D-Bus on a socket."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney.low_level import HeaderFields, Message, Parser
from jeepney.wrappers import DBusAddress, new_error, new_method_return, new_signal

from cloche.oci import cgroups, systemd
from cloche.oci.bus import Bus, BusError, candidates, connect
from cloche.oci.errors import OciError
from cloche.oci.records import Record

NAME = "org.freedesktop.systemd1"
EMITTER = DBusAddress("/org/freedesktop/systemd1", NAME, f"{NAME}.Manager")
INFINITY = (1 << 64) - 1


class Manager:
    """One connection at a time: what was called, and the answers that it is told to give."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.calls: list[tuple[str, Any]] = []
        self.refusals: dict[str, list[str]] = {}  # by method: names of errors
        self.result = "done"
        self.greeting = b"DATA\r\n"
        self.is_silent = False
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                sock, _address = self.listener.accept()
            except OSError:
                return
            with sock:
                try:
                    self.one(sock)
                except OSError:
                    pass  # the client has gone

    def one(self, sock: socket.socket) -> None:
        lines = sock.makefile("rb", buffering=0)
        assert lines.readline() == b"\0AUTH EXTERNAL\r\n"
        sock.sendall(self.greeting)
        if self.greeting.startswith(b"DATA"):
            if lines.readline() != b"DATA\r\n":
                return
            sock.sendall(b"OK 0123\r\n")
        if lines.readline() != b"BEGIN\r\n":
            return
        parser, serial = Parser(), 0
        while data := sock.recv(4096):
            parser.add_data(data)
            while (message := parser.get_next_message()) is not None:
                for answer in self.answers(message):
                    serial += 1
                    sock.sendall(answer.serialise(serial))

    def answers(self, message: Message) -> list[Message]:
        member = message.header.fields[HeaderFields.member]
        self.calls.append((member, message.body))
        if self.is_silent and member != "Hello":
            return []
        if self.refusals.get(member):
            name = self.refusals[member].pop(0)
            return [self.sent(new_error(message, name, "s", (f"no {member}",)))]
        signature, body = {"Hello": ("s", (":1.5",)), "StartTransientUnit": ("o", ("/job/7",))}.get(
            member, ("o", ("/job/8",)) if member == "StopUnit" else (None, ())
        )
        found = [self.sent(new_method_return(message, signature, body))]
        if signature == "o":
            job = body[0]
            forged = new_signal(EMITTER, "JobRemoved", "uoss", (7, job, "x.scope", "forged"))
            forged.header.fields[HeaderFields.sender] = ":1.666"
            others = new_signal(EMITTER, "JobRemoved", "uoss", (6, "/job/6", "y.scope", "failed"))
            own = new_signal(EMITTER, "JobRemoved", "uoss", (7, job, "x.scope", self.result))
            found = [forged, self.sent(others), *found, self.sent(own)]
        return found

    def sent(self, message: Message) -> Message:
        message.header.fields[HeaderFields.sender] = ":1.0"
        return message

    def called(self, member: str) -> list[Any]:
        return [body for name, body in self.calls if name == member]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "bus")
    yield made
    made.listener.close()


def test_names() -> None:
    assert systemd.unit_of("a.slice:docker:01", "x", is_user=False) == ("a.slice", "docker-01.scope")
    assert systemd.unit_of("", "x", is_user=False) == ("system.slice", "runc-x.scope")
    assert systemd.unit_of(":libpod:01", "x", is_user=True) == ("user.slice", "libpod-01.scope")
    assert systemd.unit_of("user.slice:libpod:01", "x", is_user=True) == ("user.slice", "libpod-01.scope")


@pytest.mark.parametrize(
    "path, text",
    [
        ("/a/b", 'format "slice:prefix:name"'),
        ("a.slice:b:c:d", 'format "slice:prefix:name"'),
        ("a:b:c", "invalid slice name"),
        ("../a.slice:b:c", "invalid slice name"),
        ("a.slice:b:../c", "invalid unit name"),
        ("a.slice:b:", "invalid unit name"),
        ("a.slice:b:" + "c" * 300, "invalid unit name"),
        ("a.slice:b:c.slice", "needs a scope"),
    ],
)
def test_names_that_are_none(path: str, text: str) -> None:
    with pytest.raises(OciError, match=text):
        systemd.unit_of(path, "x", is_user=False)


def limits(resources: dict[str, Any], *, is_v2: bool = True) -> dict[str, Any]:
    rows = systemd.properties("a.slice", "x", 7, resources, {}, is_v2=is_v2)
    plain = {name for name, _value in systemd.properties("a.slice", "x", 7, {}, {}, is_v2=is_v2)}
    return {name: value for name, value in rows if name not in plain}


def test_limits_of_version_2() -> None:
    resources = {
        "memory": {"limit": 6 << 20, "reservation": 4096},
        "pids": {"limit": 2},
        "cpu": {"shares": 1024, "quota": 12345, "period": 100_000, "cpus": "0-2,9", "mems": "0"},
    }
    assert limits(resources) == {
        "MemoryMax": ("t", (6 << 20) + cgroups.OVERHEAD_BYTES),
        "MemoryLow": ("t", 4096),
        "TasksMax": ("t", 2 * 2 + cgroups.OVERHEAD_TASKS),
        "CPUWeight": ("t", cgroups.weight(1024)),
        "CPUQuotaPeriodUSec": ("t", 100_000),
        "CPUQuotaPerSecUSec": ("t", 130_000),
        "AllowedCPUs": ("ay", b"\x07\x02"),
        "AllowedMemoryNodes": ("ay", b"\x01"),
    }
    unlimited = {"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}
    assert {value for _sign, value in limits(unlimited).values()} == {INFINITY}


def test_limits_of_version_1() -> None:
    found = limits({"memory": {"limit": -1}, "cpu": {"shares": 512, "cpus": "0"}}, is_v2=False)
    assert found == {"MemoryLimit": ("t", INFINITY), "CPUShares": ("t", 512)}


@pytest.mark.parametrize("text", ["a", "3-1", "0-99999999999", "-1"])
def test_lists_of_processors_that_are_none(text: str) -> None:
    with pytest.raises(OciError, match="list of processors"):
        limits({"cpu": {"cpus": text}})


def test_annotations() -> None:
    annotations = {
        "org.systemd.property.TimeoutStopSec": "1.5",
        "org.systemd.property.CollectMode": "'inactive'",
        "org.systemd.property.After": "['a.service']",
        "something.else": "([",
    }
    rows = systemd.properties("a.slice", "x", 7, {}, annotations, is_v2=True)
    found = dict(rows)
    assert len(found) == len(rows)
    assert found["TimeoutStopUSec"] == ("t", 1_500_000)
    assert found["CollectMode"] == ("s", "inactive")
    assert found["After"] == ("as", ["a.service"])
    assert found["PIDs"] == ("au", [7]) and found["Delegate"] == ("b", True)


@pytest.mark.parametrize(
    "name, text", [("A-b", "1"), ("Ab", "1"), ("RestartSec", "'x'"), ("Memory", "[1"), ("PIDs", "[uint32 1]")]
)
def test_annotations_that_are_wrong(name: str, text: str) -> None:
    with pytest.raises(OciError, match="incorrect|parse error|not a container's"):
        systemd.properties("a.slice", "x", 7, {}, {f"org.systemd.property.{name}": text}, is_v2=True)


def test_a_unit_is_started(manager: Manager) -> None:
    bus = Bus(manager.path)
    systemd.start(bus, "x.scope", [("Slice", ("s", "a.slice")), ("PIDs", ("au", [1, 2]))])
    bus.close()
    assert [name for name, _body in manager.calls] == ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]
    name, mode, rows, more = manager.called("StartTransientUnit")[0]
    assert (name, mode, more) == ("x.scope", "replace", [])
    assert rows == [("Slice", ("s", "a.slice")), ("PIDs", ("au", [1, 2]))]


def test_a_unit_of_that_name_that_has_failed(manager: Manager) -> None:
    manager.refusals["StartTransientUnit"] = [f"{NAME}.UnitExists"]
    systemd.start(Bus(manager.path), "x.scope", [])
    assert manager.called("ResetFailedUnit") == [("x.scope",)]
    manager.refusals["StartTransientUnit"] = [f"{NAME}.UnitExists"] * 2
    with pytest.raises(BusError, match="no StartTransientUnit"):
        systemd.start(Bus(manager.path), "x.scope", [])


def test_a_job_that_fails(manager: Manager) -> None:
    manager.result = "dependency"
    with pytest.raises(BusError, match="got `dependency`"):
        systemd.start(Bus(manager.path), "x.scope", [])


def test_a_manager_without_a_bus(tmp_path: Path) -> None:
    (tmp_path / "systemd").mkdir()
    direct = Manager(tmp_path / "systemd" / "private")
    direct.sent = lambda message: message  # type: ignore[method-assign]  # it says no senders
    bus = connect([str(tmp_path / "nothing"), direct.path])
    assert bus.is_direct
    systemd.start(bus, "x.scope", [])
    assert [name for name, _body in direct.calls] == ["Subscribe", "StartTransientUnit"]
    direct.listener.close()


def test_a_bus_that_refuses_or_hangs(manager: Manager) -> None:
    manager.greeting = b"REJECTED\r\n"
    with pytest.raises(BusError, match="not authenticated"):
        connect([manager.path])
    manager.greeting = b"DATA\r\n"
    manager.is_silent = True
    bus = Bus(manager.path, timeout_s=0.5)
    with pytest.raises(BusError, match="timed out"):
        systemd.start(bus, "x.scope", [])
    with pytest.raises(BusError, match="no address"):
        connect([])


def test_where_the_manager_is() -> None:
    assert candidates({}, is_user=False) == ["/run/dbus/system_bus_socket", "/run/systemd/private"]
    user = {"XDG_RUNTIME_DIR": "/r", "DBUS_SESSION_BUS_ADDRESS": "tcp:host=x;unix:path=/a%20b,guid=1"}
    assert candidates(user, is_user=True) == ["/a b", "/r/bus", "/r/systemd/private"]
    assert candidates({"DBUS_SESSION_BUS_ADDRESS": "unix:abstract=x"}, is_user=True) == ["\0x"]


def test_a_scope_is_held_until_it_is_released(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "DBUS_SESSION_BUS_ADDRESS" if systemd.is_rootless() else "DBUS_SYSTEM_BUS_ADDRESS"
    monkeypatch.setenv(name, f"unix:path={manager.path}")
    scope = systemd.Scope("a.slice:docker:x", "x", {}, {})
    child = os.dup(scope.sock.fileno())  # as a process that was forked meanwhile has it
    assert (scope.unit, scope.bus) == ("docker-x.scope", manager.path)
    assert scope.groups == Path("/proc/self/cgroup").read_text()
    rows = dict(manager.called("StartTransientUnit")[0][2])
    assert rows["PIDs"] == ("au", [scope.pid])
    assert Path(f"/proc/{scope.pid}").exists()
    scope.release()
    os.close(child)
    assert not Path(f"/proc/{scope.pid}").exists()


def test_a_scope_that_cannot_be(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "DBUS_SESSION_BUS_ADDRESS" if systemd.is_rootless() else "DBUS_SYSTEM_BUS_ADDRESS"
    monkeypatch.setenv(name, f"unix:path={manager.path}")
    manager.refusals["StartTransientUnit"] = ["org.freedesktop.DBus.Error.PropertyReadOnly"]
    with pytest.raises(OciError, match="creating systemd unit `docker-x.scope`: no StartTransientUnit"):
        systemd.Scope("a.slice:docker:x", "x", {}, {})
    with pytest.raises(OciError, match="parse error"):
        systemd.Scope("a.slice:docker:x", "x", {}, {"org.systemd.property.After": "["})


def test_limits_change(manager: Manager, tmp_path: Path) -> None:
    record = Record(str(tmp_path), "x")
    record.unit, record.bus = "docker-x.scope", manager.path
    systemd.update(record, {"pids": {"limit": 5}})
    rows = [("TasksMax", ("t", 2 * 5 + cgroups.OVERHEAD_TASKS))]
    assert manager.called("SetUnitProperties") == [("docker-x.scope", True, rows)]
    manager.refusals["SetUnitProperties"] = [f"{NAME}.NoSuchUnit"]
    with pytest.raises(OciError, match="docker-x.scope: no SetUnitProperties"):
        systemd.update(record, {"pids": {"limit": 5}})


def test_an_end(manager: Manager, tmp_path: Path) -> None:
    record = Record(str(tmp_path), "x")
    record.unit, record.bus = "docker-x.scope", manager.path
    systemd.stop(record)
    assert manager.called("StopUnit") == [("docker-x.scope", "replace")]
    assert manager.called("ResetFailedUnit") == [("docker-x.scope",)]
    manager.refusals["StopUnit"] = [f"{NAME}.NoSuchUnit"]
    systemd.stop(record)
    record.bus = str(tmp_path / "nothing")
    systemd.stop(record)
