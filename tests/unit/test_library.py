"""`cloche.library`: compiled modules come from one library, or from none where cloche is interpreted."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import cloche
from cloche.kernel import loop
from cloche.library import LIBRARY, Finder

PACKAGE = Path(cloche.__file__).parent
IS_COMPILED = not loop.__file__.endswith(".py")


def finders() -> list[Finder]:
    return [finder for finder in sys.meta_path if isinstance(finder, Finder)]


def test_no_module_has_an_extension_of_its_own() -> None:
    names = {path.name.partition(".")[0] for path in PACKAGE.rglob("*.so")}
    assert names == {"_native", "_sys"}
    assert len(list(PACKAGE.parent.glob(f"{LIBRARY}.*"))) == IS_COMPILED


def test_a_compiled_module_is_the_library_s() -> None:
    if not IS_COMPILED:
        assert finders() == [] and LIBRARY not in sys.modules
        return
    (finder,) = finders()
    spec = finder.find_spec("cloche.kernel.loop")
    assert spec is not None and spec.loader is finder
    assert finder.create_module(spec) is loop
    found = import_module("cloche.fs.nsfs")
    assert found.__spec__ is not None and found.__package__ == "cloche.fs"


@pytest.mark.parametrize(
    "name",
    ["cloche", "cloche.kernel", "cloche.cli.main", "cloche.platform._sys", "cloche.kernel.none", "os.path"],
)
def test_what_is_not_compiled_is_left_to_others(name: str) -> None:
    assert [finder.find_spec(name) for finder in finders()] == [None] * len(finders())


def test_the_library_of_another_cloche_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its modules would stand among interpreted ones of this, which may be of another version."""
    other = ModuleType(LIBRARY)
    other.__file__ = str(tmp_path / f"{LIBRARY}.so")
    vars(other)["init_cloche___kernel___loop"] = object()
    monkeypatch.setitem(sys.modules, LIBRARY, other)
    finder = Finder()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    assert finder.find_spec("cloche.kernel.loop") is None
    assert finder not in sys.meta_path
