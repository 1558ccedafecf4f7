"""`cloche mcp`: a sandbox as tools for agents, by the Model Context Protocol on standard input and output."""

import argparse
import sys

from cloche.cli.terminal import EXIT_INTERNAL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche mcp`."""
    parser.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        metavar="[OPTION OF cloche run …]",
        help="what the sandbox shall be: --memory, -v and so on",
    )


def prepare_words(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """Words that look like options belong to `cloche run`, not to this verb."""
    return words if words[:1] in (["-h"], ["--help"]) else ["--", *words]


def _check(words: list[str]) -> None:
    """Report errors in options now, not when the first tool is used. Raises SystemExit."""
    from cloche.cli import run as run_verb
    from cloche.cli.parser import Parser

    parser = Parser(prog="cloche mcp", allow_abbrev=False, add_help=False)
    run_verb.add_arguments(parser)
    if parser.parse_args(words).command:
        parser.error("only options of cloche run, no command; agents bring theirs")


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    try:
        from cloche.integrations.mcp import serve
    except ImportError as error:
        print(
            f"cloche mcp: needs the package mcp, version 2 or later: pip install 'cloche[mcp]' ({error})",
            file=sys.stderr,
        )
        return EXIT_INTERNAL
    words: list[str] = list(options.options)
    if words[:1] == ["--"]:
        words.pop(0)
    _check(words)
    serve(words, options.root)
    return 0
