"""Every module can be imported, in either build, and has a docstring."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import cloche

SOURCE = Path(__file__).parents[2] / "src" / "cloche"
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(cloche.__path__, "cloche.")
    if not info.name.endswith("__mypyc")
)


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:
        # Each plugs into one package of others', which only its users have.
        if not name.startswith("cloche.integrations.") or (missing.name or "cloche").startswith("cloche"):
            raise
        pytest.skip(f"needs {missing.name}")


def test_there_are_many() -> None:
    assert len(MODULES) > 50


def test_module_docstrings() -> None:
    silent = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
