"""Run the suites that others wrote for OCI runtimes, by runc and by cloche-oci on this machine, and compare.

    python3 -m tests.suites.run_oci SUITE SOURCE [CASE ...] [--debian TAR] [--keep DIR]

SUITE is one of these, and SOURCE a folder with its sources, which are not part of this repository:

- `runtime-tools`: github.com/opencontainers/runtime-tools with `vendor` (needs go)
- `crun`: github.com/containers/crun, of the release that the distribution has (needs gcc)
- `runc`: github.com/opencontainers/runc, of the release that runc on PATH has, with `vendor` (needs bats, gawk, jq, go, gcc,
  script, busybox, and the headers of libseccomp for its agent; `--debian` is a root file system of Debian in a tar file,
  for which otherwise busybox stands in)

A CASE is a program of runtime-tools, `test_start` of crun, `start.bats` of runc.  What not both pass is printed: what runc
passes and cloche-oci fails, the other way round, and what both fail.  What `known_oci.txt` names is expected, with the
reason there; the exit status is 1 if there is another difference that cloche-oci fails.  Needs root; the sources are
copied, so they stay as they are.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

KNOWN = Path(__file__).parent / "known_oci.txt"
RUNTIMES = {
    "runc": shutil.which("runc") or "/usr/sbin/runc",
    "cloche": str(Path(sys.executable).parent / "cloche-oci"),
}
TIMEOUT_S = 1200
GROUPS = Path("/sys/fs/cgroup")
# Options of crun's own, which its tests give whatever the runtime is.
_WRAPPER = """#!/usr/bin/python3 -IS
import os, sys
words = sys.argv[1:]
kept = []
while words:
    word = words.pop(0)
    if word == "--cgroup-manager" or word == "--config" and words[0] == "config.json":
        words.pop(0)
    else:
        kept.append(word)
os.execv({path!r}, [{path!r}, *kept])
"""
# What crun's test_mounts asks of libmount, whose module for Python is not everywhere.
_LIBMOUNT = """
class Row:
    def __init__(self, line):
        mount, _dash, system = line.partition(" - ")
        self.target, self.vfs_options, self.fs_options = *mount.split()[4:6], system.split(" ")[2]

class Table:
    def __init__(self, path):
        with open(path) as file:
            self.rows = [Row(line) for line in file.read().splitlines() if " - " in line]

    def find_target(self, path):
        return next((row for row in reversed(self.rows) if row.target == path), None)
"""
_HELLO = '#include <unistd.h>\nint main(void) { return write(1, "Hello World\\n", 12) != 12; }\n'
# For controllers that the machine lacks the suite makes plain directories in /sys/fs/cgroup, which stop engines: so it
# gets a tmpfs of its own there, with the same hierarchies.
_APART = """
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "$PLACE" && mount --rbind /sys/fs/cgroup "$PLACE" && mount -t tmpfs none /sys/fs/cgroup || exit
    for each in "$PLACE"/*; do
        name=/sys/fs/cgroup/${each##*/}
        if [ -L "$each" ]; then cp -d "$each" "$name"; else mkdir "$name" && mount --move "$each" "$name"; fi || exit
    done
    umount "$PLACE" || exit
fi
exec script -qec "bats -t $1" /dev/null
"""
# The agent that these start is not there: runc would wait for it for ever.
_FOR_AGENTS = ("seccomp-notify.bats",)

Verdicts = dict[str, str]


def tap(text: str) -> Verdicts:
    """The verdicts in TAP's output; of several with one name the worst."""
    found: Verdicts = {}
    for line in text.splitlines():
        match = re.match(r"\s*(not ok|ok) \d+(?: -)?(.*)", line)
        if match is None:
            continue
        name, is_skip, _reason = re.sub(r"# \d.*", "", match.group(2)).strip().partition("# SKIP")
        if not is_skip:
            name, is_skip, _reason = name.partition("#SKIP")
        if not is_skip:
            name, is_skip, _reason = name.partition("# skip")
        verdict = "fail" if match.group(1) == "not ok" else "skip" if is_skip else "ok"
        name = name.strip() or "(unnamed)"
        if found.get(name) != "fail":
            found[name] = verdict
    return found


