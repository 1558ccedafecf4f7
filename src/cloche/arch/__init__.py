"""The parts that depend on the processor: registers, signal frames, layouts for debuggers, system call numbers.

The modules here are a facade: they re-export those of one subpackage, and nothing outside `arch` names a processor
(`tests/style/test_arch.py`). So another processor needs a second subpackage, and another line in each module. Code
that runs or reads machine code is in the platforms (`platform/systrap.py`, `csrc/stub`) and in the analyst.
"""
