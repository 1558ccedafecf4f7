"""`cloche diff`: what a sandbox has changed, as git shows it."""

import argparse
import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any, Final

from cloche.cli.changes import (
    CONTENT_LIMIT,
    RENAMED,
    Collector,
    Item,
    old_content,
    wanted_paths,
    with_contents,
)
from cloche.cli.client import files_of, instance_of, report_errors
from cloche.cli.names import quoted
from cloche.cli.options import options_first
from cloche.cli.terminal import printable_text
from cloche.cli.textdiff import counts, heading, hunk_lines, hunks, runs, split_lines
from cloche.wire import files
from cloche.wire.file_client import FileClient
from cloche.wire.files import Base, FileEntry
from cloche.wire.wording import counted

_BOLD: Final = "\x1b[1m"
_RED: Final = "\x1b[31m"
_GREEN: Final = "\x1b[32m"
_YELLOW: Final = "\x1b[33m"
_CYAN: Final = "\x1b[36m"
_OFF: Final = "\x1b[m"
_SIGNS: Final = {"+": _GREEN, "-": _RED}
_BINARY_BYTES: Final = 8000  # the start of a file, in which git looks for NUL
_STAT_WIDTH: Final = 80
_WORDS: Final = {"A": "added", "M": "changed", "D": "deleted", "R": "renamed"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche diff`."""
    add = parser.add_argument
    shown = parser.add_mutually_exclusive_group()
    for option, text in (
        ("--patch", "unified diffs (the default), which git apply and patch read"),
        ("--stat", "how many lines of which files"),
        ("--name-only", "paths"),
        ("--name-status", "paths, and A, D, M or R"),
        ("--json", "all that is known, as JSON"),
    ):
        shown.add_argument(option, action="store_true", help=text)
    add("--color", default="auto", choices=["auto", "always", "never"], help="colours; auto: on a terminal")
    add("--no-pager", action="store_true", help="no pager, even on a terminal")
    add("--exit-code", action="store_true", help="exit with 1 if there are changes")
    add("name", metavar="NAME", help="the sandbox")
    add("paths", nargs="*", metavar="PATH", help="only what is at or below these paths inside")


def prepare_words(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """Let options stand after the name."""
    return options_first(parser, words)


class Output:
    """Where the diff goes: lines, in colours or not, harmless to a terminal."""

    def __init__(self, out: IO[bytes], *, has_colors: bool, is_escaping: bool) -> None:
        self.out: IO[bytes] = out
        self.has_colors: bool = has_colors
        self.is_escaping: bool = is_escaping

    def line(self, text: str, color: str = "") -> None:
        """One line; what a guest wrote is in it."""
        if self.is_escaping:
            text = printable_text(text)
        if color and self.has_colors:
            text = f"{color}{text}{_OFF}"
        self.out.write(text.encode(errors="surrogateescape") + b"\n")


def is_binary(data: bytes) -> bool:
    """git's guess."""
    return b"\0" in data[:_BINARY_BYTES]


def _side(letter: str, path: bytes) -> str:
    return quoted(letter.encode() + path)


def _notes(item: Item) -> Iterator[str]:
    """Notes for which the format of patches has no place. They stand before the first line of a file, where git and
    patch skip them.
    """
    path = quoted(item.path)
    if item.conflict:
        yield f"# {path}: conflict: {item.conflict}"
    base, entry = item.base, item.entry
    if base is not None and item.kind != files.DELETED and (base.uid, base.gid) != (entry.uid, entry.gid):
        yield f"# {path}: owner {base.uid}:{base.gid} is {entry.uid}:{entry.gid} now"
    if item.kind == files.CHANGED and base is not None and _is_alike(entry, base):
        yield f"# {path}: extended attributes changed"
    kind = stat.S_IFMT(entry.mode)
    if kind not in (stat.S_IFREG, stat.S_IFLNK):
        name = {
            stat.S_IFDIR: "a directory",
            stat.S_IFIFO: "a FIFO",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a character device",
            stat.S_IFBLK: "a block device",
        }.get(kind, "a file of an unknown kind")
        modes = f"mode {stat.S_IMODE(entry.mode):o}"
        if item.kind == files.CHANGED and base is not None:
            modes = f"mode {stat.S_IMODE(base.mode):o} is {stat.S_IMODE(entry.mode):o} now"
        yield f"# {path}: {name} {_WORDS[item.kind]}, {modes}"


def _is_alike(entry: FileEntry, base: Base) -> bool:
    """Whether all that a change shows otherwise is the same: then it is one of extended attributes."""
    same = (entry.mode, entry.uid, entry.gid) == (base.mode, base.uid, base.gid)
    return same and (stat.S_ISDIR(entry.mode) or (entry.size, entry.mtime_ns) == (base.size, base.mtime_ns))


def _git_mode(mode: int) -> int:
    return stat.S_IFLNK if stat.S_ISLNK(mode) else mode


def _header(item: Item) -> Iterator[str]:
    """The lines that git writes before the contents."""
    mode = _git_mode(item.entry.mode)
    yield f"diff --git {_side('a', item.old_path)} {_side('b', item.path)}"
    if item.kind == files.ADDED:
        yield f"new file mode {mode:06o}"
    elif item.kind == files.DELETED:
        yield f"deleted file mode {mode:06o}"
    else:
        if item.base is not None and _git_mode(item.base.mode) != mode:
            yield f"old mode {_git_mode(item.base.mode):06o}"
            yield f"new mode {mode:06o}"
        if item.kind == RENAMED:
            yield f"rename from {quoted(item.old_path[1:])}"
            yield f"rename to {quoted(item.path[1:])}"


def _both_sides(item: Item, new: bytes | None) -> tuple[bytes | None, bytes | None, bool]:
    """Old and new contents, and whether they can be compared at all."""
    try:
        old = old_content(item, CONTENT_LIMIT)
    except OSError:
        old = None
    is_whole = True
    if stat.S_ISREG(item.entry.mode):
        is_whole = item.kind == files.DELETED or new is not None
        has_old = item.base is not None and item.host is not None and stat.S_ISREG(item.host.st_mode)
        is_whole = is_whole and (old is not None or not has_old)
    return old, new, is_whole


def write_patch(out: Output, item: Item, new: bytes | None) -> None:
    """One file as a patch."""
    for note in _notes(item):
        out.line(note, _YELLOW)
    if stat.S_IFMT(item.entry.mode) not in (stat.S_IFREG, stat.S_IFLNK):
        return
    for line in _header(item):
        out.line(line, _BOLD)
    old, new, is_whole = _both_sides(item, new)
    before = "/dev/null" if item.kind == files.ADDED else _side("a", item.old_path)
    after = "/dev/null" if item.kind == files.DELETED else _side("b", item.path)
    if not is_whole or is_binary(old or b"") or is_binary(new or b""):
        if not is_whole or old != new:
            out.line(f"Binary files {before} and {after} differ")
        return
    old_lines = split_lines((old or b"").decode(errors="surrogateescape"))
    new_lines = split_lines((new or b"").decode(errors="surrogateescape"))
    found = list(hunks(runs(old_lines, new_lines)))
    if found:
        out.line(f"--- {before}", _BOLD)
        out.line(f"+++ {after}", _BOLD)
    for group in found:
        out.line(heading(group), _CYAN)
        for sign, line in hunk_lines(group, old_lines, new_lines):
            out.line(sign + line, _SIGNS.get(sign, ""))


# -- other forms -------------------------------------------------------------------------------------------------
class Counted:
    """A line of --stat."""

    def __init__(self, item: Item) -> None:
        self.name: str = quoted(item.path)
        if item.kind == RENAMED:
            self.name = f"{quoted(item.old_path)} => {self.name}"
        self.added: int = 0
        self.removed: int = 0
        self.text: str = ""  # instead of numbers


def count(item: Item, new: bytes | None) -> Counted:
    """How much of a file has changed."""
    row = Counted(item)
    old, new, is_whole = _both_sides(item, new)
    if stat.S_IFMT(item.entry.mode) not in (stat.S_IFREG, stat.S_IFLNK):
        row.text = f"{_WORDS[item.kind]}"
    elif not is_whole or is_binary(old or b"") or is_binary(new or b""):
        before = len(old) if old is not None else item.base.size if item.base is not None else 0
        after = 0 if item.kind == files.DELETED else item.entry.size
        row.text = f"Bin {before} -> {after} bytes"
    else:
        old_lines = split_lines((old or b"").decode(errors="surrogateescape"))
        new_lines = split_lines((new or b"").decode(errors="surrogateescape"))
        row.added, row.removed = counts(runs(old_lines, new_lines))
    return row


def write_stat(out: Output, rows: list[Counted]) -> None:
    """As git diff --stat."""
    if not rows:
        return
    width = min(max(len(row.name) for row in rows), 60)
    most = max(max(row.added + row.removed for row in rows), 1)
    digits = len(str(most))
    room = max(_STAT_WIDTH - width - digits - 5, 10)
    for row in rows:
        name = row.name if len(row.name) <= width else "..." + row.name[3 - width :]
        if row.text:
            out.line(f" {name:{width}} | {row.text}")
            continue
        scale = room / most if most > room else 1.0
        plus, minus = int(row.added * scale + 0.999), int(row.removed * scale + 0.999)
        graph = "+" * plus + "-" * minus
        if out.has_colors:
            graph = f"{_GREEN}{'+' * plus}{_OFF}{_RED}{'-' * minus}{_OFF}"
        text = f" {name:{width}} | {row.added + row.removed:{digits}} "
        shown = printable_text(text) if out.is_escaping else text
        out.out.write((shown + graph).rstrip().encode(errors="surrogateescape") + b"\n")
    added, removed = sum(row.added for row in rows), sum(row.removed for row in rows)
    parts = [counted(len(rows), "file") + " changed"]
    if added or not removed:
        parts.append(counted(added, "insertion") + "(+)")
    if removed or not added:
        parts.append(counted(removed, "deletion") + "(-)")
    out.line(" " + ", ".join(parts))


def _text_of(path: bytes, row: dict[str, Any], key: str) -> None:
    """A path in JSON: text, and the bytes in base 64 if they are not UTF-8."""
    try:
        row[key] = path.decode()
    except UnicodeDecodeError:
        row[key] = path.decode(errors="replace")
        row[key + "_base64"] = base64.b64encode(path).decode()


def as_json(item: Item) -> dict[str, Any]:
    """One change."""
    entry, base = item.entry, item.base
    row: dict[str, Any] = {"change": _WORDS[item.kind]}
    _text_of(item.path, row, "path")
    if item.kind == RENAMED:
        _text_of(item.old_path, row, "old_path")
    now = {
        "mode": f"{entry.mode:06o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
    }
    if item.kind != files.DELETED:
        row["now"] = now
        if stat.S_ISLNK(entry.mode):
            _text_of(entry.target, now, "target")
    if base is not None:
        row["before"] = {
            "mode": f"{base.mode:06o}", "uid": base.uid, "gid": base.gid, "size": base.size, "mtime_ns": base.mtime_ns,
        }  # fmt: skip
    row["contents_changed"] = item.has_data
    if item.place is not None:
        name = item.place.relative(item.path)
        host = item.place.source if not name else os.path.join(item.place.source, name)
        _text_of(host, row, "host_path")
    row["conflict"] = item.conflict or None
    return row


# -- the verb ----------------------------------------------------------------------------------------------------
def _pager() -> "subprocess.Popen[bytes] | None":
    """Start the user's pager; None: there is none."""
    command = (
        os.environ.get("CLOCHE_PAGER") or os.environ.get("PAGER") or ("less" if shutil.which("less") else "")
    )
    if not command or command == "cat":
        return None
    environment = {"LESS": "FRX", "LV": "-c", **os.environ}
    return subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env=environment)


def _write(collector: Collector, options: argparse.Namespace, out: Output) -> None:
    shown = [item for item in collector.items if item.is_shown]
    if options.json:
        text = json.dumps([as_json(item) for item in shown], indent=1)
        out.out.write(text.encode() + b"\n")
    elif options.name_only:
        for item in shown:
            out.line(quoted(item.path))
    elif options.name_status:
        for item in shown:
            old = quoted(item.old_path) + "\t" if item.kind == RENAMED else ""
            out.line(f"{item.kind}\t{old}{quoted(item.path)}")
    elif options.stat:
        write_stat(out, [count(item, new) for item, new in with_contents(collector)])
    else:
        for item, new in with_contents(collector):
            write_patch(out, item, new)


def _run(options: argparse.Namespace) -> int:
    with files_of(options, options.name) as connection:
        instance = instance_of(options, options.name)
        collector = Collector(FileClient(connection), wanted_paths(options.paths), options.name, instance)
        collector.collect()
        for path, errno in collector.errors:
            print(f"cloche diff: {quoted(path)}: {os.strerror(errno)}", file=sys.stderr)
        is_terminal = sys.stdout.isatty()
        has_colors = options.color == "always" or (
            options.color == "auto" and is_terminal and "NO_COLOR" not in os.environ
        )
        pager = (
            _pager()
            if is_terminal and not options.no_pager and not options.json and collector.items
            else None
        )
        target = sys.stdout.buffer if pager is None else pager.stdin
        assert target is not None
        try:
            _write(
                collector,
                options,
                Output(target, has_colors=has_colors, is_escaping=is_terminal or has_colors),
            )
            target.flush()
        except BrokenPipeError:
            if pager is None:
                raise  # otherwise the user has left the pager
        finally:
            if pager is not None:
                try:
                    target.close()
                except BrokenPipeError:
                    pass
                pager.wait()
    if collector.errors:
        return 1
    return 1 if options.exit_code and collector.items else 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("diff", _run, options)
