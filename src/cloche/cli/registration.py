"""Registers a runtime with engines: edits their configuration files, and leaves everything else in them as it is.

Sources: dockerd(8) `runtimes`; containerd's CRI plugin configuration (versions 2 and 3); containers.conf(5)
`[engine.runtimes]`; crio.conf(5) `[crio.runtime.runtimes]`.
"""

import json
import os
import tempfile
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

DOCKER: Final = "docker"
CONTAINERD: Final = "containerd"
PODMAN: Final = "podman"
CRIO: Final = "crio"
ENGINES: Final = (DOCKER, CONTAINERD, PODMAN, CRIO)

# Podman and CRI-O read folders of pieces: there the entry has a file of its own.
_FILES: Final[dict[str, str]] = {
    DOCKER: "/etc/docker/daemon.json",
    CONTAINERD: "/etc/containerd/config.toml",
    PODMAN: "/etc/containers/containers.conf.d/50-cloche.conf",
    CRIO: "/etc/crio/crio.conf.d/50-cloche.conf",
}
_AFTERWARDS: Final[dict[str, str]] = {
    DOCKER: "systemctl reload docker",
    CONTAINERD: "systemctl restart containerd",
    PODMAN: "",
    CRIO: "systemctl restart crio",
}
_CRI: Final[dict[int, str]] = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
_OURS: Final = "dev.cloche.*"  # annotations of pods that are passed to the runtime
_MOST_BYTES: Final = 4 << 20


class RegistrationError(Exception):
    """A configuration that cannot be read or written; the text says which and why."""


def default_file(engine: str) -> Path:
    """The file of an engine that has the entry, as distributions place it."""
    return Path(_FILES[engine])


def afterwards(engine: str) -> str:
    """The command that makes the engine read its configuration; empty: it always does."""
    return _AFTERWARDS[engine]


