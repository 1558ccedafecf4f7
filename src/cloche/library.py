"""Where compiled modules come from: one library has the code of all, and each is made when it is first imported.

mypyc means one extension more for each module, which does nothing but ask the library for it: four hundred files to
compile, to link, to install and to map. `Finder` asks instead. A module that another compiled one imports does not come
here, but from the library itself.

`Sources` finds the modules that stay interpreted, with less ado than the standard finders: a verb of `cloche-oci`
imports up to seventy, and searching was a fifth of what they cost.
"""

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec  # what importlib.machinery shows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import SourceFileLoader
    from importlib.util import MAGIC_NUMBER, spec_from_file_location
    from types import CodeType, ModuleType
else:
    from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader, spec_from_file_location

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


class Source(SourceFileLoader):
    """Loads a module whose source has been looked at."""

    def __init__(self, name: str, path: str, status: posix.stat_result, cached: str) -> None:
        super().__init__(name, path)
        self.status: posix.stat_result = status
        self.cached: str = cached

    def get_code(self, fullname: str) -> "CodeType | None":
        """That of the file beside, if it was compiled from this source; else it is compiled as usual."""
        try:
            fd = posix.open(self.cached, posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                data = posix.read(fd, posix.fstat(fd).st_size)
            finally:
                posix.close(fd)
            if data[:16] == MAGIC_NUMBER + bytes(4) + _word(int(self.status.st_mtime)) + _word(
                self.status.st_size
            ):
                code: CodeType = marshal.loads(memoryview(data)[16:])
                return code
        except (OSError, EOFError, TypeError, ValueError):
            pass
        return super().get_code(fullname)


def _word(number: int) -> bytes:
    return (number & 0xFFFFFFFF).to_bytes(4, "little")


class Sources:
    """Finds cloche's interpreted modules (importlib.abc.MetaPathFinder)."""

    def __init__(self) -> None:
        self.has_all: bool = False  # those that are compiled otherwise, too

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> ModuleSpec | None:
        """For such a module its spec; None for a package, or an extension of ours."""
        top, _, rest = name.partition(".")
        package, dot, _ = rest.partition(".")
        if top != "cloche" or not dot or path is None or len(path) != 1:
            return None
        if package in PACKAGES and name not in INTERPRETED and not self.has_all:
            return None
        last = name.rpartition(".")[2]
        source = f"{path[0]}/{last}.py"
        try:
            status = posix.stat(source)
        except OSError:
            return None
        cached = f"{path[0]}/__pycache__/{last}.{sys.implementation.cache_tag}.pyc"
        loader = Source(name, source, status, cached)
        spec = spec_from_file_location(name, source, loader=loader, submodule_search_locations=None)
        if spec is not None:
            spec.cached = cached
        return spec


def use() -> Finder:
    """Have cloche's modules found from now on."""
    if not sys.flags.optimize and sys.pycache_prefix is None:  # else the compiled files are elsewhere
        sys.meta_path.insert(0, Sources())
    finder = Finder()
    sys.meta_path.insert(0, finder)
    return finder


def interpret() -> None:
    """From now on modules come from their source files.

    For a verb of `cloche-oci` that uses little of the library, which takes longer to load than all else that such a
    verb does. Only in a process that has used nothing of it: the two kinds of a module do not mix.
    """
    for finder in sys.meta_path[:]:
        if isinstance(finder, Finder):
            sys.meta_path.remove(finder)
        elif isinstance(finder, Sources):
            finder.has_all = True
