"""Counts, by user, of things that are limited per user."""


class UserCounts:
    """An amount for each user id.

    Invariant: no amount is zero or less.  A guest may become any of 2^32 users in turn, so a count of zero is removed.
    """

    def __init__(self) -> None:
        self._amounts: dict[int, int] = {}

    def of(self, uid: int) -> int:
        """The user's amount."""
        return self._amounts.get(uid, 0)

    def add(self, uid: int, amount: int) -> None:
        """Add to the user's amount; `amount` may be negative."""
        left = self._amounts.get(uid, 0) + amount
        if left > 0:
            self._amounts[uid] = left
        else:
            self._amounts.pop(uid, None)

    def is_empty(self) -> bool:
        """Whether no user has any."""
        return not self._amounts
