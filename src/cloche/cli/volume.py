"""`cloche volume`: named volumes."""

import argparse
import contextlib
import json
import os

from cloche.cli.client import report_errors
from cloche.cli.imagenames import human
from cloche.runtime import volumes
from cloche.runtime.records import RecordError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche volume`."""
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = verbs.add_parser("ls", help="list them")
    listing.add_argument("-q", "--quiet", action="store_true", help="names only")
    listing.add_argument("--json", action="store_true", help="as JSON, with their directories")
    verbs.add_parser("prune", help="remove those that no sandbox uses")
    for name, text in (("create", "make them"), ("rm", "remove them, with all that is in them")):
        each = verbs.add_parser(name, help=text)
        each.add_argument("names", nargs="+", metavar="NAME")


def _list(options: argparse.Namespace) -> None:
    names = volumes.names()
    if options.json:
        top = volumes.default_directory()
        rows = [
            {"name": name, "path": os.path.join(top, name, "data"), "size": volumes.size(name)}
            for name in names
        ]
        print(json.dumps(rows, indent=2))
        return
    for name in names:
        print(name if options.quiet else f"{human(volumes.size(name)):>10}  {name}")


def _run(options: argparse.Namespace) -> int:
    if options.action == "ls":
        _list(options)
    elif options.action == "create":
        for name in options.names:
            volumes.create(name)
    elif options.action == "rm":
        for name in options.names:
            volumes.remove(name)
    else:
        for name in volumes.names():
            with contextlib.suppress(RecordError):
                volumes.remove(name)
                print(name)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("volume", _run, options)
