"""`cloche syscalls`: print which system calls are implemented, partial and missing, from the kernel's table."""

import argparse
import json
from typing import Final

from cloche.syscalls.row import FULL, MISSING, PARTIAL, REFUSED, Row
from cloche.syscalls.table import ROWS

_WORDS: Final = {FULL: "full", PARTIAL: "partial", REFUSED: "refused", MISSING: "missing"}
_MEANINGS: Final = {
    "full": "as Linux, as far as is known",
    "partial": "the note says what is missing",
    "refused": "answered as Linux answers a caller without the privilege, or a kernel without the option",
    "missing": "ENOSYS; a program that needs it does not work",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--format", choices=["table", "json", "markdown"], default="table", help="how to print"
    )
    parser.add_argument("--support", choices=list(_WORDS.values()), help="only calls of this level")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    rows = [row for row in ROWS if options.support in (None, _WORDS[row.support])]
    if options.format == "json":
        items = [
            {"number": r.number, "name": r.name, "support": _WORDS[r.support], "note": r.note} for r in rows
        ]
        print(json.dumps(items, indent=1))
    elif options.format == "markdown":
        print(markdown(rows), end="")
    else:
        for row in rows:
            print(f"{row.number:4} {row.name:28} {_WORDS[row.support]:8} {row.note}".rstrip())
        print(_counts(rows))
    return 0


def _counts(rows: list[Row]) -> str:
    counts = {word: sum(1 for row in rows if _WORDS[row.support] == word) for word in _WORDS.values()}
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def markdown(rows: list[Row]) -> str:
    """The compatibility page, docs/compat.md."""
    lines = [
        "# System calls",
        "",
        "Made by `make docs` (`cloche syscalls --format markdown`) from the rows in `src/cloche/syscalls/rows_*.py`;",
        "edit those.",
        "Numbers and names are those of x86-64; Linux 6.12 is the model.",
        "",
        f"{_counts(rows)}.",
        "",
        *[f"- **{word}**: {meaning}." for word, meaning in _MEANINGS.items()],
        "",
        "| number | name | support | note |",
        "|-------:|------|---------|------|",
        *[f"| {row.number} | {row.name} | {_WORDS[row.support]} | {row.note} |" for row in rows],
    ]
    return "\n".join(lines) + "\n"
