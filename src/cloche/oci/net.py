"""The verb `net`: a container's rules while it runs, its log, its approvals; as `cloche net` has them."""

import argparse

from cloche.cli import net
from cloche.cli.client import report_errors
from cloche.oci.errors import OciError
from cloche.oci.records import load
from cloche.wire.control_client import ControlClient

__all__ = ["net_verb"]


def net_verb(root: str, words: list[str]) -> int:
    """The exit status.  Raises OciError."""
    parser = argparse.ArgumentParser(prog="cloche-oci net", allow_abbrev=False)
    net.add_arguments(parser)
    options = parser.parse_args(words)
    record = load(root, options.name)
    if not record.has_monitor() and not record.sandbox:
        raise OciError("container not running")

    def connect() -> ControlClient:
        return ControlClient(record.connect())

    return report_errors("net", lambda given: net.run_with(given, connect), options)
