"""The examples in the pages of the SDK are run."""

import re
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "sdk"
BLOCK = re.compile(r"(?:^<!-- needs: (\S+) -->\n)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """(what it needs, code) of each."""
    return [
        (found[1] or "", found[2]) for found in BLOCK.finditer((FOLDER / page).read_text(encoding="utf-8"))
    ]


def run_block(page: str, number: int, given: dict[str, object]) -> None:
    needed, code = blocks(page)[number]
    if needed and shutil.which(needed) is None:
        pytest.skip(f"needs {needed}")
    exec(compile(code, f"{page}, example {number + 1}", "exec"), {"__name__": "example", **given})


@pytest.fixture(autouse=True)
def _own_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What examples keep is kept here."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


@pytest.mark.parametrize("number", range(len(blocks("README.md"))))
def test_the_examples_run(number: int) -> None:
    run_block("README.md", number, {} if number == 0 else {"Sandbox": __import__("cloche").Sandbox})


def test_the_quick_start(capsys: pytest.CaptureFixture[str]) -> None:
    run_block("README.md", 0, {})
    assert capsys.readouterr().out == "hello\nLinux\n 0\n"
    assert len(blocks("README.md")[0][1].splitlines()) <= 10


SAID = [
    "None \n[1, 2, 3] \nIndexError: list index out of range\n",
    "True\n ['/opt/site',",
    "98 of 100\n",
    "['notes.txt'] ['one', 'two']\n",
    "42",
    "['999', '998', '997', '996', '995', '994', '993', '992']\n",
    "stdout fetch\n",
    "ready\n [True]\n",
    "from inside\n",
    "good 0 False False 45\n",
    "True 0\n",
    "False True 1\n",
]


@pytest.mark.parametrize("number", range(len(SAID)))
def test_the_recipes(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    run_block("recipes.md", number, {})
    assert SAID[number] in capsys.readouterr().out


def test_there_are_twelve() -> None:
    assert len(blocks("recipes.md")) == len(SAID) == 12
