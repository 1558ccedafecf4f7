"""`cloche save`: images into a tar archive that is an OCI layout and one of `docker save` at once."""

import argparse
import os
import sys

from cloche.cli.imagenames import known_image, report_image_errors
from cloche.cli.options import UsageError
from cloche.images import archives
from cloche.images.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche save`."""
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", help="write to this file instead of standard output")
    add("--layout", metavar="DIR", help="write an OCI layout into this directory instead; one image")
    add("images", nargs="+", metavar="IMAGE", help="names, or the beginnings of digests")


def _run(options: argparse.Namespace) -> int:
    store = Store()
    with store.using():
        found = [known_image(store, each) for each in options.images]
        if options.layout is not None:
            if len(found) != 1:
                raise UsageError("--layout: one image")
            archives.copy_layout(*found[0], options.layout)
        elif options.output is not None:
            new = options.output + ".new"
            with open(new, "wb") as out:
                archives.save(found, out)
            os.rename(new, options.output)
        elif sys.stdout.isatty():
            raise UsageError("an archive is nothing for a terminal; use -o FILE")
        else:
            archives.save(found, sys.stdout.buffer)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("save", _run, options)
