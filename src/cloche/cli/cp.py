"""`cloche cp`: files and trees into a sandbox, and out of it."""

import argparse
import errno
import os
import stat
import sys

from cloche.cli.client import files_of, report_errors
from cloche.cli.names import base_name, inside, quoted, split_place
from cloche.cli.options import UsageError
from cloche.cli.tarstream import read_tar, write_tar
from cloche.runtime.copying import Reader, Writer
from cloche.runtime.hosttree import HostTree, Policy
from cloche.wire import files
from cloche.wire.control_client import ControlError
from cloche.wire.file_client import FileClient, FileError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche cp`."""
    add = parser.add_argument
    add("-a", "--archive", action="store_true", help="keep owners, set-user-ID bits and extended attributes")
    add("-L", "--follow-link", action="store_true", help="copy what SRC leads to if it is a symbolic link")
    add("source", metavar="SRC", help="NAME:PATH, a path of the host, or - for a tar stream")
    add("target", metavar="DST", help="the same")


def _complain(path: bytes, text: str) -> None:
    print(f"cloche cp: {quoted(path)}: {text}", file=sys.stderr)


# -- into the sandbox --------------------------------------------------------------------------------------------
def _kind_of(client: FileClient, path: bytes) -> int:
    """The type of the file at a path inside, with links followed; 0: there is none."""
    try:
        return stat.S_IFMT(client.stat(path, follow=True).mode)
    except FileError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return 0


def copy_in(client: FileClient, options: argparse.Namespace, source: str, target: str) -> int:
    """Copy SRC of the host to DST inside; returns the exit status.  Raises UsageError, ControlError, OSError."""
    path = inside(target)
    kind = _kind_of(client, path)
    if source == "-":
        if kind != stat.S_IFDIR:
            raise UsageError(f"{quoted(path)}: a tar stream needs a directory inside that is there")
        records = read_tar(sys.stdin.buffer, keeps_owners=options.archive)
        client.put(path, records, parents=True)
        return 0
    is_tree = os.path.isdir(source) and (options.follow_link or not os.path.islink(source.rstrip("/")))
    name = os.fsencode(base_name(os.path.abspath(source) if base_name(source) in ("", ".", "..") else source))
    has_contents_only = source.endswith("/.") or source == "."
    if is_tree and kind not in (0, stat.S_IFDIR):
        raise UsageError(f"{quoted(path)} is a file inside; a directory cannot be copied there")
    if kind == stat.S_IFDIR:
        base, name = path, b"" if is_tree and has_contents_only else name
    else:
        if target.endswith("/") and not is_tree:
            raise UsageError(f"{target}: there is no such directory inside")
        above, _slash, name = path.rpartition(b"/")
        base = above or b"/"
    reader = Reader(_complain, is_archive=options.archive)
    client.put(
        base, reader.tree(os.fsencode(source), name, follow=options.follow_link), follow=kind == stat.S_IFREG
    )
    return 1 if reader.has_failed else 0


# -- out of the sandbox ------------------------------------------------------------------------------------------
def copy_out(client: FileClient, options: argparse.Namespace, source: str, target: str) -> int:
    """Copy SRC inside to DST of the host; returns the exit status.  Raises UsageError, ControlError, OSError."""
    path = inside(source)
    has_contents_only = source.endswith("/.") or path == b"/"
    top = client.stat(path, follow=options.follow_link or source.endswith("/"))
    is_tree = stat.S_ISDIR(top.mode)
    follow = options.follow_link or source.endswith("/")
    records = client.get(
        [path], depth=files.MAX_DEPTH, follow=follow, xattrs=options.archive and target == "-"
    )
    name = path.rpartition(b"/")[2]
    if target == "-":
        if sys.stdout.isatty():
            raise UsageError("a tar stream is nothing for a terminal; send it to a file")
        failed = write_tar(records, sys.stdout.buffer, b"" if has_contents_only else name)
        for error in failed:
            _complain(error.path, str(error))
        return 1 if failed else 0
    place = os.fsencode(target)
    if os.path.isdir(place):
        base, name = place, b"" if is_tree and has_contents_only else name
    elif os.path.exists(place) and (is_tree or not os.path.isfile(place)):
        raise UsageError(f"{target} is not a {'directory' if is_tree else 'regular file or directory'}")
    elif target.endswith("/") and not is_tree:
        raise UsageError(f"{target}: there is no such directory")
    else:
        base, name = os.path.split(os.path.realpath(place))
    tree = HostTree(base)
    policy = Policy()
    policy.keeps_owners = policy.keeps_set_ids = options.archive
    writer = Writer(tree, name, policy, _complain)
    try:
        for record in records:
            writer.take(record)
    finally:
        writer.finish()
        tree.close()
    return 1 if writer.failed else 0


def _run(options: argparse.Namespace) -> int:
    source_name, source = split_place(options.source)
    target_name, target = split_place(options.target)
    if bool(source_name) == bool(target_name):
        raise UsageError("one of SRC and DST is NAME:PATH, the other a path of the host or -")
    with files_of(options, source_name or target_name) as connection:
        client = FileClient(connection)
        try:
            if target_name:
                return copy_in(client, options, source, target)
            return copy_out(client, options, source, target)
        except FileError as refusal:
            name = quoted(refusal.path) + ": " if refusal.path else ""
            raise ControlError(f"{name}{refusal}") from None


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("cp", _run, options)
