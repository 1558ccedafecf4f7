"""Images and applied changes: the fronts run `cloche commit` and `cloche apply` in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence

from cloche.sdk.arguments import items_of
from cloche.sdk.errors import SandboxError
from cloche.sdk.options import PathLike


def commit_words(
    name: str, root: str, image: str, changes: Sequence[str], message: str, timestamp: int | None
) -> list[str]:
    """The command line of `cloche commit`."""
    words = [sys.executable, "-m", "cloche.cli.main", *(["--root", root] if root else []), "commit"]
    words += [f"--change={change}" for change in items_of("changes", changes)]
    if message:
        words.append(f"--message={message}")
    if timestamp is not None:
        words.append(f"--timestamp={timestamp}")
    return [*words, "--", name, image]


def apply_words(
    name: str,
    root: str,
    paths: Sequence[PathLike],
    to: PathLike | None,
    *,
    is_trial: bool,
    is_forced: bool,
    undoes: bool,
) -> list[str]:
    """The command line of `cloche apply`."""
    words = [sys.executable, "-m", "cloche.cli.main", *(["--root", root] if root else []), "apply"]
    if to is not None:
        words.append(f"--to={os.fsdecode(to)}")
    for option, is_given in (("--dry-run", is_trial), ("--force", is_forced), ("--undo", undoes)):
        if is_given:
            words.append(option)
    return [*words, "--", name, *map(os.fsdecode, items_of("paths", paths))]


def apply(words: list[str]) -> list[str]:
    """Run the command line; returns a line for each change. Raises SandboxError."""
    return [line for line in _run(words, "cloche apply: ", "nothing could be applied").split("\n") if line]


def commit(words: list[str]) -> str:
    """Run the command line; returns the digest of the new image. Raises SandboxError."""
    return _run(words, "cloche commit: ", "the image could not be made").strip()


def _run(words: list[str], prefix: str, otherwise: str) -> str:
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=dict(os.environ)
    )
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip()
        raise SandboxError(text.removeprefix(prefix) or otherwise)
    return done.stdout.decode(errors="replace")
