"""`cloche.library`: compiled modules come from one library, or from none where cloche is interpreted."""

import importlib.util
import os
import py_compile
import sys
from importlib import import_module
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

import cloche
from cloche.kernel import loop
from cloche.library import LIBRARY, Finder, Sources

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


def sources() -> Sources:
    (finder,) = [each for each in sys.meta_path if isinstance(each, Sources)]
    return finder


def test_an_interpreted_module_is_as_the_standard_finders_make_it() -> None:
    name = "cloche.oci.main"
    found = sources().find_spec(name, [str(PACKAGE / "oci")])
    expected = PathFinder.find_spec(name, [str(PACKAGE / "oci")])
    assert found is not None and expected is not None
    assert (found.name, found.origin, found.cached) == (expected.name, expected.origin, expected.cached)
    assert found.has_location and found.parent == "cloche.oci" and found.submodule_search_locations is None
    assert isinstance(found.loader, SourceFileLoader) and isinstance(expected.loader, SourceFileLoader)
    assert found.loader.get_code(name) == expected.loader.get_code(name)


@pytest.mark.parametrize(
    "name",
    ["cloche", "cloche.oci", "cloche.platform._sys", "cloche.kernel.loop", "cloche.oci.none", "os.path"],
)
def test_what_is_no_interpreted_module_is_left_to_others(name: str) -> None:
    path = PACKAGE.parent.joinpath(*name.split(".")[:-1])
    assert sources().find_spec(name, [str(path)]) is None


def test_a_changed_source_is_compiled_again(tmp_path: Path) -> None:
    """As the import system does it: by the time of the last change, and the length."""
    path = tmp_path / "oci" / "some.py"
    path.parent.mkdir()

    def value() -> object:
        found = sources().find_spec("cloche.oci.some", [str(path.parent)])
        assert found is not None and isinstance(found.loader, SourceFileLoader)
        code = found.loader.get_code("cloche.oci.some")
        assert code is not None
        names: dict[str, object] = {}
        exec(code, names)
        return names["VALUE"]

    path.write_text("VALUE = 1\n")
    os.utime(path, (1, 1))
    py_compile.compile(str(path))
    path.write_text("VALUE = 2\n")
    os.utime(path, (1, 1))
    assert value() == 1  # nothing says that it has changed
    os.utime(path, (2, 2))
    assert value() == 2
    path.write_text("VALUE = 33\n")
    os.utime(path, (2, 2))
    assert value() == 33
    cached = Path(importlib.util.cache_from_source(str(path)))
    cached.write_bytes(cached.read_bytes()[:30] if cached.exists() else b"")
    assert value() == 33
