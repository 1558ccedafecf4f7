"""Makes a process's memory ready for its forks: they shall write to few of the pages that they share with it.

After a process has imported its modules, free blocks are everywhere between objects that stay. A fork would take just
these blocks for its first objects, and for each touch another page that it shares until then: the host copies the
page, which takes time, and memory for good. Once the gaps are full, a fork's objects begin in pages of their own.

That holds for CPython's allocator of objects (Objects/obmalloc.c: pools of 16 KiB with blocks of one size, for objects
up to 512 bytes) and for malloc(3) of glibc. With other allocators the functions find no end of the gaps, and keep
nothing (but the memory of `_fill_small_chunks`, with a bound).

CPython's cache of attribute look-ups (Objects/typeobject.c) holds a reference to each name in it. A fork that looks up
something else in a name's place counts that reference down, on whatever page the name is: so the cache is emptied once.
"""

import gc
import itertools
import os
from collections.abc import Callable
from typing import Final

from cloche.platform.shared_pages import forget_lookups

_POOL_BYTES: Final = 1 << 14
_POOL_HEAD: Final = 48  # bytes before a pool's first block
_BLOCK_STEP: Final = 16
_MOST_BLOCK: Final = 512  # larger objects are malloc's
_BYTES_HEAD: Final = 33  # of a bytes object beside its contents
_RUN: Final = 3  # so many blocks one behind the other, from its beginning: nobody has used the pool before
_MOST_OBJECTS: Final = 1 << 13  # of one size
_MOST_CHUNK: Final = 1 << 16
_CHUNK_STEP: Final = 16  # sizes of chunks go down by one part in so many
_LEAST_CHUNK: Final = 32  # that has room for a name of a variable that no other has
_CHUNK_HEAD: Final = 8  # bytes before a chunk's contents that are not the next one's
_NODE_CHUNK: Final = 48  # of the tree in which glibc's setenv(3) notes each variable
_MOST_VARIABLES: Final = 1 << 8  # of one size
_PROBE_BYTES: Final = 4000  # larger than what malloc(3) keeps for requests of the same size


def make_ready() -> list[object]:
    """Do all that this module knows, before the first fork; the caller keeps the result."""
    gc.collect()
    forget_lookups()
    gaps = fill_gaps()
    gc.freeze()
    return gaps


def fill_gaps() -> list[object]:
    """Allocate what fits into the gaps; as long as the caller keeps the result, they are full."""
    kept: list[object] = []
    highest, size = 0, _MOST_CHUNK
    while size > _MOST_BLOCK:
        highest = _fill_chunks(size, highest, kept)
        size -= size // _CHUNK_STEP
    _fill_small_chunks()
    numbers = iter(range(1, 1 << 62))
    _fill_blocks(object, 16, kept)
    _fill_blocks(lambda: float(next(numbers)), 32, kept)
    for size in range(48, _MOST_BLOCK + 1, _BLOCK_STEP):
        _fill_blocks(lambda size=size: bytes(size - _BYTES_HEAD), size, kept)  # type: ignore[misc]
    return kept


def _fill_blocks(make: Callable[[], object], size: int, kept: list[object]) -> None:
    """Allocate objects until one opens a new pool for its size."""
    made: list[object] = []
    run = last = 0
    while len(made) < _MOST_OBJECTS:
        each = make()
        made.append(each)
        at = id(each)
        if run and at == last + size:
            run += 1
        else:
            run = 1 if at % _POOL_BYTES == _POOL_HEAD else 0
        last = at
        if run == _RUN:
            kept.append(made[:-_RUN])
            return


def _fill_chunks(size: int, highest: int, kept: list[object]) -> int:
    """Allocate objects of `size` bytes until one lies behind the heap's last one, whose address is `highest`. Returns
    the new last one's address.
    """
    made: list[object] = []
    while len(made) < _MOST_OBJECTS:
        each = bytes(size - _BYTES_HEAD)
        if id(each) >= highest:
            kept.append(made)
            return id(each)
        made.append(each)
    return highest


def _fill_small_chunks() -> None:
    """Fill gaps of malloc(3) that are too small for objects that are malloc's, but not for what C code allocates: a
    fork that takes over its caller's environment touched a page or two for each variable.

    The means is the environment itself: glibc never frees what setenv(3) has allocated (stdlib/setenv.c: a program may
    still have pointers to it). So a variable is set and removed, with another name each time.
    """
    numbers = itertools.count()
    for size in range(_MOST_BLOCK, _LEAST_CHUNK - 1, -_BLOCK_STEP):
        length = size - _CHUNK_HEAD - 2  # beside "=" and the end
        # The nodes are in gaps until there are none for them; from then on they alone do not say that a size is over.
        limit = size if size > _NODE_CHUNK else size + _NODE_CHUNK
        for _ in range(_MOST_VARIABLES):
            name = f"{next(numbers):x}".rjust(length, "x")
            before = _end_of_chunks()
            os.putenv(name, "")
            os.unsetenv(name)
            if _end_of_chunks() - before >= limit:
                break


def _end_of_chunks() -> int:
    """Where malloc(3) goes on when no gap is large enough."""
    return id(bytes(_PROBE_BYTES))
