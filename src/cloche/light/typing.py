"""The names of `typing` that the parts use, all for annotations only."""

from cloche.light.standard import standard

TYPE_CHECKING = False


class _Form:
    """What can stand in an annotation, by itself, with a subscript or in a union."""

    def __class_getitem__(cls, _parameters: object) -> type:
        return cls


class Any(_Form):
    """Of any type."""


class Final(_Form):
    """Not assigned again."""


class NoReturn(_Form):
    """Of a function that does not return."""


def __getattr__(name: str) -> object:
    return standard("typing", name)
