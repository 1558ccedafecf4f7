"""`cloche export`: the root file system of a sandbox, as a tar stream."""

import argparse
import sys
from typing import IO

from cloche.cli.client import files_of, report_errors
from cloche.cli.names import quoted
from cloche.cli.options import UsageError
from cloche.cli.tarstream import write_tar
from cloche.wire import files
from cloche.wire.file_client import FileClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche export`."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write to this file instead of standard output"
    )
    parser.add_argument("name", metavar="NAME", help="the sandbox")


def _write(client: FileClient, out: IO[bytes]) -> int:
    records = client.get([b"/"], depth=files.MAX_DEPTH, own=True, xattrs=True)
    failed = write_tar(records, out, b"")
    for error in failed:
        print(f"cloche export: {quoted(error.path)}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _run(options: argparse.Namespace) -> int:
    if options.output is None and sys.stdout.isatty():
        raise UsageError("a tar stream is nothing for a terminal; use -o FILE")
    with files_of(options, options.name) as connection:
        client = FileClient(connection)
        if options.output is None:
            return _write(client, sys.stdout.buffer)
        with open(options.output, "wb") as out:
            return _write(client, out)


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("export", _run, options)
