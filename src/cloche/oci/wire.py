"""The modules of `wire`, `boot` and others for a verb that uses little of them: interpreted.

In a compiled build they are parts of one library with the whole sentry, which takes longer to load than all else that
such a verb does. Only for a process that uses nothing of that library: the two kinds of a module do not mix.
"""

import sys

from cloche.library import Finder


def interpret() -> None:
    """From now on modules come from their source files."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
