"""The names and constants of the processor that this build is for; the one place that names it (`arch/__init__.py`)."""

from cloche.arch.x86_64.machine import AUDIT_ARCH as AUDIT_ARCH
from cloche.arch.x86_64.machine import ELF_MACHINE as ELF_MACHINE
from cloche.arch.x86_64.machine import MACHINE as MACHINE
from cloche.arch.x86_64.machine import PLATFORM as PLATFORM
