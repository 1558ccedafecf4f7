"""The platform kvm on a real /dev/kvm: the conformance suite of platforms, and programs as users start them."""

import pytest

from tests.kvm.machine import Machine, Result
from tests.kvm.programs import PLACE, PLATFORM_TESTS, ROOT

KVM = ["cloche", "run", "--platform", "kvm"]
SLOW_S = 240


def inside(machine: Machine, script: str, *options: str, uid: int = 0) -> Result:
    """A shell's script in a sandbox."""
    env = {"CLOCHE_STRICT": "5000"}
    return machine.run(
        [*KVM, *options, "--", "bash", "-c", script], timeout_s=SLOW_S, uid=uid, cwd="/opt", env=env
    )


@pytest.mark.timeout(900)
def test_conformance(kvm_machine: Machine) -> None:
    files = sorted(str(path.relative_to(ROOT)) for path in PLATFORM_TESTS.glob("test_conformance_*.py"))
    done = kvm_machine.run(
        ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kvm", *files],
        cwd=str(ROOT),
        timeout_s=600,
    )
    assert done.status == 0 and b" passed" in done.stdout and b"skipped" not in done.stdout, done


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


@pytest.mark.timeout(SLOW_S + 120)
def test_doctor(kvm_machine: Machine) -> None:
    done = kvm_machine.run(["cloche", "doctor"], timeout_s=SLOW_S)
    assert done.status == 0 and b"SVM, nested" in done.stdout, done
    assert b"  no   " not in done.stdout.partition(b"For --platform kvm")[2], done
