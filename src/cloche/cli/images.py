"""`cloche images`: list the images in the store."""

import argparse
import json
import sys

from cloche.cli.imagenames import human, report_image_errors
from cloche.cli.terminal import printable_text
from cloche.images.errors import ImageError
from cloche.images.image import Image
from cloche.images.reference import parse_reference
from cloche.images.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche images`."""
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def _run(options: argparse.Namespace) -> int:
    store = Store()
    rows: list[dict[str, object]] = []
    for name, digest in store.names().items():
        try:
            image = Image(store, digest)
        except ImageError as error:
            print(f"cloche images: {name}: {printable_text(str(error))}", file=sys.stderr)
            continue
        created = image.document.get("created")
        rows.append(
            {
                "name": parse_reference(name).familiar,
                "digest": digest,
                "config": image.config_descriptor.digest,
                "platform": image.platform,
                "created": created if isinstance(created, str) else "",
                "size": image.size,
                "layers": len(image.layers),
            }
        )
    if options.json:
        print(json.dumps(rows, indent=2))
    elif options.quiet:
        for row in rows:
            print(row["name"])
    else:
        width = max([len(str(row["name"])) for row in rows], default=5)
        print(f"{'NAME':{width}}  DIGEST        CREATED     SIZE      PLATFORM")
        for row in rows:
            size = row["size"]
            created = str(row["created"])[:10]
            shown = created if created.isprintable() else ""
            print(
                f"{row['name']:{width}}  {str(row['digest'])[7:19]}  {shown:10}  "
                f"{human(size if isinstance(size, int) else 0):8}  {ascii(row['platform'])[1:-1]}"
            )
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("images", _run, options)
