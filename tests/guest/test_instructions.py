"""Forbidden instructions in ring 3 end in the same signal as on the host, on every platform: every vector, privileged
instructions, forged frames, addresses of others.  The programs are tests/kvm/hostile; tests/kvm runs them on KVM, too.
"""

from pathlib import Path

import pytest

from tests.guest.harness import compare, compile_program
from tests.kvm.programs import HOSTILE


@pytest.mark.parametrize("source", HOSTILE, ids=[source.stem for source in HOSTILE])
def test_hostile_instructions(source: Path, tmp_path: Path) -> None:
    program = compile_program(source, tmp_path)
    compare([f"./{program.name}"], tmp_path, files=(program,))
