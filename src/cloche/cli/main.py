"""The `cloche` command: one file per verb beside this one, imported only when it is asked for.

What is wrong with a command line is said in one line; the exit status is then 125, as for every failure of cloche
itself.
"""

import argparse
import importlib
import os
import sys
from typing import Final, NoReturn

from cloche import __version__

EXIT_INTERNAL: Final = 125

_VERBS: Final = {
    "run": "run a command in a new sandbox",
    "exec": "run a further command in a sandbox that runs",
    "apply": "make changes of a sandbox on the host",
    "cp": "copy files into a sandbox that runs, or out of it",
    "diff": "show what a sandbox has changed",
    "export": "write the root file system of a sandbox as a tar stream",
    "ps": "show the processes in a sandbox",
    "kill": "send a signal to a sandbox",
    "list": "list the sandboxes that have a name",
    "logs": "show what a detached sandbox has written",
    "wait": "wait for the end of a sandbox",
    "stop": "end sandboxes, politely at first",
    "rm": "forget sandboxes that have ended",
    "doctor": "check this host and say what is in force",
    "syscalls": "list the system calls and how far they are implemented",
}


_GLOBAL_WITH_VALUE: Final = ("--root",)


def help_formatter(*, prog: str) -> argparse.HelpFormatter:
    """Help as wide as the terminal.

    A parser asks for a formatter with each argument that it is given.  Told the width, that does not import `shutil`
    and what it needs, which would take as long as the rest of this module.
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
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_INTERNAL)


def verb_index(words: list[str]) -> int:
    """Where the verb is: after the options that come before it."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in _GLOBAL_WITH_VALUE else 1
    return at


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run the verb; the exit status."""
    words = sys.argv[1:] if argv is None else argv
    parser = Parser(
        prog="cloche",
        description="Run untrusted programs under a kernel of their own.",
        allow_abbrev=False,
        formatter_class=help_formatter,
    )
    parser.add_argument("--version", action="version", version=f"cloche {__version__}")
    parser.add_argument("--root", default="", metavar="DIR", help="where the records of sandboxes are")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser, prog=parser.prog)
    at = verb_index(words)
    chosen = words[at] if at < len(words) else ""
    for verb, text in _VERBS.items():
        if verb != chosen and chosen in _VERBS:
            continue  # it is neither run nor shown
        sub = verbs.add_parser(
            verb, help=text, description=text, allow_abbrev=False, formatter_class=help_formatter
        )
        if verb == chosen:
            module = importlib.import_module(f"cloche.cli.{verb}")
            module.add_arguments(sub)
            sub.set_defaults(function=module.run)
            if hasattr(module, "prepare_words"):
                words = [*words[: at + 1], *module.prepare_words(sub, words[at + 1 :])]
    options = parser.parse_args(words)
    if options.verb is None:
        parser.print_help(sys.stderr)
        return EXIT_INTERNAL
    try:
        status: int = options.function(options)
        if sys.stdout is not None:  # None: closed when the interpreter started
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of a report has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130
    return status


def entry() -> NoReturn:
    """The command itself.  It ends without taking the interpreter apart: that would cost as much as half the start."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: closed when the interpreter started
            stream.flush()
    os._exit(status)


def launched() -> NoReturn:
    """The command as csrc/launcher starts it: what that has done comes before the words of the user."""
    pid, link, _begun_ns = map(int, sys.argv[1:4])
    sys.argv[:4] = ["cloche"]
    if link >= 0:
        from cloche.boot.spawn import adopt_keeper

        adopt_keeper(pid, link)
    entry()


if __name__ == "__main__":
    entry()
