"""The table of system calls: one line per number of x86-64, with its handler, support level and a note.

Everything else that speaks of system calls (`cloche syscalls`, strace, metrics, docs/compat.md) is derived from it.
Families are spread over `sys_*.py`; each exports plain functions `sys_x(task, args) -> int`.
"""
