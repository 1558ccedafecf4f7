"""Work of the kernel that no call waits for, done bit by bit between the calls of guests (I8)."""


class Chore:
    """Work that is done in steps of about a millisecond."""

    def step(self) -> bool:
        """Do some of it; whether there is more."""
        raise NotImplementedError
