"""Fields of config.json, checked for their type and within bounds."""

from typing import Any, Final

from cloche.oci.errors import OciError

MAX_ITEMS: Final = 1 << 16


def take(data: dict[str, Any], name: str, kind: type, where: str, default: Any = None) -> Any:
    """A field of a type; the default if it is missing or null.  Raises OciError."""
    value: Any = data.get(name)
    if value is None:
        return default
    wrong: bool = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    if wrong:
        names = {str: "a string", int: "a number", bool: "true or false", list: "a list", dict: "an object"}
        raise OciError(f"config.json: {where}{name} is not {names[kind]}")
    if kind is str and "\0" in value:
        raise OciError(f"config.json: {where}{name} has a NUL in it")
    if kind is list and len(value) > MAX_ITEMS:
        raise OciError(f"config.json: {where}{name} has more than {MAX_ITEMS} items")
    return value


def take_text(data: dict[str, Any], name: str, where: str) -> str:
    """A string; empty if it is missing."""
    value: str = take(data, name, str, where, "")
    return value


def take_int(data: dict[str, Any], name: str, where: str, default: int, low: int, high: int) -> int:
    """A number in a range."""
    value: int = take(data, name, int, where, default)
    if not low <= value <= high:
        raise OciError(f"config.json: {where}{name} is out of range")
    return value


def take_objects(data: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """A list of objects."""
    found: list[dict[str, Any]] = []
    for value in take(data, name, list, where, []):
        if not isinstance(value, dict):
            raise OciError(f"config.json: {where}{name} has something that is not an object")
        found.append(value)
    return found


def take_strings(data: dict[str, Any], name: str, where: str) -> list[str]:
    """A list of strings."""
    found: list[str] = []
    for value in take(data, name, list, where, []):
        if not isinstance(value, str) or "\0" in value:
            raise OciError(f"config.json: {where}{name} has something that is not a string")
        found.append(value)
    return found
