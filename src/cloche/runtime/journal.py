"""The changes that `cloche apply` has made on the host, so that they can be undone, even after a crash in the middle.

    DIR/ID/journal   JSON lines: a head, then for each step what is about to be done, and, where it is not known before
                     what is there then ("after"), that line when it is done; "end" when there are no more steps
    DIR/ID/N         what step N has replaced or removed: another name of that file, or a copy

A line may also name a directory where new files wait for their names ("aside"), which is empty and removed at the end,
or one ("in") in which files are about to be made whose names until they are complete begin with the head's "temporary".

A step is recorded before it is begun, and a file is kept before the step removes it. Steps never write into an
existing file: they replace it by another one, so the kept file stays unchanged. DIR is below $XDG_STATE_HOME; without
that, below ~/.local/state, or of root below /var/lib.
"""

import errno
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from typing import Any, Final

from cloche.runtime.hosttree import NEW, HostTree, attributes_of, new_name, set_attributes
from cloche.runtime.records import RecordError, open_directory

VERSION: Final = 2
_READABLE: Final = (1, VERSION)  # in version 1 each step has a line when it is done, and there is no "end"
KEPT: Final = 10  # journals for a sandbox's name; older ones are removed
_UNKNOWN: Final = object()  # a step was cut off
_COPY_BYTES: Final = 1 << 20
_END: Final = b'{"end": true}\n'

CREATE: Final = "create"  # something where nothing was
REPLACE: Final = "replace"
REMOVE: Final = "remove"
MODE: Final = "mode"  # of a directory or file


def default_directory() -> str:
    """Where journals are."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):
        if os.geteuid() == 0:
            return "/var/lib/cloche/applied"
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "cloche", "applied")


def describe(st: os.stat_result | None) -> dict[str, Any] | None:
    """The attributes by which two states of a file are told apart; of a directory, which may have been made again,
    only the mode.
    """
    if st is None:
        return None
    if stat.S_ISDIR(st.st_mode):
        return {"mode": st.st_mode}
    row = {"mode": st.st_mode, "ino": st.st_ino, "dev": st.st_dev}
    return row | {"size": st.st_size, "mtime_ns": st.st_mtime_ns, "uid": st.st_uid, "gid": st.st_gid}


def _described(row: Any) -> Any:
    """What `describe` said; version 1 said more of directories."""
    return {"mode": row["mode"]} if isinstance(row, dict) and stat.S_ISDIR(row["mode"]) else row


class Journal:
    """The journal of one application that is under way."""

    def __init__(
        self, name: str, directory: str = "", *, instance: str = "", is_durable: bool = True
    ) -> None:
        """`instance` tells the sandbox from others of that name; empty: that is not known, or the changes are made in
        another directory than the one that they belong to.  Raises RecordError, OSError.
        """
        top = directory or default_directory()
        os.makedirs(top, 0o700, exist_ok=True)
        top_fd = open_directory(top)
        try:
            ident = f"{name}@{time.time_ns():020d}"
            os.mkdir(ident, 0o700, dir_fd=top_fd)
            self.fd: int = open_directory(ident, top_fd)
            for old in _journals(top_fd, name)[:-KEPT]:
                shutil.rmtree(old, dir_fd=top_fd, ignore_errors=True)
        finally:
            os.close(top_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._out: int = os.open("journal", flags, 0o600, dir_fd=self.fd)
        try:
            fcntl.flock(self._out, fcntl.LOCK_EX | fcntl.LOCK_NB)  # see `clear_rests`
        except OSError:
            pass
        self.is_durable: bool = is_durable
        self.steps: int = 0
        self._prefix: bytes = new_name() + b"-"
        self._place: tuple[bytes, bytes] = (b"", b"")  # where the last temporary file was
        self._temporaries: int = 0
        head = {"version": VERSION, "name": name, "instance": instance, "time": time.time()}
        self._write(head | {"temporary": self._prefix.decode()})

    def _write(self, row: dict[str, Any]) -> None:
        line = json.dumps(row).encode() + b"\n"
        if os.write(self._out, line) != len(line):  # as much as there was room for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.is_durable:
            os.fsync(self._out)

    def begin(
        self,
        kind: str,
        top: bytes,
        tree: HostTree,
        path: bytes,
        st: os.stat_result | None,
        *,
        becomes: os.stat_result | None = None,
    ) -> None:
        """Step `kind` is about to be done at `path`, where `st` is, below `tree`, which is the directory `top`.
        `becomes`: the file that gets the name; after any other step but a removal, call `done`.  Raises OSError.
        """
        self.steps += 1
        row: dict[str, Any] = {
            "step": self.steps,
            "do": kind,
            "top": os.fsdecode(top),
            "path": os.fsdecode(path),
        }
        row["before"] = describe(st)
        if becomes is not None or kind == REMOVE:
            row["after"] = describe(becomes)
        if st is not None and kind != MODE and not stat.S_ISDIR(st.st_mode):
            fd, name = tree.parent(path)
            keep(fd, name, self.fd, str(self.steps).encode())
        self._write(row)

    def temporary(self, top: bytes, path: bytes) -> bytes:
        """The name that a new file beside `path` has until it is complete. Raises OSError."""
        place = top, path.rpartition(b"/")[0]
        if place != self._place:
            self._write({"in": os.fsdecode(place[1]), "top": os.fsdecode(top)})
            self._place = place
        self._temporaries += 1
        return self._prefix + b"%d" % self._temporaries

    def aside(self, top: bytes, path: bytes) -> None:
        """A directory for new files is about to be made.  Raises OSError."""
        self._write({"aside": os.fsdecode(path), "top": os.fsdecode(top)})

    def done(self, tree: HostTree, path: bytes) -> None:
        """The step is done.  Raises OSError."""
        self._write({"done": self.steps, "after": describe(tree.stat(path))})

    def end(self) -> None:
        """All was done that was to be done.  Raises OSError."""
        if os.write(self._out, _END) != len(_END):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the journal."""
        os.fsync(self._out)
        os.close(self._out)
        os.close(self.fd)


