"""What a sandbox has changed, compared with the host's files as they are now: for `cloche diff` and `cloche apply`.

The monitor says which directories of the host are where inside. The sentry is not trusted: it only names paths below
those. A conflict is a file that the host has changed since the sandbox first looked at it, or a file that the sandbox
has created and that exists on the host by now, unless an earlier `cloche apply` of this sandbox has left it so.
"""

import errno
import io
import os
import stat
from collections.abc import Iterator
from typing import IO, Any, Final

from cloche.abi.errno import LinuxError
from cloche.boot.spec import IMAGE_PREFIX
from cloche.cli.options import UsageError
from cloche.runtime.hosttree import HostTree
from cloche.runtime.journal import Left, describe, states_after
from cloche.runtime.records import RecordError
from cloche.wire import files
from cloche.wire.control_client import ControlError
from cloche.wire.file_client import FileClient, FileError
from cloche.wire.files import Base, FileEntry, Record, is_clean
from cloche.wire.imagetree import TreeRow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloche.images.tree import OpenTree

RENAMED: Final = "R"
MAX_CHANGES: Final = 1_000_000
_MAX_PATH_BYTES: Final = 256 << 20  # of all changes together
CONTENT_LIMIT: Final = 8 << 20  # bytes of a file that are compared line by line


class Place:
    """A part of the host that a sandbox sees below a private layer."""

    def __init__(self, inside: bytes, source: bytes) -> None:
        self.inside: bytes = inside  # "/" for the root
        self.source: bytes = source  # on the host
        self.is_file: bool = False
        self.is_volume: bool = False
        self.is_part: bool = False  # only a part of it is visible inside
        self.digest: str = ""  # of an image; `source` is then the image's tree
        self._tree: HostTree | None = None
        self._image: OpenTree | None = None

    def image(self) -> "OpenTree":
        """The files of an image.  Raises OSError."""
        if self._image is None:
            from cloche.images.errors import ImageError
            from cloche.images.tree import OpenTree

            try:
                self._image = OpenTree(os.fsdecode(self.source))
            except ImageError as error:
                raise OSError(errno.EIO, str(error)) from None
        return self._image

    def image_row(self, path: bytes) -> TreeRow | None:
        """The image's entry for a path inside. Raises OSError."""
        try:
            return self.image().file.find(path)
        except LinuxError as error:
            raise OSError(error.errno, os.strerror(error.errno)) from None

    def top(self) -> bytes:
        """The directory on the host that names of `tree` are below."""
        return os.path.dirname(self.source) if self.is_file else self.source

    def relative(self, path: bytes) -> bytes | None:
        """The name of a path inside, below this place; empty: the place itself; None: it is elsewhere."""
        if path == self.inside:
            return b""
        prefix = self.inside.rstrip(b"/") + b"/"
        if not path.startswith(prefix):
            return None
        found = path[len(prefix) :]
        return found if is_clean(found) else None

    def tree(self) -> HostTree:
        """The directory on the host; of a file, the one that it is in.  Raises OSError."""
        if self._tree is None:
            self._tree = HostTree(self.top())
        return self._tree

    def host_name(self, path: bytes) -> bytes:
        """The name in `tree` of a path inside.  Raises OSError for one that is elsewhere."""
        found = self.relative(path)
        if found is None or (self.is_file and found):
            raise OSError(22, "a path that leads elsewhere")
        return os.path.basename(self.source) if self.is_file else found


class Item:
    """One change."""

    def __init__(self, kind: str, entry: FileEntry, base: Base | None) -> None:
        self.kind: str = kind
        self.path: bytes = entry.path
        self.entry: FileEntry = entry  # DELETED: the file that was there
        self.base: Base | None = base
        self.old_path: bytes = entry.path  # RENAMED: where it was
        self.origin: int = 0
        self.has_data: bool = False
        self.old: bytes | None = None  # contents that were never on the host
        self.place: Place | None = None
        self.is_shown: bool = True  # False: a directory that is implied by the files in it
        self.conflict: str = ""
        self.host: os.stat_result | None = None  # the host's file now
        self.was_applied: bool = False  # an earlier state, which is on the host

    def is_dir(self) -> bool:
        """Whether it is, or was, a directory."""
        return stat.S_ISDIR(self.entry.mode)


