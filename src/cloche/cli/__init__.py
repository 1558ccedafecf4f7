"""The `cloche` command.  Importing this package means that a command starts: see below.

A command must start quickly, and hardly anything of what it imports is ever garbage: the cyclic collector, which would
look through all of it several times, stays off.  (The sentry turns it on again in its own way.)
"""

import gc

gc.disable()