class Suite:
    """One of the suites, built in a folder of its own."""

    keeps_input = False
    needs: tuple[str, ...] = ()  # programs; without one of them the suite fails by whatever runtime

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = folder / "source"
        self.folder = folder
        shutil.copytree(source, self.source, symlinks=True, ignore=shutil.ignore_patterns(".git"))

    def build(self) -> None:
        """Raises CalledProcessError."""

    def cases(self) -> list[str]:
        """The names of the cases."""
        raise NotImplementedError

    def run(self, case: str, runtime: str) -> Verdicts:
        """Run one case."""
        raise NotImplementedError

    def output(self, words: list[str], where: Path, **env: str) -> tuple[int, str]:
        """The status and output of a command, which has a time limit."""
        where.mkdir(parents=True, exist_ok=True)
        # The input stays open and empty: script(1) would write something at its end, which tests take for output.
        ours, theirs = os.pipe()
        try:
            done = subprocess.run(
                ["timeout", "-k", "5", str(TIMEOUT_S), *words],
                cwd=where,
                env={**os.environ, **env},
                stdin=ours if self.keeps_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        finally:
            os.close(ours)
            os.close(theirs)
        return done.returncode, done.stdout.decode(errors="replace")


class RuntimeTools(Suite):
    """Each program is a case; what it says in words alone, without TAP, counts by its status."""

    needs = ("go",)

    def build(self) -> None:
        """Build the programs, and the one that they run inside."""
        go = ["go", "build", "-mod=vendor"]
        subprocess.run([*go, "-o", f"{self.folder}/bin/", "./validation/..."], cwd=self.source, check=True)
        inside = [*go, "-o", f"{self.folder}/runtimetest", "./cmd/runtimetest"]
        subprocess.run(inside, cwd=self.source, env={**os.environ, "CGO_ENABLED": "0"}, check=True)

    def cases(self) -> list[str]:
        """The programs."""
        return sorted(path.name for path in (self.folder / "bin").iterdir())

    def run(self, case: str, runtime: str) -> Verdicts:
        """Run a program."""
        where = self.folder / "at" / runtime
        where.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "runtimetest", where)
        shutil.copy(self.source / "rootfs-amd64.tar.gz", where)
        status, text = self.output([f"{self.folder}/bin/{case}"], where, RUNTIME=RUNTIMES[runtime])
        found = {name: verdict for name, verdict in tap(text).items() if verdict != "skip"}
        found["(ends well)"] = "fail" if status else "ok"
        return found


class Crun(Suite):
    """Each test file is a case."""

    needs = ("gcc",)

    def build(self) -> None:
        """Build the program that runs inside, and what takes crun's own options away."""
        (self.source / "config.h").touch()
        flags = ["-O1", "-static", "-D_GNU_SOURCE", "-DHAVE_SYS_STATFS_H", f"-I{self.source}"]
        tests = self.source / "tests"
        subprocess.run(["gcc", *flags, "-o", f"{tests}/init", f"{tests}/init.c"], check=True)
        (tests / "libmount.py").write_text(_LIBMOUNT)
        for name, path in RUNTIMES.items():
            wrapper = self.folder / name
            wrapper.write_text(_WRAPPER.format(path=path))
            wrapper.chmod(0o755)

    def cases(self) -> list[str]:
        """The test files."""
        return sorted(path.stem for path in (self.source / "tests").glob("test_*.py"))

    def run(self, case: str, runtime: str) -> Verdicts:
        """Run a file."""
        tests = self.source / "tests"
        words = [sys.executable, f"{tests}/{case}.py"]
        env = {"PYTHONPATH": str(tests), "INIT": f"{tests}/init", "OCI_RUNTIME": f"{self.folder}/{runtime}"}
        return tap(self.output(words, self.folder / "at" / runtime, **env)[1])


