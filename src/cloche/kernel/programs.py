"""Remembers which files each program maps, so that its next process starts with descriptors of these.

A blank process inherits descriptors of the files that are mapped most often (platform/kept.py). execve keeps only
those that a program of the same file, with the same credentials and root, has mapped before and that these
credentials may still read, so the program could open them itself.
"""

from typing import Final

from cloche.mm.text import PatchedText
from cloche.platform.interface import Platform
from cloche.vfs.mapping import FileMapping
from cloche.vfs.objects import MAY_READ, Context, Inode, Mount, Path

MAX_PROGRAMS: Final = 32
MAX_FILES: Final = 16

ProgramKey = tuple[Inode, object, object, int, int, int, object, tuple[int, ...]]


def text_identity(platform: Platform, text: PatchedText, family: int) -> list[int]:
    """Device and inode number of a text's file, nothing for one that no process may keep.

    A function of its own: compiled code drops a local after its last use, and with the last reference to a text its
    descriptor is closed.  An argument lives until the call is over.
    """
    known = platform.hot_identity(text.fd(), family)
    return list(known) if known is not None else []


class Program:
    """One executable as started by one user."""

    def __init__(self) -> None:
        # -> device and inode number on the host, of it and of its patched text
        self.files: dict[Inode, list[int]] = {}
        # Those that are complete: a text is mapped after its file, and so may become hot after it.
        self._whole: set[Inode] = set()

    def note(self, platform: Platform, mapping: FileMapping, family: int, *, is_patching: bool) -> None:
        """A process of this program, of a family (`Platform.new_family`), has mapped a file privately.

        `is_patching`: programs of this kernel get patched text, where a file has some.
        """
        inode = mapping.file.inode
        if inode in self._whole or mapping.host_fd < 0:
            return
        if len(self.files) >= MAX_FILES and inode not in self.files:
            return
        identities: list[int] = []
        known = platform.hot_identity(mapping.host_fd, family)
        if known is not None:
            identities += known
        is_whole = known is not None
        text = mapping.map_text() if is_patching else None
        if text is not None:
            of_text = text_identity(platform, text, family)
            identities += of_text
            is_whole = is_whole and len(of_text) > 0
        if identities:
            self.files[inode] = identities
        if is_whole:
            self._whole.add(inode)

    def identities(self, ctx: Context) -> list[int]:
        """The files whose descriptors a new process of this program may have: device and inode number in turn."""
        out: list[int] = []
        for inode, identities in self.files.items():
            if inode.permission(ctx, MAY_READ):
                out += identities
        return out


class Programs:
    """The programs that were started last."""

    def __init__(self) -> None:
        self._known: dict[ProgramKey, Program] = {}

    def find(self, ctx: Context, path: Path) -> Program:
        """The record of a program that `ctx` is about to start."""
        creds, root = ctx.creds, ctx.fs.root
        key = (
            path.inode(),
            root.mount,
            root.dentry,
            creds.fsuid,
            creds.fsgid,
            creds.cap_effective,
            creds.user_ns,
            tuple(creds.groups),
        )
        program = self._known.pop(key, None)
        if program is None:
            program = Program()
            if len(self._known) >= MAX_PROGRAMS:
                del self._known[next(iter(self._known))]
        self._known[key] = program
        return program

    def forget(self, mounts: list[Mount]) -> None:
        """The container with these mounts has ended: drop references to its files."""
        for key in list(self._known):
            if key[1] in mounts:
                del self._known[key]
