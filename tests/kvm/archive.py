"""An initramfs: a cpio archive in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).

Files of this machine are put at their own paths, the symbolic links on the way included, so that references by path
(of a virtual environment, of a linker's search list) find them. The same files give the same archive: entries are in
the order of their names, numbers of inodes count from 1, all belong to root.
"""

import os
import stat
from pathlib import Path
from typing import Final

MAX_LINKS: Final = 40  # as the kernel follows on one path


class Entry:
    """One name of the archive."""

    def __init__(self, mode: int, content: bytes | Path = b"", mtime: int = 0, device: int = 0) -> None:
        self.mode = mode
        self.content = content  # a path: that file's, read when the archive is written
        self.mtime = mtime  # which Python compares with compiled modules
        self.device = device


class Archive:
    """Names without a leading slash -> entries."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A directory and those above it, unless they are there."""
        for above in reversed([Path(path), *Path(path).parents]):
            name = str(above).strip("/")
            if name:
                self.entries.setdefault(name, Entry(stat.S_IFDIR | 0o755))
        if path.strip("/"):
            self.entries[path.strip("/")].mode = stat.S_IFDIR | mode

    def file(self, path: str, content: bytes | Path, mode: int = 0o644) -> None:
        """A file with that content."""
        self._add(path, Entry(stat.S_IFREG | mode, content))

    def character_device(self, path: str, major: int, minor: int, mode: int) -> None:
        self._add(path, Entry(stat.S_IFCHR | mode, device=os.makedev(major, minor)))

    def _add(self, path: str, entry: Entry) -> None:
        self.entries[str(self._parents(Path(path))).strip("/")] = entry

    def host(self, path: Path) -> None:
        """A file, directory (alone) or symbolic link of this machine, with what the link leads to."""
        for _ in range(MAX_LINKS):
            resolved = self._parents(path)
            name = str(resolved).strip("/")
            info = os.lstat(resolved)
            if stat.S_ISLNK(info.st_mode):
                target = os.readlink(resolved)
                self.entries[name] = Entry(stat.S_IFLNK | 0o777, target.encode())
                path = resolved.parent / target
                if not os.path.lexists(path):
                    return
                continue
            if stat.S_ISDIR(info.st_mode):
                self.folder(str(resolved), info.st_mode & 0o1777)
            elif stat.S_ISREG(info.st_mode):
                self.entries[name] = Entry(info.st_mode & 0o107777, resolved, int(info.st_mtime))
            return

    def _parents(self, path: Path) -> Path:
        """Add the directories above a path, following their links; the path without links in its directories."""
        parent = Path(os.path.abspath(path)).parent
        for above in reversed([parent, *parent.parents]):
            if above.is_symlink() and str(above).strip("/") not in self.entries:
                self.host(above)
        real = Path(os.path.realpath(parent))
        self.folder(str(real))
        return real / path.name

    def tree(self, top: Path, leave_out: tuple[str, ...] = ()) -> None:
        """A directory with everything below; names that match one of the patterns are left out."""
        self.host(top)
        for folder, folders, files in os.walk(os.path.realpath(top)):
            here = Path(folder)
            folders[:] = sorted(name for name in folders if not _matches(name, leave_out))
            for name in (*folders, *sorted(files)):
                if not _matches(name, leave_out):
                    self.host(here / name)

    def regular_files(self) -> list[Path]:
        """The files of this machine that are in it."""
        return [entry.content for entry in self.entries.values() if isinstance(entry.content, Path)]

    def write(self, target: Path) -> None:
        """Write the archive; whole or not at all."""
        part = target.with_name(f"{target.name}.{os.getpid()}")
        with open(part, "wb") as out:
            for number, name in enumerate(sorted(self.entries), 1):
                entry = self.entries[name]
                data = entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()
                out.write(_record(number, name, entry, data))
            out.write(_record(0, "TRAILER!!!", Entry(0), b""))
        os.replace(part, target)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(Path(name).match(pattern) for pattern in patterns)


def _record(number: int, name: str, entry: Entry, data: bytes) -> bytes:
    """One entry: the header's 13 hexadecimal numbers, the name, the data, each padded to four bytes."""
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (
        number, entry.mode, 0, 0, links, entry.mtime, len(data),
        0, 0, os.major(entry.device), os.minor(entry.device), len(name.encode()) + 1, 0,
    )  # fmt: skip
    head = b"070701" + b"".join(b"%08X" % value for value in numbers) + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