def read_places(client: FileClient) -> list[Place]:
    """Ask the monitor for the places. Raises ControlError."""
    found: list[Place] = []
    for row in client.places():
        if not isinstance(row, list) or len(row) != 6:
            raise ControlError("the monitor says what it should not")
        inside, source, mode, is_file, is_volume, is_part = row
        if not isinstance(inside, bytes) or not isinstance(source, bytes):
            raise ControlError("the monitor says what it should not")
        if mode == "cow":
            place = Place(inside, source)
            if source.startswith(IMAGE_PREFIX):
                kind, digest, place.source = source[len(IMAGE_PREFIX) :].split(b":", 2)
                place.digest = (kind + b":" + digest).decode()
            place.is_file, place.is_volume, place.is_part = bool(is_file), bool(is_volume), bool(is_part)
            found.append(place)
    return found


def wanted_paths(paths: list[str]) -> list[bytes]:
    """PATH arguments, as absolute paths inside; relative ones start at the user's current directory."""
    found: list[bytes] = []
    for path in paths:
        try:
            found.append(os.fsencode(os.path.normpath(os.path.join(os.getcwd(), path))))
        except FileNotFoundError:
            raise UsageError(f"{path}: the current directory does not exist any more") from None
    return found


class Collector:
    """Turns records into items."""

    def __init__(
        self,
        client: FileClient,
        wanted: list[bytes],
        name: str,
        instance: str,
        *,
        drops_applied: bool = True,
    ) -> None:
        """`name`: the sandbox's; `instance`: see `Journal`.  Raises ControlError."""
        self.name: str = name
        self.instance: str = instance
        self.drops_applied: bool = drops_applied
        self.client: FileClient = client
        self.wanted: list[bytes] = wanted
        self.places: dict[bytes, Place] = {place.inside: place for place in read_places(client)}
        self.items: list[Item] = []
        self.errors: list[tuple[bytes, int]] = []

    def collect(self) -> None:
        """All changes, without contents.  Raises ControlError."""
        pending: list[Item] = []
        place: Place | None = None
        path_bytes = 0
        for record in self.client.changes(self.wanted):
            place = self._take(record, place, pending)
            path_bytes += len(record.entry.path if record.entry is not None else record.data)
            if len(self.items) > MAX_CHANGES or path_bytes > _MAX_PATH_BYTES:
                most = f"{MAX_CHANGES} changes, or {_MAX_PATH_BYTES >> 20} MiB of paths"
                raise ControlError(f"more than {most}; name a PATH")
        self._pair_renames()
        # What is deleted or renamed makes room for something of another type.
        gone = {item.old_path: item for item in self.items if item.kind in (files.DELETED, RENAMED)}
        for item in self.items:
            is_new = item.kind in (files.ADDED, RENAMED)
            _compare_with_host(item, is_replacing=is_new and item.path in gone)
        if self.drops_applied:
            self._know_applied(gone)
        for item in self.items:
            if item.kind in (files.ADDED, RENAMED):
                item.conflict = _conflict_of_all(item, gone)
        if self.drops_applied:
            self._drop_applied()
        # What a guest has made and removed, and the host has by now, is a change only if it was applied.
        self.items = [item for item in self.items if not (_was_unseen(item) and not item.was_applied)]
        self._hide_directories()

    def _take(self, record: Record, place: Place | None, pending: list[Item]) -> Place | None:
        if record.kind == files.LAYER:
            place = self.places.get(record.data)
        elif record.kind == files.ERROR:
            self.errors.append((record.data, record.offset))
        elif record.kind == files.CHANGE:
            item = Item(record.change, FileEntry(b"", 0), record.base)
            item.origin, item.has_data, item.old = record.origin, record.has_data, record.old
            pending.append(item)
        elif record.entry is not None and pending:
            item = pending.pop()
            item.entry = record.entry
            item.path = item.old_path = record.entry.path
            if not item.path.startswith(b"/") or (item.path != b"/" and not is_clean(item.path[1:])):
                raise ControlError("the sandbox names a path that leads elsewhere")
            if place is not None and place.relative(item.path) is not None:
                item.place = place
            self.items.append(item)
        return place

    def _pair_renames(self) -> None:
        """Pair a deleted file with a new one that comes from the same file of the lower layer: it was renamed."""
        gone = {
            (item.place, item.base.ino): item
            for item in self.items
            if item.kind == files.DELETED and item.base is not None and item.base.ino and not item.is_dir()
        }
        taken: set[bytes] = set()
        for item in self.items:
            if item.kind != files.ADDED or not item.origin or item.is_dir() or item.place is None:
                continue
            old = gone.pop((item.place, item.origin), None)
            if old is not None:
                item.kind, item.old_path, item.base = RENAMED, old.path, old.base
                taken.add(old.path)
        self.items = [
            item
            for item in self.items
            if item.kind != files.DELETED or item.is_dir() or item.path not in taken
        ]

    def _know_applied(self, gone: dict[bytes, Item]) -> None:
        """What an earlier `cloche apply` of this sandbox has left, and nobody has changed since, is no conflict:
        the change is from there to the present state.  Raises ControlError.
        """
        try:
            states = states_after(self.name)
        except (OSError, RecordError):
            return  # nothing is known of it
        if not states:
            return
        for item in self.items:
            if item.place is not None and not item.place.digest and item.old is None:
                try:
                    _begin_with_applied(item, item.place, states, is_replacing=item.path in gone)
                except OSError:
                    pass  # the conflict stays
        if self.instance:
            self._find_removed(
                {path: left.state for path, left in states.items() if left.instance == self.instance}
            )

    def _find_removed(self, states: dict[bytes, Any]) -> None:
        """What this sandbox's own changes have left on the host, and is gone inside; it says nothing of what was new
        then.  Raises ControlError.
        """
        known = {path for item in self.items for path in (item.path, item.old_path)}
        tops = {place.top(): place for place in self.places.values() if not (place.digest or place.is_file)}
        found: list[Item] = []
        for path in sorted(states):
            top = os.path.dirname(path)
            while top not in tops and top != b"/":
                top = os.path.dirname(top)
            place = tops.get(top)
            if place is None:
                continue
            inside = os.path.join(place.inside, path[len(top.rstrip(b"/")) + 1 :])
            if inside in known or not self._is_wanted(inside):
                continue
            item = _removed(self.client, inside, place, states[path])
            if item is not None:
                found.append(item)
        self.items += found

    def _is_wanted(self, path: bytes) -> bool:
        return not self.wanted or any(
            path == each or path.startswith(each.rstrip(b"/") + b"/") for each in self.wanted
        )

    def _drop_applied(self) -> None:
        """Drop changes that the host has already. Raises ControlError."""
        doubtful = [item for item in self.items if _may_be_there(item)]
        there = [item for item in doubtful if item.kind == files.DELETED or not _has_content(item)]
        rest = {item.path: item for item in doubtful if item.kind != files.DELETED and _has_content(item)}
        for item in [item for item in rest.values() if item.entry.size > CONTENT_LIMIT]:
            del rest[item.path]
            if _has_large_content(self.client, item):
                there.append(item)
        if rest:
            paths = list(rest) if len(rest) <= files.MAX_PATHS else self.wanted
            for item, new in contents_of(self.client, paths, rest):
                if new is not None and new == _host_content(item):
                    there.append(item)
        gone = set(map(id, there))
        made = {item.path for item in there if item.kind in (files.ADDED, RENAMED)}
        self.items = [
            item
            for item in self.items
            if id(item) not in gone and not (item.kind == files.DELETED and item.path in made)
        ]

    def _hide_directories(self) -> None:
        """Show a directory that was made or removed only if nothing in it is shown."""
        after = b""
        for item in reversed(self.items):  # what is in a directory follows it
            if item.is_dir() and item.kind in (files.ADDED, files.DELETED):
                item.is_shown = not after.startswith(item.path + b"/")
            after = item.path


