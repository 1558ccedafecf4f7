"""Makes the platform of a name (`boot.spec.PLATFORMS`). The code of a platform is imported only where that platform
is used.
"""

import os

from cloche.abi.errno import ENODEV
from cloche.platform.interface import Platform


def import_platforms() -> None:
    """Import the code of every platform, which a process does whose forks will need it."""
    import cloche.platform.kvm
    import cloche.platform.systrap  # noqa: F401


def open_stubs() -> dict[str, int]:
    """Load every platform, and open the program that its guest processes execute.

    Returns descriptors by the platforms' names. Called before the process gives up its user id: afterwards it might
    not be allowed to read these files.
    """
    import cloche.platform.kvm
    from cloche.platform.systrap import open_stub

    found: dict[str, int] = {}
    for name, stub in (("systrap", "stub.elf"), ("kvm", cloche.platform.kvm.STUB)):
        try:
            found[name] = open_stub(stub)
        except FileNotFoundError:
            pass  # cloche was built without this platform: reported when it is chosen
    return found


def new_platform(name: str, mm: str, *, is_patching: bool, stubs: dict[str, int]) -> Platform:
    """The platform of that name, not yet prepared; `mm` says whether changes of private memory are checked by the
    sentry or by the filter alone (`--mm`).

    `stubs` is the result of `open_stubs`, whose descriptors are taken over.
    """
    stub_fd = stubs.pop(name, -1)
    for fd in stubs.values():
        os.close(fd)
    if name == "systrap":
        from cloche.platform.systrap import Systrap

        return Systrap(mm, is_patching, stub_fd)
    if name == "kvm":
        from cloche.platform.kvm import Kvm

        return Kvm(mm, stub_fd)
    raise ValueError(f"there is no platform {name!r}")


def problem(name: str) -> str:
    """Why this host cannot run that platform, in one line; empty if it can, as far as is known before the start."""
    if name == "kvm":
        from cloche.platform import kvm_capabilities

        return kvm_capabilities.problem()
    return ""


def findings(name: str) -> list[tuple[str, bool, str, str]]:
    """(requirement, whether it is met, detail, remedy) for what a platform needs beyond the needs of all."""
    if name == "kvm":
        from cloche.platform import kvm_capabilities

        return [
            (found.what, found.is_there, found.detail, found.remedy) for found in kvm_capabilities.findings()
        ]
    return []


def open_device(name: str) -> int:
    """The device that a platform needs, for `Platform.take_device`; -1: none.  Raises OSError with a clear message."""
    if name != "kvm":
        return -1
    from cloche.platform import kvm_capabilities

    try:
        return kvm_capabilities.open_device()
    except kvm_capabilities.KvmError as error:
        raise OSError(ENODEV, str(error)) from error
