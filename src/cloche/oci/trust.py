"""How programs of a container come to believe the authority of inspected TLS, and where they find placeholders.

The root is the engine's, or an image that others use as well: nothing is written there.  The files are the sentry's,
in a file system of their own below /dev, and they cover the system's bundles, as far as there are any.  What the
bundles hold is read as the program would: in the root of the container's anchor, with every mount over it, and never
through a link that leads out of it.  For the variables a command that is executed later counts as a program, too.
"""

import os
import stat
from typing import Final

from cloche.abi.fcntl import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
from cloche.boot.spec import SandboxSpec
from cloche.egress import trust
from cloche.oci.spec import encode
from cloche.platform import hostsys

__all__ = ["Trust"]

FOLDER: Final = "/dev/cloche"


class Trust:
    """Of one sandbox: its authority, and what its containers were given."""

    def __init__(self, placeholders: dict[str, str]) -> None:
        """`placeholders` of secrets, by the variables that hold them."""
        self.placeholders: dict[str, str] = placeholders
        self.authority: bytes = b""  # PEM; known when egress runs
        self.variables: dict[str, dict[bytes, bytes]] = {}  # by container

    def prepare(self, container: str, spec: SandboxSpec, pid: int) -> None:
        """Have a container that is about to be made believe; `pid` is its anchor's.  Raises OSError."""
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            bundle = b""
            covered: list[tuple[bytes, bytes]] = []
            for path in trust.SYSTEM_BUNDLES:
                found = _read(root, path)
                if found is not None:
                    covered.append((path.encode(), trust.BUNDLE.encode()))
                    bundle = bundle or found
            has_java_store = _read(root, trust.SYSTEM_JAVA_STORE) is not None
        finally:
            os.close(root)
        whole = trust.with_authority(bundle, self.authority)
        if has_java_store:
            covered.append((trust.SYSTEM_JAVA_STORE.encode(), trust.JAVA_STORE.encode()))
        spec.shown_folder = FOLDER.encode()
        spec.shown_files = [
            (trust.BUNDLE.encode(), whole),
            (trust.AUTHORITY.encode(), self.authority),
            (trust.JAVA_STORE.encode(), trust.java_store(whole)),
        ]
        spec.covered_files = covered
        variables = trust.variables(FOLDER, has_java_store=has_java_store)
        for name, placeholder in self.placeholders.items():
            variables[name.encode()] = placeholder.encode()
        self.variables[container] = variables
        spec.env.update(variables)

    def forget(self, container: str) -> None:
        """Forget the variables of a container that has ended."""
        self.variables.pop(container, None)

    def environment(self, container: str, given: list[bytes]) -> list[bytes]:
        """The environment of a further command, K=V each."""
        ours = self.variables.get(container, {})
        kept = [each for each in given if each.partition(b"=")[0] not in ours]
        return kept + [name + b"=" + value for name, value in ours.items()]


def _read(root: int, path: str) -> bytes | None:
    """The beginning of a file in a root; None: there is none, or a link, whose end is another of the list."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        found = hostsys.openat2(
            root, encode(path.lstrip("/")), flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
        )
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return None  # opening it could do something, or never end
        with open(f"/proc/self/fd/{found}", "rb") as file:
            return file.read(trust.MAX_BYTES)
    except OSError:
        return None
    finally:
        os.close(found)