def _was_unseen(item: Item) -> bool:
    """Whether a removal is one of what the host did not have when the sandbox made its own."""
    return item.kind == files.DELETED and item.base is not None and item.base.mode == 0


def _conflict_of_all(item: Item, gone: dict[bytes, Item]) -> str:
    """The conflict of an item, or of what has to make room for it."""
    seen: set[int] = set()
    each: Item | None = item
    while each is not None and id(each) not in seen:
        if each.conflict:
            return each.conflict
        seen.add(id(each))
        each = gone.get(each.path) if each.kind != files.DELETED else None
    return ""


def _compare_with_host(item: Item, *, is_replacing: bool) -> None:
    """Look at the host's file, and find out whether there is a conflict. `is_replacing`: what was at its path is
    itself deleted or renamed.
    """
    place = item.place
    if place is None:
        return
    if place.digest:
        _compare_with_image(item, place)
        return
    try:
        name = place.host_name(item.old_path)
        item.host = found = place.tree().stat(name)
        if (
            item.kind == RENAMED
            and not is_replacing
            and place.tree().stat(place.host_name(item.path)) is not None
        ):
            item.conflict = "something of that name is on the host by now"
            return
    except OSError as error:
        item.conflict = error.strerror or str(error)
        return
    base = item.base
    if item.kind == files.ADDED:
        is_merged = found is not None and item.is_dir() and stat.S_ISDIR(found.st_mode)
        if found is not None and not is_replacing and not is_merged:
            item.conflict = "something of that name is on the host by now"
    elif item.old is not None:
        item.conflict = "the sandbox was started with a file of its own there"
    elif found is None:
        item.conflict = "" if item.kind == files.DELETED else "it is gone on the host"
    elif base is not None and not is_same(found, base):
        item.conflict = "the host has changed it, too"


