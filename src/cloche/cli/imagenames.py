"""Shared by the verbs for images: finding one, listing its names, reporting errors in one line."""

import argparse
import os
import sys
from collections.abc import Callable

from cloche.boot.spec import IMAGE_PREFIX
from cloche.cli.client import report_errors
from cloche.cli.terminal import printable_text
from cloche.images.errors import ImageError
from cloche.images.image import Image, find, find_by_prefix
from cloche.images.reference import Reference, parse_reference
from cloche.images.store import Store


def report_image_errors(
    verb: str, function: Callable[[argparse.Namespace], int], options: argparse.Namespace
) -> int:
    """The verb's exit status; its errors on a line each."""

    def guarded(options: argparse.Namespace) -> int:
        try:
            return function(options)
        except ImageError as error:
            print(f"cloche {verb}: {printable_text(str(error))}", file=sys.stderr)
            return 125

    return report_errors(verb, guarded, options)


def known_image(store: Store, text: str) -> tuple[Image, Reference | None]:
    """The image of this name, or the one whose digest begins with this text. Raises ImageError."""
    found = find_by_prefix(store, text)
    if found is not None:
        return found, None
    name = parse_reference(text)
    image = find(store, name)
    if image is None:
        raise ImageError(f"there is no image {text} here; cloche images lists them")
    return image, name


def human(size: int) -> str:
    """A number of bytes in units that are easy to read."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def trees_of_layers(root: str) -> set[str]:
    """The names of the image trees that kept layers need: those are not removed."""
    from cloche.runtime import layers
    from cloche.runtime.records import RecordError

    found: set[str] = set()
    for directory in {"", layers.automatic_directory(root)}:
        for name in layers.names(directory):
            try:
                layer = layers.find(name, directory)
                places = layer.head().get("places") if layer is not None else None
            except RecordError:
                continue  # written by another version
            for row in places if isinstance(places, list) else []:
                if (
                    isinstance(row, list)
                    and len(row) > 1
                    and str(row[1]).startswith(os.fsdecode(IMAGE_PREFIX))
                ):
                    found.add(os.path.basename(str(row[1])))
    return found
