"""Threads that share files: reads and mappings return the file's own bytes under any other activity
(csrc/host/sharing.c).

A few seconds, or with CLOCHE_SLOW=1 minutes, in each mode; the files are the host's, and those that change are copied up.
"""

import os
from pathlib import Path

import pytest

from tests.guest.harness import PROGRAMS, compile_program, run_cloche, run_native

SECONDS = 90 if os.environ.get("CLOCHE_SLOW") == "1" else 2


@pytest.mark.timeout(SECONDS * 4 + 120)
@pytest.mark.parametrize("patching", [(), ("--no-patch",)], ids=["patched", "trapped"])
@pytest.mark.parametrize("mm", ["direct", "strict"])
def test_reads_while_files_change(mm: str, patching: tuple[str, ...], tmp_path: Path) -> None:
    program = compile_program(PROGRAMS / "file_threads.c", tmp_path)
    first = run_native([str(program), "0.1", "1"], tmp_path)
    assert first.status == 0, first
    argv = [f"./{program.name}", str(SECONDS), "8"]
    outcome = run_cloche(argv, tmp_path, options=("--mm", mm, *patching), timeout=SECONDS * 4 + 60)
    assert outcome.status == 0 and outcome.stdout == b"every byte is right\n", outcome
