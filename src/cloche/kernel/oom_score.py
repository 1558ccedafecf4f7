"""How willingly a process is killed when memory runs out (proc_pid_oom_score_adj(5))."""

from typing import Final

OOM_SCORE_MAX: Final = 1000


class OomScore:
    """A process's adjustment, -1000 to 1000.

    Invariant: without CAP_SYS_RESOURCE it does not fall below `_floor`, the value that a process with the capability
    has set last.
    """

    def __init__(self) -> None:
        self.adjustment: int = 0  # change it with `set`
        self._floor: int = 0

    def set(self, value: int, *, is_privileged: bool) -> bool:
        """Set the adjustment. False: it would need the capability, and nothing has changed."""
        assert -OOM_SCORE_MAX <= value <= OOM_SCORE_MAX
        if value < self._floor and not is_privileged:
            return False
        self.adjustment = value
        if is_privileged:
            self._floor = value
        return True

    def inherit(self, parent: "OomScore") -> None:
        """A child begins with its parent's."""
        self.adjustment = parent.adjustment
        self._floor = parent._floor

    def begin(self, value: int) -> None:
        """Set the initial score of a process that is started from outside."""
        self.adjustment = value
