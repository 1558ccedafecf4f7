"""Sandboxes that keep few names of lower files: programs do not notice, and large trees fit into little memory."""

import os
import shutil
from pathlib import Path

import pytest

from tests.guest.harness import run_cloche, run_native
from tests.guest.random_names import CALLS, make_tree

SCRIPT = Path(__file__).parent / "random_names.py"
SEEDS = 40 if os.environ.get("CLOCHE_SLOW") == "1" else 3
FEW = "100"  # names that are kept: CLOCHE_NAMES
LARGE = 40_000
OPTIONS: dict[str, list[str]] = {"layer": [], "cow": ["-v", "{0}:{0}:cow"]}


@pytest.mark.parametrize("kind", OPTIONS)
def test_random_names(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCHE_NAMES", FEW)
    outcomes = []
    argv = ["/usr/bin/python3", SCRIPT.name, "0", str(SEEDS)]
    for name in ("native", "cloche"):
        folder = tmp_path / name
        for seed in range(SEEDS):
            make_tree(str(folder / str(seed)))
        shutil.copy(SCRIPT, folder)
        options = tuple(each.format(folder) for each in OPTIONS[kind])
        outcomes.append(
            run_native(argv, folder) if name == "native" else run_cloche(argv, folder, options=options)
        )
    native, cloche = outcomes
    assert native.status == 0 and native.stdout.count(b"\n") == SEEDS * CALLS, native
    for line, mine in zip(native.stdout.splitlines(), cloche.stdout.splitlines(), strict=False):
        assert mine == line
    assert cloche == native


def test_a_large_tree_fits_into_little_memory(tmp_path: Path) -> None:
    for d in range(LARGE // 100):
        (tmp_path / f"d{d}").mkdir()
        for f in range(100):
            os.close(os.open(tmp_path / f"d{d}" / f"file-of-a-large-tree-{f}", os.O_CREAT | os.O_WRONLY))
    script = "tar cf - . | tar tf - | grep -c file"
    done = run_cloche(["sh", "-c", script], tmp_path, options=("--memory", "32m"))
    assert (done.status, done.stdout, done.stderr) == (0, b"%d\n" % LARGE, b"")
