"""`cloche prune`: remove layers that no image needs any more, and leftovers of processes that died."""

import argparse

from cloche.cli.imagenames import human, report_image_errors, trees_of_layers
from cloche.images.prune import prune
from cloche.images.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche prune`."""
    parser.add_argument("-a", "--all", action="store_true", help="images, too, that no sandbox uses")


def _run(options: argparse.Namespace) -> int:
    store = Store()
    with store.removing():
        if options.all:
            for name in store.names():
                store.remove_name(name)
        print(f"{human(prune(store, trees_of_layers(options.root)))} freed")
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("prune", _run, options)
