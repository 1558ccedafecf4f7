"""The cache of names: dentries of a directory, present or known to be absent (fs/dcache.c).

Owns `Dentry.children`, and the bound on entries that cost a guest nothing to make.  May call `Inode.lookup`.
"""

from collections import deque
from typing import Final

from cloche.vfs.forgetting import NAMES, forgetful
from cloche.vfs.objects import (
    Context,
    Dentry,
    Inode,
)

# Dentries for names that do not exist cost a guest nothing to make: only so many are kept.
MAX_NEGATIVE: Final = 8192
# Entries kept in a directory whose names are looked up again each time.
MAX_UNSTABLE: Final = 1024

_negatives: Final[deque[Dentry]] = deque()


def _note_negative(dentry: Dentry) -> None:
    _negatives.append(dentry)
    if len(_negatives) > MAX_NEGATIVE:
        for _ in range(MAX_NEGATIVE // 2):
            _drop_negative(_negatives.popleft())


def _drop_negative(dentry: Dentry) -> None:
    parent = dentry.parent
    if dentry.inode is None and parent is not None and parent.children.get(dentry.name) is dentry:
        del parent.children[dentry.name]


def drop_negative_dentries() -> None:
    """Forget every name known not to exist (an unmounted file system must not be kept alive by them)."""
    while _negatives:
        _drop_negative(_negatives.popleft())


def _has_mount_below(dentry: Dentry) -> bool:
    stack = [dentry]
    while stack:
        each = stack.pop()
        if each.mounted:
            return True
        stack.extend(each.children.values())
    return False


def _trim_unstable(parent: Dentry) -> None:
    """Drop the older half of a directory's entries; they are looked up again when they are asked for."""
    for name, child in list(parent.children.items())[: MAX_UNSTABLE // 2]:
        if not _has_mount_below(child):
            del parent.children[name]


def drop_child(parent: Dentry, name: bytes) -> None:
    """The cached file of `name` is out of date: drop the dentry, unless something is mounted below
    it (d_invalidate).
    """
    child = parent.children.get(name)
    if child is not None and not _has_mount_below(child):
        del parent.children[name]
        child.is_deleted = True
        stack = [child]
        while stack:  # parents and children refer to each other, which would keep both in memory
            each = stack.pop()
            stack.extend(each.children.values())
            NAMES.remove(each)
            each.children.clear()


def lookup_child(ctx: Context, parent: Dentry, directory: Inode, name: bytes) -> Dentry:
    """The dentry of `name` (not `.` or `..`) in `parent`, whose inode is `directory`.

    Negative if there is none.
    """
    child = parent.children.get(name)
    if directory.fs.has_stable_dentries:
        if child is not None:
            child.is_recent = True
            return child
        inode = None if parent.is_deleted else directory.lookup(ctx, name)
        child = Dentry(name, parent, inode)
        parent.children[name] = child
        if inode is None:
            _note_negative(child)
        elif forgetful(directory) is not None:
            NAMES.add(child)
        return child
    if child is not None and child.mounted:
        return child  # a mount pins what it covers
    inode = directory.lookup(ctx, name)
    if child is not None:
        if child.inode is inode and inode is not None:
            return child
        del parent.children[name]
        child.is_deleted = True
    child = Dentry(name, parent, inode)
    if inode is not None:
        if len(parent.children) >= MAX_UNSTABLE:
            _trim_unstable(parent)
        parent.children[name] = child
    return child


def instantiate(parent: Dentry, name: bytes, inode: Inode) -> Dentry:
    """A name that did not exist now stands for `inode`.

    It gets a new dentry. The old one drops its reference to the directory, so that the list of negative dentries
    keeps no directory alive.
    """
    old = parent.children.get(name)
    if old is not None:
        old.parent = None
    dentry = Dentry(name, parent, inode)
    parent.children[name] = dentry
    return dentry


def forget_children(dentry: Dentry) -> None:
    """A directory is removed: drop its negative dentries."""
    for child in dentry.children.values():
        child.parent = None
    dentry.children.clear()


def unhash(dentry: Dentry) -> None:
    """The name was removed; holders of the dentry see " (deleted)"."""
    dentry.is_deleted = True
    NAMES.remove(dentry)
    parent = dentry.parent
    if parent is not None and parent.children.get(dentry.name) is dentry:
        del parent.children[dentry.name]
    if dentry.inode is None:
        dentry.parent = None


def is_below(dentry: Dentry, ancestor: Dentry) -> bool:
    """Whether `dentry` is `ancestor` or lies under it."""
    each: Dentry | None = dentry
    while each is not None:
        if each is ancestor:
            return True
        each = each.parent
    return False


def move_dentry(dentry: Dentry, new_parent: Dentry, new_name: bytes) -> None:
    """d_move: the caller has unhashed the dentry that had the new name."""
    old_parent = dentry.parent
    if old_parent is not None and old_parent.children.get(dentry.name) is dentry:
        del old_parent.children[dentry.name]
    dentry.parent = new_parent
    dentry.name = new_name
    new_parent.children[new_name] = dentry


def exchange_dentries(a: Dentry, b: Dentry) -> None:
    a_parent, a_name = a.parent, a.name
    b_parent, b_name = b.parent, b.name
    assert a_parent is not None and b_parent is not None
    a.parent, a.name = b_parent, b_name
    b.parent, b.name = a_parent, a_name
    b_parent.children[b_name] = a
    a_parent.children[a_name] = b
