"""JSON by the C parts of the standard library only.

The module `json` imports `re`, and with that `enum` and a dozen more: a third of the processor time of a verb, and
engines call verbs often. Anything unusual, errors included, is left to the module `json`.
"""

import _json
from typing import Any, Final

__all__ = ["dump", "dumps", "loads"]

_BLANK: Final = " \t\n\r"
_CONSTANTS: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_QUOTED: Final = _json.encode_basestring_ascii


def _constant(name: str) -> float:
    return _CONSTANTS[name]


# The attributes of a decoder that the C scanner reads (json.decoder.JSONDecoder).
_DECODER: Final[Any] = type(
    "Decoder",
    (),
    {
        "strict": True,
        "object_hook": None,
        "object_pairs_hook": None,
        "parse_float": float,
        "parse_int": int,
        "parse_constant": staticmethod(_constant),
    },
)
_scan: Final = _json.make_scanner(_DECODER)


def loads(text: str) -> Any:
    """The value.  Raises ValueError, RecursionError."""
    try:
        value, end = _scan(text, len(text) - len(text.lstrip(_BLANK)))
        if not text[end:].strip(_BLANK):
            return value
    except (StopIteration, ImportError, ValueError):
        pass
    import json

    return json.loads(text)  # which says what is wrong


def _refuse(value: Any) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def dumps(value: Any, indent: str = "") -> str:
    """As text in ASCII, with `indent` for each level, or in one line without spaces, as Go writes it."""
    if indent:
        return _pretty(value, indent, "\n")
    encode = _json.make_encoder({}, _refuse, _QUOTED, None, ":", ",", False, False, True)
    return "".join(encode(value, 0))


def _pretty(value: Any, indent: str, line: str) -> str:
    below = line + indent
    if isinstance(value, dict) and value:
        rows = [f"{_QUOTED(key)}: {_pretty(each, indent, below)}" for key, each in value.items()]
        return "{" + below + ("," + below).join(rows) + line + "}"
    if isinstance(value, list) and value:
        return "[" + below + ("," + below).join([_pretty(each, indent, below) for each in value]) + line + "]"
    return dumps(value)


def dump(value: Any, file: Any, indent: str = "") -> None:
    """Write it."""
    file.write(dumps(value, indent))
