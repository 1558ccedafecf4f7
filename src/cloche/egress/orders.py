"""Requests of the monitor: to show and change rules, the log, approvals.

They come over the monitor's socket (`wire.protocol`), on behalf of the monitor's clients.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from cloche.egress.approvals import Approvals
from cloche.egress.audit import Audit
from cloche.egress.policy import Policy, PolicyError, Rule
from cloche.wire import protocol
from cloche.wire.channel import Channel
from cloche.wire.protocol import Message, ProtocolError

__all__ = ["Orders"]


class Orders:
    """Serves the monitor's socket."""

    def __init__(
        self,
        control: Channel | None,
        audit: Audit,
        approvals: Approvals,
        policy: Callable[[], Policy],
        change: Callable[[Policy], int],
    ) -> None:
        """`change` puts other rules in force, returns how many connections were cut, and raises PolicyError."""
        self.control: Channel | None = control
        self.audit: Audit = audit
        self.approvals: Approvals = approvals
        self.policy: Callable[[], Policy] = policy
        self.change: Callable[[Policy], int] = change
        # requests that follow the log: id, number of the last line that was sent
        self.following: list[tuple[int, int]] = []
        self.asking: list[int] = []  # requests that follow pending approvals
        approvals.on_new = self._tell_approver

    def start(self) -> None:
        """Watch the socket."""
        if self.control is not None:
            asyncio.get_running_loop().add_reader(self.control.fileno(), self._read)

    def close(self) -> None:
        """Send the rest, and close."""
        if self.control is not None:
            asyncio.get_running_loop().remove_reader(self.control.fileno())
            self.tell_followers()
            self.control.close()

    def _read(self) -> None:
        control = self.control
        assert control is not None
        try:
            messages = control.receive()
        except (ProtocolError, OSError):
            messages = None
        if messages is None:  # the monitor is gone: the sandbox ends
            asyncio.get_running_loop().remove_reader(control.fileno())
            return
        for message in messages:
            message.close_fds()
            if message.kind == protocol.REQUEST:
                self._order(message)
            elif message.kind == protocol.CANCEL:
                self.following = [each for each in self.following if each[0] != message.ident]
                self.asking = [each for each in self.asking if each != message.ident]

    def _tell(self, frame: bytes) -> None:
        """Send a frame to the monitor, or queue it."""
        control = self.control
        if control is None:
            return
        loop = asyncio.get_running_loop()
        try:
            control.send(frame)
        except ProtocolError:
            self.following, self.asking = [], []  # the monitor does not read
        if control.wants_write():
            loop.add_writer(control.fileno(), self._flush)

    def _flush(self) -> None:
        control = self.control
        if control is not None:
            control.flush()
            if not control.wants_write():
                asyncio.get_running_loop().remove_writer(control.fileno())

    def _order(self, message: Message) -> None:
        fields: dict[str, Any] = dict(message.fields)
        try:
            operation = fields.get("operation")
            if operation == "show":
                shown = self.policy().to_fields(shows_secrets=False)
                self._tell(protocol.reply(message.ident, {"policy": shown}))
            elif operation in ("set", "add", "remove"):
                changed, missing = self._changed(str(operation), fields)
                if missing:
                    raise PolicyError(f"there is no such rule: {missing}")
                cut = self.change(changed)
                self._tell(protocol.reply(message.ident, {"cut": cut, "rules": len(changed.rules)}))
            elif operation == "log":
                for _number, line in self.audit.since(0):
                    self._tell(protocol.event(message.ident, "line", {"text": line}))
                if fields.get("follow"):
                    self.following.append((message.ident, self.audit.count))
                else:
                    self._tell(protocol.reply(message.ident, {}))
            elif operation == "approvals":
                for each in self.approvals.pending.values():
                    self._tell(protocol.event(message.ident, "approval", each.to_fields()))
                if fields.get("follow"):
                    self.asking.append(message.ident)
                else:
                    self._tell(protocol.reply(message.ident, {}))
            elif operation == "approve":
                ident = fields.get("id")
                if not isinstance(ident, int) or not self.approvals.answer(
                    ident, is_allowed=fields.get("allow") is True
                ):
                    raise PolicyError("nothing waits for this approval (any more)")
                self._tell(protocol.reply(message.ident, {}))
            else:
                raise PolicyError("an unknown operation")
        except PolicyError as error:
            self._tell(protocol.error(message.ident, 125, str(error)))

    def _changed(self, operation: str, fields: dict[str, Any]) -> tuple[Policy, str]:
        """The policy after a change; or the text of a rule that does not exist. Raises PolicyError."""
        if operation == "set":
            whole = Policy.from_fields(fields.get("policy"))
            whole.within = self.policy().within  # whose rules they are is not theirs to change
            return whole, ""
        made = self.policy().copy()
        rules = fields.get("rules")
        if not isinstance(rules, list):
            raise PolicyError("no rules")
        for each in rules:
            rule = Rule.from_fields(each)
            same = [other for other in made.rules if other.is_like(rule)]
            if operation == "remove":
                if not same:
                    return made, rule.text()
                made.rules = [other for other in made.rules if other not in same]
            elif not same:
                made.rules.append(rule)
        made.check()
        return made, ""

    def _tell_approver(self, fields: dict[str, Any]) -> None:
        for ident in self.asking:
            self._tell(protocol.event(ident, "approval", fields))

    def tell_followers(self) -> None:
        """Send followers the new lines of the log."""
        if not self.following:
            return
        kept: list[tuple[int, int]] = []
        for ident, last in self.following:
            for _number, line in self.audit.since(last):
                self._tell(protocol.event(ident, "line", {"text": line}))
            kept.append((ident, self.audit.count))
        self.following = kept
