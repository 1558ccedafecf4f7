"""Requests that wait until a person approves them.

A rule with `ask` lets a request through only after an approval. The approval is remembered until the rules change,
within the rule's scope: not at all (each request asks), for the same method and path, or for everything that the rule
covers. Without an answer in time the request is refused.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Approvals"]

MAX_PENDING: Final = 64
_MAX_REMEMBERED: Final = 4096
_SHOWN: Final = 512  # characters of a target


class Approval:
    """One request that waits."""

    def __init__(self, ident: int, fields: dict[str, Any]) -> None:
        self.ident: int = ident
        self.fields: dict[str, Any] = fields
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiting: int = 0  # requests that wait for the same answer

    def to_fields(self) -> dict[str, Any]:
        """The description of the request for a person."""
        return {"id": self.ident, **self.fields}


class Approvals:
    """The approvals of one sandbox."""

    def __init__(self) -> None:
        self.pending: dict[int, Approval] = {}
        self.by_key: dict[str, Approval] = {}  # pending approvals that further requests may share
        self.remembered: set[str] = set()
        self.next_ident: int = 1
        self.on_new: Callable[[dict[str, Any]], None] | None = None

    def forget(self) -> None:
        """The rules have changed: forget approvals under the old ones."""
        self.remembered.clear()

    def answer(self, ident: int, *, is_allowed: bool) -> bool:
        """Set a person's answer; returns whether a request was waiting for it."""
        found = self.pending.get(ident)
        if found is None or found.answer.done():
            return False
        found.answer.set_result(is_allowed)
        return True

    async def ask(self, key: str, fields: dict[str, Any], seconds: float) -> str:
        """Wait for the approval of a request. Returns an empty text, or the reason for the refusal. `key`: the answer
        is remembered under it; empty: it is not remembered.
        """
        if key and key in self.remembered:
            return ""
        waiting = self.by_key.get(key) if key else None
        if waiting is None:
            if len(self.pending) >= MAX_PENDING:
                return "too many requests wait for an approval already"
            waiting = Approval(self.next_ident, {name: _shown(value) for name, value in fields.items()})
            self.next_ident += 1
            self.pending[waiting.ident] = waiting
            if key:
                self.by_key[key] = waiting
            if self.on_new is not None:
                self.on_new(waiting.to_fields())
        waiting.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                is_allowed = await asyncio.shield(waiting.answer)
        except TimeoutError:
            return f"nobody approved it within {seconds:g} seconds"
        finally:
            waiting.waiting -= 1
            if waiting.answer.done() or not waiting.waiting:
                self.pending.pop(waiting.ident, None)
                if key and self.by_key.get(key) is waiting:
                    del self.by_key[key]
        if not is_allowed:
            return "it was not approved"
        if key and len(self.remembered) < _MAX_REMEMBERED:
            self.remembered.add(key)
        return ""


def _shown(value: Any) -> Any:
    return value[:_SHOWN] if isinstance(value, str) else value
