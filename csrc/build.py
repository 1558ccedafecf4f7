"""Build the parts in C: the freestanding stub (a static ELF, package data) and the extension modules.

`build_stub` and `EXTENSIONS` are for setup.py; run as a script it builds everything in place for development.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

CSRC = Path(__file__).resolve().parent
GENERATED = CSRC.parent / "build" / "generated"
PLATFORM = CSRC.parent / "src" / "cloche" / "platform"
STUB_FLAGS = [
    "-O2", "-g0", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static", "-no-pie",
    "-fno-pie", "-mcmodel=large", "-fno-stack-protector", "-mno-sse", "-mgeneral-regs-only", "-mfsgsbase", "-mbmi2",
    "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-fno-jump-tables", "-fno-builtin",
    "-fno-tree-loop-distribute-patterns", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,norelro",
]  # fmt: skip
ANCHOR_FLAGS = [
    "-O2", "-g0", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static", "-no-pie",
    "-fno-pie", "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-fno-builtin",
    "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,norelro",
]  # fmt: skip
HOST_FLAGS = [
    "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-fvisibility=hidden",
]  # fmt: skip
LAUNCHER_FLAGS = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
EXTENSIONS = {"_native": CSRC / "host" / "native.c", "_sys": CSRC / "host" / "sys.c"}  # name: its source


def generate() -> None:
    """Write the C code that is made from Python, in a process of its own, so that no module of cloche stays loaded."""
    subprocess.run([sys.executable, "-B", str(CSRC / "generate.py"), str(GENERATED)], check=True)


def build_stub(target: Path, *, is_kvm: bool = False, given: Path | None = None) -> None:
    """Compile the stub to `target`; `is_kvm`: with the KVM platform's code for guests' host processes.

    `given`: for tests, code in front of its ring 0 (tests/kvm/given).
    """
    compiler = os.environ.get("CC", "gcc")
    folders = [CSRC / "stub", CSRC / "kvm"] if is_kvm else [CSRC / "stub"]
    # Without a red zone: an exception in ring 0 writes right below the stack pointer.
    flags = ["-DKVM", "-mno-red-zone"] if is_kvm else []
    flags += [f"-I{folder}" for folder in (*folders, GENERATED)]
    objects = GENERATED / target.stem  # named, because ring 0's go apart
    objects.mkdir(exist_ok=True)
    script = objects / "stub.ld"
    source = str(CSRC / "stub" / "stub.ld")
    subprocess.run(
        [compiler, "-E", "-P", "-x", "assembler-with-cpp", *flags, "-o", str(script), source], check=True
    )
    made: list[str] = []
    sources = [path for folder in folders for path in sorted([*folder.glob("*.S"), *folder.glob("*.c")])]
    for path in [*sources, *([given] if given else [])]:
        made.append(str(objects / f"{path.stem}-{path.suffix[1:]}.o"))
        subprocess.run([compiler, *STUB_FLAGS, *flags, "-c", "-o", made[-1], str(path)], check=True)
    linking = [f"-Wl,-T,{script}", *(["-Wl,--wrap=ring0_trap"] if given else [])]
    new = target.with_suffix(".new")
    subprocess.run([compiler, *STUB_FLAGS, *linking, "-o", str(new), *made], check=True)
    if shutil.which("strip"):
        subprocess.run(["strip", "-s", str(new)], check=True)
    new.replace(target)  # never write into a file that a running sandbox has mapped


def build_launcher(target: Path, *, is_oci: bool = False) -> None:
    """Compile the `cloche` command, which starts this version of Python, or `cloche-oci`, to `target`."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".new")
    source = CSRC / "launcher" / "launcher.c"
    subprocess.run(
        [
            *(os.environ.get("CC", "gcc"), *LAUNCHER_FLAGS, f'-DPYTHON="{python}"'),
            f'-DMODULE="{"oci" if is_oci else "cli"}"',
            *("-o", str(new), str(source)),
        ],
        check=True,
    )
    if shutil.which("strip"):
        subprocess.run(["strip", "-s", str(new)], check=True)
    new.replace(target)  # never write into a file that a running sandbox has mapped


def build_anchor(target: Path) -> None:
    """Compile the anchor of containers that engines start to `target`."""
    compiler = os.environ.get("CC", "gcc")
    new = target.with_suffix(".new")
    subprocess.run([compiler, *ANCHOR_FLAGS, "-o", str(new), str(CSRC / "anchor" / "anchor.c")], check=True)
    if shutil.which("strip"):
        subprocess.run(["strip", "-s", str(new)], check=True)
    new.replace(target)


def build_extension(name: str, target_dir: Path) -> None:
    """Compile the extension module `name` for the running Python into `target_dir`."""
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
        f"-I{GENERATED}",
        "-o",
        str(target) + ".new",
    ]
    subprocess.run([*command, str(EXTENSIONS[name])], check=True)
    os.replace(str(target) + ".new", target)


if __name__ == "__main__":
    generate()
    build_stub(PLATFORM / "stub.elf")
    build_stub(PLATFORM / "kvm.elf", is_kvm=True)
    build_anchor(PLATFORM / "anchor.elf")
    for extension in EXTENSIONS:
        build_extension(extension, PLATFORM)
    sys.exit(0)
