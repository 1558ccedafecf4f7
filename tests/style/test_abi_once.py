"""A constant of the ABI stands in `abi/` once; the rest of cloche imports it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import cloche

SOURCE = Path(cloche.__file__).parent
# Stand-ins for the standard library, other processors' numbers, and constants that have the same name by accident.
APART = ("abi/", "arch/", "light/")
HOMONYMS = {"EV_NONE"}


def integers(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, value, line) of the module's constants that are written as numbers."""
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            continue
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            continue
        if type(value) is int:
            yield node.target.id, value, node.lineno


def test_no_constant_repeats_one_of_abi() -> None:
    known: dict[str, int] = {}
    for path in sorted((SOURCE / "abi").glob("*.py")):
        for name, value, _line in integers(path):
            known.setdefault(name, value)
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        where = path.relative_to(SOURCE).as_posix()
        if where.startswith(APART):
            continue
        for name, value, line in integers(path):
            bare = name.lstrip("_")
            if bare not in HOMONYMS and known.get(bare) == value:
                found.append(f"{where}:{line}: {name}")
    assert found == []
