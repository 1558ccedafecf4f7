"""`cloche apply`: chosen changes of a sandbox, made on the host; and undone again."""

import argparse
import errno
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Final

from cloche.boot.view import SYSTEM_DIRECTORIES
from cloche.cli.changes import (
    CONTENT_LIMIT,
    RENAMED,
    Collector,
    Item,
    Place,
    old_content,
    open_old,
    read_host,
    wanted_paths,
    with_contents,
)
from cloche.cli.client import files_of, instance_of, report_errors
from cloche.cli.diff import Output, is_binary, write_patch
from cloche.cli.names import quoted
from cloche.cli.options import UsageError, options_first
from cloche.cli.steps import Ground, Step, Target
from cloche.cli.textdiff import heading, hunk_lines, hunks, runs, split_lines
from cloche.runtime.hosttree import (
    USER,
    HostTree,
    NewFile,
    Policy,
    Unwanted,
    attributes_of,
    make_directory,
    new_name,
    set_attributes,
    user_attributes,
    wanted_mode,
)
from cloche.runtime.journal import (
    CREATE,
    MODE,
    REMOVE,
    REPLACE,
    Journal,
    Undo,
    clear_rests,
    is_cut_off,
    remove_aside,
)
from cloche.wire import files
from cloche.wire.control_client import ControlError
from cloche.wire.file_client import FileClient
from cloche.wire.files import KEEP_NS, Record

