"""Code that passes mypy and the interpreter, and breaks once mypyc has compiled it.

`except A as error: … except B as error:` in one function: mypyc gives the variable the type of the first, so
that the second raises TypeError ("A object expected; got B").  A subclass after its base is fine.
"""

import ast
import builtins
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[2] / "src" / "cloche"


def caught(function: ast.FunctionDef) -> dict[str, list[str]]:
    """Variable -> the types of the exceptions that it names, in order, without those of nested functions."""
    out: dict[str, list[str]] = {}
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        if isinstance(node, ast.ExceptHandler) and node.name is not None and node.type is not None:
            out.setdefault(node.name, []).append(ast.unparse(node.type))
        todo[:0] = list(ast.iter_child_nodes(node))
    return out


def is_base(base: str, name: str) -> bool:
    """Whether the builtin exception `base` is `name` or a base of it."""
    if base == name:
        return True
    first, second = getattr(builtins, base, None), getattr(builtins, name, None)
    return isinstance(first, type) and isinstance(second, type) and issubclass(second, first)


def violations(text: str, where: str) -> list[str]:
    out: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            for variable, types in caught(node).items():
                out.extend(
                    f"{where}:{node.lineno} {node.name}: `{variable}` is a {types[0]} and a {other}"
                    for other in types[1:]
                    if not is_base(types[0], other)
                )
    return out


def test_one_variable_names_one_type_of_exception() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        found.extend(violations(path.read_text(), path.relative_to(SOURCE).as_posix()))
    assert found == []


def test_the_check_finds_it() -> None:
    bad = "def f():\n try: g()\n except A as e: pass\n except B as e: pass\n"
    assert violations(bad, "x") == ["x:1 f: `e` is a A and a B"]
    fine = "def f():\n try: g()\n except OSError as e: pass\n try: g()\n except PermissionError as e: pass\n"
    assert violations(fine, "x") == []
