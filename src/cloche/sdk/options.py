"""The arguments of `Sandbox.create`, turned into options of `cloche run`, whose code checks them (`cli.hosted`)."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from cloche.runtime.records import RecordError, check_name
from cloche.sdk.arguments import check_callable, encoded, items_of, pairs_of
from cloche.sdk.errors import InvalidArgument
from cloche.sdk.network import Approval, NetRule, NetSecret, document

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
    if not isinstance(mount, Mount):
        raise InvalidArgument(f"mounts: {mount!r}: write SOURCE:TARGET[:ro|rw|cow], or a Mount")
    if mount.mode not in _MODES:
        raise InvalidArgument(f"mounts: {mount.mode!r} is no mode; use one of {', '.join(_MODES)}")
    source = os.fspath(mount.source)
    if not source or ":" in source or ":" in mount.target:
        raise InvalidArgument(f"mounts: {mount}: paths are not empty, and have no colons")
    path = source if _is_volume(source) else os.path.abspath(source)
    return f"{path}:{mount.target}:{mount.mode}"


def _is_volume(source: str) -> bool:
    """Whether this is the name of a volume, and not a path of the host."""
    return "/" not in source and source not in ("", ".", "..") and not os.path.exists(source)


def _port_word(port: int | str) -> str:
    return f"127.0.0.1::{port}" if isinstance(port, int) else port


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
    """A user for -u; with an image it may be a name, too. Raises InvalidArgument."""
    return user_word(user) if image is None else str(user)


def merged_env(env: Mapping[str, str] | None, envs: Mapping[str, str] | None) -> dict[str, str]:
    """`env`, and its other name `envs`, as E2B calls it."""
    merged: dict[str, str] = {**pairs_of("envs", envs or {}), **pairs_of("env", env or {})}
    pairs: list[tuple[object, object]] = list(merged.items())
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(f"env: {key!r}: names and values are text; use str()")
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise InvalidArgument(f"env: {key!r}: a name is not empty and has no '='; nothing has NUL")
    return merged


def env_items(env: Mapping[str, str] | None, envs: Mapping[str, str] | None) -> list[bytes]:
    """Variables for a request."""
    return [encoded("env", f"{key}={value}") for key, value in merged_env(env, envs).items()]


class CreateOptions(TypedDict, total=False):
    """What `create` takes, all of it by name.

    - `rootfs`: a directory that is the sandbox's root. Without it the sandbox sees the system directories of the
      host, and nothing else of the host. What is written stays inside.
    - `template`: the name of what `keep` has kept, or of an image that is here (`Sandbox.commit`, `cloche load`): the
      sandbox begins with a copy of that. It shows what the kept one did, and `mounts` besides.
    - `image`: an image that is the sandbox's root, by a name or path as in `cloche run --image`; it is fetched if it
      is not in the store. Its environment, user and working directory are used unless others are given.
    - `timeout`: seconds after which the sandbox ends; None: no limit.
    - `memory`: bytes, or text as "512m"; `cpus`: processors, 0.5 is half a one; `pids`: processes and threads.
    - `disk`: bytes, or text as "2g", that it may write. What it writes is then on the disk, not in memory, and goes
      with the sandbox. So it is with the template of a kept sandbox; without `disk` that may fill half of what is free.
    - `keep`: True keeps what it writes under its `name` when it ends, for `template`. `template` with the same name
      goes on with that itself instead of a copy. `cloche discard NAME` removes it.
    - `mounts`: `Mount` objects, or text "SOURCE:TARGET[:ro|rw|cow]".
    - `ports`: TCP ports of the sandbox that this host may connect to, see `get_host`; `reachable`: True lets `dial`
      connect to every port, and nobody else.
    - `allow`: hosts that it may connect to by name, "HOST[:PORTS][/udp]"; `deny`: hosts that are refused, even if
      `allow` names them; `network`: files of rules, presets ("pypi", "npm", …) or `NetRule` objects. Without any it
      has no network.
    - `secrets`: `NetSecret` objects, values that are sent to their host alone and are never inside; `on_approval`: a
      function that is called with an `Approval` for each request whose rule says `ask`. True allows the request,
      anything else refuses it.
    - `metadata`: text to find it by, see `list`.
    - `leash`: whether the sandbox ends with this process. False: it goes on until `timeout` or `kill`; `connect`
      finds it.
    - `platform`: how its code runs, "systrap" (the default) or "kvm", in a hardware virtual machine: needs /dev/kvm.
    - `root`: where records are, as with `cloche --root`.
    - `options`: further options of `cloche run`.
    """

    rootfs: str | os.PathLike[str] | None
    image: str | None
    template: str | None
    timeout: float | None
    env: Mapping[str, str] | None
    envs: Mapping[str, str] | None
    cwd: str | None
    user: int | str | None
    memory: int | str | None
    cpus: float | None
    pids: int | None
    disk: int | str | None
    keep: bool
    mounts: Sequence[Mount | str]
    ports: Sequence[int | str]
    reachable: bool
    allow: Sequence[str]
    deny: Sequence[str]
    network: Sequence[str | NetRule] | str | NetRule
    secrets: Sequence[NetSecret]
    on_approval: Callable[[Approval], object] | None
    hostname: str | None
    read_only: bool
    metadata: Mapping[str, str] | None
    name: str | None
    leash: bool
    platform: str | None
    root: str
    options: Sequence[str]


def _check_kinds(given: CreateOptions) -> None:
    """Raises InvalidArgument for what is not text, or empty where that would mean something else."""
    texts: list[tuple[str, object]] = [("name", given.get("name")), ("template", given.get("template"))]
    for what, each in texts:
        if each is not None and not isinstance(each, str):
            raise InvalidArgument(f"{what}: {each!r}: text")
    name = given.get("name")
    if name is not None:
        try:
            check_name(name)
        except RecordError as error:
            raise InvalidArgument(f"name: {error}; without one it gets a name") from None
    paths: list[tuple[str, object]] = [("root", given.get("root")), ("rootfs", given.get("rootfs"))]
    for what, path in paths:
        if path is not None and (not isinstance(path, (str, os.PathLike)) or "\0" in str(path)):
            raise InvalidArgument(f"{what}: {path!r}: the path of a directory")
    for what, word in (("rootfs", given.get("rootfs")), ("image", given.get("image"))):
        if word is not None and not str(word):  # not the working directory; nor the host's system directories
            raise InvalidArgument(f"{what}: is empty; leave it out, or say which")
    if not isinstance(given.get("leash", True), bool):
        raise InvalidArgument(f"leash: {given.get('leash')!r}: True or False")


def _metadata(given: Mapping[str, str]) -> dict[str, str]:
    """Raises InvalidArgument."""
    found = pairs_of("metadata", given)
    pairs: list[tuple[object, object]] = list(found.items())
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(f"metadata: {key!r}: keys and values are text; use str()")
        encoded("metadata", key), encoded("metadata", value)
    return found


class Options:
    """All arguments of `create`."""

    def __init__(self, given: CreateOptions) -> None:
        """Raises InvalidArgument, and TypeError for a name that is none."""
        for unknown in given.keys() - CreateOptions.__annotations__.keys():
            raise TypeError(f"create() got an unexpected keyword argument {unknown!r}")
        _check_kinds(given)
        root = given.get("root", "")
        self.metadata: dict[str, str] = _metadata(given.get("metadata") or {})
        self.name: str = given.get("name") or ""
        self.is_leashed: bool = given.get("leash", True)
        self.root: str = os.path.abspath(root) if root else ""
        self.on_approval: Callable[[Approval], object] | None = given.get("on_approval")
        check_callable("on_approval", self.on_approval)
        self.template: str = given.get("template") or ""
        words: list[str] = []

        def add(option: str, value: object) -> None:
            if value is not None:
                words.append(f"{option}={value}")

        rootfs, user = given.get("rootfs"), given.get("user")
        memory, disk = given.get("memory"), given.get("disk")
        add("--rootfs", os.path.abspath(rootfs) if rootfs is not None else None)
        add("--image", given.get("image"))
        add("--timeout", given.get("timeout"))
        add("--workdir", given.get("cwd"))
        image = given.get("image") or given.get("template")
        add("--user", _user_of(image, user) if user is not None else None)
        add("--memory", size_word(memory) if memory is not None else None)
        add("--disk", size_word(disk) if disk is not None else None)
        add("--cpus", given.get("cpus"))
        add("--pids", given.get("pids"))
        add("--hostname", given.get("hostname"))
        add("--platform", given.get("platform"))
        for key, value in merged_env(given.get("env"), given.get("envs")).items():
            add("--env", f"{key}={value}")
        for mount in items_of("mounts", given.get("mounts", ())):
            add("--volume", _mount_word(mount))
        for port in items_of("ports", given.get("ports", ())):
            add("--publish", _port_word(port))
        for host in items_of("allow", given.get("allow", ())):
            add("--allow", host)
        for host in items_of("deny", given.get("deny", ())):
            add("--deny", host)
        network = given.get("network", ())
        rules: list[NetRule] = []
        for each in [network] if isinstance(network, (str, NetRule)) else items_of("network", network):
            if isinstance(each, NetRule):
                rules.append(each)
            else:
                add("--net", each)
        # Not part of the command line, which other users can see: it holds secrets.
        self.network: dict[str, Any] = document(rules, items_of("secrets", given.get("secrets", ())))
        if given.get("read_only", False):
            words.append("--read-only")
        if given.get("keep", False):
            if not self.name:
                raise InvalidArgument("keep: under which name? name=… says it")
            words.append("--keep")
        if given.get("reachable", False):
            words.append("--reachable")
        further = items_of("options", given.get("options", ()))
        self.words: list[bytes] = [
            *[encoded("create", word) for word in words],
            *[encoded("options", word) for word in further],
        ]
