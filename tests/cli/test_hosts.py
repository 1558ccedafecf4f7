"""Hosts of every kind: ordinary users, no user namespaces, no namespaces, outer seccomp filters, no_new_privs."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloche.abi.seccomp import SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
from tests.cli.harness import (
    CLOCHE,
    IS_ROOT,
    SOURCE,
    TIMEOUT_S,
    alive,
    cloche_words,
    descendants,
    environment,
    run_words,
    wait_until,
)

# The programs that must run on each host.
SCRIPT = (
    "id -u; cat file; echo guest > file; cat file; bash -c 'echo $((6*7)) | cat'; sleep 0.01 & wait; exit 9"
)
# Takes user namespaces away and changes nothing else.
NO_USER_NAMESPACES = [
    "unshare",
    "-Ur",
    "sh",
    "-c",
    'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"',
    "sh",
]


def check(prefix: list[str], project: Path, *options: str) -> None:
    """The command runs the same under `prefix`."""
    done = run_words([*prefix, *cloche_words(*options), "sh", "-c", SCRIPT], cwd=project)
    lines = done.out.split()
    assert lines[1:] == ["host", "guest", "42"] and done.status == 9 and done.err == "", done
    assert (project / "file").read_text() == "host\n"
    done = run_words([*prefix, *cloche_words(), "nosuch"], cwd=project)
    assert done.status == 127 and done.err.count("\n") == 1, done


def can(words: list[str]) -> bool:
    """Whether this host lets us have that."""
    if shutil.which(words[0]) is None:
        return False
    return subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0


def check_deaths(prefix: list[str]) -> None:
    """Killing cloche, and killing the sentry, leave nothing."""
    for victim in ("monitor", "sentry"):
        words = [*prefix, *cloche_words(), "sh", "-c", "sleep 100 & (setsid sleep 100 &); echo ready; wait"]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd="/usr"
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        everyone = descendants(process.pid)
        children: dict[int, int] = {}
        for pid in everyone:
            try:
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children[parent] = children.get(parent, 0) + 1
        sentry = max((pid for pid in children if pid in everyone), key=lambda pid: children[pid])
        os.kill(sentry if victim == "sentry" else process.pid, signal.SIGKILL)
        process.wait(timeout=TIMEOUT_S)
        wait_until(lambda pids=everyone: not alive(pids), f"every process is gone with the {victim}")
        process.communicate()


# -- users ---------------------------------------------------------------------------------------------------------
def test_as_root(project: Path) -> None:
    if not IS_ROOT:
        pytest.skip("needs root")
    check([], project)
    check_deaths([])


def test_as_an_ordinary_user(project: Path, as_user: list[str]) -> None:
    check(as_user, project)
    check_deaths(as_user)


def test_an_ordinary_user_reads_and_writes_what_is_his_only(
    project: Path, as_user: list[str], tmp_path: Path
) -> None:
    if not IS_ROOT:
        pytest.skip("needs root, to make files of others")
    (project / "secret").write_text("secret")
    (project / "secret").chmod(0o600)
    (project / "foreign").write_text("host\n")
    done = run_words(
        [
            *as_user,
            *cloche_words("-v", f"{project}:/v:rw"),
            "sh",
            "-c",
            "cat secret /v/secret; echo x > /v/foreign; id -un",
        ],
        cwd=project,
    )
    assert "secret" not in done.out.split() and (project / "foreign").read_text() == "host\n", done
    assert "Permission denied" in done.err and done.out.split()[-1].startswith("cloche-test"), done
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, int(run_words([*as_user, "id", "-u"]).out), -1)
    done = run_words(
        [*as_user, *cloche_words("-v", f"{own}:/v:rw"), "sh", "-c", "echo made > /v/new; cat /v/new"],
        cwd=project,
    )
    assert done.out == "made\n" and (own / "new").read_text() == "made\n", done


def test_another_user_inside_for_an_ordinary_user(project: Path, as_user: list[str]) -> None:
    done = run_words(
        [*as_user, *cloche_words("-u", "0"), "sh", "-c", "id -u; touch /usr/x && echo made; head -c 5 file"],
        cwd=project,
    )
    assert done.out.split() == ["0", "made", "host"], done


# -- namespaces --------------------------------------------------------------------------------------------------------
def test_without_user_namespaces(project: Path) -> None:
    if not can(NO_USER_NAMESPACES):
        pytest.skip("no user namespace to forbid them in")
    check(NO_USER_NAMESPACES, project)
    check_deaths(NO_USER_NAMESPACES)


def test_an_ordinary_user_without_any_namespaces(project: Path, as_user: list[str]) -> None:
    """User namespaces are forbidden by an outer one; without capabilities in that no other kind can be had."""
    outer = ["unshare", "-Ur", "sh", "-c",
             'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"', "sh"]  # fmt: skip
    if not can([*as_user, *outer]):
        pytest.skip("no user namespace to forbid them in")
    words = [*as_user, *outer]
    probe = run_words([*words, "unshare", "-p", "--fork", "true"])
    if probe.status == 0:
        pytest.skip("a pid namespace can be had without privileges")
    check(words, project)
    check_deaths(words)
    done = run_words([*words, *CLOCHE, "doctor"], cwd=project)
    assert done.status == 0 and "no   user namespace" in done.out and "no   pid namespace" in done.out, done


# -- outer filters ------------------------------------------------------------------------------------------------------
# Calls that Docker's default profile refuses (EPERM) without capabilities; unknown numbers get ENOSYS.
REFUSED = """acct add_key bpf clock_adjtime clock_settime create_module delete_module finit_module fanotify_init fsconfig fsmount
fsopen fspick get_mempolicy init_module ioperm iopl io_uring_setup io_uring_enter io_uring_register kexec_file_load kexec_load
keyctl lookup_dcookie mbind mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree
perf_event_open pidfd_getfd pivot_root quotactl reboot request_key set_mempolicy setdomainname sethostname setns settimeofday
swapoff swapon syslog umount2 unshare userfaultfd ustat vhangup vmsplice_ chroot""".split()
LAST_KNOWN = 452  # fchmodat2; newer calls are unknown to the profile

FILTERED = """
import os, sys
from cloche.abi.prctl import PR_SET_NO_NEW_PRIVS
from cloche.platform import hostsys
hostsys.prctl(PR_SET_NO_NEW_PRIVS, 1)
hostsys.seccomp_filter(bytes.fromhex(sys.argv[1]))
os.execvp(sys.argv[2], sys.argv[2:])
"""


def docker_filter() -> bytes:
    """A filter like Docker's default profile for a container without capabilities."""
    from struct import pack

    from cloche.arch.x86_64.syscalls import NAMES

    def insn(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
        return pack("<HBBI", code, jt, jf, k)

    load_number, jump_equal, jump_more, give = 0x20, 0x15, 0x25, 0x06
    code = [insn(load_number, 0), insn(jump_more, LAST_KNOWN, 0, 1), insn(give, SECCOMP_RET_ERRNO | 38)]
    for number, name in enumerate(NAMES):
        if name in REFUSED:
            code += [insn(jump_equal, number, 0, 1), insn(give, SECCOMP_RET_ERRNO | 1)]
    # clone with CLONE_NEW* flags: EPERM; clone3: ENOSYS, so that C libraries use clone.
    code += [
        insn(jump_equal, NAMES.index("clone3"), 0, 1),
        insn(give, SECCOMP_RET_ERRNO | 38),
        insn(jump_equal, NAMES.index("clone"), 0, 4),
        insn(load_number, 16),
        insn(0x45, 0x7E020000, 0, 1),  # BPF_JSET
        insn(give, SECCOMP_RET_ERRNO | 1),
        insn(give, SECCOMP_RET_ALLOW),
        insn(give, SECCOMP_RET_ALLOW),
    ]
    return b"".join(code)


def filtered() -> list[str]:
    return [sys.executable, "-c", FILTERED, docker_filter().hex()]


def test_under_a_filter_like_dockers(project: Path) -> None:
    probe = run_words([*filtered(), "unshare", "-U", "true"])
    assert probe.status != 0, "the filter does not filter"
    check(filtered(), project)
    check_deaths(filtered())


def test_an_ordinary_user_under_a_filter_like_dockers(project: Path, as_user: list[str]) -> None:
    check([*as_user, *filtered()], project)
    check_deaths([*as_user, *filtered()])
    done = run_words([*as_user, *filtered(), *CLOCHE, "doctor"], cwd=project)
    assert done.status == 0 and "seccomp profile" in done.out, done


def test_under_no_new_privs(project: Path, as_user: list[str]) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    check(["setpriv", "--no-new-privs"], project)
    check([*as_user, "setpriv", "--no-new-privs"], project)


def test_with_few_descriptors_and_little_stack(project: Path) -> None:
    check(["sh", "-c", 'ulimit -n 128; exec "$@"', "sh"], project)
    check(["sh", "-c", 'ulimit -s 512; exec "$@"', "sh"], project)


def test_on_one_processor(project: Path) -> None:
    if shutil.which("taskset") is None:
        pytest.skip("taskset is not installed")
    check(["taskset", "-c", "0"], project)


def test_where_signals_are_blocked_or_ignored(project: Path) -> None:
    """What the caller has blocked or ignores does not reach the guests' defaults, but nohup does its work."""
    words = [
        sys.executable,
        "-c",
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); os.execvp(sys.argv[1], sys.argv[1:])",
    ]
    check(words, project)
    done = run_words([*cloche_words(), "sh", "-c", "(sleep 0.05; kill -ALRM $$) & sleep 5"])
    assert done.status == 142, done


