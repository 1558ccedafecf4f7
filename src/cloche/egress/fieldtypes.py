"""Fields of rules that came as data, and what is wrong with one."""

from typing import Any

__all__ = ["FieldError", "texts"]


class FieldError(ValueError):
    """What is wrong, and with which key of a file of rules."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key: str = key


def texts(value: Any) -> list[str]:
    """A list of strings.  Raises TypeError."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("not a list of strings")
    return list(value)
