"""What `Sandbox.create` takes, in the words of `cloche run`, which knows and checks the rest (`cli.hosted`)."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cloche.sdk.errors import InvalidArgument

_MODES: Final = ("ro", "rw", "cow")
PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(frozen=True)
class Mount:
    """A directory or file of the host, shown inside at `target`.

    `mode`: "cow", the default, keeps what is written inside the sandbox; "ro" refuses writes; "rw" lets them reach the
    host.
    """

    source: str | os.PathLike[str]
    target: str
    mode: str = "cow"


def _mount_word(mount: "Mount | str") -> str:
    if isinstance(mount, str):
        parts = mount.split(":")
        if len(parts) == 3 and parts[2] in _MODES:
            mount = Mount(parts[0], parts[1], parts[2])
        elif len(parts) == 2 and _is_volume(parts[0]):
            return mount
        elif len(parts) == 2:
            mount = Mount(parts[0], parts[1])
        else:
            raise InvalidArgument(f"mounts: {mount!r}: write SOURCE:TARGET[:ro|rw|cow], or a Mount")
    if mount.mode not in _MODES:
        raise InvalidArgument(f"mounts: {mount.mode!r} is no mode; use one of {', '.join(_MODES)}")
    source = os.fspath(mount.source)
    if not source or ":" in source or ":" in mount.target:
        raise InvalidArgument(f"mounts: {mount}: paths are not empty, and have no colons")
    path = source if _is_volume(source) else os.path.abspath(source)
    return f"{path}:{mount.target}:{mount.mode}"


def _is_volume(source: str) -> bool:
    """Whether it is the name of a volume: of nothing that is here."""
    return "/" not in source and source not in ("", ".", "..") and not os.path.exists(source)


def _port_word(port: int | str) -> str:
    return f"127.0.0.1::{port}" if isinstance(port, int) else port


def _texts(what: str, found: Sequence[str]) -> Sequence[str]:
    """A sequence that is not a text by mistake.  Raises InvalidArgument."""
    if isinstance(found, str):
        raise InvalidArgument(f"{what}: {found!r}: a list of texts, as [{found!r}]")
    return found


def size_word(size: int | str) -> str:
    """A size for --memory and its kin: a number is bytes."""
    return str(size)


def user_word(user: int | str) -> str:
    """A user for -u: a number, or "UID:GID"."""
    text = str(user)
    if text == "root":
        return "0:0"
    if not re.fullmatch(r"\d+(:\d+)?", text, re.ASCII):
        raise InvalidArgument(f"user: {user!r}: write a number, 'UID:GID' or 'root'")
    return text


def _user_of(image: str | None, user: int | str) -> str:
    """For -u; an image knows its users by name, too.  Raises InvalidArgument."""
    return user_word(user) if image is None else str(user)


def merged_env(env: Mapping[str, str] | None, envs: Mapping[str, str] | None) -> dict[str, str]:
    """`env`, and its other name `envs`, as E2B calls it."""
    merged: dict[str, str] = {**(envs or {}), **(env or {})}
    pairs: list[tuple[object, object]] = list(merged.items())
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(f"env: {key!r}: names and values are text; use str()")
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise InvalidArgument(f"env: {key!r}: a name is not empty and has no '='; nothing has NUL")
    return merged


def env_items(env: Mapping[str, str] | None, envs: Mapping[str, str] | None) -> list[bytes]:
    """Variables for a request."""
    return [os.fsencode(f"{key}={value}") for key, value in merged_env(env, envs).items()]


class Options:
    """Everything that `create` was given."""

    def __init__(
        self,
        *,
        rootfs: str | os.PathLike[str] | None = None,
        image: str | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: int | str | None = None,
        memory: int | str | None = None,
        cpus: float | None = None,
        pids: int | None = None,
        mounts: Sequence[Mount | str] = (),
        ports: Sequence[int | str] = (),
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        network: Sequence[str] | str = (),
        hostname: str | None = None,
        read_only: bool = False,
        metadata: Mapping[str, str] | None = None,
        name: str | None = None,
        leash: bool = True,
        root: str = "",
        options: Sequence[str] = (),
    ) -> None:
        """Raises InvalidArgument."""
        self.metadata: dict[str, str] = dict(metadata or {})
        self.name: str = name or ""
        self.is_leashed: bool = leash
        self.root: str = os.path.abspath(root) if root else ""
        words: list[str] = []

        def add(option: str, value: object) -> None:
            if value is not None:
                words.append(f"{option}={value}")

        add("--rootfs", os.path.abspath(rootfs) if rootfs is not None else None)
        add("--image", image)
        add("--timeout", timeout)
        add("--workdir", cwd)
        add("--user", _user_of(image, user) if user is not None else None)
        add("--memory", size_word(memory) if memory is not None else None)
        add("--cpus", cpus)
        add("--pids", pids)
        add("--hostname", hostname)
        for key, value in merged_env(env, envs).items():
            add("--env", f"{key}={value}")
        for mount in mounts:
            add("--volume", _mount_word(mount))
        for port in ports:
            add("--publish", _port_word(port))
        for host in _texts("allow", allow):
            add("--allow", host)
        for host in _texts("deny", deny):
            add("--deny", host)
        for rules in [network] if isinstance(network, str) else network:
            add("--net", rules)
        if read_only:
            words.append("--read-only")
        self.words: list[bytes] = [os.fsencode(word) for word in [*words, *options]]
