"""`cloche doctor --engine`: does this engine know cloche's runtime, and does a container run with it?

The trial's image is made here: one static program of 130 bytes that ends at once.
"""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Final

from cloche.cli.install import registration, runtime_path
from cloche.cli.registration import DOCKER, PODMAN, RegistrationError

TIMEOUT_S: Final = 120
IMAGE: Final = "localhost/cloche-doctor:trial"
STATUS: Final = 42  # exit status of the trial's program; an engine's own errors are 125 to 127

# (requirement, whether it is met, detail, remedy); the remedy is shown only if it is not met.
Row = tuple[str, bool, str, str]


def check(engine: str, config: str | None, name: str, show: Callable[[str, bool, str, str], None]) -> bool:
    """Show a line for everything that an engine needs; whether all of it holds."""
    holds = True
    for row in _registered(engine, config, name):
        show(*row)
        holds = holds and row[1]
    for row in _engine(engine, name) if holds else ():
        show(*row)
        holds = holds and row[1]
    return holds


def _registered(engine: str, config: str | None, name: str) -> list[Row]:
    ours = runtime_path()
    install = f"cloche install --runtime {engine}" + (f" --config {config}" if config else "")
    entry = registration(engine, config, name, ours)
    try:
        path = entry.current()
    except RegistrationError as error:
        return [("the engine's configuration", False, str(error), "mend the file")]
    rows: list[Row] = [(f"{name} in {entry.file}", bool(path), path, install)]
    if path:
        can_run = os.path.isabs(path) and os.access(path, os.X_OK)
        rows.append(("the runtime is a program", can_run, path, f"{install} writes a path that is one"))
        for place in _parents(Path(path)) if can_run else ():
            if not place.stat().st_mode & 0o001:
                detail = f"{place} is closed to other users"
                rows.append(("containers of other users reach it", False, detail, f"chmod o+x {place}"))
                break
    return rows


def _parents(path: Path) -> list[Path]:
    """The folders above a program, through its links."""
    return [*reversed(path.parents), *reversed(Path(os.path.realpath(path)).parents)]


def _engine(engine: str, name: str) -> list[Row]:
    if engine == DOCKER:
        return _with_images(
            ["docker"], ["docker", "run", "--rm", f"--runtime={name}", "--network=none"], name
        )
    if engine == PODMAN:
        words = ["podman", f"--runtime={name}", "run", "--rm", "--network=none"]
        return _with_images(["podman"], words, name)
    client = "ctr" if engine == "containerd" else "crictl"
    status, text = _ask([client, "version"])
    remedy = f"start {engine}, and see whether `{client} version` works for this user"
    return [(f"{engine} answers", status == 0, "" if status == 0 else text, remedy)]


def _with_images(command: list[str], run: list[str], name: str) -> list[Row]:
    status, text = _ask([*command, "info"])
    if status != 0:
        remedy = f"start it, and see whether `{' '.join(command)} info` works for this user"
        return [(f"{command[0]} answers", False, text, remedy)]
    rows: list[Row] = [(f"{command[0]} answers", True, "", "")]
    if command[0] == DOCKER:
        status, text = _ask([*command, "info", "--format", "{{range $n, $r := .Runtimes}}{{$n}} {{end}}"])
        rows.append((f"the daemon has read {name}", name in text.split(), text, "systemctl reload docker"))
    if all(row[1] for row in rows):
        status, text = _ask([*command, "import", "-", IMAGE], _image())
        if status == 0:
            status, text = _ask([*run, IMAGE, "/end"])
            _ask([*command, "rmi", IMAGE])
        remedy = "the reason is in parentheses; the container's record has a log"
        rows.append(("a container runs", status == STATUS, "" if status == STATUS else text, remedy))
    return rows


def _ask(words: list[str], data: bytes = b"") -> tuple[int, str]:
    """Run a command; returns its exit status (-1 if it cannot be run) and the last line of its output."""
    if shutil.which(words[0]) is None:
        return -1, f"{words[0]} is not installed"
    try:
        done = subprocess.run(words, input=data, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return -1, f"{words[0]} {words[1]} does not end"
    except OSError as error:
        return -1, f"{words[0]}: {error.strerror}"
    said = done.stdout if done.returncode == 0 else done.stderr or done.stdout
    lines = said.decode(errors="replace").strip().splitlines()
    return done.returncode, lines[-1][-300:] if lines else ""


def _image() -> bytes:
    """A root file system of one program, as a tar archive (elf(5); exit(STATUS))."""
    base, head = 0x400000, 64 + 56
    code = b"\xb8\x3c\x00\x00\x00" + b"\xbf" + pack("<I", STATUS) + b"\x0f\x05"
    size = head + len(code)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf = ident + pack("<HHIQQQIHHHHHH", 2, 62, 1, base + head, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    elf += pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("end")
        member.mode, member.size = 0o755, len(elf)
        tar.addfile(member, io.BytesIO(elf))
        for folder in ("proc", "dev", "sys", "etc"):
            made = tarfile.TarInfo(folder)
            made.type, made.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(made)
    return out.getvalue()
