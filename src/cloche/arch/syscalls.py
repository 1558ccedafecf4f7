"""The system call numbers of the processor that this build is for; the one place that names it (`arch/__init__.py`)."""

from cloche.arch.x86_64.syscalls import *  # noqa: F403
