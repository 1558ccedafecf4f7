"""`cloche inspect`: the configuration of an image, or the record of a sandbox, as JSON."""

import argparse
import json

from cloche.cli.imagenames import known_image, report_image_errors
from cloche.images.errors import ImageError
from cloche.images.store import Store
from cloche.runtime import records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche inspect`."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="images, or sandboxes")


def _inspect_sandbox(root: str, name: str) -> dict[str, object] | None:
    try:
        return records.Store(root).find(name).to_json()
    except records.RecordError:
        return None


def _run(options: argparse.Namespace) -> int:
    store = Store()
    found: list[dict[str, object]] = []
    for text in options.names:
        try:
            image, _name = known_image(store, text)
        except ImageError:
            record = _inspect_sandbox(options.root, text)
            if record is None:
                raise
            found.append(record)
            continue
        found.append(
            {
                "digest": image.digest,
                "names": [name for name, digest in store.names().items() if digest == image.digest],
                "size": image.size,
                "manifest": image.manifest,
                "config": image.document,
            }
        )
    print(json.dumps(found, indent=2))
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("inspect", _run, options)
