"""What callers give, checked before anything is done with it: what would otherwise fail deep inside, or be taken for
something else. A text is a sequence, too: where a list is meant its characters must not be taken for the items.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from cloche.sdk.errors import InvalidArgument

T = TypeVar("T")


def encoded(what: str, given: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """A text or path as bytes.  Raises InvalidArgument."""
    try:
        return os.fsencode(given)
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what}: {given!r}: has a character that is half of a pair") from None
    except TypeError:
        raise InvalidArgument(f"{what}: {given!r}: text or bytes, or a path") from None


def data_of(what: str, given: object) -> bytes:
    """Text as UTF-8, or bytes.  Raises InvalidArgument."""
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    if not isinstance(given, str):
        raise InvalidArgument(f"{what}: {type(given).__name__}: text or bytes")
    try:
        return given.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"{what}: has a character that is half of a pair", "encode it yourself"
        ) from None


def items_of(what: str, given: Iterable[T]) -> list[T]:
    """The items of a list, for which a single one must not be mistaken.  Raises InvalidArgument."""
    found: object = given
    if isinstance(found, (str, bytes, os.PathLike)) or not isinstance(found, Iterable):
        example = "" if found is None else f", as [{given!r}]"
        raise InvalidArgument(f"{what}: {given!r}: a list{example}")
    return list(given)


def pairs_of(what: str, given: Mapping[str, T]) -> dict[str, T]:
    """The pairs of a dictionary.  Raises InvalidArgument."""
    found: object = given
    if not isinstance(found, Mapping):
        raise InvalidArgument(f"{what}: {type(given).__name__}: a dictionary")
    return dict(given)


def check_seconds(what: str, given: float | None) -> None:
    """Raises InvalidArgument for what is no number of seconds above 0, and not None for no limit either."""
    try:
        is_good = given is None or given > 0
    except TypeError:
        is_good = False
    if not is_good:  # of NaN, too
        raise InvalidArgument(f"{what}: {given}: more than 0 seconds, or None for no limit")


def is_whole(given: Any, low: int, high: int) -> bool:
    """Whether this is a whole number from `low` to `high`."""
    return hasattr(given, "__index__") and low <= given <= high


def check_count(what: str, given: int) -> None:
    """Raises InvalidArgument for what is no number from 0 on."""
    if not is_whole(given, 0, sys.maxsize):
        raise InvalidArgument(f"{what}: {given!r}: a whole number, from 0 on")


def check_callable(what: str, given: object) -> None:
    """Raises InvalidArgument for what is neither a function nor None."""
    if given is not None and not callable(given):
        raise InvalidArgument(f"{what}: {given!r}: a function")
