"""`signal` with plain numbers instead of enumerations."""

import _signal  # type: ignore[import-not-found]

from cloche.light.standard import standard

globals().update({name: value for name, value in vars(_signal).items() if not name.startswith("_")})


def __getattr__(name: str) -> object:
    return standard("signal", name)