def keep(fd: int, name: bytes, to_fd: int, to_name: bytes) -> None:
    """Keep a file: as another name (hard link), or, where that is not possible, as a copy. Raises OSError."""
    try:
        os.link(name, to_name, src_dir_fd=fd, dst_dir_fd=to_fd, follow_symlinks=False)
        return
    except OSError:
        pass
    st = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if stat.S_ISLNK(st.st_mode):
        os.symlink(os.readlink(name, dir_fd=fd), to_name, dir_fd=to_fd)
    elif stat.S_ISFIFO(st.st_mode):
        os.mkfifo(to_name, st.st_mode & 0o777, dir_fd=to_fd)
    elif stat.S_ISREG(st.st_mode):
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            target = os.open(to_name, flags, 0o600, dir_fd=to_fd)
            try:
                while data := os.read(source, _COPY_BYTES):
                    view = memoryview(data)
                    while view:
                        view = view[os.write(target, view) :]
                if (st.st_uid, st.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(target, st.st_uid, st.st_gid)
                set_attributes(target, attributes_of(source))
                os.fchmod(target, stat.S_IMODE(st.st_mode))
                os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))
            finally:
                os.close(target)
        finally:
            os.close(source)
    else:
        raise OSError(22, "neither file nor link: it cannot be kept")


def remove_aside(tree: HostTree, path: bytes) -> None:
    """Remove a directory for new files, and those in it.  Raises OSError."""
    fd = tree.open_directory(path)
    try:
        for name in os.listdir(fd):
            if os.fsencode(name).startswith(NEW):
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
    fd, last = tree.parent(path)
    if last.startswith(NEW):
        os.rmdir(last, dir_fd=fd)


def is_cut_off(name: str, directory: str = "") -> bool:
    """Whether the last application of sandbox `name` was cut off, and not undone since.  Raises OSError,
    RecordError.
    """
    try:
        top_fd = open_directory(directory or default_directory())
    except FileNotFoundError:
        return False
    try:
        found = _journals(top_fd, name)
        if not found:
            return False
        fd = os.open(f"{found[-1]}/journal", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top_fd)
        with open(fd, "rb") as file:
            if json.loads(file.readline()).get("version") != VERSION:
                return False
            has_begun = any(b'"step"' in line or b'"aside"' in line for line in file)
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(_END)))
            return has_begun and file.read() != _END
    except (FileNotFoundError, ValueError):
        return False
    finally:
        os.close(top_fd)


