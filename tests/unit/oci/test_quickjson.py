"""JSON by the parts in C is the same as by the standard module."""

import json
import subprocess
import sys
from typing import Any

import pytest

from cloche.oci import quickjson

VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1 << 80,
        1.5,
        -0.0,
        1e300,
        "",
        "a",
        '\u00e4\u20ac\U0001f600\udcff\n"\\',
        [],
        {},
    ),
    *([1, [2, []], {"a": {}}], {"a": [1, {"b": None}], "c": "d", "e": {}}, {"\n": [[]]}),
]
TEXTS = [
    " 1 ",
    "\t[1,\n2]\r\n",
    '{"a":{"b":[]}}',
    "NaN",
    "-Infinity",
    '"\\u00e4\\ud83d"',
    "1e5",
    '{"a":1,"a":2}',
]
BROKEN = [
    "",
    " ",
    "[",
    "1 2",
    "{a}",
    '{"a":}',
    '"\n"',
    "[1,]",
    "nul",
    "\ufeff1",
    '{"a" 1}',
    "[" * 10,
    '"\\x"',
]


def test_values() -> None:
    for value in VALUES:
        assert quickjson.dumps(value) == json.dumps(value, separators=(",", ":"))
        assert quickjson.dumps(value, "  ") == json.dumps(value, indent=2)
        assert quickjson.dumps(value, "\t") == json.dumps(value, indent="\t")
        assert quickjson.loads(json.dumps(value)) == value


def test_texts() -> None:
    for text in TEXTS:
        assert repr(quickjson.loads(text)) == repr(json.loads(text))


def test_what_is_wrong() -> None:
    for text in BROKEN:
        with pytest.raises(ValueError) as standard:
            json.loads(text)
        with pytest.raises(ValueError) as ours:
            quickjson.loads(text)
        assert str(ours.value) == str(standard.value)
    with pytest.raises(RecursionError):
        quickjson.loads("[" * 1_000_000)
    with pytest.raises(TypeError):
        quickjson.dumps({"a": object()})


def test_a_verb_imports_nothing_heavy() -> None:
    """`list`, as the installed command starts it."""
    import cloche

    here = next(iter(cloche.__path__))
    code = (
        f"import sys; sys.path[:0] = [{here + '/light'!r}]; sys.path += [{here.removesuffix('cloche')!r}]\n"
        "from cloche.oci.main import main\nmain(['--root', '/nonexistent', 'list', '-q'])\nprint(*sys.modules)"
    )
    words = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "cloche.oci.verbs" in loaded
    assert {"json", "re", "enum", "functools", "contextlib"} & loaded == set()
