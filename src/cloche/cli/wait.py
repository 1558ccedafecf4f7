"""`cloche wait`: wait for the end of a sandbox, and exit as its command did."""

import argparse
import time

from cloche.cli.client import report_errors
from cloche.cli.terminal import EXIT_INTERNAL
from cloche.runtime.records import DEAD, EXITED, RUNNING, RecordError, Store
from cloche.wire.control_client import ControlClient, ControlError

_STEP_S = 0.02  # between looks at a sandbox that is just starting or ending


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche wait`."""
    parser.add_argument("name", metavar="NAME", help="the sandbox")


def wait_for_end(store: Store, name: str) -> int:
    """The exit status that `cloche run` gives.  Raises RecordError, ControlError."""
    while True:
        state = store.find(name)
        if state.status == EXITED:
            return state.exit_status if state.exit_status >= 0 else EXIT_INTERNAL
        if state.status == DEAD:
            raise ControlError(f"the monitor of {name} was killed: nobody knows how it ended")
        try:
            return ControlClient(store.connect(name)).wait().exit_status
        except RecordError:
            if store.find(name).status == RUNNING:
                time.sleep(_STEP_S)


def _run(options: argparse.Namespace) -> int:
    return wait_for_end(Store(options.root), options.name)


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("wait", _run, options)
