"""The errors of the SDK: what is raised, exported and documented is the same."""

import re
from pathlib import Path

from cloche import sdk
from cloche.sdk import errors
from cloche.sdk.errors import SandboxError

PAGE = Path(__file__).parents[3] / "docs" / "sdk" / "README.md"
PUBLIC = {
    name: each
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, SandboxError)
}


def test_all_are_exported() -> None:
    assert {name for name in PUBLIC if name not in sdk.__all__} == set()
    assert all(getattr(sdk, name) is each for name, each in PUBLIC.items())


def test_all_are_documented_with_what_they_are() -> None:
    """Each but the base has its line, which names the built-in exceptions that it is."""
    lines = re.findall(r"^\| `(\w+)` \| .* \| (.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = {name: set(re.findall(r"`(\w+)`", also)) for name, also in lines if name != "error"}
    wanted = {
        name: {base.__name__ for base in each.__bases__} - {"SandboxError"}
        for name, each in PUBLIC.items()
        if each is not SandboxError
    }
    assert found == wanted


def test_the_tree_in_the_module_has_them() -> None:
    tree = (errors.__doc__ or "").partition("\n\n")[2]
    assert set(re.findall(r"^ *(\w+)(?:  |$)", tree, re.MULTILINE)) == set(PUBLIC)
