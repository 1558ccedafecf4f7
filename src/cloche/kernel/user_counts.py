"""What users have of things that are limited for each of them."""


class UserCounts:
    """An amount for each user id.

    Invariant: no amount is zero or less.  A guest may be any of 2^32 users in turn, and leaves nothing behind as one.
    """

    def __init__(self) -> None:
        self._amounts: dict[int, int] = {}

    def of(self, uid: int) -> int:
        """What the user has."""
        return self._amounts.get(uid, 0)

    def add(self, uid: int, amount: int) -> None:
        """The user has more, or with a negative amount less."""
        left = self._amounts.get(uid, 0) + amount
        if left > 0:
            self._amounts[uid] = left
        else:
            self._amounts.pop(uid, None)

    def is_empty(self) -> bool:
        """Whether nobody has any."""
        return not self._amounts
