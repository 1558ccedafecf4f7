"""Where compiled modules come from: one library has the code of all, and each is made when it is first imported.

mypyc means one extension more for each module, which does nothing but ask the library for it: four hundred files to
compile, to link, to install and to map. `Finder` asks instead. A module that another compiled one imports does not come
here, but from the library itself.
"""

import sys
from _frozen_importlib import ModuleSpec  # what importlib.machinery shows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from types import ModuleType
else:
    Loader = object

# The sentry: all code on the path of a system call.  The other processes run interpreted.
PACKAGES = ("abi", "arch", "platform", "mm", "vfs", "kernel", "fs", "net", "syscalls", "boot", "wire")
# Modules of those packages that stay interpreted, each with the reason.
INTERPRETED = {
    "cloche.boot.spawn": "`cloche-oci create` uses it before it loads the library, if it does at all (oci/ahead.py)",
    "cloche.boot.surroundings": "as above",
}
GROUP = "cloche"  # of mypyc; its library is called
LIBRARY = f"{GROUP}__mypyc"


class Finder(Loader):
    """Finds and makes compiled modules (importlib.abc.MetaPathFinder and Loader); for the first it loads their library.

    It takes itself away where there is none: cloche is interpreted.
    """

    def __init__(self) -> None:
        self.capsules: dict[str, object] = {}  # by the names that mypyc gives them

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> ModuleSpec | None:
        """For a compiled module its spec."""
        top, _, rest = name.partition(".")
        package, dot, _ = rest.partition(".")
        if top != "cloche" or not dot or package not in PACKAGES or name in INTERPRETED:
            return None
        if not self.capsules:
            self._load()
        # None for a package, or an extension of ours
        return ModuleSpec(name, self) if _capsule_of(name) in self.capsules else None

    def create_module(self, spec: ModuleSpec) -> "ModuleType":
        """The module, executed."""
        from cloche.platform._sys import make_module

        return make_module(self.capsules[_capsule_of(spec.name)])

    def exec_module(self, module: "ModuleType") -> None:
        """Nothing is left to do."""

    def _load(self) -> None:
        try:
            library = __import__(LIBRARY)
        except ModuleNotFoundError:
            library = None
        # That of another cloche, which is installed while this one runs from its source, is none.
        if library is None or str(library.__file__).rpartition("/")[0] != __file__.rsplit("/", 2)[0]:
            sys.meta_path.remove(self)
        else:
            self.capsules = vars(library)


def _capsule_of(name: str) -> str:
    return "init_" + name.replace(".", "___")


def use() -> Finder:
    """Have compiled modules found from now on."""
    finder = Finder()
    sys.meta_path.insert(0, finder)
    return finder
