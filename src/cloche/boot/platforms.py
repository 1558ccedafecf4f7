"""Which platform a sandbox shall have: checked here, whoever asked, before anything is started."""

from cloche.boot.spec import PLATFORMS


def platform_problem(name: str) -> str:
    """Why guest code cannot run so on this host, in one line; empty if it can."""
    if name == PLATFORMS[0]:  # whose needs are everybody's: no reason to load what a monitor never uses
        return ""
    if name not in PLATFORMS:
        return f"there is no platform {name!r}: use {' or '.join(PLATFORMS)}"
    from cloche.platform.choose import problem

    return problem(name)
