"""`cloche load`: images out of a tar archive (of docker, podman, skopeo, cloche), or an OCI layout in a directory."""

import argparse
import sys

from cloche.cli.imagenames import report_image_errors
from cloche.cli.options import UsageError
from cloche.images import archives
from cloche.images.reference import parse_reference
from cloche.images.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche load`."""
    add = parser.add_argument
    add("-i", "--input", metavar="FILE", help="read this file or directory, not standard input")
    add("-q", "--quiet", action="store_true", help="print nothing but digests")
    add("--name", metavar="NAME", help="give the image this name; there must be one only")
    add(
        "--platform", default="", metavar="OS/ARCH", help="of an image for several, this machine's by default"
    )


def _run(options: argparse.Namespace) -> int:
    if options.input is None and sys.stdin.isatty():
        raise UsageError("an archive on standard input, or -i FILE")
    name = parse_reference(options.name) if options.name is not None else None
    store = Store()
    if options.input is not None:
        layout = archives.open_layout(options.input)
    else:
        layout = archives.ArchiveLayout(sys.stdin.buffer)
    try:
        with store.using():
            found = archives.load(store, layout, platform=options.platform)
            if name is not None:
                if len(found) != 1:
                    raise UsageError(f"--name: there are {len(found)} images")
                store.set_name(name, found[0][0].digest)
                found = [(found[0][0], [*found[0][1], name])]
    finally:
        layout.close()
    for image, names in found:
        if options.quiet or not names:
            print(image.digest)
        for each in names if not options.quiet else []:
            print(each.familiar)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("load", _run, options)
