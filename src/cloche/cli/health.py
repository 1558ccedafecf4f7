"""Health checks of a sandbox with a name: a command that is executed in it at intervals, and its result.

As in Docker (the image configuration's `Healthcheck`, `docker run --health-…`): it is "starting" until a check
succeeds or, after the start period, `retries` in a row have failed; then "healthy" or "unhealthy".  A check that takes
too long is ended and has failed.  The results are kept in the record, for `cloche list` and `cloche inspect`.
"""

import os
import time
from collections.abc import Callable
from typing import Any, Final

from cloche.boot.control_server import ControlServer
from cloche.boot.spec import HealthSpec
from cloche.cli.options import UsageError, parse_seconds
from cloche.cli.terminal import exit_status
from cloche.wire import protocol, requests
from cloche.wire.protocol import Message, ProtocolError
from cloche.wire.requests import ExecRequest

STARTING: Final = "starting"
HEALTHY: Final = "healthy"
UNHEALTHY: Final = "unhealthy"
_LOG_ROWS: Final = 5
_OUTPUT_BYTES: Final = 4096  # of the output of a check that are kept
_PIPE_READ: Final = 65536
_NS: Final = 1_000_000_000
_MOST_S: Final = 366 * 86400.0
_LEAST_S: Final = 0.001


def health_of_image(config: dict[str, Any]) -> HealthSpec | None:
    """The check of an image's configuration; fields that make no sense are ignored."""
    found = config.get("Healthcheck")
    test = found.get("Test") if isinstance(found, dict) else None
    if (
        not isinstance(found, dict)
        or not isinstance(test, list)
        or not all(isinstance(each, str) for each in test)
    ):
        return None
    words = [os.fsencode(each) for each in test[1:]]
    if test[:1] == ["CMD-SHELL"] and words:
        words = [b"/bin/sh", b"-c", words[0]]
    elif test[:1] != ["CMD"] or not words:
        return None  # ["NONE"]
    spec = HealthSpec(words)
    spec.interval_s = _seconds(found.get("Interval"), spec.interval_s)
    spec.timeout_s = _seconds(found.get("Timeout"), spec.timeout_s)
    spec.start_period_s = _seconds(found.get("StartPeriod"), spec.start_period_s)
    spec.start_interval_s = _seconds(found.get("StartInterval"), spec.start_interval_s)
    retries = found.get("Retries")
    if isinstance(retries, int) and not isinstance(retries, bool) and retries > 0:
        spec.retries = retries
    return spec


