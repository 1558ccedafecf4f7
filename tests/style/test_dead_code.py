"""No code that nothing uses, by the tool that pyproject.toml configures (`[tool.vulture]`)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_everything_is_used() -> None:
    pytest.importorskip("vulture")
    done = subprocess.run(
        [sys.executable, "-m", "vulture"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tool_sees_dead_code(tmp_path: Path) -> None:
    """With the same names passed over, it still finds a function that is never called."""
    pytest.importorskip("vulture")
    (tmp_path / "dead.py").write_text("def never_called() -> None:\n    pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "vulture", str(tmp_path), "--config", str(ROOT / "pyproject.toml")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 3 and "never_called" in done.stdout, done
