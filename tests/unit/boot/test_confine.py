"""Confinement: the rights that a confined child still has, tested with the host's kernel."""

import os
import socket
from collections.abc import Callable

import pytest

from cloche.boot import confine
from cloche.boot.confine import Measure, Report
from cloche.platform import hostsys


def in_child(act: Callable[[Report], None]) -> str:
    """Run `act` in a forked child; the text of what went wrong, empty if nothing did."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            act(Report())
        except BaseException as error:
            os.write(write_end, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text


def require(report: Report, name: str) -> None:
    """Skip, from inside of the child, what this host does not grant."""
    if not report.has(name):
        os._exit(0)


def test_a_report_survives_the_pipe() -> None:
    report = Report()
    report.in_force("a", "note\twith\ntabs")
    report.missing("b", "why", "how")
    copy = Report.decode(report.encode())
    assert [(m.name, m.is_in_force, m.reason, m.remedy) for m in copy.measures] == [
        ("a", True, "note with tabs", ""),
        ("b", False, "why", "how"),
    ]
    assert copy.has("a") and not copy.has("b") and not copy.has("c")


def test_probe_reports_every_measure_and_leaves_us_alone() -> None:
    before = (os.geteuid(), os.getcwd(), os.stat("/").st_ino, os.readlink("/proc/self/ns/net"))
    report = confine.probe()
    assert before == (os.geteuid(), os.getcwd(), os.stat("/").st_ino, os.readlink("/proc/self/ns/net"))
    names = [measure.name for measure in report.measures]
    for name in (confine.USER_NAMESPACE, confine.EMPTY_ROOT, confine.LANDLOCK, confine.SECCOMP):
        assert name in names
    missing: list[Measure] = [measure for measure in report.measures if not measure.is_in_force]
    assert all(measure.reason for measure in missing)


def test_the_root_is_empty_and_cannot_be_filled() -> None:
    def act(report: Report) -> None:
        held = os.open("/usr", os.O_PATH)
        confine.enter_user_namespace(report)
        confine.enter_namespaces(report, confine.SENTRY_NAMESPACES)
        confine.empty_root(report)
        require(report, confine.EMPTY_ROOT)
        assert os.listdir("/") == []
        assert os.listdir(".") == []
        with pytest.raises(OSError, match="."):
            os.mkdir("/x")
        with pytest.raises(OSError, match="."):
            os.open("/x", os.O_CREAT | os.O_RDWR)
        os.stat("bin", dir_fd=held)  # a descriptor that was open still works

    assert in_child(act) == ""


def test_all_privileges_are_gone() -> None:
    def act(report: Report) -> None:
        confine.enter_user_namespace(report)
        confine.enter_namespaces(report, confine.SENTRY_NAMESPACES)
        status = os.open("/proc/self/status", os.O_RDONLY)
        confine.empty_root(report)
        confine.become_unprivileged(report)
        confine.drop_capabilities(report)
        text = os.pread(status, 65536, 0).decode()
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(fields[name], 16) == 0, name
        assert int(fields["NoNewPrivs"]) == 1
        if report.has(confine.USER_NAMESPACE) or os.geteuid() == confine.NOBODY:
            assert int(fields["CapBnd"], 16) == 0
        assert os.geteuid() != 0
        with pytest.raises(OSError, match="Operation not permitted|Invalid argument"):
            os.setuid(0)

    assert in_child(act) == ""


def test_kept_capabilities() -> None:
    def act(report: Report) -> None:
        confine.drop_capabilities(report, 1 << 2)
        effective, permitted, inheritable = hostsys.capget()
        assert effective | permitted | inheritable in (0, 1 << 2)
        assert (effective != 0) == (os.geteuid() == 0)

    assert in_child(act) == ""


def test_landlock_denies_paths_but_not_what_is_allowed() -> None:
    def act(report: Report) -> None:
        usr = os.open("/usr", os.O_PATH)
        confine.deny_paths(report, [(usr, 0xC)], may_signal=True)
        require(report, confine.LANDLOCK)
        os.listdir("/usr")
        for path in ("/etc", "/"):
            with pytest.raises(PermissionError):
                os.listdir(path)
        with pytest.raises(PermissionError):
            os.open("/etc/passwd", os.O_RDONLY)

    assert in_child(act) == ""


def test_no_network_is_left() -> None:
    def act(report: Report) -> None:
        confine.enter_user_namespace(report)
        confine.enter_namespaces(report, (confine.NET_NAMESPACE,))
        require(report, confine.NET_NAMESPACE)
        assert [name for _index, name in socket.if_nameindex()] == ["lo"]

    assert in_child(act) == ""


def test_close_all_but() -> None:
    def act(report: Report) -> None:
        kept = os.open("/dev/null", os.O_RDONLY)
        others = [os.dup(kept) for _index in range(20)]
        confine.close_all_but([2, kept, others[3], *_ends()])
        os.fstat(kept)
        os.fstat(others[3])
        for fd in (0, others[2], others[4], others[19]):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    assert in_child(act) == ""


def _ends() -> list[int]:
    """Pipes of the test itself, so that the child can still report."""
    return [
        int(name)
        for name in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{name}")
        and os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
    ]


def test_missing_measures_are_reported_not_raised() -> None:
    def act(report: Report) -> None:
        confine.drop_capabilities(report)  # now nothing below is permitted any more
        confine.enter_namespaces(report, confine.SENTRY_NAMESPACES)
        confine.empty_root(report)
        for name in (*confine.SENTRY_NAMESPACES, confine.EMPTY_ROOT):
            assert not report.has(name)
        assert all(m.reason for m in report.measures if not m.is_in_force)

    assert in_child(act) == ""
