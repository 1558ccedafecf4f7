"""`cloche stop`: send SIGTERM to a sandbox's command; end the sandbox if the command does not end in time."""

import argparse

from cloche.cli.client import connect, report_errors, tell_loss
from cloche.cli.options import UsageError

PATIENCE_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche stop`."""
    parser.add_argument(
        "-t", "--time", type=float, default=PATIENCE_S, metavar="SECONDS", help="how long to wait"
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="the sandboxes")


def _run(options: argparse.Namespace) -> int:
    if not 0 <= options.time <= 1e6:
        raise UsageError("-t: from 0 to a million seconds")
    for name in options.names:
        tell_loss(name, connect(options, name).stop(int(options.time * 1000)))
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("stop", _run, options)