def _removed(client: FileClient, path: bytes, place: Place, state: Any) -> Item | None:
    """The removal of what is on the host as it was applied, and not in the sandbox.  Raises ControlError."""
    try:
        found = place.tree().stat(place.host_name(path))
    except OSError:
        return None
    if found is None or describe(found) != state:
        return None
    try:
        client.stat(path)
        return None
    except FileError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return None
    entry = FileEntry(path, found.st_mode)
    entry.uid, entry.gid, entry.size, entry.mtime_ns = (
        found.st_uid,
        found.st_gid,
        found.st_size,
        found.st_mtime_ns,
    )
    item = Item(files.DELETED, entry, _base_of(found, entry))
    item.place, item.host, item.was_applied = place, found, True
    return item


def _base_of(found: os.stat_result, owned: FileEntry | Base) -> Base:
    return Base(*(found.st_mode, owned.uid, owned.gid, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


def _begin_with_applied(item: Item, place: Place, states: dict[bytes, Left], *, is_replacing: bool) -> None:
    """Take the conflict from an item if the host's file is what was applied before.  Raises OSError."""
    tree, name = place.tree(), place.host_name(item.path)
    path = os.path.join(place.top(), name)
    found = tree.stat(name)
    if path not in states or describe(found) != states[path].state:
        return
    is_whole = item.has_data or stat.S_ISLNK(item.entry.mode)
    if item.kind in (files.ADDED, RENAMED):
        if found is None or is_replacing or not is_whole or item.is_dir() or stat.S_ISDIR(found.st_mode):
            return
        if item.kind == RENAMED and tree.stat(place.host_name(item.old_path)) is not None:
            return
        item.kind, item.old_path, item.origin = files.CHANGED, item.path, 0
        item.base = _base_of(found, item.entry)
    if found is None:  # its removal was applied, and there is a new one
        if item.kind != files.CHANGED or not is_whole:
            return
        item.kind, item.base = files.ADDED, None
    elif item.base is not None:
        ino = item.base.ino
        item.base = _base_of(found, item.base)
        item.base.ino = ino
    item.host, item.conflict, item.was_applied = found, "", True


def _compare_with_image(item: Item, place: Place) -> None:
    """An image does not change: there are no conflicts."""
    try:
        row = place.image_row(item.old_path)
    except OSError as error:
        item.conflict = error.strerror or str(error)
        return
    if row is not None:
        seconds = row.mtime_ns // 10**9
        item.host = os.stat_result(
            (row.mode, row.ino, 0, row.nlink, row.uid, row.gid, row.size, seconds, seconds, seconds)
        )


def _has_content(item: Item) -> bool:
    return stat.S_IFMT(item.entry.mode) in (stat.S_IFREG, stat.S_IFLNK)


def _may_be_there(item: Item) -> bool:
    """Whether the host's files look as if this change had been made already."""
    place = item.place
    if place is None or place.digest or item.old is not None:
        return False
    if item.kind == files.DELETED:
        return item.host is None and not item.conflict
    found = item.host
    if item.kind == RENAMED:
        try:
            found = place.tree().stat(place.host_name(item.path))
        except OSError:
            return False
    if found is None:
        return False
    if item.kind == RENAMED and item.host is not None and not stat.S_ISDIR(item.host.st_mode):
        return False  # the old one is still there
    if item.is_dir():
        return found.st_mode == item.entry.mode
    if not item.conflict and not item.was_applied and item.kind == files.CHANGED:
        return False  # it is still as the sandbox first saw it
    if not _has_content(item):
        return found.st_mode == item.entry.mode and found.st_rdev == item.entry.rdev
    return found.st_mode == item.entry.mode and found.st_size == item.entry.size


def _host_content(item: Item) -> bytes | None:
    """The contents of the host's file or link at an item's path, if it can be compared."""
    place = item.place
    if place is None:
        return None
    try:
        tree, name = place.tree(), place.host_name(item.path)
        found = tree.stat(name)
        return None if found is None else read_host(tree, name, found, CONTENT_LIMIT)
    except OSError:
        return None


def _has_large_content(client: FileClient, item: Item) -> bool:
    """Whether the host's file has the contents of this one, which are compared piece by piece. Raises ControlError."""
    place = item.place
    if place is None:
        return False
    try:
        fd = place.tree().open_file(place.host_name(item.path))
    except OSError:
        return False
    is_same, is_whole, at = True, False, 0
    try:
        for record in client.get([item.path]):
            if not is_same or record.kind not in (files.DATA, files.END):
                continue  # the rest of a stream has to be read
            is_whole = record.kind == files.END and record.offset == item.entry.size
            try:
                is_same = _is_hole(fd, at, record.offset) and record.data == os.pread(
                    fd, len(record.data), record.offset
                )
            except OSError:
                is_same = False
            at = record.offset + len(record.data)
    finally:
        os.close(fd)
    return is_same and is_whole


def _is_hole(fd: int, at: int, end: int) -> bool:
    """Whether a file has only zeros there.  Raises OSError."""
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return True  # there is no more data
        if at < end:
            data = os.pread(fd, min(end - at, 1 << 20), at)
            if data.count(0) != len(data):
                return False
            at += max(len(data), 1)
    return True


def read_host(tree: HostTree, name: bytes, found: os.stat_result, limit: int) -> bytes | None:
    """A file of the host, or where a link leads; None for anything else, or more than `limit`.  Raises OSError."""
    if stat.S_ISLNK(found.st_mode):
        fd, last = tree.parent(name)
        return os.readlink(last, dir_fd=fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
        return None
    with open(tree.open_file(name), "rb") as file:
        return file.read(limit)


def is_same(found: os.stat_result, base: Base) -> bool:
    """Whether a file of the host is what the sandbox saw first."""
    if found.st_mode != base.mode:
        return False
    if stat.S_ISDIR(found.st_mode):
        return True
    # As rsync and make compare; ctime would tell of new names and of what was undone, too.
    return (found.st_size, found.st_mtime_ns) == (base.size, base.mtime_ns)


def open_old(item: Item) -> IO[bytes]:
    """The contents of a regular file that the host, or the image, has there now.  Raises OSError."""
    if item.old is not None:
        return io.BytesIO(item.old)
    if item.host is None or item.place is None or not stat.S_ISREG(item.host.st_mode):
        raise OSError(errno.ENOENT, "it is gone on the host")
    if item.place.digest:
        row = item.place.image_row(item.old_path)
        if row is None:
            raise OSError(errno.ENOENT, "it is not in the image")
        return open(item.place.image().content_path(row), "rb")
    return open(item.place.tree().open_file(item.place.host_name(item.old_path)), "rb")


def old_content(item: Item, limit: int) -> bytes | None:
    """The present contents of the host's file; None: no file, or more than `limit`. Raises OSError."""
    if item.old is not None:
        return item.old
    if item.host is None or item.place is None or item.base is None:
        return None
    if item.place.digest:
        return read_image(item.place, item.old_path, limit)
    return read_host(item.place.tree(), item.place.host_name(item.old_path), item.host, limit)


def read_image(place: Place, path: bytes, limit: int) -> bytes | None:
    """A file of an image, or where a link leads; None for anything else, or more than `limit`.  Raises OSError."""
    row = place.image_row(path)
    if row is not None and stat.S_ISLNK(row.mode):
        return row.target
    if row is None or not stat.S_ISREG(row.mode) or row.size > limit:
        return None
    with open(place.image().content_path(row), "rb") as file:
        return file.read(limit)


class Content:
    """The contents of a file, put together from records, up to CONTENT_LIMIT."""

    def __init__(self, item: Item) -> None:
        self.item: Item = item
        self.data: bytearray | None = bytearray() if item.entry.size <= CONTENT_LIMIT else None

    def take(self, record: Record) -> None:
        """DATA or END."""
        if self.data is None:
            return
        end = record.offset + len(record.data)
        if end > CONTENT_LIMIT:
            self.data = None
            return
        if len(self.data) < end:
            self.data += bytes(end - len(self.data))
        if record.kind == files.DATA:
            self.data[record.offset : end] = record.data


def with_contents(collector: Collector) -> Iterator[tuple[Item, bytes | None]]:
    """Yield the items that are shown, in order, each with its present contents (None: nothing to compare). Raises
    ControlError.
    """
    gone = {item.path: item for item in collector.items if item.kind == files.DELETED and item.is_shown}
    known = {item.path: item for item in collector.items if item.kind != files.DELETED and item.is_shown}
    return contents_of(collector.client, collector.wanted, known, gone)


def contents_of(
    client: FileClient, wanted: list[bytes], known: dict[bytes, Item], gone: dict[bytes, Item] | None = None
) -> Iterator[tuple[Item, bytes | None]]:
    """Yield the items of `known` and `gone` (by path) that are at or below `wanted`, with their contents. Raises
    ControlError.
    """
    known, gone = dict(known), dict(gone or {})
    current: Content | None = None
    is_gone = False
    for record in client.changes(wanted, CONTENT_LIMIT):
        if record.kind == files.CHANGE or record.kind == files.LAYER:
            if current is not None:
                yield current.item, _whole(current)
                current = None
            is_gone = record.change == files.DELETED
        elif record.entry is not None:
            item = (gone if is_gone else known).pop(record.entry.path, None)
            if item is not None:
                item.entry = record.entry
                current = Content(item)
        elif current is not None and record.kind in (files.DATA, files.END):
            current.take(record)
    if current is not None:
        yield current.item, _whole(current)


def _whole(content: Content) -> bytes | None:
    item = content.item
    if item.kind == files.DELETED:
        return None
    if stat.S_ISLNK(item.entry.mode):
        return item.entry.target
    if not stat.S_ISREG(item.entry.mode):
        return None
    if not item.has_data:
        try:
            return old_content(item, CONTENT_LIMIT)
        except OSError:
            return None
    return bytes(content.data) if content.data is not None else None
