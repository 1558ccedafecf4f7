"""`collections` as far as it is written in C, and `collections.abc`, which the interpreter has loaded."""

import _collections_abc as abc
import sys
from _collections import OrderedDict, defaultdict, deque  # type: ignore[import-not-found]

from cloche.light.standard import standard

__all__ = ["OrderedDict", "abc", "defaultdict", "deque"]

sys.modules["collections.abc"] = abc  # as the standard module does


def __getattr__(name: str) -> object:
    return standard("collections", name)
