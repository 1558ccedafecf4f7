"""GVariant's text format."""

import pytest

from cloche.oci.variant import MAX_LENGTH, parse

GOOD = {
    "true": ("b", True),
    "false": ("b", False),
    "5": ("i", 5),
    "-0x10": ("i", -16),
    "1.5": ("d", 1.5),
    "uint64 7": ("t", 7),
    "@t 7": ("t", 7),
    "double 3": ("d", 3.0),
    "'a \"b\"'": ("s", 'a "b"'),
    '"a\\n\\u00e4"': ("s", "a\nä"),
    "['a', 'b']": ("as", ["a", "b"]),
    "@as []": ("as", []),
    "[byte 1, 2]": ("ay", b"\x01\x02"),
    "@au [1,2]": ("au", [1, 2]),
    "(1, 'x', true)": ("(isb)", (1, "x", True)),
    "@a(st) [('x', 5)]": ("a(st)", [("x", 5)]),
    "objectpath '/a'": ("o", "/a"),
}
BAD = [
    *(
        "",
        "tru",
        "'open",
        "[]",
        "[1, 'a']",
        "[1 2]",
        "(",
        "()",
        "@as 5",
        "@t 'x'",
        "@t -1",
        "byte 256",
        "5 6",
    ),
    *("@ 5", "@a 5", "@(i [1]", "int32 'x'", "@i true", "2147483648", "@(ii) (1,)", "'a\0b'", "nan_", "@v 5"),
    *("[" * 1000 + "]" * 1000, "@" + "a" * 100 + "s []", "'" + "x" * MAX_LENGTH + "'", "'\\uzzzz'"),
]


@pytest.mark.parametrize("text", GOOD)
def test_values(text: str) -> None:
    assert parse(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)
