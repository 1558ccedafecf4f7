"""Builds what pyproject.toml cannot describe: the stub, the two C extensions, the `cloche` command, and the
modules that mypyc compiles.

Environment:
- CLOCHE_PURE=1: nothing is compiled with mypyc; the kernel runs interpreted.
- CLOCHE_OLD_GLIBC=1: nothing that needs glibc 2.36.
- CLOCHE_OPT: optimisation of the compiled modules, 0 (quick to build) to 3; by default 1, as fast as 3 at run
  time, but for those that are seldom used (`SELDOM`).
- CLOCHE_DEBUG=1: with the lines of the generated C for a debugger, 13 MB; profilers need only the names of functions,
  which are always there.

The long steps run on all cores: while mypyc translates, on one, the programs in C are compiled; then the library is, on
all cores.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCE = ROOT / "src" / "cloche"
PURE = os.environ.get("CLOCHE_PURE") == "1"
COLD = ROOT / "csrc" / "cold.h"
MANY = 16  # C files: with fewer it does not pay to parse their headers first, or to put them together
TOGETHER = 4  # files for one run of the compiler: a tenth less time in all
# Modules that the usual calls of programs do not pass, four tenths of the code: compiled with SELDOM_OPT, which takes
# a third less time, and makes code a tenth slower.
SELDOM = {
    "abi": "*",
    "boot": "*",
    "fs": "cgroup image kept* mountable mqueue nsfs proc_* sysfs tmpfs_options volume_quota",
    "kernel": "bpf init ipc.* namespaces programs ptrace.* trace_state unshare",
    "net": "ethtool filter netlink nlmsg proc_text registry rtnetlink rtroute sock_diag source_filter view*",
    "platform": "choose fake* filter host_proc kvm* zygote",
    "syscalls": "rows_* strace sys_aio sys_handle sys_inspect sys_lsm sys_mount sys_mq sys_msgq sys_namespace sys_numa"
    " sys_pidfd sys_process_mm sys_ptrace sys_refused sys_seccomp sys_sem sys_statmount sys_xattr",
    "wire": "analyst broker cbor connector control_client egress files imagetree keeper netns protocol requests"
    " textfile timing volume wording",
}
SELDOM_OPT = "-Og"
CORES = len(os.sched_getaffinity(0))
BUILD = (
    "build/pure" if PURE else "build/compiled"
)  # directories apart: an interpreted wheel has no compiled modules in it


def _loaded(name: str, path: Path) -> Any:
    """A module of the checkout, which is not installed yet."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


csrc = _loaded("cloche_csrc_build", ROOT / "csrc" / "build.py")
library = _loaded("cloche_library", SOURCE / "library.py")


def compiled_modules() -> list[str]:
    """The paths, relative to this file, of the modules that mypyc compiles."""
    out = []
    for package in library.PACKAGES:
        for path in sorted((SOURCE / package).rglob("*.py")):
            name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
            # Modules of constants, too: they load faster than from bytecode.
            if path.name not in ("__init__.py", "__main__.py") and name not in library.INTERPRETED:
                out.append(path.relative_to(ROOT).as_posix())
    return out


def c_extensions() -> list[Extension]:
    """The extension modules written in C."""

    folders = [ROOT / "csrc", csrc.GENERATED]
    parts = sorted(path for folder in folders for path in folder.rglob("*.[ch]"))

    def extension(name: str, source: Path) -> Extension:
        return Extension(
            f"cloche.platform.{name}",
            [os.path.relpath(source, ROOT)],
            include_dirs=[os.path.join("csrc", "stub"), os.path.relpath(csrc.GENERATED, ROOT)],
            extra_compile_args=csrc.HOST_FLAGS,
            depends=[os.path.relpath(path, ROOT) for path in parts],
        )

    return [extension(name, source) for name, source in csrc.EXTENSIONS.items()]


def compiled_extensions() -> list[Extension]:
    """The extensions that mypyc makes of the sentry; none in a pure build."""
    if PURE or not building():
        return []
    from mypyc.build import mypycify

    os.environ["MYPYPATH"] = "src"
    modules = compiled_modules()
    say(f"translating {len(modules)} modules to C with mypyc")
    is_separate = os.environ.get("CLOCHE_SEPARATE") == "1"
    extensions: list[Extension] = mypycify(
        ["--config-file", "pyproject.toml", *modules],
        target_dir=f"{BUILD}/c",
        opt_level=os.environ.get("CLOCHE_OPT", "1"),
        debug_level=os.environ.get("CLOCHE_DEBUG", "0"),
        # One library: a sandbox starts in half the time that a library per module takes to load, and calls
        # between modules are direct.  A library per module rebuilds faster after an edit.
        separate=is_separate,
        multi_file=True,
        group_name=None if is_separate else library.GROUP,
    )
    if not is_separate:  # `cloche.library` makes the modules, without an extension for each
        extensions = [extension for extension in extensions if extension.name == library.LIBRARY]
        assert len(extensions) == 1
    _forget_old(Path(BUILD) / "c", extensions)
    for extension in extensions:
        if len(extension.sources) > MANY:
            extension.sources = _put_together(extension.sources)
        # Code outside calls in through PyInit only: ten thousand symbols less to look up at every start, and
        # direct calls within. Code that only an exception in flight reaches (see `COLD`), a quarter of it, is placed
        # apart.
        extension.extra_compile_args = [
            *extension.extra_compile_args,
            "-fvisibility=hidden",
            "-freorder-blocks-and-partition",
        ]  # a list that they share
        extension.extra_link_args = [*extension.extra_link_args, *_packed()]
    return extensions


