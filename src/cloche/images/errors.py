"""Errors about images, each in one line."""


class ImageError(Exception):
    """An image, or a part of it, cannot be had or is refused; the text is for the user."""
