"""Removing what is not needed: the store is locked by the caller (`Store.removing`)."""

import contextlib
import fcntl
import os
import shutil

from cloche.abi.errno import LinuxError
from cloche.images.errors import ImageError
from cloche.images.image import Image
from cloche.images.store import MAX_DOCUMENT_BYTES, Store, hex_of
from cloche.images.tree import tree_name
from cloche.wire.imagetree import TreeFile


def prune(store: Store, kept: set[str]) -> int:
    """Remove blobs, layers and trees that no name refers to and no sandbox uses.

    Returns the bytes that were freed. `kept`: trees that kept layers need.
    """
    blobs: set[str] = set()
    layers: set[str] = set()
    trees: set[str] = set()
    running: set[str] = set()  # trees that sandboxes use
    for name in os.listdir(store.of("content")):
        if name.startswith("tree-"):
            used = _used(store.of("content", name), is_kept=name in kept)
            if used is not None:
                running.add(name)
                layers.update(used)
    trees.update(running)
    wanted = set(store.names().values())
    if running:
        wanted.update(_manifests(store, running))
    for digest in wanted:
        blobs.add(hex_of(digest))
        try:
            image = Image(store, digest)
        except ImageError:
            continue
        blobs.add(hex_of(image.config_descriptor.digest))
        blobs.update(hex_of(layer.digest) for layer in image.layers)
        layers.update(hex_of(each) for each in image.diff_ids)
        trees.add(tree_name(image.diff_ids))
    freed = 0
    for name in os.listdir(store.path):
        if name.startswith("new-"):
            freed += _remove(store.of(name))
    freed += sum(_remove(store.of("partial", name)) for name in os.listdir(store.of("partial")))
    for name in os.listdir(store.of("blobs")):
        if name not in blobs:
            freed += _remove(store.of("blobs", name))
    # A layer's rows are removed first, so that a layer without contents never looks complete.
    for name in os.listdir(store.of("layers")):
        if name not in layers:
            freed += _remove(store.of("layers", name))
    for name in os.listdir(store.of("content")):
        if name not in layers and name not in trees:
            freed += _remove(store.of("content", name))
    return freed


def _manifests(store: Store, trees: set[str]) -> set[str]:
    """The digests of the images that have one of these trees: they may be committed."""
    found: set[str] = set()
    for name in os.listdir(store.of("blobs")):
        path = store.of("blobs", name)
        if os.path.getsize(path) > MAX_DOCUMENT_BYTES:
            continue
        with open(path, "rb") as file:
            if file.read(1) != b"{":
                continue
        try:
            image = Image(store, f"sha256:{name}")
        except ImageError:
            continue  # another document, such as a configuration
        if tree_name(image.diff_ids) in trees:
            found.add(image.digest)
    return found


def _used(path: str, *, is_kept: bool) -> set[str] | None:
    """The layers of a tree that is in use or needed by a kept layer; None: it is not."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if not is_kept:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)
            return None
    except BlockingIOError:
        pass
    try:
        tree = TreeFile(fd)
    except LinuxError:
        return set()
    tree.close()
    return {layer.decode() for layer in tree.layers}


def _remove(path: str) -> int:
    """Remove a file or directory; returns its size in bytes."""
    size = 0
    with contextlib.suppress(FileNotFoundError):
        size = os.lstat(path).st_blocks * 512
        if os.path.isdir(path) and not os.path.islink(path):
            for folder, _folders, files in os.walk(path):
                for name in files:
                    with contextlib.suppress(FileNotFoundError):
                        size += os.lstat(os.path.join(folder, name)).st_blocks * 512
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    return size
