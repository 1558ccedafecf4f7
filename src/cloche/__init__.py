"""cloche: an application kernel that runs untrusted programs under a Linux interface of its own.

`Sandbox` and `AsyncSandbox` are the SDK (`cloche.sdk`), imported when they are first asked for: the processes of a
sandbox import this package, too, and need none of it.
"""

from cloche.library import use

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloche.sdk import AsyncSandbox, Mount, Sandbox

__all__ = ["AsyncSandbox", "Mount", "Sandbox", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("AsyncSandbox", "Mount", "Sandbox"):
        from cloche import sdk

        return getattr(sdk, name)
    raise AttributeError(f"module 'cloche' has no attribute {name!r}")


use()
