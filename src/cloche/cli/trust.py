"""How programs in a sandbox come to believe the authority of their egress: files and variables of the sandbox alone.

What they need is `egress.trust`'s to say; here it is put into the private layers of the sandbox.
"""

import os
from typing import Final

from cloche.boot.spec import SandboxSpec
from cloche.egress import trust

__all__ = ["prepare_trust"]

FOLDER: Final = "/etc/cloche"


def prepare_trust(spec: SandboxSpec) -> None:
    """Set the variables now, and add the files once the authority's certificate is known."""
    assert spec.egress is not None
    has_java_store = _is_file(spec, trust.SYSTEM_JAVA_STORE)
    spec.env.update(trust.variables(FOLDER, has_java_store=has_java_store))
    for folder in ("/etc", FOLDER):
        spec.late_directories.append((folder.encode(), 0o755, 0, 0))

    def put(authority: bytes) -> None:
        _put_files(spec, authority)

    spec.egress.on_authority = put


def _put_files(spec: SandboxSpec, authority: bytes) -> None:
    there = [path for path in trust.SYSTEM_BUNDLES if _is_file(spec, path)]
    bundle = b""
    for path in [_inside(spec, each) for each in there] + list(trust.SYSTEM_BUNDLES):
        if not bundle and path:
            bundle = _read(path)
    whole = trust.with_authority(bundle, authority)
    for path in (f"{FOLDER}/{trust.BUNDLE}", *there):
        spec.files.append((path.encode(), whole, 0o644))
    spec.files.append((f"{FOLDER}/{trust.AUTHORITY}".encode(), authority, 0o644))
    has_java = _is_file(spec, trust.SYSTEM_JAVA_STORE)
    path = trust.SYSTEM_JAVA_STORE if has_java else f"{FOLDER}/{trust.JAVA_STORE}"
    spec.files.append((path.encode(), trust.java_store(whole), 0o644))


def _inside(spec: SandboxSpec, path: str) -> str:
    """The host's path of a file inside; empty if it is not below the sandbox's root."""
    root = os.path.realpath(spec.root_source) if spec.root_source else "/"
    found = os.path.realpath(os.path.join(root, path.lstrip("/")))
    return found if root == "/" or found.startswith(root + "/") else ""


def _is_file(spec: SandboxSpec, path: str) -> bool:
    """Whether there is a file that is not a link: the target of a link is another entry of the list."""
    found = _inside(spec, path)
    root = os.path.realpath(spec.root_source) if spec.root_source else "/"
    return bool(found) and os.path.isfile(found) and found == os.path.join(root, path.lstrip("/"))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(trust.MAX_BYTES)
    except OSError:
        return b""
