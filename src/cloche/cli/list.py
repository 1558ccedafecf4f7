"""`cloche list`: the sandboxes with a name."""

import argparse
import json
import time

from cloche.cli.client import printable, report_errors
from cloche.runtime.records import EXITED, RUNNING, State, Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche list`."""
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(int(seconds), 0)}s"


def _line(state: State, now_s: float) -> str:
    status = state.status
    if status == EXITED:
        status = f"{EXITED} {state.exit_status}"
    elif status == RUNNING and isinstance(state.health.get("status"), str):
        status = f"{RUNNING} ({state.health['status']})"
    command = printable(" ".join(state.command).encode(errors="replace"))
    if len(command) > 60:
        command = command[:59] + "…"
    pid = state.pid if state.status == RUNNING else 0
    return f"{state.name:24} {pid or '-':>8} {status:19} {_age(now_s - state.created_s):>5} {command}"


def _run(options: argparse.Namespace) -> int:
    states = Store(options.root).list()
    if options.json:
        print(json.dumps([state.to_json() for state in states]))
    elif options.quiet:
        for state in states:
            print(state.name)
    else:
        print(f"{'NAME':24} {'PID':>8} {'STATUS':19} {'AGE':>5} COMMAND")
        now_s = time.time()
        for state in states:
            print(_line(state, now_s))
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("list", _run, options)
