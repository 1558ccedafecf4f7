"""Runs the same small program natively and in cloche and compares: the host's kernel is the oracle."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
CLOCHE = [sys.executable, "-m", "cloche.cli.main"]
# The processor is emulated, some 20 times slower (tests/kvm), where turns may take seconds: tests of many calls make fewer.
IS_EMULATED = os.environ.get("CLOCHE_STRICT", "").isdigit() and int(os.environ["CLOCHE_STRICT"]) >= 1000
TIMEOUT_S = 500 if IS_EMULATED else 150


# A network with lo alone.
OWN_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']


class Outcome:
    """The output and status of a run."""

    def __init__(self, done: "subprocess.CompletedProcess[bytes]") -> None:
        self.status = done.returncode
        self.stdout = done.stdout
        self.stderr = done.stderr

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and self.status == other.status and self.stdout == other.stdout

    def __repr__(self) -> str:
        out = self.stdout.decode(errors="replace")
        err = self.stderr.decode(errors="replace")[-2000:]
        return f"status {self.status}\n--- stdout\n{out}\n--- stderr\n{err}"


def compile_program(source: Path, folder: Path) -> Path:
    """Build a C program (once a session) with gcc -O1 -pthread."""
    target = folder / source.stem
    if not target.exists():
        flags = ["-static"] if source.stem.startswith("static_") else []
        command = [
            "gcc",
            "-O1",
            "-pthread",
            "-w",
            "-D_GNU_SOURCE",
            *flags,
            "-o",
            str(target),
            str(source),
            "-lrt",
            "-lm",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
    return target


def run_native(argv: list[str], folder: Path, stdin: bytes = b"", timeout: float = TIMEOUT_S) -> Outcome:
    """Run on the host, with the environment that cloche gives."""
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)}
    done = subprocess.run(
        argv, cwd=folder, input=stdin, env=env, capture_output=True, timeout=timeout, check=False
    )
    done.returncode = 128 - done.returncode if done.returncode < 0 else done.returncode
    return Outcome(done)


@functools.cache
def has_own_network() -> bool:
    """Whether a program can be given a network to itself, with lo up."""
    try:
        return run_native([*OWN_NETWORK, "true"], Path.cwd()).status == 0
    except OSError:
        return False


def cloche_command(*options: str) -> list[str]:
    """The start of a `cloche run` command line."""
    extra = os.environ.get("CLOCHE_TEST_OPTIONS", "").split()
    return [*CLOCHE, "run", *extra, *options, "--"]


def strict(bound_ms: int = 1) -> dict[str, str]:
    """The environment for a sandbox whose errors are fatal, one of them a handler that takes long.

    Where the processor is emulated (tests/kvm), CLOCHE_STRICT says how long that may be.
    """
    said = os.environ.get("CLOCHE_STRICT", "")
    return dict(os.environ, CLOCHE_STRICT=str(max(bound_ms, int(said) if said.isdigit() else 1)))


def run_cloche(
    argv: list[str],
    folder: Path,
    stdin: bytes = b"",
    options: tuple[str, ...] = (),
    timeout: float = TIMEOUT_S,
) -> Outcome:
    """Run in a sandbox with `folder` as the current directory."""
    env = strict()
    for name in ("COLUMNS", "LINES"):  # cloche passes them on; the native run has none
        env.pop(name, None)
    command = [*cloche_command(*options), *argv]
    done = subprocess.run(
        command, cwd=folder, input=stdin, env=env, capture_output=True, timeout=timeout, check=False
    )
    return Outcome(done)


def compare(
    argv: list[str],
    tmp_path: Path,
    stdin: bytes = b"",
    files: tuple[Path, ...] = (),
    status: int = 0,
    silent: bool = False,
    options: tuple[str, ...] = (),
    own_network: bool = False,
) -> None:
    """Run in two fresh folders with copies of `files` and demand the same standard output and status.

    With `own_network` the host's run has a network to itself, as the sandbox has, where that needs no other user: other
    tests take ports meanwhile. The host's run must end with `status` and, unless it is said to be `silent`, print something: two runs that
    fail in the same way say nothing about cloche.
    """
    outcomes = []
    for name in ("native", "cloche"):
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            shutil.copy(file, folder / file.name)
        is_native = name == "native"
        own = OWN_NETWORK if own_network and has_own_network() else []
        outcomes.append(
            run_native([*own, *argv], folder, stdin)
            if is_native
            else run_cloche(argv, folder, stdin, options)
        )
    native, cloche = outcomes
    assert native.status == status, f"the host's run ended otherwise than the test says: {native!r}"
    assert bool(native.stdout) != silent, f"the host's run printed otherwise than the test says: {native!r}"
    assert cloche == native, f"\nNATIVE {native!r}\nCLOCHE {cloche!r}"
