"""`cloche pull`: an image from its registry."""

import argparse
import sys
import threading
import time

from cloche.cli.imagenames import human, report_image_errors
from cloche.images.image import Image, Progress, bring
from cloche.images.reference import Reference, parse_reference
from cloche.images.registry import Registry
from cloche.images.store import Store

_BAR = 24
_PERIOD_S = 0.1


class Bar(Progress):
    """Shows the progress of all downloads in one line of a terminal."""

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.lock = threading.Lock()
        self.sizes: dict[str, int] = {}
        self.have: dict[str, int] = {}
        self.finished: set[str] = set()
        self.shown_s: float = 0.0

    def layer(self, digest: str, size: int) -> None:
        self.sizes[digest] = size

    def fetched(self, digest: str, count: int) -> None:
        with self.lock:
            self.have[digest] = self.have.get(digest, 0) + count
            self._show(is_last=False)

    def done(self, digest: str) -> None:
        with self.lock:
            self.finished.add(digest)
            self.have[digest] = self.sizes.get(digest, 0)
            self._show(is_last=False)

    def _show(self, *, is_last: bool) -> None:
        now = time.monotonic()
        if now - self.shown_s < _PERIOD_S and not is_last:
            return
        self.shown_s = now
        total = sum(self.sizes.values())
        have = sum(self.have.values())
        filled = _BAR * have // total if total else _BAR
        bar = "#" * filled + "." * (_BAR - filled)
        line = f"{self.name} [{bar}] {human(have)} of {human(total)}, {len(self.finished)} of {len(self.sizes)} layers"
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    def close(self) -> None:
        """Clear the line."""
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def fetch(store: Store, name: Reference, platform: str, *, is_quiet: bool) -> Image:
    """Fetch the image of this name from its registry.

    The caller keeps the store from being pruned meanwhile. Raises ImageError, OSError.
    """
    bar = Bar(name.familiar) if sys.stderr.isatty() and not is_quiet else None
    try:
        registry = Registry(name)
        image = bring(store, registry, registry.resolve(), platform, bar)
    finally:
        if bar is not None:
            bar.close()
    store.set_name(name, image.digest)
    return image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche pull`."""
    add = parser.add_argument
    add("-q", "--quiet", action="store_true", help="no progress bar")
    add(
        "--platform", default="", metavar="OS/ARCH", help="of an image for several, this machine's by default"
    )
    add("images", nargs="+", metavar="IMAGE", help="[HOST[:PORT]/]NAME[:TAG][@DIGEST]")


def _run(options: argparse.Namespace) -> int:
    store = Store()
    names = [parse_reference(each) for each in options.images]
    with store.using():
        for name in names:
            print(fetch(store, name, options.platform, is_quiet=options.quiet).digest, flush=True)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("pull", _run, options)
