"""What docs/sdk/README.md shows is run."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "sdk" / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_run(number: int) -> None:
    given = {} if number == 0 else {"Sandbox": __import__("cloche").Sandbox}
    exec(
        compile(BLOCKS[number], f"{PAGE.name}, example {number + 1}", "exec"),
        {"__name__": "example", **given},
    )


def test_the_quick_start(capsys: pytest.CaptureFixture[str]) -> None:
    exec(BLOCKS[0], {"__name__": "example"})
    assert capsys.readouterr().out == "hello\nLinux\n 0\n"
    assert len(BLOCKS[0].splitlines()) <= 10
