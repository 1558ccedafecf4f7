"""From a platform's name (`boot.spec.PLATFORMS`) to the platform.  What belongs to one is loaded where it runs only."""

from cloche.platform.interface import Platform


def new_platform(name: str, mm: str, *, is_patching: bool) -> Platform:
    """The platform of that name, not yet prepared; `mm` says who checks changes of private memory (`--mm`)."""
    if name == "systrap":
        from cloche.platform.systrap import Systrap

        return Systrap(mm, is_patching)
    raise ValueError(f"there is no platform {name!r}")
