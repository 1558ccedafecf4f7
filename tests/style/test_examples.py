"""Examples in the pages are what they say: Python, shell, JSON and TOML. `tests/sdk/test_docs.py`, `tests/cli/test_docs.py`
and others run those that can be run.
"""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXAMPLES = [
    (page.relative_to(ROOT).as_posix(), kind, text)
    for page in PAGES
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
]


def test_there_are_some() -> None:
    assert {kind for _page, kind, _text in EXAMPLES} == {"json", "python", "sh", "toml", "yaml"}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example(number: int) -> None:
    page, kind, text = EXAMPLES[number]
    if kind == "python":
        compile(text, page, "exec")
    elif kind == "json":
        json.loads(text)
    elif kind == "toml":
        tomllib.loads(text)
    elif kind == "sh":
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{page}: {done.stderr}"
