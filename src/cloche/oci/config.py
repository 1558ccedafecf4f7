"""JSON files of engines, read within bounds; what is in them is checked elsewhere (`spec`)."""

import os
from typing import Any, Final

from cloche.oci import quickjson as json
from cloche.oci.errors import OciError

__all__ = ["MAX_CONFIG_BYTES", "parse_json", "read_json"]

MAX_CONFIG_BYTES: Final = 16 << 20


def read_json(path: str) -> dict[str, Any]:
    """An object out of a file, which is not too long.  Raises OciError."""
    shown = os.path.basename(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        if shown == "config.json":
            raise OciError(f"JSON specification file {path} not found") from None
        raise OciError(f"{path}: no such file or directory") from None
    except OSError as error:
        raise OciError(f"{path}: {error.strerror}") from None
    return parse_json(raw, shown)


def parse_json(raw: bytes, shown: str) -> dict[str, Any]:
    """An object out of bytes.  Raises OciError."""
    if len(raw) > MAX_CONFIG_BYTES:
        raise OciError(f"{shown} is longer than {MAX_CONFIG_BYTES >> 20} MiB")
    try:
        data = json.loads(raw.decode("utf-8", "surrogateescape"))
    except RecursionError:
        raise OciError(f"{shown} is nested too deeply") from None
    except ValueError as error:
        raise OciError(f"{shown} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise OciError(f"{shown} is not an object")
    return data
