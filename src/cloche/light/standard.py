"""Attributes that a light module lacks, from the standard module of the same name; and how to stop using light
modules.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

_found: "dict[str, ModuleType]" = {}  # the package importlib is imported where it is used: not all processes need it


def standard(module: str, name: str) -> object:
    """The attribute `name` of a standard module.  Raises AttributeError, ImportError."""
    if name.startswith("__"):  # the import system asks for these
        raise AttributeError(name)
    if module not in _found:
        from importlib import import_module

        light, here = sys.modules.pop(module, None), __file__.rpartition("/")[0]
        path = sys.path[:]
        sys.path[:] = [each for each in path if each != here]
        try:
            _found[module] = import_module(module)
        finally:
            sys.path[:] = path
            if light is not None:
                sys.modules[module] = light
    return getattr(_found[module], name)


def leave() -> None:
    """From now on imports find the standard modules, and packages that are installed elsewhere than cloche.

    The standard modules take the places of the light ones at once: compiled modules look there for what others have
    imported, and import nothing that has been imported by one of them.
    """
    from importlib import import_module

    here = __file__.rpartition("/")[0]
    sys.path[:] = [each for each in sys.path if each != here]
    names: list[str] = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path is not None and path.rpartition("/")[0] == here and name != __name__:
            names.append(name)
    if "collections" in names and "collections.abc" in sys.modules:
        names.append("collections.abc")  # since Python 3.13 no file of its own: what `collections` says it is
    for name in names:
        del sys.modules[name]
    if "site" not in sys.modules:
        import_module("site").main()
    for name in names:
        import_module(name)
