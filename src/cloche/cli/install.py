"""`cloche install`: tell an engine of cloche's OCI runtime, or take that back."""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cloche.cli.client import report_errors
from cloche.cli.options import UsageError
from cloche.cli.registration import (
    DOCKER,
    ENGINES,
    PODMAN,
    Registration,
    RegistrationError,
    afterwards,
    default_file,
)

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche install`."""
    parser.add_argument(
        "--runtime", required=True, choices=ENGINES, metavar="ENGINE", help=", ".join(ENGINES)
    )
    parser.add_argument("--undo", action="store_true", help="take the entry out again")
    parser.add_argument("--dry-run", action="store_true", help="show what would change in the file")
    parser.add_argument(
        "--config", metavar="FILE", help="the engine's configuration (default: where it usually is)"
    )
    parser.add_argument(
        "--name", default="cloche", help="what users of the engine call the runtime (%(default)s)"
    )
    parser.add_argument("--path", metavar="FILE", help="cloche-oci (default: the one of this installation)")


def runtime_path() -> str:
    """The `cloche-oci` of this installation; empty if there is none."""
    beside = Path(sys.executable).parent / "cloche-oci"
    return str(beside) if beside.exists() else shutil.which("cloche-oci") or ""


def registration(engine: str, config: str | None, name: str, path: str) -> Registration:
    """The engine's entry that `cloche install` and `cloche doctor --engine` work on."""
    return Registration(engine, Path(os.path.abspath(config)) if config else default_file(engine), name, path)


def _run(options: argparse.Namespace) -> int:
    if not _NAME.fullmatch(options.name):
        raise UsageError(f"--name {options.name!r}: lower-case letters, digits, '.', '_' and '-', 64 at most")
    path = os.path.abspath(options.path) if options.path else runtime_path()
    if not path:
        raise UsageError("cloche-oci is not beside this Python; say with --path where it is")
    if not options.undo and not os.access(path, os.X_OK):
        raise UsageError(f"--path {path}: not a program")
    entry = registration(options.runtime, options.config, options.name, path)
    try:
        before, after = entry.removed() if options.undo else entry.added()
        found = entry.current()
        if options.undo and found and os.path.basename(found) != "cloche-oci":
            raise UsageError(f"{entry.file}: {options.name} is {found}, which is not ours: left as it is")
        if not options.undo and found and os.path.basename(found) != "cloche-oci":
            raise UsageError(f"{entry.file}: {options.name} is {found} already; choose another --name")
        if before == after:
            print(
                f"{entry.file}: " + ("no entry of that name" if options.undo else "as it should be already")
            )
            return 0
        if options.dry_run:
            lines = difflib.unified_diff(
                before.splitlines(True), after.splitlines(True), str(entry.file), str(entry.file)
            )
            sys.stdout.writelines(lines)
            return 0
        if options.runtime == DOCKER and after:
            _validate(after)
        entry.write(after)
    except RegistrationError as error:
        raise UsageError(str(error)) from None
    print(f"{entry.file}: {options.name} " + ("removed" if options.undo else f"is {path}"))
    command = afterwards(options.runtime)
    if command:
        print(f"Now: {command}")
    if not options.undo:
        print(f"Then: {_example(options.runtime, options.name)}")
    return 0


def _validate(text: str) -> None:
    """Have dockerd, if it is installed, check the file before it replaces the old one."""
    daemon = shutil.which("dockerd")
    if daemon is None:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(text)
        file.flush()
        try:
            done = subprocess.run(
                [daemon, "--validate", "--config-file", file.name],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return
    if done.returncode != 0 and "unknown flag" not in done.stderr:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UsageError(f"dockerd would not read the file, nothing is changed: {last}")


def _example(engine: str, name: str) -> str:
    if engine == DOCKER:
        return f"docker run --rm --runtime={name} --network=none debian uname -a"
    if engine == PODMAN:
        return f"podman --runtime={name} run --rm --network=none debian uname -a"
    return f"a RuntimeClass whose handler is {name}, and pods with runtimeClassName (docs/kubernetes.md)"


def run(options: argparse.Namespace) -> int:
    """0, or 125 with a line that says why nothing was changed."""
    return report_errors("install", _run, options)
