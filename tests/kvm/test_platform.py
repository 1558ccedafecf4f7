"""The platform kvm on a real /dev/kvm: the conformance suite of platforms, and programs as users start them."""

import os
import re
from typing import Final

import pytest

from tests.kvm.machine import Machine, Result
from tests.kvm.programs import PLACE, PLATFORM_TESTS, ROOT

KVM = ["cloche", "run", "--platform", "kvm"]
SLOW_S = 240
CALLS, PAGES = 4000, 4000
ROUNDS = 3  # of which in one the sentry sleeps seldom, on a loaded machine, too


def inside(machine: Machine, script: str, *options: str, uid: int = 0) -> Result:
    """A shell's script in a sandbox."""
    env = {"CLOCHE_STRICT": "5000"}
    return machine.run(
        [*KVM, *options, "--", "bash", "-c", script], timeout_s=SLOW_S, uid=uid, cwd="/opt", env=env
    )


@pytest.mark.timeout(900)
def test_conformance(kvm_machine: Machine) -> None:
    tests = [*PLATFORM_TESTS.glob("test_conformance_*.py"), PLATFORM_TESTS / "test_kvm.py"]
    files = sorted(str(path.relative_to(ROOT)) for path in tests)
    done = kvm_machine.run(
        ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kvm", *files],
        cwd=str(ROOT),
        timeout_s=600,
    )
    assert done.status == 0 and b" passed" in done.stdout and b"skipped" not in done.stdout, done


def counted(machine: Machine, platform: str, calls: int, pages: int) -> list[str]:
    """A sandbox's last lines about a program that makes so many calls and first touches."""
    command = ["cloche", "run", "--platform", platform, "--no-patch", "--log-level", "info", "--"]
    done = machine.run([*command, f"{PLACE}/counts", str(calls), str(pages)], timeout_s=SLOW_S, cwd="/opt")
    assert done.status == 0, done
    return [
        line for line in done.stderr.decode().splitlines() if "notifications" in line or "KVM_RUN" in line
    ]


@pytest.mark.timeout(8 * SLOW_S)
def test_what_is_counted(kvm_machine: Machine) -> None:
    """Side by side, and that neither more calls nor more touches make KVM_RUN return more often: where nobody sleeps
    they add nothing (tests/unit/platform/test_kvm.py); here the sentry may sleep now and then, so it may be tried again.
    """
    for _ in range(ROUNDS):
        asked, told = count_all(kvm_machine)
        assert all(told[platform, CALLS] >= CALLS for platform in ("systrap", "kvm")), told
        assert asked["systrap", CALLS, 0] == 0 < asked["kvm", 0, 0], asked
        if max(asked["kvm", CALLS, 0], asked["kvm", 0, PAGES]) < asked["kvm", 0, 0] + CALLS // 10:
            return
    pytest.fail(f"{asked}")


def count_all(machine: Machine) -> tuple[dict[tuple[str, int, int], int], dict[tuple[str, int], int]]:
    """Questions of ring 0, by platform, calls and pages; and system calls, by platform and calls."""
    asked, told = {}, {}
    for calls, pages in ((0, 0), (CALLS, 0), (0, PAGES)):
        for platform in ("systrap", "kvm"):
            lines = counted(machine, platform, calls, pages)
            print(f"{calls} calls, {pages} first touches, {platform}:", *lines, sep="\n    ")
            told[platform, calls] = max(int(line.split()[1]) for line in lines if "system calls" in line)
            found = [re.search(r"(\d+) for questions of ring 0", line) for line in lines]
            asked[platform, calls, pages] = sum(int(match[1]) for match in found if match)
    return asked, told


@pytest.mark.timeout(SLOW_S + 120)
def test_shell_and_coreutils(kvm_machine: Machine) -> None:
    done = inside(
        kvm_machine,
        "seq 1 100000 | sort -rn | head -3 | tac; (exit 3); echo $?; ls / | wc -l > /tmp/n; cat /tmp/n | wc -l",
    )
    assert (done.status, done.stdout) == (0, b"99998\n99999\n100000\n3\n1\n"), done


@pytest.mark.timeout(SLOW_S + 120)
def test_busybox_and_a_static_program(kvm_machine: Machine) -> None:
    done = inside(kvm_machine, f"busybox echo hello | busybox tr a-z A-Z; {PLACE}/static_hello; echo $?")
    assert (
        done.status == 0
        and done.stdout.startswith(b"HELLO\nhello 1 ")
        and done.stdout.endswith(b"direct\n3\n")
    ), done


