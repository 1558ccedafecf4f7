"""Runs test suites that others wrote natively and in cloche, compares test by test and prints the differences.

    python -m tests.suites.run_suites [--quick] [--cache FOLDER] [--timeout S] [CASE …]

A CASE is `cpython/test_os`, `go/os/exec`, `stress/pipe` or the name of a suite (`cpython`, `go`, `stress`), which stands
for all of its cases; `--quick` is the selection for CI.  Needs Debian's libpython3.13-testsuite, golang-go with
golang-src, and stress-ng; what is not installed is skipped.  Differences that are known are in `known.txt`, with their
reasons; exit status 1 means that there are others.  The native side runs in fresh namespaces and with the
capabilities that a sandbox's root has.  `--cache` keeps native verdicts between runs.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).parent
KNOWN = HERE / "known.txt"
PYTHON = "/usr/bin/python3.13"
CLOCHE = [sys.executable, "-m", "cloche.cli.main", "run"]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = "unshare --pid --fork --kill-child --mount --uts --ipc --net --mount-proc".split()
# The capabilities of a sandbox's root: enough for a user's own files, nothing that could hurt the machine.
CAPABILITIES = (
    "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,"
    "+mknod,+audit_write,+setfcap"
)
MARK = "@@cloche-suite@@"

CPYTHON = (
    "test_subprocess test_signal test_threading test_posix test_os test_select test_selectors test_poll test_epoll "
    "test_mmap test_fcntl test_thread test_fork1 test_wait3 test_wait4 test_pty test_tty test_termios test_openpty "
    "test_pwd test_grp test_resource test_ioctl test_eintr test_faulthandler test_threadsignals test_io test_fileio "
    "test_tempfile test_shutil test_pathlib test_glob test_zipfile test_tarfile test_time test_stat test_queue "
    "test_posixpath test_largefile test_shelve test_dbm test_readline test_sqlite3 "
    "test.test_concurrent_futures.test_thread_pool test.test_concurrent_futures.test_process_pool "
    "test.test_concurrent_futures.test_wait test.test_concurrent_futures.test_as_completed "
    "test.test_concurrent_futures.test_shutdown test.test_concurrent_futures.test_deadlock "
    "test.test_concurrent_futures.test_future test.test_concurrent_futures.test_init "
    "test.test_multiprocessing_fork.test_processes test.test_multiprocessing_fork.test_manager "
    "test.test_multiprocessing_fork.test_misc test.test_multiprocessing_fork.test_threads "
    "test.test_multiprocessing_spawn.test_processes test.test_multiprocessing_spawn.test_manager "
    "test.test_multiprocessing_spawn.test_misc test.test_multiprocessing_spawn.test_threads "
    "test.test_multiprocessing_forkserver.test_processes test.test_multiprocessing_forkserver.test_manager "
    "test.test_multiprocessing_forkserver.test_misc test.test_multiprocessing_forkserver.test_threads "
    "test_cmd_line test_venv "
    "test_socket test_ssl test_httpservers test_httplib test_ftplib test_smtplib test_poplib test_imaplib "
    "test_urllib2_localnet test_xmlrpc test_socketserver test_multiprocessing_spawn "
    "test.test_asyncio.test_base_events test.test_asyncio.test_buffered_proto test.test_asyncio.test_context "
    "test.test_asyncio.test_eager_task_factory test.test_asyncio.test_events test.test_asyncio.test_futures "
    "test.test_asyncio.test_futures2 test.test_asyncio.test_locks test.test_asyncio.test_pep492 "
    "test.test_asyncio.test_protocols test.test_asyncio.test_queues test.test_asyncio.test_runners "
    "test.test_asyncio.test_selector_events test.test_asyncio.test_sendfile test.test_asyncio.test_server "
    "test.test_asyncio.test_sock_lowlevel test.test_asyncio.test_ssl test.test_asyncio.test_sslproto "
    "test.test_asyncio.test_staggered test.test_asyncio.test_streams test.test_asyncio.test_subprocess "
    "test.test_asyncio.test_taskgroups test.test_asyncio.test_tasks test.test_asyncio.test_threads "
    "test.test_asyncio.test_timeouts test.test_asyncio.test_transports test.test_asyncio.test_unix_events "
    "test.test_asyncio.test_waitfor"
).split()
GO = (
    "os os/exec os/signal syscall time runtime internal/poll path/filepath sync os/user io/ioutil "
    "net net/http net/netip net/http/httptest log/syslog"
).split()
STRESS = ("os", "scheduler", "pipe", "signal", "interrupt", "vm", "filesystem", "network")
# They need devices, take the machine down with them, or measure nothing but the host.
STRESS_LEFT_OUT = frozenset(
    "dev dev-shm sysfs watchdog reboot cpu-online bigheap oom-pipe binderfs module memhotplug klog physpage physmmap "
    "efivar kvm rtc pci time-warp softlockup cyclic netlink-proc netlink-task apparmor "
    "af-alg tun l1cache ramfs swap pageswap smi idle-page".split()
)
QUICK = (
    "cpython/test_poll cpython/test_epoll cpython/test_select cpython/test_fcntl cpython/test_mmap cpython/test_wait4 "
    "cpython/test_pty cpython/test_openpty cpython/test_tty cpython/test_termios cpython/test_ioctl "
    "cpython/test_resource cpython/test_threadsignals cpython/test_stat cpython/test_fileio go/os/signal "
    "stress/pipe/pipe stress/signal/sigq stress/scheduler/fork stress/interrupt/timer stress/filesystem/rename "
    "stress/vm/mprotect"
).split()

PASSED = ("ok", "pass", "PASS")

Verdicts = dict[str, str]


class Place:
    """Where commands run: on the host or in a sandbox."""

    def __init__(self, name: str, timeout_s: float, options: list[str]) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.options = options

    def run(self, script: str, log: Path) -> str:
        """Run a shell script in a fresh folder, its output (both streams) in `log`; returns the output."""
        env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        script = f"cd $(mktemp -d /tmp/suite.XXXXXX); {script}\nexit $?"
        if self.name == "native":
            inner = (
                f'ip link set lo up; exec setpriv --bounding-set={CAPABILITIES} --inh-caps=-all sh -c "$0"'
            )
            command = [*NAMESPACES, "sh", "-c", f"{inner}; exit $?", script]
        else:
            command = [*CLOCHE, *self.options, "-e", "LANG=C.UTF-8", "--", "sh", "-c", script]
            env = dict(os.environ)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
            )
            try:
                process.wait(self.timeout_s)
            except subprocess.TimeoutExpired:
                process.terminate()
                output.write(b"\n@@timeout@@\n")
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return log.read_text(errors="replace")


def cpython_verdicts(place: Place, case: str, log: Path) -> Verdicts:
    """Run one module of CPython's suite; the verdicts come from its JUnit report, or else from its verbose output."""
    # test_socketserver asks for the network, and uses loopback only.
    network = "" if case == "test_socketserver" else "-network,"
    options = f"-u all,-largefile,-cpu,{network}-gui,-audio,-urlfetch --timeout 120 -v --junit-xml=report.xml"
    text = place.run(
        f"{PYTHON} -m test {options} {case}; s=$?; echo; echo {MARK}; cat report.xml; exit $s", log
    )
    shown, found, report = text.rpartition(MARK)
    if found and report.strip().startswith("<"):
        try:
            return junit_verdicts(report.replace("@@timeout@@", ""))
        except ElementTree.ParseError:
            pass
    verdicts = verbose_verdicts(text)
    verdicts["(whole module)"] = "no report"
    return verdicts


