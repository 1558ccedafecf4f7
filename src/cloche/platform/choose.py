"""From a platform's name (`boot.spec.PLATFORMS`) to the platform.  What belongs to one is loaded where it runs only."""

import os

from cloche.abi.errno import ENODEV
from cloche.platform.interface import Platform


def open_stubs() -> dict[str, int]:
    """Load every platform, and open what each has guests' processes execute; descriptors by the platforms' names.

    For a process that will soon be nobody, who could not read them below a directory that is root's alone.
    """
    import cloche.platform.kvm
    from cloche.platform.systrap import open_stub

    found: dict[str, int] = {}
    for name, stub in (("systrap", "stub.elf"), ("kvm", cloche.platform.kvm.STUB)):
        try:
            found[name] = open_stub(stub)
        except FileNotFoundError:
            pass  # this cloche was built without it, which is told when it is wanted
    return found


def new_platform(name: str, mm: str, *, is_patching: bool, stubs: dict[str, int]) -> Platform:
    """The platform of that name, not yet prepared; `mm` says who checks changes of private memory (`--mm`).

    `stubs`, of `open_stubs`, are taken over.
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
    """Why this host cannot run that platform, in one line; empty if it can, as far as can be told beforehand."""
    if name == "kvm":
        from cloche.platform import kvm_capabilities

        return kvm_capabilities.problem()
    return ""


def findings(name: str) -> list[tuple[str, bool, str, str]]:
    """(what, is it there, detail, remedy) of what a platform needs of the host beyond what all need."""
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
