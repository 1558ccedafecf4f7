"""Reads the command line with argparse. Imported only if `plain` has not understood it, because the import takes
long.
"""

import argparse
import importlib
import os
import sys
from typing import Final, NoReturn

from cloche import __version__

EXIT_INTERNAL: Final = 125


def help_formatter(*, prog: str) -> argparse.HelpFormatter:
    """A formatter for help as wide as the terminal. argparse makes one for each argument that is declared.

    With a given width it does not import `shutil`, which would take as long as the rest of this module.
    """
    try:
        columns = int(os.environ.get("COLUMNS", "0"))
    except ValueError:
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = 80
    return argparse.HelpFormatter(prog, width=max(columns, 20) - 2)


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_INTERNAL)


def parse(words: list[str], known: dict[str, str], at: int) -> argparse.Namespace | None:
    """Parse the words; `at` is the index of the verb. None: there was no verb, and help was shown."""
    parser = Parser(
        prog="cloche",
        description="Run untrusted programs under a kernel of their own.",
        allow_abbrev=False,
        formatter_class=help_formatter,
    )
    parser.add_argument("--version", action="version", version=f"cloche {__version__}")
    parser.add_argument("--root", default="", metavar="DIR", help="where the records of sandboxes are")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser, prog=parser.prog)
    chosen = words[at] if at < len(words) else ""
    for verb, text in known.items():
        if verb != chosen and chosen in known:
            continue  # this verb is neither run nor listed in the help
        sub = verbs.add_parser(
            verb, help=text, description=text, allow_abbrev=False, formatter_class=help_formatter
        )
        if verb == chosen:
            # "import" is a keyword of Python.
            module = importlib.import_module(f"cloche.cli.{verb if verb != 'import' else 'import_'}")
            module.add_arguments(sub)
            sub.set_defaults(function=module.run)
            if hasattr(module, "prepare_words"):
                words = [*words[: at + 1], *module.prepare_words(sub, words[at + 1 :])]
    options = parser.parse_args(words)
    if options.verb is None:
        parser.print_help(sys.stderr)
        return None
    return options
