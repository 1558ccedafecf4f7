"""The Connect protocol with JSON messages: its errors, and the envelopes of streams."""

import json
from collections.abc import AsyncIterator
from struct import Struct
from typing import Any, Final

MAX_MESSAGE_BYTES: Final = 16 << 20
END_OF_STREAM: Final = 2
_HEAD: Final = Struct(">BI")

# Code -> HTTP status of a unary call's error (the specification's table).
STATUSES: Final[dict[str, int]] = {
    "canceled": 499,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "unauthenticated": 401,
}


class RpcError(Exception):
    """A call fails with this code, and a text that says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code: str = code
        self.message: str = message

    def fields(self) -> dict[str, str]:
        """The error's JSON."""
        return {"code": self.code, "message": self.message}


def parsed(data: bytes | bytearray) -> Any:
    """What JSON says.  Raises ValueError, also for texts that are none (half of a surrogate pair), RecursionError."""
    found = json.loads(data)
    if b"\\ud" in data.lower():
        json.dumps(found, ensure_ascii=False).encode()
    return found


def message_of(data: bytes) -> dict[str, Any]:
    """A request's fields.  Raises RpcError."""
    try:
        found = parsed(data) if data else {}
    except (ValueError, RecursionError):
        raise RpcError("invalid_argument", "the message is not JSON") from None
    if not isinstance(found, dict):
        raise RpcError("invalid_argument", "the message is not an object")
    return found


def envelope(fields: dict[str, Any]) -> bytes:
    """One message of a stream."""
    body = json.dumps(fields, separators=(",", ":")).encode()
    return _HEAD.pack(0, len(body)) + body


def end(error: RpcError | None = None) -> bytes:
    """The last message of a stream."""
    body = json.dumps({"error": error.fields()} if error is not None else {}).encode()
    return _HEAD.pack(END_OF_STREAM, len(body)) + body


async def envelopes(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The messages of a client's stream.  Raises RpcError."""
    buffer = bytearray()
    async for piece in pieces:
        buffer += piece
        while len(buffer) >= _HEAD.size:
            flags, length = _HEAD.unpack_from(buffer)
            if length > MAX_MESSAGE_BYTES:
                raise RpcError("resource_exhausted", f"a message of more than {MAX_MESSAGE_BYTES} bytes")
            if flags & 1:
                raise RpcError("unimplemented", "messages are not compressed here")
            if len(buffer) < _HEAD.size + length:
                break
            body = bytes(buffer[_HEAD.size : _HEAD.size + length])
            del buffer[: _HEAD.size + length]
            if not flags & END_OF_STREAM:
                yield message_of(body)
