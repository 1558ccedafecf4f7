"""What depends on the processor: registers, signal frames, layouts for debuggers, system call numbers.

The modules here are a facade: they pass on those of one subpackage, and nothing outside `arch` names a processor
(`tests/style/test_arch.py`), so another one is a second subpackage and another line in each of them.  What
runs or reads machine code is a platform's (`platform/systrap.py`, `csrc/stub`) or the analyst's.
"""
