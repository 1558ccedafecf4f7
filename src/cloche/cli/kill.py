"""`cloche kill`: a signal to a sandbox's command, or to every process in it."""

import argparse

from cloche.cli.client import connect, report_errors
from cloche.cli.options import UsageError, parse_signal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche kill`."""
    parser.add_argument("-s", "--signal", metavar="SIG", help="its name or number; TERM by default")
    parser.add_argument("-a", "--all", action="store_true", help="to every process")
    parser.add_argument("name", metavar="NAME", help="the sandbox")
    parser.add_argument("number", nargs="?", metavar="SIG", help="the same as -s")


def _run(options: argparse.Namespace) -> int:
    if options.signal is not None and options.number is not None:
        raise UsageError("two signals")
    chosen = options.signal if options.signal is not None else options.number
    signo = parse_signal(chosen if chosen is not None else "TERM")
    connect(options, options.name).kill(signo, is_all=options.all)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("kill", _run, options)
