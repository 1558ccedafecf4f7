"""The machine boots, has a /dev/kvm, and runs cloche; and returns the output and status of commands."""

from typing import Final

from tests.kvm.machine import Machine

KVM_GET_API_VERSION: Final = 0xAE00
ASK_VERSION: Final = f"""
import fcntl, os
fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
print(fcntl.ioctl(fd, {KVM_GET_API_VERSION}))
"""


def test_kvm_answers(kvm_machine: Machine) -> None:
    done = kvm_machine.run(["python", "-c", ASK_VERSION])
    assert (done.status, done.stdout) == (0, b"12\n"), done


def test_cloche_runs_there_with_systrap(kvm_machine: Machine) -> None:
    done = kvm_machine.run(["cloche", "run", "--", "bash", "-c", "echo $((6 * 7)); exit 5"])
    assert (done.status, done.stdout) == (5, b"42\n"), done


def test_streams_and_status(kvm_machine: Machine) -> None:
    done = kvm_machine.run(["bash", "-c", "cat; echo error >&2; exit 9"], stdin=bytes(range(256)) * 3000)
    assert (done.status, done.stdout, done.stderr) == (9, bytes(range(256)) * 3000, b"error\n")


def test_signal_and_missing_program(kvm_machine: Machine) -> None:
    assert kvm_machine.run(["bash", "-c", "kill -9 $$"]).status == 128 + 9
    assert kvm_machine.run(["/no/such/program"]).status == 127


def test_a_command_that_does_not_end_is_ended(kvm_machine: Machine) -> None:
    done = kvm_machine.run(["bash", "-c", "echo begun; cat <(sleep 1000)"], timeout_s=10)
    assert (done.status, done.stdout) == (124, b"begun\n"), done


def test_files_and_another_user(kvm_machine: Machine) -> None:
    kvm_machine.put("/tmp/deep/er/script", b"#!/bin/sh\nid -u\n", 0o755)
    done = kvm_machine.run(["/tmp/deep/er/script"], uid=1000)
    assert (done.status, done.stdout) == (0, b"1000\n"), done
