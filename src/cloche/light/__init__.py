"""Light stand-ins for modules of the standard library, for processes of cloche's own.

`typing`, `socket`, `signal`, `collections` and `mypy_extensions` bring in `enum`, `re`, `functools` and a dozen more:
a third of the processor time of a start, for annotations and names of constants that cloche's parts never print. The
parts use only a handful of names of these modules. The keeper is started with this directory at the front of its
search path, so it and what is forked from it find these modules instead; a process that was started otherwise (a
test, the SDK) has the standard ones, and never imports this package.

Rules:
- A light module has what the parts use, and behaves as the standard one does (`tests/unit/boot/test_light.py`).
- Asked for anything else it imports the standard module and answers with that (`standard`), so that nothing breaks.
  Where that would be too late, because the process has no file system any more, a test fails.
- Other packages get the standard modules: `leave` (`boot.spawn.leave_light_modules`) is called before they are
  imported: by the command for the verbs that use any (`cli.main`), by `run` before it fetches an image, by the keeper
  before it forks analyst and egress. Rules for the network (`cli.network`) do without: idna and msgspec ask for nothing
  that is not there, and a start must not take longer for them.
"""
