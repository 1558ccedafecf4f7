"""The measurements of `bench` run where nothing but cloche is installed, as the README's install leaves it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if path.stem != "__init__")
# Refuses modules of distributions that cloche does not require, then imports the module that is named.
SCRIPT = r"""
import importlib, importlib.metadata, re, sys
def closure(name, found):
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found: return found
    found.add(name)
    try: requires = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError: return found
    for each in requires:
        if "extra ==" not in each: closure(re.match(r"[A-Za-z0-9._-]+", each)[0], found)
    return found
required = closure("cloche", set())
def is_required(owners): return any(re.sub(r"[-_.]+", "-", owner).lower() in required for owner in owners)
for module, owners in importlib.metadata.packages_distributions().items():
    if module not in sys.modules and not is_required(owners): sys.modules[module] = None
assert sys.modules.get("pytest", 0) is None
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("module", MODULES)
def test_needs_no_package_of_the_tests(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"bench.{module}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
