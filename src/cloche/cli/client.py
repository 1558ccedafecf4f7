"""Shared by the verbs that talk to a running sandbox: finding it by name, reporting errors in one line."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator

from cloche.cli.options import UsageError
from cloche.cli.terminal import EXIT_INTERNAL, printable_text
from cloche.runtime.records import RUNNING, RecordError, Store
from cloche.wire.control_client import ControlClient, ControlError, Ended


def connect(options: argparse.Namespace, name: str) -> ControlClient:
    """A connection to the sandbox of that name.  Raises RecordError."""
    return ControlClient(Store(options.root).connect(name))


def instance_of(options: argparse.Namespace, name: str) -> str:
    """What tells a sandbox that runs from another one of the same name; empty if it does not run."""
    try:
        state = Store(options.root).find(name)
    except RecordError:
        return ""  # it has ended, and its layer is kept
    return f"{state.pid}@{state.created_s:.0f}" if state.status == RUNNING else ""


@contextlib.contextmanager
def files_of(options: argparse.Namespace, name: str) -> Iterator[ControlClient]:
    """A connection for the files of a sandbox that runs, or that has ended and whose layer is kept.

    Raises RecordError, ControlError.
    """
    try:
        connection = connect(options, name)
    except RecordError:
        from cloche.cli.ended import find_kept, opened

        layer = find_kept(name, options.root)
        if layer is None:
            raise
        with opened(layer) as connection:
            yield connection
        return
    with contextlib.closing(connection):
        yield connection


def tell_loss(name: str, end: Ended) -> None:
    """Print errors that a monitor met when its sandbox ended: its own output may not be read any more."""
    if end.text:
        print(f"cloche: {name}: {printable_text(end.text)}", file=sys.stderr)


def report_errors(
    verb: str, function: Callable[[argparse.Namespace], int], options: argparse.Namespace
) -> int:
    """The verb's exit status; its errors on a line each."""
    try:
        return function(options)
    except (UsageError, RecordError) as refusal:
        print(f"cloche {verb}: {printable_text(str(refusal))}", file=sys.stderr)
    except ControlError as failure:
        print(f"cloche: {printable_text(str(failure))}", file=sys.stderr)
        return failure.status
    except BrokenPipeError:
        raise
    except OSError as problem:
        print(f"cloche {verb}: {problem.strerror or problem}", file=sys.stderr)
    return EXIT_INTERNAL


def printable(data: bytes) -> str:
    """A name that a guest chose, made harmless to a terminal: control characters are shown as escapes."""
    text = data.replace(b"\0", b" ").decode(errors="backslashreplace").strip()
    return "".join([each if each.isprintable() else each.encode("unicode_escape").decode() for each in text])
