"""Checks, before anything is started, whether the platform that was chosen can be used."""

from cloche.boot.spec import PLATFORMS


def platform_problem(name: str) -> str:
    """Why guest code cannot run on this platform and host, in one line; empty if it can."""
    if name == PLATFORMS[0]:  # has no needs of its own: loading its module would be wasted
        return ""
    if name not in PLATFORMS:
        return f"there is no platform {name!r}: use {' or '.join(PLATFORMS)}"
    from cloche.platform.choose import problem

    return problem(name)
