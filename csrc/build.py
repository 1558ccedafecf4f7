"""Build the C parts: the freestanding stub (a static ELF, package data) and the extensions `_native` and `_sys`.

`build_stub`, `native_sources` and `HOST_FLAGS` are for setup.py; run as a script it builds all in place for
development.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

CSRC = Path(__file__).resolve().parent
PLATFORM = CSRC.parent / "src" / "cloche" / "platform"
STUB_FLAGS = [
    "-O2", "-g0", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static", "-no-pie",
    "-fno-pie", "-mcmodel=large", "-fno-stack-protector", "-mno-sse", "-mgeneral-regs-only", "-mfsgsbase", "-mbmi2",
    "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-fno-jump-tables", "-fno-builtin",
    "-fno-tree-loop-distribute-patterns", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,norelro",
]  # fmt: skip
HOST_FLAGS = ["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Wno-missing-field-initializers"]
HOST_SOURCES = ["native.c"]


def build_stub(target: Path) -> None:
    """Compile the stub to `target`."""
    compiler = os.environ.get("CC", "gcc")
    stub = CSRC / "stub"
    new = target.with_suffix(".new")
    command = [compiler, *STUB_FLAGS, f"-I{stub}", f"-Wl,-T,{stub / 'stub.ld'}", "-o", str(new)]
    subprocess.run([*command, str(stub / "entry.S"), str(stub / "stub.c")], check=True)
    if shutil.which("strip"):
        subprocess.run(["strip", "-s", str(new)], check=True)
    new.replace(target)  # never write into what a running sandbox has mapped


def native_sources() -> list[str]:
    """The sources of the extension, for setuptools.Extension."""
    return [str(CSRC / "host" / name) for name in HOST_SOURCES]


def build_extension(target_dir: Path, name: str, sources: list[str]) -> None:
    """Compile one extension for the running Python into `target_dir`."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    compiler = os.environ.get("CC", "gcc")
    target = target_dir / f"{name}{suffix}"
    include = sysconfig.get_paths()["include"]
    command = [
        compiler,
        *HOST_FLAGS,
        "-shared",
        "-fPIC",
        f"-I{include}",
        f"-I{CSRC / 'stub'}",
        "-o",
        str(target) + ".new",
    ]
    subprocess.run([*command, *sources], check=True)
    os.replace(str(target) + ".new", target)


if __name__ == "__main__":
    build_stub(PLATFORM / "stub.elf")
    build_extension(PLATFORM, "_native", native_sources())
    build_extension(PLATFORM, "_sys", [str(CSRC / "host" / "sys.c")])
    sys.exit(0)