def _journals(top_fd: int, name: str) -> list[str]:
    return sorted(each for each in os.listdir(top_fd) if each.startswith(name + "@"))


class _Told:
    """What a journal says."""

    def __init__(self, journal_fd: int) -> None:
        """Raises OSError, RecordError."""
        self.instance: str = ""
        self.prefix: str = ""  # of names of files that were not complete
        self.place: tuple[str, str] | None = None  # where the last of them was
        self.is_ended: bool = False
        self.steps: list[dict[str, Any]] = []
        self.after: dict[int, Any] = {}  # what was there after a step, where that is known
        self.asides: list[tuple[str, str]] = []  # directories for new files
        fd = os.open("journal", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=journal_fd)
        with open(fd, "rb") as file:
            for number, line in enumerate(file):
                try:
                    row = json.loads(line)
                except ValueError:
                    break  # the crash came in the middle of it
                if number == 0:
                    if row.get("version") not in _READABLE:
                        raise RecordError("the journal was written by another version of cloche")
                    self.instance = row.get("instance", "")
                    self.prefix = row.get("temporary", "")
                self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        if "step" in row:
            row["before"] = _described(row["before"])
            self.steps.append(row)
        if "after" in row:
            self.after[row["step"] if "step" in row else row["done"]] = _described(row["after"])
        if "aside" in row:
            self.asides.append((row["top"], row["aside"]))
        if "in" in row:
            self.place = row["top"], row["in"]
        self.is_ended = "end" in row

    def remove_rests(self) -> None:
        """Remove what was not complete when it was cut off."""
        for top, name in self.asides:
            _clear(top, name, remove_aside)
        if self.place is not None and self.prefix.encode().startswith(NEW):
            _clear(self.place[0], self.place[1], self._remove_temporary)

    def _remove_temporary(self, tree: HostTree, path: bytes) -> None:
        """Raises OSError."""
        fd = tree.open_directory(path)
        try:
            for name in os.listdir(fd):
                if name.startswith(self.prefix):
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)


def _clear(top: str, path: str, work: Callable[[HostTree, bytes], None]) -> None:
    try:
        tree = HostTree(os.fsencode(top))
        try:
            work(tree, os.fsencode(path))
        finally:
            tree.close()
    except OSError:
        pass  # it was removed, with all of the directory perhaps


def clear_rests(name: str, directory: str = "") -> None:
    """Remove what applications of sandbox `name` that were cut off have left incomplete.  Raises OSError,
    RecordError.
    """
    try:
        top_fd = open_directory(directory or default_directory())
    except FileNotFoundError:
        return
    try:
        for ident in _journals(top_fd, name):
            fd = open_directory(ident, top_fd)
            try:
                told = _Told(fd)
                if not told.is_ended and not _is_held(fd):
                    told.remove_rests()
            except FileNotFoundError:
                pass  # killed before it was made
            finally:
                os.close(fd)
    finally:
        os.close(top_fd)


