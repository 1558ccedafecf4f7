"""The contents of the machine: busybox, the kernel's modules, the Python environment in which cloche is installed (at
the same paths as here), the programs that were asked for, and the shared libraries of all of them.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.guest.harness import compile_program
from tests.kvm import givens
from tests.kvm.archive import Archive
from tests.kvm.kernel import Kernel
from tests.kvm.programs import (
    ALTERNATIVES,
    ATTACKS,
    BATCH,
    BENCH,
    CONFORMANCE,
    GROUPS,
    GUEST,
    HOSTILE,
    PACKAGES,
    PLACE,
    POD,
    ROOT,
    families,
)

HERE: Final = Path(__file__).parent
BUSYBOX: Final = Path("/bin/busybox")
UNUSED_LIBRARY: Final = (
    "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "config-*", "site-packages", "dist-packages",
    "*.opt-1.pyc", "*.opt-2.pyc", "*.a",
)  # fmt: skip
UNREAD: Final = tuple(
    f"/usr/share/{name}/" for name in ("doc", "info", "locale", "man", "lintian", "zoneinfo")
)
# Files that the loader and the C library search for at run time.
LOADED_LATER: Final = ("/lib/x86_64-linux-gnu/libgcc_s.so.1",)
ACCOUNTS: Final = (("root", 0), ("user", 1000), ("nobody", 65534))

# Modules are loaded in the order of their names.  The root of an initramfs cannot be left by pivot_root(2), which cloche
# needs: so the same files become a mount of their own on top of it.
INIT: Final = """#!/bin/busybox sh
b=/bin/busybox
$b mount -o bind / /newroot
cd /newroot
for what in "proc proc" "sysfs sys" "devtmpfs dev" "tmpfs run"; do
    set -- $what
    $b mount -t $1 $1 $2