def test_a_cloche_inside_a_cloche_says_why_not(project: Path) -> None:
    """Nesting is not possible yet: one line, no hang."""
    options = ["-e", f"PYTHONPATH={SOURCE}"]
    for folder in {str(SOURCE), sys.prefix, sys.base_prefix} - {"/usr"}:
        options += ["-v", f"{folder}:{folder}:ro"]
    done = run_words([*cloche_words(*options), *CLOCHE, "run", "--", "true"], cwd=project, timeout=TIMEOUT_S)
    assert done.status == 125 and done.err.startswith("cloche: ") and done.err.count("\n") == 1, done


# -- machines that cannot ---------------------------------------------------------------------------------------------
def test_no_seccomp_notifications() -> None:
    """A filter of the caller's that refuses seccomp(2): cloche cannot run, and says so in a line."""
    from struct import pack

    code = b"".join(pack("<HBBI", *each) for each in ((0x20, 0, 0, 0), (0x15, 0, 1, 317), (0x06, 0, 0, SECCOMP_RET_ERRNO | 1),
                                                      (0x06, 0, 0, SECCOMP_RET_ALLOW)))  # fmt: skip
    words = [sys.executable, "-c", FILTERED, code.hex()]
    done = run_words([*words, *cloche_words("--log-level", "error"), "true"])
    assert done.status == 125 and "Traceback" not in done.err and done.err.count("\n") == 1, done
    done = run_words([*words, *CLOCHE, "doctor"])
    assert done.status == 1 and "cannot run here" in done.out and "Traceback" not in done.err, done


def test_under_another_seccomp_listener() -> None:
    """As in LXD: there can be one listener only, and cloche says so."""
    code = """
import os, sys
from cloche.platform import hostsys
hostsys.prctl(38, 1)
os.set_inheritable(hostsys.seccomp_filter(bytes.fromhex("060000000000ff7f"), 8), True)
os.execvp(sys.argv[1], sys.argv[1:])
"""
    words = [sys.executable, "-c", code]
    done = run_words([*words, *cloche_words(), "true"])
    assert done.status == 125 and "listener" in done.err and done.err.count("\n") == 1, done
    done = run_words([*words, *CLOCHE, "doctor"])
    assert done.status == 1 and "outside of that sandbox" in done.out, done