MANY: Final = 1000  # from so many changes on, the disk is waited for only once, at the end
_ALL_BYTES: Final = 1 << 62
_COPY_BYTES: Final = 1 << 20
_SYSTEM: Final = frozenset(os.fsencode("/" + name) for name in SYSTEM_DIRECTORIES)
_HELP: Final = (
    "y: yes, n: no, a: yes to the rest of this file, d: no to the rest of it, q: no to all that follows"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche apply`."""
    add = parser.add_argument
    add(
        "--to",
        metavar="DIR",
        help="make the changes below PATH (by default the current directory) in DIR instead",
    )
    add("-i", "--interactive", action="store_true", help="ask for each file or part of one")
    add("-n", "--dry-run", action="store_true", help="only say what would be done")
    add("--undo", action="store_true", help="take the last application back")
    add("-f", "--force", action="store_true", help="in spite of what the host has changed meanwhile")
    add("--owners", action="store_true", help="give files the owners that they have inside")
    add("--set-ids", action="store_true", help="keep set-user-ID and set-group-ID bits")
    add("--devices", action="store_true", help="make devices")
    add("--attributes", action="store_true", help="give files the user.* attributes that they have inside")
    add("--hooks", action="store_true", help="also what git on the host would run: .git/hooks, .git/config")
    add("name", metavar="NAME", help="the sandbox")
    add("paths", nargs="*", metavar="PATH", help="only what is at or below these paths inside")


def prepare_words(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """Let options stand after the name."""
    return options_first(parser, words)


def is_hook(path: bytes) -> bool:
    """Whether git would run this file, or obey it."""
    parts = path.split(b"/")
    for at, part in enumerate(parts[:-1]):
        if part.lower() == b".git":
            rest = [each.lower() for each in parts[at + 1 :]]
            if b"hooks" in rest[:-1] or rest[-1] in (b"config", b"config.worktree", b"hooks"):
                return True
    return parts[-1].lower() == b".git" or parts[-1].lower() == b".gitmodules"


class Applier:
    """One application."""

    def __init__(self, collector: Collector, options: argparse.Namespace) -> None:
        self.collector: Collector = collector
        self.options: argparse.Namespace = options
        self.policy: Policy = Policy()
        self.policy.keeps_owners = options.owners
        self.policy.keeps_set_ids = options.set_ids
        self.policy.makes_devices = options.devices
        self.policy.keeps_attributes = options.attributes
        self.targets: dict[Place, Target] = {}
        self.steps: list[Step] = []
        self.ground: Ground = Ground([])
        self.waiting: dict[int, NewFile] = {}  # complete, put aside; by the step's id
        self.asides: dict[tuple[bytes, bytes], tuple[Target, bytes]] = {}  # by the directory that they are in
        self.journal: Journal | None = None
        self.failed: int = 0

    # -- what and where --------------------------------------------------------------------------------------
    def plan(self) -> None:
        """Find out what goes where, and what may not.  Raises UsageError, OSError."""
        elsewhere = self._elsewhere()
        outside = 0
        for item in self.collector.items:
            target = elsewhere if elsewhere is not None else self._target(item)
            if target is None:
                outside += 1
                continue
            try:
                name, old_name = self._name(target, item, item.path), self._name(target, item, item.old_path)
            except OSError:
                outside += 1
                continue
            step = Step(item, target, name, old_name)
            self.steps.append(step)
        self.ground = Ground(self.steps)
        for step in self.steps:
            step.refusal = self._refusal(step)
        if outside and not self.steps:
            raise UsageError(
                "nothing that can be applied: what has changed belongs to no directory of yours; use --to DIR"
            )

    def _elsewhere(self) -> Target | None:
        to = self.options.to
        if to is None:
            return None
        prefix = self.collector.wanted[0]
        return Target(os.fsencode(os.path.abspath(to)), HostTree(os.fsencode(to)), prefix, is_elsewhere=True)

    def _target(self, item: Item) -> Target | None:
        """The target in the host's own directory; None for files that did not come from one."""
        place = item.place
        if place is None or place.is_part or place.digest or place.inside in _SYSTEM:
            return None
        known = self.targets.get(place)
        if known is None:
            top = os.path.dirname(place.source) if place.is_file else place.source
            known = Target(top, place.tree(), place.inside, is_elsewhere=False)
            self.targets[place] = known
        return known

    def _name(self, target: Target, item: Item, path: bytes) -> bytes:
        if not target.is_elsewhere:
            assert item.place is not None
            return item.place.host_name(path)
        found = Place(target.prefix, target.top).relative(path)
        if found is None:
            raise OSError(errno.EINVAL, "elsewhere")
        return found or os.path.basename(path)

    def _refusal(self, step: Step) -> str:
        item = step.item
        if not self.options.hooks and is_hook(b"/" + step.name):
            return "git on the host would do what it says; --hooks applies it"
        kind = stat.S_IFMT(item.entry.mode)
        if item.kind != files.DELETED:
            if kind in (stat.S_IFCHR, stat.S_IFBLK) and not self.policy.makes_devices:
                return "a device; --devices makes it"
            if kind == stat.S_IFSOCK:
                return "a socket"
        if self.options.force:
            return ""
        return self._conflict_elsewhere(step) if step.target.is_elsewhere else item.conflict

    def _conflict_elsewhere(self, step: Step) -> str:
        """Whether DIR has something else than the host's own directory had."""
        item = step.item
        found = step.target.tree.stat(step.old_name)
        if item.kind == files.ADDED:
            if found is None or (item.is_dir() and stat.S_ISDIR(found.st_mode)):
                return ""
            is_replacing = (step.target.top, step.name) in self.ground.taken
            return "" if is_replacing else "something of that name is there"
        if found is None:
            return "" if item.kind == files.DELETED else "it is not there"
        if item.is_dir():
            return "" if stat.S_ISDIR(found.st_mode) else "it is no directory there"
        if item.kind == RENAMED and (step.target.top, step.name) not in self.ground.taken:
            if step.target.tree.stat(step.name) is not None:
                return "something of that name is there"
        base = item.base
        if base is None or stat.S_IFMT(found.st_mode) != stat.S_IFMT(base.mode) or found.st_size != base.size:
            return "it is not what the sandbox began with"
        try:
            if old_content(item, CONTENT_LIMIT) != read_host(
                step.target.tree, step.old_name, found, CONTENT_LIMIT
            ):
                return "it is not what the sandbox began with"
        except OSError as error:
            return error.strerror or str(error)
        return ""

    # -- choosing --------------------------------------------------------------------------------------------
    def choose(self) -> None:
        """Ask the user for each file or part.  Raises ControlError."""
        by_path = {(step.item.kind == files.DELETED, step.item.path): step for step in self.steps}
        is_terminal = sys.stdout.isatty()
        out = Output(
            sys.stdout.buffer, has_colors=is_terminal and "NO_COLOR" not in os.environ, is_escaping=True
        )
        is_over = False
        asked: set[int] = set()
        for item, new in with_contents(self.collector):
            step = by_path.get((item.kind == files.DELETED, item.path))
            if step is None or step.refusal:
                continue
            asked.add(id(step))
            answer = "q" if is_over else self._ask(out, step, new)
            step.is_chosen = answer == "y"
            is_over = answer == "q"
        implied = [step for step in self.steps if step.item.is_dir() and not step.item.is_shown]
        asked.update(map(id, implied))
        for step in self.steps:
            if id(step) not in asked:
                step.is_chosen = False  # it is refused, or the sandbox has taken it back meanwhile
        self._choose_directories(implied)

    def _choose_directories(self, implied: list[Step]) -> None:
        """A directory is made if something in it is, and removed unless something in it is to stay."""
        made: set[bytes] = set()
        stays: set[bytes] = set()
        others = set(map(id, implied))
        for step in self.steps:
            if id(step) not in others:
                _tell_above(step, made, stays)
        implied.sort(key=lambda step: step.item.path, reverse=True)  # what is in one before it
        for step in implied:
            path = step.item.path
            step.is_chosen = path not in stays if step.is_deletion() else path in made
            _tell_above(step, made, stays)

    def _ask(self, out: Output, step: Step, new: bytes | None) -> str:
        """y, n or q."""
        item = step.item
        old: bytes | None = None
        if item.kind == files.CHANGED and stat.S_ISREG(item.entry.mode) and new is not None:
            try:
                old = old_content(item, CONTENT_LIMIT)
            except OSError:
                old = None
        if old is None or new is None or old == new or is_binary(old) or is_binary(new):
            write_patch(out, item, new)
            return _answer(f"Apply {quoted(step.host_path())} [y,n,q,?]? ", "ynq")
        return self._ask_hunks(out, step, old, new)

    def _ask_hunks(self, out: Output, step: Step, old: bytes, new: bytes) -> str:
        old_lines = split_lines(old.decode(errors="surrogateescape"))
        new_lines = split_lines(new.decode(errors="surrogateescape"))
        groups = list(hunks(runs(old_lines, new_lines)))
        out.line(f"{quoted(step.host_path())}: {len(groups)} part{'s' if len(groups) != 1 else ''}")
        result: list[str] = []
        at = taken = 0
        rest = ""  # the answer to what is left
        is_over = False
        for number, group in enumerate(groups):
            answer = rest
            if not answer:
                out.line(heading(group))
                for sign, line in hunk_lines(group, old_lines, new_lines):
                    out.line(sign + line)
                answer = _answer(f"({number + 1}/{len(groups)}) Apply this part [y,n,a,d,q,?]? ", "ynadq")
                if answer in "adq":
                    is_over = answer == "q"
                    rest = answer = "y" if answer == "a" else "n"
            for is_equal, i1, i2, j1, j2 in group:
                result += old_lines[at:i1]
                at = max(at, i2)
                result += old_lines[i1:i2] if is_equal or answer == "n" else new_lines[j1:j2]
            taken += answer == "y"
        result += old_lines[at:]
        if taken == len(groups):
            return "y"
        if taken:
            step.text = "".join(result).encode(errors="surrogateescape")
            step.is_chosen = True
        return "q" if is_over else "y" if taken else "n"

    # -- doing -----------------------------------------------------------------------------------------------
    def _complain(self, step: Step, text: str) -> None:
        self.failed += 1
        step.refusal, step.is_told = text, True
        print(f"cloche apply: {quoted(step.host_path())}: {text}; left alone", file=sys.stderr)

    def _said(self, kind: str, step: Step) -> None:
        if step.item.is_shown:
            old = (
                quoted(os.path.join(step.target.top, step.old_name)) + " -> "
                if step.item.kind == RENAMED
                else ""
            )
            text = f"{kind}  {old}{quoted(step.host_path())}\n"
            sys.stdout.write(text)  # in one piece: print would make two calls

    def show(self) -> None:
        """Print the steps of a dry run.  Raises OSError."""
        self.ground.settle(is_forced=self.options.force)
        for step in self.steps:
            if step.refusal:
                self._complain(step, step.refusal)
            elif step.is_chosen:
                self._said(step.item.kind, step)

    def run(self, name: str) -> None:
        """Do it.  Raises ControlError, RecordError, OSError."""
        ground = self.ground
        ground.settle(is_forced=self.options.force)
        steps = []
        for step in self.steps:
            if step.refusal:
                self._complain(step, step.refusal)
            elif step.is_chosen:
                steps.append(step)
        if not steps:
            return
        self.policy.is_durable = len(steps) < MANY
        instance = self.collector.instance if self.options.to is None else ""
        self.journal = Journal(name, instance=instance, is_durable=self.policy.is_durable)
        try:
            ground.survey()
            for target in {id(step.target): step.target for step in steps}.values():
                target.tree.forget()  # the user may have thought about it for long
            self._make(steps)
            self._make_room(steps)
            for step in reversed(steps):
                if step.item.is_dir() and not step.is_deletion() and step.is_live():
                    self._do(step, self._change_mode)
            self._remove_asides()
            self.asides = {}
            self.journal.end()
        finally:
            self._remove_asides()
            self.journal.close()
            if not self.policy.is_durable:
                os.sync()

    def _make_room(self, steps: list[Step]) -> None:
        """Remove what was deleted or renamed, and between, where there is room now, put what has waited."""
        ground = self.ground
        if ground.exchanged:
            ground.settle(is_forced=False)  # some may have failed
            for step in steps:
                if step.refusal and not step.is_told:
                    self._complain(step, step.refusal)
            ground.survey()
        going = [step for step in steps if step.is_live() and step.item.kind in (files.DELETED, RENAMED)]
        going.sort(key=lambda step: step.old_name, reverse=True)  # what is in a directory before it
        first = {id(step) for step in going if ground.has_to_wait(step, step.old_name)}
        for step in going:
            if id(step) in first:
                self._do(step, self._remove)
        for step in steps:
            if step.is_live() and step.item.is_dir() and step.item.kind == files.ADDED:
                if ground.has_to_wait(step, step.name):
                    self._do(step, self._make_directory)
        for step in steps:
            if id(step) in self.waiting and step.is_live():
                self._do(step, self._place)
        for step in going:
            if id(step) not in first and step.is_live():
                self._do(step, self._remove)

    def _aside(self, step: Step) -> bytes:
        """The directory for a file that has to wait.  Raises OSError."""
        assert self.journal is not None
        target = step.target
        above = self.ground.nearest(step)
        known = self.asides.get((target.top, above))
        if known is not None:
            return known[1]
        path = above + b"/" + new_name() if above else new_name()
        fd, name = target.tree.parent(path, make=True)
        self.journal.aside(target.top, path)
        os.mkdir(name, 0o700, dir_fd=fd)
        self.asides[target.top, above] = target, path
        return path

    def _remove_asides(self) -> None:
        for target, path in self.asides.values():
            try:
                remove_aside(target.tree, path)
            except OSError as error:
                self.failed += 1
                shown = quoted(os.path.join(target.top, path))
                print(f"cloche apply: {shown}: {error.strerror}; left behind", file=sys.stderr)

    def _do(self, step: Step, function: Callable[[Step], None]) -> None:
        try:
            function(step)
        except Unwanted as what:
            self._complain(step, str(what))
        except OSError as error:
            text = (
                "a symbolic link is on the way"
                if error.errno == errno.ELOOP
                else error.strerror or str(error)
            )
            self._complain(step, "it holds other files" if error.errno == errno.ENOTEMPTY else text)

    def _begin(
        self,
        kind: str,
        step: Step,
        name: bytes,
        found: os.stat_result | None,
        becomes: os.stat_result | None = None,
    ) -> None:
        """A step is about to be done where `found` is.  Raises OSError."""
        assert self.journal is not None
        self.journal.begin(kind, step.target.top, step.target.tree, name, found, becomes=becomes)

    def _done(self, step: Step, name: bytes) -> None:
        assert self.journal is not None
        self.journal.done(step.target.tree, name)

    def _remove(self, step: Step) -> None:
        """What was deleted, or the old name of what was renamed.  Raises OSError."""
        tree, name = step.target.tree, step.old_name
        found = tree.stat(name)
        if found is None:
            return
        self._begin(REMOVE, step, name, found)
        fd, last = tree.parent(name)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(last, dir_fd=fd)
        else:
            os.unlink(last, dir_fd=fd)
        if step.is_deletion():
            self._said("D", step)

    def _make(self, steps: list[Step]) -> None:
        """Directories and files, as their contents come.  Raises ControlError."""
        wanted = {step.item.path: step for step in steps if step.item.kind != files.DELETED}
        for step in steps:
            if step.item.is_dir() and step.item.kind == files.ADDED:
                if not self.ground.has_to_wait(step, step.name):
                    self._do(step, self._make_directory)
        is_gone = has_data = False
        step_now: Step | None = None
        made: NewFile | None = None
        try:
            for record in self.collector.client.changes(self.collector.wanted, _ALL_BYTES):
                if record.kind in (files.CHANGE, files.LAYER):
                    if made is not None:
                        made.discard()
                    made = step_now = None
                    is_gone = record.change == files.DELETED
                    has_data = record.has_data
                elif record.entry is not None and not is_gone:
                    step_now = wanted.pop(record.entry.path, None)
                    if step_now is None or stat.S_ISDIR(record.entry.mode):
                        step_now = None
                        continue
                    if stat.S_IFMT(record.entry.mode) != stat.S_IFMT(step_now.item.entry.mode):
                        self._complain(step_now, "the sandbox has changed it meanwhile")
                        step_now = None
                        continue
                    step_now.item.entry = record.entry
                    made = self._open(step_now, has_data=has_data)
                elif made is not None and step_now is not None:
                    made = self._fill(step_now, made, record)
        finally:
            if made is not None:
                made.discard()
        for path, step in wanted.items():
            if not step.item.is_dir() and path:
                self._complain(step, "the sandbox has changed it meanwhile")

    def _make_directory(self, step: Step) -> None:
        tree, name = step.target.tree, step.name
        found = tree.stat(name)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            raise OSError(errno.EEXIST, "something of that name is there")
        if found is None:
            self._begin(CREATE, step, name, found)
            make_directory(tree, name)
            self._done(step, name)
            self._said("A", step)

    def _open(self, step: Step, *, has_data: bool) -> NewFile | None:
        """Something that is no directory; the file whose contents are to come."""
        entry = step.item.entry
        kind = stat.S_IFMT(entry.mode)
        made: NewFile | None = None
        try:
            is_same_text = step.item.kind == files.CHANGED and not has_data and kind == stat.S_IFREG
            if is_same_text and not self._changes_attributes(step):
                self._change_mode(step)
                return None
            aside = self._aside(step) if self.ground.has_to_wait(step, step.name) else b""
            assert self.journal is not None
            temporary = b"" if aside else self.journal.temporary(step.target.top, step.name)
            made = NewFile(step.target.tree, step.name, make=True, aside=aside, temporary=temporary)
            if kind == stat.S_IFREG:
                made.open()
                if step.text is None and has_data:
                    return made
                with open_old(step.item) if step.text is None else io.BytesIO(step.text) as source:
                    offset = 0
                    while data := source.read(_COPY_BYTES):
                        made.write(offset, data)
                        offset += len(data)
                self._commit(step, made)
                return None
            made.make(entry, self.policy)
            self._commit(step, made)
            return None
        except Unwanted as what:
            self._complain(step, f"{what}")
        except OSError as error:
            self._complain(step, error.strerror or str(error))
        if made is not None:
            made.discard()
        return None

    def _fill(self, step: Step, made: NewFile, record: Record) -> NewFile | None:
        try:
            if record.kind == files.DATA:
                made.write(record.offset, record.data)
                return made
            if record.kind == files.END:
                if made.length != record.offset:  # it ends with a hole
                    os.ftruncate(made.fd, record.offset)
                self._commit(step, made)
                return None
            raise OSError(errno.EIO, os.strerror(record.offset or errno.EIO))
        except OSError as error:
            made.discard()
            self._complain(step, error.strerror or str(error))
            return None

    def _commit(self, step: Step, made: NewFile) -> None:
        """Give a finished file its name. Raises OSError."""
        tree, name, entry = step.target.tree, step.name, step.item.entry
        found = tree.stat(name)
        if not made.aside:
            self._check(step, found)
        elif found is not None and stat.S_ISDIR(found.st_mode):
            found = None  # it will make room
        entry.mtime_ns = KEEP_NS  # the time of now, so that make and its kin see the change
        source = (
            found if found is not None else tree.stat(step.old_name) if step.item.kind == RENAMED else None
        )
        if source is not None and not self.policy.keeps_owners and made.fd >= 0:
            made_st = os.fstat(made.fd)
            if (made_st.st_uid, made_st.st_gid) != (source.st_uid, source.st_gid):
                os.fchown(made.fd, source.st_uid, source.st_gid)  # the owner stays the same
        if made.fd >= 0:
            old = name if found is not None else step.old_name
            set_attributes(made.fd, self._attributes(step, old, source))
        becomes = made.complete(entry, self.policy)
        if made.aside:
            made.put_aside()
            self.waiting[id(step)] = made
            return
        if self.policy.is_durable:  # that took long: look again
            found = tree.stat(name)
            self._check(step, found)
        self._begin(CREATE if found is None else REPLACE, step, name, found, becomes)
        made.commit(entry, self.policy)
        self._said(step.item.kind, step)

    def _check(self, step: Step, found: os.stat_result | None) -> None:
        """Whether a file may be put where `found` is.  Raises OSError."""
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise OSError(errno.EISDIR, "a directory is there")
        if found is not None and not self._is_as_planned(step, found):
            raise OSError(errno.EBUSY, "the host has changed it just now")

    def _place(self, step: Step) -> None:
        """Give a file that has waited its name. Raises OSError."""
        tree, name = step.target.tree, step.name
        found = tree.stat(name)
        self._check(step, found)
        made = self.waiting[id(step)]
        self._begin(CREATE if found is None else REPLACE, step, name, found, made.waiting())
        made.place(self.policy)
        self._said(step.item.kind, step)

    def _attributes(self, step: Step, name: bytes, source: os.stat_result | None) -> dict[str, bytes]:
        """The attributes of the host's file, or the sandbox's user.* attributes. Raises OSError."""
        wanted = _host_attributes(step.target.tree, name, source)
        if self.policy.keeps_attributes:
            wanted = {each: value for each, value in wanted.items() if not each.startswith(USER)}
            wanted |= user_attributes(step.item.entry)
        return wanted

    def _changes_attributes(self, step: Step) -> bool:
        """Whether a file is to get other attributes than the host's has.  Raises OSError."""
        found = step.target.tree.stat(step.name)
        if not self.policy.keeps_attributes or found is None:
            return False
        has = _host_attributes(step.target.tree, step.name, found)
        mine = {each: value for each, value in has.items() if each.startswith(USER)}
        return mine != user_attributes(step.item.entry)

    def _is_as_planned(self, step: Step, found: os.stat_result) -> bool:
        """Whether the file on the host is still the one that was looked at when conflicts were judged."""
        if self.options.force or step.target.is_elsewhere:
            return True
        host = step.item.host
        if step.item.kind in (files.ADDED, RENAMED) or host is None:
            return False
        return (found.st_ino, found.st_size, found.st_mtime_ns) == (
            host.st_ino,
            host.st_size,
            host.st_mtime_ns,
        )

    def _change_mode(self, step: Step) -> None:
        """Permission bits, and of a file the time.  Raises OSError."""
        tree, name, entry = step.target.tree, step.name, step.item.entry
        found = tree.stat(name)
        if found is None:
            return
        mode = wanted_mode(entry, self.policy)
        is_dir = stat.S_ISDIR(found.st_mode)
        if stat.S_IMODE(found.st_mode) == mode and (is_dir or found.st_mtime_ns == entry.mtime_ns):
            return
        self._begin(MODE, step, name, found)
        fd = tree.open_directory(name) if is_dir else tree.open_file(name)
        try:
            if self.policy.keeps_owners:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, mode)
            if not is_dir:
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)
        self._done(step, name)
        if step.item.kind == files.CHANGED:
            self._said("M", step)


def _tell_above(step: Step, made: set[bytes], stays: set[bytes]) -> None:
    """Tell the directory of a step what is chosen of it."""
    item = step.item
    if step.is_chosen and not step.is_deletion():
        made.add(os.path.dirname(item.path))
    elif not step.is_chosen and item.kind in (files.DELETED, RENAMED):
        stays.add(os.path.dirname(item.old_path))


def _host_attributes(tree: HostTree, name: bytes, found: os.stat_result | None) -> dict[str, bytes]:
    """The attributes of a regular file of the host. Raises OSError."""
    if found is None or not stat.S_ISREG(found.st_mode):
        return {}
    fd = tree.open_file(name)
    try:
        return attributes_of(fd)
    finally:
        os.close(fd)


def _answers() -> Iterator[str]:
    while line := sys.stdin.readline():
        yield line.strip().lower()[:1]


def _answer(prompt: str, allowed: str) -> str:
    """Read one letter from the user; q at the end of the input."""
    while True:
        sys.stdout.flush()
        sys.stdout.write(prompt)
        sys.stdout.flush()
        found = next(_answers(), "q")
        if found and found in allowed:
            return found
        print(_HELP)


def undo(options: argparse.Namespace) -> int:
    """--undo: the exit status.  Raises RecordError, OSError."""
    taken = Undo(options.name)
    taken.run(is_forced=options.force)
    for path in taken.undone:
        print(f"undone  {quoted(path)}")
    for path, text in taken.left:
        print(f"cloche apply: {quoted(path)}: {text}; left alone", file=sys.stderr)
    return 1 if taken.left else 0


def _run(options: argparse.Namespace) -> int:
    if options.undo:
        if options.paths or options.to or options.interactive or options.dry_run:
            raise UsageError("--undo takes back all of the last application, and nothing else can be said")
        return undo(options)
    wanted = wanted_paths(options.paths)
    if options.to is not None:
        if len(wanted) > 1:
            raise UsageError("--to: one PATH, which DIR stands for")
        if not os.path.isdir(options.to):
            raise UsageError(f"--to {options.to}: not a directory")
        wanted = wanted or wanted_paths(["."])
    if not options.dry_run:
        clear_rests(options.name)
    if not (options.force or options.dry_run) and is_cut_off(options.name):
        raise ControlError(
            "the last application was cut off; --undo takes back what it has done, --force goes on"
        )
    with files_of(options, options.name) as connection:
        instance = instance_of(options, options.name)
        collector = Collector(
            FileClient(connection), wanted, options.name, instance, drops_applied=options.to is None
        )
        collector.collect()
        for path, number in collector.errors:
            raise ControlError(f"{quoted(path)}: {os.strerror(number)}")
        applier = Applier(collector, options)
        applier.plan()
        if options.interactive:
            applier.choose()
        if options.dry_run:
            applier.show()
        else:
            applier.run(options.name)
    return 1 if applier.failed else 0


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("apply", _run, options)
