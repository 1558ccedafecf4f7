"""Builds what pyproject.toml cannot describe: the stub, the two C extensions, and the modules that mypyc
compiles.

Environment:
- CLOCHE_PURE=1: nothing is compiled with mypyc; the kernel runs interpreted.
- CLOCHE_OPT: optimisation of the compiled modules, 0 (quick to build) to 3; 1 by default, as fast as 3 at run
  time.
"""

import importlib.util
import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCE = ROOT / "src" / "cloche"

# The sentry: everything on the way of a system call.  The other processes run interpreted.
COMPILED_PACKAGES = [
    "abi",
    "arch",
    "platform",
    "mm",
    "vfs",
    "kernel",
    "fs",
    "net",
    "syscalls",
    "boot",
    "wire",
]

# Modules of those packages that stay interpreted, each with the reason.
INTERPRETED: dict[str, str] = {}

_spec = importlib.util.spec_from_file_location("cloche_csrc_build", ROOT / "csrc" / "build.py")
assert _spec is not None and _spec.loader is not None
csrc = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(csrc)


def compiled_modules() -> list[str]:
    """The paths, relative to this file, of the modules that mypyc compiles."""
    out = []
    for package in COMPILED_PACKAGES:
        for path in sorted((SOURCE / package).rglob("*.py")):
            name = path.relative_to(SOURCE).as_posix()
            # Modules of constants, too: they load faster than from bytecode.
            if path.name not in ("__init__.py", "__main__.py") and name not in INTERPRETED:
                out.append(path.relative_to(ROOT).as_posix())
    return out


def c_extensions() -> list[Extension]:
    """The extension modules written in C."""

    def extension(name: str, source: Path) -> Extension:
        return Extension(
            f"cloche.platform.{name}",
            [os.path.relpath(source, ROOT)],
            include_dirs=[os.path.join("csrc", "stub")],
            extra_compile_args=csrc.HOST_FLAGS,
            depends=[path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "csrc").rglob("*.h"))],
        )

    return [extension(name, source) for name, source in csrc.EXTENSIONS.items()]


def compiled_extensions() -> list[Extension]:
    """What mypyc makes of the sentry, nothing in a pure build."""
    if os.environ.get("CLOCHE_PURE") == "1":
        return []
    from mypyc.build import mypycify

    os.environ["MYPYPATH"] = "src"
    extensions: list[Extension] = mypycify(
        ["--config-file", "pyproject.toml", *compiled_modules()],
        opt_level=os.environ.get("CLOCHE_OPT", "1"),
        # One library: a sandbox starts in half the time that a library per module takes to load, and calls
        # between modules are direct.  A library per module rebuilds faster after an edit.
        separate=os.environ.get("CLOCHE_SEPARATE") == "1",
        multi_file=True,
    )
    for extension in extensions:
        # Nobody outside calls in but through PyInit: ten thousand symbols less to look up at every start, and
        # direct calls within.
        extension.extra_compile_args = [
            *extension.extra_compile_args,
            "-fvisibility=hidden",
        ]  # a list that they share
    return extensions


class BuildExt(build_ext):
    """Builds the stub beside the extensions, wherever those go: it is data of cloche.platform."""

    def run(self) -> None:
        super().run()
        target = Path(self.get_ext_fullpath("cloche.platform._native")).with_name("stub.elf")
        target.parent.mkdir(parents=True, exist_ok=True)
        csrc.build_stub(target)


setup(
    ext_modules=c_extensions() + compiled_extensions(),
    cmdclass={"build_ext": BuildExt},
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