def junit_verdicts(report: str) -> Verdicts:
    """The verdicts of a JUnit report."""
    verdicts: Verdicts = {}
    for case in ElementTree.fromstring(report.strip()).iter("testcase"):
        verdict = "ok"
        if (
            case.get("result") == "skipped"
            or case.get("status") == "notrun"
            or case.find("skipped") is not None
        ):
            verdict = "skipped"
        for kind in ("error", "failure"):
            if case.find(kind) is not None:
                verdict = kind
        verdicts[case.get("name", "?")] = verdict
    return verdicts


def verbose_verdicts(text: str) -> Verdicts:
    """The verdicts in the output of a run that did not end: a test without a verdict was running when it was ended."""
    verdicts: Verdicts = {}
    current = ""
    for line in text.splitlines():
        start = re.match(r"\w+ \((test[\w.]+)\)", line)
        if start:
            current = start.group(1)
            verdicts[current] = "unfinished"
        end = re.search(r"(?:\.\.\. |^)(ok|FAIL|ERROR|skipped)\b", line)
        if end and current:
            verdicts[current] = {"FAIL": "failure", "ERROR": "error"}.get(end.group(1), end.group(1))
            current = ""
    return verdicts


def go_verdicts(place: Place, case: str, log: Path) -> Verdicts:
    """Run the tests of one Go package, built on the host."""
    source = next(iter(sorted(Path("/usr/share").glob("go-1.*/src"))), None)
    root = next(iter(sorted(Path("/usr/lib").glob("go-1.*"))), None)
    assert source is not None and root is not None
    binary = Path(tempfile.gettempdir()) / "cloche-suite-go" / (case.replace("/", "_") + ".test")
    if not binary.exists():
        binary.parent.mkdir(exist_ok=True)
        env = dict(os.environ, GOTOOLCHAIN="local", GOPROXY="off")
        build = ["go", "test", "-c", "-o", str(binary), case]
        subprocess.run(build, cwd=source, env=env, check=True, timeout=300)
    place = Place(place.name, place.timeout_s, [*place.options, "-v", f"{binary.parent}:{binary.parent}:ro"])
    go = f"export GOROOT={root} TMPDIR=$PWD; cd {source / case}; {binary} -test.short -test.v -test.timeout 200s"
    text = place.run(go, log)
    verdicts: Verdicts = {}
    for match in re.finditer(r"^\s*--- (PASS|FAIL|SKIP): (\S+)", text, re.M):
        verdicts[match.group(2)] = match.group(1)
    for match in re.finditer(r"^=== RUN\s+(\S+)", text, re.M):
        verdicts.setdefault(match.group(1), "unfinished")
    verdicts["(end)"] = "ok" if re.search(r"^(PASS|FAIL)$", text, re.M) else "none"
    return verdicts


