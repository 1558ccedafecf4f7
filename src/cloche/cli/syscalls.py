"""`cloche syscalls`: what is implemented, partial and missing, from the one table."""

import argparse
import json
import sys

from cloche.syscalls.table import FULL, MISSING, PARTIAL, REFUSED, ROWS

_WORDS = {FULL: "full", PARTIAL: "partial", REFUSED: "refused", MISSING: "missing"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--format", choices=["table", "json", "markdown"], default="table", help="how to print")
    parser.add_argument("--support", choices=list(_WORDS.values()), help="only calls of this level")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    rows = [row for row in ROWS if options.support in (None, _WORDS[row.support])]
    if options.format == "json":
        items = [{"number": r.number, "name": r.name, "support": _WORDS[r.support], "note": r.note} for r in rows]
        json.dump(items, sys.stdout, indent=1)
        print()
        return 0
    if options.format == "markdown":
        print("| number | name | support | note |\n|---|---|---|---|")
        for row in rows:
            print(f"| {row.number} | {row.name} | {_WORDS[row.support]} | {row.note} |")
        return 0
    for row in rows:
        print(f"{row.number:4} {row.name:28} {_WORDS[row.support]:8} {row.note}".rstrip())
    counts = {word: sum(1 for row in rows if _WORDS[row.support] == word) for word in _WORDS.values()}
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 0
