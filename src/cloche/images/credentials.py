"""Logins for registries: from docker's configuration, podman's, and credential helpers (docker-credential-NAME)."""

import base64
import binascii
import json
import os
import re
import subprocess
from typing import Any, Final

from cloche.images.errors import ImageError
from cloche.images.reference import DOCKER_HUB

_HUB_KEY: Final = "https://index.docker.io/v1/"
_HELPER_SECONDS: Final = 60
_CONFIG_BYTES: Final = 1 << 22
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


class Credentials:
    """A user and a password, or an identity token to be exchanged for others."""

    def __init__(self, user: str, secret: str, *, is_token: bool = False) -> None:
        self.user: str = user
        self.secret: str = secret
        self.is_token: bool = is_token


def config_paths() -> list[str]:
    """The files that hold logins; the first that has one for a registry is used."""
    found: list[str] = []
    if os.environ.get("REGISTRY_AUTH_FILE"):
        found.append(os.environ["REGISTRY_AUTH_FILE"])
    docker = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    found.append(os.path.join(docker, "config.json"))
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        found.append(os.path.join(runtime, "containers", "auth.json"))
    return found


def find_credentials(host: str) -> Credentials | None:
    """The login for a registry; None: there is none. Raises ImageError."""
    names = [_HUB_KEY, "docker.io", "index.docker.io"] if host == DOCKER_HUB else [host, f"https://{host}"]
    for path in config_paths():
        try:
            with open(path, "rb") as file:
                config = json.loads(file.read(_CONFIG_BYTES))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: {error}") from None
        found = _from_config(config, names, path) if isinstance(config, dict) else None
        if found is not None:
            return found
    return None


def _from_config(config: dict[str, Any], names: list[str], path: str) -> Credentials | None:
    helpers = config.get("credHelpers")
    if isinstance(helpers, dict):
        for name in names:
            if isinstance(helpers.get(name), str):
                return _ask_helper(helpers[name], name)
    auths = config.get("auths")
    entry: dict[str, Any] | None = None
    if isinstance(auths, dict):
        for name in names:
            for key in (name, name + "/", f"{name}/v1/", f"{name}/v2/"):
                if entry is None and isinstance(auths.get(key), dict):
                    entry = auths[key]
    store = config.get("credsStore")
    if isinstance(store, str) and store and not (entry and entry.get("auth")):
        for name in names:
            found = _ask_helper(store, name)
            if found is not None:
                return found
    if entry is None:
        return None
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials("", token, is_token=True)
    packed = entry.get("auth")
    if not isinstance(packed, str) or not packed:
        return None
    try:
        user, _colon, secret = base64.b64decode(packed, validate=True).decode().rstrip("\0").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise ImageError(f"{path}: the login of {names[0]} is damaged; log in again") from None
    return Credentials(user, secret)


def _ask_helper(helper: str, name: str) -> Credentials | None:
    """docker-credential-HELPER get (docker's credential helper protocol).  Raises ImageError."""
    program = f"docker-credential-{helper}"
    if not _NAME.fullmatch(helper):
        raise ImageError(f"{helper!r} is no name of a credential helper")
    try:
        done = subprocess.run(
            [program, "get"], input=name.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{program}: {getattr(error, 'strerror', None) or 'no answer'}") from None
    if done.returncode:
        return None  # it knows none
    try:
        found = json.loads(done.stdout)
        user, secret = found["Username"], found["Secret"]
    except (ValueError, KeyError, TypeError):
        raise ImageError(f"{program} does not answer as it should") from None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise ImageError(f"{program} does not answer as it should")
    return Credentials(user, secret, is_token=user == "<token>")
