"""`cloche commit`: what a sandbox has changed in its root, as a layer on top of the image that it runs.

The same changes make the same layer: files are in the order of their names, and no time is stored but those of the
files. With `--timestamp` (or SOURCE_DATE_EPOCH) later times are replaced by that, so that two sandboxes that did the
same make the same layer.
"""

import argparse
import json
import os
import shlex
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Final

from cloche.cli.changes import Place, read_places
from cloche.cli.client import files_of
from cloche.cli.imagenames import report_image_errors
from cloche.cli.names import quoted
from cloche.cli.options import UsageError
from cloche.cli.tarstream import KINDS, Contents, header
from cloche.images.errors import ImageError
from cloche.images.image import Image, keys, texts
from cloche.images.make import make_image
from cloche.images.reference import parse_reference
from cloche.images.store import Store
from cloche.wire import files, requests
from cloche.wire.control_client import ControlClient, ControlError
from cloche.wire.file_client import FileClient, FileError
from cloche.wire.files import FileEntry, Record, is_clean

_ALL_BYTES: Final = 1 << 62
_WHITEOUT: Final = b".wh."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche commit`."""
    add = parser.add_argument
    add("-c", "--change", action="append", default=[], metavar="INSTRUCTION",
        help="of a Dockerfile: CMD ENTRYPOINT ENV EXPOSE LABEL STOPSIGNAL USER VOLUME WORKDIR")  # fmt: skip
    add("-m", "--message", default="", metavar="TEXT", help="for the image's history")
    add("--timestamp", type=int, metavar="SECONDS", help="no time in the image is later than this")
    add("--no-pause", dest="pauses", action="store_false", help="let its programs go on meanwhile")
    add("name", metavar="NAME", help="the sandbox")
    add("image", metavar="IMAGE", help="the name of the new image")


def changed_config(image: Image, changes: list[str]) -> dict[str, Any]:
    """An image's configuration after instructions of a Dockerfile.  Raises UsageError, ImageError."""
    found: dict[str, Any] = {}
    for change in changes:
        word, _space, rest = change.strip().partition(" ")
        word, rest = word.upper(), rest.strip()
        if not rest:
            raise UsageError(f"--change {change}: write INSTRUCTION VALUE")
        if word in ("CMD", "ENTRYPOINT"):
            found["Cmd" if word == "CMD" else "Entrypoint"] = _words(change, rest)
        elif word == "ENV":
            have = found.setdefault("Env", list(image.env))
            for item in _pairs(change, rest):
                name = item.partition("=")[0]
                have[:] = [each for each in have if each.partition("=")[0] != name]
                have.append(item)
        elif word == "LABEL":
            labels = found.setdefault("Labels", dict(image.config.get("Labels") or {}))
            labels.update(item.partition("=")[::2] for item in _pairs(change, rest))
        elif word in ("EXPOSE", "VOLUME"):
            key = "ExposedPorts" if word == "EXPOSE" else "Volumes"
            have = found.setdefault(key, {each: {} for each in keys(image.config.get(key), key)})
            for item in _words(change, rest) if rest.startswith("[") else rest.split():
                have[item if word == "VOLUME" or "/" in item else f"{item}/tcp"] = {}
        elif word in ("USER", "WORKDIR", "STOPSIGNAL"):
            found[{"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}[word]] = rest
        else:
            raise UsageError(f"--change {change}: {word} is not an instruction that changes an image")
    return found


def _words(change: str, rest: str) -> list[str]:
    """A JSON list, or a line for the shell.  Raises UsageError."""
    if not rest.startswith("["):
        return ["/bin/sh", "-c", rest]
    try:
        return texts(json.loads(rest), "list")
    except (ValueError, ImageError):
        raise UsageError(f"--change {change}: no JSON list of strings") from None


def _pairs(change: str, rest: str) -> list[str]:
    """K=V …, or K V.  Raises UsageError."""
    try:
        items = shlex.split(rest)
    except ValueError as error:
        raise UsageError(f"--change {change}: {error}") from None
    if "=" not in items[0]:
        items = [f"{items[0]}={' '.join(items[1:])}"]
    if not all("=" in item and not item.startswith("=") for item in items):
        raise UsageError(f"--change {change}: write K=V")
    return items


class LayerWriter:
    """Writes changes as a layer (image specification, "Representing Changes")."""

    def __init__(self, client: FileClient, place: Place, out: IO[bytes], latest_ns: int) -> None:
        self.client: FileClient = client
        self.place: Place = place
        self.latest_ns: int = latest_ns
        self.tar: tarfile.TarFile = tarfile.open(
            fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
        )
        self.written: set[bytes] = {b""}  # directories that the layer has
        self.links: dict[int, bytes] = {}  # changed files with several names, by inode number
        self.last_gone: bytes = b""
        self.gone: dict[bytes, FileEntry] = {}
        self.failed: int = 0

    def run(self, records: Iterator[Record]) -> None:
        """Raises ControlError, OSError."""
        change: Record | None = None
        is_ours = False
        for record in records:
            if record.kind == files.LAYER:
                is_ours = record.data == b"/"
            elif not is_ours:
                continue
            elif record.kind == files.ERROR:
                self.complain(record.data, os.strerror(record.offset))
            elif record.kind == files.CHANGE:
                change = record
            elif record.entry is not None and change is not None:
                self.one(change, record.entry, records)
                change = None
        for path in sorted(self.gone):
            self.whiteout(path)
        self.tar.close()

    def complain(self, path: bytes, text: str) -> None:
        """Report a file that cannot be in the image."""
        self.failed += 1
        print(f"cloche commit: {quoted(path)}: {text}", file=sys.stderr)

    def one(self, change: Record, entry: FileEntry, records: Iterator[Record]) -> None:
        """A change; its contents follow in `records`."""
        path = entry.path[1:]
        if not entry.path.startswith(b"/") or path and not is_clean(path):
            raise ControlError("the sandbox names a path that leads elsewhere")
        has_data = change.has_data and stat.S_ISREG(entry.mode)
        if change.change == files.DELETED:
            if not self.last_gone or not path.startswith(self.last_gone + b"/"):
                self.last_gone = path
                self.gone[path] = entry
            return
        contents = Contents(records, entry.size) if has_data else None
        # A file that replaces another needs no whiteout, nor do the files in a directory that was replaced.
        self.gone.pop(path, None)
        if path.rpartition(b"/")[2].startswith(_WHITEOUT):
            self.complain(entry.path, "in an image such a name means that another file is gone")
        elif stat.S_ISSOCK(entry.mode):
            pass  # left out, as tar does
        else:
            self.parents(path)
            self.add(path, entry, contents)
        if contents is not None:
            contents.drain()

    def add(self, path: bytes, entry: FileEntry, contents: Contents | None) -> None:
        """Add a file that exists.  Raises OSError, ControlError."""
        if stat.S_ISDIR(entry.mode):
            self.written.add(path)
        if self.latest_ns >= 0:
            entry.mtime_ns = min(entry.mtime_ns, self.latest_ns)
        row = None if contents is not None else self.place.image_row(b"/" + path)
        if row is not None and not entry.xattrs and stat.S_IFMT(row.mode) == stat.S_IFMT(entry.mode):
            entry.xattrs = row.xattrs
        entry.xattrs = sorted(pair for pair in entry.xattrs if not pair[0].startswith(b"system."))
        info = header(entry, path or b".")
        if not stat.S_ISREG(entry.mode):
            if stat.S_IFMT(entry.mode) in KINDS:
                self.tar.addfile(info)
            return
        if entry.nlink > 1:
            known = self.links.setdefault(entry.ino, path)
            if known != path:
                info.type, info.linkname = tarfile.LNKTYPE, known.decode(errors="surrogateescape")
                self.tar.addfile(info)
                return
        info.size = entry.size
        if contents is not None:
            self.tar.addfile(info, contents)
        elif row is not None and stat.S_ISREG(row.mode):
            info.size = row.size
            with open(self.place.image().content_path(row), "rb") as file:
                self.tar.addfile(info, file)
        elif entry.size == 0:
            self.tar.addfile(info)
        else:
            self.complain(b"/" + path, "its contents are nowhere")

    def parents(self, path: bytes) -> None:
        """Add the directories above with their attributes: an engine that unpacks the layer alone would make up its
        own.
        """
        parts = path.split(b"/")[:-1]
        for count in range(1, len(parts) + 1):
            above = b"/".join(parts[:count])
            if above in self.written:
                continue
            row = self.place.image_row(b"/" + above)
            if row is not None and stat.S_ISDIR(row.mode):
                entry = FileEntry(above, row.mode)
                entry.uid, entry.gid, entry.mtime_ns, entry.xattrs = (
                    row.uid,
                    row.gid,
                    row.mtime_ns,
                    row.xattrs,
                )
            else:  # made when the sandbox was started
                try:
                    entry = self.client.stat(b"/" + above)
                except FileError:
                    continue
                entry.mtime_ns = 0
            self.written.add(above)
            if stat.S_ISDIR(entry.mode):
                self.add(above, entry, None)

    def whiteout(self, path: bytes) -> None:
        """Add a whiteout: the file of the layers below was removed."""
        self.parents(path)
        above, _slash, name = path.rpartition(b"/")
        entry = FileEntry(b"", stat.S_IFREG)
        self.tar.addfile(header(entry, (above + b"/" if above else b"") + _WHITEOUT + name))


def commit(connection: ControlClient, options: argparse.Namespace, store: Store) -> tuple[Image, int]:
    """Make the image. Returns it, and how many files could not be in it. Raises ImageError, ControlError, OSError,
    UsageError.
    """
    client = FileClient(connection)
    place = next((each for each in read_places(client) if each.inside == b"/" and each.digest), None)
    if place is None:
        raise ImageError(
            f"{options.name} was not started from an image; cloche export {options.name} | cloche import - IMAGE"
        )
    base = Image(store, place.digest)
    latest = options.timestamp
    if latest is None and os.environ.get("SOURCE_DATE_EPOCH", "").isdigit():
        latest = int(os.environ["SOURCE_DATE_EPOCH"])
    config = changed_config(base, options.change)
    with tempfile.TemporaryFile(dir=store.path) as layer:
        if options.pauses:
            connection.call(requests.PAUSE, {})
        try:
            writer = LayerWriter(client, place, layer, latest * 10**9 if latest is not None else -1)
            writer.run(client.changes([], _ALL_BYTES))
        finally:
            if options.pauses:
                connection.call(requests.RESUME, {})
        layer.seek(0)
        image = make_image(store, base, layer, config, "cloche commit", options.message, latest)
    return image, writer.failed


def _run(options: argparse.Namespace) -> int:
    name = parse_reference(options.image)
    store = Store()
    with files_of(options, options.name) as connection, store.using():
        image, failed = commit(connection, options, store)
        store.set_name(name, image.digest)
    print(image.digest)
    return 1 if failed else 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_image_errors("commit", _run, options)
