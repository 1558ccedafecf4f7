"""`cloche logs`: print the output of a detached sandbox, each stream to the same stream."""

import argparse
import sys

from cloche.cli.client import report_errors
from cloche.cli.terminal import wait_readable
from cloche.runtime.logs import LogReader
from cloche.runtime.records import RUNNING, RecordError, Store
from cloche.wire.control_client import ControlClient
from cloche.wire.requests import WAIT

_STEP_S = 0.1  # between two looks for more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche logs`."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the sandbox ends")
    parser.add_argument("name", metavar="NAME", help="the sandbox")


def _copy(reader: LogReader) -> None:
    for _when, stream, data in reader.read():
        target = sys.stdout if stream == 1 else sys.stderr
        if target is not None:
            target.flush()
            target.buffer.write(data)
            target.buffer.flush()


def _run(options: argparse.Namespace) -> int:
    store = Store(options.root)
    state = store.find(options.name)
    if not state.is_detached:
        raise RecordError(f"{options.name} writes to where it was started, not to a log")
    reader = LogReader(store.open_record(options.name))
    end: ControlClient | None = None
    if options.follow and state.status == RUNNING:
        try:
            end = ControlClient(store.connect(options.name))
            end.ask(WAIT, {})
        except RecordError:
            end = None  # it has just ended
    while True:
        is_over = end is None or (bool(wait_readable([end.fileno()], _STEP_S)) and end.has_answer())
        _copy(reader)
        if is_over:
            return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("logs", _run, options)
