"""`cloche push`: an image to its registry."""

import argparse
import sys

from cloche.cli.imagenames import known_image, report_image_errors
from cloche.cli.pull import Bar
from cloche.images.image import Progress
from cloche.images.reference import parse_reference
from cloche.images.registry import Registry
from cloche.images.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche push`."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    parser.add_argument("image", metavar="IMAGE", help="its name, or the beginning of its digest")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="where to: [HOST[:PORT]/]NAME[:TAG]; its own by default"
    )


def _run(options: argparse.Namespace) -> int:
    store = Store()
    target = parse_reference(options.name or options.image)
    with store.using():
        image, _name = known_image(store, options.image)
        bar = Bar(target.familiar) if sys.stderr.isatty() and not options.quiet else None
        try:
            Registry(target, may_push=True).push(image, bar if bar is not None else Progress())
        finally:
            if bar is not None:
                bar.close()
    print(image.digest)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("push", _run, options)
