"""Light stand-ins for modules of the standard library, for processes of cloche's own.

`typing`, `socket`, `signal`, `collections` and `mypy_extensions` bring in `enum`, `re`, `functools` and a dozen more:
a third of the processor time of a start, for annotations and for names of constants that none of cloche's parts prints.
A part uses a handful of their names.  The keeper is started with this directory at the front of its search path, so it
and what is forked from it find these modules instead; a process that was started otherwise (a test, the SDK) has the
standard ones, and never imports this package.

Rules:
- A light module has what the parts use, and behaves as the standard one does (`tests/unit/boot/test_light.py`).
- Asked for anything else it imports the standard module and answers with that (`standard`), so that nothing breaks.
  Where that would be too late, because the process has no file system any more, a test fails.
- Code of others gets the standard modules: `leave`, before the analyst imports its decoder.
"""
