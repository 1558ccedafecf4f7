"""`mypy_extensions`, without `typing`: marks for mypyc, which mean nothing at run time."""

from cloche.light.standard import standard


def trait(cls: type) -> type:
    """A mark for mypyc."""
    return cls


def __getattr__(name: str) -> object:
    return standard("mypy_extensions", name)