def stress_verdicts(place: Place, case: str, log: Path) -> Verdicts:
    """Run the stressors of one class (`pipe`), or one of them (`pipe/tee`), a second each."""
    family, _, only = case.partition("/")
    names = [only] if only else stressors(family)
    meaning = "case $? in 0) v=pass;; 2) v=fail;; 3|4) v=skip;; 124|137) v=timeout;; *) v=$?;; esac"
    run = "timeout -k 2 30 stress-ng --$n 1 -t 1 --verify --oomable --temp-path . > out 2>&1"
    script = f"for n in {' '.join(names)}; do {run}; {meaning}; cat out; echo {MARK} $n $v; done"
    place = Place(place.name, max(place.timeout_s, 3.0 * len(names)), place.options)
    text = place.run(script, log)
    verdicts = dict.fromkeys(names, "none")
    for match in re.finditer(rf"^{MARK} (\S+) (\S+)", text, re.M):
        verdicts[match.group(1)] = match.group(2)
    return verdicts


def stressors(family: str) -> list[str]:
    """The stressors of a class that are run."""
    done = subprocess.run(
        ["stress-ng", "--class", f"{family}?"], capture_output=True, text=True, timeout=20, check=False
    )
    names = (done.stdout + done.stderr).partition("stressors:")[2].split()
    return [name for name in names if name not in STRESS_LEFT_OUT]


SUITES = {
    "cpython": (cpython_verdicts, CPYTHON, "/usr/lib/python3.13/test/test_os.py"),
    "go": (go_verdicts, GO, "/usr/lib/go/bin/go"),
    "stress": (stress_verdicts, list(STRESS), "/usr/bin/stress-ng"),
}


def known_differences() -> dict[str, str]:
    """`case test` (or `case *`) to a reason."""
    known = {}
    for line in KNOWN.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition("  ")
            known[name.strip()] = reason.strip()
    return known


def native_verdicts(suite: str, case: str, folder: Path, timeout_s: float) -> Verdicts:
    """The host's verdicts, out of the cache if it has them."""
    kept = folder / f"{suite}_{case.replace('/', '_')}.native.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    verdicts = SUITES[suite][0](Place("native", timeout_s, []), case, kept.with_suffix(".log"))
    kept.write_text(json.dumps(verdicts))
    return verdicts


def compare_case(name: str, folder: Path, args: argparse.Namespace, known: dict[str, str]) -> int:
    """Run one case in both places and print what differs; returns how many differences are not known."""
    suite, _, case = name.partition("/")
    begin = time.monotonic()
    native = native_verdicts(suite, case, folder, args.timeout)
    middle = time.monotonic()
    log = folder / f"{suite}_{case.replace('/', '_')}.cloche.log"
    cloche = SUITES[suite][0](Place("cloche", args.timeout, args.option), case, log)
    seconds = f"{middle - begin:.0f}/{time.monotonic() - middle:.0f} s"
    differences = []
    for test in sorted(set(native) | set(cloche)):
        there, here = native.get(test, "absent"), cloche.get(test, "absent")
        # A sandbox may pass what the host skips or fails, for instance because of a limit of this machine.
        if there != here and here not in PASSED:
            differences.append((test, there, here))
    unknown = 0
    print(f"{name}: {len(native)} tests, {len(differences)} differences, {seconds}", flush=True)
    for test, there, here in differences:
        reason = known.get(f"{name} {test}") or known.get(f"{name} *")
        unknown += reason is None
        print(
            f"  {test}: native {there}, cloche {here}" + (f" (known: {reason})" if reason else ""), flush=True
        )
    return unknown


def main() -> int:
    """Run the selected cases; 1 if there is a difference that is not known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("case", nargs="*")
    parser.add_argument("--quick", action="store_true", help="the selection for CI")
    parser.add_argument("--cache", type=Path, help="keep logs and native verdicts here")
    parser.add_argument("--timeout", type=float, default=280, help="seconds for one case in one place")
    parser.add_argument("--option", action="append", default=[], help="an option of `cloche run`")
    args = parser.parse_args()
    names = list(QUICK) if args.quick else []
    for name in args.case or ([] if args.quick else list(SUITES)):
        names += [f"{name}/{case}" for case in SUITES[name][1]] if name in SUITES else [name]
    folder = args.cache or Path(tempfile.mkdtemp(prefix="cloche-suites."))
    folder.mkdir(parents=True, exist_ok=True)
    known = known_differences()
    unknown = 0
    for name in names:
        if not os.path.exists(SUITES[name.partition("/")[0]][2]):
            print(f"{name}: not installed, skipped")
            continue
        unknown += compare_case(name, folder, args, known)
    if args.cache is None:
        shutil.rmtree(folder)
    print(f"{unknown} differences that are not known")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
