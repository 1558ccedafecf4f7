"""Errors of the OCI runtime: one clear line, in the words that engines look for."""


class OciError(Exception):
    """A command cannot be done; the text is what is printed and logged, `status` what it exits with."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status: int = status
