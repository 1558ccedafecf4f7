"""`cloche rm`: forget sandboxes that have ended: remove their records and output, and the layers of detached ones."""

import argparse

from cloche.cli.client import report_errors, tell_loss
from cloche.runtime import layers
from cloche.runtime.records import RUNNING, RecordError, Store
from cloche.wire.control_client import ControlClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche rm`."""
    parser.add_argument("-f", "--force", action="store_true", help="end those that run first")
    parser.add_argument("names", nargs="+", metavar="NAME", help="the sandboxes")


def _end(store: Store, name: str) -> bool:
    """End a sandbox at once; False if it leaves no record."""
    is_temporary = store.find(name).is_temporary
    try:
        tell_loss(name, ControlClient(store.connect(name)).stop(0, is_forgotten=True))
    except RecordError:
        pass  # it has ended by itself
    return not is_temporary


def forget_layer(name: str, root: str) -> None:
    """Remove the layer that was kept because the sandbox was detached; one of `--keep` stays.  Raises RecordError."""
    try:
        layer = layers.find(name, layers.automatic_directory(root))
    except OSError:
        return
    if layer is not None and layer.is_automatic:
        layer.take()
        layers.discard(layer)


def _run(options: argparse.Namespace) -> int:
    store = Store(options.root)
    for name in options.names:
        if options.force and store.find(name).status == RUNNING and not _end(store, name):
            continue
        if store.find(name).status != RUNNING:
            forget_layer(name, options.root)
        store.remove(name)
    return 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("rm", _run, options)