done
$b mkdir -p dev/pts dev/shm
$b mount -t devpts devpts dev/pts
$b mount -t tmpfs tmpfs dev/shm
$b chmod 1777 tmp dev/shm
$b mount -t cgroup2 cgroup2 sys/fs/cgroup
for module in modules/*; do $b insmod $module; done
$b chmod 666 dev/kvm
$b ln -s /proc/self/fd dev/fd
$b ip link set lo up
$b hostname machine
echo 4194304 > proc/sys/kernel/pid_max
$b mount -o move . /
exec $b chroot . PYTHON -I -S /agent.py
"""

# Runs in the environment that is taken along: prints the files that belong to it.
DESCRIBE: Final = """
import importlib.metadata as metadata, json, os, re, sys, sysconfig
names, files, seen = sys.argv[1:], set(), set()
while names:
    name = re.sub("[-_.]+", "-", names.pop()).lower()
    if name in seen:
        continue
    seen.add(name)
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    for file in found.files or ():
        files.add(os.path.normpath(str(found.locate_file(file))))
    for line in found.requires or ():
        if "extra ==" not in line:
            names.append(re.match("[A-Za-z0-9._-]+", line).group())
editable = []
for path in files:
    if path.endswith(".pth") and os.path.exists(path):
        editable += [line.strip() for line in open(path) if line.startswith("/")]
print(json.dumps({
    "executable": sys.executable, "prefix": sys.prefix, "base": sys.base_prefix,
    "library": sysconfig.get_path("stdlib"), "site": sysconfig.get_path("purelib"),
    "files": sorted(file for file in files if os.path.exists(file)), "editable": editable,
}))
"""


def base(archive: Archive, kernel: Kernel, python: Path) -> None:
    """The files that are needed to boot and to take commands."""
    archive.file(str(BUSYBOX), BUSYBOX, 0o755)
    archive.host(Path("/bin/sh"))
    for number, (name, code) in enumerate(kernel.modules):
        archive.file(f"/modules/{number}-{name}.ko", code)
    for folder in (
        "newroot",
        "proc",
        "sys",
        "dev",
        "run",
        "etc",
        "root",
        "home/user",
        "usr/local/bin",
        "var/tmp",
        "opt",
    ):
        archive.folder(f"/{folder}")
    archive.folder("/tmp", 0o1777)
    archive.character_device("/dev/console", 5, 1, 0o600)
    archive.file("/agent.py", HERE / "agent.py")
    archive.file("/init", INIT.replace("PYTHON", str(python)).encode(), 0o755)
    users = "".join(f"{name}:x:{uid}:{uid}::/:/bin/sh\n" for name, uid in ACCOUNTS)
    groups = "".join(f"{name}:x:{uid}:\n" for name, uid in ACCOUNTS)
    for name, text in (("passwd", users), ("group", groups), ("hosts", "127.0.0.1 localhost\n")):
        archive.file(f"/etc/{name}", text.encode())


def environment(archive: Archive, python: Path, packages: tuple[str, ...]) -> None:
    """A Python, its standard library, and those packages with all that they require."""
    shown = subprocess.run(
        [python, "-c", DESCRIBE, *packages], check=True, capture_output=True, text=True, cwd="/"
    )
    found = json.loads(shown.stdout)
    prefix = Path(found["prefix"])
    for name in ("python", "python3", Path(found["executable"]).name, Path(found["library"]).name):
        for folder in (prefix, Path(found["base"])):
            if (folder / "bin" / name).exists():
                archive.host(folder / "bin" / name)
    archive.tree(Path(found["library"]), UNUSED_LIBRARY)
    for extra in (prefix / "pyvenv.cfg", prefix / "lib64", Path(found["site"])):
        if extra.exists():
            archive.host(extra)
    for file in found["files"]:
        archive.host(Path(file))
    for folder in found["editable"]:
        # Compiled here, not in an emulated processor.
        subprocess.run([python, "-m", "compileall", "-q", folder], check=False, capture_output=True)
        archive.tree(Path(folder))


def programs(archive: Archive, names: tuple[str, ...]) -> None:
    """Programs by path."""
    for name in names:
        archive.host(Path(name))


def coreutils() -> tuple[str, ...]:
    """The paths of the programs of GNU's coreutils and of bash."""
    shown = subprocess.run(["dpkg", "-L", "coreutils"], capture_output=True, text=True, check=False).stdout
    found = re.findall(r"^(?:/usr)?/bin/\S+$", shown, re.M)
    return (*found, "/bin/bash")


def compiler(archive: Archive, sources: tuple[Path, ...]) -> None:
    """A gcc that can compile those programs, where there is one."""
    gcc = shutil.which("gcc")
    if gcc is None:
        return
    archive.host(Path(gcc))
    for name in ("cc1", "collect2", "lto-wrapper", "as", "ld"):
        found = Path(_asked(gcc, f"-print-prog-name={name}"))
        archive.host(found if found.is_absolute() else Path(shutil.which(found) or gcc))
    for name in ("as", "ld"):
        archive.host(Path(shutil.which(name) or gcc))
    parts = "crt1.o Scrt1.o crti.o crtn.o crtbegin.o crtbeginS.o crtend.o crtendS.o libgcc.a libgcc_s.so libgcc_s.so.1"
    parts += " libpthread.a libc.so libc.so.6 libc_nonshared.a liblto_plugin.so ld-linux-x86-64.so.2"
    for name in parts.split():
        path = Path(_asked(gcc, f"-print-file-name={name}"))
        if path.is_absolute():
            archive.host(path)
    listing = ("-M", "-O2", "-pthread", "-fno-canonical-system-headers")  # by the names that are looked for
    for source in sources:
        for word in _asked(gcc, *listing, str(source)).replace("\\\n", " ").split()[1:]:
            archive.host(Path(word))


def _asked(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def guest_programs(archive: Archive, sources: list[Path], folder: Path) -> None:
    """Programs of tests, compiled, and what runs many of them."""
    archive.file(BATCH, HERE / "batch.sh", 0o755)
    for source in sources:
        program = compile_program(source, folder)
        archive.file(f"{PLACE}/{program.name}", program, 0o755)


def packages(archive: Archive, names: list[str]) -> None:
    """The files of installed packages, without documentation and the like."""
    shown = subprocess.run(["dpkg", "-L", *names], capture_output=True, text=True, check=False).stdout
    for name in sorted(set(shown.splitlines())):
        if name[:1] == "/" and not name.startswith(UNREAD) and os.path.lexists(name):
            archive.host(Path(name))


def everything(archive: Archive, folder: Path) -> None:
    """For the long run: all programs of tests, the tests themselves, and the programs that those run."""
    sources = [GUEST / f"{name}.c" for names in families().values() for name in names]
    guest_programs(archive, sources, folder)
    archive.tree(ROOT / "tests", ("__pycache__",))
    packages(archive, PACKAGES)
    programs(archive, tuple(name for name in ALTERNATIVES if os.path.lexists(name)))


def libraries(archive: Archive) -> None:
    """The shared libraries of all that is in the archive so far."""
    elf = [path for path in archive.regular_files() if _is_elf(path)]
    found = {Path(path) for path in LOADED_LATER if Path(path).exists()}
    for start in range(0, len(elf), 200):
        shown = subprocess.run(
            ["ldd", *elf[start : start + 200]], capture_output=True, text=True, check=False
        ).stdout
        found.update(Path(path) for path in re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", shown, re.M))
    for path in sorted(found):
        archive.host(path)


def _is_elf(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def whole(kernel: Kernel, python: Path, folder: Path | None = None, *, is_long: bool = False) -> Archive:
    """All of that, and with a folder to compile in also a compiler and the programs of tests; all of them if `is_long`."""
    archive = Archive()
    base(archive, kernel, python)
    environment(archive, python, ("cloche", "pytest", "pytest-timeout", "hypothesis"))
    programs(archive, coreutils())
    if folder is not None:
        named = [GUEST / f"{name}.c" for names in GROUPS.values() for name in names.split()]
        guest_programs(archive, [*HOSTILE, *named, HERE / "counts.c"], folder)
        apart = folder / "attacks"  # two programs have the same name
        apart.mkdir()
        for source in ATTACKS:
            archive.file(f"{PLACE}/attack-{source.stem}", compile_program(source, apart), 0o755)
        archive.host(POD)
        givens.put(archive, folder)
        compiler(archive, (HERE / "hello.c", *BENCH.glob("*.c")))
        archive.tree(BENCH, ("__pycache__",))
        archive.file(f"{PLACE}/hello.c", HERE / "hello.c")
        for each in CONFORMANCE:
            archive.host(each)
        if is_long:
            everything(archive, folder)
    libraries(archive)
    return archive