def _seconds(value: object, default: float) -> float:
    """Nanoseconds as seconds; 0 is the default, as in Docker."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return default
    return min(max(value / _NS, _LEAST_S), _MOST_S)


def make_health(options: Any, spec: HealthSpec | None) -> HealthSpec | None:
    """The options of `cloche run`, which override `spec` of the image; None: there are no checks. Raises UsageError."""
    timings = (
        options.health_interval,
        options.health_timeout,
        options.health_start_period,
        options.health_start_interval,
    )
    is_changed = options.health_retries is not None or any(each is not None for each in timings)
    if options.no_healthcheck:
        if options.health_cmd is not None or is_changed:
            raise UsageError("--no-healthcheck: there is nothing that another option could change")
        return None
    if options.health_cmd is not None:
        if not options.health_cmd:
            raise UsageError("--health-cmd: a command for /bin/sh -c")
        command = [b"/bin/sh", b"-c", os.fsencode(options.health_cmd)]
        if spec is None:
            spec = HealthSpec(command)
        spec.argv = command
    if spec is None:
        if is_changed:
            raise UsageError("--health-cmd: there is no health check that another option could change")
        return None
    if options.health_interval is not None:
        spec.interval_s = parse_seconds(options.health_interval, "--health-interval")
    if options.health_timeout is not None:
        spec.timeout_s = parse_seconds(options.health_timeout, "--health-timeout")
    if options.health_start_period is not None:
        spec.start_period_s = parse_seconds(options.health_start_period, "--health-start-period", least_s=0)
    if options.health_start_interval is not None:
        spec.start_interval_s = parse_seconds(options.health_start_interval, "--health-start-interval")
    if options.health_retries is not None:
        if options.health_retries < 1:
            raise UsageError("--health-retries: at least 1")
        spec.retries = options.health_retries
    return spec


class Health:
    """The checks of one sandbox, from its monitor's loop; nothing here waits."""

    def __init__(self, spec: HealthSpec, server: ControlServer, on_change: Callable[[], None]) -> None:
        self.spec: HealthSpec = spec
        self.server: ControlServer = server
        self.on_change: Callable[[], None] = on_change
        self.status: str = STARTING
        self.failing_streak: int = 0
        self.log: list[dict[str, Any]] = []
        self.begun_s: float = -1.0  # CLOCK_MONOTONIC: the program has started
        self.due_s: float = -1.0  # the next step; -1: none
        self.ident: int = 0  # of the check that runs
        self.pipe: int = -1  # its output
        self.output: bytearray = bytearray()
        self.check_s: float = 0.0  # when it was begun, since the epoch

    def begin(self) -> None:
        """The program of the sandbox has started."""
        if self.begun_s < 0:
            self.begun_s = time.monotonic()
            self._plan()

    def on_time(self) -> None:
        """Start or end a check if that is due."""
        if self.due_s < 0 or time.monotonic() < self.due_s:
            return
        if self.ident:
            self.server.cancel_own(self.ident)
            self._over(-1, b"the check took longer than %g s" % self.spec.timeout_s)
        else:
            self._check()

    def _plan(self) -> None:
        is_early = self.status == STARTING and self._is_in_start_period()
        pause_s = min(self.spec.start_interval_s, self.spec.interval_s) if is_early else self.spec.interval_s
        self.due_s = time.monotonic() + pause_s

    def _is_in_start_period(self) -> bool:
        return time.monotonic() < self.begun_s + self.spec.start_period_s

    def _check(self) -> None:
        request = ExecRequest(self.spec.argv)
        self.output = bytearray()
        self.check_s = time.time()
        try:
            self.pipe, writing = os.pipe2(os.O_CLOEXEC)
        except OSError as problem:
            self._over(-1, b"no pipe: " + str(problem.strerror).encode())
            return
        os.set_blocking(self.pipe, False)
        request.streams = [1, 2]
        fields = request.to_fields()
        found = os.fstat(writing)
        fields["owners"] = [[found.st_uid, found.st_gid]] * 2
        self.due_s = time.monotonic() + self.spec.timeout_s
        try:
            self.ident = self.server.ask(requests.EXEC, fields, [writing, writing], self._heard)
        except ProtocolError as refusal:
            self._over(-1, str(refusal).encode())
        finally:
            os.close(writing)

    def _heard(self, message: Message) -> None:
        """Raises ProtocolError."""
        if message.ident != self.ident:
            return
        if message.kind == protocol.REPLY:
            self.read()
            self._over(exit_status(protocol.take_int(message.fields, "status", 0, 0, 0xFFFF)), b"")
        elif message.kind == protocol.ERROR:
            self._over(min(max(message.number, 1), 255), message.name.encode())

    def read(self) -> None:
        """Read a part of the check's output: it, or a process that it left behind, may write faster than this reads."""
        try:
            data = os.read(self.pipe, _PIPE_READ) if self.pipe >= 0 else b""
        except BlockingIOError:
            return
        self.output += data[: _OUTPUT_BYTES - len(self.output)]
        if not data:
            self._close()

    def _close(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1

    def _over(self, status: int, why: bytes) -> None:
        self._close()
        self.ident = 0
        self.log.append(
            {
                "start": self.check_s,
                "end": time.time(),
                "exit_code": status,
                "output": (why or bytes(self.output)).decode(errors="replace"),
            }
        )
        del self.log[:-_LOG_ROWS]
        if status == 0:
            self.status, self.failing_streak = HEALTHY, 0
        elif self.status != STARTING or not self._is_in_start_period():
            self.failing_streak += 1
            if self.failing_streak >= self.spec.retries:
                self.status = UNHEALTHY
        self._plan()
        self.on_change()

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {"status": self.status, "failing_streak": self.failing_streak, "log": list(self.log)}
