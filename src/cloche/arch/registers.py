"""The registers of the processor that this build is for; the one place that names it (`arch/__init__.py`)."""

from cloche.arch.x86_64.registers import REG_COUNT as REG_COUNT
from cloche.arch.x86_64.registers import Registers as Registers
