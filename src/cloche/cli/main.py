"""The `cloche` command: one file per verb beside this one, imported only when it is asked for."""

import argparse
import importlib
import sys
from typing import Final

from cloche import __version__

_VERBS: Final = {
    "run": "run a command in a new sandbox",
    "doctor": "check this host and say what is in force",
    "syscalls": "list the system calls and how far they are implemented",
}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run the verb; the exit status."""
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="cloche", description="Run untrusted programs under a kernel of their own.")
    parser.add_argument("--version", action="version", version=f"cloche {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    chosen = next((word for word in words if not word.startswith("-")), "")
    for verb, text in _VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=text)
        if verb == chosen:
            module = importlib.import_module(f"cloche.cli.{verb}")
            module.add_arguments(sub)
            sub.set_defaults(function=module.run)
    options = parser.parse_args(words)
    if options.verb is None:
        parser.print_help(sys.stderr)
        return 125
    status: int = options.function(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
