"""Images of sandboxes: the fronts run `cloche commit` in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence

from cloche.sdk.errors import SandboxError


def commit_words(
    name: str, root: str, image: str, changes: Sequence[str], message: str, timestamp: int | None
) -> list[str]:
    """The command line of `cloche commit`."""
    words = [sys.executable, "-m", "cloche.cli.main", *(["--root", root] if root else []), "commit"]
    words += [f"--change={change}" for change in changes]
    if message:
        words.append(f"--message={message}")
    if timestamp is not None:
        words.append(f"--timestamp={timestamp}")
    return [*words, "--", name, image]


def commit(words: list[str]) -> str:
    """Run the command line; returns the digest of the new image. Raises SandboxError."""
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=dict(os.environ)
    )
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip()
        raise SandboxError(text.removeprefix("cloche commit: ") or "the image could not be made")
    return done.stdout.decode().strip()
