"""Nothing outside `arch` names a processor: not by an import, a constant or a string (docstrings may)."""

import ast
import re
from pathlib import Path

import cloche

SOURCE = Path(cloche.__file__).parent
NAMES = re.compile(r"x86_64|X86_64|\b[er](ax|bx|cx|dx|si|di|sp|bp|ip|flags)\b|\br(8|9|1[0-5])\b")
# Packages that run or read machine code are written for a processor: a platform, the analyst, and the constants of
# the ABI.
OF_A_PROCESSOR = (
    "arch/",
    "abi/",
    "analyst/",
    "platform/systrap_thread.py",
    "platform/filter.py",
    "platform/fake_cpu.py",
)


def named(path: Path) -> list[str]:
    """Where a module names a processor or its registers in code."""
    tree = ast.parse(path.read_text())
    documents = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        words: list[str] = []
        if isinstance(node, ast.Name):
            words = [node.id]
        elif isinstance(node, ast.Attribute):
            words = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            words = [node.module or "", *(alias.name for alias in node.names)]
        elif (
            isinstance(node, ast.Constant) and node not in documents and isinstance(node.value, (str, bytes))
        ):
            value = node.value
            words = [value.decode("latin-1") if isinstance(value, bytes) else value]
        for word in words:
            if NAMES.search(word):
                found.append(f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}: {word[:60]}")
    return found


def test_only_arch_names_a_processor() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if not path.relative_to(SOURCE).as_posix().startswith(OF_A_PROCESSOR):
            found += named(path)
    assert found == []


def test_a_name_is_found(tmp_path: Path) -> None:
    module = SOURCE / "kernel" / "loader.py"
    assert named(module) == []
    assert named(SOURCE / "arch" / "x86_64" / "registers.py")