class Runc(Suite):
    """Each file of bats is a case; a terminal is its standard input."""

    needs = ("bats", "gawk", "jq", "go", "gcc", "script", "busybox")
    keeps_input = True
    debian: Path | None = None
    has_agent = False

    def build(self) -> None:
        """Build helpers, and images of busybox, where the suite would load some."""
        place = "tests/cmd" if (self.source / "tests" / "cmd").is_dir() else "contrib/cmd"  # until 1.2
        commands = self.source / place
        built = commands / "_bin"
        for name in sorted(path.name for path in commands.iterdir() if path.is_dir()):
            words = ["go", "build", "-mod=vendor", "-tags", "seccomp", "-o", f"{commands}/{name}/{name}"]
            done = subprocess.run([*words, f"./{place}/{name}"], cwd=self.source, check=False)
            if done.returncode and name == "recvtty":
                raise subprocess.CalledProcessError(done.returncode, words)
            if not done.returncode:
                built.mkdir(exist_ok=True)
                (built / name).symlink_to(commands / name / name)
        self.has_agent = (built / "seccompagent").exists()
        root = self.folder / "root"
        for name in (
            "bin",
            "etc",
            "tmp",
            "root",
            "proc",
            "dev",
            "sys",
            "var/tmp",
            "home",
            "usr/bin",
            "usr/sbin",
            "sbin",
        ):
            (root / name).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        busybox = shutil.which("busybox") or "/bin/busybox"
        shutil.copy(os.path.realpath(busybox), root / "bin" / "busybox")
        listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
        for name in set(listed.split()) - {"busybox"}:
            (root / "bin" / name).symlink_to("busybox")
        (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc" / "group").write_text("root:x:0:\n")
        hello = self.folder / "hello"
        (self.folder / "hello.c").write_text(_HELLO)
        for name in ("proc", "dev", "sys"):
            (hello / name).mkdir(parents=True)
        subprocess.run(["gcc", "-static", "-o", f"{hello}/hello", f"{self.folder}/hello.c"], check=True)
        for name, place in (("busybox", root), ("hello", hello)):
            subprocess.run(["tar", "-C", str(place), "-cf", f"{self.folder}/{name}.tar", "."], check=True)
        images = {each: f"{self.folder}/{each.lower()}.tar" for each in ("BUSYBOX", "HELLO")}
        images["DEBIAN"] = str(self.debian or images["BUSYBOX"])
        rows = [f"echo {key}_IMAGE={path}\n" for key, path in images.items()]
        script = self.source / "tests" / "integration" / "get-images.sh"
        script.write_text("#!/bin/sh\n" + "".join(rows))
        script.chmod(0o755)

    def cases(self) -> list[str]:
        """The files."""
        names = sorted(path.name for path in (self.source / "tests" / "integration").glob("*.bats"))
        left_out = () if self.has_agent else _FOR_AGENTS
        for name in set(names) & set(left_out):
            print(f"runc {name}: left out, its agent could not be built")
        return [name for name in names if name not in left_out]

    def run(self, case: str, runtime: str) -> Verdicts:
        """Run a file."""
        place = self.folder / "tmp"
        place.mkdir(exist_ok=True)
        words = ["unshare", "-m", "sh", "-c", _APART, "sh", case]
        env = {"RUNC": RUNTIMES[runtime], "TMPDIR": str(place), "PLACE": f"{self.folder}/groups"}
        return tap(self.output(words, self.source / "tests" / "integration", **env)[1])


SUITES: dict[str, Callable[[Path, Path], Suite]] = {"runtime-tools": RuntimeTools, "crun": Crun, "runc": Runc}


def known_differences() -> dict[str, str]:
    """`SUITE CASE: TEST` (or `SUITE CASE: *`) to a reason."""
    found: dict[str, str] = {}
    for line in KNOWN.read_text().splitlines():
        name, separator, reason = line.partition("  -- ")
        if separator and not line.startswith("#"):
            found[name.strip()] = reason.strip()
    return found


def compare(suite: Suite, name: str, cases: list[str]) -> int:
    """Run cases by both runtimes and print the differences; returns how many are not known."""
    known = known_differences()
    unknown = 0
    sums = {"both pass": 0, "both fail": 0, "runc alone": 0, "cloche alone": 0}
    for case in cases:
        theirs, ours = suite.run(case, "runc"), suite.run(case, "cloche")
        print(f"{name} {case}: {len(theirs)} tests by runc, {len(ours)} by cloche", flush=True)
        for test in sorted(set(theirs) | set(ours)):
            there, here = theirs.get(test, "absent"), ours.get(test, "absent")
            if "skip" in (there, here) or there == here == "absent":
                continue
            passes = (there == "ok", here == "ok")
            key = {(True, True): "both pass", (True, False): "runc alone", (False, True): "cloche alone"}
            sums[key.get(passes, "both fail")] += 1
            if passes == (True, False):
                reason = known.get(f"{name} {case}: {test}") or known.get(f"{name} {case}: *")
                unknown += reason is None
                print(
                    f"  {test}: runc {there}, cloche {here}" + (f" (known: {reason})" if reason else ""),
                    flush=True,
                )
            elif passes != (True, True):
                print(f"  {test}: runc {there}, cloche {here}", flush=True)
    print(", ".join(f"{key}: {count}" for key, count in sums.items()))
    return unknown


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("source", type=Path)
    parser.add_argument("case", nargs="*")
    parser.add_argument("--debian", type=Path, help="for runc: a root file system of Debian, a tar file")
    parser.add_argument("--keep", type=Path, help="a folder for what is built, which stays")
    args = parser.parse_args()
    if os.geteuid() != 0 or not args.source.is_dir():
        print("skipped: " + ("it needs root" if os.geteuid() else f"{args.source} is not there"))
        return 0
    folder = args.keep or Path(tempfile.mkdtemp(prefix="cloche-oci."))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        suite = SUITES[args.suite](args.source.resolve(), folder.resolve())
        if isinstance(suite, Runc) and args.debian:
            suite.debian = args.debian.resolve()
        missing = [name for name in suite.needs if shutil.which(name) is None]
        if missing:
            print(f"skipped: it needs {', '.join(missing)}")
            return 0
        suite.build()
        unknown = compare(suite, args.suite, args.case or suite.cases())
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{unknown} differences that are not known")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
