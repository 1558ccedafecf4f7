"""All attempts to get out of a sandbox that may reach good.test and a few others.

They run in any sandbox (`world.World.words`); whether one has succeeded is judged outside, by the witness and the
servers (`test_bypass`), not by its own output.  Each module of them adds its own to `ATTEMPTS`.
"""

from tests.egress import attempts_messages, attempts_packets, attempts_programs
from tests.egress.attempt import ATTEMPTS, GRANTS, HARMLESS, TRICKY, Attempt

__all__ = [
    "ATTEMPTS",
    "GRANTS",
    "HARMLESS",
    "TRICKY",
    "Attempt",
    "attempts_messages",
    "attempts_packets",
    "attempts_programs",
]