def _packed() -> list[str]:
    """Options for the linker: addresses to adjust in a sixtieth of the room, 1.6 MB that every start reads otherwise.

    For wheels that are to run with an older C library than glibc 2.36: CLOCHE_OLD_GLIBC=1.
    """
    try:
        name, _space, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except ValueError:  # another C library
        return []
    numbers = [int(each) for each in version.split(".") if each.isdigit()]
    if name != "glibc" or numbers < [2, 36] or os.environ.get("CLOCHE_OLD_GLIBC") == "1":
        return []
    return ["-Wl,-z,pack-relative-relocs"]


# For a file that includes others: those.
_members: dict[str, list[str]] = {}


def _put_together(sources: list[str]) -> list[str]:
    """Files that include `TOGETHER` of the generated ones each; the first, of all modules, and mypyc's own stay alone.

    mypyc's names contain the module's, so nothing clashes.
    """
    modules = [source for source in sources if Path(source).name.startswith("__native_cloche_")]
    out = [source for source in sources if source not in set(modules)]
    for kind in ("usual", "seldom"):
        chosen = [source for source in modules if _is_seldom(source) == (kind == "seldom")]
        for start in range(0, len(chosen), TOGETHER):
            members = chosen[start : start + TOGETHER]
            path = Path(BUILD) / "c" / f"{kind}_{start // TOGETHER}.c"
            text = "".join(f'#include "{Path(member).name}"\n' for member in members)
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
            _members[str(path)] = members
            out.append(str(path))
    return out


def _is_seldom(source: str) -> bool:
    """Whether a file has the code of a module that `SELDOM` names, or a group of such files."""
    if source in _members:
        return Path(source).name.startswith("seldom_")
    package, _, name = Path(source).stem.removeprefix("__native_cloche___").replace("___", ".").partition(".")
    return any(fnmatch(name, pattern) for pattern in SELDOM.get(package, "").split())


def _forget_old(folder: Path, extensions: list[Extension]) -> None:
    """Remove the headers of an earlier translation of another list of modules: they declare the same names differently.

    Their names end with a hash of the list, `__native_HASH.h` and `__native_internal_HASH.h`.
    """
    if os.environ.get("CLOCHE_SEPARATE") == "1":
        return
    sources = [Path(source) for extension in extensions for source in extension.sources]
    lists = {source.stem.rpartition("_")[2] for source in sources if source.name.startswith("__native")}
    for path in folder.glob("__native*"):
        if lists and path.stem.rpartition("_")[2] not in lists:
            path.unlink()


def building() -> bool:
    """Whether this run makes extensions: pip also asks for names and versions, which needs no translation."""
    return not {"egg_info", "dist_info", "sdist"}.intersection(sys.argv)


def say(what: str) -> None:
    """Print progress, which `pip install -v` shows."""
    print(f"cloche: {what}", flush=True)


def _modified(path: str | Path) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _parts(source: str) -> list[str]:
    return [source, *_members.get(source, [])]


def _signature(options: list[str]) -> str:
    """A text that the objects of an earlier build must share with this one, beside their sources, to be used again."""
    from mypy.version import __version__

    # The headers of mypyc's run-time library lie in pip's temporary folder: its version stands for them.  A virtual
    # environment has no headers of its own: objects that were compiled for one serve another.
    environment = "" if sys.prefix == sys.base_prefix else f"-I{sys.prefix}/"
    kept = [
        option
        for option in options
        if "lib-rt" not in option and not (environment and option.startswith(environment))
    ]
    return hashlib.sha256(repr((sys.version, __version__, kept)).encode()).hexdigest()


def _shared_headers(sources: list[str]) -> tuple[str, str] | None:
    """The name and contents of a header with the files that all of `sources`, and many others, include first: 2 MB, a
    fifth of the library's time.  None where this saves nothing.
    """
    if len(sources) <= MANY:
        return None
    folder = Path(BUILD) / "c"
    names = sorted(path.name for path in folder.glob("__native*.h"))
    paths = [COLD, *(ROOT / folder / name for name in names)]
    return "library.h", "".join(f'#include "{path}"\n' for path in paths)


def _precompiled(command: list[str], name: str, text: str) -> str:
    """The path of the header `name`, parsed once for all files that `command` compiles.

    A compiler that cannot use the parsed form reads the header, which does no harm.
    """
    header = Path(BUILD) / "headers" / name  # not in a directory whose changes make objects old
    header.parent.mkdir(parents=True, exist_ok=True)
    header.write_text(text)
    made = [argument for argument in command if argument != "-c"]
    subprocess.run([*made, "-x", "c-header", str(header), "-o", f"{header}.gch"], check=True)
    return str(header)


