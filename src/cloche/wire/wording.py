"""Words that several processes' messages to users need."""

__all__ = ["counted"]


def counted(number: int, word: str) -> str:
    """`1 rule`, `2 rules`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