class Registration:
    """An entry `name` that leads to `runtime` (an absolute path) in the configuration of an engine."""

    def __init__(self, engine: str, file: Path, name: str, runtime: str) -> None:
        self.engine = engine
        self.file = file
        self.name = name
        self.runtime = runtime

    def current(self) -> str:
        """The path in the present entry; empty: there is no entry.  Raises RegistrationError."""
        text = self._read()
        return self._path_of(self._parse(text)) if text else ""

    def added(self) -> tuple[str, str]:
        """The file's text before and with the entry.  Raises RegistrationError."""
        before = self._read()
        document = self._parse(before)
        try:
            self._add(document)
        except (TypeError, AttributeError, ValueError, TOMLKitError) as error:
            raise RegistrationError(f"{self.file}: not what {self.engine} reads: {error}") from None
        return before, self._text(document, before)

    def removed(self) -> tuple[str, str]:
        """The file's text before and without the entry; empty: nothing else is in it.  Raises RegistrationError."""
        before = self._read()
        document = self._parse(before)
        if not self._path_of(document):
            return before, before
        for keys in self._places(document):
            _remove(document, keys)
        if self.engine == PODMAN:
            self._support(document, is_wanted=False)
        is_empty = not document or set(document) == {"version"} and self.engine == CONTAINERD
        return before, "" if is_empty else self._text(document, before).rstrip("\n") + "\n"

    def write(self, text: str) -> None:
        """Replace the file atomically, keeping its mode and owner; an empty `text` removes it.

        Raises RegistrationError.
        """
        target = Path(os.path.realpath(self.file))
        try:
            if not text:
                target.unlink(missing_ok=True)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            fd, made = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            try:
                with os.fdopen(fd, "w", encoding="utf-8") as out:
                    out.write(text)
                    out.flush()
                    os.fsync(out.fileno())
                    self._like(target, out.fileno())
                os.replace(made, target)
            except BaseException:
                os.unlink(made)
                raise
        except OSError as error:
            raise RegistrationError(f"{self.file} cannot be written: {error.strerror}") from None

    def _like(self, target: Path, fd: int) -> None:
        try:
            status = target.stat()
        except FileNotFoundError:
            os.fchmod(fd, 0o644)
            return
        os.fchmod(fd, status.st_mode & 0o777)
        os.fchown(fd, status.st_uid, status.st_gid)

    def _read(self) -> str:
        try:
            with open(self.file, encoding="utf-8") as file:
                text = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise RegistrationError(f"{self.file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise RegistrationError(f"{self.file} is not text") from None
        if len(text) > _MOST_BYTES:
            raise RegistrationError(f"{self.file} is longer than {_MOST_BYTES >> 20} MiB")
        return text

    def _parse(self, text: str) -> Any:
        try:
            if self.engine == DOCKER:
                document = json.loads(text) if text.strip() else {}
                if not isinstance(document, dict):
                    raise RegistrationError(f"{self.file}: not an object")
                return document
            return tomlkit.parse(text)
        except (ValueError, TOMLKitError, RecursionError) as error:
            raise RegistrationError(f"{self.file} cannot be read: {error}") from None

    def _text(self, document: Any, before: str) -> str:
        if self.engine != DOCKER:
            return tomlkit.dumps(document)
        indent: int | str = 2
        for line in before.splitlines():
            blank = line[: len(line) - len(line.lstrip())]
            if blank:
                indent = blank
                break
        return json.dumps(document, indent=indent, ensure_ascii=False) + "\n"

    def _places(self, document: Any) -> list[tuple[str, ...]]:
        """Where the entry stands, or would."""
        if self.engine == DOCKER:
            return [("runtimes", self.name)]
        if self.engine == PODMAN:
            return [("engine", "runtimes", self.name)]
        if self.engine == CRIO:
            return [("crio", "runtime", "runtimes", self.name)]
        version = document.get("version", 1 if document else 2)
        if version not in _CRI:
            raise RegistrationError(
                f"{self.file}: version {version} is not known; containerd 1.5 to 2 read versions 2 and 3"
            )
        return [("plugins", _CRI[version], "containerd", "runtimes", self.name)]

    def _path_of(self, document: Any) -> str:
        for keys in self._places(document):
            found = document
            for key in keys:
                if not isinstance(found, MutableMapping) or key not in found:
                    return ""
                found = found[key]
            if self.engine == PODMAN:
                return str(found[0]) if isinstance(found, list) and found else "?"
            for key in ("path", "runtime_path"):
                if isinstance(found, MutableMapping) and key in found:
                    return str(found[key])
            if isinstance(found, MutableMapping) and isinstance(found.get("options"), MutableMapping):
                return str(found["options"].get("BinaryName", "?"))
            return "?"
        return ""

    def _add(self, document: Any) -> None:
        if self.engine == CONTAINERD and not document:
            document["version"] = 2
        for keys in self._places(document):
            inner = document
            for key in keys[:-1]:
                if key not in inner:
                    inner[key] = {} if self.engine == DOCKER else tomlkit.table(is_super_table=True)
                inner = inner[key]
            inner[keys[-1]] = _ENTRIES[self.engine](self.runtime)
        if self.engine == PODMAN:
            self._support(document, is_wanted=True)

    def _support(self, document: Any, *, is_wanted: bool) -> None:
        """List the runtime among those that write JSON logs, from which Podman reads errors."""
        engine = document.get("engine")
        if not isinstance(engine, MutableMapping):
            return
        name, key = os.path.basename(self.runtime), "runtime_supports_json"
        listed = engine.get(key)
        if is_wanted and listed is None:
            item = tomlkit.array()
            item.append(name)
            append = tomlkit.inline_table()
            append["append"] = True
            item.append(append)
            engine[key] = item
        elif is_wanted and isinstance(listed, list) and name not in listed:
            listed.insert(0, name)
        elif not is_wanted and isinstance(listed, list) and name in listed:
            listed.remove(name)
            if not [each for each in listed if isinstance(each, str)]:
                del engine[key]
        if not engine:
            del document["engine"]


def _docker_entry(runtime: str) -> Any:
    return {"path": runtime}


def _containerd_entry(runtime: str) -> Any:
    entry, options = tomlkit.table(), tomlkit.table()
    entry["runtime_type"] = "io.containerd.runc.v2"
    entry["pod_annotations"] = [_OURS]
    options["BinaryName"] = runtime
    entry["options"] = options
    return entry


def _podman_entry(runtime: str) -> Any:
    item = tomlkit.array()
    item.append(runtime)
    return item


def _crio_entry(runtime: str) -> Any:
    entry = tomlkit.table()
    entry["runtime_path"] = runtime
    entry["runtime_type"] = "oci"
    entry["allowed_annotations"] = ["dev.cloche"]
    return entry


_ENTRIES: Final[dict[str, Callable[[str], Any]]] = {
    DOCKER: _docker_entry,
    CONTAINERD: _containerd_entry,
    PODMAN: _podman_entry,
    CRIO: _crio_entry,
}


def _remove(document: Any, keys: tuple[str, ...]) -> None:
    """Remove an entry and the tables that are empty without it."""
    path = [document]
    for key in keys[:-1]:
        path.append(path[-1][key])
    for inner, key in zip(reversed(path), reversed(keys), strict=True):
        if key == keys[-1] or not inner[key]:
            del inner[key]