class BuildExt(build_ext):
    """Puts stub and anchor beside the extensions, wherever those go: they are data of cloche.platform."""

    def run(self) -> None:
        super().run()
        folder = Path(self.get_ext_fullpath("cloche.platform._native")).parent
        folder.mkdir(parents=True, exist_ok=True)
        assert programs is not None
        for path in programs.result():
            new = folder / f"{path.name}.new"
            shutil.copy2(path, new)
            new.replace(folder / path.name)  # never write into a file that a running sandbox has mapped

    def build_extensions(self) -> None:
        compiler = self.compiler

        def compile_on_all_cores(
            sources: list[str],
            output_dir: str | None = None,
            macros: list[Any] | None = None,
            include_dirs: list[str] | None = None,
            debug: bool = False,
            extra_preargs: list[str] | None = None,
            extra_postargs: list[str] | None = None,
            depends: list[str] | None = None,
        ) -> list[str]:
            """`CCompiler.compile` on all cores, and only of files that have changed."""
            _, objects, post, options, build = compiler._setup_compile(
                output_dir, macros, include_dirs, sources, depends, extra_postargs
            )
            arguments = compiler._get_cc_args(options, debug, extra_preargs)
            stamp = Path(self.build_temp) / "signature" / hashlib.sha256(repr(sources).encode()).hexdigest()
            signature = _signature([*compiler.compiler_so, *arguments, *post, SELDOM_OPT])
            known = stamp.exists() and stamp.read_text() == signature
            # A change of any generated header compiles all files again: each module includes the common one.
            folders = {Path(source).parent for source in sources}
            needed = [
                COLD,
                *(depends or []),
                *(header for folder in folders for header in folder.glob("*.h")),
            ]
            newest = max(map(_modified, needed), default=0.0)
            old = [
                name
                for name in objects
                if not known or _modified(name) <= max(newest, *map(_modified, _parts(build[name][0])))
            ]
            old.sort(
                key=lambda name: sum(os.stat(part).st_size for part in _parts(build[name][0])), reverse=True
            )
            stamp.unlink(missing_ok=True)
            if len(objects) > MANY:
                say(f"compiling {len(old)} of {len(objects)} groups of C files on {CORES} cores")
            headers = _shared_headers(sources)
            if headers is not None and len(old) > len(objects) // MANY:
                post = [*post, "-include", _precompiled([*compiler.compiler_so, *arguments, *post], *headers)]
            elif len(objects) > MANY:
                post = [*post, "-include", str(COLD)]

            def flags(name: str) -> list[str]:
                return (
                    [*post, SELDOM_OPT]
                    if "CLOCHE_OPT" not in os.environ and _is_seldom(build[name][0])
                    else post
                )

            with ThreadPoolExecutor(CORES) as pool:
                jobs = [
                    pool.submit(compiler._compile, name, *build[name], arguments, flags(name), options)
                    for name in old
                ]
                for count, job in enumerate(jobs, 1):
                    job.result()
                    if count % 50 == 0:
                        say(f"compiled {count} of {len(jobs)}")
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(signature)
            return list(objects)

        compiler.compile = compile_on_all_cores
        super().build_extensions()


class BuildScripts(Command):
    """Builds the commands, which are programs, not scripts."""

    user_options: list[Any] = []

    def initialize_options(self) -> None:
        self.build_dir = ""

    def finalize_options(self) -> None:
        self.build_dir = self.get_finalized_command("build").build_scripts

    def run(self) -> None:
        shutil.rmtree(self.build_dir, ignore_errors=True)
        csrc.build_launcher(Path(self.build_dir) / "cloche")
        csrc.build_launcher(Path(self.build_dir) / "cloche-oci", is_oci=True)

    def get_source_files(self) -> list[str]:
        return list(self.distribution.scripts or [])

    def get_outputs(self) -> list[str]:
        return [os.path.join(self.build_dir, name) for name in ("cloche", "cloche-oci")]


def build_programs() -> list[Path]:
    """Build stub and anchor, which do not depend on the Python."""
    folder = ROOT / BUILD / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    csrc.build_stub(folder / "stub.elf")
    csrc.build_stub(folder / "kvm.elf", is_kvm=True)
    csrc.build_anchor(folder / "anchor.elf")
    return [folder / name for name in ("stub.elf", "kvm.elf", "anchor.elf")]


programs: Future[list[Path]] | None = None
if building():
    csrc.generate()
    programs = ThreadPoolExecutor(1).submit(build_programs)  # mypyc has one core
    # A module that was removed must not stay in the wheel; objects are kept.
    platform_tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    shutil.rmtree(ROOT / BUILD / f"lib.{platform_tag}", ignore_errors=True)

setup(
    ext_modules=c_extensions() + compiled_extensions(),
    scripts=["csrc/launcher/launcher.c"],
    cmdclass={"build_ext": BuildExt, "build_scripts": BuildScripts},
    options={"build": {"build_base": BUILD}, "build_ext": {"parallel": CORES}},
    verbose=0,  # no line for every file that is copied: say() reports the long steps
)
