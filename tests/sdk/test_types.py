"""The verdict of a user's type checker on a program that uses every method."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloche.sdk import CreateOptions, aio, sync

PROGRAM = Path(__file__).parent / "typed_program.py"
CLASSES = tuple(
    name.removeprefix("Async") for name in vars(aio) if name.startswith("Async") and hasattr(sync, name[5:])
)


def test_it_uses_every_method() -> None:
    text = PROGRAM.read_text()
    for name in CLASSES:
        for front in (getattr(sync, name), getattr(aio, f"Async{name}")):
            missing = [each for each in dir(front) if not each.startswith("_") and f".{each}" not in text]
            assert missing == [], front
    assert [each for each in CreateOptions.__annotations__ if f" {each}=" not in text] == []


def test_mypy(tmp_path: Path) -> None:
    """The installed package has its types (py.typed); the copy is a user's, outside of this tree."""
    copy = shutil.copy(PROGRAM, tmp_path / "program.py")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            f"--cache-dir={tmp_path / 'cache'}",
            copy,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright(tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("needs node and npm")
    try:
        installed = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "pyright@1"],
            cwd=tmp_path,
            capture_output=True,
            timeout=200,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("needs npm's registry")
    if installed.returncode != 0:
        pytest.skip("needs npm's registry")
    shutil.copy(PROGRAM, tmp_path / "program.py")
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "include": ["program.py"]})
    )
    done = subprocess.run(
        [node, "node_modules/pyright/index.js", "--pythonpath", sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
