"""The documents agree with the sources: files that they name exist, words have one row, the picture of the packages
matches the imports.
"""

import re
from pathlib import Path
from typing import Final

from tests.style.test_layers import ALLOWED, cycles

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "src" / "cloche"
DOCUMENTS: Final = (
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/design.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted(SOURCE.rglob("README.md"))),
)
NAMED: Final = re.compile(r"`([\w.*-]+(?:/[\w.*-]+)+\.(?:py|c|h|S|md|toml))`")


def named(text: str) -> set[str]:
    """The files that a document names with their folders."""
    return set(NAMED.findall(re.sub(r"```.*?```", "", text, flags=re.S)))


def is_there(name: str) -> bool:
    return any(any(folder.glob(name)) for folder in (ROOT, SOURCE, SOURCE.parent))


def test_files_that_documents_name_are_there() -> None:
    seen = {(document, name) for document in DOCUMENTS for name in named((ROOT / document).read_text())}
    assert len(seen) > 100
    assert sorted(pair for pair in seen if not is_there(pair[1])) == []


def test_a_file_that_is_not_there_is_found() -> None:
    assert named("`kernel/loop.py`, ```\n`a/b.py`\n``` and `fs/gone_*.py`.") == {
        "kernel/loop.py",
        "fs/gone_*.py",
    }
    assert is_there("kernel/loop.py") and not is_there("fs/gone_*.py")


def test_a_word_has_one_row() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    rows = text[text.index("## 12. Words") :].split("|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    words = [word.strip() for row in rows for word in row.split("|")[1].split(",")]
    words += [word for row in rows for word in re.findall(r"\*\*(.+?)\*\*", row)]
    assert len(words) > 15
    assert sorted(words) == sorted(set(words))
    assert not [row for row in rows if "; also " in row], "a second meaning"


def picture() -> dict[str, set[str]]:
    """The packages that each may import by the picture in ARCHITECTURE.md: all to its left."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    lines = text[text.index("Imports point left only") :].split("\n\n")[1].splitlines()
    arrows: dict[str, set[str]] = {package: set() for package in ALLOWED}
    for line in lines:
        for chain in line.split(";"):
            groups = [re.findall(r"\w+", group) for group in chain.split("←")]
            for left, right in zip(groups, groups[1:], strict=False):
                for package in right:
                    arrows[package].update(left)
    return arrows


def below(arrows: dict[str, set[str]], package: str) -> set[str]:
    """The packages that can be reached along the arrows."""
    found: set[str] = set()
    todo = [package]
    while todo:
        for target in arrows[todo.pop()] - found:
            found.add(target)
            todo.append(target)
    return found


def test_no_arrow_of_the_picture_runs_back() -> None:
    assert cycles(picture()) == []


def test_the_rules_follow_the_picture() -> None:
    """Whole packages; single modules that stand alone ("boot.spawn") are no arrows."""
    arrows = picture()
    for package, targets in ALLOWED.items():
        packages = {target for target in targets if "." not in target}
        assert packages <= below(arrows, package), package
        assert arrows[package] <= packages, package


# The formatter breaks a line that a comment makes too long, and leaves the comment behind a bracket: it belongs above.
MOVED: Final = re.compile(
    r"^( *)[^\n#]*[\[({]\n +[^\n#]*\n\1[\])}][^\n#]*  # (?!fmt:|type:|noqa)|= \(\n +[^\n#]*  # [^\n]*\n *\)\n",
    re.MULTILINE,
)


def test_no_comment_was_moved_behind_a_bracket() -> None:
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text()
        found += [f"{path.name}:{text.count(chr(10), 0, at.end()) + 1}" for at in MOVED.finditer(text)]
    assert found == []


def test_a_comment_that_was_moved_is_found() -> None:
    assert MOVED.search("class A:\n    a: int = (\n        1\n    )  # of many\n")
    assert MOVED.search("A: Final = (\n    1  # of many\n)\n")
    assert not MOVED.search("# Of many\nA: Final = 1\nB: Final = (\n    1,\n    2,\n)  # fmt: skip\n")
