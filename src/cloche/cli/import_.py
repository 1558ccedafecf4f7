"""`cloche import`: an image of one layer out of a root file system, a tar archive or a directory."""

import argparse
import os
import shlex
import sys
import tarfile
import tempfile
from typing import IO

from cloche.cli.imagenames import report_image_errors
from cloche.cli.options import UsageError
from cloche.images.make import make_image
from cloche.images.reference import parse_reference
from cloche.images.store import Store
from cloche.images.streams import LayerStream


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche import`."""
    add = parser.add_argument
    add("--cmd", default="/bin/sh", metavar="COMMAND", help="what it runs, in words as a shell splits them")
    add("source", metavar="SRC", help="a tar archive, a directory, or - for standard input")
    add("name", metavar="IMAGE", help="the image's name")


def _pack(directory: str, out: IO[bytes]) -> None:
    """A directory of the host as it is, without what is mounted below."""
    device = os.stat(directory).st_dev

    def chosen(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = os.path.join(directory, info.name)
        return info if os.lstat(path).st_dev == device else None

    with tarfile.open(
        fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        tar.add(directory, arcname=".", filter=chosen)


def _run(options: argparse.Namespace) -> int:
    name = parse_reference(options.name)
    store = Store()
    with store.using(), tempfile.TemporaryFile() as layer:
        if options.source != "-" and os.path.isdir(options.source):
            _pack(options.source, layer)
        else:
            if options.source == "-" and sys.stdin.isatty():
                raise UsageError("a tar archive on standard input")
            with open(options.source, "rb") if options.source != "-" else sys.stdin.buffer as source:
                stream = LayerStream(source)
                while data := stream.read(1 << 18):
                    layer.write(data)
        layer.seek(0)
        image = make_image(
            store, None, layer, {"Cmd": shlex.split(options.cmd)}, f"cloche import {options.source}"
        )
        store.set_name(name, image.digest)
    print(image.digest)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("import", _run, options)