PROCESSES: Final = """
import glob, os, statistics, subprocess
sandbox = subprocess.Popen(
    ["cloche", "run", "--platform", "kvm", "--", "bash", "-c", "for i in 1 2 3 4 5 6; do sleep 600 & done; echo up; wait"],
    stdout=subprocess.PIPE,
)
assert sandbox.stdout.readline() == b"up\\n"
private = []
for path in glob.glob("/proc/[0-9]*"):
    try:
        links = {os.readlink(fd) for fd in glob.glob(path + "/fd/*")}
        lines = open(path + "/smaps_rollup").read().splitlines()
    except OSError:
        continue
    if "anon_inode:kvm-vm" in links:
        private.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))
sandbox.terminate()
sandbox.wait()
print(len(private), round(statistics.median(private)))
"""


@pytest.mark.timeout(SLOW_S + 120)
def test_memory_of_a_process(kvm_machine: Machine) -> None:
    """What a process of the host with a machine has for itself, though its table of virtual CPUs is a large one."""
    done = kvm_machine.run(["python", "-c", PROCESSES], timeout_s=SLOW_S, cwd="/opt")
    assert done.status == 0, done
    count, private_kb = map(int, done.stdout.split())
    assert count >= 6 and 0 < private_kb < 4096, done


@pytest.mark.timeout(SLOW_S + 120)
def test_compiler(kvm_machine: Machine) -> None:
    done = inside(kvm_machine, f"gcc -o /tmp/hello {PLACE}/hello.c && /tmp/hello")
    assert (done.status, done.stdout) == (0, b"compiled\n"), done


@pytest.mark.timeout(SLOW_S + 120)
def test_python_with_threads(kvm_machine: Machine) -> None:
    script = """if 1:
    import threading, subprocess, sys
    found = []
    threads = [threading.Thread(target=lambda i=i: found.append(sum(range(i * 1000)))) for i in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(sum(found), subprocess.check_output(["echo", "child"]))
    """
    base = kvm_machine.run(["python", "-c", "import sys; print(sys.base_prefix, end='')"]).stdout.decode()
    shown = [] if base == "/usr" else ["-v", f"{base}:{base}:ro"]
    done = kvm_machine.run(
        [*KVM, *shown, "--", f"{base}/bin/python3", "-c", script], cwd="/opt", timeout_s=SLOW_S
    )
    expected = sum(sum(range(i * 1000)) for i in range(8))
    assert (done.status, done.stdout) == (0, f"{expected} b'child\\n'\n".encode()), done


@pytest.mark.timeout(SLOW_S + 120)
def test_an_ordinary_user(kvm_machine: Machine) -> None:
    done = inside(kvm_machine, "id -u; echo $((2 + 2))", uid=1000)
    assert (done.status, done.stdout) == (0, b"1000\n4\n"), done


@pytest.mark.timeout(SLOW_S + 120)
def test_without_the_right_to_open_the_device(kvm_machine: Machine) -> None:
    assert kvm_machine.run(["chmod", "600", "/dev/kvm"]).status == 0
    try:
        root = inside(kvm_machine, "echo $((3 + 3))")
        done = inside(kvm_machine, "true", uid=1000)
        doctor = kvm_machine.run(["cloche", "doctor"], uid=1000)
    finally:
        kvm_machine.run(["chmod", "666", "/dev/kvm"])
    assert (root.status, root.stdout) == (0, b"6\n"), root  # the sentry is another user
    assert done.status == 125 and b"this user may not open it" in done.stderr, done
    assert b"\n" not in done.stderr.strip(), done
    assert b"no   /dev/kvm (this user may not open it)" in doctor.stdout, doctor


@pytest.mark.skipif(
    os.environ.get("CLOCHE_SLOW") != "1", reason="takes minutes: CLOCHE_SLOW=1 (make kvm-all)"
)
@pytest.mark.timeout(4 * SLOW_S)
def test_bench(kvm_machine: Machine) -> None:
    """The tables can be made wherever there is a /dev/kvm: what is said here about an emulated processor means nothing."""
    command = [
        "python",
        "-m",
        "bench.run",
        "--rounds",
        "1",
        "--no-runsc",
        "--platform",
        "kvm",
        "--json",
        "/tmp",
        "getppid",
    ]
    done = kvm_machine.run(command, cwd=str(ROOT), timeout_s=3 * SLOW_S)
    assert done.status == 0 and b"start-up of true under cloche" in done.stdout, done
    assert re.search(rb"^getppid +\d", done.stdout, re.M), done
    shown = kvm_machine.run(["bash", "-c", "ls /tmp/calls-kvm-*.json"])
    assert shown.status == 0, shown


@pytest.mark.timeout(SLOW_S + 120)
def test_doctor(kvm_machine: Machine) -> None:
    done = kvm_machine.run(["cloche", "doctor"], timeout_s=SLOW_S)
    assert done.status == 0 and b"SVM, nested" in done.stdout, done
    assert b"  no   " not in done.stdout.partition(b"For --platform kvm")[2], done
