"""`mypy_extensions`, without `typing`: marks for mypyc, which mean nothing at run time."""

from collections.abc import Callable

from cloche.light.standard import standard


def trait(cls: type) -> type:
    """A mark for mypyc."""
    return cls


def mypyc_attr(**_marks: object) -> Callable[[type], type]:
    """Marks for mypyc."""
    return trait


def __getattr__(name: str) -> object:
    return standard("mypy_extensions", name)