def _is_held(journal_fd: int) -> bool:
    """Whether somebody writes the journal, or nobody knows. Raises OSError."""
    fd = os.open("journal", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=journal_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


class Left:
    """What an application has left at a path of the host."""

    def __init__(self, state: Any, instance: str) -> None:
        self.state: Any = state  # as `describe` says it
        self.instance: str = instance  # of the journal


def states_after(name: str, directory: str = "") -> dict[bytes, Left]:
    """What the applications of sandbox `name` have left at each path of the host that they changed; those that were
    undone do not count.  Raises RecordError, OSError.
    """
    found: dict[bytes, Left] = {}
    try:
        top_fd = open_directory(directory or default_directory())
    except FileNotFoundError:
        return found
    try:
        for ident in _journals(top_fd, name):
            fd = open_directory(ident, top_fd)
            try:
                told = _Told(fd)
            finally:
                os.close(fd)
            for row in told.steps:
                path = os.fsencode(os.path.join(row["top"], row["path"]))
                found[path] = Left(told.after.get(row["step"], _UNKNOWN), told.instance)
    finally:
        os.close(top_fd)
    return found


class Undo:
    """Undoes an application, the last step first."""

    def __init__(self, name: str, directory: str = "") -> None:
        """The last application of sandbox `name`.  Raises RecordError, OSError."""
        top = directory or default_directory()
        try:
            self.top_fd: int = open_directory(top)
        except FileNotFoundError:
            raise RecordError(f"nothing of {name} has been applied") from None
        found = _journals(self.top_fd, name)
        if not found:
            raise RecordError(f"nothing of {name} has been applied, or all of it was undone")
        self.ident: str = found[-1]
        self.fd: int = open_directory(self.ident, self.top_fd)
        self.temporary: bytes = new_name()
        self.trees: dict[str, HostTree] = {}
        self.left: list[tuple[bytes, str]] = []  # paths that were not undone, and the reason
        self.undone: list[bytes] = []

    def run(self, *, is_forced: bool) -> None:
        """Undo all steps; the journal is removed when all are undone. Raises RecordError, OSError."""
        told = _Told(self.fd)
        if told.prefix.encode().startswith(NEW):
            self.temporary = told.prefix.encode() + b"undo"
        for row in reversed(told.steps):
            path = os.fsencode(os.path.join(row["top"], row["path"]))
            try:
                if self._step(row, told.after.get(row["step"], _UNKNOWN), is_forced=is_forced):
                    self.undone.append(path)
            except OSError as error:
                self.left.append((path, error.strerror or str(error)))
        told.remove_rests()
        if not self.left:
            shutil.rmtree(self.ident, dir_fd=self.top_fd)

    def _tree(self, top: str) -> HostTree:
        if top not in self.trees:
            self.trees[top] = HostTree(os.fsencode(top))
        return self.trees[top]

    def _step(self, row: dict[str, Any], after: Any, *, is_forced: bool) -> bool:
        """Undo one step; whether there was something to undo.  Raises OSError."""
        tree, path = self._tree(row["top"]), os.fsencode(row["path"])
        now, before = tree.stat(path), row["before"]
        shown = describe(now)
        if before is not None and not stat.S_ISDIR(before["mode"]):
            self._remove_temporary(tree, path)  # of an earlier one that was cut off
        if shown == before:
            return False  # the step was not carried out
        if after is not _UNKNOWN and shown != after and not is_forced:
            raise OSError(0, "it has changed since; --force undoes that, too")
        is_empty = now is not None and stat.S_ISDIR(now.st_mode)  # or it cannot be removed
        if after is _UNKNOWN and row["do"] == CREATE and now is not None and not is_empty and not is_forced:
            raise OSError(0, "somebody else may have made it; --force removes it")
        fd, name = tree.parent(path, make=True)
        if row["do"] == MODE:
            mode = before["mode"] & 0o7777
            os.chmod(name, mode, dir_fd=fd)
            if "mtime_ns" in before:
                os.utime(name, ns=(before["mtime_ns"], before["mtime_ns"]), dir_fd=fd, follow_symlinks=False)
        elif before is None:
            if now is not None and stat.S_ISDIR(now.st_mode):
                os.rmdir(name, dir_fd=fd)
            elif now is not None:
                os.unlink(name, dir_fd=fd)
        elif stat.S_ISDIR(before["mode"]):
            os.mkdir(name, 0o700, dir_fd=fd)
            os.chmod(name, before["mode"] & 0o7777, dir_fd=fd)
        else:
            if now is not None and stat.S_ISDIR(now.st_mode):
                os.rmdir(name, dir_fd=fd)
            self._put_back(str(row["step"]).encode(), fd, name)
        return True

    def _put_back(self, kept: bytes, fd: int, name: bytes) -> None:
        """Give the kept file its name again, atomically."""
        keep(self.fd, kept, fd, self.temporary)
        try:
            os.rename(self.temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            os.unlink(self.temporary, dir_fd=fd)
            raise
        try:
            os.unlink(self.temporary, dir_fd=fd)  # rename(2) leaves two names of one file alone
        except FileNotFoundError:
            pass

    def _remove_temporary(self, tree: HostTree, path: bytes) -> None:
        try:
            fd, _name = tree.parent(path)
            os.unlink(self.temporary, dir_fd=fd)
        except OSError:
            pass
