"""`cloche volume`: named volumes."""

import argparse
import contextlib
import json
import os

from cloche.cli.client import report_errors
from cloche.cli.imagenames import human
from cloche.cli.options import UsageError, parse_size
from cloche.runtime import volumes
from cloche.runtime.records import RecordError
from cloche.wire.volume import Account


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche volume`."""
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = verbs.add_parser("ls", help="list them")
    listing.add_argument("-q", "--quiet", action="store_true", help="names only")
    listing.add_argument("--json", action="store_true", help="as JSON, with their directories")
    verbs.add_parser("prune", help="remove those that no sandbox uses")
    for name, text in (("create", "make them"), ("rm", "remove them, with all that is in them")):
        each = verbs.add_parser(name, help=text)
        if name == "create":
            each.add_argument(
                "--size",
                metavar="SIZE",
                help="what their files may take, e.g. 2g; of one that exists: from now on",
            )
            each.add_argument(
                "--inodes", metavar="N", type=int, help="how many files and directories they may have"
            )
        each.add_argument("names", nargs="+", metavar="NAME")


def _list(options: argparse.Namespace) -> None:
    names = volumes.names()
    if options.json:
        top = volumes.default_directory()
        rows = [
            {
                "name": name,
                "path": os.path.join(top, name, "data"),
                "size": volumes.size(name),
                "limit": _limit(volumes.account(name)),
                "inodes": volumes.file_count(name),
                "inode_limit": _limit(volumes.inodes(name)),
            }
            for name in names
        ]
        print(json.dumps(rows, indent=2))
        return
    for name in names:
        if options.quiet:
            print(name)
        else:
            limit = _limit(volumes.account(name))
            of = f" of {human(limit)}" if limit else ""
            print(f"{human(volumes.size(name)):>10}  {name}{of}")


def _limit(known: Account | None) -> int | None:
    """The limit of an account, if there is one."""
    return known.limit if known is not None else None


def _run(options: argparse.Namespace) -> int:
    if options.action == "ls":
        _list(options)
    elif options.action == "create":
        size = parse_size(options.size, "--size") if options.size is not None else 0
        if options.inodes is not None and options.inodes <= 0:
            raise UsageError("--inodes: write a positive number")
        for name in options.names:
            volumes.create(name)
            if size:
                volumes.set_size(name, size)
            if options.inodes is not None:
                volumes.set_inodes(name, options.inodes)
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
