"""`cloche ps`: the processes in a sandbox."""

import argparse
import json

from cloche.cli.client import connect, printable, report_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche ps`."""
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("name", metavar="NAME", help="the sandbox")


def _run(options: argparse.Namespace) -> int:
    rows = connect(options, options.name).processes()
    if options.json:
        found = []
        for row in rows:
            words = row.command.removesuffix(b"\0").split(b"\0")
            found.append(
                {
                    "pid": row.pid,
                    "ppid": row.ppid,
                    "uid": row.uid,
                    "state": row.state,
                    "time": row.cpu_ns / 1e9,
                    "command": [word.decode(errors="replace") for word in words],
                }
            )
        print(json.dumps(found))
        return 0
    print("    PID    PPID     UID S     TIME COMMAND")
    for row in rows:
        seconds = row.cpu_ns // 1_000_000_000
        spent = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        print(f"{row.pid:7} {row.ppid:7} {row.uid:7} {row.state} {spent} {printable(row.command)}")
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("ps", _run, options)
