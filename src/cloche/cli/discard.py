"""`cloche discard`: forget kept layers, with all that sandboxes have written in them."""

import argparse

from cloche.cli.client import report_errors
from cloche.runtime import layers
from cloche.runtime.records import RecordError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche discard`."""
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="the layers, by the names of their sandboxes"
    )


def _run(options: argparse.Namespace) -> int:
    for name in options.names:
        layer = layers.find_of(name, options.root)
        if layer is None:
            raise RecordError(f"no layer named {name} is kept")
        layer.take()
        layers.discard(layer)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("discard", _run, options)
