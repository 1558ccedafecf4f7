"""Builds the files for tests/kvm/given: a kvm.elf whose ring 0 obeys programs, and the program that attacks with it.

Neither is installed: the machine of the tests puts that file over its own for a while.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from cloche.platform import layout
from tests.kvm.archive import Archive

HERE: Final = Path(__file__).parent / "given"
CSRC: Final = Path(__file__).parents[2] / "csrc"
PLACE: Final = "/opt/given"
FLAGS: Final = (
    "-O1",
    "-w",
    "-D_GNU_SOURCE",
    "-static",
    "-no-pie",
    "-fno-pie",
    "-mno-red-zone",
    "-fno-stack-protector",
)


def builder(generated: Path) -> ModuleType:
    """csrc/build.py, with a folder of its own for what is generated."""
    subprocess.run([sys.executable, "-B", str(CSRC / "generate.py"), str(generated)], check=True)
    spec = importlib.util.spec_from_file_location("csrc_build", CSRC / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.GENERATED = generated  # type: ignore[attr-defined]
    return module


def addresses(elf: Path, target: Path) -> None:
    """Layout's addresses as C has them, and where the text of ring 0 begins."""
    shown = subprocess.run(["readelf", "-S", "-W", elf], check=True, capture_output=True, text=True).stdout
    found = re.search(r"\.ring0\s+PROGBITS\s+([0-9a-f]+)", shown)
    assert found is not None, shown
    lines = [f"#define RING0_TEXT 0x{found[1]}ULL"]
    lines += [
        f"#define {name} {value:#x}ULL"
        for name, value in vars(layout).items()
        if name.endswith(("_BASE", "_SIZE", "_ADDRESS")) and isinstance(value, int)
    ]
    target.write_text("\n".join(lines) + "\n")


def build(folder: Path) -> list[Path]:
    """The file that goes over kvm.elf, and the program."""
    generated = folder / "generated"
    generated.mkdir(exist_ok=True)
    elf = folder / "given.elf"
    builder(generated).build_stub(elf, is_kvm=True, given=HERE / "ring0_given.c")
    addresses(elf, generated / "addresses.h")
    program = folder / "given"
    source = str(HERE / "given.c")
    subprocess.run(["gcc", *FLAGS, f"-I{generated}", f"-I{HERE}", "-o", str(program), source], check=True)
    return [elf, program]


def put(archive: Archive, folder: Path) -> None:
    """Into the machine."""
    for path in (*build(folder), HERE / "watch.py"):
        archive.file(f"{PLACE}/{path.name}", path, 0o755)
