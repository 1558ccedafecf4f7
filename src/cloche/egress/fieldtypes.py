"""Checks of fields of rules that came as data."""

from typing import Any

__all__ = ["FieldError", "texts"]


class FieldError(ValueError):
    """An error in a field, with the key in a file of rules."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key: str = key


def texts(value: Any) -> list[str]:
    """A list of strings.  Raises TypeError."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("not a list of strings")
    return list(value)
