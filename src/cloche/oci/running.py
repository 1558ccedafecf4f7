"""The verbs `create` and `run`."""

import os
import signal

from cloche.oci.begin import begin
from cloche.oci.errors import OciError
from cloche.oci.log import Log
from cloche.oci.options import Options
from cloche.oci.records import Record
from cloche.oci.streams import fill_standard_streams, listen_count, passed_streams
from cloche.oci.verbs import one_id, start


def _make(
    root: str, given: Options, options: Options, words: list[str], verb: str, *, is_detached: bool
) -> tuple[Record, int]:
    ident = one_id(words, verb)
    activated = listen_count()
    streams = passed_streams(options.text("preserve-fds", "0"), activated)
    fill_standard_streams()
    manager = given.text("cgroup-manager", "cgroupfs")
    is_systemd = given.has("systemd-cgroup") or manager == "systemd"
    if is_systemd:
        from cloche.oci.systemd import check_running

        check_running()
    begun = begin(
        root,
        ident,
        options.text("bundle") or os.getcwd(),
        streams,
        has_groups=manager != "disabled",
        is_systemd=is_systemd,
        platform=given.text("platform"),
    )
    if begun.ahead is not None:
        # The library is the monitor's, and takes longer to load than what is used of it here.
        from cloche.library import interpret

        interpret()
    from cloche.oci.create import create  # while the keeper gets ready

    return create(
        begun,
        console=options.text("console-socket"),
        pid_file=options.text("pid-file"),
        pidfd_socket=options.text("pidfd-socket"),
        platform=given.text("platform"),
        log=Log(given.text("log"), given.text("log-format", "text")),
        activated=activated,
        egress=given.text("egress"),
        has_groups=manager != "disabled",
        is_systemd=is_systemd,
        is_detached=is_detached,
    )


def create_verb(root: str, given: Options, options: Options, words: list[str]) -> int:
    """`create`.  Raises OciError."""
    _make(root, given, options, words, "create", is_detached=True)
    return 0


def run_verb(root: str, given: Options, options: Options, words: list[str]) -> int:
    """`run`: create, start, and unless it is detached wait, and delete.  Raises OciError."""
    is_detached = options.has("detach")
    record, master = _make(root, given, options, words, "run", is_detached=is_detached)
    from cloche.oci.deletion import delete
    from cloche.oci.foreground import follow

    try:
        start(record)
    except OciError:
        record.kill(signal.SIGKILL)
        delete(record, is_forced=True)
        raise
    if is_detached:
        return 0
    status = follow(record.pid, master)
    if not options.has("keep"):
        delete(record, is_forced=True)
    return status
