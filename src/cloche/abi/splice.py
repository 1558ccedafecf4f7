"""Flags of splice(2), tee(2), vmsplice(2)."""

from typing import Final

SPLICE_F_MOVE: Final = 1
SPLICE_F_NONBLOCK: Final = 2
SPLICE_F_MORE: Final = 4
SPLICE_F_GIFT: Final = 8
