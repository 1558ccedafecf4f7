"""The loop of the platform kvm with fakes for the host: returns of KVM_RUN are forged, and the loop's requests are
checked.

Needs no /dev/kvm: kvm_loop.c includes the loop's own sources.
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cloche.platform.layout import VM_FD

HERE: Final = Path(__file__).parent
CSRC: Final = HERE.parents[2] / "csrc"
NO_ROOM: Final = 77  # the addresses are taken
RETURNS: Final = 100_000  # of KVM_RUN, for each seed
KERNEL: Final = 128  # SI_KERNEL
RIP: Final = 0x1234
# Of exceptions that ring 3 can cause: signal, code, address (arch/x86/kernel/traps.c).
SIGNALS: Final = {
    0: (signal.SIGFPE, 1, RIP),  # #DE: FPE_INTDIV
    1: (signal.SIGTRAP, 1, RIP),  # #DB: TRAP_BRKPT, as of icebp
    3: (signal.SIGTRAP, KERNEL, 0),  # #BP
    4: (signal.SIGSEGV, KERNEL, 0),  # #OF
    6: (signal.SIGILL, 2, RIP),  # #UD: ILL_ILLOPN
    11: (signal.SIGBUS, KERNEL, 0),  # #NP
    12: (signal.SIGBUS, KERNEL, 0),  # #SS
    13: (signal.SIGSEGV, KERNEL, 0),  # #GP
    17: (signal.SIGBUS, 1, 0),  # #AC: BUS_ADRALN
}
FLAGS: Final = (
    "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-DKVM", "-mfsgsbase", "-fno-builtin", "-static", "-no-pie", "-fno-pie",
    "-fno-stack-protector",
    "-D__builtin_ia32_wrfsbase64(base)=((void)(base))",  # the test's own threads have theirs
    "-D__builtin_ia32_wrgsbase64(base)=((void)(base))",
)  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not there")
    folder = tmp_path_factory.mktemp("loop")
    subprocess.run([sys.executable, "-B", str(CSRC / "generate.py"), str(folder)], check=True)
    includes = [f"-I{CSRC / 'stub'}", f"-I{CSRC / 'kvm'}", f"-I{folder}"]
    sources = [str(HERE / "kvm_loop.c"), str(CSRC / "stub" / "stub.c")]
    subprocess.run(["gcc", *FLAGS, *includes, "-o", str(folder / "kvm_loop"), *sources], check=True)
    return folder / "kvm_loop"


def run(program: Path, *words: str) -> str:
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == NO_ROOM:
        pytest.skip("the loop's addresses are taken")
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:])
    return done.stdout


@pytest.mark.parametrize("seed", range(1, 4))
def test_forged_returns(program: Path, seed: int) -> None:
    """No host call that the stub of systrap may not make, no write beside the guest's memory, no table that is spoilt."""
    said = run(program, "fuzz", str(RETURNS), str(seed))
    assert int(said.split()[1].rstrip(",")) >= RETURNS, said


def test_blocks_and_tables_are_given_back(program: Path) -> None:
    """20,000 mappings far apart, one after the other; and out of blocks, or of tables, mmap is ENOMEM until some are gone."""
    assert run(program, "far").endswith("all is well\n")


def test_signals_of_exceptions(program: Path) -> None:
    """Also of those that an emulated processor never raises, like #AC."""
    lines = [line.split() for line in run(program, "vectors").splitlines()]
    found = {int(vector): (int(number), int(code), int(at, 16)) for vector, number, code, at in lines}
    assert {vector: found[vector] for vector in SIGNALS} == SIGNALS


def test_a_stop_while_a_machine_is_made(program: Path) -> None:
    """KVM_CREATE_VM is EINTR then, and made again: the process had ended by SIGSYS."""
    assert run(program, "stopped") == f"machine {VM_FD}\n"


def test_no_memory_of_the_host(program: Path) -> None:
    """An end without a signal, for which the sentry puts SIGKILL: it had been SIGSYS."""
    assert run(program, "memory") == "KVM_RUN: exit_group\nKVM_CREATE_VM: exit_group\n"
