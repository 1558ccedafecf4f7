"""What models are shown of long texts."""

from cloche.integrations.tools import SHOWN_CHARACTERS, ends_of, shortened


def test_ends_of_what_comes_in_pieces() -> None:
    """As of the whole, wherever the pieces are cut: also amid a character."""
    for count in (0, 1, SHOWN_CHARACTERS // 3, SHOWN_CHARACTERS // 3 + 1, SHOWN_CHARACTERS):
        text = "aé…" * count
        data = text.encode()
        for size in (7, 9973, len(data) + 1):
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            assert ends_of(pieces) == shortened(text)
