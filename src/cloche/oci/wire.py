"""The modules of `wire` for a verb that asks the monitor one thing: interpreted.

In a compiled build they are parts of one library with the whole sentry, which takes longer to load than all else that
such a verb does. Only for a process that uses nothing of that library: the two kinds of a module do not mix.
"""

import sys
from _frozen_importlib_external import FileFinder, SourceFileLoader  # what importlib.machinery shows

import cloche.wire


def interpret() -> None:
    """From now on modules of `wire` come from their source files, which stand beside the compiled ones."""
    for path in cloche.wire.__path__:
        sys.path_importer_cache[path] = FileFinder(path, (SourceFileLoader, [".py"]))
