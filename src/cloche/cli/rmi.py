"""`cloche rmi`: remove images, and layers that only they need."""

import argparse

from cloche.cli.imagenames import known_image, report_image_errors, trees_of_layers
from cloche.images.prune import prune
from cloche.images.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche rmi`."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="names, or the beginnings of digests")


def _run(options: argparse.Namespace) -> int:
    store = Store()
    for text in options.images:
        image, name = known_image(store, text)
        for each, digest in store.names().items():
            if each == str(name) or name is None and digest == image.digest:
                store.remove_name(each)
    with store.removing():
        prune(store, trees_of_layers(options.root))
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("rmi", _run, options)
